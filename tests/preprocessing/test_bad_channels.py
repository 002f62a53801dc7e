from __future__ import annotations

from dataclasses import replace

import mne
import numpy as np
import pytest

from berger.channels import positions
from berger.preprocessing import PreprocessingConfig, RejectedError, preprocess
from berger.preprocessing.bad_channels import interpolation_weights
from berger.recordings import KeptOut
from tests.preprocessing.made import MONTAGE, brown_noise, record

SFREQ = 200
N_TIMES = 40 * SFREQ
LOOSE = {"max_amplitude": None, "highpass": 1.0}
SEARCH = {"max_deviation": 5.0, "min_correlation": 0.4, "bad_share": 0.1, "max_noise": 5.0}


def cap(names=MONTAGE):
    """Six smooth sources seen by all electrodes, and 1 µV of noise in each."""
    places = positions(names)
    centres = np.random.default_rng(1).normal(size=(6, 3))
    distance = np.linalg.norm(
        places[:, None] - centres / np.linalg.norm(centres, axis=1)[:, None], axis=2
    )
    noise = np.random.default_rng(2).normal(size=(len(names), N_TIMES))
    return np.exp(-(distance**2)) @ brown_noise(6, N_TIMES) + noise


# --- Units -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_chans", "factor"), [(2, 1e-3), (4, 1e-3), (4, 1e3), (19, 1e-3), (19, 1e3)]
)
def test_a_channel_of_another_unit_is_refused_by_name(n_chans, factor):
    signal = cap()[:n_chans]
    signal[1] *= factor
    recording = record(signal, SFREQ, MONTAGE[:n_chans])
    with pytest.raises(RejectedError, match=r"Fp2 varies by .* as if its unit were .* `unit`"):
        preprocess(recording, PreprocessingConfig(**LOOSE))
    preprocess(recording, PreprocessingConfig(unit="µV", **LOOSE))
    others = tuple(name for name in MONTAGE[:n_chans] if name != "Fp2")
    preprocess(recording, PreprocessingConfig(ch_names=others, **LOOSE))
    # nothing is compared across kinds, nor with what is kept out
    kinds = tuple("EMG" if name == "Fp2" else "scalp" for name in recording.ch_names)
    preprocess(replace(recording, kinds=kinds), PreprocessingConfig(**LOOSE))
    preprocess(replace(recording, bads=("Fp2",)), PreprocessingConfig(**LOOSE))
    if n_chans == len(MONTAGE):
        found = preprocess(recording, PreprocessingConfig(max_deviation=5.0, **LOOSE)).recording
        assert found.ch_names == others


def test_quiet_and_silent_channels_are_of_one_unit():
    signal = cap()[:4]
    signal[1] /= 100
    signal[2] = 7.0
    preprocess(record(signal, SFREQ, MONTAGE[:4]), PreprocessingConfig(**LOOSE))


# --- Interpolation -----------------------------------------------------------------------


def test_weights_keep_what_is_equal_everywhere_and_know_left_from_right():
    good = [name for name in MONTAGE if name not in ("C3", "C4", "Oz")]
    c3, c4 = interpolation_weights(good, ["C3", "C4"])
    assert c3.sum() == pytest.approx(1.0, abs=1e-3)
    mirrored = [mirror(name) for name in good]
    np.testing.assert_allclose(c3, c4[[good.index(name) for name in mirrored]], atol=1e-9)
    # what falls off evenly from one side to the other is had back
    field = positions(good) @ [0.3, 0.5, 0.2]
    assert c3 @ field == pytest.approx(float(positions(["C3"])[0] @ [0.3, 0.5, 0.2]), abs=0.03)


def mirror(name):
    if name.endswith("z"):
        return name
    number = int(name[-1])
    return name[:-1] + str(number + 1 if number % 2 else number - 1)


def test_weights_are_what_mne_does_to_a_recording():
    signal = cap() * 1e-6
    info = mne.create_info(list(MONTAGE), SFREQ, "eeg")
    places = dict(zip(MONTAGE, 0.095 * positions(MONTAGE), strict=True))
    info.set_montage(mne.channels.make_dig_montage(places, coord_frame="head"))
    info["bads"] = ["T7", "Pz"]
    raw = mne.io.RawArray(signal, info, verbose="ERROR")
    raw.interpolate_bads(origin=(0, 0, 0), verbose="ERROR")
    good = [name for name in MONTAGE if name not in ("T7", "Pz")]
    rows = [MONTAGE.index(name) for name in good]
    expected = raw.get_data(picks=["T7", "Pz"])
    np.testing.assert_allclose(interpolation_weights(good, ["T7", "Pz"]) @ signal[rows], expected)


def test_bad_electrodes_are_interpolated_in_their_place_and_named():
    clean = cap()
    broken = clean.copy()
    broken[7] = 1e4 * np.sign(np.sin(np.arange(N_TIMES)))  # T7: does not matter what
    broken[9, 100:] = np.nan  # Cz
    config = PreprocessingConfig(bad_channels="interpolate", bad_share=0.5, **LOOSE)
    result = preprocess(record(broken, ch_names=MONTAGE, bads=("T7",)), config)
    whole = preprocess(record(clean, ch_names=MONTAGE), config).recording.signal
    signal = result.recording.signal
    assert result.recording.ch_names == MONTAGE
    assert result.interpolated == ("T7", "Cz")
    assert result.recording.kept_out == result.recording.bads == ()
    assert result.dropped == {}
    others = [i for i in range(len(MONTAGE)) if i not in (7, 9)]
    np.testing.assert_array_equal(signal[others], whole[others])
    assert np.corrcoef(signal[9], whole[9])[0, 1] > 0.95
    assert result.history[1] == (
        "Interpolated T7 (marked as bad), Cz (flat or not finite for 99% of the "
        "recording) from 17 electrodes by spherical splines."
    )


def test_by_default_channels_marked_as_bad_are_kept_out_and_nothing_is_looked_for():
    signal = cap()
    signal[3] *= 100
    result = preprocess(
        record(signal, ch_names=MONTAGE, bads=("Fz",)), PreprocessingConfig(**LOOSE)
    )
    assert result.recording.kept_out == (KeptOut("Fz", "marked as bad"),)
    assert result.interpolated == ()
    assert "Fz" not in result.recording.ch_names
    assert "F3" in result.recording.ch_names


@pytest.mark.parametrize(
    ("names", "bads", "options", "message"),
    [
        (MONTAGE, ("Fz",), {"ch_names": ("Cz", "Fz")}, r"Fz \(marked as bad\); leave the channel"),
        (MONTAGE[:8], ("Fz",), {"bad_channels": "interpolate"}, "1 of 8 scalp .* from 8 good ones"),
        (
            MONTAGE,
            MONTAGE[:4],
            {"bad_channels": "interpolate"},
            "4 of 19 scalp .* max_interpolated",
        ),
        (MONTAGE, MONTAGE, {}, "no channel is left: Fp1"),
    ],
)
def test_recordings_with_bad_channels_that_are_rejected(names, bads, options, message):
    recording = record(cap(names), ch_names=names, bads=bads)
    with pytest.raises(RejectedError, match=message):
        preprocess(recording, PreprocessingConfig(**LOOSE, **options))


def test_only_the_scalp_is_interpolated():
    names = (*MONTAGE, "EMG")
    signal = np.vstack([cap(), brown_noise(1, N_TIMES)])
    kinds = ("scalp",) * 19 + ("EMG",)
    config = PreprocessingConfig(bad_channels="interpolate", **LOOSE)
    result = preprocess(record(signal, ch_names=names, kinds=kinds, bads=("Cz", "EMG")), config)
    assert result.interpolated == ("Cz",)
    assert result.recording.kept_out == (KeptOut("EMG", "marked as bad"),)
    assert result.recording.kinds == kinds[:19]


# --- Detection ---------------------------------------------------------------------------


def test_a_clean_cap_has_no_deviating_channel():
    config = PreprocessingConfig(**LOOSE, **SEARCH)
    result = preprocess(record(cap(), ch_names=MONTAGE), config)
    assert result.recording.ch_names == MONTAGE
    assert result.history[-1] == "Kept 40.0 of 40.0 s in 1 stretch."


@pytest.mark.parametrize(
    ("criterion", "spoil", "reason"),
    [
        ("max_deviation", lambda row, rng: 30 * row, "variance +"),
        ("max_deviation", lambda row, rng: row / 30, "variance -"),
        ("max_noise", lambda row, rng: row + rng.normal(0, 15, row.size), "noise above 50 Hz "),
        ("min_correlation", lambda row, rng: brown_noise(1, row.size, 9)[0], "correlates with no"),
    ],
)
def test_each_criterion_finds_what_it_is_for(criterion, spoil, reason):
    signal = cap()
    signal[12] = spoil(signal[12], np.random.default_rng(3))  # P7
    options = {name: SEARCH[name] for name in {criterion, "bad_share"}}
    result = preprocess(record(signal, ch_names=MONTAGE), PreprocessingConfig(**LOOSE, **options))
    (out,) = result.recording.kept_out
    assert out.name == "P7"
    assert out.reason.startswith(reason)


def test_detection_does_not_depend_on_the_unit_and_passes_over_time_that_is_lost():
    signal = cap()
    signal[12] *= 30
    signal[:, 3000:3300] = np.nan
    config = PreprocessingConfig(unit="µV", **LOOSE, **SEARCH)
    for factor in (1.0, 1e-3):
        result = preprocess(record(factor * signal, ch_names=MONTAGE), config)
        assert [out.name for out in result.recording.kept_out] == ["P7"]


def test_too_few_channels_to_compare_are_said():
    config = PreprocessingConfig(**LOOSE, **SEARCH)
    history = preprocess(record(cap()[:4]), config).history
    assert any(
        line.startswith("Looked for no deviating channels: fewer than 8") for line in history
    )
