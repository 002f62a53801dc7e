"""ISRUC: EDF called .rec, and a number per epoch of each of two experts."""

from __future__ import annotations

from pathlib import Path

import pytest

from berger.errors import BergerError
from berger.tasks import cut_windows, find_data, load_task
from tests.tasks.catalogue.made import (
    corpus_of,
    counts,
    lost,
    unfiltered,
    windows_of,
    write_edf,
)

EEG = ("F3-A2", "C3-A2", "O1-A2", "F4-A1", "C4-A1", "O2-A1")
USUAL = ["LOC-A2", "ROC-A1", *EEG, "X1", "X2", "X3"]
MASTOIDS = [name.replace("A", "M") for name in USUAL]
WITHOUT_FRONTAL = [name for name in USUAL if name[:2] not in ("F3", "F4")]
STAGES = "0\n0\n1\n2\n3\n5\n"


def night(
    folder: Path, name: str, channels: list[str] = USUAL, *, seconds: int = 180, one: str = STAGES
) -> Path:
    path = folder / f"{name}.rec"
    write_edf(path.with_suffix(".edf"), dict.fromkeys(channels, 200), seconds).rename(path)
    (folder / f"{name}_1.txt").write_text(one)
    (folder / f"{name}_2.txt").write_text(STAGES.replace("3", "1") + "3\n")
    (folder / f"{name}_1.xlsx").write_bytes(b"")
    return path


def miniature(folder: Path) -> Path:
    folder = folder / "ISRUC_Sleep"
    first = folder / "subgroupI"
    night(first / "1", "1", one=STAGES + "2\n\n \n")  # goes on behind the recording, then blanks
    night(first / "8" / "8", "8", WITHOUT_FRONTAL)  # unpacked into a folder too many
    night(first / "40", "40", ["ROC", "A1", "LOC", "A2", "C4", "O2", "C3", "O1", "F4", "F3"])
    night(first / "41", "41", MASTOIDS, seconds=220, one=STAGES.replace("\n", "  \r\n"))
    night(first / "85", "85")
    night(first / "100", "100")
    for visit in ("1", "2"):
        night(folder / "subgroupII" / "3" / visit, visit)
    night(folder / "subgroupIII" / "7", "7")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniature(tmp_path_factory.mktemp("isruc"))


def test_epochs_of_the_first_expert(data: Path, tmp_path: Path) -> None:
    task = load_task("isruc@cbramod", data)
    corpus = corpus_of(task, data, tmp_path / "c", unfiltered(200))
    windows = cut_windows(task, corpus)
    each = {"W": 2, "N1": 1, "N2": 1, "N3": 1, "R": 1}
    assert counts(windows.table) == dict.fromkeys(["1", "100", "41", "85"], each)
    assert lost(windows)["it reaches beyond the recording"] == 1
    (lacking,) = [reason for reason in lost(windows) if "lacks F3, F4" in reason]
    assert "8.rec" in lacking
    assert {*map(tuple, corpus.recordings["ch_names"].dropna())} >= {
        ("F3", "C3", "O1", "F4", "C4", "O2")
    }
    assert task.hypnogram == ("W", "R", "N1", "N2", "N3")
    people = [str(number) for number in range(1, 101)]
    for split, last in (("cbramod", 80), ("diver", 84)):
        (fold,) = load_task(f"isruc@{split}", data).folds(
            people, [None] * 100, validation_share=0.2, seed=0
        )
        assert sorted(map(int, fold.train)) == [*range(1, last + 1)]
        assert sorted(map(int, fold.validation)) == [*range(last + 1, 91)]
        assert sorted(map(int, fold.test)) == [*range(91, 101)]


def test_variants(data: Path, tmp_path: Path) -> None:
    second = windows_of("isruc+expert-2@loso", data, 200, tmp_path / "c2")
    assert counts(second.table)["85"] == {"W": 2, "N1": 2, "N2": 1, "R": 1}
    four = windows_of("isruc+4-electrodes@loso", data, 200, tmp_path / "c4")
    assert sorted(counts(four.table)) == ["1", "100", "41", "8", "85"]
    nights = windows_of("isruc+subgroup-ii@loso", data, 200, tmp_path / "cii")
    assert counts(nights.table) == {"3": {"W": 4, "N1": 2, "N2": 2, "N3": 2, "R": 2}}
    healthy = windows_of("isruc+subgroup-iii@loso", data, 200, tmp_path / "ciii")
    assert sorted(counts(healthy.table)) == ["7"]


def test_all_but_one_of_a_hundred_are_found(tmp_path: Path) -> None:
    for number in range(1, 101):
        (tmp_path / "subgroupI" / str(number)).mkdir(parents=True)
        (tmp_path / "subgroupI" / str(number) / f"{number}.rec").touch()
    task = load_task("isruc@loso", tmp_path)
    found = [int(path.stem) for path in find_data(task, "isruc@loso", tmp_path)]
    assert sorted(found) == [number for number in range(1, 101) if number != 40]
    assert task.facts.recordings == len(found)


@pytest.mark.parametrize(
    ("stages", "complaint"),
    [
        ("0\n4\n", r"1_1\.txt at 30 s: '4' is not in labels\.classes"),
        ("0\n\n1\n", r"1_1\.txt at 30 s: '' is not in labels\.classes"),
        ("\n", r"1_1\.txt beside it has no stage"),
        (None, r"no file \{stem\}_1\.txt lies beside it"),
        ("0\n", "no window of class N1 or N2 or N3 or R among 1"),
    ],
)
def test_stages_that_are_refused(tmp_path: Path, stages: str | None, complaint: str) -> None:
    path = night(tmp_path / "d" / "subgroupI" / "1", "1", seconds=60, one=stages or "")
    if stages is None:
        path.with_name("1_1.txt").unlink()
    with pytest.raises(BergerError, match=complaint) as caught:
        windows_of("isruc@loso", tmp_path / "d", 200, tmp_path / "c")
    assert "\n" not in str(caught.value)
