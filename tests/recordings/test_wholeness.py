from __future__ import annotations

import gzip
import struct

import h5py
import numpy as np
import pytest

from berger.errors import BergerError
from berger.recordings import read_recording
from berger.recordings.wholeness import check_whole
from tests.recordings import writing

# The file that holds the samples, where it is not the recording's own.
DATA = {
    "x.vhdr": "x.eeg",
    "unsized.vhdr": "unsized.eeg",
    "apart.set": "apart.fdt",
    "x.lay": "x.dat",
    "wide.lay": "wide.dat",
    "x.mff": "x.mff/signal1.bin",
}


def spoil(folder, name, change):
    """Write one of the recordings, change the bytes of its samples' file, and return its path."""
    path = writing.write(folder, name)
    data = folder / DATA.get(name, name)
    data.write_bytes(change(data.read_bytes()))
    return path


def refused(path):
    names = writing.EXPECTED[path.name].names or None
    with pytest.raises(BergerError) as caught:
        read_recording(path, ch_names=names)
    text = str(caught.value)
    assert path.name in text
    assert text.endswith(".")
    return text


# 5 bytes are a whole sample of no format.
@pytest.mark.parametrize("name", writing.WRITERS)
@pytest.mark.parametrize(
    "change",
    [
        lambda content: content[:-5],
        lambda content: content[: len(content) // 3 + 1],
        lambda content: content[:-505] + content[-500:],
        lambda content: content[:-500] + b"12345" + content[-500:],
        lambda content: content[:50],
        lambda content: b"",
    ],
    ids=["end gone", "two thirds gone", "bytes gone", "bytes put in", "head alone", "nothing"],
)
def test_what_is_not_whole_is_refused(tmp_path, name, change):
    refused(spoil(tmp_path, name, change))


# Persyst cannot say how long a recording is, and BrainVision need not.
@pytest.mark.parametrize("name", sorted({*writing.WRITERS} - {"x.lay", "wide.lay", "unsized.vhdr"}))
def test_a_second_that_is_missing_at_the_end_is_missed(tmp_path, name):
    """In multiples of 240 bytes, which are whole samples in most formats."""

    def change(content):
        return content[: -240 * max(len(content) // 2400, 1)]

    refused(spoil(tmp_path, name, change))


LATER = {"x.lay", "wide.lay", "unsized.vhdr", "x.cnt", "wide.cnt"}


@pytest.mark.parametrize("name", sorted({*writing.WRITERS} - LATER))
def test_what_is_added_at_the_end_is_refused(tmp_path, name):
    refused(spoil(tmp_path, name, lambda content: content + b"1" * 4800))


def test_what_stands_behind_the_events_of_a_neuroscan_file_is_not_read(tmp_path):
    path = spoil(tmp_path, "x.cnt", lambda content: content + b"\1")
    assert read_recording(path).signal.shape == (2, 1000)


@pytest.mark.parametrize("name", ["unsized.vhdr", "x.lay", "x.gdf", "x.set"])
def test_a_transfer_in_text_mode_is_noticed(tmp_path, name):
    refused(spoil(tmp_path, name, lambda content: content.replace(b"\n", b"\r\n")))


# --- Headers that announce more than there is, or nothing --------------------------------


@pytest.mark.parametrize(
    ("name", "offset", "kind", "number"),
    [
        ("x.gdf", 236, "<q", 10**9),  # data records
        ("x.gdf", 236, "<q", -1),
        ("x.gdf", 244, "<I", 0),  # seconds of a record
        ("x.gdf", 252, "<H", 60000),  # channels
        ("x.gdf", 256 + 216 * 2, "<i", 10**9),  # samples in a record
        ("x.gdf", 256 + 216 * 2, "<i", -100),
        ("x.gdf", 256 + 220 * 2, "<i", 42),  # type of the samples
        ("x.gdf", 256 + 104 * 2, "<d", float("nan")),  # the measuring range
        ("old.gdf", 252, "<I", 2**31),
        ("x.cnt", 370, "<H", 60000),  # channels
        ("x.cnt", 376, "<H", 0),  # sampling rate
        ("x.cnt", 864, "<i", 10**9),  # samples
        ("x.cnt", 864, "<i", 0),
        ("x.cnt", 886, "<i", 2**31 - 1),  # where the events are
        ("x.cnt", 894, "<i", 10**6),  # length of a block
        ("x.EEG", 0x91, "<B", 9),  # control blocks
        ("x.EEG", 0x400 + 17, "<B", 0),  # data blocks
        ("x.EEG", 0x400 + 18, "<I", 2**31),
        ("x.EEG", 0x17FE + 0x26, "<B", 250),  # channels
        ("x.EEG", 0x17FE + 0x1C, "<I", 10**9),  # tenths of a second
        ("x.raw", 0, ">i", 5),  # in segments
        ("x.raw", 20, ">h", 0),  # sampling rate
        ("x.raw", 22, ">h", 30000),  # channels
        ("x.raw", 30, ">i", 10**9),  # samples
        ("ant.cnt", 4, "<I", 10**9),  # length of the file
        ("ant.cnt", 16, "<I", 10**9),  # of a chunk
    ],
)
def test_a_header_that_cannot_be_true_is_refused(tmp_path, name, offset, kind, number):
    def change(content):
        changed = bytearray(content)
        struct.pack_into(kind, changed, offset, number)
        return bytes(changed)

    refused(spoil(tmp_path, name, change))


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("x.vhdr", "NumberOfChannels=3", "NumberOfChannels=999999999999"),
        ("x.vhdr", "NumberOfChannels=3", "NumberOfChannels=1"),
        ("x.vhdr", "NumberOfChannels=3", "NumberOfChannels=-3"),
        ("x.vhdr", "DataPoints=1000", "DataPoints=many"),
        ("x.vhdr", "SamplingInterval=10000", "SamplingInterval=nan"),
        ("x.vhdr", "SamplingInterval=10000", "SamplingInterval=0"),
        ("x.lay", "WaveformCount=2", "WaveformCount=1"),
        ("x.lay", "WaveformCount=2", "WaveformCount=0"),
        ("x.lay", "DataType=0", "DataType=3"),
        ("x.lay", "HeaderLength=0", "HeaderLength=512"),
        ("x.lay", "FileType=Interleaved", "FileType=Sequential"),
        ("x.lay", "SamplingRate=100", "SamplingRate=-100"),
        ("x.lay", "File=x.dat", "File=../../x.dat/"),
    ],
)
def test_a_header_of_text_that_cannot_be_true_is_refused(tmp_path, name, old, new):
    path = writing.write(tmp_path, name)
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    refused(path)


def test_markers_show_that_samples_are_missing(tmp_path):
    path = spoil(tmp_path, "unsized.vhdr", lambda content: content[: 6 * 599])
    assert "ends at sample 599, but there is a marker at 601" in refused(path)


def test_marks_of_time_show_that_samples_are_missing(tmp_path):
    path = writing.write_persyst(tmp_path / "x.lay", "[SampleTimes]\n0=100.0\n900=109.0\n")
    assert read_recording(path).signal.shape == (2, 1000)
    data = path.with_suffix(".dat")
    data.write_bytes(data.read_bytes()[: 4 * 900])
    assert "end before the last of [SampleTimes]" in refused(path)


@pytest.mark.parametrize("suffix", [".21E", ".LOG"])
def test_companions_that_mne_would_not_find_are_named(tmp_path, suffix):
    path = writing.write(tmp_path, "x.EEG")
    companion = path.with_suffix(suffix)
    companion.rename(companion.with_suffix(suffix.lower()))
    assert f"call it x{suffix}" in refused(path)


def test_blocks_of_newer_nihon_kohden_devices_may_follow(tmp_path):
    def with_address(content):
        changed = bytearray(content + bytes(100))
        struct.pack_into("<I", changed, 0x3EE, len(content))
        return bytes(changed)

    path = spoil(tmp_path, "x.EEG", with_address)
    assert read_recording(path).signal.shape == (2, 1000)


@pytest.mark.parametrize(
    ("name", "file", "old", "new"),
    [
        ("x.mff", "x.mff/Events_ECI.xml", b"<eventTrack", b"<ventTrack"),
        ("x.EEG", "x.LOG", b"left", b"l\xc3ft"),
        ("x.EEG", "x.LOG", b"\0EEG-1100A", b"\0EEG-1100X"),
    ],
    ids=["mff", "text", "version"],
)
def test_events_that_mne_would_leave_out_are_told(tmp_path, name, file, old, new):
    path = writing.write(tmp_path, name)
    content = (tmp_path / file).read_bytes()
    assert old in content
    (tmp_path / file).write_bytes(content.replace(old, new))
    assert "its events cannot be read" in refused(path)


def test_an_hdf5_file_must_end_where_it_says(tmp_path):
    path = tmp_path / "x.set"
    with h5py.File(path, "w", userblock_size=512) as file:
        file["x"] = np.arange(1000)
    check_whole(path)
    whole = path.read_bytes()
    for content in (whole[:-1], whole + b"1"):
        path.write_bytes(content)
        with pytest.raises(BergerError, match=rf"has {len(content)} bytes instead of {len(whole)}"):
            check_whole(path)


def test_a_packed_file_with_a_wrong_sum_is_refused(tmp_path):
    path = writing.write(tmp_path, "packed_raw.fif.gz")
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)
    assert "CRC" in refused(path)
    path.write_bytes(gzip.compress(b"no FIF"))
    assert "damaged" in refused(path)


def test_a_file_that_cannot_be_opened_is_refused(tmp_path):
    with pytest.raises(BergerError, match="cannot be read"):
        check_whole(tmp_path / "none.gdf")
