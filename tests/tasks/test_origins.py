"""Labels from names, annotations, tables, participants and hypnograms."""

from __future__ import annotations

from pathlib import Path

import edfio
import pytest

from berger.corpus import Corpus
from berger.errors import BergerError
from berger.recordings import Annotation
from berger.tasks import cut_windows, load_task
from berger.tasks.marks import Mark
from berger.tasks.origins import find_marks
from tests.tasks.made import SFREQ, prepared, record, task_in

CLASSES = {"a": "A", "b": "B", "c": None}
BY_RECORDING = {"from": "table", "table": "t.csv", "recording": "file", "column": "x"}
BY_SUBJECT = {"from": "table", "table": "t.csv", "subject": "who", "column": "x"}
ROWS = BY_RECORDING | {"onset": "begin", "duration": 4}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three recordings: p1 and p2 of 20 s, and another p2 of 12 s."""
    folder = tmp_path_factory.mktemp("marks") / "raw"
    record(folder / "one" / "p1.edf", 20, [Annotation(4, 3, "a")])
    record(folder / "one" / "p2.edf", 20)
    record(folder / "two" / "p2.edf", 12)
    return folder


@pytest.fixture(scope="module")
def corpus(raw: Path) -> Corpus:
    return prepared(raw, raw.parent / "corpus")


def marks_of(
    corpus: Corpus,
    folder: Path,
    labels: dict[str, object],
    table: str | None = None,
    **more: object,
) -> tuple[dict[str, list[tuple[float, float, object]]], dict[str, str]]:
    """Return the marks by recording without what is above it, and why others have none."""
    if table is not None:
        (folder / "t.csv").write_text(table)
    if more.get("kind") != "regression":
        labels = {"classes": CLASSES} | labels
    marks = find_marks(task_in(folder, labels, **more), corpus)
    return (
        {name[4:-4]: [mark[:3] for mark in several] for name, several in marks.of.items()},
        {name[4:-4]: reason for name, reason in marks.without.items()},
    )


# whole recordings


@pytest.mark.parametrize(
    "names",
    [
        ("p1.edf", "one/p2.edf", "two/p2.edf"),
        ("p1", "one/p2", "raw/two/p2.edf"),
    ],
)
def test_rows_by_recording(corpus: Corpus, tmp_path: Path, names: tuple[str, ...]) -> None:
    rows = [f"{name},{value}" for name, value in zip(names, "abc", strict=True)]
    of, without = marks_of(corpus, tmp_path, BY_RECORDING, "\n".join(["file,x", *rows]))
    assert of == {"one/p1": [(0, 20, "A")], "one/p2": [(0, 20, "B")], "two/p2": [(0, 12, None)]}
    assert without == {}


def test_rows_by_subject(corpus: Corpus, tmp_path: Path) -> None:
    of, _ = marks_of(corpus, tmp_path, BY_SUBJECT, "who,x\np2,b\np1,a\n")
    assert of == {"one/p1": [(0, 20, "A")], "one/p2": [(0, 20, "B")], "two/p2": [(0, 12, "B")]}


def test_numbers_of_a_regression(corpus: Corpus, tmp_path: Path) -> None:
    of, _ = marks_of(corpus, tmp_path, BY_SUBJECT, "who,x\np2,61.5\np1,2e1\n", kind="regression")
    assert of["one/p1"] == [(0, 20, 20.0)]
    assert of["two/p2"] == [(0, 12, 61.5)]
    with pytest.raises(BergerError, match=r"t\.csv, line 2: 'n/a' is no number to predict"):
        marks_of(corpus, tmp_path, BY_SUBJECT, "who,x\np2,n/a\np1,2\n", kind="regression")
    labels = BY_SUBJECT | {"incomplete": True}
    of, _ = marks_of(corpus, tmp_path, labels, "who,x\np2,n/a\np1,2\n", kind="regression")
    assert of["one/p2"] == [(0, 20, None)]
    for text in ("nan", "inf", "many"):
        broken = labels | {"incomplete": text == "nan"}
        table = f"who,x\np1,1\np2,{text}\n"
        if text == "nan":
            of, _ = marks_of(corpus, tmp_path, broken, table, kind="regression")
            assert of["one/p2"] == [(0, 20, None)]
        else:
            with pytest.raises(BergerError, match=f"'{text}' is no number to predict"):
                marks_of(corpus, tmp_path, broken, table, kind="regression")


@pytest.mark.parametrize(
    ("labels", "table", "words"),
    [
        (BY_RECORDING, "file,x\np1,a\np2,b\n", r"'p2' may be raw/one/p2\.edf or raw/two/p2\.edf"),
        (BY_RECORDING, "file,x\np1,a\np3,b\n", "'p3' in line 3 is no recording of"),
        (BY_SUBJECT, "who,x\np1,a\np3,b\n", "'p3' in line 3 is no subject of"),
        (BY_SUBJECT, "who,x\np1,a\n", r"raw/one/p2\.edf: t\.csv has no row for p2; add it, or"),
        (BY_SUBJECT, "who,x\np1,a\np2,b\np1,a\n", "lines 2 and 4 are both about p1"),
        (BY_RECORDING, "file,x\np1,a\np1.edf,a\n", r"lines 2 and 3 are both about raw/one/p1\.edf"),
        (BY_SUBJECT, "who,x\np1,a\np2,d\n", r"t\.csv, line 3: 'd' is not in labels\.classes; add"),
        (BY_SUBJECT, "who,x\np1,a\np2,\n", r"t\.csv, line 3: '' is not in labels\.classes"),
        (BY_SUBJECT, "who,y\np1,a\n", "has no column 'x', only 'who', 'y'"),
        (BY_SUBJECT, None, r"t\.csv: cannot be read \(No such file"),
        (BY_SUBJECT | {"table": "/nowhere/t.csv"}, None, r"^/nowhere/t\.csv: cannot be read"),
    ],
)
def test_a_table_that_does_not_fit(
    corpus: Corpus, tmp_path: Path, labels: dict[str, object], table: str | None, words: str
) -> None:
    with pytest.raises(BergerError, match=words) as caught:
        marks_of(corpus, tmp_path, labels, table)
    assert "\n" not in str(caught.value)


def test_an_incomplete_table_leaves_out(corpus: Corpus, tmp_path: Path) -> None:
    labels = BY_RECORDING | {"incomplete": True}
    of, without = marks_of(corpus, tmp_path, labels, "file,x\np1,a\np9,b\ntwo/p2,n/a\n")
    assert of == {"one/p1": [(0, 20, "A")], "two/p2": [(0, 12, None)]}
    assert without == {"one/p2": "t.csv has no row for raw/one/p2.edf"}
    with pytest.raises(BergerError, match=r"'d' is not in labels\.classes"):  # no lack: an error
        marks_of(corpus, tmp_path, labels, "file,x\np1,d\n")


def test_the_table_counts_from_the_data_folder(corpus: Corpus, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "t.csv").write_text("who,x\np1,a\np2,b\n")
    task_in(tmp_path, BY_SUBJECT | {"classes": CLASSES})
    marks = find_marks(load_task(tmp_path / "task.yaml", data), corpus)
    assert len(marks.of) == 3
    with pytest.raises(BergerError, match=f"^{tmp_path}/t.csv: cannot be read"):
        find_marks(load_task(tmp_path / "task.yaml"), corpus)


def test_names_of_files(corpus: Corpus, tmp_path: Path) -> None:
    labels = {
        "from": "file name",
        "pattern": r"(?P<label>\w)\.edf",
        "classes": {"1": "A", "x": "B"},
    }
    of, without = marks_of(corpus, tmp_path, labels)
    assert of == {"one/p1": [(0, 20, "A")]}
    assert without["two/p2"] == "'2' is not in labels.classes"
    _, without = marks_of(corpus, tmp_path, labels | {"pattern": "(?P<label>q)"})
    assert set(without.values()) == {"its name does not fit labels.pattern"}


def test_participants(tmp_path: Path, corpus: Corpus) -> None:
    root = tmp_path / "study"
    for number, seconds in ((1, 10), (2, 10), (3, 10)):
        record(root / f"sub-{number}" / "eeg" / f"sub-{number}_task-x_eeg.edf", seconds)
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.8.0"}')
    (root / "participants.tsv").write_text(
        "participant_id\tgroup\tage\nsub-1\ta\t33\nsub-2\tb\tn/a\n"
    )
    bids = prepared(root, tmp_path / "corpus")

    def found(**fields: object) -> tuple[list[object], list[str]]:
        labels = {"from": "participants", "column": "group", "incomplete": True} | fields
        kind = "regression" if labels["column"] == "age" else "classification"
        extra = {} if kind == "regression" else {"classes": CLASSES}
        marks = find_marks(task_in(tmp_path, labels | extra, kind=kind), bids)
        return [mark.label for (mark,) in marks.of.values()], [*marks.without.values()]

    assert found() == (["A", "B"], ["participants.tsv does not list sub-3"])
    assert found(column="age") == ([33.0, None], ["participants.tsv does not list sub-3"])
    with pytest.raises(BergerError, match="does not list sub-3; add it, or set labels"):
        found(incomplete=False)
    with pytest.raises(BergerError, match="has no column 'sex', only 'age', 'group'; correct"):
        found(column="sex")
    labels = {"from": "participants", "column": "x", "classes": CLASSES}
    with pytest.raises(BergerError, match=r"knows of no participants\.tsv; prepare a BIDS root"):
        find_marks(task_in(tmp_path, labels), corpus)


# stretches


def test_rows_with_an_onset(corpus: Corpus, tmp_path: Path) -> None:
    table = "file,begin,x\np1,8,b\np1,0,a\none/p2,1.5,c\ntwo/p2,0,a\n"
    of, _ = marks_of(corpus, tmp_path, ROWS, table)
    assert of == {
        "one/p1": [(0, 4, "A"), (8, 12, "B")],
        "one/p2": [(1.5, 5.5, None)],
        "two/p2": [(0, 4, "A")],
    }
    table = "file,begin,end,x\np1,8,1,b\none/p2,0,2,a\ntwo/p2,0,2,a\n"
    of, _ = marks_of(corpus, tmp_path, ROWS | {"duration": "end"}, table)
    assert of["one/p1"] == [(8, 9, "B")]
    for row, words in (
        ("p1,late,1,b", "line 2 has 'late' as begin, which is no time in seconds"),
        ("p1,1,-1,b", "a duration is negative"),
        ("p1,1,1,d", r"raw/one/p1\.edf at 1 s: 'd' is not in labels\.classes"),
    ):
        with pytest.raises(BergerError, match=words):
            marks_of(corpus, tmp_path, ROWS | {"duration": "end"}, f"file,begin,end,x\n{row}\n")


def test_seconds_count_from_the_beginning_of_the_file(raw: Path, tmp_path: Path) -> None:
    corpus = prepared(raw, tmp_path / "corpus", cut_start=3)
    table = "file,begin,x\np1,4,a\none/p2,0,a\ntwo/p2,0,b\n"
    of, _ = marks_of(corpus, tmp_path, ROWS, table)
    assert of["one/p1"] == [(1, 5, "A")]
    (annotated,) = find_marks(
        task_in(tmp_path, {"from": "annotations", "classes": CLASSES | {"b": "B"}}), corpus
    ).of.values()
    assert annotated == [Mark(1, 4, "A")]


def test_seconds_by_the_clock_in_an_interrupted_recording(tmp_path: Path) -> None:
    path = tmp_path / "raw" / "p1.edf"
    record(path, 20, [Annotation(0, 1, "makes room for longer times")])
    # 20 data records of 1 s; from the 11th on the clock is 100 s ahead
    edf = edfio.read_edf(path)
    content = bytearray(path.read_bytes())
    content[192:197] = b"EDF+D"
    header = edf.bytes_in_header_record
    size = (len(content) - header) // edf.num_data_records
    for index in range(10, 20):
        at = header + index * size
        place = content.index(f"+{index}".encode(), at, at + size)
        stamp = f"+{index + 100}\x14\x14\0".encode()
        content[place : place + len(stamp)] = stamp
    path.write_bytes(content)
    corpus = prepared(path.parent, tmp_path / "corpus")
    (gap,) = corpus.recordings["gaps"][0]
    assert gap == {"start": 10 * SFREQ, "seconds": 100.0}
    of, _ = marks_of(corpus, tmp_path, ROWS, "file,begin,x\np1,2,a\np1,112,b\np1,8,a\np1,50,b\n")
    # what begins in the gap has no place: a window before it would be another one
    assert of["p1"] == [(2, 6, "A"), (8, 10, "A"), (10, 10, None), (12, 16, "B")]
    later = prepared(path.parent, tmp_path / "later", cut_start=1)
    with pytest.raises(BergerError, match="and cut at its beginning, so that the seconds in"):
        marks_of(later, tmp_path, ROWS, "file,begin,x\np1,2,a\n")

    corpus.recordings.at[0, "gaps"] = [{"start": 10 * SFREQ, "seconds": None}]
    with pytest.raises(BergerError, match="interrupted for an unknown time, so that the seconds"):
        marks_of(corpus, tmp_path, ROWS, "file,begin,x\np1,2,a\n")


def test_tables_beside_recordings(raw: Path, tmp_path: Path) -> None:
    for name in ("one/p1", "one/p2", "two/p2"):
        record(tmp_path / "raw" / f"{name}_eeg.edf", 10 if name != "two/p2" else 12)
        value = "b" if name == "one/p2" else "a"
        events = f"onset\tduration\tstimulus\n2\t3\t{value}\n"
        (tmp_path / "raw" / f"{name}_events.tsv").write_text(events)
    corpus = prepared(tmp_path / "raw", tmp_path / "corpus")
    labels: dict[str, object] = {
        "from": "table",
        "beside": "{stem}_events.tsv",
        "stem": r"^(?P<stem>.+)_eeg\.",
        "column": "stimulus",
        "onset": "onset",
        "duration": "duration",
    }
    of, _ = marks_of(corpus, tmp_path, labels)
    assert of == {
        "one/p1_eeg": [(2, 5, "A")],
        "one/p2_eeg": [(2, 5, "B")],
        "two/p2_eeg": [(2, 5, "A")],
    }
    table = tmp_path / "raw" / "two" / "p2_events.tsv"
    table.write_text("onset\tduration\tstimulus\n")
    with pytest.raises(BergerError, match=r"two/p2_eeg\.edf: p2_events\.tsv beside it has no row"):
        marks_of(corpus, tmp_path, labels)
    _, without = marks_of(corpus, tmp_path, labels | {"incomplete": True})
    assert without == {"two/p2_eeg": "p2_events.tsv beside it has no row"}
    table.unlink()
    with pytest.raises(
        BergerError, match=r"raw/two/p2_eeg\.edf: no file \{stem\}_events\.tsv lies beside it; add"
    ):
        marks_of(corpus, tmp_path, labels)
    of, without = marks_of(corpus, tmp_path, labels | {"incomplete": True})
    assert [*without] == ["two/p2_eeg"]


# hypnograms


STAGE_FILES = {
    "{stem}.txt": "W\nW\nN1\nREM\n?\n",
    "{stem}.csv": "stage,x\nW,1\nW,1\nN1,1\nR,1\n?,1\n",
}


@pytest.mark.parametrize("beside", [*STAGE_FILES, "{stem}-stages.edf"])
def test_hypnograms_beside_recordings(tmp_path: Path, beside: str) -> None:
    record(tmp_path / "raw" / "night.edf", 26)
    path = tmp_path / "raw" / beside.replace("{stem}", "night")
    if path.suffix == ".edf":
        stages = {0: (10, "W"), 10: (5, "1"), 15: (5, "R"), 20: (900, "?")}
        edfio.Edf(
            [],
            annotations=[
                edfio.EdfAnnotation(onset, duration, f"Sleep stage {name}")
                for onset, (duration, name) in stages.items()
            ],
        ).write(path)
    else:
        path.write_text(STAGE_FILES[beside])
    labels: dict[str, object] = {"from": "hypnogram", "beside": beside, "epoch_seconds": 5}
    if path.suffix == ".csv":
        labels["column"] = "stage"
    task = task_in(tmp_path, labels, recordings=["raw/night.edf"], window_seconds=5)
    corpus = prepared(tmp_path / "raw" / "night.edf", tmp_path / "corpus")
    (marks,) = find_marks(task, corpus).of.values()
    end = 920 if path.suffix == ".edf" else 25
    assert [mark[:3] for mark in marks] == [
        (0, 10, "W"),
        (10, 15, "N1"),
        (15, 20, "R"),
        (20, end, None),
    ]
    assert marks[-1].reason in ("labels.classes leaves out 'Sleep stage ?'",) or (
        marks[-1].reason == "labels.classes leaves out '?'"
    )
    with pytest.raises(BergerError, match="task mine: no window of class N2 or N3 among 4 windows"):
        cut_windows(task, corpus)
    if path.suffix == ".txt":
        path.write_text("W\nSWS\n")
        with pytest.raises(
            BergerError, match=r"night\.txt at 5 s: 'SWS' is not in labels\.classes"
        ):
            find_marks(task, corpus)


def test_a_hypnogram_with_onsets(tmp_path: Path) -> None:
    record(tmp_path / "raw" / "night.edf", 40)
    (tmp_path / "raw" / "night.csv").write_text("t,s,x\n5,5,W\n10,5,W\n20,10,N\n")
    corpus = prepared(tmp_path / "raw" / "night.edf", tmp_path / "corpus")
    labels = {"from": "hypnogram", "beside": "{stem}.csv", "column": "x", "onset": "t"}
    labels |= {"duration": "s", "classes": {"W": "wake", "N": "sleep"}}
    fields = {"recordings": ["raw/*.edf"], "window_seconds": 5}
    table = cut_windows(task_in(tmp_path, labels, **fields), corpus).table
    assert [(row.start // SFREQ, row.label) for row in table.itertuples()] == [
        (5, "wake"),
        (10, "wake"),
        (20, "sleep"),
        (25, "sleep"),
    ]


def test_stages_among_the_annotations(tmp_path: Path) -> None:
    marks = [Annotation(5 * i, 5, f"Sleep stage {s}") for i, s in enumerate("WW12")]
    record(tmp_path / "raw" / "night.edf", 20, [*marks, Annotation(3, 2, "Lights off")])
    corpus = prepared(tmp_path / "raw", tmp_path / "corpus")
    (found,) = find_marks(task_in(tmp_path, {"from": "hypnogram"}), corpus).of.values()
    assert [mark[:3] for mark in found] == [(0, 10, "W"), (10, 15, "N1"), (15, 20, "N2")]
