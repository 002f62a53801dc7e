from __future__ import annotations

import re

import numpy as np
import pytest

from berger.preprocessing import PreprocessingConfig, preprocess
from berger.preprocessing.filtering import MAINS_RATIO, find_mains
from berger.recordings import Gap, read_recording
from tests.preprocessing.made import brown_noise, record, sinusoid

SFREQ = 250


def with_lines(lines, seconds=40.0, sfreq=SFREQ):
    """Noise of 10 µV in three channels and lines of {Hz: µV}."""
    signal = brown_noise(3, round(seconds * sfreq))
    for frequency, amplitude in lines.items():
        signal += sinusoid(frequency, sfreq, seconds, amplitude)
    return signal


def prepared(signal, notch="auto", **options):
    config = PreprocessingConfig(notch=notch, max_amplitude=None, **options)
    return preprocess(record(signal, SFREQ), config)


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ({50: 3.0}, 50),
        ({50.3: 3.0}, 50),  # the mains wander
        ({60: 3.0}, 60),
        ({50: 3.0, 60: 1.5}, 50),
        ({50: 1.5, 60: 3.0}, 60),
        ({}, None),
        ({50: 0.02, 60: 0.02}, None),
        ({55: 5.0}, None),
        ({40: 5.0}, None),
    ],
)
def test_the_mains_are_found_by_the_recordings_own_spectrum(lines, found):
    signal = with_lines(lines)
    result = prepared(signal)
    np.testing.assert_array_equal(
        result.recording.signal, prepared(signal, notch=found).recording.signal
    )
    expected = rf"^Mains found at {found} Hz \(" if found else r"^No mains found \("
    said = [line for line in result.history if "times its neighbours" in line]
    assert len(said) == 1
    assert re.search(expected, said[0])


def test_a_line_that_was_notched_before_shows_by_its_harmonic_where_that_is_in_the_band():
    signal = with_lines({100: 3.0})
    wide = prepared(signal, sfreq=250, lowpass=110.0).history
    assert wide[0].startswith("Mains found at 50 Hz (100 Hz: ")
    assert "notch at 50, 100 Hz" in wide[1]
    assert prepared(signal).history[0].startswith("No mains found (")


def test_the_ratio_does_not_depend_on_the_unit_or_on_channels_that_are_silent():
    signal = with_lines({60: 2.0})
    found = find_mains([signal], SFREQ, 90)
    assert set(found[50]) == {50}
    assert find_mains([1e-6 * signal], SFREQ, 90)[60][60] == pytest.approx(found[60][60])
    silent = np.vstack([signal, np.zeros(signal.shape[1])])
    assert find_mains([silent], SFREQ, 90)[60][60] == pytest.approx(found[60][60])
    assert find_mains([0 * signal], SFREQ, 90) == {50: {50: 0.0}, 60: {60: 0.0}}


def test_noise_alone_shows_no_mains_in_any_of_forty_recordings():
    ratios = [
        ratio
        for seed in range(40)
        for lines in find_mains([brown_noise(2, 15 * SFREQ, seed)], SFREQ, 120).values()
        for ratio in lines.values()
    ]
    assert len(ratios) == 40 * 3  # 50, 100 and 60 Hz
    assert max(ratios) < MAINS_RATIO


def test_what_cannot_be_looked_for_is_said():
    assert prepared(with_lines({50: 3.0}), lowpass=38.0).history[0] == (
        "No notch: mains would lie above the low-pass, 47.5 Hz."
    )
    gaps = tuple(Gap(round(3.9 * SFREQ) * piece, None) for piece in range(1, 10))
    config = PreprocessingConfig(notch="auto", highpass=2.0)
    said = preprocess(record(with_lines({50: 3.0}), SFREQ, gaps=gaps), config).history
    assert said[0] == "No notch: fewer than 10 s without a gap in which to look for mains."


def test_real_recordings(real_data):
    # eegmat was notched at 50 Hz before it was published; eegmmidb has American mains.
    rest = read_recording(real_data / "eegmat" / "Subject00_1.edf")
    assert find_mains([rest.signal], rest.sfreq, 90)[50][50] < 0.1
    assert preprocess(rest, PreprocessingConfig(notch="auto")).history[0].startswith("No mains")
    imagery = read_recording(real_data / "eegmmidb" / "S001R06.edf")
    config = PreprocessingConfig(notch="auto", sfreq=160, max_amplitude=None)
    said = preprocess(imagery, config).history
    assert said[0].startswith("Mains found at 60 Hz (60 Hz: ")
