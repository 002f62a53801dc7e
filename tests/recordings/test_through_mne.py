from __future__ import annotations

import re
import struct

import edfio
import mne
import numpy as np
import pytest

from berger.errors import BergerError
from berger.recordings import Annotation, Gap, KeptOut, RejectedError, read_recording
from tests.recordings import writing
from tests.recordings.writing import (
    SFREQ,
    WAVES,
    write_brainvision,
    write_eeglab,
    write_egi,
    write_gdf,
    write_persyst,
)


def raw_array(names=("Fp1", "T3", "ECG1"), types=("eeg", "eeg", "ecg")):
    info = mne.create_info(list(names), SFREQ, list(types))
    return mne.io.RawArray(WAVES[: len(names)] * 1e-6, info, verbose="ERROR")


def check_waves(recording, atol=1e-3):
    """The signal is that of Fp1 and T7 in µV, whatever the format."""
    assert recording.ch_names == ("Fp1", "T7")
    assert recording.sfreq == SFREQ
    assert recording.signal.dtype == np.float64
    np.testing.assert_allclose(recording.signal, WAVES[:2], atol=atol)


# --- FIF ---------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".fif", ".fif.gz"])
def test_fif(tmp_path, suffix):
    raw = raw_array()
    raw.info["subject_info"] = {"his_id": "K17", "last_name": "Berger"}
    raw.set_annotations(mne.Annotations([2.5, 7.0], [1.5, 0.0], ["left", "right"]))
    path = tmp_path / f"rest_raw{suffix}"
    raw.save(path, verbose="ERROR")
    recording = read_recording(path)
    check_waves(recording)
    assert recording.original_ch_names == ("Fp1", "T3")
    assert recording.kept_out == (KeptOut("ECG1", "ECG"),)
    assert recording.annotations == (Annotation(2.5, 1.5, "left"), Annotation(7.0, 0.0, "right"))
    assert (recording.subject, recording.subject_source) == ("K17", "header")
    assert "Berger" not in repr(recording)


def test_volts_that_are_microvolts_and_channels_in_depth(tmp_path):
    raw = raw_array(("Fp1", "T3"), ("eeg", "seeg"))
    raw.apply_function(lambda signal: signal * 1e6, picks="all").save(
        tmp_path / "x_raw.fif", verbose="ERROR"
    )
    recording = read_recording(tmp_path / "x_raw.fif", ch_names=["Fp1", "T7"], unit="µV")
    check_waves(recording, atol=0.01)
    assert recording.kinds == ("scalp", "depth electrode")


@pytest.mark.parametrize("dated", [False, True])
def test_onsets_count_from_the_first_sample_of_a_cropped_file(tmp_path, dated):
    raw = raw_array()
    if dated:
        raw.set_meas_date(1_000_000)
    raw.set_annotations(mne.Annotations([2.5, 7.0], [1.5, 0.0], ["left", "right"]))
    raw.crop(tmin=2.0).save(tmp_path / "x_raw.fif", verbose="ERROR")
    recording = read_recording(tmp_path / "x_raw.fif")
    assert recording.signal[1, 0] == pytest.approx(WAVES[1, 200])
    assert [mark.onset for mark in recording.annotations] == pytest.approx([0.5, 5.0], abs=1e-6)


def test_what_the_file_declares_comes_before_the_name_unless_the_channel_is_wanted(tmp_path):
    raw = raw_array(names=("Fp1", "T3", "Cz"), types=("eog", "eeg", "emg"))
    raw.save(tmp_path / "x_raw.fif", verbose="ERROR")
    recording = read_recording(tmp_path / "x_raw.fif")
    assert recording.ch_names == ("T7",)
    assert recording.kept_out == (KeptOut("Fp1", "EOG"), KeptOut("Cz", "EMG"))
    wanted = read_recording(tmp_path / "x_raw.fif", ch_names=["Fp1", "T7"])
    check_waves(wanted)


def test_trigger_channels_and_other_units_are_never_taken_and_bad_ones_are_marked(tmp_path):
    names, types = ("Fp1", "T3", "STI", "Cz"), ("eeg", "eeg", "stim", "temperature")
    info = mne.create_info(list(names), SFREQ, list(types))
    raw = mne.io.RawArray(np.zeros((4, 500)), info, verbose="ERROR")
    raw.info["bads"] = ["T3"]
    raw.save(tmp_path / "x_raw.fif", verbose="ERROR")
    recording = read_recording(tmp_path / "x_raw.fif")
    assert recording.ch_names == ("Fp1", "T7")
    assert recording.bads == ("T7",)
    assert recording.kept_out == (KeptOut("STI", "trigger"), KeptOut("Cz", "is no voltage"))
    assert recording.annotations == ()
    with pytest.raises(RejectedError, match=r"lacks Cz; .* Cz \(is no voltage\)"):
        read_recording(tmp_path / "x_raw.fif", ch_names=["Cz"])


def test_a_good_channel_comes_before_a_bad_one_of_the_same_electrode(tmp_path):
    raw = raw_array(("T7", "T3"), ("eeg", "eeg"))
    raw.info["bads"] = ["T7"]
    raw.save(tmp_path / "x_raw.fif", verbose="ERROR")
    recording = read_recording(tmp_path / "x_raw.fif")
    assert recording.original_ch_names == ("T3",)
    assert recording.kept_out == (KeptOut("T7", "marked as bad"),)


def with_triggers(names, pulses):
    """Fp1 and trigger channels with pulses of {channel: [(first, stop, value), ...]}."""
    info = mne.create_info(["Fp1", *names], SFREQ, ["eeg"] + ["stim"] * len(names))
    values = np.zeros((len(names), 1000))
    for channel, several in pulses.items():
        for first, stop, value in several:
            values[names.index(channel), first:stop] = value
    return mne.io.RawArray(np.vstack([WAVES[0] * 1e-6, values]), info, verbose="ERROR")


def test_triggers_are_annotations_as_mne_finds_them(tmp_path):
    pulses = [
        (0, 3, 7),
        (250, 251, 12),
        (400, 450, 3),
        (450, 500, 1),
        (500, 520, 5),
        (998, 1000, 2),
    ]
    raw = with_triggers(["STI 014"], {"STI 014": pulses})
    raw.set_annotations(mne.Annotations([3.0], [1.0], ["rest"]))
    raw.save(tmp_path / "x_raw.fif", verbose="ERROR")
    marks = read_recording(tmp_path / "x_raw.fif").annotations
    assert Annotation(3.0, 1.0, "rest") in marks
    triggers = [mark for mark in marks if mark.description.startswith("trigger ")]
    events = mne.find_events(
        raw, consecutive=True, initial_event=True, shortest_event=1, verbose="ERROR"
    )
    assert [(round(m.onset * SFREQ), m.description) for m in triggers] == [
        (sample, f"trigger {value}") for sample, _, value in events
    ]
    assert [m.duration for m in triggers] == [0.02, 0.0, 0.49, 0.49, 0.19, 0.01]
    assert [m.onset for m in marks] == sorted(m.onset for m in marks)


def test_of_several_trigger_channels_that_with_all_or_every_one_is_read(tmp_path):
    pulses = {"STI 001": [(100, 110, 1)], "STI 002": [(200, 210, 1)]}
    with_triggers(["STI 001", "STI 002"], pulses).save(tmp_path / "a_raw.fif", verbose="ERROR")
    marks = read_recording(tmp_path / "a_raw.fif").annotations
    assert [m.description for m in marks] == ["trigger STI 001 1", "trigger STI 002 1"]
    whole = pulses | {"STI101": [(100, 110, 1), (200, 210, 2)]}
    raw = with_triggers(["STI 001", "STI 002", "STI101"], whole)
    raw.save(tmp_path / "b_raw.fif", verbose="ERROR")
    marks = read_recording(tmp_path / "b_raw.fif").annotations
    assert [m.description for m in marks] == ["trigger 1", "trigger 2"]


def test_triggers_stay_with_their_samples_where_a_recording_was_interrupted(tmp_path):
    raw = with_triggers(["STI 014"], {"STI 014": [(100, 101, 1), (700, 701, 2)]})
    raw.set_annotations(mne.Annotations([3.0], [2.0], ["BAD_ACQ_SKIP"]))
    raw._data[0, 300:500] = 0
    raw.save(tmp_path / "x_raw.fif", verbose="ERROR")
    marks = read_recording(tmp_path / "x_raw.fif").annotations
    assert marks == (Annotation(1.0, 0.0, "trigger 1"), Annotation(5.0, 0.0, "trigger 2"))


def test_what_was_skipped_is_a_gap(tmp_path):
    raw = raw_array(("Fp1", "T3"), ("eeg", "eeg"))
    names = ["BAD_ACQ_SKIP", "across", "after"]
    raw.set_annotations(mne.Annotations([3.0, 2.0, 6.0], [2.0, 4.0, 0.0], names))
    # zeros stand where nothing was recorded, as when MNE reads a file with skips
    raw._data[:, 300:500] = 0
    raw.save(tmp_path / "x_raw.fif", verbose="ERROR")
    recording = read_recording(tmp_path / "x_raw.fif")
    assert recording.gaps == (Gap(300, 2.0),)
    np.testing.assert_allclose(
        recording.signal, np.hstack([WAVES[:2, :300], WAVES[:2, 500:]]), atol=1e-3
    )
    assert recording.annotations == (Annotation(2.0, 2.0, "across"), Annotation(4.0, 0.0, "after"))


def test_where_recordings_were_joined_is_a_gap(tmp_path):
    raw = mne.concatenate_raws([raw_array(), raw_array()], verbose="ERROR")
    raw.save(tmp_path / "x_raw.fif", verbose="ERROR")
    assert read_recording(tmp_path / "x_raw.fif").gaps == (Gap(1000, None),)


def test_what_is_no_raw_recording_is_refused(tmp_path):
    (tmp_path / "x_raw.fif").write_bytes(b"nonsense" * 100)
    with pytest.raises(BergerError, match=r"x_raw\.fif: its header is damaged \(the tag at 0"):
        read_recording(tmp_path / "x_raw.fif")


# --- BDF ---------------------------------------------------------------------------------


# lines at rest, a trigger of one sample, one that follows at once; above are BioSemi's own bits
STATUS = np.full(1000, 1 << 20)
STATUS[250] += 128
STATUS[400:450] += 65_535
STATUS[450:500] += 3


@pytest.fixture
def bdf(tmp_path):
    signals = [
        edfio.BdfSignal(
            wave, SFREQ, label=label, physical_dimension="uV", physical_range=(-9100, 9100)
        )
        for label, wave in zip(("Fp1", "T3"), WAVES, strict=False)
    ]
    status = edfio.BdfSignal(
        STATUS.astype(float), SFREQ, label="Status", physical_range=(-8_388_608, 8_388_607)
    )
    marks = [edfio.EdfAnnotation(2.6, 1.5, "left")]
    path = tmp_path / "rest.bdf"
    edfio.Bdf([*signals, status], annotations=marks, patient=edfio.Patient(code="K17")).write(path)
    return path


def test_bdf(bdf):
    recording = read_recording(bdf)
    check_waves(recording)
    assert recording.kept_out == (
        KeptOut("Status", "trigger"),
        KeptOut("BDF Annotations", "annotations"),
    )
    assert recording.annotations == (
        Annotation(2.5, 0.0, "trigger 128"),
        Annotation(2.6, 1.5, "left"),
        Annotation(4.0, 0.49, "trigger 65535"),
        Annotation(4.5, 0.49, "trigger 3"),
    )
    assert recording.subject == "K17"


def test_a_truncated_or_misnamed_bdf_is_refused(bdf):
    bdf.rename(bdf.with_suffix(".edf"))
    with pytest.raises(BergerError, match=r"is a BDF file; give it the suffix \.bdf"):
        read_recording(bdf.with_suffix(".edf"))
    bdf.write_bytes(bdf.with_suffix(".edf").read_bytes()[:-2500])
    with pytest.raises(BergerError, match="cut short: it holds 7 of the 10 data records"):
        read_recording(bdf)


# --- BrainVision -------------------------------------------------------------------------


@pytest.fixture
def vhdr(tmp_path):
    return write_brainvision(tmp_path / "rest.vhdr")


def test_brainvision(vhdr):
    recording = read_recording(vhdr)
    check_waves(recording, atol=0.01)
    assert recording.kept_out == (KeptOut("Temp", "unit 'C' is no voltage"),)
    assert Annotation(2.5, 0.01, "Stimulus/S  1") in recording.annotations
    assert recording.gaps == (Gap(600, None),)
    # the numbers are 50 and 0.05 (mV); as millivolts both, one is a thousand times larger
    in_mv = read_recording(vhdr, unit="mV").signal
    np.testing.assert_allclose(in_mv, [1e3 * WAVES[0], WAVES[1]], atol=10)


@pytest.mark.parametrize("n_bytes", [6000 - 7, 6000 - 600])
def test_a_truncated_brainvision_data_file_is_refused(vhdr, n_bytes):
    data = vhdr.with_suffix(".eeg")
    data.write_bytes(data.read_bytes()[:n_bytes])
    with pytest.raises(BergerError, match=rf"rest\.eeg has {n_bytes} bytes, not 1000 samples of 3"):
        read_recording(vhdr)


def test_a_missing_companion_is_named(vhdr):
    vhdr.with_suffix(".eeg").unlink()
    with pytest.raises(BergerError, match=r"a file that belongs to it is missing .*rest\.eeg"):
        read_recording(vhdr)


# --- EEGLAB ------------------------------------------------------------------------------


@pytest.mark.parametrize("apart", [False, True])
def test_eeglab(tmp_path, apart):
    recording = read_recording(write_eeglab(tmp_path / "rest.set", apart=apart))
    check_waves(recording)
    assert recording.kept_out == (KeptOut("HEOG", "EOG"),)
    assert recording.annotations == (Annotation(2.5, 1.5, "left"),)


def test_an_eeglab_boundary_is_a_gap(tmp_path):
    events = np.zeros(1, dtype=[("type", object), ("latency", object), ("duration", object)])
    events[0] = ("boundary", 250.5, 40.0)
    path = write_eeglab(tmp_path / "rest.set", event=events)
    assert read_recording(path).gaps == (Gap(250, None),)


def test_a_truncated_eeglab_data_file_is_refused(tmp_path):
    path = write_eeglab(tmp_path / "rest.set", apart=True)
    data = path.with_suffix(".fdt")
    data.write_bytes(data.read_bytes()[:-400])
    with pytest.raises(BergerError, match=r"rest\.fdt has 11600 bytes instead of 12000"):
        read_recording(path)


# --- GDF ---------------------------------------------------------------------------------


def test_gdf(tmp_path):
    path = write_gdf(tmp_path / "rest.gdf", ("Fp1", "T3", "Cz"), (4275, 4275, 512))
    recording = read_recording(path)
    check_waves(recording, atol=0.01)
    assert recording.kept_out == (KeptOut("Cz", "no unit in the file"),)
    assert [(mark.onset, mark.description) for mark in recording.annotations] == [(2.5, "769")]
    np.testing.assert_allclose(read_recording(path, unit="mV").signal, 1e3 * WAVES[:2], atol=10)


def test_gdf_at_two_rates_is_refused_unless_the_fastest_are_chosen(tmp_path):
    path = write_gdf(
        tmp_path / "rest.gdf", ("Fp1", "T3", "Cz"), (4275,) * 3, rates=(SFREQ, SFREQ, SFREQ // 2)
    )
    with pytest.raises(BergerError, match=r"differ in sampling rate \(Cz slower"):
        read_recording(path)
    check_waves(read_recording(path, ch_names=["Fp1", "T3"]), atol=0.01)


# --- EGI, Persyst, .cnt ------------------------------------------------------------------


def test_egi_simple_binary(tmp_path):
    write_egi(tmp_path / "rest.raw")
    # A net's numbers are no names of the 10–5 system.
    with pytest.raises(BergerError, match="has no EEG channel, only E1, E2"):
        read_recording(tmp_path / "rest.raw")
    recording = read_recording(tmp_path / "rest.raw", ch_names=["E1", "E2"])
    np.testing.assert_allclose(recording.signal, WAVES[:2], atol=1e-3)
    assert recording.annotations == (Annotation(2.5, 0.0, "left"),)  # once, by its name


@pytest.mark.parametrize("sample_times", ["", "[SampleTimes]\n0=86398.0\n100=86399.0\n300=1.0\n"])
def test_persyst(tmp_path, sample_times):
    write_persyst(tmp_path / "rest.lay", sample_times)
    recording = read_recording(tmp_path / "rest.lay")
    check_waves(recording, atol=0.01)
    assert recording.annotations == (Annotation(2.5, 1.5, "left"),)
    assert (recording.subject, recording.subject_source) == ("K17", "header")


def test_an_interrupted_persyst_recording_is_refused(tmp_path):
    write_persyst(tmp_path / "rest.lay", "[SampleTimes]\n0=100.0\n200=102.0\n300=163.0\n")
    with pytest.raises(BergerError, match="its clock jumps 1 times"):
        read_recording(tmp_path / "rest.lay")


def test_cnt_is_told_apart_by_its_beginning(tmp_path):
    path = tmp_path / "x.cnt"
    path.write_bytes(bytes(1000))
    with pytest.raises(BergerError, match="neither a Neuroscan nor an ANT Neuro file"):
        read_recording(path)
    path.write_bytes(b"Version 3.0\0" + bytes(1000))
    with pytest.raises(BergerError, match="its header is damaged"):
        read_recording(path)
    path.write_bytes(b"RIFF" + bytes(1000))
    with pytest.raises(BergerError, match="has 996 bytes more"):
        read_recording(path)


def test_ant_without_antio_is_refused_with_what_to_install(tmp_path, monkeypatch):
    path = writing.write(tmp_path, "ant.cnt")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BergerError, match=r"package antio reads; install `berger\[formats\]`"):
        read_recording(path)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os; os.abort()", "it crashes libeep"),
        ("import sys; sys.stderr.write('cnt: checksum error')", "cnt: checksum error"),
        ("raise ValueError('no such channel')", "ValueError: no such channel"),
    ],
)
def test_where_libeep_fails_the_file_is_refused(tmp_path, monkeypatch, program, reason):
    path = writing.write(tmp_path, "ant.cnt")
    (tmp_path / "ant.py").write_text(program)
    monkeypatch.setattr("berger.recordings.through_mne.__file__", str(tmp_path / "x.py"))
    with pytest.raises(BergerError, match=rf"libeep cannot read it \({reason}\)"):
        read_recording(path)


# --- Interruptions, and what MNE takes for volts -----------------------------------------


@pytest.mark.parametrize("first", [300, 301])
def test_a_pause_in_an_mff_folder_is_a_gap(tmp_path, first):
    pieces = ((0, first, None), (first, 1000, 2_000_000))
    recording = read_recording(writing.write_mff(tmp_path / "x.mff", pieces))
    check_waves(recording)
    (gap,) = recording.gaps
    assert (gap.start, gap.seconds) == (first, pytest.approx(2.0))
    assert [mark.onset for mark in recording.annotations] == pytest.approx([2.5])


def test_nihon_kohden_data_blocks_are_joined_at_a_gap(tmp_path):
    pieces = ((0, 300), (300, 1000))
    recording = read_recording(writing.write_nihon_kohden(tmp_path / "X.EEG", pieces))
    check_waves(recording, atol=writing.KOHDEN_STEP)
    assert recording.gaps == (Gap(300, None),)


def test_egi_counts_become_microvolts_by_the_range_of_the_amplifier(tmp_path):
    path = writing.write_egi(tmp_path / "x.raw", 2, 12, 410)
    signal = read_recording(path, ch_names=["E1", "E2"]).signal
    np.testing.assert_allclose(signal, WAVES[:2], atol=0.051)
    in_mv = read_recording(path, ch_names=["E1", "E2"], unit="mV").signal
    np.testing.assert_allclose(in_mv, 1e3 * signal)


def test_pieces_are_read_without_what_was_not_recorded(tmp_path):
    """A skip of a year, which would be 25 GB of zeros."""
    path = writing.write_fif(tmp_path / "x_raw.fif", buffer_size_sec=1)
    content = bytearray(path.read_bytes())
    second = [found.start() for found in re.finditer(rb"\0\0\x01\x2c\0\0\0\x04", content)][1]
    skip = struct.pack(">iIiii", 301, 3, 4, 0, 365 * 24 * 3600)
    path.write_bytes(content[:second] + skip + content[second:])
    recording = read_recording(path)
    check_waves(recording)
    assert recording.gaps == (Gap(100, 365 * 24 * 3600.0),)


# --- Real files --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "n_chans", "sfreq", "n_times", "n_annotations"),
    [
        ("biosemi.bdf", 64, 2048, 2048, 1),
        ("eeglab_data.set", 30, 128, 30504, 154),
        ("eeglab_test.edf", 16, 256, None, None),
        ("resting_raw.fif", 2, 200, 72000, 0),
        ("test.vhdr", 26, 1000, 7900, 13),
    ],
)
def test_real_files_that_are_read(real_data, file, n_chans, sfreq, n_times, n_annotations):
    recording = read_recording(real_data / "formats" / file)
    assert recording.signal.shape[0] == n_chans
    assert recording.sfreq == sfreq
    assert n_times in (None, recording.signal.shape[1])
    assert n_annotations in (None, len(recording.annotations))
    assert 1 < np.median(recording.signal.std(axis=1)) < 200  # µV
    assert recording.subject_source == "file name"


def test_real_triggers_are_those_that_mne_finds(real_data):
    path = real_data / "formats" / "eeglab_test.bdf"
    recording = read_recording(path, ch_names=["A1", "A2"])
    raw = mne.io.read_raw_bdf(path, verbose="ERROR")
    options = {"consecutive": True, "initial_event": True, "shortest_event": 1}
    events = mne.find_events(raw, mask=0xFFFF, mask_type="and", verbose="ERROR", **options)
    assert len(events) > 50
    assert [(round(m.onset * 256), m.description) for m in recording.annotations] == [
        (sample, f"trigger {value}") for sample, _, value in events
    ]


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("biosemi.edf", "has no EEG channel, only A1, A2"),
        ("eeglab_test.bdf", "has no EEG channel, only A1, A2"),
        ("duplicate_channel_labels.edf", "F1 more than once"),
        ("test.eeg", r"no Nihon Kohden file; .* give its \.vhdr"),
        ("test.vmrk", "no known format"),
        ("eeglab_data.fdt", "no known format"),
    ],
)
def test_real_files_that_are_refused(real_data, file, message):
    with pytest.raises(BergerError, match=message):
        read_recording(real_data / "formats" / file)
