"""Lists of seizures of the Siena Scalp EEG Database.

A patient's folder holds one list, ``Seizures-list-PN00.txt``, of all seizures in all its files::

    Seizure n 1
    File name: PN00-1.edf
    Registration start time: 19.39.33
    Registration end time:  20.22.58
    Seizure start time: 19.58.36
    Seizure end time: 19.59.46

All times are of day. The lists were typed by hand: hours are separated by full stops or colons,
"Seizure" is missing before "start time", the file is named once for several seizures, named
without its number or with the letter O for a zero, and a seizure may have two onsets. Seconds
count from the start in the recording's header, since the lists are twice wrong about it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from berger.errors import BergerError
from berger.recordings import Annotation
from berger.tasks.readers.told import Told

SEIZURE = "seizure"

_DAY = 86_400
_FILE = re.compile(r"\s*file\s*name\s*:\s*(?P<name>\S.*?)\s*$", re.IGNORECASE)
_TIME = re.compile(
    r"\s*(?P<what>registration|seizure)?\s*(?P<edge>start|end)\s*time\s*:\s*(?P<clock>.*)$",
    re.IGNORECASE,
)
_CLOCK = re.compile(r"(\d{1,2})[.:](\d{2})[.:](\d{2})(?!\d)")

# An hour too late, which lies beyond the end of the recording.
_END_MISTYPED = {("PN00-3.edf", "19.29.29"): "18.29.29"}
# The headers say 19.17.45 and 06.01.13, which the seizures fit.
_START_MISTYPED = {("PN14-3.edf", "16.17.45"), ("PN05-3.edf", "06.01.23")}


@dataclass(frozen=True)
class _Entry:
    """A seizure as the list has it: its file, and lines with their numbers."""

    file: str
    registered: tuple[int, str] | None
    start: tuple[int, str]
    end: tuple[int, str]


def read(path: Path, annotations: Sequence[Annotation]) -> list[Told]:
    """Return the seizures of a recording; where the list has two times for one, by the first.

    That is the clinical onset of the seizure in PN10-3.

    Parameters
    ----------
    path : Path
        ``PN00-1.edf``, in the folder of the patient's list.
    annotations : sequence of Annotation
        Not used.

    Raises
    ------
    BergerError
        If the list is missing or cannot be understood, names no seizure of the recording, or one
        that does not lie in it.
    """
    return _seizures(path, reading=0)


def read_second(path: Path, annotations: Sequence[Annotation]) -> list[Told]:
    """Return the seizures as `read`, but where the list has two times for one, by the last.

    That is the electric onset of the seizure in PN10-3, and 11.40.43 as the end of that in PN10-2.

    Raises
    ------
    BergerError
        As `read`.
    """
    return _seizures(path, reading=-1)


def _seizures(path: Path, reading: int) -> list[Told]:
    patient = path.name.partition("-")[0]
    listed = path.with_name(f"Seizures-list-{patient}.txt")
    begin, length = _extent(path)
    entries = _entries(listed)
    own = [entry for entry in entries if entry.file == path.name]
    if not own:
        others = ", ".join(sorted({entry.file for entry in entries})) or "no file"
        raise BergerError(
            f"{listed}: names no seizure of {path.name}, only of {others}; correct the list, or "
            "leave the recording out."
        )
    told = []
    for entry in own:
        if entry.registered is not None:
            number, text = entry.registered
            clock = _clocks(listed, number, text)[0]
            if _seconds(clock) != begin and (path.name, clock) not in _START_MISTYPED:
                raise BergerError(
                    f"{listed}: line {number} has {path.name} begin at {clock}, but its header "
                    f"says {_text(begin)}; fetch both again as they are distributed."
                )
        start = _clocks(listed, *entry.start)[reading]
        end = _clocks(listed, *entry.end)[reading]
        end = _END_MISTYPED.get((path.name, end), end)
        onset = (_seconds(start) - begin) % _DAY
        duration = (_seconds(end) - _seconds(start)) % _DAY
        if not duration or onset + duration > length:
            raise BergerError(
                f"{listed}: line {entry.start[0]} has a seizure from {start} to {end}, which does "
                f"not lie in {path.name} ({length:g} s from {_text(begin)}); correct the list."
            )
        told.append(Told(float(onset), float(duration), SEIZURE))
    return told


def _extent(path: Path) -> tuple[int, float]:
    """Return the time of day at which an EDF file begins, and its length; in seconds."""
    try:
        with path.open("rb") as file:
            fixed = file.read(256).decode("latin-1")
        hours, minutes, seconds = map(int, fixed[176:184].split("."))
        length = int(fixed[236:244]) * float(fixed[244:252])
    except (OSError, ValueError) as error:
        raise BergerError(
            f"{path}: its header does not say when it begins ({' '.join(str(error).split())}); "
            "fetch it again."
        ) from error
    return hours * 3600 + minutes * 60 + seconds, length


def _entries(path: Path) -> list[_Entry]:
    try:
        lines = path.read_text(encoding="latin-1").splitlines()
    except OSError as error:
        raise BergerError(
            f"{path}: cannot be read ({error.strerror}); put the patient's list of seizures there, "
            "as it is distributed."
        ) from error
    entries: list[_Entry] = []
    file: str | None = None
    registered: tuple[int, str] | None = None
    start: tuple[int, str] | None = None
    for number, line in enumerate(lines, start=1):
        if found := _FILE.match(line):
            file, registered = _file_name(found["name"]), None
        elif found := _TIME.match(line):
            text = (number, found["clock"])
            begins = found["edge"].lower() == "start"
            if (found["what"] or "").lower() == "registration":
                registered = text if begins else registered
            elif begins == (start is not None) or file is None:
                lacking = "file" if file is None else "end" if begins else "start"
                raise BergerError(
                    f"{path}: line {number} has the time of a seizure without its {lacking} "
                    "before; correct the list."
                )
            elif start is None:
                start = text
            else:
                entries.append(_Entry(file, registered, start, text))
                start = None
        elif "time" in line.lower():
            raise BergerError(f"{path}: line {number} is not understood: {line.strip()!r}.")
    if start is not None:
        raise BergerError(
            f"{path}: line {start[0]} begins a seizure that has no end; correct the list."
        )
    return entries


def _file_name(listed: str) -> str:
    """Return the name that a file has, of the name that it is given."""
    name = re.sub(r"^PNO", "PN0", listed)  # the letter
    alone = re.fullmatch(r"(PN\d\d)-?\.edf", name)  # the number of a patient's only file is lacking
    return f"{alone[1]}-1.edf" if alone else name


def _clocks(path: Path, number: int, text: str) -> list[str]:
    """Return the times of day in a line, as hh.mm.ss."""
    joined = re.sub(r"(?<=\d)\s+(?=\d)", "", text)  # "1 6.49.25"
    found = [
        f"{int(hours):02}.{minutes}.{seconds}" for hours, minutes, seconds in _CLOCK.findall(joined)
    ]
    if not found or any(_is_impossible(clock) for clock in found):
        raise BergerError(
            f"{path}: line {number} has {text.strip()!r}, which is no time of day; correct it."
        )
    return found


def _is_impossible(clock: str) -> bool:
    hours, minutes, seconds = map(int, clock.split("."))
    return hours > 23 or minutes > 59 or seconds > 59


def _seconds(clock: str) -> int:
    hours, minutes, seconds = map(int, clock.split("."))
    return hours * 3600 + minutes * 60 + seconds


def _text(seconds: int) -> str:
    return f"{seconds // 3600:02}.{seconds // 60 % 60:02}.{seconds % 60:02}"
