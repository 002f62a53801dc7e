"""ERP-based BCI recordings (erpbci): flashes of a speller's rows and columns, one letter a run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from berger.errors import BergerError
from berger.recordings import Annotation
from berger.tasks.readers.told import Told

N_LETTERS = 6
"""In a row or column."""


def read(path: Path, annotations: Sequence[Annotation]) -> list[Told]:
    """Return the flashes: "target" where the letter that was looked for is among those that flash.

    Parameters
    ----------
    path : Path
    annotations : sequence of Annotation
        ``#Tgt`` and the letter, once; the letters of a row or column at each flash; others begin
        with ``#``. Nothing is told of a run that does not say its letter.

    Raises
    ------
    BergerError
        If the run has two letters, or an annotation is neither a flash nor begins with ``#``.
    """
    named = {re.match(r"#Tgt(.)", mark.description) for mark in annotations} - {None}
    targets = sorted({found[1] for found in named if found is not None})
    if not targets:
        return []
    if len(targets) > 1:
        raise BergerError(
            f"{path}: has the targets {' and '.join(targets)}, but a run is of one letter; fetch "
            "it again."
        )
    told = []
    for mark in annotations:
        letters = mark.description
        if letters.startswith("#"):
            continue
        if len(set(letters)) != N_LETTERS or len(letters) != N_LETTERS:
            raise BergerError(
                f"{path}: the annotation {letters!r} at {mark.onset:g} s names no row or column of "
                f"{N_LETTERS} letters; fetch it again."
            )
        kind = "target" if targets[0] in letters else "other"
        told.append(Told(mark.onset, mark.duration, kind, by_clock=False))
    return told
