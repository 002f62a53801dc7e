"""From labels as they stand in names, annotations and tables to marks in recordings.

::

    file name, participants, rows of a table ──► one mark over the whole recording ─┐
    annotations, hypnogram, rows with an onset ──► marks in time ───────────────────┴─► windows
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from berger.corpus import Corpus
from berger.errors import BergerError
from berger.recordings import Annotation
from berger.recordings.recording import recorded_annotations
from berger.tasks.labels import (
    AnnotationLabels,
    Classes,
    FileNameLabels,
    HypnogramLabels,
    ParticipantLabels,
    TableLabels,
)
from berger.tasks.tables import (
    file_beside,
    number_in,
    place_of,
    places,
    read_edf_hypnogram,
    read_stage_lines,
    read_table,
    seconds_in,
)
from berger.tasks.task import TaskConfig, recordings_of

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
    """

    onset: float
    offset: float
    label: str | float | None
    reason: str = ""


@dataclass(frozen=True)
class Marks:
    """The marks of each recording that has any, by onset, and why the others have none."""

    of: dict[str, list[Mark]] = field(default_factory=dict)
    without: dict[str, str] = field(default_factory=dict)


def find_marks(task: TaskConfig, corpus: Corpus) -> Marks:
    """Find the labels of a task in a corpus and beside its recordings.

    Raises
    ------
    BergerError
        If a table is missing, lacks a column or names what is not there, if a value is in no class
        or no number, or if what the labels allow to be lacking is lacking.
    """
    labels = task.labels
    if isinstance(labels, FileNameLabels):
        marks = _by_file_name(corpus, labels)
    elif isinstance(labels, AnnotationLabels):
        marks = _by_annotation(corpus, labels.classes)
    elif isinstance(labels, ParticipantLabels):
        marks = _by_participant(task, corpus, labels)
    elif isinstance(labels, HypnogramLabels):
        marks = _by_hypnogram(task, corpus, labels)
    elif labels.beside is not None:
        marks = _by_tables_beside(task, corpus, labels)
    else:
        marks = _by_table(task, corpus, labels)
    for several in marks.of.values():
        several.sort(key=lambda mark: mark[:2])
    return marks


def _usable(corpus: Corpus) -> Iterator[Any]:
    yield from corpus.recordings[corpus.recordings["status"] == "ok"].itertuples()


def _whole(row: Any, label: str | float | None, reason: str = "") -> Mark:
    return Mark(0.0, row.n_times / row.sfreq, label, reason)


def _by_file_name(corpus: Corpus, labels: FileNameLabels) -> Marks:
    marks = Marks()
    for row in _usable(corpus):
        found = re.search(labels.pattern, row.recording)
        if found is None:
            marks.without[row.recording] = "its name does not fit labels.pattern"
        elif found["label"] not in labels.classes:
            marks.without[row.recording] = f"{found['label']!r} is not in labels.classes"
        else:
            marks.of[row.recording] = [_whole(row, *_class_of(found["label"], labels.classes))]
    return marks


def _by_annotation(corpus: Corpus, classes: Classes) -> Marks:
    marks = Marks()
    for row in _usable(corpus):
        found = [
            Mark(
                mark["onset"],
                mark["onset"] + mark["duration"],
                *_class_of(mark["description"], classes),
            )
            for mark in row.annotations
            if mark["description"] in classes
        ]
        if found:
            marks.of[row.recording] = found
        else:
            marks.without[row.recording] = "it has no annotation that is in labels.classes"
    return marks


def _by_participant(task: TaskConfig, corpus: Corpus, labels: ParticipantLabels) -> Marks:
    marks = Marks()
    told = {
        row.recording: {pair["name"]: pair["value"] for pair in row.participant}
        for row in _usable(corpus)
    }
    columns = {name for values in told.values() for name in values}
    if not columns:
        raise BergerError(
            f"task {task.name}: {corpus.folder} knows of no participants.tsv; prepare a BIDS root "
            "that has one, or take the labels from a table (`from: table`)."
        )
    if labels.column not in columns:
        raise BergerError(
            f"task {task.name}: participants.tsv has no column {labels.column!r}, only "
            f"{', '.join(map(repr, sorted(columns)))}; correct labels.column."
        )
    for row in _usable(corpus):
        value = told[row.recording].get(labels.column)
        if value is None:
            _without(marks, labels, row.recording, f"participants.tsv does not list {row.subject}")
            continue
        where = f"participants.tsv, {labels.column} of {row.subject}"
        _put(marks, labels, row.recording, value, where, lambda *of, row=row: _whole(row, *of))
    return marks


def _by_table(task: TaskConfig, corpus: Corpus, labels: TableLabels) -> Marks:
    assert labels.table is not None
    path = task.data_folder / labels.table
    key = labels.recording or labels.subject
    assert key is not None
    duration = labels.duration if isinstance(labels.duration, str) else None
    table = read_table(path, (key, labels.column, labels.onset, duration))
    known = _names(corpus) if labels.recording else _subjects(corpus)
    rows_of: dict[str, list[int]] = {}
    for index, value in enumerate(table[key]):
        recordings = known.get(value, set())
        if labels.recording and len(recordings) > 1:
            raise BergerError(
                f"{path}: {value!r} may be {' or '.join(sorted(recordings))}; write the folder "
                f"before it in the column {key}."
            )
        if not recordings and not labels.incomplete:
            raise BergerError(
                f"{path}: {value!r} in line {index + 2} is no "
                f"{'recording' if labels.recording else 'subject'} of {corpus.folder}; correct "
                "the table, or set labels.incomplete: true to pass over such rows."
            )
        for recording in recordings:
            rows_of.setdefault(recording, []).append(index)
    marks = Marks()
    for row in _usable(corpus):
        rows = rows_of.get(row.recording, [])
        called = row.recording if labels.recording else row.subject
        if not rows:
            _without(marks, labels, row.recording, f"{labels.table} has no row for {called}")
        elif labels.onset is not None:
            _put_rows(marks, labels, row, table.iloc[rows], path)
        elif len(rows) > 1:
            raise BergerError(
                f"{path}: lines {' and '.join(str(index + 2) for index in rows)} are both about "
                f"{called}; remove one, or name the column of their onset."
            )
        else:
            where = f"{path}, line {rows[0] + 2}"
            value = table[labels.column].iloc[rows[0]]
            _put(marks, labels, row.recording, value, where, lambda *of, row=row: _whole(row, *of))
    return marks


def _names(corpus: Corpus) -> dict[str, set[str]]:
    """Return what a table may call a recording → recordings: its id or the end of that."""
    names: dict[str, set[str]] = {}
    for recording in corpus.recordings["recording"]:
        parts = PurePosixPath(recording).parts
        for first in range(len(parts)):
            end = "/".join(parts[first:])
            for name in {end, str(PurePosixPath(end).with_suffix(""))}:
                names.setdefault(name, set()).add(recording)
    return names


def _subjects(corpus: Corpus) -> dict[str, set[str]]:
    known = corpus.recordings.dropna(subset="subject")
    return {str(subject): set(rows["recording"]) for subject, rows in known.groupby("subject")}


def _by_tables_beside(task: TaskConfig, corpus: Corpus, labels: TableLabels) -> Marks:
    marks = Marks()
    duration = labels.duration if isinstance(labels.duration, str) else None
    for row, _, path in _beside(task, corpus, labels, marks):
        table = read_table(path, (labels.column, labels.onset, duration))
        _put_rows(marks, labels, row, table, path)
    return marks


def _beside(
    task: TaskConfig, corpus: Corpus, labels: TableLabels | HypnogramLabels, marks: Marks
) -> Iterator[tuple[Any, Path, Path]]:
    """Yield each recording's row, file and the file beside it; note those without."""
    assert labels.beside is not None
    found = places(recordings_of(task), corpus.manifest.preprocessing.layout)
    for row in _usable(corpus):
        own = place_of(row.recording, found)
        path = file_beside(own, labels.beside, labels.stem)
        if path is None:
            _without(marks, labels, row.recording, f"no file {labels.beside} lies beside it")
        else:
            yield row, own, path


def _put_rows(marks: Marks, labels: TableLabels, row: Any, table: pd.DataFrame, path: Path) -> None:
    """Put the rows with an onset into a recording."""
    assert labels.onset is not None
    onsets = seconds_in(table, labels.onset, path)
    if isinstance(labels.duration, str):
        durations = seconds_in(table, labels.duration, path)
    else:
        durations = [labels.duration or 0.0] * len(table)
    stretches = _placed(row, onsets, durations, path)
    for (onset, offset), value in zip(stretches, table[labels.column], strict=True):
        where = f"{path}, {row.recording} at {onset:g} s"
        _put(
            marks,
            labels,
            row.recording,
            value,
            where,
            lambda *of, onset=onset, offset=offset: Mark(onset, offset, *of),
        )


def _by_hypnogram(task: TaskConfig, corpus: Corpus, labels: HypnogramLabels) -> Marks:
    if labels.beside is None:
        marks = _by_annotation(corpus, labels.classes)
    else:
        marks = Marks()
        for row, own, path in _beside(task, corpus, labels, marks):
            onsets, durations, stages = _stages(path, labels, own)
            stretches = _placed(row, onsets, durations, path)
            for (onset, offset), stage in zip(stretches, stages, strict=True):
                label, reason = _label_of(stage, labels.classes, f"{path} at {onset:g} s")
                marks.of.setdefault(row.recording, []).append(Mark(onset, offset, label, reason))
    for recording, several in marks.of.items():
        marks.of[recording] = list(_joined(sorted(several, key=lambda mark: mark[:2])))
    return marks


def _stages(
    path: Path, labels: HypnogramLabels, recording: Path
) -> tuple[list[float], list[float], list[str]]:
    """Return onsets, durations and names of the stages in a file."""
    kind = path.suffix.lower()
    if kind == ".edf":
        annotations = read_edf_hypnogram(path, recording)
        return (
            [mark.onset for mark in annotations],
            [mark.duration for mark in annotations],
            [mark.description for mark in annotations],
        )
    if kind == ".txt":
        stages, table = read_stage_lines(path), None
    else:
        table = read_table(path, (labels.column, labels.onset, labels.duration))
        stages = table[labels.column].tolist()
    onsets = [labels.epoch_seconds * epoch for epoch in range(len(stages))]
    durations = [labels.epoch_seconds] * len(stages)
    if table is not None and labels.onset is not None:
        onsets = seconds_in(table, labels.onset, path)
    if table is not None and labels.duration is not None:
        durations = seconds_in(table, labels.duration, path)
    return onsets, durations, stages


def _joined(marks: Iterable[Mark]) -> Iterator[Mark]:
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


def _placed(
    row: Any, onsets: list[float], durations: list[float], path: Path
) -> list[tuple[float, float]]:
    """Turn seconds from the file's beginning, by the clock, into (onset, offset) in the corpus."""
    if any(duration < 0 for duration in durations):
        raise BergerError(f"{path}: a duration is negative; correct it.")
    if len(row.gaps) == 0:
        onsets = [onset - row.offset_seconds for onset in onsets]
        return [(a, a + b) for a, b in zip(onsets, durations, strict=True)]
    if row.offset_seconds or any(pd.isna(gap["seconds"]) for gap in row.gaps):
        raise BergerError(
            f"{row.recording}: was interrupted for an unknown time, so that the seconds in {path} "
            "cannot be placed; mark them in the recording by annotations."
        )
    starts = np.array([0.0, *(gap["start"] / row.sfreq for gap in row.gaps)])
    begins = starts + np.cumsum([0.0, *(gap["seconds"] for gap in row.gaps)])
    ends = begins + np.diff(starts, append=row.n_times / row.sfreq)
    placed = []
    for onset, duration in zip(onsets, durations, strict=True):
        (mark,) = recorded_annotations(
            [Annotation(onset, duration, "")], np.stack([begins, ends], axis=1)
        )
        placed.append((mark.onset, mark.onset + mark.duration))
    return placed


def _put(
    marks: Marks,
    labels: TableLabels | ParticipantLabels,
    recording: str,
    value: str,
    where: str,
    mark: Callable[..., Mark],
) -> None:
    """Add the mark of a value."""
    missing = value.casefold() in NOT_GIVEN
    if missing and labels.incomplete and value not in (labels.classes or {}):
        marks.of.setdefault(recording, []).append(mark(None, f"no {labels.column} is given"))
        return
    label, reason = _label_of(value, labels.classes, where)
    marks.of.setdefault(recording, []).append(mark(label, reason))


def _label_of(value: str, classes: Classes | None, where: str) -> tuple[str | float | None, str]:
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
    return _class_of(value, classes)


def _class_of(value: str, classes: Mapping[str, str | None]) -> tuple[str | None, str]:
    label = classes[value]
    return label, "" if label is not None else f"labels.classes leaves out {value!r}"


def _without(
    marks: Marks,
    labels: TableLabels | ParticipantLabels | HypnogramLabels,
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
