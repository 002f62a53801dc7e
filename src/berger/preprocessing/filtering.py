"""Filter by one zero-phase FIR kernel and resample, piece by piece."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import mne
import numpy as np
import numpy.typing as npt
from scipy import signal as dsp

from berger.preprocessing.config import PreprocessingConfig
from berger.recordings import Recording, RejectedError

SAMPLES_AT_ONCE = 2**19
"""So many, of some channels, are filtered at once."""
MAINS_RATIO = 4.0
"""A line is the mains from this ratio to its neighbours' power on."""


def _band_edge(sfreq: float, config: PreprocessingConfig) -> tuple[float | None, float]:
    """Return the low-pass in effect and the frequency from which on nothing is left, in Hz."""
    nyquist = min(sfreq, config.sfreq) / 2
    lowpass = config.lowpass
    if lowpass is None and sfreq > config.sfreq:
        lowpass = 0.9 * nyquist
    if lowpass is not None and sfreq < config.sfreq:  # room to cut off the mirrored band
        nyquist = (lowpass + nyquist) / 2
    return lowpass, nyquist if lowpass is None else min(1.25 * lowpass, nyquist)


@dataclass(frozen=True, eq=False)
class Joined:
    """The pieces of a recording, filtered, resampled and joined again."""

    signal: npt.NDArray[np.float64]  # (n_chans, n_times)
    borders: npt.NDArray[np.int64]  # first sample of every piece but the first
    lost: dict[str, npt.NDArray[np.bool_]]  # samples that are not usable, by cause
    starts: npt.NDArray[np.int64]  # of every piece, in samples of the recording
    new_starts: npt.NDArray[np.int64]
    sfreq: float
    new_sfreq: float

    def new_start(self, start: int) -> int:
        """Return where the piece begins that began at a sample of the recording."""
        return int(self.new_starts[np.searchsorted(self.starts, start)])

    def moved(self, onset: float) -> float:
        """Return an onset in seconds of the joined signal: each piece lost less than a sample."""
        piece = max(int(np.searchsorted(self.starts, onset * self.sfreq + 1e-6, "right")) - 1, 0)
        shift = self.new_starts[piece] / self.new_sfreq - self.starts[piece] / self.sfreq
        return float(onset + shift)


def filter_and_resample(
    signal: npt.NDArray[np.float64],
    unsound: dict[str, npt.NDArray[np.bool_]],
    recording: Recording,
    config: PreprocessingConfig,
    history: list[str],
) -> Joined:
    """Filter and resample piece by piece; what cannot be filtered becomes silence and is lost."""
    # 0 where all is well, else the number of the cause.
    state = np.zeros(signal.shape[1], np.int8)
    for number, mask in reversed(list(enumerate(unsound.values(), 1))):
        state[mask] = number
    reasons = [None, *unsound]
    gaps = [gap.start for gap in recording.gaps]
    changes = np.flatnonzero(np.diff(state)) + 1
    edges = np.unique(np.concatenate([[0], gaps, changes, [signal.shape[1]]])).astype(np.int64)
    pieces = list(pairwise(edges.tolist()))
    sound = [bool(state[start] == 0) for start, _ in pieces]
    longest = max((b - a for (a, b), well in zip(pieces, sound, strict=True) if well), default=0)
    if not longest:
        broken = [
            name
            for name, row in zip(recording.ch_names, recording.signal, strict=True)
            if not np.isfinite(row).all()
        ]
        why = f"NaN or infinite in {', '.join(broken[:8])}" if broken else "flat"
        raise RejectedError(
            f"{recording.path}: has no sample at which all channels are well ({why}); leave the "
            "bad ones out by `ch_names` or `bad_share`."
        )
    notch = config.notch
    if notch == "auto":
        clean = [signal[:, a:b] for (a, b), well in zip(pieces, sound, strict=True) if well]
        notch = _detected(clean, recording.sfreq, config, history)
    kernel = _kernel(recording, config, notch, longest, history)
    ratio = _ratio(recording.sfreq, config)
    if ratio != 1:
        history.append(
            f"Resampled from {recording.sfreq:g} to {config.sfreq:g} Hz (polyphase, "
            f"{ratio.numerator}/{ratio.denominator})."
        )
    if len(pieces) > 1:
        history.append(f"Treated {len(pieces)} pieces between gaps each by itself.")

    parts, causes = [], []
    for (start, stop), well in zip(pieces, sound, strict=True):
        cause = reasons[state[start]]
        if well and kernel is not None and stop - start < len(kernel):
            cause = "piece shorter than the filter"
        if cause is None:
            parts.append(
                _filter_and_resample_piece(signal[:, start:stop], kernel, recording, config)
            )
        else:
            n_times = (stop - start) * ratio.numerator // ratio.denominator
            parts.append(np.zeros((len(signal), n_times)))
        causes.append(cause)
    lengths = [part.shape[1] for part in parts]
    lost = {
        cause: np.repeat([other == cause for other in causes], lengths)
        for cause in dict.fromkeys(causes)
        if cause is not None
    }
    new_starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    return Joined(
        signal=parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1),
        borders=new_starts[1:],
        lost=lost,
        starts=edges[:-1],
        new_starts=new_starts,
        sfreq=recording.sfreq,
        new_sfreq=config.sfreq,
    )


def _filter_and_resample_piece(
    piece: npt.NDArray[np.float64],
    kernel: npt.NDArray[np.float64] | None,
    recording: Recording,
    config: PreprocessingConfig,
) -> npt.NDArray[np.float64]:
    """Filter and resample some channels at a time: what it takes meanwhile stays small."""
    ratio = _ratio(recording.sfreq, config)
    if kernel is None and ratio == 1:
        return piece
    n_times = piece.shape[1] * ratio.numerator // ratio.denominator
    result = np.empty((len(piece), n_times))
    n_rows = max(1, SAMPLES_AT_ONCE // piece.shape[1])
    for first in range(0, len(piece), n_rows):
        rows = piece[first : first + n_rows]
        filtered = rows if kernel is None else _filter(rows, kernel)
        result[first : first + n_rows] = _resample(filtered, recording.sfreq, config)
    return result


def find_mains(
    pieces: Sequence[npt.NDArray[np.float64]], sfreq: float, edge: float
) -> dict[int, dict[int, float]] | None:
    """Measure how far the mains stand out of the spectrum.

    The spectrum is the median over up to 100 segments of 4 s (Hann) spread over the pieces. A
    line's ratio is the largest power within 0.5 Hz of it against the median of that 1.5 to 5 Hz
    away, averaged over channels: some 1.2 where there is no line.

    Parameters
    ----------
    pieces : sequence of ndarray, shape (n_chans, n_times)
        Any unit.
    sfreq : float
        Samples per second.
    edge : float
        Hz; from here on nothing is looked for.

    Returns
    -------
    dict of int to dict of int to float, or None
        For 50 and 60 Hz, its multiples below the edge and 300 Hz (a multiple of both) with their
        ratios. None if the pieces hold fewer than 4 segments.
    """
    n_times = round(4 * sfreq)
    places = [
        (piece, start)
        for piece in pieces
        for start in range(0, piece.shape[1] - n_times + 1, n_times // 2)
    ]
    if len(places) < 4:
        return None
    top = min(edge, sfreq / 2 - 0.5, 300)
    lines = {mains: [f for f in range(mains, 300, mains) if f < top] for mains in (50, 60)}
    frequency = np.fft.rfftfreq(n_times, 1 / sfreq)
    near = np.zeros(len(frequency), bool)
    for line in (*lines[50], *lines[60]):
        near |= np.abs(frequency - line) <= 5
    chosen = np.unique(np.linspace(0, len(places) - 1, 100).astype(int))
    window = dsp.get_window("hann", n_times)
    segments = [piece[:, start : start + n_times] for piece, start in (places[i] for i in chosen)]
    power = np.median(
        [
            np.abs(np.fft.rfft((x - x.mean(1, keepdims=True)) * window)[:, near]) ** 2
            for x in segments
        ],
        axis=0,
    )
    power = power[power.any(axis=1)]  # a silent channel says nothing

    def ratio(line: int) -> float:
        away = np.abs(frequency[near] - line)
        around = np.median(power[:, (away >= 1.5) & (away <= 5)], axis=1)
        return float(np.mean(power[:, away <= 0.5].max(axis=1) / around)) if len(power) else 0.0

    return {mains: {line: ratio(line) for line in several} for mains, several in lines.items()}


def _detected(
    pieces: Sequence[npt.NDArray[np.float64]],
    sfreq: float,
    config: PreprocessingConfig,
    history: list[str],
) -> float | None:
    """Return the mains frequency that a recording shows, and say what was found."""
    _, edge = _band_edge(sfreq, config)
    found = find_mains(pieces, sfreq, edge)
    if found is None:
        history.append("No notch: fewer than 10 s without a gap in which to look for mains.")
        return None
    strongest = {
        mains: max(lines.items(), key=lambda line: line[1])
        for mains, lines in found.items()
        if lines
    }
    if not strongest:
        history.append(f"No notch: mains would lie above the low-pass, {edge:g} Hz.")
        return None
    mains = max(strongest, key=lambda mains: strongest[mains][1])
    others = [
        f"{line} Hz: {ratio:.1f} times"
        for other, (line, ratio) in strongest.items()
        if other != mains
    ]
    line, ratio = strongest[mains]
    compared = ", ".join([f"{line} Hz: {ratio:.1f} times its neighbours", *others])
    if ratio < MAINS_RATIO:
        history.append(f"No mains found ({compared}).")
        return None
    history.append(f"Mains found at {mains} Hz ({compared}).")
    return float(mains)


def _kernel(
    recording: Recording,
    config: PreprocessingConfig,
    notch: float | None,
    longest: int,
    history: list[str],
) -> npt.NDArray[np.float64] | None:
    """Return high-pass, low-pass and notch as one zero-phase FIR kernel that MNE designs."""
    sfreq = recording.sfreq
    lowpass, edge = _band_edge(sfreq, config)
    kernels, done = [], []
    if notch is not None:
        mains = np.arange(notch, min(edge, sfreq / 2 - 1), notch)
        if mains.size:
            # Half a hertz down, a flat bottom of 0.5 % of the frequency, half a hertz up.
            low, high = mains * 0.9975 - 0.5, mains * 1.0025 + 0.5
            falls = {"l_trans_bandwidth": 0.5, "h_trans_bandwidth": 0.5}
            kernels.append(_designed(sfreq, tuple(high), tuple(low), **falls))
            done.append(f"notch at {', '.join(f'{frequency:g}' for frequency in mains)} Hz")
        else:
            history.append(f"No notch: {notch:g} Hz lies above the low-pass.")
    if config.highpass is not None or lowpass is not None:
        fall = "auto" if lowpass is None else edge - lowpass
        kernels.append(_designed(sfreq, config.highpass, lowpass, h_trans_bandwidth=fall))
        if config.highpass is not None:
            done.append(f"high-pass {config.highpass:g} Hz")
        if lowpass is not None:
            done.append(f"low-pass {lowpass:g} Hz (−6 dB at {(lowpass + edge) / 2:g} Hz)")
    if not kernels:
        return None
    kernel: npt.NDArray[np.float64] = functools.reduce(np.convolve, kernels)
    seconds = len(kernel) / sfreq
    if len(kernel) > longest:
        whole = longest == recording.signal.shape[1]
        lasts = "lasts" if whole else "has no gap-free piece longer than"
        raise RejectedError(
            f"{recording.path}: {lasts} {longest / sfreq:.1f} s, less than the {seconds:.1f} s "
            "of the filter; raise highpass, lower lowpass or leave out notch."
        )
    history.append(
        f"Filtered by a zero-phase FIR kernel (windowed sinc, Hamming, {seconds:.1f} s): "
        f"{', '.join(done)}."
    )
    return kernel


@functools.cache  # takes as long as filtering some minutes, and files of a kind are many
def _designed(
    *edges: float | tuple[float, ...] | None, **transitions: float | str
) -> npt.NDArray[np.float64]:
    """Return the kernel that MNE designs for a sampling rate and band edges, all in Hz."""
    design = {"fir_design": "firwin", "fir_window": "hamming", "phase": "zero", "verbose": "ERROR"}
    kernel: npt.NDArray[np.float64] = mne.filter.create_filter(
        None, *edges, **transitions, **design
    )
    kernel.flags.writeable = False
    return kernel


def _filter(
    signal: npt.NDArray[np.float64], kernel: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Apply a symmetric kernel without delay."""
    half = len(kernel) // 2
    padded = np.pad(signal, ((0, 0), (half, half)), mode="reflect", reflect_type="odd")
    return np.asarray(dsp.oaconvolve(padded, kernel[np.newaxis], mode="valid", axes=1))


def _ratio(sfreq: float, config: PreprocessingConfig) -> Fraction:
    """Return the new rate in terms of the old."""
    return Fraction(config.sfreq / sfreq).limit_denominator(10_000)


def _resample(
    signal: npt.NDArray[np.float64], sfreq: float, config: PreprocessingConfig
) -> npt.NDArray[np.float64]:
    """Resample a signal that holds nothing above the band's edge, to whole samples.

    Polyphase, exact to a hundred-millionth in rate; a whole sample is one that ends before the
    recording does.
    """
    ratio = _ratio(sfreq, config)
    up, down = ratio.numerator, ratio.denominator
    if ratio == 1:
        return signal
    n_times = signal.shape[1] * up // down
    if up == 1:
        return signal[:, ::down][:, :n_times]
    # Between the samples `up - 1` zeros are put in, which mirrors 0 … edge at sfreq - edge;
    # the kernel has from edge to there to fall by 70 dB.
    _, edge = _band_edge(sfreq, config)
    n_taps, beta = dsp.kaiserord(70.0, (sfreq - 2 * edge) / (sfreq * up / 2))
    kernel = dsp.firwin(n_taps | 1, sfreq / 2, window=("kaiser", beta), fs=sfreq * up)
    resampled = dsp.resample_poly(signal, up, down, axis=1, window=kernel, padtype="line")
    return np.asarray(resampled[:, :n_times])
