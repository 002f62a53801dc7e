"""Tasks: which recordings, which windows, which labels."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import yaml

from berger import open_corpus
from berger.configuration import load_config
from berger.corpus import Corpus, prepare
from berger.errors import BergerError
from berger.preprocessing import PreprocessingConfig
from berger.recordings import Annotation
from berger.tasks import (
    TaskConfig,
    catalogue,
    find_data,
    labelled_windows,
    load_task,
    preparation,
)
from tests.tasks.made import SFREQ, record

BY_NAME = {"from": "file name", "pattern": r"_(?P<label>\w)\.edf$", "classes": {"a": "A", "b": "B"}}
BY_MARK = {"from": "annotations", "classes": {"left": "L", "right": "R", "LEFT": "L"}}


def task_of(**fields: object) -> TaskConfig:
    default: dict[str, object] = {"name": "mine", "labels": BY_NAME, "window_seconds": 2}
    return load_config(TaskConfig, None, default | fields)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks") / "raw"
    marks = [
        Annotation(2.0, 7.5, "left"),  # 2-s windows begin at 2, 4, 6
        Annotation(10.0, 2.0, "right"),  # exactly one
        Annotation(12.0, 1.99, "right"),  # too short
        Annotation(14.0, 6.0, "other"),  # of no class
        Annotation(20.005, 8.0, "right"),  # begins between samples; a spike at 22.5
        Annotation(28.5, 3.0, "LEFT"),  # ends behind the recording
    ]
    record(folder / "p1" / "p1_a.edf", 30, marks, spikes=[22.5])
    record(folder / "p2" / "p2_b.edf", 10, [])
    record(folder / "p2" / "p2_c.edf", 10, [])
    return folder


@pytest.fixture(scope="module")
def corpus(raw: Path) -> Corpus:
    config = PreprocessingConfig(sfreq=SFREQ, highpass=None, lowpass=None, max_amplitude=200)
    prepare([raw], raw.parent / "corpus", config, progress=False)
    return open_corpus(raw.parent / "corpus")


def places(table: pd.DataFrame) -> list[tuple[str, float, str]]:
    assert list(table.columns) == ["recording", "subject", "start", "label"]
    return [(Path(row.recording).stem, row.start / SFREQ, row.label) for row in table.itertuples()]


# labels


def test_labels_from_file_names(corpus: Corpus) -> None:
    table = labelled_windows(task_of(), corpus)
    found = places(table)
    p1 = [start for stem, start, label in found if stem == "p1_a"]
    assert p1 == [float(second) for second in range(0, 30, 2) if second != 22]  # the spike's
    assert [row for row in found if row[0] == "p2_b"] == [
        ("p2_b", float(second), "B") for second in range(0, 10, 2)
    ]
    assert {stem for stem, _, _ in found} == {"p1_a", "p2_b"}  # "c" is no class
    assert {label for _, _, label in found} == {"A", "B"}
    assert set(table["subject"]) == {"p1", "p2"}


def test_labels_from_annotations(corpus: Corpus) -> None:
    found = places(labelled_windows(task_of(labels=BY_MARK), corpus))
    assert found == [
        ("p1_a", 2.0, "L"),
        ("p1_a", 4.0, "L"),
        ("p1_a", 6.0, "L"),
        ("p1_a", 10.0, "R"),
        ("p1_a", 20.0, "R"),
        # 22 holds the spike
        ("p1_a", 24.0, "R"),
        ("p1_a", 26.0, "R"),
    ]


def test_windows_may_overlap(corpus: Corpus) -> None:
    found = places(labelled_windows(task_of(labels=BY_MARK, step_seconds=0.5), corpus))
    left = [start for _, start, label in found if label == "L"]
    assert left == [2 + 0.5 * step for step in range(12)]  # 7.5 + 2 = 9.5, the end
    right = [start for _, start, label in found if label == "R" and start >= 20]
    # clear of the spike from 22.5 to 22.6, and of the end at 28
    assert right == [20.0, 20.5, 23.0, 23.5, 24.0, 24.5, 25.0, 25.5, 26.0]


def test_every_window_lies_within_annotation_and_stretch(corpus: Corpus) -> None:
    task = task_of(labels=BY_MARK, window_seconds=1.5, step_seconds=0.25)
    table = labelled_windows(task, corpus)
    (row,) = [row for row in corpus.recordings.itertuples() if row.recording.endswith("p1_a.edf")]
    stretches = corpus.stretches[corpus.stretches["recording"] == row.recording]
    for window in table.itertuples():
        start, stop = window.start, window.start + 150
        assert ((stretches["start"] <= start) & (stop <= stretches["stop"])).any()
        assert any(
            round(SFREQ * mark["onset"]) <= start
            and stop <= round(SFREQ * (mark["onset"] + mark["duration"]))
            and BY_MARK["classes"].get(mark["description"]) == window.label  # type: ignore[attr-defined]
            for mark in row.annotations
        )
    assert len(corpus.windows_at(table, 1.5)) == len(table) > 20


def test_a_class_without_windows_is_named(corpus: Corpus) -> None:
    for labels in (
        BY_NAME | {"classes": {"a": "A", "z": "Z", "y": "Y"}},
        BY_MARK | {"classes": {"left": "A", "up": "Z", "down": "Y"}},
    ):
        with pytest.raises(BergerError, match="task mine: no window of class Z or Y among"):
            labelled_windows(task_of(labels=labels), corpus)


def test_windows_longer_than_every_stretch(corpus: Corpus) -> None:
    with pytest.raises(BergerError, match="no usable stretch holds a window of 60 s"):
        labelled_windows(task_of(window_seconds=60), corpus)


def test_classes_keep_their_order_and_join() -> None:
    assert task_of(labels=BY_MARK).classes == ("L", "R")
    swapped = BY_MARK | {"classes": {"right": "R", "left": "L"}}
    assert task_of(labels=swapped).classes == ("R", "L")


# what is written wrong


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"labels": BY_NAME | {"pattern": "("}}, "'labels.pattern' = '(': no regular expression"),
        ({"labels": BY_NAME | {"pattern": "_(.)"}}, r"must hold a group (?P<label>...)"),
        ({"labels": BY_NAME | {"classes": {"a": "A"}}}, "must name at least two classes"),
        ({"labels": BY_NAME | {"classes": {"a": "A", "b": "A"}}}, "at least two classes"),
        ({"labels": BY_NAME | {"clases": {}}}, "unknown key 'labels.clases'; did you mean"),
        ({"labels": BY_NAME | {"from": "filename"}}, "'from' must be one of 'file name', 'ann"),
        ({"window_seconds": 0}, "'window_seconds' = 0: input should be greater than 0"),
        ({"n_folds": 1}, "'n_folds' = 1"),
        ({"step": 1}, "unknown key 'step'; did you mean 'step_seconds'?"),
    ],
)
def test_a_wrong_task_is_explained(fields: dict[str, object], words: str) -> None:
    with pytest.raises(BergerError) as caught:
        task_of(**fields)
    assert words in str(caught.value)


def test_an_unknown_task_gets_a_hint(tmp_path: Path) -> None:
    with pytest.raises(BergerError, match="neither a YAML file nor a shipped task; did you mean"):
        load_task("eegmta")
    with pytest.raises(BergerError, match=r"shipped are .*eegmat"):
        load_task(tmp_path / "zzzz")


# where the data are


def test_a_file_counts_from_its_own_folder(raw: Path) -> None:
    file = raw / "task.yaml"
    task = task_of(recordings=["*/*_a.edf", "p2/*.edf", "p2/p2_b.edf"])
    names = [path.name for path in find_data(task, file, None)]
    assert names == ["p1_a.edf", "p2_b.edf", "p2_c.edf"]
    assert [path.name for path in find_data(task, "elsewhere.yaml", raw)] == names
    assert len(find_data(task_of(), file, None)) == 3  # "**/*.edf" at any depth


def test_absolute_paths_and_odd_folders(raw: Path, tmp_path: Path) -> None:
    wanted = raw / "p1" / "p1_a.edf"
    assert find_data(task_of(recordings=[str(wanted)]), tmp_path / "t.yaml", None) == [wanted]
    pattern = str(raw / "*" / "*_a.edf")
    assert find_data(task_of(recordings=[pattern]), tmp_path / "t.yaml", None) == [wanted]
    odd = tmp_path / "data [1]"
    odd.mkdir()
    (odd / "x.edf").write_bytes(b"")
    assert find_data(task_of(), "t.yaml", odd) == [odd / "x.edf"]


def test_a_shipped_task_is_below_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = load_task("eegmat")
    monkeypatch.delenv("BERGER_DATA", raising=False)
    for origin in ("eegmat", Path("eegmat")):
        with pytest.raises(BergerError, match=r"where is the data\? Give --data FOLDER with the"):
            find_data(task, origin, None)
    monkeypatch.setenv("BERGER_DATA", str(tmp_path))
    with pytest.raises(BergerError, match=r"eegmat: nothing there fits Subject\*\.edf; give the"):
        find_data(task, "eegmat", None)
    (tmp_path / "eegmat").mkdir()
    (tmp_path / "eegmat" / "Subject00_1.edf").write_bytes(b"")
    (tmp_path / "eegmat" / "notes.edf").write_bytes(b"")
    assert [path.name for path in find_data(task, "eegmat", None)] == ["Subject00_1.edf"]


# how they are prepared


def test_recordings_are_prepared_as_the_model_expects() -> None:
    model = PreprocessingConfig(
        sfreq=128, lowpass=40, notch=50, cut_start=60, min_duration=300, max_amplitude=100
    )
    task = task_of(max_amplitude=150, subject_pattern="(?P<subject>p.)")
    found = preparation(task, model)
    assert (found.sfreq, found.lowpass, found.notch) == (128, 40, 50)  # the model's
    assert (found.max_amplitude, found.subject_pattern) == (150, "(?P<subject>p.)")  # the task's
    assert (found.cut_start, found.cut_end, found.min_duration) == (0, 0, 0)  # nothing lost
    assert preparation(task_of(), model).max_amplitude is None


def test_what_the_recordings_do_not_allow_is_left_as_recorded() -> None:
    model = PreprocessingConfig(sfreq=128, highpass=1, lowpass=40, notch=50, reference="average")
    trials = preparation(task_of(without=["highpass", "notch"]), model)
    assert (trials.highpass, trials.lowpass, trials.notch) == (None, 40, None)
    assert trials.reference == "average"
    pairs = preparation(task_of(reference="as recorded"), model)
    assert (pairs.highpass, pairs.notch, pairs.reference) == (1, 50, "as recorded")
    assert preparation(task_of(), model).reference == "average"


# eegmat


def test_the_facts_of_eegmat() -> None:
    task = load_task("eegmat")
    assert "eegmat" in catalogue()
    assert task.classes == ("rest", "arithmetic")
    assert (task.window_seconds, task.step_seconds, task.n_folds) == (5, None, 6)
    assert task.licence == "ODC-By 1.0"


def test_eegmat_as_it_lies_on_disk(real_data: Path, tmp_path: Path) -> None:
    task = load_task("eegmat")
    files = find_data(task, "eegmat", real_data / "eegmat")
    assert len(files) == 48
    few = files[:4]
    config = preparation(task, PreprocessingConfig())
    prepare(few, tmp_path / "corpus", config, progress=False)
    corpus = open_corpus(tmp_path / "corpus")
    assert corpus.subjects == ("Subject00", "Subject01")
    table = labelled_windows(task, corpus)
    counts = table.groupby(["subject", "label"]).size()
    assert counts["Subject00", "rest"] == 36  # 182 s
    assert counts["Subject00", "arithmetic"] == 12  # 62 s
    assert set(table[table["recording"].str.contains("_1.edf")]["label"]) == {"rest"}


def test_overlapping_labels_are_refused(tmp_path: Path) -> None:
    marks = [Annotation(2.0, 6.0, "left"), Annotation(7.0, 5.0, "right")]
    record(tmp_path / "raw" / "p1_a.edf", 30, marks)
    config = PreprocessingConfig(sfreq=SFREQ, highpass=None, lowpass=None)
    prepare([tmp_path / "raw"], tmp_path / "corpus", config, progress=False)
    with pytest.raises(BergerError, match="labelled annotations overlap at 7 s"):
        labelled_windows(task_of(labels=BY_MARK), open_corpus(tmp_path / "corpus"))


# sleep stages and published results

HYPNOGRAM = {"from": "hypnogram"}


def staged(**classes: str) -> dict[str, object]:
    return HYPNOGRAM | {"classes": classes}


@pytest.mark.parametrize(
    ("labels", "rows"),
    [
        (HYPNOGRAM, ("W", "R", "N1", "N2", "N3")),
        (staged(a="NREM", b="WAKE", c="REM"), ("WAKE", "REM", "NREM")),
        (staged(a="light", b="W", c="deep"), ("light", "W", "deep")),
        (BY_NAME, ()),
        (BY_NAME | {"classes": {"a": "W", "b": "REM"}}, ()),
    ],
)
def test_labels_from_hypnograms_are_sleep_stages_and_others_are_not(
    labels: dict[str, object], rows: tuple[str, ...]
) -> None:
    assert task_of(labels=labels).hypnogram == rows


def test_stages_make_other_labels_sleep_stages() -> None:
    classes = {"classes": {"a": "REM", "b": "WAKE"}}
    assert task_of(labels=BY_NAME | classes, sleep_stages=["WAKE", "REM"]).hypnogram == (
        "WAKE",
        "REM",
    )
    own = staged(a="light", b="W", c="deep")
    assert task_of(labels=own, sleep_stages=["W", "light", "deep"]).hypnogram == (
        "W",
        "light",
        "deep",
    )


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"sleep_stages": ["A"]}, "sleep_stages must name each class once"),
        ({"sleep_stages": ["A", "B", "B"]}, "sleep_stages must name each class once"),
        (
            {
                "sleep_stages": ["L", "R"],
                "labels": BY_MARK,
                "window": {"from": "event", "tmin": 0, "tmax": 2},
            },
            "sleep_stages belong to windows that follow each other",
        ),
    ],
)
def test_stages_that_do_not_fit_are_refused(fields: dict[str, object], complaint: str) -> None:
    if "window" in fields:
        fields = {**fields, "window_seconds": 2}
    with pytest.raises(BergerError, match=complaint):
        task_of(**fields)


PUBLISHED: dict[str, object] = {
    "model": "theirs",
    "metric": "kappa",
    "value": 0.5,
    "split": "100 people against 25",
    "source": "Somebody 2020, Table 3",
}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"value": 64.4}, "kappa cannot be 64.4; give a share of 1, not a percentage"),
        ({"value": -0.1, "metric": "auroc"}, "auroc cannot be -0.1"),
        ({"value": float("nan")}, "value"),
        ({"metric": "accuracy"}, "metric"),
        ({"metric": "rmse"}, "rmse of theirs is no score of a classification"),
        ({"spread": -0.1}, "spread"),
        ({"split": ""}, "split"),
        ({"source": ""}, "source"),
        ({"sauce": "Table 3"}, "sauce"),
    ],
)
def test_a_published_result_that_cannot_be_is_refused(
    changes: dict[str, object], complaint: str
) -> None:
    with pytest.raises(BergerError, match=complaint):
        task_of(published=[PUBLISHED | changes])


def test_a_published_error_has_the_unit_of_its_target() -> None:
    labels = {"from": "table", "table": "t.csv", "subject": "who", "column": "age"}
    result = PUBLISHED | {"metric": "rmse", "value": 12.5, "spread": 0.5}
    (published,) = task_of(labels=labels, kind="regression", published=[result]).published
    assert (published.value, published.spread, published.kind) == (12.5, 0.5, "regression")
    with pytest.raises(BergerError, match="kappa of theirs is no score of a regression"):
        task_of(labels=labels, kind="regression", published=[PUBLISHED])


def test_the_reference_of_a_task() -> None:
    model = PreprocessingConfig(bipolar="tcp")
    found = preparation(task_of(reference="average", channels=["Fz", "Cz"]), model)
    assert (found.bipolar, found.ch_names, found.reference) == (None, ("Fz", "Cz"), "average")
    own = PreprocessingConfig(reference="average")
    assert preparation(task_of(), own).reference == "average"
    assert preparation(task_of(reference="as recorded"), own).reference == "as recorded"
    for fields, words in (
        ({"bipolar": "tcp", "reference": "average"}, "bipolar channels have no other reference"),
        ({"channels": ["Fz"], "reference": ["Fz"]}, "holds Fz, which the reference takes away"),
    ):
        with pytest.raises(BergerError, match=words):
            task_of(**fields)


def test_folds_beside_several_splits() -> None:
    splits = {"five": {"by": "k-fold"}, "loso": {"by": "subject"}}
    assert task_of(splits=splits, n_folds=5).n_folds == 5
    chosen = task_of(splits=splits, n_folds=5, split=splits["loso"], split_name="loso")
    assert chosen.n_folds == 5
    del splits["five"]
    with pytest.raises(BergerError, match="n_folds belongs to the split k-fold"):
        task_of(splits=splits, n_folds=5, split=splits["loso"], split_name="loso")


def test_a_file_names_its_split_and_its_variant(tmp_path: Path) -> None:
    labels = {"from": "annotations", "classes": {"a": "a", "b": "b"}}
    content: dict[str, object] = {"name": "mine", "window_seconds": 2, "labels": labels}
    content["splits"] = {"five": {"by": "k-fold"}, "loso": {"by": "subject"}}
    content["variants"] = {"long": {"about": "of others", "window_seconds": 4}}

    def loaded(behind: str = "", **fields: str) -> TaskConfig:
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump(content | fields))
        return load_task(f"{path}{behind}")

    assert loaded(split_name="loso").split.by == "subject"
    assert (loaded(variant="long").window_seconds, loaded().window_seconds) == (4, 2)
    both = loaded(split_name="loso", variant="long")
    assert (both.split.by, both.window_seconds) == ("subject", 4)
    assert loaded("@five", split_name="loso", variant="long").split.by == "k-fold"
    assert TaskConfig.model_validate(both.model_dump(by_alias=True)).split == both.split
    with pytest.raises(BergerError, match="split_name: 'nosuch' is none of splits, but five, loso"):
        loaded(split_name="nosuch")
    with pytest.raises(BergerError, match="mine: has no variant 'nosuch', only long"):
        loaded(variant="nosuch")


def test_bipolar_channels_of_a_task() -> None:
    model = PreprocessingConfig(sfreq=128, lowpass=40, reference="average", ch_names=("Fz", "Cz"))
    found = preparation(task_of(bipolar="double banana"), model)
    assert (found.bipolar, found.ch_names, found.reference) == (
        "double banana",
        None,
        "as recorded",
    )
    PreprocessingConfig.model_validate(found.model_dump())  # its fields go together
    assert preparation(task_of(), model).reference == "average"
    for fields, words in (
        ({"bipolar": "tcp", "channels": ["Fz"]}, "channels and bipolar exclude each other"),
        ({"bipolar": [["Fz", "Fz"]]}, "needs pairs of two different electrodes"),
    ):
        with pytest.raises(BergerError, match=words):
            task_of(**fields)
