from __future__ import annotations

import struct

import mne
import numpy as np
import pytest

from berger.errors import BergerError
from berger.recordings import read_recording
from berger.recordings.fiff import check_fiff
from tests.recordings import writing


def tags(content):
    """Return place, kind, type, size and next of every tag."""
    found, at = [], 0
    while at < len(content):
        kind, type_, size, following = struct.unpack_from(">iIii", content, at)
        found.append((at, kind, type_, size, following))
        at += 16 + size
    return found


@pytest.fixture
def whole(tmp_path):
    return writing.write_fif(tmp_path / "x_raw.fif", buffer_size_sec=1)


def place_of(content, kind, nth=0):
    return [at for at, found, *_ in tags(content) if found == kind][nth]


def change(path, at, kind, number):
    content = bytearray(path.read_bytes())
    struct.pack_into(kind, content, at, number)
    path.write_bytes(content)


def complaint(path):
    with pytest.raises(BergerError, match="its header is damaged") as caught:
        read_recording(path)
    return str(caught.value)


def test_what_mne_writes_is_whole(tmp_path, whole):
    check_fiff(whole)
    info = mne.create_info(3, 250.0, ["eeg", "stim", "misc"])
    raw = mne.io.RawArray(np.ones((3, 5000)), info, verbose="ERROR")
    raw.info["bads"] = ["0"]
    raw.set_montage(None)
    for fmt in ("single", "double", "int", "short"):
        raw.save(tmp_path / "y_raw.fif", fmt=fmt, overwrite=True, verbose="ERROR")
        check_fiff(tmp_path / "y_raw.fif")


def test_a_chain_that_leads_back_is_refused(whole):
    """MNE would follow it for ever."""
    content = whole.read_bytes()
    buffer = place_of(content, 300, 5)
    change(whole, buffer + 12, ">i", place_of(content, 300, 2))
    assert f"the tag at {buffer} leads back" in complaint(whole)


@pytest.mark.parametrize(
    ("kind", "nth", "offset", "number", "reason"),
    [
        (300, 3, 8, 2**31 - 1, "reaches beyond the end"),  # size
        (300, 3, 8, -5, "reaches beyond the end"),
        (
            300,
            3,
            8,
            796,
            "the tag at|an unknown tag|does not close",
        ),
        (300, 3, 4, 99, "no whole samples"),  # type
        (300, 3, 4, 5, "change their type"),
        (300, 3, 0, 44, "an unknown tag"),  # kind: MNE would leave the second out
        (300, 3, 12, 10**9, "ends before the tag at 1000000000"),  # next
        (203, 1, 0, 777, "describes 1 of 2 channels"),
        (200, 0, 16, 10**9, "describes 2 of 1000000000 channels"),
        (104, 1, 16, 3, "closes a block that it did not open"),
        (105, -1, 0, 7, "does not close a block"),
        (100, 0, 0, 5, "does not begin as FIF does"),
        (101, 0, 16, 40, "no directory stands at 40"),
    ],
)
def test_tags_that_cannot_be_are_refused(whole, kind, nth, offset, number, reason):
    change(whole, place_of(whole.read_bytes(), kind, nth) + offset, ">i", number)
    with pytest.raises(ValueError, match=reason):
        check_fiff(whole)
    assert str(whole) in complaint(whole)


def test_bytes_behind_the_last_tag_are_refused(whole):
    whole.write_bytes(whole.read_bytes() + b"1234")
    assert "4 bytes are left over behind its last tag" in complaint(whole)


def with_directory(content, leave_out=None):
    """Put the directory of all tags before the last one, as acquisition programs do."""
    listed = [tag for tag in tags(content) if tag[1] != 108]
    last = tags(content)[-1]
    entries = b"".join(
        struct.pack(">iIii", kind, type_, size, at)
        for at, kind, type_, size, _ in listed
        if at != leave_out
    )
    changed = bytearray(content[: last[0]])
    struct.pack_into(">i", changed, listed[1][0] + 16, last[0])
    changed += struct.pack(">iIii", 102, 32, len(entries), -1) + entries
    return bytes(changed)


def test_a_directory_must_list_the_tags(whole):
    content = whole.read_bytes()
    whole.write_bytes(with_directory(content))
    check_fiff(whole)
    np.testing.assert_allclose(read_recording(whole).signal, writing.WAVES[:2], atol=1e-4)
    whole.write_bytes(with_directory(content, leave_out=place_of(content, 300, 4)))
    assert "its directory differs from its tags" in complaint(whole)


def test_every_part_of_a_split_file_is_followed(tmp_path):
    raw = mne.io.RawArray(
        np.zeros((2, 700_000)), mne.create_info(["Fp1", "T3"], 100.0, "eeg"), verbose="ERROR"
    )
    raw.save(tmp_path / "x_raw.fif", split_size="2MB", buffer_size_sec=10, verbose="ERROR")
    assert read_recording(tmp_path / "x_raw.fif").signal.shape == (2, 700_000)
    part = tmp_path / "x_raw-1.fif"
    change(part, place_of(part.read_bytes(), 300, 5) + 12, ">i", 36)
    assert "leads back" in complaint(tmp_path / "x_raw.fif")
