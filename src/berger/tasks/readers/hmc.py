"""Tables of sleep stages of the Haaglanden Medisch Centrum sleep staging database.

::

    Date, Time, Recording onset, Duration, Annotation, Linked channel
    2018-01-01, 23.00.00, 0, 30, Sleep stage W,
    2018-01-01, 23.00.10, 10.5, 0, Lights off, EEG F4-A1

Rows may end in a separator. Stages are told by the column "Recording onset", seconds from the
recording's beginning; the time of day is not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from berger.errors import BergerError
from berger.recordings import Annotation
from berger.tasks.readers.told import Told
from berger.tasks.tables import number_in

_ONSET, _DURATION, _TEXT = "Recording onset", "Duration", "Annotation"
_STAGE = "Sleep stage "
OUTSIDE = "not between lights off and lights on"


@dataclass(frozen=True)
class _Table:
    path: Path
    rows: list[Told]


def read(path: Path, annotations: Sequence[Annotation]) -> list[Told]:
    """Return the rows of the table beside a recording, stages and others.

    Parameters
    ----------
    path : Path
        ``SN001.edf``, beside which lies ``SN001_sleepscoring.txt``.
    annotations : sequence of Annotation
        Not used.

    Raises
    ------
    BergerError
        If the table is missing or lacks a column, or a row lacks a number.
    """
    return _table_of(path).rows


def read_between_lights(path: Path, annotations: Sequence[Annotation]) -> list[Told]:
    """Return the rows as `read`, but stages as `OUTSIDE` that are not wholly between lights.

    That is after the first "Lights off" and before the last "Lights on".

    Raises
    ------
    BergerError
        As `read`; and if one of the two is missing, or they are in the wrong order.
    """
    table = _table_of(path)
    off = [row.onset for row in table.rows if row.value == "Lights off"]
    on = [row.onset for row in table.rows if row.value == "Lights on"]
    if not (off and on) or min(off) >= max(on):
        raise BergerError(
            f"{table.path}: has no 'Lights off' with a 'Lights on' after it; leave the recording "
            "out, or use the task without this variant."
        )
    return [
        row._replace(value=OUTSIDE)
        if row.value.startswith(_STAGE)
        and (row.onset < min(off) or row.onset + row.duration > max(on))
        else row
        for row in table.rows
    ]


def _table_of(recording: Path) -> _Table:
    path = recording.with_name(f"{recording.stem}_sleepscoring.txt")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise BergerError(
            f"{path}: cannot be read ({reason}); put the table of "
            f"{recording.name} there, as it is distributed."
        ) from error
    names = [name.strip() for name in lines[0].split(",")] if lines else []
    if lacking := [name for name in (_ONSET, _DURATION, _TEXT) if name not in names]:
        raise BergerError(
            f"{path}: line 1 names no column {lacking[0]!r}; fetch the file again as it is "
            "distributed."
        )
    at = [names.index(name) for name in (_ONSET, _DURATION, _TEXT)]
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        cells = [cell.strip() for cell in line.split(",")]
        if not any(cells):
            continue
        onset, duration, text = (cells[place] if place < len(cells) else "" for place in at)
        seconds = number_in(onset), number_in(duration)
        if seconds[0] is None or seconds[1] is None or seconds[1] < 0:
            raise BergerError(
                f"{path}: line {number} has {onset!r} and {duration!r} as onset and duration, "
                "which are no times in seconds; correct it."
            )
        rows.append(Told(seconds[0], seconds[1], text))
    return _Table(path, rows)
