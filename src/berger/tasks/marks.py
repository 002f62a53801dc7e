"""A label and where in a recording it stands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from berger.errors import BergerError
from berger.recordings import Annotation
from berger.recordings.recording import recorded_annotations
from berger.tasks.labels import (
    Classes,
    HypnogramLabels,
    ParticipantLabels,
    ReaderLabels,
    TableLabels,
)
from berger.tasks.tables import number_in

NOT_GIVEN = frozenset(["", "n/a", "na", "nan", "none", "null"])  # in small letters


class Mark(NamedTuple):
    """A label of a stretch, in seconds from the first sample in the corpus.

    Attributes
    ----------
    onset, offset : float
    label : str, float or None
        None for what is left out.
    reason : str
        Why it is left out.
    number : int
        From 1, by onset, of those of a recording.
    """

    onset: float
    offset: float
    label: str | float | None
    reason: str = ""
    number: int = 0


@dataclass(frozen=True)
class Marks:
    """The marks of each recording that has any, by onset, and why the others have none."""

    of: dict[str, list[Mark]] = field(default_factory=dict)
    without: dict[str, str] = field(default_factory=dict)


class Stretch(NamedTuple):
    """A part of a recording, in seconds from its first sample in the corpus.

    Attributes
    ----------
    onset, offset : float
    reason : str
        Why it cannot be used, if it cannot.
    """

    onset: float
    offset: float
    reason: str = ""


def told_by(cell: Any) -> list[dict[str, Any]]:
    """Return a list in a corpus's table, which an earlier Berger may not have written."""
    return cell if isinstance(cell, list) else []


def whole(row: Any) -> Stretch:
    """Return all of a recording."""
    return Stretch(0.0, row.n_times / row.sfreq)


def placed(
    row: Any, onsets: Sequence[float], durations: Sequence[float], path: Path
) -> list[Stretch]:
    """Turn seconds from the file's beginning, by the clock, into stretches of the corpus.

    Raises
    ------
    BergerError
        If a duration is negative, or it is not known what was recorded when.
    """
    if any(duration < 0 for duration in durations):
        raise BergerError(f"{path}: a duration is negative; correct it.")
    times = zip(onsets, durations, strict=True)
    gaps = told_by(row.gaps)
    if not gaps:
        cut = row.offset_seconds
        return [Stretch(onset - cut, onset - cut + duration) for onset, duration in times]
    unknown = any(pd.isna(gap["seconds"]) for gap in gaps)
    if unknown or row.offset_seconds:
        why = "for an unknown time" if unknown else "and cut at its beginning"
        raise BergerError(
            f"{row.recording}: was interrupted {why}, so that the seconds in {path} cannot be "
            "placed; mark them in the recording by annotations."
        )
    starts = np.array([0.0, *(gap["start"] / row.sfreq for gap in gaps)])
    begins = starts + np.cumsum([0.0, *(gap["seconds"] for gap in gaps)])
    ends = begins + np.diff(starts, append=row.n_times / row.sfreq)
    stretches = []
    for onset, duration in times:
        clock = np.stack([begins, ends], axis=1)
        (mark,) = recorded_annotations([Annotation(onset, duration, "")], clock)
        # Moved to the edge of what was recorded, a window before an event would be another one.
        recorded = ((begins <= onset + 1e-9) & (onset < ends)).any()
        reason = "" if recorded else "it begins in time that was not recorded"
        stretches.append(Stretch(mark.onset, mark.onset + mark.duration, reason))
    return stretches


def joined(marks: Iterable[Mark]) -> Iterator[Mark]:
    """Join epochs of one stage that follow each other."""
    last: Mark | None = None
    for mark in marks:
        if last is not None and mark.label == last.label and abs(mark.onset - last.offset) < 1e-6:
            last = last._replace(offset=mark.offset)
        else:
            if last is not None:
                yield last
            last = mark
    if last is not None:
        yield last


def put(
    marks: Marks,
    labels: TableLabels | ParticipantLabels,
    recording: str,
    stretch: Stretch,
    value: str,
    where: str,
) -> None:
    """Add the mark of a value that stands in a table."""
    if value.casefold() in NOT_GIVEN and labels.incomplete and value not in (labels.classes or {}):
        mark = Mark(stretch.onset, stretch.offset, None, f"no {labels.column} is given")
    else:
        mark = marked(stretch, *label_of(value, labels.classes, where))
    marks.of.setdefault(recording, []).append(mark)


def marked(stretch: Stretch, label: str | float | None, reason: str) -> Mark:
    """Return the mark of a stretch, without a label if the stretch cannot be used."""
    if stretch.reason:
        return Mark(stretch.onset, stretch.offset, None, stretch.reason)
    return Mark(stretch.onset, stretch.offset, label, reason)


def label_of(value: str, classes: Classes | None, where: str) -> tuple[str | float | None, str]:
    """Return label and reason; numbers where there are no classes."""
    if classes is None:
        number = number_in(value)
        if number is None:
            raise BergerError(
                f"{where}: {value!r} is no number to predict; correct it, or leave out what has "
                "none by labels.incomplete: true."
            )
        return number, ""
    if value not in classes:
        raise BergerError(
            f"{where}: {value!r} is not in labels.classes; add it there, with a class or with null "
            "to leave it out."
        )
    return class_of(value, classes)


def class_of(value: str, classes: Classes) -> tuple[str | None, str]:
    """Return class and reason of a value that has one."""
    label = classes[value]
    return label, "" if label is not None else f"labels.classes leaves out {value!r}"


def without(
    marks: Marks,
    labels: TableLabels | ParticipantLabels | HypnogramLabels | ReaderLabels,
    recording: str,
    reason: str,
) -> None:
    """Note a recording without a label, or refuse it."""
    if not labels.incomplete:
        raise BergerError(
            f"{recording}: {reason}; add it, or set labels.incomplete: true to leave the recording "
            "out."
        )
    marks.without[recording] = reason
