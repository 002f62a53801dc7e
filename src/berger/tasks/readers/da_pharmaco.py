"""What mice were injected with, by the names of the files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from berger.errors import BergerError
from berger.recordings import Annotation
from berger.tasks.readers.told import Told

AFTER: Final = 5 * 60.0
"""Seconds from the injection on that are not used."""
LASTING: Final = 40 * 60.0


def read(path: Path, annotations: Sequence[Annotation]) -> list[Told]:
    """Tell the treatment from 5 to 45 min after the injection.

    Parameters
    ----------
    path : Path
        ``ANIMAL_…_TREATMENT.mat``.
    annotations : sequence of Annotation
        The injection, as the task's layout reads it, and nothing else.

    Raises
    ------
    BergerError
        If the name has no treatment, or there is not one injection.
    """
    named = re.fullmatch(r"\d+_(?:.*_)?([^_]+)", path.stem)
    if named is None:
        raise BergerError(
            f"{path}: its name does not say the treatment; call it ANIMAL_..._TREATMENT.mat, e.g. "
            "303_Day2_Amph.mat."
        )
    if len(annotations) != 1:
        raise BergerError(
            f"{path}: has {len(annotations)} injections (Ephys.TimeStamps.Post_Inj_Start) instead "
            "of one; correct it, or leave the file out."
        )
    return [Told(annotations[0].onset + AFTER, LASTING, named[1], by_clock=False)]
