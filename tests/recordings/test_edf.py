from __future__ import annotations

import edfio
import numpy as np
import pytest

from berger.errors import BergerError
from berger.recordings import (
    Annotation,
    Gap,
    KeptOut,
    RejectedError,
    find_recordings,
    read_recording,
)


def write(path, channels, *, annotations=(), **options):
    """Write an EDF of {label: (samples, sfreq, unit)}."""
    signals = [
        edfio.EdfSignal(
            samples, sfreq, label=label, physical_dimension=unit, physical_range=(-200.0, 200.0)
        )
        for label, samples, sfreq, unit in channels
    ]
    marks = [edfio.EdfAnnotation(*annotation) for annotation in annotations]
    edfio.Edf(signals, annotations=marks or None, **options).write(path)
    return path


def wave(seconds=10, sfreq=100, amplitude=50.0):
    return amplitude * np.sin(2 * np.pi * 3 * np.arange(round(seconds * sfreq)) / sfreq)


def patch(path, offset, text):
    content = bytearray(path.read_bytes())
    content[offset : offset + len(text)] = text
    path.write_bytes(content)
    return path


@pytest.fixture
def edf(tmp_path):
    return write(
        tmp_path / "x.edf",
        [("EEG C3", wave(), 100, "uV"), ("EEG C4", wave(), 100, "uV")],
        annotations=[(2.5, 1.5, "left"), (1.0, None, "ça")],
    )


# --- Signal and units --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "microvolts"), [("uV", 1), ("µV", 1), ("UV", 1), ("mV", 1e3), ("V", 1e6), ("nV", 1e-3)]
)
def test_any_voltage_becomes_microvolts(tmp_path, unit, microvolts):
    path = write(tmp_path / "x.edf", [("Cz", wave(), 100, "uV"), ("Pz", wave(), 100, "uV")])
    # edfio refuses units that are not ASCII: both channels' 8 bytes stand at offset 96 * 2.
    patch(path, 256 + 2 * 96, unit.encode("latin-1").ljust(8) * 2)
    recording = read_recording(path)
    assert recording.signal.dtype == np.float64
    np.testing.assert_allclose(recording.signal[0], microvolts * wave(), atol=0.01 * microvolts)
    assert recording.sfreq == 100
    assert recording.duration == 10


@pytest.mark.parametrize(
    ("unit", "reason"), [("", "no unit in the header"), ("mmHg", "unit 'mmHg' is no voltage")]
)
def test_without_a_voltage_a_channel_is_no_eeg(tmp_path, unit, reason):
    channels = [("Cz", wave(), 100, "uV"), ("Pz", wave(), 100, unit)]
    recording = read_recording(write(tmp_path / "x.edf", channels))
    assert recording.ch_names == ("Cz",)
    assert recording.kept_out == (KeptOut("Pz", reason),)


@pytest.mark.parametrize("declared", ["uV", "mV", "V", "nV", "uv", ""])
def test_the_declared_unit_can_be_overridden(tmp_path, declared):
    path = write(tmp_path / "x.edf", [("Cz", wave(), 100, "uV"), ("Pz", wave(), 100, "uV")])
    patch(path, 256 + 2 * 96, declared.encode().ljust(8) + b"mmHg    ")
    recording = read_recording(path, unit="mV")
    np.testing.assert_allclose(recording.signal, 1e3 * wave()[np.newaxis], atol=10)
    assert recording.kept_out == (KeptOut("Pz", "unit 'mmHg' is no voltage"),)


def test_kinds_are_told(tmp_path):
    labels = ("EEG Fp1", "EMG_DIFF", "Fp1-F3", "EEG_P")
    path = write(tmp_path / "x.edf", [(label, wave(), 100, "uV") for label in labels])
    recording = read_recording(path, ch_names=labels)
    # pairs and names of other systems are kept as they are
    assert recording.ch_names == ("Fp1", "EMG_DIFF", "Fp1-F3", "EEG_P")
    assert recording.kinds == ("scalp", "EMG", "bipolar", "name as given")


def test_electrodes_for_a_reference_are_read_beside_the_others(tmp_path):
    labels = ("EEG FP1-REF", "EEG T3-REF", "EEG A1-REF", "EEG A2-A1", "EMG chin")
    path = write(tmp_path / "x.edf", [(label, wave(), 100, "uV") for label in labels])
    recording = read_recording(path, besides=["A1", "A2", "M1"])
    assert recording.original_ch_names == labels[:3]
    assert recording.kinds == ("scalp", "scalp", "reference")
    recording = read_recording(path, ch_names=["T7"], besides=["a1", "Fp1"])
    assert recording.original_ch_names == labels[:3]
    assert read_recording(path, ch_names=["T7"]).original_ch_names == labels[1:2]


def test_a_channel_without_measuring_range_is_kept_out(tmp_path):
    channels = [("Cz", wave(), 100, "uV"), ("Pz", wave(), 100, "uV")]
    path = write(tmp_path / "x.edf", channels)
    patch(path, 256 + 2 * 104 + 8, b"200     ")  # Pz's physical minimum
    assert read_recording(path).kept_out == (KeptOut("Pz", "no measuring range in the header"),)


def test_names_kinds_and_annotations(tmp_path, edf):
    recording = read_recording(edf)
    assert recording.ch_names == ("C3", "C4")
    assert recording.original_ch_names == ("EEG C3", "EEG C4")
    assert recording.kept_out == (KeptOut("EDF Annotations", "annotations"),)
    assert recording.annotations == (Annotation(1.0, 0.0, "ça"), Annotation(2.5, 1.5, "left"))


def test_annotations_in_latin_1_are_read(edf):
    content = edf.read_bytes()
    assert "ça".encode() in content
    # The same number of bytes, so that the file stays whole.
    edf.write_bytes(content.replace("ça".encode(), "ça".encode("latin-1") + b"!"))
    assert read_recording(edf).annotations[0].description == "ça!"


def test_other_kinds_do_not_change_the_rate_of_the_eeg(tmp_path):
    channels = [
        ("ECG", wave(sfreq=400), 400, "mV"),
        ("EEG Fp1-REF", wave(), 100, "uV"),
        ("SpO2", wave(sfreq=1), 1, "%"),
        ("EEG T3-REF", -wave(), 100, "uV"),
    ]
    recording = read_recording(write(tmp_path / "x.edf", channels))
    assert recording.sfreq == 100
    assert recording.ch_names == ("Fp1", "T7")
    assert recording.kept_out == (
        KeptOut("ECG", "ECG"),
        KeptOut("SpO2", "unit '%' is no voltage"),
    )
    np.testing.assert_allclose(recording.signal, [wave(), -wave()], atol=0.01)


def test_eeg_at_two_rates_is_refused_and_can_be_chosen_from(tmp_path):
    channels = [("C3", wave(), 100, "uV"), ("C4", wave(sfreq=200), 200, "uV")]
    path = write(tmp_path / "x.edf", channels)
    with pytest.raises(BergerError, match=r"x\.edf.*differ in sampling rate .*C3 100 Hz, C4 200"):
        read_recording(path)
    assert read_recording(path, ch_names=["C4"]).sfreq == 200


# --- Which channels ----------------------------------------------------------------------


def test_a_file_without_eeg_says_what_it_has(tmp_path):
    channels = [("ECG", wave(), 100, "mV"), ("Channel1", 2 * wave(), 100, "uV")]
    path = write(tmp_path / "x.edf", channels)
    with pytest.raises(BergerError, match=r"no EEG .*ECG \(ECG\); Channel1 \(not an.*`ch_names`"):
        read_recording(path)
    recording = read_recording(path, ch_names=["Channel1"])
    assert recording.ch_names == recording.original_ch_names == ("Channel1",)
    np.testing.assert_allclose(recording.signal[0], 2 * wave(), atol=0.01)


def test_chosen_channels_may_be_named_either_way_and_others_are_listed(tmp_path):
    channels = [(label, wave(), 100, "uV") for label in ("EEG T3-REF", "EEG C3-REF", "Foot")]
    path = write(tmp_path / "x.edf", channels)
    recording = read_recording(path, ch_names=["Foot", "T7"])
    assert recording.ch_names == ("T7", "Foot")
    assert KeptOut("EEG C3-REF", "not asked for") in recording.kept_out
    with pytest.raises(RejectedError, match=r"lacks Oz, Hand; correct `ch_names`"):
        read_recording(path, ch_names=["Foot", "Oz", "Hand"])


def test_an_electrode_that_is_there_twice_is_refused_and_can_be_chosen_from(tmp_path):
    channels = [("C3-A1", wave(), 100, "uV"), ("C3-A2", 2 * wave(), 100, "uV")]
    path = write(tmp_path / "x.edf", channels)
    with pytest.raises(BergerError, match=r"C3 more than once \('C3-A1' and 'C3-A2'\)"):
        read_recording(path)
    recording = read_recording(path, ch_names=["C3-A2"])
    assert recording.ch_names == ("C3",)
    np.testing.assert_allclose(recording.signal[0], 2 * wave(), atol=0.01)


# --- Damage ------------------------------------------------------------------------------


def test_a_channel_that_is_there_twice_and_the_same_is_taken_once(tmp_path):
    other = [("T8-P8", wave(amplitude=20.0), 100, "uV"), ("Cz", wave(amplitude=70.0), 100, "uV")]
    path = write(tmp_path / "x.edf", [*other, ("T8-P8", wave(amplitude=20.0), 100, "uV")])
    recording = read_recording(path, ch_names=["T8-P8", "Cz"])
    assert recording.ch_names == ("T8-P8", "Cz")
    np.testing.assert_allclose(
        recording.signal, [wave(), wave()] * np.array([[0.4], [1.4]]), atol=0.01
    )
    assert recording.kept_out == (KeptOut("T8-P8", "the same as the first channel of its name"),)
    only = read_recording(path, ch_names=["Cz"])
    np.testing.assert_allclose(only.signal[0], 1.4 * wave(), atol=0.01)
    changed = wave(amplitude=20.0)
    changed[500] += 1
    write(path, [*other, ("T8-P8", changed, 100, "uV")])
    with pytest.raises(BergerError, match="T8-P8 more than once"):
        read_recording(path, ch_names=["T8-P8", "Cz"])


def test_edf_may_be_called_rec(tmp_path, edf):
    expected = read_recording(edf)
    (tmp_path / "night").mkdir()
    path = edf.rename(tmp_path / "night" / "1.rec")
    np.testing.assert_array_equal(read_recording(path).signal, expected.signal)
    assert read_recording(path).annotations == expected.annotations
    notes = path.with_name("notes.rec")
    notes.write_text("13,90.4,91.4,6\n")  # of the TUH EEG Corpus, beside the recordings
    assert [name for name, _ in find_recordings([path.parent])] == ["night/1.rec"]
    with pytest.raises(BergerError, match=r"notes\.rec: is no EDF file"):
        read_recording(notes)


def test_a_truncated_file_says_how_much_is_there(edf):
    content = edf.read_bytes()
    edf.write_bytes(content[: 256 * 4 + (len(content) - 256 * 4) * 7 // 10 + 100])
    with pytest.raises(BergerError, match=r"x\.edf: cut short: it holds 7 of the 10 data records"):
        read_recording(edf)


def test_a_header_alone_is_refused(edf):
    edf.write_bytes(edf.read_bytes()[: 256 * 4])
    with pytest.raises(BergerError, match="no whole data record"):
        read_recording(edf)


@pytest.mark.parametrize("length", [0, 100, 300])
def test_a_piece_of_a_header_is_refused(edf, length):
    edf.write_bytes(edf.read_bytes()[:length])
    with pytest.raises(BergerError, match=r"no EDF file|header is damaged"):
        read_recording(edf)


def test_extra_bytes_are_refused(edf):
    edf.write_bytes(edf.read_bytes() + b"1234567")
    with pytest.raises(BergerError, match="not whole: 7 bytes are left over after 10"):
        read_recording(edf)


def test_a_recording_in_progress_has_as_many_records_as_the_size_says(edf):
    whole = read_recording(edf)
    patch(edf, 236, b"-1      ")
    np.testing.assert_array_equal(read_recording(edf).signal, whole.signal)


def test_line_ending_conversion_is_named(edf):
    content = edf.read_bytes()
    edf.write_bytes(content.replace(b"\n", b"\r\n"))
    assert len(edf.read_bytes()) > len(content) + 3
    with pytest.raises(BergerError, match=r"line-ending conversion .* fetch it again in binary"):
        read_recording(edf)


@pytest.mark.parametrize(
    ("offset", "text"), [(184, b"12x     "), (252, b"zz  "), (244, b"0       "), (252, b"9   ")]
)
def test_a_header_with_a_wrong_number_is_refused(edf, offset, text):
    with pytest.raises(BergerError, match="EDF header is damaged"):
        read_recording(patch(edf, offset, text))


def test_another_format_under_the_name_of_edf_is_refused(tmp_path):
    path = tmp_path / "x.edf"
    path.write_bytes(b"\xffBIOSEMI" + bytes(1000))
    with pytest.raises(BergerError, match=r"BDF file; give it the suffix \.bdf"):
        read_recording(path)
    path.write_text("time,Cz\n" * 100)
    with pytest.raises(BergerError, match="is no EDF file"):
        read_recording(path)


@pytest.mark.parametrize("kind", [b"EDF+D", b"EDF+C", b"     "])
def test_an_interrupted_recording_has_gaps_whatever_it_calls_itself(edf, kind):
    whole = read_recording(edf)
    patch(edf, 192, kind)
    continuous = read_recording(edf)
    assert (continuous.gaps, continuous.annotations) == ((), whole.annotations)
    assert continuous.notes == whole.notes == ()
    content = edf.read_bytes()
    for record in reversed(range(5, 10)):  # two seconds later
        old, new = f"+{record}\x14\x14".encode(), f"+{record + 2}\x14\x14".encode()
        content = content.replace(old + b"\0" * (len(new) - len(old)), new)
    content = content.replace(b"+2.5\x151.5\x14", b"+7.5\x151.5\x14")
    edf.write_bytes(content)
    recording = read_recording(edf)
    np.testing.assert_array_equal(recording.signal, whole.signal)
    assert recording.gaps == (Gap(500, 2.0),)
    # 7.5 s by the clock are 0.5 s after the gap, 5.5 s of what was recorded
    assert recording.annotations == (Annotation(1.0, 0.0, "ça"), Annotation(5.5, 1.5, "left"))
    note = "The file says that it is continuous, but the times of its data records have gaps (1), "
    assert recording.notes == (() if kind == b"EDF+D" else (note + "which were kept.",))


@pytest.mark.parametrize("kind", [b"EDF+C", b"EDF+D"])
def test_annotations_outside_of_the_recording_are_kept_and_told(edf, kind):
    content = edf.read_bytes().replace(b"+2.5\x151.5\x14left", b"+99.\x151.5\x14left")
    edf.write_bytes(content.replace(b"+1\x14\xc3", b"-1\x14\xc3"))
    recording = read_recording(patch(edf, 192, kind))
    assert recording.annotations == (Annotation(-1.0, 0.0, "ça"), Annotation(10.0, 0.0, "left"))
    [note] = recording.notes
    assert "before or after what was recorded ('ça' at -1 s, 'left' at 99 s)" in note


def test_a_continuous_recording_need_not_keep_time(edf):
    whole, content = read_recording(edf), edf.read_bytes()
    edf.write_bytes(content.replace(b"+5\x14\x14", bytes(4)).replace(b"+6\x14\x14", bytes(4)))
    recording = read_recording(edf)
    assert (recording.gaps, recording.annotations) == ((), whole.annotations)
    assert recording.notes[0].startswith("2 of 10 data records state no time; they were taken to")
    with pytest.raises(BergerError, match="a data record lacks its time"):
        read_recording(patch(edf, 192, b"EDF+D"))
    for record in range(10):
        content = content.replace(f"+{record}\x14\x14".encode(), b"+0\x14\x14")
    edf.write_bytes(content)
    recording = read_recording(edf)
    assert (recording.gaps, recording.annotations) == ((), whole.annotations)
    assert recording.notes[0].startswith("All data records state one time; they were taken as")


def test_an_annotation_of_several_channels_is_one(tmp_path):
    marks = [(1.0, None, "spike@@Cz"), (1.0, None, "spike@@Pz"), (2.0, None, "me@@home")]
    channels = [("Cz", wave(), 100, "uV"), ("Pz", wave(), 100, "uV")]
    recording = read_recording(write(tmp_path / "x.edf", channels, annotations=marks))
    assert recording.annotations == (
        Annotation(1.0, 0.0, "spike"),
        Annotation(2.0, 0.0, "me@@home"),
    )


def test_a_clock_that_runs_back_is_refused(edf):
    patch(edf, 192, b"EDF+D")
    edf.write_bytes(edf.read_bytes().replace(b"+5\x14\x14", b"+3\x14\x14"))
    with pytest.raises(BergerError, match="after data record 5 the clock jumps back from 4 to 3 s"):
        read_recording(edf)


# --- Real files --------------------------------------------------------------------------


def test_the_damaged_file_is_refused(real_data):
    with pytest.raises(BergerError, match="line-ending conversion"):
        read_recording(real_data / "corrupt" / "S001R04_crlf_mangled.edf")


def test_eegmat(real_data):
    recording = read_recording(real_data / "eegmat" / "Subject00_1.edf")
    assert recording.signal.shape == (19, 91000)
    assert recording.ch_names[:8] == ("Fp1", "Fp2", "F3", "F4", "F7", "F8", "T7", "T8")
    assert [channel.reason for channel in recording.kept_out] == [
        "reference electrode",
        "ECG",
        "annotations",
    ]
    assert 5 < recording.signal.std() < 30  # µV
    assert (recording.subject, recording.session) == ("Subject00", "1")


def test_eegmmidb(real_data):
    recording = read_recording(real_data / "eegmmidb" / "S001R04.edf")
    assert recording.signal.shape == (64, 20000)
    assert recording.ch_names[:4] == ("FC5", "FC3", "FC1", "FCz")
    assert len(recording.annotations) == 30
    assert recording.annotations[1] == Annotation(4.2, 4.1, "T2")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("mouse/10mins_example_edf.edf", "has no EEG channel, only Channel1, Channel2"),
        ("formats/biosemi.edf", "has no EEG channel, only A1, A2"),
        ("formats/duplicate_channel_labels.edf", "F1 more than once"),
    ],
)
def test_real_files_that_are_refused(file, message, real_data):
    with pytest.raises(BergerError, match=message):
        read_recording(real_data / file)


def test_a_name_in_the_header_of_a_plain_edf_is_not_read(real_data):
    recording = read_recording(real_data / "formats" / "eeglab_test.edf")
    assert (recording.subject, recording.subject_source) == ("eeglab_test", "file name")
