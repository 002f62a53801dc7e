"""Hypnograms of the Sleep-EDF Database Expanded, with the wake around the night marked off.

A cassette runs for some twenty hours, most of them awake. Common practice keeps half an hour of
wake on either side of the night.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from berger.errors import BergerError
from berger.recordings import Annotation
from berger.tasks.readers.told import Told
from berger.tasks.tables import file_beside, read_edf_hypnogram

WAKE_SECONDS = 1800.0
"""Wake that is kept before the first and after the last epoch of sleep."""
FAR_FROM_SLEEP = "wake more than 30 min from sleep"

_WAKE = "Sleep stage W"
_SLEEP = frozenset(f"Sleep stage {stage}" for stage in "1234R")
# SC4001E0-PSG.edf and SC4001EC-Hypnogram.edf: the last letter is the scorer's.
_OWN, _BESIDE = r"^(?P<stem>S[CT]\d{4})", "{stem}??-Hypnogram.edf"


def read(path: Path, annotations: Sequence[Annotation]) -> list[Told]:
    """Return the stages in the hypnogram beside a recording.

    Parameters
    ----------
    path : Path
        ``*-PSG.edf``.
    annotations : sequence of Annotation
        Not used.

    Returns
    -------
    list of Told
        One annotation covers many epochs. Wake that begins or goes on more than `WAKE_SECONDS`
        before the first or after the last epoch of sleep is `FAR_FROM_SLEEP` there.

    Raises
    ------
    BergerError
        If there is no hypnogram, or it cannot be read or begins at another time.
    """
    hypnogram = file_beside(path, _BESIDE, _OWN)
    if hypnogram is None:
        raise BergerError(
            f"{path}: no file {path.name[:6]}??-Hypnogram.edf lies beside it; put it there."
        )
    stages = read_edf_hypnogram(hypnogram, path)
    asleep = [mark for mark in stages if mark.description in _SLEEP]
    first = min((mark.onset for mark in asleep), default=float("inf")) - WAKE_SECONDS
    last = max((mark.onset + mark.duration for mark in asleep), default=0.0) + WAKE_SECONDS
    told = []
    for mark in stages:
        end = mark.onset + mark.duration
        if mark.description != _WAKE:
            told.append(Told(mark.onset, mark.duration, mark.description))
            continue
        begin_near = min(max(mark.onset, first), end)
        end_near = max(min(end, last), begin_near)
        told += [
            Told(start, stop - start, value)
            for start, stop, value in (
                (mark.onset, begin_near, FAR_FROM_SLEEP),
                (begin_near, end_near, _WAKE),
                (end_near, end, FAR_FROM_SLEEP),
            )
            if stop > start
        ]
    return told
