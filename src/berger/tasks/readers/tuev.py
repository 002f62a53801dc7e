"""TUH EEG Events: a text of events beside each recording, one line for each channel of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from berger.errors import BergerError
from berger.recordings import Annotation
from berger.tasks.readers.told import Told
from berger.tasks.tables import number_in, read_stage_lines

N_CHANNELS = 22
"""Of the montage that the first column counts, which is not the order of the file."""


def read(path: Path, annotations: Sequence[Annotation]) -> list[Told]:
    """Return the events in the ``.rec`` file of the recording's name.

    A line is ``channel,start,stop,code``: from 0, seconds from the beginning, a number from 1 to 6.

    Parameters
    ----------
    path : Path
    annotations : sequence of Annotation
        Not used.

    Raises
    ------
    BergerError
        If the file is missing, or a line of it is something else.
    """
    beside = path.with_suffix(".rec")
    if not beside.is_file():
        raise BergerError(
            f"{path}: {beside.name}, which has its events, does not lie beside it; fetch that too."
        )
    told = []
    for line, text in enumerate(read_stage_lines(beside), start=1):
        numbers = [number_in(cell) for cell in text.split(",")]
        given = [number for number in numbers if number is not None]
        if len(numbers) != 4 or len(given) != 4:
            raise BergerError(
                f"{beside}: line {line}, {text!r}, is not channel,start,stop,code; fetch it again."
            )
        channel, start, stop, code = given
        if channel not in range(N_CHANNELS) or not 0 <= start < stop or not code.is_integer():
            raise BergerError(
                f"{beside}: line {line}, {text!r}, names no event on a channel from 0 to "
                f"{N_CHANNELS - 1} that ends after it begins; fetch it again."
            )
        told.append(Told(start, stop - start, str(int(code))))
    return told
