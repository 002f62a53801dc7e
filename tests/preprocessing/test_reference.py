from __future__ import annotations

import numpy as np
import pytest

from berger.preprocessing import BIPOLAR_SETS, PreprocessingConfig, RejectedError, preprocess
from berger.recordings import KeptOut
from tests.preprocessing.made import MONTAGE, brown_noise, record

NAMES = ("Fz", "Cz", "Pz", "M1", "M2", "EMG")
KINDS = ("scalp", "scalp", "scalp", "reference", "reference", "EMG")
PLAIN = {"highpass": None, "lowpass": None, "max_amplitude": None}


def mixed(common=0.0, **fields):
    signal = brown_noise(6, 4000) + common
    return record(signal, ch_names=NAMES, kinds=KINDS, **fields)


@pytest.mark.parametrize("reference", ["average", ("Cz",), ("M1", "M2")])
def test_what_all_electrodes_share_is_gone_and_other_kinds_stay(reference):
    config = PreprocessingConfig(reference=reference, **PLAIN)
    common = 5 * brown_noise(1, 4000, seed=7)
    alone, shared = (preprocess(mixed(c), config).recording for c in (0.0, common))
    scalp = [i for i, kind in enumerate(alone.kinds) if kind == "scalp"]
    np.testing.assert_allclose(alone.signal[scalp], shared.signal[scalp], atol=1e-9)
    np.testing.assert_array_equal(alone.signal[-1], mixed().signal[-1])
    assert alone.kinds[-1] == "EMG"


def test_linked_mastoids_are_the_mean_of_both_which_are_kept_out():
    config = PreprocessingConfig(reference=("M1", "M2"), **PLAIN)
    result = preprocess(mixed(), config)
    signal = mixed().signal
    assert result.recording.ch_names == ("Fz", "Cz", "Pz", "EMG")
    np.testing.assert_allclose(
        result.recording.signal[:3], signal[:3] - (signal[3] + signal[4]) / 2, atol=1e-9
    )
    reason = "the others are referenced to it"
    assert result.recording.kept_out == (KeptOut("M1", reason), KeptOut("M2", reason))
    assert result.history[0] == "Referenced to the mean of M1 and M2; EMG as recorded."


def test_a_reference_beside_the_channels_asked_for_is_used_and_gone():
    config = PreprocessingConfig(reference=("M1",), ch_names=("Pz", "Fz"), **PLAIN)
    result = preprocess(mixed(), config)
    assert result.recording.ch_names == ("Pz", "Fz")
    signal = mixed().signal
    np.testing.assert_allclose(result.recording.signal, signal[[2, 0]] - signal[3], atol=1e-9)
    assert result.history[0] == "Kept 2 channels: Pz, Fz."


def test_the_average_is_over_good_scalp_electrodes():
    signal = brown_noise(19, 4000)
    config = PreprocessingConfig(reference="average", bad_channels="interpolate", **PLAIN)
    result = preprocess(record(signal, ch_names=MONTAGE, bads=("Cz",)), config)
    good = [i for i, name in enumerate(MONTAGE) if name != "Cz"]
    expected = signal[good] - signal[good].mean(axis=0)
    np.testing.assert_allclose(result.recording.signal[good], expected, atol=1e-9)
    assert result.history[1] == "Referenced to the average of 18 channels."


def test_names_as_given_are_averaged_where_there_is_no_scalp():
    kinds = ("name as given", "name as given", "EMG")
    recording = record(brown_noise(3, 4000), ch_names=("L", "R", "neck"), kinds=kinds)
    config = PreprocessingConfig(reference="average", **PLAIN)
    signal = preprocess(recording, config).recording.signal
    np.testing.assert_allclose(signal[0], -signal[1], atol=1e-9)
    np.testing.assert_array_equal(signal[2], recording.signal[2])


def test_bipolar_channels_do_not_depend_on_the_reference_of_the_recording():
    pairs = (("FP1", "F7"), ("T3", "A1"))
    config = PreprocessingConfig(bipolar=pairs, **PLAIN)
    names = ("Fp1", "F7", "T7", "EEG A1-REF", "Cz")
    labels = ("EEG FP1-REF", "EEG F7-REF", "EEG T3-REF", "EEG A1-REF", "EEG CZ-REF")
    signal = brown_noise(5, 4000)
    results = [
        preprocess(record(signal + c, ch_names=names, original_ch_names=labels), config).recording
        for c in (0.0, 3 * brown_noise(1, 4000, seed=3))
    ]
    np.testing.assert_allclose(results[0].signal, results[1].signal, atol=1e-9)
    np.testing.assert_allclose(results[0].signal[1], signal[2] - signal[3], atol=1e-9)
    assert results[0].ch_names == ("Fp1-F7", "T7-A1")
    assert results[0].original_ch_names == ("EEG FP1-REF - EEG F7-REF", "EEG T3-REF - EEG A1-REF")
    assert results[0].kinds == ("bipolar", "bipolar")
    assert KeptOut("EEG CZ-REF", "in no bipolar channel") in results[0].kept_out
    assert KeptOut("EEG A1-REF", "part of bipolar channels") in results[0].kept_out


def test_the_named_sets():
    assert {name: len(pairs) for name, pairs in BIPOLAR_SETS.items()} == {
        "double banana": 16,
        "tcp": 22,
    }
    # each chain adds up to its ends
    config = PreprocessingConfig(bipolar="double banana", **PLAIN)
    signal = brown_noise(19, 4000)
    result = preprocess(record(signal, ch_names=MONTAGE), config).recording.signal
    chains = result.reshape(4, 4, -1).sum(axis=1)
    ends = [("Fp1", "O1"), ("Fp2", "O2")] * 2
    expected = [signal[MONTAGE.index(a)] - signal[MONTAGE.index(b)] for a, b in ends]
    np.testing.assert_allclose(chains, expected, atol=1e-9)


@pytest.mark.parametrize(
    ("options", "fields", "message"),
    [
        ({"reference": ("A1", "M2")}, {}, "lacks A1 of `reference`; it has Fz, Cz"),
        (
            {"reference": ("Cz",)},
            {"bads": ("Cz",)},
            r"lacks Cz .*\(Cz: marked as bad\)",
        ),
        ({"bipolar": (("Fz", "T3"),)}, {}, "lacks T3 of `bipolar`"),
        (
            {"reference": "average"},
            {"original_ch_names": ("Fz-A1", "Cz-A2", "Pz-A1", "M1", "M2", "EMG")},
            r"different references \(A1, A2\)",
        ),
        (
            {"reference": ("Fz",)},
            {"original_ch_names": ("Fz", "Fz-REF", "Pz", "M1", "M2", "EMG")},
            None,  # the exact label
        ),
        (
            {"reference": ("FZ",)},
            {"original_ch_names": ("EEG Fz", "Fz-REF", "Pz", "M1", "M2", "EMG")},
            "has FZ of `reference` more than once",
        ),
    ],
)
def test_references_that_cannot_be_had(options, fields, message):
    config = PreprocessingConfig(**PLAIN, **options)
    if message is None:
        assert "Fz" not in preprocess(mixed(**fields), config).recording.ch_names
        return
    with pytest.raises(RejectedError, match=message):
        preprocess(mixed(**fields), config)


def test_an_interpolated_electrode_is_no_reference():
    config = PreprocessingConfig(reference=("Cz",), bad_channels="interpolate", **PLAIN)
    recording = record(brown_noise(19, 4000), ch_names=MONTAGE, bads=("Cz",))
    with pytest.raises(RejectedError, match="Cz of `reference` is bad and would be interpolated"):
        preprocess(recording, config)


def test_without_an_electrode_there_is_no_average():
    recording = record(brown_noise(2, 4000), ch_names=("a", "b"), kinds=("EMG", "EOG"))
    with pytest.raises(RejectedError, match="no electrode to average, only EMG, EOG"):
        preprocess(recording, PreprocessingConfig(reference="average", **PLAIN))
