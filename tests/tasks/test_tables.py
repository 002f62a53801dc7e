"""Tables and the files that lie beside recordings."""

from __future__ import annotations

from pathlib import Path

import edfio
import pytest

from berger.errors import BergerError
from berger.recordings import Annotation
from berger.tasks.tables import (
    file_beside,
    number_in,
    place_of,
    places,
    read_edf_hypnogram,
    read_stage_lines,
    read_table,
    seconds_in,
)
from tests.tasks.made import record


def test_cells_are_texts(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes('\ufefffile, x\r\n007,n/a\r\n 1.0 ,\r\n\r\n"a,b",NA\r\n'.encode())
    table = read_table(path, ("file", "x", None))
    assert table.to_dict("list") == {"file": ["007", "1.0", "a,b"], "x": ["n/a", "", "NA"]}
    tsv = tmp_path / "t.tsv"
    tsv.write_text("file\tx\na,b\t1\nshort\n")
    assert read_table(tsv).to_dict("list") == {"file": ["a,b", "short"], "x": ["1", ""]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, r"t\.csv: cannot be read \(No such file or directory\); put the table there"),
        (b"", "is no table of columns separated by commas"),
        (b"a,b\n1,2,3\n", "is no table"),  # a row that is longer
        (b"a,\xff\n1,2\n", "is no table"),
        (b"a,a\n1,2\n", "two columns are called 'a'"),
        (b"a;b\n1;2\n", "has no column 'a', only 'a;b'; correct the task"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "t.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BergerError, match=words):
        read_table(path, ("a",))


def test_numbers(tmp_path: Path) -> None:
    assert [number_in(text) for text in ("1e-3", "-2", "nan", "inf", "", "1,5")] == [
        0.001,
        -2,
        None,
        None,
        None,
        None,
    ]
    path = tmp_path / "t.csv"
    path.write_text("t\n1\nlate\n")
    with pytest.raises(BergerError, match="line 3 has 'late' as t, which is no time in seconds"):
        seconds_in(read_table(path), "t", path)


def test_a_recording_is_found_by_the_end_of_its_path(tmp_path: Path) -> None:
    for name in ("one/a.edf", "two/a.edf", "two/b.edf"):
        record(tmp_path / name, 2)
    found = places([tmp_path / "one", tmp_path / "two" / "a.edf", tmp_path / "two"], None)
    assert place_of("two/a.edf", found) == tmp_path / "two" / "a.edf"
    assert place_of("b.edf", found) == tmp_path / "two" / "b.edf"
    with pytest.raises(BergerError, match=r"a\.edf: several files .*/one/a\.edf, .*/two/a\.edf"):
        place_of("a.edf", found)
    for name in ("three/a.edf", "c.edf"):
        with pytest.raises(BergerError, match="no file of the data folder may be it"):
            place_of(name, found)


def test_files_beside_a_recording(tmp_path: Path) -> None:
    own = tmp_path / "SC4[1]E0-PSG.edf"
    for name in (own.name, "SC4[1]EC-Hypnogram.edf", "SC41EC-Hypnogram.edf", "x.csv"):
        (tmp_path / name).touch()
    pattern = r"^(?P<stem>SC4\[\d\])"
    assert file_beside(own, "{stem}??-Hypnogram.edf", pattern) == (
        tmp_path / "SC4[1]EC-Hypnogram.edf"
    )
    assert file_beside(own, "{stem}.csv", None) is None
    assert file_beside(own, "{stem}*.edf", None) is None  # not the recording itself
    (tmp_path / "SC4[1]ED-Hypnogram.edf").touch()
    with pytest.raises(BergerError, match=r"EC-Hyp.* and .*ED-Hyp.* lie beside it and fit"):
        file_beside(own, "{stem}??-Hypnogram.edf", pattern)
    with pytest.raises(BergerError, match=r"its name does not fit labels\.stem"):
        file_beside(own, "{stem}.csv", "(?P<stem>ST)")


def test_what_macos_leaves_is_no_file_beside_a_recording(tmp_path: Path) -> None:
    for name in ("a_eeg.edf", "a_events.tsv", "._a_eeg.edf", "._a_events.tsv"):
        (tmp_path / name).touch()
    found = file_beside(tmp_path / "a_eeg.edf", "*_events.tsv", None)
    assert found == tmp_path / "a_events.tsv"


def test_a_hypnogram_begins_with_its_recording(tmp_path: Path) -> None:
    record(tmp_path / "night.edf", 2)
    path = tmp_path / "stages.edf"
    stages = [edfio.EdfAnnotation(0, 30, "Sleep stage W"), edfio.EdfAnnotation(30, None, "é")]
    edfio.Edf([], annotations=stages).write(path)
    content = path.read_bytes()
    # as Sleep-EDF has it, data records of no duration
    path.write_bytes(content[:244] + b"0       " + content[252:])
    expected = [Annotation(0, 30, "Sleep stage W"), Annotation(30, 0, "é")]
    assert read_edf_hypnogram(path, tmp_path / "night.edf") == expected
    path.write_bytes(content[:168] + b"24.04.8916.13.00" + content[184:])
    with pytest.raises(
        BergerError, match=r"begins at 24\.04\.89 16\.13\.00, but night\.edf at 01\.01\.85 00"
    ):
        read_edf_hypnogram(path, tmp_path / "night.edf")
    assert read_edf_hypnogram(path, tmp_path / "night.vhdr") == expected
    for damaged in (b"", content[:300], b"onset,stage\n"):
        path.write_bytes(damaged)
        with pytest.raises(BergerError, match="cannot be read as EDF"):
            read_edf_hypnogram(path, tmp_path / "night.edf")


def test_a_stage_a_line(tmp_path: Path) -> None:
    path = tmp_path / "stages.txt"
    path.write_bytes(b"W\r\n N1 \r\n\r\nN2\n\n\n")
    assert read_stage_lines(path) == ["W", "N1", "", "N2"]  # an empty line is an epoch
    path.write_bytes(b"\xff\xff")
    with pytest.raises(BergerError, match="cannot be read as text"):
        read_stage_lines(path)
