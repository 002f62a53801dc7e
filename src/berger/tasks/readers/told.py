"""What a data set's own files say of a recording."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from berger.recordings import Annotation


class Told(NamedTuple):
    """A value and where it holds.

    Attributes
    ----------
    onset, duration : float
        Seconds. An infinite duration holds to the end.
    value : str
        As it stands there, or what it means in the data set's documentation.
    by_clock : bool
        Whether `onset` counts from the first sample of the file by the clock, interruptions
        included; else it counts as the annotations do.
    """

    onset: float
    duration: float
    value: str
    by_clock: bool = True


Reader = Callable[[Path, Sequence[Annotation]], list[Told]]
"""A recording's file and its annotations → what is told of it, there or in files beside it.

Raises BergerError for a file that is missing or says something impossible, with its line.
"""
