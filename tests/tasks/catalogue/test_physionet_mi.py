"""PhysioNet-MI, on a miniature and on the person whose real runs are here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from berger.cli import main
from berger.corpus import Corpus
from berger.errors import BergerError
from berger.recordings import Annotation
from berger.tasks import TaskConfig, cut_windows, load_task
from berger.tasks.readers import READERS, Told
from tests.tasks.catalogue.made import corpus_of, folds_of, write_edf

RUNS = {"R04": ("left", "right"), "R14": ("fists", "feet")}


def labels_of(task: TaskConfig) -> list[str]:
    """Return the electrodes as the files write them."""
    return [name.capitalize().ljust(4, ".") for name in task.channels or ()]


def cues(end: float) -> list[Annotation]:
    return [
        Annotation(0, 4.0, "T0"),
        Annotation(4.0, 4.1, "T2"),
        Annotation(8.1, 4.1, "T1"),
        Annotation(end, 3.0, "T1"),
    ]


def miniature(folder: Path) -> Path:
    labels = labels_of(load_task("physionet-mi"))
    for person in (1, 70, 71, 90, 92):
        sfreq = 64 if person == 92 else 160  # stands for 128 Hz, with a model that reads to 40 Hz
        for run in RUNS:
            name = f"S{person:03d}{run}.edf"
            path = folder / name[:4] / name if person != 90 else folder / name  # flat too
            write_edf(path, dict.fromkeys(labels, sfreq), 15, cues(12.2))
    rest = [Annotation(0, 5, "T0")]
    write_edf(folder / "S001" / "S001R01.edf", dict.fromkeys(labels, 160), 5, rest)
    return folder


def miniature_within_people(folder: Path) -> Path:
    """Two people of the same data set, each with the three runs of the task eegmmidb."""
    labels = labels_of(load_task("physionet-mi"))
    for name in (f"S{person:03d}R{run:02d}.edf" for person in (1, 2) for run in (4, 8, 12)):
        write_edf(folder / name[:4] / name, dict.fromkeys(labels, 160), 13, cues(12))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniature(tmp_path_factory.mktemp("mi"))


@pytest.fixture(scope="module")
def corpus(folder: Path) -> Corpus:
    return corpus_of(load_task("physionet-mi"), folder, folder.parent / f"{folder.name}-corpus")


def test_what_a_cue_means_depends_on_the_run(folder: Path, corpus: Corpus) -> None:
    cut = cut_windows(load_task("physionet-mi", folder), corpus)
    found = [
        (Path(row.recording).name, row.subject, row.start, row.label)
        for row in cut.table.itertuples()
    ]
    assert sorted(found) == [
        (f"{person}{run}.edf", person, start, label)
        for person in ("S001", "S070", "S071", "S090")
        for run, (first, second) in RUNS.items()
        for start, label in ((400, second), (810, first))
    ]
    reasons = Counter(cut.left_out["reason"])
    assert reasons["it reaches beyond the recording"] == 8  # the last cue of each run
    assert reasons["labels.classes leaves out 'rest'"] == 8
    assert sum("64 Hz" in reason for reason in cut.left_out["reason"]) == 2
    assert corpus.recordings["ch_names"][0][:4] == ["FC5", "FC3", "FC1", "FCz"]


def test_the_split_leaves_out_who_was_recorded_at_a_lower_rate(
    folder: Path, corpus: Corpus
) -> None:
    (fold,) = folds_of(load_task("physionet-mi@cbramod", folder), corpus)
    assert (fold.train, fold.validation, fold.test) == (("S001", "S070"), ("S071",), ("S090",))


def test_what_the_runs_mean() -> None:
    marks = [*cues(12.2), Annotation(13, 0, "something")]
    for run, first, second in (
        (3, "left", "right"),
        (12, "left", "right"),
        (5, "fists", "feet"),
        (10, "fists", "feet"),
    ):
        assert READERS["physionet-mi"](Path(f"/mnt/R01.x/S001R{run:02d}.edf"), marks) == [
            Told(0, 4.0, "rest", False),
            Told(4.0, 4.1, second, False),
            Told(8.1, 4.1, first, False),
            Told(12.2, 3.0, first, False),
        ]


@pytest.mark.parametrize("name", ["S001R01.edf", "S001R15.edf", "S001.edf"])
def test_a_name_without_a_run_that_has_a_task(name: str) -> None:
    with pytest.raises(BergerError, match=rf"{name}: its name says no run with a task"):
        READERS["physionet-mi"](Path(name), cues(12.2))


def test_a_recording_without_an_electrode_is_left_out(tmp_path: Path) -> None:
    labels = labels_of(load_task("physionet-mi"))
    write_edf(tmp_path / "S001R04.edf", dict.fromkeys(labels[:-1], 160), 15, cues(10))
    with pytest.raises(BergerError, match=r"S001R04\.edf: lacks Iz"):
        corpus_of(load_task("physionet-mi"), tmp_path, tmp_path / "corpus")


REAL = {  # run → T1 and T2 of S001
    "R04": ("left", 8, "right", 7),
    "R06": ("fists", 7, "feet", 8),
    "R08": ("left", 8, "right", 7),
    "R10": ("fists", 7, "feet", 8),
    "R12": ("left", 7, "right", 8),
    "R14": ("fists", 7, "feet", 8),
}


def test_real_runs_of_one_person(real_data: Path, tmp_path: Path) -> None:
    task = load_task("physionet-mi", real_data / "eegmmidb")
    corpus = corpus_of(task, real_data / "eegmmidb", tmp_path / "corpus")
    assert corpus.subjects == ("S001",)
    cut = cut_windows(task, corpus)
    found = {
        str(recording)[4:7]: Counter(rows["label"])
        for recording, rows in cut.table.groupby("recording")
    }
    assert found == {run: {a: n, b: m} for run, (a, n, b, m) in REAL.items()}
    assert len(cut.table) == 90
    assert cut.left_out["n_windows"].sum() == 6 * 15  # each cue has a rest before it
    assert {*cut.left_out["reason"]} == {"labels.classes leaves out 'rest'"}


def test_a_probe_within_one_real_person(
    real_data: Path, tmp_path: Path, adapted_of: Callable[[str, str], Path]
) -> None:
    out = tmp_path / "adapted"
    words = ["adapt", "probe", "--task", "eegmmidb", "--data", str(real_data / "eegmmidb")]
    words += ["--checkpoint", str(adapted_of("eegmmidb", "dare") / "pretrained"), "--out", str(out)]
    main([*words, "--baselines", "[]", "--quiet", "--device", "cpu", "--workers", "1"])
    predictions = pd.read_parquet(out / "predictions.parquet")
    assert Counter(predictions["truth"]) == {"left": 23, "right": 22}
    assert predictions.groupby("fold")["recording"].unique().map(list).tolist() == [
        ["S001R04.edf"],
        ["S001R08.edf"],
        ["S001R12.edf"],
    ]
    assert (predictions["tested_on"] == "within subject").all()
