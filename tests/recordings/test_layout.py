from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import scipy.io
from pydantic import ValidationError

from berger.configuration import load_config
from berger.errors import BergerError
from berger.preprocessing import PreprocessingConfig, preprocess
from berger.recordings import (
    Annotation,
    Gap,
    KeptOut,
    LayoutConfig,
    RejectedError,
    find_recordings,
    read_matlab,
    read_recording,
)

SFREQ = 100.0
SIGNAL = np.random.default_rng(0).normal(0, 20, (2, 1000))  # µV
CSV = {"suffix": ".csv", "signal": ["Fp1", "T3"], "unit": "µV", "sfreq": SFREQ}
NPZ = {
    "suffix": ".npz",
    "signal": ["x"],
    "axes": ["channels", "time"],
    "unit": "V",
    "sfreq": "rate",
    "ch_names": "names",
}
MAT = {"suffix": ".mat", "signal": ["d.EEG", "d.C3"], "unit": "mV", "sfreq": "d.sf"}


def read(path, layout, **changes):
    return read_recording(path, layout=LayoutConfig(**layout | changes))


@pytest.fixture
def csv(tmp_path):
    table = pd.DataFrame({"time": np.arange(1000) / SFREQ, "Fp1": SIGNAL[0], "T3": SIGNAL[1]})
    table["AUX"], table["mark"] = 7.0, 0
    table.loc[250, "mark"] = 2
    table.loc[600:649, "mark"] = 1
    table.loc[650:659, "mark"] = 3
    table.to_csv(tmp_path / "S01.csv", index=False)
    return tmp_path / "S01.csv"


def edit(csv, change):
    table = pd.read_csv(csv)
    table = change(table)
    table.to_csv(csv, index=False)
    return csv


@pytest.fixture
def npz(tmp_path):
    arrays = {"x": SIGNAL * 1e-6, "rate": 100, "names": np.array(["Fp1", "T3"])}
    arrays |= {"when": np.array([2.5, 7.0]), "what": np.array([1, 2]), "odd": np.array([{}])}
    np.savez(tmp_path / "S01.npz", **arrays)
    return tmp_path / "S01.npz"


# --- CSV ---------------------------------------------------------------------------------


def test_columns(csv):
    recording = read(csv, CSV, time="time", marker="mark")
    np.testing.assert_allclose(recording.signal, SIGNAL)
    assert recording.ch_names == ("Fp1", "T7")
    assert recording.original_ch_names == ("Fp1", "T3")
    assert recording.sfreq == SFREQ
    assert recording.kept_out == (KeptOut("AUX", "not in the layout"),)
    assert recording.gaps == ()
    # a run of one value is one event, from its first to its last sample
    assert recording.annotations == (
        Annotation(2.5, 0.0, "2"),
        Annotation(6.0, 0.49, "1"),
        Annotation(6.5, 0.09, "3"),
    )


@pytest.mark.parametrize(("unit", "factor"), [("V", 1e6), ("mV", 1e3), ("uV", 1), ("nV", 1e-3)])
def test_the_declared_unit_counts(csv, unit, factor):
    np.testing.assert_allclose(read(csv, CSV, unit=unit).signal, factor * SIGNAL)


def test_times_give_the_rate_and_the_gaps(csv):
    def pause(table):
        table.loc[400:, "time"] += 3.0
        return table

    recording = read(edit(csv, pause), CSV, time="time", sfreq=None)
    assert recording.sfreq == pytest.approx(SFREQ)
    [gap] = recording.gaps
    assert (gap.start, gap.seconds) == (400, pytest.approx(3.0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"time": "time", "sfreq": 128.0}, "times give 100 samples a second, but .* 128"),
        ({"time": "mark"}, "the time does not go on at sample 251"),
        ({"time": "AUX"}, "apart or at one moment"),
        ({"signal": ["Fp1", "Nose"]}, r"has nothing called 'Nose' \(Fp1\)"),
        ({"separator": ";"}, "has nothing called 'Fp1'"),
    ],
)
def test_a_csv_that_is_not_as_declared_is_refused(csv, changes, message):
    with pytest.raises(BergerError, match=rf"S01\.csv.*{message}"):
        read(csv, CSV, **changes)


def test_text_among_the_numbers_is_refused_and_an_empty_cell_is_nan(csv):
    def empty(table):
        table.loc[10, "T3"] = np.nan
        return table

    assert np.isnan(read(edit(csv, empty), CSV).signal[1, 10])
    csv.write_text(csv.read_text().replace("\n0.5,", "\n0.5,x"))
    with pytest.raises(BergerError, match="'Fp1' holds other things than numbers"):
        read(csv, CSV)


def test_columns_of_one_name_are_refused_where_they_are_read(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("% 0.1\nFp1,T3,Fp1,Other,Other\n1,2,3,4,5\n6,7,8,9,10\n")
    layout = CSV | {"comment": "%"}
    for signal in (["Fp1"], ["T3", "Fp1.1"]):
        with pytest.raises(BergerError, match=r"x\.csv: has 2 columns called 'Fp1'; give each a"):
            read(path, layout, signal=signal, ch_names=["Fp1", "Cz"][: len(signal)])
    np.testing.assert_array_equal(read(path, layout, signal=["T3"]).signal, [[2, 7]])


def test_comments_and_separators(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("%OpenBCI\n%Rate = 100\nFp1; T3\n1;2\n3;4\n")
    recording = read(path, CSV, separator=";", comment="%")
    np.testing.assert_array_equal(recording.signal, [[1, 3], [2, 4]])


# --- NPZ ---------------------------------------------------------------------------------


def test_arrays(npz):
    recording = read(npz, NPZ, onsets="when", labels="what")
    np.testing.assert_allclose(recording.signal, SIGNAL)
    assert (recording.ch_names, recording.sfreq) == (("Fp1", "T7"), 100.0)
    assert recording.annotations == (Annotation(2.5, 0.0, "1"), Annotation(7.0, 0.0, "2"))


@pytest.mark.parametrize(
    "axes",
    [
        ("trials", "channels", "time"),
        ("time", "channels", "trials"),
        ("channels", "trials", "time"),
    ],
)
def test_trials_are_joined_and_no_stretch_spans_two(tmp_path, axes):
    trials = SIGNAL.reshape(2, 4, 250).transpose(1, 0, 2)  # (trials, channels, time)
    order = [("trials", "channels", "time").index(axis) for axis in axes]
    np.savez(tmp_path / "x.npz", x=trials.transpose(order), label=np.array([1.0, 2, 1, 2]))
    layout = {**NPZ, "axes": axes, "sfreq": 100.0, "ch_names": ["Fp1", "T3"], "labels": "label"}
    recording = read(tmp_path / "x.npz", layout, unit="µV")
    np.testing.assert_array_equal(recording.signal, SIGNAL)
    assert recording.gaps == (Gap(250, None), Gap(500, None), Gap(750, None))
    assert recording.annotations[3] == Annotation(7.5, 2.5, "2")
    config = PreprocessingConfig(sfreq=100, highpass=None, lowpass=None)
    ends = [(0, 250), (250, 500), (500, 750), (750, 1000)]
    assert preprocess(recording, config).stretches == tuple(ends)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"signal": ["odd"]}, "holds other things than numbers"),
        ({"axes": ["trials", "channels", "time"]}, r"shape \(2, 1000\), but the layout says"),
        ({"axes": ["time", "channels"]}, "has 2 names for 1000 channels"),
        ({"sfreq": "when"}, "is not one sampling rate"),
        ({"onsets": "when", "labels": "names"}, None),
        ({"onsets": "when", "labels": "rate"}, "has 1 labels for 2 events"),
        ({"ch_names": None}, "names no channels"),
        ({"ch_names": "nothing"}, r"has nothing called 'nothing' \(x, rate"),
    ],
)
def test_arrays_that_are_not_as_declared_are_refused(npz, changes, message):
    if message is None:
        assert read(npz, NPZ, **changes).annotations[0].description == "Fp1"
        return
    with pytest.raises(BergerError, match=rf"S01\.npz.*{message}"):
        read(npz, NPZ, **changes)


def test_what_is_no_npz_or_cut_short_is_refused(npz):
    content = npz.read_bytes()
    for damaged in (b"", content[:1000], b"x" * 100):
        npz.write_bytes(damaged)
        with pytest.raises(BergerError, match=r"S01\.npz: is no NPZ file"):
            read(npz, NPZ)


# --- MATLAB ------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1000), (1000, 1)])
def test_a_structure_of_vectors(tmp_path, shape):
    content = {"EEG": SIGNAL[0].reshape(shape) / 1e3, "C3": SIGNAL[1] / 1e3, "sf": [100, 100]}
    scipy.io.savemat(tmp_path / "m.mat", {"d": content})
    with pytest.raises(BergerError, match=r"lacks EEG|EEG \(not an electrode name\)|lacks"):
        read_recording(tmp_path / "m.mat", ch_names=["Cz"], layout=LayoutConfig(**MAT))
    recording = read_recording(
        tmp_path / "m.mat", ch_names=["EEG", "C3"], layout=LayoutConfig(**MAT)
    )
    np.testing.assert_allclose(recording.signal, SIGNAL)
    assert (recording.ch_names, recording.sfreq) == (("EEG", "C3"), 100.0)
    assert read(tmp_path / "m.mat", MAT).kept_out == (KeptOut("EEG", "not an electrode name"),)


def test_cells_of_structures_are_trials(tmp_path):
    pieces = [SIGNAL[:, :300], SIGNAL[:, 300:]]
    cells = np.empty((1, 2), object)
    for place, piece in enumerate(pieces):
        cells[0, place] = {"X": piece.T, "y": []}
    scipy.io.savemat(tmp_path / "m.mat", {"data": cells})
    layout = {"suffix": ".mat", "signal": ["data.*.X"], "axes": ["time", "channels"], "unit": "µV"}
    layout |= {"sfreq": 100.0, "ch_names": ["Fp1", "T3"]}
    recording = read(tmp_path / "m.mat", layout)
    np.testing.assert_allclose(recording.signal, SIGNAL)
    assert recording.gaps == (Gap(300, None),)
    assert [(mark.onset, mark.description) for mark in recording.annotations] == [
        (0.0, "trial 1"),
        (3.0, "trial 2"),
    ]
    second = read(tmp_path / "m.mat", layout, signal=["data.2.X"])
    np.testing.assert_allclose(second.signal, SIGNAL[:, 300:])
    with pytest.raises(BergerError, match=r"nothing called 'data\.3\.X' \(1, 2\)"):
        read(tmp_path / "m.mat", layout, signal=["data.3.X"])


def test_channels_of_different_length_are_refused(tmp_path):
    scipy.io.savemat(tmp_path / "m.mat", {"d": {"EEG": SIGNAL[0], "C3": SIGNAL[1, :9], "sf": 1}})
    with pytest.raises(BergerError, match="differ in length"):
        read(tmp_path / "m.mat", MAT)


def test_a_damaged_matlab_file_is_refused(tmp_path):
    (tmp_path / "m.mat").write_bytes(b"no MATLAB at all" * 20)
    with pytest.raises(BergerError, match=r"m\.mat: cannot be read as \.mat"):
        read(tmp_path / "m.mat", MAT)


HDF5_HEADER = b"MATLAB 7.3 MAT-file".ljust(116) + bytes(8) + b"\x00\x02IM"


def test_matlab_7_3(tmp_path):
    path = tmp_path / "m.mat"
    layout = {**NPZ, "suffix": ".mat", "signal": ["d.x"], "sfreq": "sf", "ch_names": "names"}
    try:
        import h5py
    except ImportError:
        path.write_bytes(HDF5_HEADER.ljust(512, b"\0"))
        with pytest.raises(BergerError, match=r"MATLAB 7\.3 file, which the package h5py reads"):
            read(path, layout)
        return
    with h5py.File(path, "w", userblock_size=512) as file:
        file["d/x"] = (SIGNAL * 1e-6).T  # MATLAB's order of axes, seen from HDF5
        file["sf"] = np.array([[100.0]])
        letters = [np.array([list(map(ord, name))], np.uint16).T for name in ("Fp1", "T3")]
        cells = [file.create_dataset(f"#refs#/{i}", data=text) for i, text in enumerate(letters)]
        for cell in cells:
            cell.attrs["MATLAB_class"] = np.bytes_("char")
        file["names"] = np.array([[cell.ref] for cell in cells], h5py.ref_dtype)
        file["names"].attrs["MATLAB_class"] = np.bytes_("cell")
    with path.open("r+b") as file:
        file.write(HDF5_HEADER)
    recording = read(path, layout)
    np.testing.assert_allclose(recording.signal, SIGNAL)
    assert (recording.ch_names, recording.sfreq) == (("Fp1", "T7"), 100.0)


# --- Layouts -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axes": ["channels"]}, "must hold 'time'"),
        ({"signal": ["a"], "axes": ["channels", "time"]}, "have the one axis 'time'"),
        ({"sfreq": "rate"}, "has columns only"),
        ({"sfreq": None}, "sfreq or time must be given"),
        ({"signal": ["a", "a"]}, "more than once"),
        ({"suffix": ".npz", "axes": ["channels", "time"]}, "are a channel each"),
        ({"suffix": ".npz", "labels": "y"}, "labels need onsets"),
        ({"suffix": ".npz", "axes": ["trials", "time"], "time": "t"}, "with trials"),
        ({"sfreq": 0}, "greater than 0"),
        ({"unit": "counts"}, "unit"),
    ],
)
def test_layouts_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        LayoutConfig(**CSV | changes)


def test_files_of_the_declared_suffix_are_found_and_others_say_what_is_missing(csv, npz):
    layout = LayoutConfig(**CSV)
    assert [file for _, file in find_recordings([csv.parent], layout=layout)] == [csv]
    for path in (csv, npz):
        with pytest.raises(BergerError, match=rf"a {path.suffix} file does not say .* `layout`"):
            find_recordings([path])
    with pytest.raises(BergerError, match=r"a \.npz file does not say"):
        read_recording(npz, layout=layout)


def test_a_folder_of_such_files_alone_says_that_they_must_be_declared(csv, npz):
    message = r"no recording \(\.edf, .*\), but 1 \.csv and 1 \.npz files, .* declare .*`layout`"
    with pytest.raises(BergerError, match=message):
        find_recordings([csv.parent])
    csv.unlink()
    with pytest.raises(BergerError, match=r"\.csv\), but 1 \.npz files, which do not say .* give "):
        find_recordings([csv.parent], layout=LayoutConfig(**CSV))
    npz.unlink()
    with pytest.raises(
        BergerError, match=r"holds no recording \(.*\.raw\); give another folder\.$"
    ):
        find_recordings([csv.parent])


def test_a_layout_survives_being_written(csv):
    config = PreprocessingConfig(layout=LayoutConfig(**CSV))
    assert PreprocessingConfig.model_validate(json.loads(config.model_dump_json())) == config


# --- Shipped configurations on real files ------------------------------------------------


@pytest.mark.parametrize(
    ("name", "folder", "marker", "n_files", "n_events", "share"),
    [
        ("muse", "muse/visual/N170", "Marker0", 2, 197, 0.4),
        ("muse", "muse/visual/P300", "Marker", 2, 192, 0.4),
        ("openbci", "openbci", None, 5, 10, 0.4),
        ("mouse", "mouse", None, 2, 0, 0.9),
        ("mouse-edf", "mouse", None, 1, 0, 0.9),
    ],
)
def test_shipped_layouts_read_real_files(real_data, name, folder, marker, n_files, n_events, share):
    changes = {"layout.marker": marker} if marker else {}
    config = load_config(PreprocessingConfig, name, changes)
    found = find_recordings([real_data / folder], layout=config.layout)
    assert len(found) == n_files
    suffix = config.layout.suffix if config.layout else ".edf"
    for _, path in found:
        if path.suffix != suffix:
            with pytest.raises(RejectedError, match="lacks EEG_P"):
                read_recording(path, ch_names=config.ch_names, layout=config.layout)
            continue
        recording = read_recording(
            path,
            subject_pattern=config.subject_pattern,
            ch_names=config.ch_names,
            layout=config.layout,
        )
        assert abs(len(recording.annotations) - n_events) <= 6
        assert recording.gaps == ()
        assert recording.subject_source == ("file name" if "mouse" in name else "pattern")
        prepared = preprocess(recording, config)
        kept = sum(stop - start for start, stop in prepared.stretches) / config.sfreq
        assert kept > share * recording.duration
        usable = np.hstack([prepared.recording.signal[:, a:b] for a, b in prepared.stretches])
        assert 2 < np.median(usable.std(axis=1)) < 200  # µV


# --- Trials in arrays of their own, wildcards, several wires -----------------------------------

CUTS = (0, 300, 420, 1000)


@pytest.fixture
def numbered(tmp_path):
    """Three trials of differing length, not in the order of their numbers."""
    trials = {n: SIGNAL[:, a:b] for n, (a, b) in zip((2, 9, 10), pairwise(CUTS), strict=True)}
    content = {f"ab_eeg{n}": trials[n] for n in (10, 2, 9)}
    scipy.io.savemat(tmp_path / "S01.mat", content | {"fs": 100, "what": [7, 8, 7]})
    return tmp_path / "S01.mat"


EACH = {
    **NPZ,
    "suffix": ".mat",
    "signal": ["*_eeg*"],
    "sfreq": "f*",
    "ch_names": ["Fp1", "T3"],
    "unit": "µV",
}


def test_arrays_of_one_key_are_trials_by_number(numbered):
    recording = read(numbered, EACH)
    np.testing.assert_array_equal(recording.signal, SIGNAL)
    assert recording.gaps == (Gap(300, None), Gap(420, None))
    assert recording.annotations == (
        Annotation(0.0, 3.0, "trial 2"),
        Annotation(3.0, 1.2, "trial 9"),
        Annotation(4.2, 5.8, "trial 10"),
    )
    labelled = read(numbered, EACH, labels="what").annotations
    assert [mark.description for mark in labelled] == ["7", "8", "7"]


@pytest.mark.parametrize(
    ("content", "changes", "message"),
    [
        ({"c_eeg2": SIGNAL}, {}, "'c_eeg2' has no number of its own"),
        ({"c_eeg": SIGNAL}, {}, "'c_eeg' has no number of its own"),
        ({"c_eeg3": SIGNAL[[0, 0, 0]]}, {}, "the trials differ in channels"),
        ({"c_eeg3": SIGNAL[0]}, {}, r"'c_eeg3' has the shape \(1000,\), but the layout says"),
        ({"fz": 100}, {}, r"'f\*' may be fs or fz; write more of it"),
        ({}, {"signal": ["*_emg*"]}, r"nothing called '\*_emg\*' \(ab_eeg10, ab_eeg2"),
        ({}, {"labels": "fs"}, "has 1 labels for 3 events"),
    ],
)
def test_arrays_that_are_no_trials_are_refused(numbered, content, changes, message):
    kept = scipy.io.loadmat(numbered)
    kept = {name: value for name, value in kept.items() if name[0] != "_"}
    scipy.io.savemat(numbered, kept | content)
    with pytest.raises(BergerError, match=rf"S01\.mat.*{message}"):
        read(numbered, EACH, **changes)


def test_a_structure_may_be_named_by_a_part_of_its_name(tmp_path):
    trials = SIGNAL.reshape(2, 4, 250).transpose(2, 0, 1)  # (time, channels, trials)
    for name in ("epo_train", "epo_test"):
        scipy.io.savemat(tmp_path / "m.mat", {name: {"x": trials, "fs": 100}, "mnt": {"x": 1}})
        axes = ["time", "channels", "trials"]
        recording = read(tmp_path / "m.mat", EACH, signal=["epo_*.x"], axes=axes, sfreq="epo_*.fs")
        np.testing.assert_array_equal(recording.signal, SIGNAL)
        assert recording.annotations[1] == Annotation(2.5, 2.5, "trial 2")


def test_the_first_channel_that_is_there_has_the_name(csv):
    either = {"F": ("Fz", "T3", "Fp1"), "G": ("Pz",)}
    recording = read_recording(
        csv, ch_names=["Fp1", "F"], layout=LayoutConfig(**CSV | {"either": either})
    )
    assert recording.ch_names == ("Fp1", "F")
    assert recording.original_ch_names == ("Fp1", "T3")
    np.testing.assert_allclose(recording.signal, SIGNAL)


def test_onsets_may_count_samples(npz):
    for counts, first in (("samples from 0", 0), ("samples from 1", 1), ("seconds", None)):
        onsets = read(npz, NPZ, onsets="when", onsets_in=counts).annotations
        expected = [2.5, 7.0] if first is None else [(2.5 - first) / 100, (7 - first) / 100]
        assert [mark.onset for mark in onsets] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axes": ["time"]}, r"a \* in signal needs the axis 'channels' or 'trials'"),
        ({"onsets": "when"}, "neither time nor onsets"),
        ({"onsets_in": "samples from 1"}, "onsets_in belongs to onsets"),
    ],
)
def test_layouts_of_trials_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        LayoutConfig(**EACH | changes)


def test_a_matlab_file_is_read_whole(tmp_path):
    scipy.io.savemat(tmp_path / "m.mat", {"a": {"b": [1, 2]}, "c": [[3]]})
    content = read_matlab(tmp_path / "m.mat")
    assert (content["a"]["b"].tolist(), content["c"]) == ([1, 2], 3)
    with pytest.raises(BergerError, match=r"none\.mat: cannot be read as \.mat"):
        read_matlab(tmp_path / "none.mat")
