"""Make recordings comparable and remember what was done.

::

    Recording ─► channels ─► reference ─► filter ─► resample ─► cut the ends ─► usable stretches
                                 (one zero-phase FIR kernel)                       (Prepared)

The ends are cut after filtering, so that the filter's edge effects lie in what is cut. Pieces
between gaps, and between values that are not finite, are filtered and resampled each by itself.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from typing import Literal, Self

import mne
import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator, model_validator
from scipy import signal as dsp

from berger.channels import canonical_name
from berger.configuration import Config
from berger.errors import BergerError
from berger.recordings import (
    Gap,
    KeptOut,
    LayoutConfig,
    Recording,
    RejectedError,
    Unit,
    compile_subject_pattern,
)

__all__ = ["Prepared", "PreprocessingConfig", "RejectedError", "preprocess"]

_SHORTEST_STRETCH = 1.0  # seconds
_SAMPLES_AT_ONCE = 2**19  # filtered at once
_PLAUSIBLE = (0.05, 3000.0)  # µV, standard deviation within a second


class PreprocessingConfig(Config):
    """How recordings are made comparable.

    Attributes
    ----------
    sfreq : float
        Sampling rate of the result in Hz; recordings below it are rejected, not upsampled.
    highpass, lowpass : float or None
        Edges of the pass band in Hz. The response falls outside them: to −6 dB at half the
        high-pass (for one of up to 2 Hz) and at most 12.5 % above the low-pass. Without a
        low-pass, 90 % of the new Nyquist frequency serves where the rate is lowered.
    notch : float or None
        Mains frequency in Hz. It and its harmonics inside the band are removed.
    reference : {"as recorded", "average"}
        "average" subtracts the mean of the channels kept.
    ch_names : tuple of str or None
        Keep exactly these, in this order; recordings that lack one are rejected.
    max_amplitude : float or None
        Samples at which any channel reaches this many µV (after filtering) are not usable.
    flat_seconds : float or None
        Time in which a channel of the raw recording holds one value for this many seconds or
        longer (disconnected, or saturated) is not usable. By default it is not looked for.
    bad_share : float or None
        A channel that is flat (see `flat_seconds`) or not finite for more than this share of the
        recording is kept out; if `ch_names` asks for it, the recording is rejected.
    cut_start, cut_end : float
        Seconds to cut at the ends.
    min_duration : float
        Recordings shorter than this many seconds, before cutting, are rejected.
    subject_pattern, layout, unit
        As in `berger.recordings.read_recording`. Without `unit`, recordings whose amplitude is
        implausible for the unit that they declare are rejected.
    species : str or None
        Who was recorded, e.g. "human" or "mouse"; noted with every recording.
    """

    sfreq: float = Field(200.0, gt=0)
    highpass: float | None = Field(0.3, gt=0)
    lowpass: float | None = Field(75.0, gt=0)
    notch: float | None = Field(None, gt=0)
    reference: Literal["as recorded", "average"] = "as recorded"
    ch_names: tuple[str, ...] | None = Field(None, min_length=1)
    max_amplitude: float | None = Field(100.0, gt=0)
    flat_seconds: float | None = Field(None, gt=0)
    bad_share: float | None = Field(None, gt=0, lt=1)
    cut_start: float = Field(0.0, ge=0)
    cut_end: float = Field(0.0, ge=0)
    min_duration: float = Field(0.0, ge=0)
    subject_pattern: str | None = None
    layout: LayoutConfig | None = None
    unit: Unit | None = None
    species: str | None = Field(None, min_length=1)

    @field_validator("ch_names")
    @classmethod
    def _check_names(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        known = [canonical_name(name) or name for name in names or ()]
        twice = sorted({name for name in known if known.count(name) > 1})
        if twice:
            raise ValueError(f"names {', '.join(twice)} more than once")
        return names

    @field_validator("subject_pattern")
    @classmethod
    def _check_pattern(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            try:
                compile_subject_pattern(pattern)
            except BergerError as error:
                raise ValueError(str(error)) from error
        return pattern

    @model_validator(mode="after")
    def _check_band(self) -> Self:
        if self.lowpass is not None and self.lowpass >= self.sfreq / 2:
            raise ValueError(f"lowpass must lie below half of sfreq, {self.sfreq / 2:g} Hz")
        if self.highpass is not None and self.highpass >= (self.lowpass or self.sfreq / 2):
            raise ValueError("highpass must lie below lowpass")
        return self


@dataclass(frozen=True, eq=False)
class Prepared:
    """A recording made comparable, and what became of it.

    Attributes
    ----------
    recording : Recording
        The cleaned recording at the configuration's rate. The onsets of its annotations count
        from its first sample; those of annotations in the part cut away are negative.
    offset : float
        Seconds of the raw recording before the cleaned one's first sample.
    stretches : tuple of (int, int)
        First sample and end of every usable stretch, each of a second at least.
    dropped : dict of str to float
        Seconds by cause. These and the seconds in `stretches` add up to the raw duration.
    history : tuple of str
        What was done, a sentence a step.
    """

    recording: Recording
    offset: float
    stretches: tuple[tuple[int, int], ...]
    dropped: dict[str, float]
    history: tuple[str, ...]


def preprocess(recording: Recording, config: PreprocessingConfig) -> Prepared:
    """Make a recording comparable.

    Parameters
    ----------
    recording : Recording
        Is left as it is.
    config : PreprocessingConfig
        What to do.

    Raises
    ------
    RejectedError
        If the configuration does not admit the recording: too short, too low a sampling rate,
        a channel missing, nothing left.
    """
    _check_admitted(recording, config)
    history: list[str] = []
    duration = recording.duration

    if config.ch_names is not None:
        recording = _pick(recording, config.ch_names)
        history.append(f"Kept {len(recording.ch_names)} channels: {', '.join(recording.ch_names)}.")
    if config.unit is None and config.layout is None:
        _check_plausible(recording)
    recording, unsound = _keep_out_bad(recording, config, history)
    signal = recording.signal
    if config.reference == "average":
        if len(signal) == 1:
            raise RejectedError(
                f"{recording.path}: has one channel, {recording.ch_names[0]}, and would be silent "
                "against its own average; set reference to 'as recorded'."
            )
        signal = signal - signal.mean(axis=0)
        history.append(f"Referenced to the average of {len(signal)} channels.")
    joined = _filter_and_resample(signal, unsound, recording, config, history)
    signal, borders = joined.signal, joined.borders

    sfreq = config.sfreq
    dropped = {"less than a sample": duration - signal.shape[1] / sfreq}
    start = math.ceil(config.cut_start * sfreq - 1e-6)
    stop = max(start, signal.shape[1] - math.ceil(config.cut_end * sfreq - 1e-6))
    if start or stop < signal.shape[1]:
        history.append(
            f"Cut {config.cut_start:g} s at the start and {config.cut_end:g} s at the end."
        )
        dropped["first and last seconds"] = (signal.shape[1] - (stop - start)) / sfreq
    signal = np.ascontiguousarray(signal[:, start:stop])
    lost = {cause: mask[start:stop] for cause, mask in joined.lost.items()}

    stretches = _usable_stretches(signal, borders - start, lost, config, dropped)
    if not stretches:
        raise RejectedError(
            f"{recording.path}: nothing is left of {duration:.1f} s "
            f"({_sum_up(dropped)}); relax what is cut or the amplitude allowed."
        )
    kept = sum(stop - start for start, stop in stretches) / sfreq
    dropped = {cause: seconds for cause, seconds in dropped.items() if seconds > 1e-9}
    plural = "stretch" if len(stretches) == 1 else "stretches"
    history.append(
        f"Kept {kept:.1f} of {duration:.1f} s in {len(stretches)} {plural}"
        + (f"; dropped {_sum_up(dropped)}." if dropped else ".")
    )
    offset = start / sfreq
    return Prepared(
        recording=replace(
            recording,
            signal=signal,
            sfreq=sfreq,
            annotations=tuple(
                replace(annotation, onset=joined.moved(annotation.onset) - offset)
                for annotation in recording.annotations
            ),
            gaps=tuple(
                Gap(place, gap.seconds)
                for gap in recording.gaps
                if 0 < (place := joined.new_start(gap.start) - start) < stop - start
            ),
        ),
        offset=offset,
        stretches=stretches,
        dropped=dropped,
        history=tuple(history),
    )


def _check_admitted(recording: Recording, config: PreprocessingConfig) -> None:
    """Raise RejectedError for what can be seen before anything is done."""
    path = recording.path
    if recording.duration < config.min_duration:
        raise RejectedError(
            f"{path}: lasts {recording.duration:.1f} s, less than min_duration, "
            f"{config.min_duration:g} s."
        )
    # As lowpass lies below half of sfreq, this also keeps it below what was recorded.
    if recording.sfreq < config.sfreq * (1 - 1e-6):
        raise RejectedError(
            f"{path}: was sampled at {recording.sfreq:g} Hz and would be upsampled to "
            f"{config.sfreq:g} Hz; set sfreq to {recording.sfreq:g} or less, and lowpass below "
            "half of that."
        )


def _check_plausible(recording: Recording) -> None:
    """Raise RejectedError if the signal is a thousand times too large or small for EEG.

    Measured within single seconds, so that drifts of DC amplifiers do not count. From the scalp
    it is some 10 µV, from within the brain or a rodent's some 100 µV.
    """
    second = max(round(recording.sfreq), 2)
    n_seconds = recording.signal.shape[1] // second
    if not n_seconds:
        return
    seconds = np.unique(np.linspace(0, n_seconds - 1, 100).astype(int))
    blocks = np.stack([recording.signal[:, s * second : (s + 1) * second] for s in seconds])
    blocks = blocks[np.isfinite(blocks).all(axis=2)]
    # A channel that stands still has no unit to be wrong.
    spread = blocks[np.ptp(blocks, axis=1) > 0].std(axis=1)
    if not spread.size:
        return
    typical = float(np.median(spread))
    if not _PLAUSIBLE[0] < typical < _PLAUSIBLE[1]:
        much = "little" if typical < 1 else "much"
        raise RejectedError(
            f"{recording.path}: varies by {typical:.3g} µV (standard deviation) within a second, "
            f"too {much} for the unit it declares; set `unit` to what its numbers really are."
        )


def _pick(recording: Recording, ch_names: tuple[str, ...]) -> Recording:
    """Keep exactly these channels, by canonical name or name in the file, in this order."""
    places = {name: index for index, name in enumerate(recording.original_ch_names)}
    places |= {name: index for index, name in enumerate(recording.ch_names)}
    wanted = {name: places.get(name, places.get(canonical_name(name) or "")) for name in ch_names}
    missing = [name for name, index in wanted.items() if index is None]
    if missing:
        raise RejectedError(
            f"{recording.path}: lacks {', '.join(missing)} of `ch_names`; it has "
            f"{', '.join(recording.ch_names)}."
        )
    picks = [index for index in wanted.values() if index is not None]
    others = set(range(len(recording.ch_names))) - set(picks)
    return _taken(recording, picks, dict.fromkeys(sorted(others), "not asked for"))


def _taken(recording: Recording, picks: list[int], out: dict[int, str]) -> Recording:
    """Return the recording with these channels; the others are kept out for a reason."""
    return replace(
        recording,
        signal=recording.signal[picks],
        ch_names=tuple(recording.ch_names[index] for index in picks),
        original_ch_names=tuple(recording.original_ch_names[index] for index in picks),
        kinds=tuple(recording.kinds[index] for index in picks) if recording.kinds else (),
        kept_out=recording.kept_out
        + tuple(KeptOut(recording.original_ch_names[i], reason) for i, reason in out.items()),
    )


def _band_edge(sfreq: float, config: PreprocessingConfig) -> tuple[float | None, float]:
    """Return the low-pass in effect and the frequency from which on nothing is left, in Hz."""
    nyquist = min(sfreq, config.sfreq) / 2
    lowpass = config.lowpass
    if lowpass is None and sfreq > config.sfreq:
        lowpass = 0.9 * nyquist
    return lowpass, nyquist if lowpass is None else min(1.25 * lowpass, nyquist)


@dataclass(frozen=True, eq=False)
class _Joined:
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


def _keep_out_bad(
    recording: Recording, config: PreprocessingConfig, history: list[str]
) -> tuple[Recording, dict[str, npt.NDArray[np.bool_]]]:
    """Take out channels that are bad for too long; return the others' bad samples by cause."""
    bad = {"not finite": ~np.isfinite(recording.signal)}
    if config.flat_seconds is not None:
        shortest = max(math.ceil(config.flat_seconds * recording.sfreq), 2)
        bad["flat"] = np.stack([_flat(row, shortest) for row in recording.signal])
    share = np.logical_or.reduce(list(bad.values())).mean(axis=1)
    limit = 1.0 if config.bad_share is None else config.bad_share
    out = {
        index: f"flat or not finite for {share[index]:.0%} of the recording"
        for index in np.flatnonzero(share > limit).tolist()
    }
    if out:
        listed = ", ".join(f"{recording.ch_names[i]} ({reason})" for i, reason in out.items())
        if config.ch_names is not None:
            raise RejectedError(
                f"{recording.path}: {listed}; leave the channel out of `ch_names`, or raise "
                "bad_share."
            )
        kept = [index for index in range(len(share)) if index not in out]
        if not kept:
            raise RejectedError(f"{recording.path}: no channel is left: {listed}.")
        history.append(f"Kept out {listed}.")
        recording = _taken(recording, kept, out)
        bad = {cause: mask[kept] for cause, mask in bad.items()}
    return recording, {cause: np.asarray(mask.any(axis=0)) for cause, mask in bad.items()}


def _flat(row: npt.NDArray[np.float64], shortest: int) -> npt.NDArray[np.bool_]:
    """Return which samples lie in a run of at least `shortest` equal values."""
    edges = np.concatenate([[0], np.flatnonzero(row[1:] != row[:-1]) + 1, [len(row)]])
    lengths = np.diff(edges)
    return np.repeat(lengths >= shortest, lengths)


def _filter_and_resample(
    signal: npt.NDArray[np.float64],
    unsound: dict[str, npt.NDArray[np.bool_]],
    recording: Recording,
    config: PreprocessingConfig,
    history: list[str],
) -> _Joined:
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
    kernel = _kernel(recording, config, longest, history)
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
    return _Joined(
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
    n_rows = max(1, _SAMPLES_AT_ONCE // piece.shape[1])
    for first in range(0, len(piece), n_rows):
        rows = piece[first : first + n_rows]
        filtered = rows if kernel is None else _filter(rows, kernel)
        result[first : first + n_rows] = _resample(filtered, recording.sfreq, config)
    return result


def _kernel(
    recording: Recording, config: PreprocessingConfig, longest: int, history: list[str]
) -> npt.NDArray[np.float64] | None:
    """Return high-pass, low-pass and notch as one zero-phase FIR kernel that MNE designs."""
    sfreq = recording.sfreq
    lowpass, edge = _band_edge(sfreq, config)
    kernels, done = [], []
    if config.notch is not None:
        mains = np.arange(config.notch, min(edge, sfreq / 2 - 1), config.notch)
        if mains.size:
            # Half a hertz down, a flat bottom of 0.5 % of the frequency, half a hertz up.
            low, high = mains * 0.9975 - 0.5, mains * 1.0025 + 0.5
            falls = {"l_trans_bandwidth": 0.5, "h_trans_bandwidth": 0.5}
            kernels.append(_designed(sfreq, tuple(high), tuple(low), **falls))
            done.append(f"notch at {', '.join(f'{frequency:g}' for frequency in mains)} Hz")
        else:
            history.append(f"No notch: {config.notch:g} Hz lies above the low-pass.")
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


def _usable_stretches(
    signal: npt.NDArray[np.float64],
    borders: npt.NDArray[np.int64],
    lost: dict[str, npt.NDArray[np.bool_]],
    config: PreprocessingConfig,
    dropped: dict[str, float],
) -> tuple[tuple[int, int], ...]:
    """Return the maximal runs of usable samples within pieces; add what is lost to `dropped`."""
    usable = np.ones(signal.shape[1], bool)
    causes = dict(lost)
    if config.max_amplitude is not None:
        height = np.abs(signal).max(axis=0, initial=0.0)
        causes["amplitude"] = height >= config.max_amplitude
    for cause, samples in causes.items():  # a sample counts for its first cause
        dropped[cause] = float(np.count_nonzero(samples & usable) / config.sfreq)
        usable &= ~samples
    inside = [int(border) for border in borders if 0 < border < len(usable)]
    runs = []
    for first, last in pairwise([0, *inside, len(usable)]):
        changes = np.flatnonzero(np.diff(usable[first:last], prepend=False, append=False))
        runs += [(first + a, first + b) for a, b in changes.reshape(-1, 2).tolist()]
    long = [(a, b) for a, b in runs if b - a >= _SHORTEST_STRETCH * config.sfreq]
    short = sum(b - a for a, b in runs) - sum(b - a for a, b in long)
    dropped["stretch under 1 s"] = short / config.sfreq
    return tuple(long)


def _sum_up(dropped: dict[str, float]) -> str:
    """Say the seconds by cause: "amplitude 3.2 s, stretch under 1 s 0.4 s"."""
    return ", ".join(
        f"{cause} {seconds:.1f} s" for cause, seconds in dropped.items() if seconds > 0.05
    )
