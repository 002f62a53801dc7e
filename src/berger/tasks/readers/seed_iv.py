"""Emotions of SEED-IV: which film each of a session's 24 trials is, the same for everybody."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from berger.errors import BergerError
from berger.recordings import Annotation
from berger.tasks.readers.told import Told

EMOTIONS: Final = {
    "1": "123020010121112322330303",
    "2": "213002023323201121030131",
    "3": "122133311210233023002010",
}
"""Session → the emotion of each trial: neutral 0, sad 1, fear 2, happy 3."""


def read(path: Path, annotations: Sequence[Annotation]) -> list[Told]:
    """Tell the emotion of every trial.

    Parameters
    ----------
    path : Path
        ``…/SESSION/SUBJECT_DATE.mat``: nothing but the folder says which session it is.
    annotations : sequence of Annotation
        One per trial, as the task's layout makes them.

    Raises
    ------
    BergerError
        If the folder is no session, or the trials are not 1 to 24.
    """
    named = re.fullmatch(r"(?:session[ _-]?)?([123])", path.parent.name, re.IGNORECASE)
    if named is None:
        raise BergerError(
            f"{path}: lies in {path.parent.name!r}, but only its folder says which films were "
            "shown; put it into 1, 2 or 3 as distributed."
        )
    emotions = EMOTIONS[named[1]]
    trials = [mark for mark in annotations if re.fullmatch(r"trial \d+", mark.description)]
    numbers = [int(mark.description.split()[1]) for mark in trials]
    if numbers != [*range(1, len(emotions) + 1)]:
        lacking = sorted({*range(1, len(emotions) + 1)} - {*numbers})
        told = f"lacks trial {lacking[0]}" if lacking else f"has {len(numbers)} trials"
        raise BergerError(
            f"{path}: {told}, but a session has {len(emotions)} (arrays ..._eeg1 to "
            f"..._eeg{len(emotions)}); fetch it again."
        )
    return [
        Told(mark.onset, mark.duration, emotion, by_clock=False)
        for mark, emotion in zip(trials, emotions, strict=True)
    ]
