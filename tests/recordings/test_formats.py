from __future__ import annotations

import hashlib
import os

import pytest

from berger.errors import BergerError
from berger.recordings import find_recordings, hash_of, read_recording, size_of


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def found(folder):
    return [name.partition("/")[2] for name, _ in find_recordings([folder])]


def test_files_that_belong_to_another_are_no_recordings(tmp_path):
    touch(tmp_path, "a.set", "a.fdt", "b.lay", "b.dat", "c.vhdr", "c.vmrk", "c.eeg")
    (tmp_path / "renamed.vhdr").write_text("[Common Infos]\nDataFile=old.eeg\n")
    (tmp_path / "kohden.eeg").write_bytes(b"EEG-1100A V01.00")
    touch(tmp_path, "old.eeg", "kohden.pnt", "d_raw.fif", "d_raw-1.fif", "d_raw-2.fif")
    touch(tmp_path, "sub-1_split-01_eeg.fif", "sub-1_split-02_eeg.fif", "e-1.fif", "f.fif.gz")
    touch(tmp_path, "g.mff/signal1.bin", "g.mff/inside.edf", "h.edf/i.edf")
    assert found(tmp_path) == [
        "a.set",
        "b.lay",
        "c.vhdr",
        "d_raw.fif",
        "e-1.fif",
        "f.fif.gz",
        "g.mff",
        "h.edf/i.edf",
        "kohden.eeg",
        "renamed.vhdr",
        "sub-1_split-01_eeg.fif",
    ]
    # a folder that is a recording may be given itself
    assert find_recordings([tmp_path / "g.mff"]) == [("g.mff", tmp_path / "g.mff")]


def test_data_whose_header_is_missing_are_found_and_refused(tmp_path):
    (tmp_path / "alone.eeg").write_bytes(os.urandom(100))
    assert found(tmp_path) == ["alone.eeg"]
    with pytest.raises(BergerError, match=r"alone\.eeg: is no Nihon Kohden file; .* \.vhdr"):
        read_recording(tmp_path / "alone.eeg")


def test_size_counts_what_belongs_to_a_recording(tmp_path):
    for name, length in {
        "a.set": 10,
        "a.fdt": 200,
        "b.edf": 5,
        "m.mff/x": 1,
        "m.mff/y/z": 2,
    }.items():
        touch(tmp_path, name)
        (tmp_path / name).write_bytes(bytes(length))
    (tmp_path / "c.vhdr").write_text("DataFile=d.eeg\n")
    (tmp_path / "d.eeg").write_bytes(bytes(70))
    sizes = {name: size_of(tmp_path / name) for name in ("a.set", "b.edf", "m.mff", "c.vhdr")}
    assert sizes == {"a.set": 210, "b.edf": 5, "m.mff": 3, "c.vhdr": 85}
    with pytest.raises(OSError, match=r"none\.edf"):
        size_of(tmp_path / "none.edf")


def test_the_hash_is_that_of_the_file_and_of_several_notices_each(tmp_path):
    files = {
        "b.edf": b"one",
        "a.set": b"two",
        "a.fdt": b"three",
        "m.mff/x": b"4",
        "m.mff/y/z": b"5",
    }
    touch(tmp_path, *files)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert hash_of(tmp_path / "b.edf") == hashlib.sha256(b"one").hexdigest()
    lines = "".join(
        f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in ("a.set", "a.fdt")
    )
    assert hash_of(tmp_path / "a.set") == hashlib.sha256(lines.encode()).hexdigest()
    before = [hash_of(tmp_path / name) for name in ("a.set", "m.mff")]
    (tmp_path / "a.fdt").write_bytes(b"THREE")
    (tmp_path / "m.mff/y/z").rename(tmp_path / "m.mff/y/w")
    after = [hash_of(tmp_path / name) for name in ("a.set", "m.mff")]
    assert all(old != new for old, new in zip(before, after, strict=True))
