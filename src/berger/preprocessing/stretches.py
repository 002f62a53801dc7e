"""Find the stretches of a prepared recording that can be used."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from berger.preprocessing.config import PreprocessingConfig
from berger.preprocessing.filtering import Joined
from berger.recordings import Recording

SHORTEST_STRETCH = 1.0
"""Seconds; what is shorter is not used."""


def usable_stretches(
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
    long = [(a, b) for a, b in runs if b - a >= SHORTEST_STRETCH * config.sfreq]
    short = sum(b - a for a, b in runs) - sum(b - a for a, b in long)
    dropped["stretch under 1 s"] = short / config.sfreq
    return tuple(long)


def marked_as_bad(
    recording: Recording, joined: Joined, history: list[str]
) -> npt.NDArray[np.bool_]:
    """Return which samples of the joined signal lie in time that somebody has marked as bad.

    By MNE's convention such marks begin with BAD ("BAD_muscle", "BAD blink"). What goes on with a
    letter, or is written small, may be a stimulus or an answer.
    """
    marked = np.zeros(joined.signal.shape[1], bool)
    marks = [
        mark
        for mark in recording.annotations
        if mark.duration > 0 and re.match(r"BAD(?![A-Za-z])", mark.description)
    ]
    for mark in marks:
        start = joined.moved(mark.onset) * joined.new_sfreq
        end = joined.moved(mark.onset + mark.duration) * joined.new_sfreq
        marked[max(math.floor(start + 1e-6), 0) : max(math.ceil(end - 1e-6), 0)] = True
    if marks:
        kinds = ", ".join(sorted({mark.description for mark in marks}))
        history.append(f"Left out the time that {len(marks)} annotations mark as bad: {kinds}.")
    return marked


def sum_up(dropped: dict[str, float]) -> str:
    """Say the seconds by cause: "amplitude 3.2 s, stretch under 1 s 0.4 s"."""
    return ", ".join(
        f"{cause} {seconds:.1f} s" for cause, seconds in dropped.items() if seconds > 0.05
    )
