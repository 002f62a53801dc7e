"""All steps from a recording to what can be used of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from berger.preprocessing.admission import check_admitted, check_plausible, pick, taken
from berger.preprocessing.bad_channels import (
    check_bad,
    check_one_unit,
    find_broken,
    find_deviating,
    tell_still,
    treat_bad,
)
from berger.preprocessing.config import PreprocessingConfig
from berger.preprocessing.filtering import filter_and_resample
from berger.preprocessing.reference import rereference
from berger.preprocessing.stretches import marked_as_bad, sum_up, usable_stretches
from berger.recordings import Gap, Recording, RejectedError


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
    interpolated : tuple of str
        Electrodes that were computed from others.
    """

    recording: Recording
    offset: float
    stretches: tuple[tuple[int, int], ...]
    dropped: dict[str, float]
    history: tuple[str, ...]
    interpolated: tuple[str, ...] = ()


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
    check_admitted(recording, config)
    history: list[str] = []
    duration = recording.duration

    if config.ch_names is not None:
        recording = pick(recording, config.ch_names, config.besides)
        names = recording.ch_names[: len(config.ch_names)]
        history.append(f"Kept {len(names)} channels: {', '.join(names)}.")
    check_plausible(recording, config)
    bad, unsound = find_broken(recording, config)
    check_bad(recording, bad, config)
    well = [index for index in range(len(recording.ch_names)) if index not in bad]
    sound = taken(recording, well, {}) if bad else recording
    check_one_unit(sound, config)
    tell_still(sound, history)
    joined = filter_and_resample(
        sound.signal,
        {cause: np.asarray(mask[well].any(axis=0)) for cause, mask in unsound.items()},
        sound,
        config,
        history,
    )
    borders, signal = joined.borders, joined.signal
    sound = replace(sound, signal=signal, sfreq=config.sfreq)
    marked = marked_as_bad(recording, joined, history)
    usable = ~np.logical_or.reduce([marked, *joined.lost.values()])
    deviating = find_deviating(sound, usable, config, history)
    bad |= {well[place]: reason for place, reason in deviating.items()}
    if bad:
        signal = np.zeros((len(recording.ch_names), signal.shape[1]))
        signal[well] = joined.signal
    recording = replace(recording, signal=signal, sfreq=config.sfreq)
    recording, interpolated = treat_bad(recording, bad, config, history)
    recording = rereference(recording, interpolated, config, history)
    signal = recording.signal

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
    lost = {
        cause: mask[start:stop] for cause, mask in (joined.lost | {"marked as bad": marked}).items()
    }

    stretches = usable_stretches(signal, borders - start, lost, config, dropped)
    if not stretches:
        raise RejectedError(
            f"{recording.path}: nothing is left of {duration:.1f} s "
            f"({sum_up(dropped)}); relax what is cut or the amplitude allowed."
        )
    kept = sum(stop - start for start, stop in stretches) / sfreq
    dropped = {cause: seconds for cause, seconds in dropped.items() if seconds > 1e-9}
    plural = "stretch" if len(stretches) == 1 else "stretches"
    history.append(
        f"Kept {kept:.1f} of {duration:.1f} s in {len(stretches)} {plural}"
        + (f"; dropped {lost_by_cause}." if (lost_by_cause := sum_up(dropped)) else ".")
    )
    offset = start / sfreq
    return Prepared(
        recording=replace(
            recording,
            signal=signal,
            sfreq=sfreq,
            bads=(),
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
        interpolated=interpolated,
    )
