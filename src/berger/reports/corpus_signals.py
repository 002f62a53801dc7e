"""A look at the signals of a corpus: a random page of traces, spectra, amplitudes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.signal import welch

from berger.reports import corpus_figures as figures
from berger.reports.blocks import Block, Details, Figure, Image, Table, Text, counted
from berger.reports.corpus_groups import Montage, species_of

if TYPE_CHECKING:
    from berger.corpus import Corpus

Array = npt.NDArray[np.float64]
Place = tuple[int, int]
"""First sample and length of a window, in samples."""

MOST_PANELS, MOST_TRACES, TRACE_SECONDS = 6, 20, 5.0
MOST_MONTAGES, MOST_RECORDINGS, MOST_WINDOWS, SAMPLE_SECONDS = 4, 24, 48, 8.0
MOST_VALUES = 20_000_000
"""Samples of all channels of a montage that are looked at."""

MOST_LINES = 5
"""Channels beyond which spectra and histograms show a mean, and not each by its name."""

BINS = 81
MOST_ROWS = 200


def page_of_traces(corpus: Corpus, ok: pd.DataFrame, seed: int) -> Iterator[Block]:
    """Show random windows of recordings of different subjects; `ok` are the usable recordings."""
    shown = list(islice(_drawn(corpus, ok, np.random.default_rng(seed)), MOST_PANELS))
    whose = pd.DataFrame([recording for recording, _ in shown])
    several = whose.groupby("subject")["recording"].nunique() > 1
    images = []
    fewer = False
    for recording, (start, n_times) in shown:
        signal = corpus.read(recording["recording"], start, n_times).astype(np.float64)
        chosen = np.linspace(0, len(signal) - 1, min(MOST_TRACES, len(signal))).round().astype(int)
        fewer |= len(chosen) < len(signal)
        sfreq = float(recording["sfreq"])
        subject = str(recording["subject"])
        file = str(recording["recording"]).rpartition("/")[2]
        trace = figures.Trace(
            signal[chosen],
            sfreq,
            recording["offset_seconds"] + start / sfreq,
            [recording["ch_names"][index] for index in chosen],
            f"{subject}, {file}" if several[subject] else subject,
        )
        images.append(figures.traces(trace))
    names = list(dict.fromkeys(str(recording["recording"]) for recording, _ in shown))
    few = f" At most {MOST_TRACES} channels of each, evenly chosen, are drawn." if fewer else ""
    yield Figure(
        tuple(images),
        f"{counted(len(shown), 'window')} of up to {TRACE_SECONDS:g} s, drawn at random (seed "
        f"{seed}) from what is usable, of different subjects as far as there are; the title is the "
        "subject. After preprocessing. Time runs to the right and positive voltages point up; the "
        f"bar at the right of each gives its scale.{few} Recordings, in this order: "
        f"{', '.join(names)}.",
    )


def _drawn(
    corpus: Corpus, ok: pd.DataFrame, rng: np.random.Generator
) -> Iterator[tuple[Any, Place]]:
    """Yield recordings and windows: each subject once, then again, then the same recordings."""
    shuffled = ok.iloc[rng.permutation(len(ok))]
    turn = np.argsort(shuffled.groupby("subject").cumcount().to_numpy(), kind="stable")
    chosen = shuffled.iloc[turn[:MOST_PANELS]]
    stretches = _stretches(corpus, chosen)
    places = []
    for _, recording in chosen.iterrows():
        grid = _grid(stretches[recording["recording"]], float(recording["sfreq"]))
        places.append((recording, rng.permutation(grid)))
    for number in range(MOST_PANELS):
        for recording, grid in places:
            if number < len(grid):
                yield recording, (int(grid[number][0]), int(grid[number][1]))


def _grid(stretches: pd.DataFrame, sfreq: float) -> npt.NDArray[np.int64]:
    """Return windows side by side in the usable stretches, or the longest stretch if all are short.

    The windows are (start, length) in samples, shape (n_windows, 2).
    """
    n_times = round(TRACE_SECONDS * sfreq)
    starts = [
        np.arange(start, stop - n_times + 1, n_times)
        for start, stop in zip(stretches["start"], stretches["stop"], strict=True)
    ]
    grid = np.concatenate(starts) if starts else np.zeros(0, np.int64)
    if not len(grid):
        longest = stretches.loc[(stretches["stop"] - stretches["start"]).idxmax()]
        grid, n_times = np.array([longest["start"]]), int(longest["stop"] - longest["start"])
    return np.stack([grid, np.full(len(grid), n_times)], axis=1).astype(np.int64)


@dataclass(frozen=True, eq=False)
class _Sample:
    """Windows of a montage, and what is measured in them."""

    montage: Montage
    lines: list[figures.Lines]
    n_windows: int
    freqs: Array
    power: Array  # (n_chans, n_freqs), µV²/Hz
    values: npt.NDArray[np.float32]  # (n_chans, n_samples), µV

    @property
    def title(self) -> str:
        return f"Montage {self.montage.number}, {self.montage.size}"


def spectra_and_amplitudes(
    corpus: Corpus, ok: pd.DataFrame, montages: Sequence[Montage]
) -> Iterator[Block]:
    """Show, from the same sample of windows, spectra and amplitudes of the largest montages."""
    samples = [
        sample
        for montage in montages[:MOST_MONTAGES]
        if (sample := _sample(corpus, montage)) is not None
    ]
    if not samples:
        return
    limit = corpus.manifest.preprocessing.max_amplitude
    highest = max(sample.power.max() for sample in samples)
    power_limits = (highest * 1e-5, highest * 8)
    images: list[Image] = []
    outside = False
    for sample in samples:
        images.append(
            figures.spectrum(sample.title, sample.freqs, sample.power, sample.lines, power_limits)
        )
        edges = _edges(sample.values, limit)
        outside |= limit is not None and limit > edges[-1]
        share = _shares(sample.values, edges)
        images.append(figures.amplitudes(sample.title, edges, share, sample.lines, limit))
    yield Text(_what_to_look_for(ok))
    yield Figure(tuple(images), _caption(montages, samples, limit, outside=outside))
    yield Details("Amplitude of each channel in numbers", [_percentiles(samples)])


def _caption(
    montages: Sequence[Montage],
    samples: Sequence[_Sample],
    limit: float | None,
    *,
    outside: bool,
) -> str:
    named = any(len(sample.lines) == len(sample.montage.ch_names) for sample in samples)
    averaged = any(len(sample.lines) < len(sample.montage.ch_names) for sample in samples)
    lines = [
        "thin lines are channels and a thick one is their mean, for each kind of channel"
        if averaged
        else "",
        f"in montages of up to {MOST_LINES} channels each has a thick line of its own"
        if named
        else "",
    ]
    text = (
        "Spectrum: how much each frequency contributes (Welch, 2-s Hann windows). Amplitudes: how "
        f"often each voltage occurs. Lines: {'; '.join(line for line in lines if line)}."
    )
    if limit is not None:
        text += f" Samples at which a channel reached {limit:,g} µV were dropped" + (
            ", so no curve passes the dashed lines."
            if not outside
            else "; where no dashed line marks it, the limit lies far outside of the chart."
        )
    looked_at = sum(sample.n_windows for sample in samples)
    text += (
        f" From {counted(looked_at, 'window')} of up to {SAMPLE_SECONDS:g} s, at most "
        f"{MOST_WINDOWS} from the longest usable stretches of at most {MOST_RECORDINGS} evenly "
        "spaced recordings of a montage."
    )
    if len(montages) > MOST_MONTAGES:
        text += f" The {MOST_MONTAGES} montages with the most hours, of {len(montages):,}."
    return text


def _what_to_look_for(ok: pd.DataFrame) -> str:
    species = {name.casefold() for name in species_of(ok)}
    text = ""
    if species <= {"human", "homo sapiens"}:
        text = "A hump near 10 Hz is the alpha rhythm. "
    elif species <= {"mouse", "rat"}:
        text = "A hump at 5 to 10 Hz is the theta rhythm. "
    return text + (
        "The fall of a spectrum at its ends is the band-pass filter, a narrow dip the filter "
        "against mains hum, a narrow spike hum or other interference. A histogram much wider than "
        "the others belongs to a noisy channel, a needle at 0 to a silent one; heaps at both ends "
        "are a signal that was clipped."
    )


def _sample(corpus: Corpus, montage: Montage) -> _Sample | None:
    """Read windows of one montage; None if no stretch is as long as a window of the spectrum."""
    sfreq = float(montage.recordings["sfreq"].iloc[0])
    recordings = montage.recordings[montage.recordings["sfreq"] == sfreq]
    most = min(MOST_WINDOWS, int(MOST_VALUES / (len(montage.ch_names) * SAMPLE_SECONDS * sfreq)))
    number = max(1, min(MOST_RECORDINGS, len(recordings), most))
    each = max(1, most // number)
    spread = np.linspace(0, len(recordings) - 1, number).round().astype(int)
    chosen = recordings.iloc[spread]
    stretches = _stretches(corpus, chosen)
    n_fft = round(2 * sfreq)
    powers, values = [], []
    for recording in chosen["recording"]:
        for start, n_times in _windows(stretches[recording], sfreq, SAMPLE_SECONDS, each):
            if n_times >= n_fft:
                signal = corpus.read(recording, start, n_times)
                powers.append(welch(signal, sfreq, nperseg=n_fft)[1][:, 1:])
                values.append(signal)
    if not powers:
        return None
    return _Sample(
        montage,
        _lines(montage),
        len(powers),
        np.fft.rfftfreq(n_fft, 1 / sfreq)[1:].astype(np.float64),
        np.mean(powers, axis=0, dtype=np.float64),
        np.concatenate(values, axis=1),
    )


def _lines(montage: Montage) -> list[figures.Lines]:
    """Return what gets a thick line: each of a few channels, else each kind of channel."""
    names, kinds = montage.ch_names, montage.kinds
    if len(names) <= MOST_LINES:
        return [figures.Lines(name, (index,)) for index, name in enumerate(names)]
    return [
        figures.Lines(kind, tuple(i for i in range(len(names)) if not kinds or kinds[i] == kind))
        for kind in dict.fromkeys(kinds or ("",))
    ]


def _edges(values: npt.NDArray[np.float32], limit: float | None) -> Array:
    """Return edges of bins, symmetrical around 0, up to the limit unless that lies far outside."""
    largest = float(np.abs(values).max()) or 1.0
    end = 1.08 * limit if limit is not None and limit <= 3 * largest else 1.05 * largest
    return np.linspace(-end, end, BINS + 1)


def _shares(values: npt.NDArray[np.float32], edges: Array) -> Array:
    """Return the percentage of each channel's samples per µV, shape (n_chans, n_bins)."""
    counts = np.stack([np.histogram(channel, edges)[0] for channel in values])
    share: Array = 100 * counts / values.shape[1] / np.diff(edges)
    return share


def _percentiles(samples: Sequence[_Sample]) -> Table:
    low, high = "1st percentile (µV)", "99th percentile (µV)"
    spread = "standard deviation (µV)"
    rows = []
    for sample in samples:
        for name, values in zip(sample.montage.ch_names, sample.values, strict=True):
            first, last = np.percentile(values, [1, 99])
            rows.append(
                (
                    str(sample.montage.number),
                    name,
                    *(f"{value:,.1f}" for value in (first, last, values.std(dtype=np.float64))),
                )
            )
    return Table(
        ("montage", "channel", low, high, spread),
        rows[:MOST_ROWS],
        frozenset({"montage", low, high, spread}),
        "98% of a channel's samples lie between its two percentiles. From the windows of the "
        "figure above."
        + (f" The first {MOST_ROWS} of {len(rows):,}." if len(rows) > MOST_ROWS else ""),
    )


def _stretches(corpus: Corpus, recordings: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the usable stretches of some recordings, looked up at once."""
    names = set(recordings["recording"])
    found = corpus.stretches[corpus.stretches["recording"].isin(names)]
    return {str(name): own for name, own in found.groupby("recording")}


def _windows(stretches: pd.DataFrame, sfreq: float, seconds: float, at_most: int) -> list[Place]:
    """Return windows spread over the longest of a recording's usable stretches."""
    longest = stretches.loc[(stretches["stop"] - stretches["start"]).idxmax()]
    length = int(longest["stop"] - longest["start"])
    n_times = min(round(seconds * sfreq), length)
    number = min(at_most, length // n_times)
    gaps = (length - number * n_times) / (number + 1)
    return [
        (int(longest["start"] + round(gap * gaps + (gap - 1) * n_times)), n_times)
        for gap in range(1, number + 1)
    ]
