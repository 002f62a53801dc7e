"""Make recordings comparable and remember what was done.

::

    Recording ─► channels ─► reference ─► filter ─► resample ─► cut the ends ─► usable stretches
                                 (one zero-phase FIR kernel)                       (Prepared)

The ends are cut after filtering, so that the filter's edge effects lie in what is cut.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
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
    KeptOut,
    Recording,
    RejectedError,
    compile_subject_pattern,
)

__all__ = ["Prepared", "PreprocessingConfig", "RejectedError", "preprocess"]

_SHORTEST_STRETCH = 1.0  # seconds


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
    cut_start, cut_end : float
        Seconds to cut at the ends.
    min_duration : float
        Recordings shorter than this many seconds, before cutting, are rejected.
    subject_pattern : str or None
        As in `berger.recordings.read_recording`.
    """

    sfreq: float = Field(200.0, gt=0)
    highpass: float | None = Field(0.3, gt=0)
    lowpass: float | None = Field(75.0, gt=0)
    notch: float | None = Field(None, gt=0)
    reference: Literal["as recorded", "average"] = "as recorded"
    ch_names: tuple[str, ...] | None = Field(None, min_length=1)
    max_amplitude: float | None = Field(100.0, gt=0)
    cut_start: float = Field(0.0, ge=0)
    cut_end: float = Field(0.0, ge=0)
    min_duration: float = Field(0.0, ge=0)
    subject_pattern: str | None = None

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
        a channel missing, values that are not finite, nothing left.
    """
    _check_admitted(recording, config)
    history: list[str] = []
    duration = recording.duration

    if config.ch_names is not None:
        recording = _pick(recording, config.ch_names)
        history.append(f"Kept {len(recording.ch_names)} channels: {', '.join(recording.ch_names)}.")
    signal = recording.signal
    if config.reference == "average":
        if len(signal) == 1:
            raise RejectedError(
                f"{recording.path}: has one channel, {recording.ch_names[0]}, and would be silent "
                "against its own average; set reference to 'as recorded'."
            )
        signal = signal - signal.mean(axis=0)
        history.append(f"Referenced to the average of {len(signal)} channels.")
    signal = _filter(signal, recording, config, history)
    signal = _resample(signal, recording.sfreq, config, history)

    sfreq = config.sfreq
    dropped = {"less than a sample": duration - signal.shape[1] / sfreq}
    start = math.ceil(config.cut_start * sfreq - 1e-6)
    stop = signal.shape[1] - math.ceil(config.cut_end * sfreq - 1e-6)
    if start or stop < signal.shape[1]:
        dropped["first and last seconds"] = (signal.shape[1] - max(stop - start, 0)) / sfreq
        history.append(
            f"Cut {config.cut_start:g} s at the start and {config.cut_end:g} s at the end."
        )
    signal = np.ascontiguousarray(signal[:, start : max(stop, start)])

    stretches = _usable_stretches(signal, config, dropped)
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
                replace(annotation, onset=annotation.onset - offset)
                for annotation in recording.annotations
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
    bad = int(np.count_nonzero(~np.isfinite(recording.signal)))
    if bad:
        # A single one would spread over the length of the filter.
        raise RejectedError(
            f"{path}: holds {bad} values that are not finite; export the file without gaps."
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
    return replace(
        recording,
        signal=recording.signal[picks],
        ch_names=tuple(recording.ch_names[index] for index in picks),
        original_ch_names=tuple(recording.original_ch_names[index] for index in picks),
        kept_out=recording.kept_out
        + tuple(
            KeptOut(name, "not asked for")
            for index, name in enumerate(recording.original_ch_names)
            if index not in picks
        ),
    )


def _band_edge(sfreq: float, config: PreprocessingConfig) -> tuple[float | None, float]:
    """Return the low-pass in effect and the frequency from which on nothing is left, in Hz."""
    nyquist = min(sfreq, config.sfreq) / 2
    lowpass = config.lowpass
    if lowpass is None and sfreq > config.sfreq:
        lowpass = 0.9 * nyquist
    return lowpass, nyquist if lowpass is None else min(1.25 * lowpass, nyquist)


def _filter(
    signal: npt.NDArray[np.float64],
    recording: Recording,
    config: PreprocessingConfig,
    history: list[str],
) -> npt.NDArray[np.float64]:
    """Apply high-pass, low-pass and notch as one zero-phase FIR kernel that MNE designs."""
    sfreq = recording.sfreq
    lowpass, edge = _band_edge(sfreq, config)
    design = {"fir_design": "firwin", "fir_window": "hamming", "phase": "zero", "verbose": "ERROR"}
    kernels, done = [], []
    if config.notch is not None:
        mains = np.arange(config.notch, min(edge, sfreq / 2 - 1), config.notch)
        if mains.size:
            # Half a hertz down, a flat bottom of 0.5 % of the frequency, half a hertz up.
            low, high = mains * 0.9975 - 0.5, mains * 1.0025 + 0.5
            kernels.append(
                mne.filter.create_filter(
                    None, sfreq, high, low, l_trans_bandwidth=0.5, h_trans_bandwidth=0.5, **design
                )
            )
            done.append(f"notch at {', '.join(f'{frequency:g}' for frequency in mains)} Hz")
        else:
            history.append(f"No notch: {config.notch:g} Hz lies above the low-pass.")
    if config.highpass is not None or lowpass is not None:
        kernels.append(
            mne.filter.create_filter(
                None,
                sfreq,
                config.highpass,
                lowpass,
                h_trans_bandwidth="auto" if lowpass is None else edge - lowpass,
                **design,
            )
        )
        if config.highpass is not None:
            done.append(f"high-pass {config.highpass:g} Hz")
        if lowpass is not None:
            done.append(f"low-pass {lowpass:g} Hz (−6 dB at {(lowpass + edge) / 2:g} Hz)")
    if not kernels:
        return signal
    kernel = kernels[0] if len(kernels) == 1 else np.convolve(*kernels)
    seconds = len(kernel) / sfreq
    if len(kernel) > signal.shape[1]:
        raise RejectedError(
            f"{recording.path}: lasts {recording.duration:.1f} s, less than the {seconds:.1f} s "
            "of the filter; raise highpass, lower lowpass or leave out notch."
        )
    half = len(kernel) // 2
    padded = np.pad(signal, ((0, 0), (half, half)), mode="reflect", reflect_type="odd")
    history.append(
        f"Filtered by a zero-phase FIR kernel (windowed sinc, Hamming, {seconds:.1f} s): "
        f"{', '.join(done)}."
    )
    return np.asarray(dsp.oaconvolve(padded, kernel[np.newaxis], mode="valid", axes=1))


def _resample(
    signal: npt.NDArray[np.float64], sfreq: float, config: PreprocessingConfig, history: list[str]
) -> npt.NDArray[np.float64]:
    """Resample a signal that holds nothing above the band's edge, to whole samples.

    Polyphase, exact to a hundred-millionth in rate; a whole sample is one that ends before the
    recording does.
    """
    ratio = Fraction(config.sfreq / sfreq).limit_denominator(10_000)
    up, down = ratio.numerator, ratio.denominator
    if ratio == 1:
        return signal
    history.append(f"Resampled from {sfreq:g} to {config.sfreq:g} Hz (polyphase, {up}/{down}).")
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
    signal: npt.NDArray[np.float64], config: PreprocessingConfig, dropped: dict[str, float]
) -> tuple[tuple[int, int], ...]:
    """Return the maximal runs of usable samples; add what is lost to `dropped`."""
    usable = np.ones(signal.shape[1], bool)
    if config.max_amplitude is not None:
        usable = np.abs(signal).max(axis=0, initial=0.0) < config.max_amplitude
        dropped["amplitude"] = np.count_nonzero(~usable) / config.sfreq
    changes = np.diff(usable.astype(np.int8), prepend=0, append=0)
    runs = np.flatnonzero(changes).reshape(-1, 2)
    lengths = np.diff(runs, axis=1)[:, 0]
    long = lengths >= _SHORTEST_STRETCH * config.sfreq
    dropped["stretch under 1 s"] = float(lengths[~long].sum() / config.sfreq)
    return tuple((int(start), int(stop)) for start, stop in runs[long])


def _sum_up(dropped: dict[str, float]) -> str:
    """Say the seconds by cause: "amplitude 3.2 s, stretch under 1 s 0.4 s"."""
    return ", ".join(
        f"{cause} {seconds:.1f} s" for cause, seconds in dropped.items() if seconds > 0.05
    )
