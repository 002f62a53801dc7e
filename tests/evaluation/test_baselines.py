"""Band powers of signals whose power is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from berger import open_corpus
from berger.corpus import Corpus, prepare
from berger.evaluation.baselines import band_power_features
from berger.preprocessing import PreprocessingConfig
from berger.recordings import Recording
from berger.simulation import write_edf
from berger.spectral import BANDS

HERTZ = {"Fz": 2.5, "C3": 6, "C4": 10, "O1": 20, "O2": 35}
AMPLITUDE = {"Fz": 30, "C3": 20, "C4": 10, "O1": 5, "O2": 2}


def record(path: Path, ch_names: tuple[str, ...], sfreq: float) -> None:
    """Write a sine at every electrode, and 50 µV of direct current."""
    times = np.arange(12 * int(sfreq)) / sfreq
    signal = np.stack(
        [50 + AMPLITUDE[name] * np.sin(2 * np.pi * HERTZ[name] * times) for name in ch_names]
    )
    recording = Recording(
        signal=signal,
        ch_names=ch_names,
        sfreq=sfreq,
        subject=path.stem,
        subject_source="simulation",
        session=None,
        path=path,
        original_ch_names=ch_names,
        annotations=(),
    )
    write_edf(recording, path)


def corpus_of(folder: Path, sfreq: float) -> Corpus:
    record(folder / "raw" / "p1.edf", ("Fz", "C3", "C4", "O1", "O2"), sfreq)
    record(folder / "raw" / "p2.edf", ("O2", "O1", "C4", "C3", "Fz"), sfreq)
    record(folder / "raw" / "p3.edf", ("C4", "Fz"), sfreq)
    config = PreprocessingConfig(sfreq=sfreq, highpass=None, lowpass=None, max_amplitude=None)
    prepare([folder / "raw"], folder / "corpus", config, progress=False)
    return open_corpus(folder / "corpus")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return corpus_of(tmp_path_factory.mktemp("sines"), 200)


def test_a_sine_has_half_its_squared_amplitude_in_its_band(corpus: Corpus) -> None:
    windows = corpus.windows(4, subjects=["p1"])
    names = ("Fz", "C3", "C4", "O1", "O2")
    power = np.exp(band_power_features(windows, names)).reshape(3, 5, len(BANDS))
    for chan, name in enumerate(names):
        own = [low <= HERTZ[name] < high for low, high in BANDS.values()].index(True)
        np.testing.assert_allclose(power[:, chan, own], AMPLITUDE[name] ** 2 / 2, rtol=0.02)
        others = np.delete(power[:, chan], own, axis=1)
        assert others.max() < 0.02 * AMPLITUDE[name] ** 2 / 2 + 0.01, name


def test_electrodes_are_found_by_name_in_any_montage(corpus: Corpus) -> None:
    windows = corpus.windows(4)
    features = band_power_features(windows, ("Fz", "C4"))
    assert features.shape == (9, 2 * len(BANDS))
    # the sines are the same, wherever the electrode stands in the file
    np.testing.assert_allclose(features[:3], features[3:6], atol=0.5)
    own = [0, len(BANDS) + 2]  # Fz's delta and C4's alpha
    np.testing.assert_allclose(features[:, own], np.log([[450, 50]] * 9), atol=0.05)


def test_windows_of_one_person_at_a_time_give_the_same(corpus: Corpus) -> None:
    together = band_power_features(corpus.windows(2), ("C4",))
    alone = [
        band_power_features(corpus.windows(2, subjects=[person]), ("C4",))
        for person in ("p1", "p2", "p3")
    ]
    np.testing.assert_array_equal(together, np.concatenate(alone))


def test_windows_shorter_than_a_segment(corpus: Corpus) -> None:
    features = band_power_features(corpus.windows(1, subjects=["p3"]), ("C4",))
    assert np.isfinite(features).all()
    assert features[:, 2].mean() == pytest.approx(np.log(50), abs=0.1)


def test_a_band_beyond_the_nyquist_frequency_is_left_out(tmp_path: Path) -> None:
    features = band_power_features(corpus_of(tmp_path, 50).windows(4), ("C4",))
    assert features.shape == (9, 4)
