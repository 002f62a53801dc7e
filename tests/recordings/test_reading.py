from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import edfio
import numpy as np
import pytest

from berger.errors import BergerError
from berger.recordings import compile_subject_pattern, find_recordings, identify, read_recording


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


# --- Finding -----------------------------------------------------------------------------


def test_ids_are_paths_from_the_folders_parent_and_sorted(tmp_path):
    touch(tmp_path, "study/b.edf", "study/a/x.EDF", "study/notes.txt", "study/._b.edf", "one.edf")
    touch(tmp_path, "study/.cache/c.edf")
    found = find_recordings([tmp_path / "study", tmp_path / "one.edf"])
    assert [name for name, _ in found] == ["one.edf", "study/a/x.EDF", "study/b.edf"]
    assert all(file.is_file() for _, file in found)


def test_the_same_file_twice_counts_once(tmp_path, monkeypatch):
    touch(tmp_path, "study/a.edf")
    monkeypatch.chdir(tmp_path / "study")
    assert find_recordings([".", tmp_path / "study", "../study"]) == [
        ("study/a.edf", tmp_path / "study" / "a.edf")
    ]


def test_two_files_of_one_id_are_refused(tmp_path):
    touch(tmp_path, "x/study/a.edf", "y/study/a.edf")
    with pytest.raises(BergerError, match=r"would be called 'study/a\.edf' like"):
        find_recordings([tmp_path / "x" / "study", tmp_path / "y" / "study"])


def test_an_empty_folder_a_missing_path_and_another_format_are_refused(tmp_path):
    with pytest.raises(BergerError, match=r"holds no recording \(.edf, .rec, .bdf, "):
        find_recordings([tmp_path])
    with pytest.raises(BergerError, match="does not exist"):
        find_recordings([tmp_path / "nowhere"])
    touch(tmp_path, "notes.txt")
    with pytest.raises(BergerError, match=r"no known format; known are \.edf"):
        find_recordings([tmp_path / "notes.txt"])


def test_links_to_folders_are_followed_once(tmp_path):
    touch(tmp_path, "elsewhere/night/b.edf", "elsewhere/root/sub-01/eeg/sub-01_task-x_eeg.edf")
    touch(tmp_path, "elsewhere/root/dataset_description.json", "study/a.edf", "study/c.mff/x.edf")
    for name in ("night", "root"):
        (tmp_path / "study" / name).symlink_to(tmp_path / "elsewhere" / name)
    (tmp_path / "study" / "again").symlink_to(tmp_path / "study")
    (tmp_path / "elsewhere" / "night" / "back").symlink_to(tmp_path / "elsewhere")
    bids = "root/sub-01/eeg/sub-01_task-x_eeg.edf"
    # the night leads on to its parent, which holds the root once more
    expected = ["a.edf", "c.mff", "night/b.edf", f"night/back/{bids}", bids]
    found = [name for name, _ in find_recordings([tmp_path / "study"])]
    assert found == [f"study/{name}" for name in expected]


@pytest.mark.parametrize("place", ["", "deep/er", "root/sub-01", "root/sub-01/eeg"])
def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch, place):
    touch(tmp_path, "study/a.edf", "study/deep/er/b.edf", "study/root/dataset_description.json")
    touch(tmp_path, "study/root/sub-01/eeg/sub-01_task-x_eeg.edf")
    closed = tmp_path / "study" / place

    def closing(read):
        def refuse(path="."):
            if Path(path) == closed:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return read(path)

        return refuse

    # not by its mode: the superuser, as whom tests may run, may read all
    monkeypatch.setattr(os, "scandir", closing(os.scandir))
    monkeypatch.setattr(os, "listdir", closing(os.listdir))
    message = rf"^{re.escape(str(closed))}: cannot be searched \(Permission denied\); make"
    with pytest.raises(BergerError, match=message):
        find_recordings([tmp_path / "study"])


def test_links_to_data_that_were_not_fetched_are_found_and_say_so(tmp_path):
    (tmp_path / "a.edf").symlink_to(tmp_path / "annex" / "a.edf")
    [(_, file)] = find_recordings([tmp_path])
    with pytest.raises(BergerError, match="a link to data that are not here"):
        read_recording(file)


# --- Whose recording ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "subject", "session"),
    [
        ("sub-01_ses-02_task-rest_eeg.edf", "sub-01", "ses-02"),
        ("sub-a1_task-rest_eeg.edf", "sub-a1", None),
        ("Subject00_1.edf", "Subject00", "1"),
        ("S001R04.edf", "S001", "R04"),
        ("aaaaaaaa_s001_t000.edf", "aaaaaaaa", "s001_t000"),
        ("patient 12 night.edf", "patient 12", "night"),
        ("subj_3.EDF", "subj_3", None),
        ("p07-rest.edf", "p07", "rest"),
        ("P300_subject04_run1.edf", "subject04", "run1"),
    ],
)
def test_default_patterns(name, subject, session):
    assert identify(Path("/data/study") / name, "code7")[:3] == (subject, "pattern", session)


@pytest.mark.parametrize("name", ["rest.edf", "P300.edf", "night01.edf", "spindle3.edf"])
def test_then_the_header_then_the_file_name(name):
    path = Path("/data/S001/study") / name
    assert identify(path, "code7") == ("code7", "header", None, None)
    assert identify(path, None) == (path.stem, "file name", None, None)


def test_a_pattern_of_the_users_sees_the_whole_path_and_must_match():
    pattern = r"/study/(?P<subject>\w+)/(?P<session>day\d)"
    path = Path("/data/study/mouse7/day2/rec.edf")
    assert identify(path, "code7", pattern) == ("mouse7", "pattern", "day2", None)
    assert identify(path, None, r"(?P<subject>mouse\d)")[2] is None
    assert identify(path, None, r"/(?P<site>\w+)/(?P<subject>mouse\d)").site == "study"
    with pytest.raises(BergerError, match=r"rec\.edf: subject_pattern .* is not found"):
        identify(path, "code7", r"(?P<subject>rat\d)")


@pytest.mark.parametrize(
    ("pattern", "message"), [("(", "is no regular expression"), (r"S\d+", r"\(\?P<subject>")]
)
def test_a_pattern_that_cannot_work_is_refused(pattern, message):
    with pytest.raises(BergerError, match=message):
        compile_subject_pattern(pattern)


def test_the_header_gives_the_code_and_never_the_name(tmp_path):
    for code, expected in (("K17", ("K17", "header")), ("X", ("rest", "file name"))):
        patient = edfio.Patient(code=code, name="Hans_Berger")
        signal = edfio.EdfSignal(
            np.zeros(100), 100, label="Cz", physical_dimension="uV", physical_range=(-1, 1)
        )
        # Annotations make it EDF+, where the code has its place.
        edf = edfio.Edf([signal], patient=patient, annotations=[edfio.EdfAnnotation(0, None, "")])
        edf.write(tmp_path / "rest.edf")
        recording = read_recording(tmp_path / "rest.edf")
        assert (recording.subject, recording.subject_source) == expected
        assert "Berger" not in repr(recording)
