"""Data sets 2a and 2b of BCI Competition IV as BNCI Horizon 2020 distributes them.

Each ``.mat`` file holds cells: in 2a a run each, in 2b a session each. A cell has the signal, the
first sample of every trial, its class and whether an expert saw an artefact in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from berger.errors import BergerError
from berger.recordings import Annotation, read_matlab
from berger.tasks.readers.told import Told

SFREQ = 250.0


def read_2a(path: Path, annotations: Sequence[Annotation]) -> list[Told]:
    """Return the imagery from the cue, 2 s after a trial begins, to its end at 6 s.

    Parameters
    ----------
    path : Path
        ``A01T.mat``, say.
    annotations : sequence of Annotation
        "trial 1" and so on where each cell begins, as the task's layout makes them.

    Returns
    -------
    list of Told
        "1" to "4", of trials with an artefact "1 artefact" to "4 artefact".

    Raises
    ------
    BergerError
        If the file is of another form, or its lists do not go together.
    """
    return _trials(path, annotations, cue=2.0, end=6.0)


def read_2b(path: Path, annotations: Sequence[Annotation]) -> list[Told]:
    """Return the imagery from the cue, 3 s after a trial begins, to its end at 7 s.

    Parameters
    ----------
    path : Path
        ``B01T.mat``, say.
    annotations : sequence of Annotation
        As in `read_2a`.

    Returns
    -------
    list of Told
        "1" and "2", of trials with an artefact "1 artefact" and "2 artefact".

    Raises
    ------
    BergerError
        As `read_2a`.
    """
    return _trials(path, annotations, cue=3.0, end=7.0)


def _trials(path: Path, annotations: Sequence[Annotation], cue: float, end: float) -> list[Told]:
    begins = {mark.description: mark.onset for mark in annotations}
    told = []
    for number, cell in enumerate(_cells(path), start=1):
        where = f"{path}: cell {number} of data"
        first, classes, artefacts = (_whole_numbers(cell, key, where) for key in _LISTS)
        if not len(first) == len(classes) == len(artefacts):
            raise BergerError(
                f"{where} has {len(first)} trials, {len(classes)} classes and {len(artefacts)} "
                "artefacts; fetch it again."
            )
        if float(np.squeeze(cell.get("fs", 0))) != SFREQ:
            raise BergerError(f"{where} does not have {SFREQ:g} Hz; fetch it again.")
        if len(first) and (first.min() < 1 or first.max() > len(cell["X"])):
            raise BergerError(f"{where} has trials that begin outside its signal; fetch it again.")
        for sample, label, artefact in zip(first, classes, artefacts, strict=True):
            onset = begins[f"trial {number}"] + (sample - 1) / SFREQ + cue  # MATLAB counts from 1
            value = f"{label} artefact" if artefact else str(label)
            told.append(Told(float(onset), end - cue, value, by_clock=False))
    return told


_LISTS = ("trial", "y", "artifacts")


def _cells(path: Path) -> list[Mapping[str, Any]]:
    data = read_matlab(path).get("data")
    cells = [data] if isinstance(data, Mapping) else data  # SciPy unpacks a cell that is alone
    if not isinstance(cells, list) or not all(isinstance(cell, Mapping) for cell in cells):
        raise BergerError(
            f"{path}: has no cells of structures called data (a file of this name with classlabel "
            "belongs to the GDF files); fetch it from BNCI Horizon 2020."
        )
    return cells


def _whole_numbers(cell: Mapping[str, Any], key: str, where: str) -> npt.NDArray[np.int64]:
    """Return a list in a cell, empty for a block without trials."""
    values = np.atleast_1d(np.asarray(cell.get(key, "missing"))).ravel()
    if values.dtype.kind not in "iufb" or (values % 1 != 0).any():
        raise BergerError(f"{where} has no whole numbers called {key}; fetch it again.")
    return values.astype(np.int64)
