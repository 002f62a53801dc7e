"""Vigilance of SEED-VIG: the share of time with closed eyes (PERCLOS), every 8 s."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from berger.errors import BergerError
from berger.recordings import Annotation, read_matlab
from berger.tasks.readers.told import Told

FOLDER = "perclos_labels"
SECONDS = 8.0


def read(path: Path, annotations: Sequence[Annotation]) -> list[Told]:
    """Tell the PERCLOS of every 8 s from the file's beginning.

    Parameters
    ----------
    path : Path
        ``Raw_Data/NAME.mat``; its labels are ``perclos_labels/NAME.mat`` beside that folder.
    annotations : sequence of Annotation
        Not used.

    Raises
    ------
    BergerError
        If the labels are missing, or one is no share from 0 to 1.
    """
    file = path.parent.parent / FOLDER / path.name
    if not file.is_file():
        raise BergerError(f"{path}: its labels, {file}, are missing; fetch them too.")
    content = read_matlab(file)
    shares = np.atleast_1d(np.asarray(content.get("perclos")))
    if shares.dtype.kind not in "iuf" or shares.ndim != 1 or not len(shares):
        raise BergerError(f"{file}: has no list of numbers called perclos; fetch it again.")
    wrong = np.flatnonzero(~((shares >= 0) & (shares <= 1)))  # NaN too
    if len(wrong):
        raise BergerError(
            f"{file}: perclos {wrong[0] + 1} is {shares[wrong[0]]:g}, no share from 0 to 1; "
            "fetch it again."
        )
    return [Told(SECONDS * i, SECONDS, repr(share)) for i, share in enumerate(shares.tolist())]
