"""Windows around events and within stretches, and what is left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from berger.corpus import Corpus
from berger.errors import BergerError
from berger.preprocessing import PreprocessingConfig
from berger.recordings import Annotation
from berger.tasks import LabelledWindows, cut_windows, preparation
from tests.tasks.made import SFREQ, prepared, record, task_in

CLASSES = {"left": "L", "right": "R", "rest": None}
BY_MARK = {"from": "annotations", "classes": CLASSES}
WINDOW = {"from": "event", "tmin": -0.5, "tmax": 1.5}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("windows") / "raw"
    marks = [
        Annotation(0.2, 0, "left"),  # begins before the recording
        Annotation(0.5, 0, "right"),  # begins with it
        Annotation(5.0, 0, "left"),  # the spike
        Annotation(7.0, 3, "right"),
        Annotation(7.5, 0, "left"),  # its window overlaps the one before
        Annotation(10.0, 0, "rest"),
        Annotation(18.5, 0, "left"),  # ends with the recording
        Annotation(18.6, 0, "right"),
    ]
    record(folder / "p1.edf", 20, marks, spikes=[6.0])
    record(folder / "p2.edf", 20, [Annotation(3, 1, "noise")])
    (folder / "p3.edf").write_bytes(b"no recording")
    return prepared(folder, folder.parent / "corpus")


def test_one_window_per_event(corpus: Corpus, tmp_path: Path) -> None:
    cut = cut_windows(task_in(tmp_path, BY_MARK, window=WINDOW), corpus)
    table = cut.table
    assert list(table.columns) == ["recording", "subject", "start", "label"]
    assert [(row.start / SFREQ, row.label) for row in table.itertuples()] == [
        (0.0, "R"),
        (6.5, "R"),
        (7.0, "L"),
        (18.0, "L"),
    ]
    assert set(table["subject"]) == {"p1"}
    assert len(corpus.windows_at(table, 2.0)) == 4
    left_out = [tuple(row) for row in cut.left_out.itertuples(index=False)]
    assert left_out == [
        ("raw/p1.edf", 1, "it is not wholly usable"),
        ("raw/p1.edf", 2, "it reaches beyond the recording"),
        ("raw/p1.edf", 1, "labels.classes leaves out 'rest'"),
        ("raw/p2.edf", 0, "it has no annotation that is in labels.classes"),
        ("raw/p3.edf", 0, corpus.recordings["reason"].iloc[2]),
    ]
    n_events = 8
    assert len(table) + cut.left_out["n_windows"].sum() == n_events


TWICE = {**BY_MARK, "classes": {**CLASSES, "same": "L", "other": "R"}}


@pytest.mark.parametrize(
    ("repeats", "labels", "reasons"),
    [
        ("once", ["L"], {"events of several classes lie there": 1}),
        ("keep", ["L", "L", "L", "R"], {}),
    ],
)
def test_events_at_one_place(
    repeats: str, labels: list[str], reasons: dict[str, int], tmp_path: Path
) -> None:
    marks = [(3, "left"), (3, "same"), (3, "rest"), (9, "left"), (9, "other")]
    record(tmp_path / "raw/p1.edf", 20, [Annotation(onset, 0, what) for onset, what in marks])
    corpus = prepared(tmp_path / "raw", tmp_path / "corpus")
    window = {**WINDOW, "repeats": repeats}
    classes = {**TWICE, "classes": {**TWICE["classes"], "absent": "R"}}
    task = task_in(tmp_path, classes, window=window)
    if repeats == "once":
        with pytest.raises(BergerError, match="no window of class R"):
            cut_windows(task, corpus)
        record(tmp_path / "raw/p2.edf", 20, [Annotation(4, 0, "right")])
        corpus = prepared(tmp_path / "raw", tmp_path / "corpus2")
        labels = [*labels, "R"]
    cut = cut_windows(task, corpus)
    assert list(cut.table["label"]) == labels
    left_out = dict(zip(cut.left_out["reason"], cut.left_out["n_windows"], strict=True))
    left_out.pop("labels.classes leaves out 'rest'", None)
    assert left_out == reasons


def test_windows_that_a_label_touches_at_all_have_it(tmp_path: Path) -> None:
    marks = [Annotation(3.9, 0.2, "left"), Annotation(9, 1, "left"), Annotation(14.5, 0.2, "right")]
    marks += [Annotation(15.5, 0.2, "left"), Annotation(18.5, 0, "rest")]
    record(tmp_path / "raw/p1.edf", 21, marks)
    record(tmp_path / "raw/p2.edf", 1, [Annotation(0.5, 0.1, "right")])
    corpus = prepared(tmp_path / "raw", tmp_path / "corpus")
    task = task_in(tmp_path, BY_MARK, window_seconds=2, background="none")
    assert task.classes == ("L", "R", "none")
    with pytest.raises(BergerError, match="no window of class R"):
        cut_windows(task, corpus)
    record(tmp_path / "raw/p3.edf", 3, [Annotation(2.5, 0.1, "right"), Annotation(0, 1, "right")])
    cut = cut_windows(task, prepared(tmp_path / "raw", tmp_path / "corpus2"))
    found = {row.start / SFREQ: row.label for row in cut.table.itertuples() if row.subject == "p1"}
    assert found == {
        0: "none",
        2: "L",
        4: "L",
        6: "none",
        8: "L",
        10: "none",
        12: "none",
        16: "none",
    }
    assert [(row.recording, row.n_windows, row.reason) for row in cut.left_out.itertuples()] == [
        ("raw/p1.edf", 1, "labels of several classes touch it"),
        ("raw/p1.edf", 1, "labels.classes leaves out 'rest'"),
        ("raw/p2.edf", 1, "the recording is shorter than a window"),
    ]


def test_the_length_must_be_whole_samples(corpus: Corpus, tmp_path: Path) -> None:
    task = task_in(tmp_path, BY_MARK, window=WINDOW | {"tmax": 1.505})
    with pytest.raises(BergerError, match=r"2\.005 s are 200\.5 samples at 100 Hz"):
        cut_windows(task, corpus)


def test_windows_and_what_is_left_out_add_up(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    onsets = np.cumsum(rng.uniform(1, 9, 30)).round(2)
    marks = [
        Annotation(onset, round(float(seconds), 2), str(label))
        for onset, seconds, label in zip(
            onsets, np.diff(onsets, append=onsets[-1] + 5), rng.choice([*CLASSES], 30), strict=True
        )
    ]
    record(tmp_path / "raw" / "p1.edf", 150, marks, spikes=rng.uniform(0, 149, 8).tolist())
    corpus = prepared(tmp_path / "raw", tmp_path / "corpus")
    cut = cut_windows(task_in(tmp_path, BY_MARK, window_seconds=1, step_seconds=0.5), corpus)
    # the marks that end behind the recording were cut there when it was read
    n_windows = n_short = 0
    for mark in corpus.recordings["annotations"][0]:
        first = round(mark["onset"] * SFREQ)
        room = round((mark["onset"] + mark["duration"]) * SFREQ) - first - SFREQ
        n_windows += max(room // 50 + 1, 0)
        n_short += room < 0
    lost = cut.left_out.set_index("reason")["n_windows"]
    assert len(cut.table) + lost.sum() == n_windows + n_short
    assert lost["it is not wholly usable"] > 0
    usable = corpus.stretches
    for row in cut.table.itertuples():
        assert ((usable["start"] <= row.start) & (row.start + SFREQ <= usable["stop"])).any()


def test_a_recording_that_is_shorter_than_a_window(tmp_path: Path) -> None:
    for name, seconds in (("p1_a", 10), ("p2_b", 10), ("p3_b", 3)):
        record(tmp_path / "raw" / f"{name}.edf", seconds)
    corpus = prepared(tmp_path / "raw", tmp_path / "corpus")
    labels = {"from": "file name", "pattern": r"_(?P<label>.)", "classes": {"a": "A", "b": "B"}}
    cut = cut_windows(task_in(tmp_path, labels, window_seconds=4), corpus)
    assert cut.left_out.to_dict("records") == [
        {
            "recording": "raw/p3_b.edf",
            "n_windows": 1,
            "reason": "the recording is shorter than a window",
        }
    ]
    with pytest.raises(BergerError, match="no usable stretch holds a window of 30 s"):
        cut_windows(task_in(tmp_path, labels, window_seconds=30), corpus)


def test_labels_that_contradict_each_other(corpus: Corpus, tmp_path: Path) -> None:
    labels = {"from": "table", "table": "t.csv", "recording": "file", "column": "x"}
    labels |= {"onset": "t", "classes": {"a": "A", "b": "B"}, "incomplete": True}
    (tmp_path / "t.csv").write_text("file,t,x\np1,1,a\np1,4,b\np1,4.001,b\n")
    with pytest.raises(BergerError, match=r"two labelled events \(B and B\) lie at 4\.001 s"):
        cut_windows(task_in(tmp_path, labels, window=WINDOW), corpus)
    task = task_in(tmp_path, labels | {"duration": 3.5})
    with pytest.raises(BergerError, match=r"stretches overlap at 4 s, .* correct the table\."):
        cut_windows(task, corpus)


def test_numbers_that_do_not_differ(corpus: Corpus, tmp_path: Path) -> None:
    labels = {"from": "table", "table": "t.csv", "subject": "who", "column": "age"}
    (tmp_path / "t.csv").write_text("who,age\np1,30\np2,30\n")
    with pytest.raises(BergerError, match="task mine: its windows have one number only"):
        cut_windows(task_in(tmp_path, labels, kind="regression"), corpus)
    (tmp_path / "t.csv").write_text("who,age\np1,30\np2,31\n")
    table = cut_windows(task_in(tmp_path, labels, kind="regression"), corpus).table
    assert table["label"].dtype == np.float64
    assert table.groupby("subject")["label"].first().to_dict() == {"p1": 30.0, "p2": 31.0}


def test_the_channels_of_the_task(corpus: Corpus, tmp_path: Path) -> None:
    task = task_in(tmp_path, BY_MARK, channels=["Cz"], window=WINDOW)
    with pytest.raises(BergerError, match="was prepared with all channels, but task mine asks for"):
        cut_windows(task, corpus)
    assert preparation(task, PreprocessingConfig()).ch_names == ("Cz",)
    other = prepared(Path(corpus.folder).parent / "raw", tmp_path / "corpus", ch_names=["Cz"])
    assert len(cut_windows(task, other).table) == 4


def test_the_reference_of_the_task(corpus: Corpus, tmp_path: Path) -> None:
    task = task_in(tmp_path, BY_MARK, reference="average", window=WINDOW)
    with pytest.raises(BergerError, match="prepared with another reference than task mine asks"):
        cut_windows(task, corpus)
    given = task_in(tmp_path, BY_MARK, reference="as recorded", window=WINDOW)
    assert len(cut_windows(given, corpus).table) == 4


def test_trials_count_what_is_left_out(corpus: Corpus, tmp_path: Path) -> None:
    split = {"by": "trial", "train": ["1-4"], "test": ["5-9"]}
    window = {"from": "event", "tmin": -0.1, "tmax": 0}
    table = cut_windows(task_in(tmp_path, BY_MARK, window=window, split=split), corpus).table
    assert table["trial"].tolist() == [f"raw/p1.edf#{n}" for n in (1, 2, 3, 4, 5, 7, 8)]  # 6: rest
    with pytest.raises(BergerError, match=r"trials raw/p1\.edf#4 and raw/p1\.edf#5 overlap"):
        cut_windows(task_in(tmp_path, BY_MARK, window=WINDOW, split=split), corpus)


def test_people_with_few_recordings_are_left_out_of_a_split_within_subjects(tmp_path: Path) -> None:
    cues = [Annotation(5, 2, "a"), Annotation(10, 2, "b")]
    (tmp_path / "raw").mkdir()
    for name in ("P1_1", "P1_2", "P1_3", "P2_1"):
        record(tmp_path / "raw" / f"{name}.edf", 20, cues)
    fields = {"subject_pattern": r"(?P<subject>P\d)_"}
    corpus = prepared(tmp_path / "raw", tmp_path / "corpus", **fields)
    labels = {"from": "annotations", "classes": {"a": "a", "b": "b"}}

    def cut(split: dict[str, object]) -> LabelledWindows:
        return cut_windows(task_in(tmp_path, labels, split=split, **fields), corpus)

    within = {"by": "recording within subject"}
    assert set(cut(within).table["subject"]) == {"P1", "P2"}
    found = cut(within | {"incomplete": True})
    assert set(found.table["subject"]) == {"P1"}
    (row,) = found.left_out[found.left_out["n_windows"] > 0].to_dict("records")
    assert (row["recording"], row["n_windows"]) == ("raw/P2_1.edf", 2)
    assert row["reason"] == "its person has fewer than 3 recordings to be tested within"
    alone = prepared(tmp_path / "raw" / "P2_1.edf", tmp_path / "alone", **fields)
    with pytest.raises(BergerError, match="nobody has 3 recordings with windows"):
        cut_windows(task_in(tmp_path, labels, split=within | {"incomplete": True}, **fields), alone)


def test_a_label_of_a_person_cannot_be_learned_within_him(tmp_path: Path) -> None:
    labels = {"from": "participants", "column": "group", "classes": {"a": "a", "b": "b"}}
    with pytest.raises(BergerError, match="nothing can be learned within a subject"):
        task_in(tmp_path, labels, split={"by": "recording within subject"})
