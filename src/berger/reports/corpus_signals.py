"""A look at the signals of a corpus: traces of a window, spectra of a sample of windows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.signal import welch

from berger.reports import corpus_figures as figures
from berger.reports.blocks import Block, Figure, counted

if TYPE_CHECKING:
    from berger.corpus import Corpus

Array = npt.NDArray[np.float64]

MOST_TRACES, TRACE_SECONDS = 32, 10.0
MOST_MONTAGES, MOST_RECORDINGS, WINDOWS_EACH, SPECTRUM_SECONDS = 4, 24, 2, 8.0


def signals(
    corpus: Corpus, ok: pd.DataFrame, montages: Counter[tuple[str, ...]]
) -> Iterator[Block]:
    """Show traces of a window and spectra of each montage; `ok` are the usable recordings."""
    yield from _traces(corpus, ok.iloc[len(ok) // 2])
    spectra = []
    looked_at = 0
    for number, (names, _) in enumerate(montages.most_common(MOST_MONTAGES), 1):
        found = _spectrum(corpus, ok[[tuple(other) == names for other in ok["ch_names"]]])
        if found is not None:
            freqs, power, n_windows = found
            looked_at += n_windows
            title = f"Montage {number}, {counted(len(names), 'electrode')}"
            spectra.append((title, freqs, power))
    if spectra:
        highest = max(power.mean(0).max() for _, _, power in spectra)
        limits = (highest * 1e-5, highest * 8)
        yield Figure(
            tuple(figures.spectrum(*drawn, limits, wide=len(spectra) == 1) for drawn in spectra),
            "Mean power spectrum (Welch, 2-s Hann windows): thin lines are electrodes, the thick "
            f"line is their mean. From {counted(looked_at, 'window')} of up to "
            f"{SPECTRUM_SECONDS:g} s, at most {WINDOWS_EACH} from each of at most "
            f"{MOST_RECORDINGS} evenly spaced recordings of a montage. A hump near 10 Hz is the "
            "alpha rhythm; the fall towards the ends shows the band-pass.",
        )


def _traces(corpus: Corpus, recording: Any) -> Iterator[Block]:
    for start, n_times in _windows(corpus, recording, TRACE_SECONDS, 1):
        signal = corpus.read(recording["recording"], start, n_times).astype(np.float64)
        chosen = np.linspace(0, len(signal) - 1, min(MOST_TRACES, len(signal))).round().astype(int)
        sfreq = float(recording["sfreq"])
        trace = figures.Trace(
            signal[chosen],
            sfreq,
            recording["offset_seconds"] + start / sfreq,
            [recording["ch_names"][index] for index in chosen],
        )
        fewer = len(chosen) < len(signal)
        some = f"{len(chosen)} of {len(signal)} electrodes" if fewer else "all electrodes"
        yield Figure(
            (figures.traces(trace),),
            "A window from the middle of the list of recordings: "
            f"{recording['recording']}, subject {recording['subject']}, {some}, after "
            "preprocessing. Time runs to the right and positive voltages point up; the bar at the "
            "top right gives the height of the lines.",
        )


def _spectrum(corpus: Corpus, recordings: pd.DataFrame) -> tuple[Array, Array, int] | None:
    """Frequencies, mean spectrum (n_chans, n_freqs) and number of windows of one montage."""
    recordings = recordings[recordings["sfreq"] == recordings["sfreq"].iloc[0]]
    sfreq = float(recordings["sfreq"].iloc[0])
    spread = np.linspace(0, len(recordings) - 1, min(MOST_RECORDINGS, len(recordings)))
    powers = []
    for _, row in recordings.iloc[spread.round().astype(int)].iterrows():
        for start, n_times in _windows(corpus, row, SPECTRUM_SECONDS, WINDOWS_EACH):
            signal = corpus.read(row["recording"], start, n_times)
            if n_times >= round(2 * sfreq):
                powers.append(welch(signal, sfreq, nperseg=round(2 * sfreq))[1][:, 1:])
    if not powers:
        return None
    freqs = np.fft.rfftfreq(round(2 * sfreq), 1 / sfreq)[1:]
    mean: Array = np.mean(powers, axis=0)
    return freqs.astype(np.float64), mean, len(powers)


def _windows(corpus: Corpus, recording: Any, seconds: float, at_most: int) -> list[tuple[int, int]]:
    """Start and length in samples of windows spread over the longest usable stretch."""
    stretches = corpus.stretches
    stretches = stretches[stretches["recording"] == recording["recording"]]
    if stretches.empty:
        return []
    longest = stretches.loc[(stretches["stop"] - stretches["start"]).idxmax()]
    length = int(longest["stop"] - longest["start"])
    n_times = min(round(seconds * float(recording["sfreq"])), length)
    number = min(at_most, length // n_times)
    gaps = (length - number * n_times) / (number + 1)
    return [
        (int(longest["start"] + round(gap * gaps + (gap - 1) * n_times)), n_times)
        for gap in range(1, number + 1)
    ]
