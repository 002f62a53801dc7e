"""TUEV, on a miniature of its tree."""

from __future__ import annotations

from pathlib import Path

import pytest

from berger.corpus import Corpus
from berger.errors import BergerError
from berger.tasks import TaskConfig, cut_windows, load_task
from berger.tasks.readers import READERS, Told
from tests.tasks.catalogue.made import corpus_of, folds_of, write_edf

TWENTY_ONE = "FP1 FP2 F3 F4 C3 C4 P3 P4 O1 O2 F7 F8 T3 T4 T5 T6 A1 A2 FZ CZ PZ"
LABELS = [f"EEG {name}-REF" for name in TWENTY_ONE.split()]
NAMES = ("spsw", "gped", "pled", "eyem", "artf", "bckg")
# seconds: (channel, start, code) of each line
FILES = {
    "train/aaaaaaar/aaaaaaar_00000001": [(13, 5.4, 6), (2, 5.4, 6), (2, 10, 1), (0, 1, 3)],
    "train/aaaaaaas/aaaaaaas_00000001": [(21, 8.0, 2), (20, 8.0, 6), (3, 12, 4)],
    "train/aaaaaaas/aaaaaaas_00000007": [(4, 10.0, 5)],
    "train/aaaaaaat/aaaaaaat_00000001": [(4, 10.0, 3), (4, 17, 6)],
    "eval/000/bckg_000_a_": [(4, 10.0, 6)],
    "eval/099/pled_099_a_1": [(4, 10.0, 3), (4, 11.0, 2)],
}


def miniature(folder: Path) -> Path:
    folder = folder / "v2.0.1"
    for name, events in FILES.items():
        path = folder / "edf" / f"{name}.edf"
        write_edf(path, dict.fromkeys(LABELS, 250), 20)
        lines = [f"{channel},{start},{start + 1},{code}" for channel, start, code in events]
        path.with_suffix(".rec").write_text("\n".join(lines) + "\n")
        (path.parent / f"{path.stem}_ch000.lab").write_text("1000000 1100000 bckg\n")
    return folder


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniature(tmp_path_factory.mktemp("tuev"))


@pytest.fixture(scope="module")
def corpus(release: Path) -> Corpus:
    return corpus_of(load_task("tuev"), release, release.parent / "corpus")


def test_a_window_for_each_line(release: Path, corpus: Corpus) -> None:
    cut = cut_windows(load_task("tuev", release), corpus)
    found = [tuple(row) for row in cut.table.itertuples(index=False)]
    inside = [
        (f"{name}.edf", name.split("/")[1], round(100 * (start - 2)), NAMES[code - 1])
        for name, events in FILES.items()
        for _, start, code in events
        if 2 <= start <= 17
    ]
    assert sorted(found) == sorted(inside)
    assert len(inside) == 12
    assert cut.left_out.to_dict("records") == [
        {
            "recording": "train/aaaaaaar/aaaaaaar_00000001.edf",
            "n_windows": 1,
            "reason": "it reaches beyond the recording",
        }
    ]
    assert len(corpus.recordings["ch_names"][0]) == 16


def test_one_window_for_each_second(release: Path, corpus: Corpus) -> None:
    cut = cut_windows(load_task("tuev+once", release), corpus)
    table = cut.table[cut.table["subject"] == "aaaaaaar"]
    assert table["start"].tolist() == [340, 800]
    table = cut.table[cut.table["subject"] == "aaaaaaas"]
    assert sorted(table["label"]) == ["artf", "eyem"]
    assert "events of several classes lie there" in cut.left_out["reason"].tolist()


def parts_of(task: TaskConfig, corpus: Corpus) -> tuple[tuple[str, ...], ...]:
    (fold,) = folds_of(task, corpus)
    return fold.train, fold.validation, fold.test


def test_splits(release: Path, corpus: Corpus) -> None:
    found = parts_of(load_task("tuev@cbramod", release), corpus)
    assert found == (("aaaaaaar", "aaaaaaas"), ("aaaaaaat",), ("000", "099"))
    train, validation, test = parts_of(load_task("tuev@given", release), corpus)
    assert test == ("000", "099")
    assert sorted((*train, *validation)) == ["aaaaaaar", "aaaaaaas", "aaaaaaat"]
    with pytest.raises(BergerError, match="name one, as tuev@given, tuev@cbramod"):
        parts_of(load_task("tuev", release), corpus)


def test_the_last_fifth_of_290_people_are_58() -> None:
    people = [f"aaaaaa{a}{b}" for a in "abcdefghijkl" for b in "abcdefghijklmnopqrstuvwxyz"][:290]
    names = [f"train/{name}/x.edf" for name in people] + ["eval/000/y.edf"]
    (fold,) = load_task("tuev@cbramod").folds(
        [*people, "000"], [None] * 291, recordings=names, validation_share=0.5, seed=3
    )
    assert (fold.train, fold.validation) == (tuple(people[:232]), tuple(people[232:]))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "13,90.4,91.4,6\n2,41.0,42.0,3\n\n",
            [Told(90.4, pytest.approx(1.0), "6"), Told(41, 1, "3")],
        ),
        ("0,0,1,1.0\r\n21, 5 , 6.5 ,2\r\n", [Told(0, 1, "1"), Told(5, 1.5, "2")]),
        ("", []),
    ],
)
def test_lines(tmp_path: Path, text: str, told: list[Told]) -> None:
    (tmp_path / "bckg_000_a_.rec").write_text(text)
    assert READERS["tuev"](tmp_path / "bckg_000_a_.edf", []) == told


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, r"x_1\.edf: x_1\.rec, which has its events, does not lie beside it"),
        ("1,2,3,4\n1,2,3\n", r"x_1\.rec: line 2, '1,2,3', is not channel,start,stop,code"),
        ("1,2,3,bckg\n", "line 1, '1,2,3,bckg', is not channel,start,stop,code"),
        ("22,2,3,4\n", "line 1, '22,2,3,4', names no event on a channel from 0 to 21"),
        ("1,3,3,4\n", "that ends after it begins"),
        ("1,2,3,4.5\n", "names no event"),
    ],
)
def test_lines_that_are_wrong(tmp_path: Path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / "x_1.rec").write_text(text)
    with pytest.raises(BergerError, match=words):
        READERS["tuev"](tmp_path / "x_1.edf", [])


def test_an_unknown_code_is_named(release: Path, corpus: Corpus) -> None:
    path = release / "edf/eval/000/bckg_000_a_.rec"
    whole = path.read_text()
    path.write_text("4,10,11,7\n")
    with pytest.raises(
        BergerError, match=r"bckg_000_a_\.edf at 10 s: '7' is not in labels\.classe"
    ):
        cut_windows(load_task("tuev", release), corpus)
    path.write_text(whole)
