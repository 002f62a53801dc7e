"""From labels as they stand in names, annotations and tables to marks in recordings.

::

    file name, participants, rows of a table ──► one mark over the whole recording ─┐
    annotations, hypnogram, rows with an onset ──► marks in time ───────────────────┴─► windows
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from berger.corpus import Corpus
from berger.errors import BergerError
from berger.recordings import Annotation
from berger.tasks.labels import (
    AnnotationLabels,
    Classes,
    FileNameLabels,
    HypnogramLabels,
    ParticipantLabels,
    ReaderLabels,
    TableLabels,
)
from berger.tasks.marks import (
    Mark,
    Marks,
    Stretch,
    class_of,
    joined,
    label_of,
    marked,
    placed,
    put,
    told_by,
    whole,
    without,
)
from berger.tasks.readers import READERS
from berger.tasks.tables import (
    file_beside,
    place_of,
    places,
    read_edf_hypnogram,
    read_stage_lines,
    read_table,
    seconds_in,
)
from berger.tasks.task import TaskConfig, recordings_of


@dataclass(frozen=True)
class Listed:
    """Recordings whose labels are looked for.

    Attributes
    ----------
    place : str
        What to call them together in messages.
    recordings : DataFrame
        ``recording, subject, status, sfreq, n_times, offset_seconds, annotations, gaps,
        participant``, as in `berger.corpus.Corpus.recordings`.
    files : callable
        Returns, by name, the files that may be theirs.
    """

    place: str
    recordings: pd.DataFrame
    files: Callable[[], dict[str, list[Path]]]


def find_marks(task: TaskConfig, corpus: Corpus) -> Marks:
    """Find the labels of a task in a corpus and beside its recordings; as `marks_of`."""
    layout = corpus.manifest.preprocessing.layout
    files = lambda: places(recordings_of(task), layout)  # noqa: E731 - only where it is asked for
    return marks_of(task, Listed(str(corpus.folder), corpus.recordings, files))


def marks_of(task: TaskConfig, listed: Listed) -> Marks:
    """Find the labels of a task in recordings and beside them.

    Raises
    ------
    BergerError
        If a table is missing, lacks a column or names what is not there, if a value is in no class
        or no number, or if what the labels allow to be lacking is lacking.
    """
    labels = task.labels
    if isinstance(labels, FileNameLabels):
        marks = _by_file_name(listed, labels)
    elif isinstance(labels, AnnotationLabels):
        marks = _by_annotation(listed, labels.classes)
    elif isinstance(labels, ParticipantLabels):
        marks = _by_participant(task, listed, labels)
    elif isinstance(labels, HypnogramLabels):
        marks = _by_hypnogram(task, listed, labels)
    elif isinstance(labels, ReaderLabels):
        marks = _by_reader(task, listed, labels)
    elif labels.beside is not None:
        marks = _by_tables_beside(task, listed, labels)
    else:
        marks = _by_table(task, listed, labels)
    for several in marks.of.values():
        several.sort(key=lambda mark: mark[:2])
    return marks


def _usable(listed: Listed) -> Iterator[Any]:
    yield from listed.recordings[listed.recordings["status"] == "ok"].itertuples()


def _by_file_name(listed: Listed, labels: FileNameLabels) -> Marks:
    marks = Marks()
    for row in _usable(listed):
        found = re.search(labels.pattern, row.recording)
        if found is None:
            marks.without[row.recording] = "its name does not fit labels.pattern"
        elif found["label"] not in labels.classes:
            marks.without[row.recording] = f"{found['label']!r} is not in labels.classes"
        else:
            label = class_of(found["label"], labels.classes)
            marks.of[row.recording] = [marked(whole(row), *label)]
    return marks


def _by_annotation(listed: Listed, classes: Classes) -> Marks:
    marks = Marks()
    for row in _usable(listed):
        found = [
            Mark(
                mark["onset"],
                mark["onset"] + mark["duration"],
                *class_of(mark["description"], classes),
            )
            for mark in row.annotations
            if mark["description"] in classes
        ]
        if found:
            marks.of[row.recording] = found
        else:
            marks.without[row.recording] = "it has no annotation that is in labels.classes"
    return marks


def _by_participant(task: TaskConfig, listed: Listed, labels: ParticipantLabels) -> Marks:
    marks = Marks()
    told = {
        row.recording: {pair["name"]: pair["value"] for pair in told_by(row.participant)}
        for row in _usable(listed)
    }
    columns = {name for values in told.values() for name in values}
    if not columns:
        raise BergerError(
            f"task {task.name}: {listed.place} knows of no participants.tsv; prepare a BIDS root "
            "that has one, or take the labels from a table (`from: table`)."
        )
    if labels.column not in columns:
        raise BergerError(
            f"task {task.name}: participants.tsv has no column {labels.column!r}, only "
            f"{', '.join(map(repr, sorted(columns)))}; correct labels.column."
        )
    for row in _usable(listed):
        value = told[row.recording].get(labels.column)
        if value is None:
            without(marks, labels, row.recording, f"participants.tsv does not list {row.subject}")
            continue
        where = f"participants.tsv, {labels.column} of {row.subject}"
        put(marks, labels, row.recording, whole(row), value, where)
    return marks


def _by_table(task: TaskConfig, listed: Listed, labels: TableLabels) -> Marks:
    assert labels.table is not None
    path = task.data_folder / labels.table
    key = labels.recording or labels.subject
    assert key is not None
    duration = labels.duration if isinstance(labels.duration, str) else None
    table = read_table(path, (key, labels.column, labels.onset, duration))
    known = _names(listed) if labels.recording else _subjects(listed)
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
                f"{'recording' if labels.recording else 'subject'} of {listed.place}; correct "
                "the table, or set labels.incomplete: true to pass over such rows."
            )
        for recording in recordings:
            rows_of.setdefault(recording, []).append(index)
    marks = Marks()
    for row in _usable(listed):
        rows = rows_of.get(row.recording, [])
        called = row.recording if labels.recording else row.subject
        if not rows:
            without(marks, labels, row.recording, f"{labels.table} has no row for {called}")
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
            put(marks, labels, row.recording, whole(row), value, where)
    return marks


def _names(listed: Listed) -> dict[str, set[str]]:
    """Return what a table may call a recording → recordings: its id or the end of that."""
    names: dict[str, set[str]] = {}
    for recording in listed.recordings["recording"]:
        parts = PurePosixPath(recording).parts
        for first in range(len(parts)):
            end = "/".join(parts[first:])
            for name in {end, str(PurePosixPath(end).with_suffix(""))}:
                names.setdefault(name, set()).add(recording)
    return names


def _subjects(listed: Listed) -> dict[str, set[str]]:
    known = listed.recordings.dropna(subset="subject")
    return {str(subject): set(rows["recording"]) for subject, rows in known.groupby("subject")}


def _by_tables_beside(task: TaskConfig, listed: Listed, labels: TableLabels) -> Marks:
    marks = Marks()
    duration = labels.duration if isinstance(labels.duration, str) else None
    for row, _, path in _beside(task, listed, labels, marks):
        table = read_table(path, (labels.column, labels.onset, duration))
        _put_rows(marks, labels, row, table, path)
    return marks


def _beside(
    task: TaskConfig, listed: Listed, labels: TableLabels | HypnogramLabels, marks: Marks
) -> Iterator[tuple[Any, Path, Path]]:
    """Yield each recording's row, file and the file beside it; note those without."""
    assert labels.beside is not None
    found = listed.files()
    for row in _usable(listed):
        own = place_of(row.recording, found)
        path = file_beside(own, labels.beside, labels.stem)
        if path is None:
            without(marks, labels, row.recording, f"no file {labels.beside} lies beside it")
        else:
            yield row, own, path


def _put_rows(marks: Marks, labels: TableLabels, row: Any, table: pd.DataFrame, path: Path) -> None:
    """Put the rows with an onset into a recording."""
    assert labels.onset is not None
    if table.empty:
        without(marks, labels, row.recording, f"{path.name} beside it has no row")
    onsets = seconds_in(table, labels.onset, path)
    if isinstance(labels.duration, str):
        durations = seconds_in(table, labels.duration, path)
    else:
        durations = [labels.duration or 0.0] * len(table)
    stretches = placed(row, onsets, durations, path)
    for onset, stretch, value in zip(onsets, stretches, table[labels.column], strict=True):
        where = f"{path}, {row.recording} at {onset:g} s"
        put(marks, labels, row.recording, stretch, value, where)


def _by_hypnogram(task: TaskConfig, listed: Listed, labels: HypnogramLabels) -> Marks:
    if labels.beside is None:
        marks = _by_annotation(listed, labels.classes)
    else:
        marks = Marks()
        for row, own, path in _beside(task, listed, labels, marks):
            onsets, durations, stages = _stages(path, labels, own)
            if not stages:
                without(marks, labels, row.recording, f"{path.name} beside it has no stage")
            stretches = placed(row, onsets, durations, path)
            for onset, stretch, stage in zip(onsets, stretches, stages, strict=True):
                label = label_of(stage, labels.classes, f"{path} at {onset:g} s")
                marks.of.setdefault(row.recording, []).append(marked(stretch, *label))
    for recording, several in marks.of.items():
        marks.of[recording] = list(joined(sorted(several, key=lambda mark: mark[:2])))
    return marks


def _by_reader(task: TaskConfig, listed: Listed, labels: ReaderLabels) -> Marks:
    marks = Marks()
    found = listed.files()
    for row in _usable(listed):
        path = place_of(row.recording, found)
        annotations = [Annotation(**mark) for mark in told_by(row.annotations)]
        told = READERS[labels.reader](path, annotations)
        if not told and task.background is None:
            without(marks, labels, row.recording, "nothing is told of it")
            continue
        own = marks.of.setdefault(row.recording, [])
        for one in told:
            duration = min(one.duration, row.n_times / row.sfreq)
            if one.by_clock:
                (stretch,) = placed(row, [one.onset], [duration], path)
            else:
                stretch = Stretch(one.onset, one.onset + duration)
            label = label_of(one.value, labels.classes, f"{path} at {one.onset:g} s")
            own.append(marked(stretch, *label))
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
