"""Recordings made in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from berger.recordings import Recording

MONTAGE = (
    *("Fp1", "Fp2", "F7", "F3", "Fz", "F4", "F8", "T7", "C3", "Cz"),
    *("C4", "T8", "P7", "P3", "Pz", "P4", "P8", "O1", "O2"),
)


def record(signal, sfreq=200.0, ch_names=None, **fields):
    signal = np.atleast_2d(np.asarray(signal, dtype=float))
    names = tuple(ch_names or ("Fz", "Cz", "Pz", "Oz", "C3", "C4")[: len(signal)])
    return Recording(
        signal=signal,
        ch_names=names,
        sfreq=float(sfreq),
        subject="S1",
        subject_source="pattern",
        session=None,
        path=Path("S1.edf"),
        original_ch_names=fields.pop("original_ch_names", names),
        **fields,
    )


def sinusoid(frequency, sfreq, seconds=40.0, amplitude=20.0, phase=0.3):
    times = np.arange(round(seconds * sfreq)) / sfreq
    return amplitude * np.cos(2 * np.pi * frequency * times + phase)


def brown_noise(n_chans, n_times, seed=0, scale=10.0):
    """Noise whose power falls with the frequency, as that of EEG does."""
    white = np.random.default_rng(seed).normal(size=(n_chans, n_times))
    spectrum = np.fft.rfft(white) / np.sqrt(np.arange(n_times // 2 + 1) + 1.0)
    noise = np.fft.irfft(spectrum, n_times)
    return scale * noise / noise.std(axis=1, keepdims=True)
