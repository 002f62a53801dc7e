"""EEG Motor Movement/Imagery: cues whose meaning depends on the run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from berger.errors import BergerError
from berger.recordings import Annotation
from berger.tasks.readers.told import Told

_ONE_HAND = {3, 4, 7, 8, 11, 12}
_BOTH = {5, 6, 9, 10, 13, 14}


def read(path: Path, annotations: Sequence[Annotation]) -> list[Told]:
    """Return the cues of a run: rest, and left or right fist, or both fists or both feet.

    Parameters
    ----------
    path : Path
        Named as ``S001R04.edf``, which says the run; whether it is done or imagined is not told.
    annotations : sequence of Annotation
        T0, T1 and T2; others are not used.

    Raises
    ------
    BergerError
        If the name says no run that has a task.
    """
    named = re.search(r"R(\d\d)\.", path.name)
    run = int(named[1]) if named else 0
    if run not in _ONE_HAND | _BOTH:
        raise BergerError(
            f"{path}: its name says no run with a task (S001R03 to S001R14), without which T1 and "
            "T2 mean nothing; give it the name it had."
        )
    first, second = ("left", "right") if run in _ONE_HAND else ("fists", "feet")
    meaning = {"T0": "rest", "T1": first, "T2": second}
    return [
        Told(mark.onset, mark.duration, meaning[mark.description], by_clock=False)
        for mark in annotations
        if mark.description in meaning
    ]
