"""Summaries of the CHB-MIT Scalp EEG Database.

A case's folder holds one summary of its files, ``chb01-summary.txt``::

    File Name: chb01_03.edf
    File Start Time: 13:43:04
    File End Time: 14:43:04
    Number of Seizures in File: 1
    Seizure Start Time: 2996 seconds
    Seizure End Time: 3036 seconds

Seconds count from the file's beginning; the clock, whose hours go beyond 24, is not used. Starts
and ends belong together by their order: numbers ("Seizure 1 End Time") are sometimes wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from berger.errors import BergerError
from berger.recordings import Annotation
from berger.tasks.readers.told import Told

SEIZURE = "seizure"

_CASE = re.compile(r"(chb\d\d)[a-z]?_")
_FILE = re.compile(r"\s*File Name:\s*(?P<name>\S+)\s*$", re.IGNORECASE)
_COUNT = re.compile(r"\s*Number of Seizures in File:\s*(?P<count>\d+)\s*$", re.IGNORECASE)
_SEIZURE = re.compile(
    r"\s*Seizure\s*\d*\s+(?P<edge>Start|End) Time:\s*(?P<seconds>\d+)\s*seconds?\s*$", re.IGNORECASE
)
_UNLISTED = "chb24"  # added later; ten of its files are in no summary


def read(path: Path, annotations: Sequence[Annotation]) -> list[Told]:
    """Return the seizures of a recording.

    Parameters
    ----------
    path : Path
        ``chb01_03.edf``, in the folder of the case's summary.
    annotations : sequence of Annotation
        Not used.

    Returns
    -------
    list of Told
        Empty for files without seizures, and for those of chb24 that its summary does not list.

    Raises
    ------
    BergerError
        If the summary is missing or cannot be understood, does not list the file, counts other
        seizures than it lists, or has one that does not lie in the recording.
    """
    case = _CASE.match(path.name)
    if case is None:
        raise BergerError(f"{path}: is not called like chb01_03.edf; rename it as distributed.")
    summary = path.with_name(f"{case[1]}-summary.txt")
    try:
        lines = summary.read_text(encoding="latin-1").splitlines()
    except OSError as error:
        raise BergerError(
            f"{summary}: cannot be read ({error.strerror}); put the summary of {case[1]} there, as "
            "it is distributed."
        ) from error
    listed, announced = False, 0
    edges: list[tuple[str, int, int]] = []  # start or end, second, line
    name = ""
    for number, line in enumerate(lines, start=1):
        if found := _FILE.match(line):
            name = found["name"]
            listed |= name == path.name
        elif found := _COUNT.match(line):
            announced += int(found["count"]) * (name == path.name)
        elif found := _SEIZURE.match(line):
            if name == path.name:
                edges.append((found["edge"].lower(), int(found["seconds"]), number))
        elif "seizure" in line.lower():
            raise BergerError(f"{summary}: line {number} is not understood: {line.strip()!r}.")
    if not listed and case[1] != _UNLISTED:
        raise BergerError(
            f"{summary}: does not list {path.name}; correct it, or leave the recording out."
        )
    starts, ends = edges[::2], edges[1::2]
    if len(edges) != 2 * announced or any(
        (start[0], end[0]) != ("start", "end") for start, end in zip(starts, ends, strict=True)
    ):
        raise BergerError(
            f"{summary}: says that {path.name} has {announced} seizures, but does not list as many "
            "starts, each with its end; correct it."
        )
    length = _length(path)
    told = []
    for (_, start, number), (_, end, _) in zip(starts, ends, strict=True):
        if not start < min(end, length):
            raise BergerError(
                f"{summary}: line {number} has a seizure from {start} to {end} s, which does not "
                f"begin in {path.name} ({length:g} s) or ends before; correct it."
            )
        told.append(Told(float(start), float(end - start), SEIZURE))
    return told


def _length(path: Path) -> float:
    """Return the seconds that an EDF file's header announces."""
    try:
        with path.open("rb") as file:
            fixed = file.read(256)
        return int(fixed[236:244]) * float(fixed[244:252])
    except (OSError, ValueError) as error:
        raise BergerError(
            f"{path}: its header does not say how long it is ({' '.join(str(error).split())}); "
            "fetch it again."
        ) from error
