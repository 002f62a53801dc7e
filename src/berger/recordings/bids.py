"""Read what a BIDS root says about the recordings in it.

::

    participants.tsv               who the subject is ─────────────► participant, species, site
    sub-01/ses-02/eeg/
      sub-01_ses-02_task-x_run-1_eeg.vhdr      the names ──────────► subject, session, task, run
                            ..._channels.tsv   kinds, units, bad ──► channels taken and kept out
                            ..._events.tsv     what happened ──────► annotations

The tables of channels and events may lie in a folder further up and then hold for all recordings
whose names have the parts that theirs have ("task-x_events.tsv"); the nearest is used.

K. J. Gorgolewski et al., "The brain imaging data structure, a format for organizing and describing
outputs of neuroimaging experiments", Scientific Data 3 (2016) 160044; C. R. Pernet et al.,
"EEG-BIDS, an extension to the brain imaging data structure for electroencephalography", Scientific
Data 6 (2019) 103; C. Holdgraf et al., "iEEG-BIDS, extending the Brain Imaging Data Structure
specification to human intracranial electrophysiology", Scientific Data 6 (2019) 102.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import numpy as np
from mne_bids import get_entities_from_fname

from berger.errors import BergerError
from berger.recordings.recording import (
    Annotation,
    ChannelTable,
    Content,
    DescribedChannel,
    Gap,
    Unit,
    recorded_annotations,
)

_DATATYPES = ("eeg", "ieeg")
_NOT_GIVEN = frozenset(["", "n/a", "nan"])  # in small letters

# Types of channels.tsv → the kinds of `Recording.kinds`; any other type is a kind of its own.
_KINDS: Mapping[str, str] = MappingProxyType(
    {
        "HEOG": "EOG",
        "VEOG": "EOG",
        "RESP": "respiration",
        "TRIG": "trigger",
        "REF": "reference electrode",
        "MISC": "not declared as EEG",
        "SEEG": "depth electrode",
        "ECOG": "electrode on the cortex",
        "DBS": "deep brain stimulation electrode",
    }
)
_PARTICIPANT = "participant_id"
_SPECIES = {"homo sapiens": "human", "mus musculus": "mouse", "rattus norvegicus": "rat"}

# What stands before "V" or "volt", in small letters → µV. The odd ones are µ as EDF readers get it.
_PREFIXES = {"": 1e6, "m": 1e3, "milli": 1e3, "n": 1e-3, "nano": 1e-3} | dict.fromkeys(
    ("u", "μ", "micro", "âμ", "î¼", "\x83ê"), 1.0
)

_Read = TypeVar("_Read")


@dataclass(frozen=True)
class Sidecars:
    """What a BIDS root says about one recording.

    Attributes
    ----------
    subject, session, run, task : str or None
        By the recording's name; subject and session with their prefix, "sub-01".
    channels : ChannelTable or None
    events : tuple of Annotation or None
        Onsets in seconds from the beginning, by the clock.
    event_notes : tuple of str
        What is to be known of `events`, in sentences.
    participant : tuple of (str, str)
        The subject's row in participants.tsv.
    listed : bool
        Whether there is a row, or no table.
    """

    subject: str
    session: str | None
    run: str | None
    task: str | None
    channels: ChannelTable | None
    events: tuple[Annotation, ...] | None
    event_notes: tuple[str, ...]
    participant: tuple[tuple[str, str], ...]
    listed: bool

    @property
    def species(self) -> str | None:
        """Who was recorded, by `species_name`."""
        value = _given(dict(self.participant).get("species", ""))
        return value and species_name(value)

    @property
    def site(self) -> str | None:
        """Where it was recorded."""
        return _given(dict(self.participant).get("site", ""))


def is_root(folder: Path) -> bool:
    """Return whether a folder is a BIDS root.

    Raises
    ------
    OSError
        If the folder cannot be read.
    """
    return (folder / "dataset_description.json").is_file()


def recording_folders(root: Path) -> list[Path]:
    """Return the folders of a BIDS root that hold EEG, scalp or intracranial.

    Raises
    ------
    OSError
        If a folder cannot be read, which `glob` would pass over.
    """

    def folders(above: Path, prefix: str) -> list[Path]:
        return [path for path in above.iterdir() if path.name.startswith(prefix) and path.is_dir()]

    subjects = folders(root, "sub-")
    places = subjects + [session for subject in subjects for session in folders(subject, "ses-")]
    found = [place / datatype for place in places for datatype in _DATATYPES]
    return sorted(folder for folder in found if folder.is_dir())


def unknown_formats(folder: Path) -> list[Path]:
    """Return the recordings in a folder of formats that BIDS allows and nobody here reads.

    Raises
    ------
    OSError
        If the folder cannot be read.
    """
    return sorted(path for path in folder.iterdir() if path.suffix in (".nwb", ".mefd"))


def species_name(species: str) -> str:
    """Return "human", "mouse" or "rat" for these in Latin, else the species as it stands."""
    return _SPECIES.get(" ".join(species.casefold().split()), species)


def read_sidecars(path: Path) -> Sidecars | None:
    """Read what a BIDS root says about a recording.

    Parameters
    ----------
    path : Path
        The recording's file.

    Returns
    -------
    Sidecars or None
        None for a file that lies in no subject's folder of a BIDS root.

    Raises
    ------
    BergerError
        If the file's name is none of BIDS or contradicts its folder, if two tables of one folder
        hold for it alike, if a table cannot be read, lacks a column or has an entry that cannot
        be, or if the recording is said to be cut into trials.
    """
    place = _Place.of(path)
    if place is None:
        return None
    _check_continuous(place)
    events, event_notes = _read_events(place)
    row = _participant(place)
    entities = place.entities
    return Sidecars(
        subject=f"sub-{entities['subject']}",
        session=f"ses-{entities['session']}" if "session" in entities else None,
        run=entities.get("run"),
        task=entities.get("task"),
        channels=_read_channels(place),
        events=events,
        event_notes=event_notes,
        participant=row or (),
        listed=row is not None,
    )


def apply_sidecars(
    path: Path, content: Content, sidecars: Sidecars, unit: Unit | None
) -> tuple[Content, tuple[str, ...]]:
    """Put the events in the place of the file's own annotations, and hold the units together.

    Parameters
    ----------
    path : Path
        The recording's file.
    content : Content
        What its reader found, given ``sidecars.channels``.
    sidecars : Sidecars
    unit : Unit or None
        Where it is given, it goes before what either says.

    Returns
    -------
    content : Content
    notes : tuple of str
        What was done, in sentences.

    Raises
    ------
    BergerError
        If file and table state different units of a channel that is taken.
    """
    notes = [] if sidecars.listed else [f"participants.tsv does not list {sidecars.subject}."]
    if sidecars.channels is not None:
        notes += _compare(path, content, sidecars.channels, unit)
    if sidecars.events is not None:
        notes += sidecars.event_notes
        if own := content.annotations:
            texts = list(dict.fromkeys(repr(mark.description) for mark in own))
            more = ", ..." if len(texts) > 8 else ""
            notes.append(
                f"Set aside the file's own {len(own)} annotations ({', '.join(texts[:8])}{more})."
            )
        content = replace(content, annotations=_by_time_recorded(sidecars.events, content))
    return content, tuple(notes)


def tables_of(path: Path) -> list[Path]:
    """Return the tables of channels and events that hold for a recording; none outside of a root.

    None either where reading the recording would fail and say why.
    """
    try:
        place = _Place.of(path)
        tables = [place.nearest(suffix) for suffix in ("channels", "events")] if place else []
    except BergerError:
        return []
    return [table for table in tables if table is not None]


def participant_bytes(path: Path) -> bytes:
    """Return the subject's row of participants.tsv, a table that grows with the data set."""
    try:
        place = _Place.of(path)
        row = _participant(place) if place else None
    except BergerError:
        return b""
    return "".join(f"{name}\t{value}\n" for name, value in row or ()).encode()


@dataclass(frozen=True)
class _Place:
    """Where in a BIDS root a recording lies."""

    path: Path  # as it was given, for messages
    root: Path
    folder: Path
    entities: Mapping[str, str]

    @classmethod
    def of(cls, path: Path) -> _Place | None:
        """Return the place of a file, None if it is in no subject's folder of a BIDS root."""
        folder = Path(os.path.normpath(path.absolute())).parent  # links keep their names
        above = [folder.parent.name, folder.parent.parent.name]
        session = above[0] if above[0].startswith("ses-") else None
        subject = above[1] if session else above[0]
        root = folder.parents[2 if session else 1] if len(folder.parents) > 2 else folder
        if folder.name not in _DATATYPES or not subject.startswith("sub-") or not is_root(root):
            return None
        stem = path.name.partition(".")[0]
        entities = _entities(path.name)
        wanted = {"subject": subject[4:], "session": session[4:] if session else None}
        if (
            stem.rpartition("_")[2] != folder.name
            or any(entities.get(name) != value for name, value in wanted.items())
            or any(part.count("-") != 1 for part in stem.split("_")[:-1])
        ):
            begin = f"{subject}_{session}" if session else subject
            raise BergerError(
                f"{path}: is not named as BIDS wants it here, {begin}_task-..._{folder.name}"
                f"{path.suffix}; rename it, or give it outside of the BIDS root."
            )
        return cls(path, root, folder, entities)

    def applicable(self, suffix: str, extension: str) -> Iterator[Path]:
        """Yield the files of this suffix that hold for the recording, the nearest first.

        By the inheritance principle of BIDS: those in its folder or above whose names have no
        other parts than its own; in one folder the one with the most.
        """
        folder, ending = self.folder, f"_{suffix}{extension}"
        while True:
            with os.scandir(folder) as files:  # a root may hold thousands of subjects
                names = [
                    file.name
                    for file in files
                    if f"_{file.name}".endswith(ending) and not file.name.startswith("._")  # macOS
                ]
            shared = {
                name: len(entities)
                for name in names
                if (entities := _entities(name)).items() <= self.entities.items()
            }
            best = sorted(name for name, n in shared.items() if n == max(shared.values()))
            if len(best) > 1:
                raise BergerError(
                    f"{self.path}: {' and '.join(best)} hold for it alike; remove one, or name it "
                    "for the recordings that it is about."
                )
            yield from (folder / name for name in best)
            if folder == self.root:
                return
            folder = folder.parent

    def nearest(self, suffix: str) -> Path | None:
        """Return the table of this suffix that holds for the recording."""
        return next(self.applicable(suffix, ".tsv"), None)

    def called(self, table: Path) -> str:
        """Return what to call a table: its path from the root."""
        return table.relative_to(self.root).as_posix()

    def read(self, file: Path, read: Callable[[Path], _Read]) -> _Read:
        """Read a file beside the recording."""
        try:
            return read(file)
        except (OSError, ValueError, csv.Error) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise BergerError(
                f"{self.path}: {self.called(file)} beside it cannot be read ({reason}); correct or "
                "fetch that file."
            ) from error

    def table(self, file: Path, *needed: str) -> _Table:
        """Read a table that must have these columns."""
        table = self.read(file, _read_table)
        if missing := [name for name in needed if name not in table.columns]:
            raise BergerError(
                f"{self.path}: {self.called(file)} lacks the column {missing[0]}; correct that "
                "file."
            )
        return table


@dataclass(frozen=True)
class _Table:
    """A table of texts."""

    columns: tuple[str, ...]
    rows: tuple[Mapping[str, str], ...]


def _read_table(file: Path) -> _Table:
    """Read a table of BIDS: columns separated by tabs, names in the first line.

    Raises
    ------
    OSError, ValueError, csv.Error
        If it cannot be read or the rows differ in length.
    """
    content = file.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:  # µ in Latin-1 is common
        text = content.decode("latin-1")
    lines = csv.reader(io.StringIO(text, newline=""), "excel-tab", strict=True)
    cells = [[cell.strip() for cell in line] for line in lines if line]
    if not cells:
        raise ValueError("it is empty")
    columns, *rows = cells
    if len(set(columns)) < len(columns):
        raise ValueError("two columns have one name")
    for number, row in enumerate(rows, 1):
        if len(row) != len(columns):
            raise ValueError(f"row {number} has {len(row)} cells for {len(columns)} columns")
    return _Table(tuple(columns), tuple(dict(zip(columns, row, strict=True)) for row in rows))


@lru_cache(maxsize=4)
def _participants(file: Path, changed: int, size: int) -> dict[str, list[Mapping[str, str]]]:
    """Return subject → rows of participants.tsv, read once for all recordings."""
    table = _read_table(file)
    if _PARTICIPANT not in table.columns:
        raise ValueError(f"it lacks the column {_PARTICIPANT}")
    subjects: dict[str, list[Mapping[str, str]]] = {}
    for row in table.rows:
        subjects.setdefault(row[_PARTICIPANT], []).append(row)
    return subjects


def _participant(place: _Place) -> tuple[tuple[str, str], ...] | None:
    """Return the subject's row in participants.tsv: () without the table, None if not listed."""
    file = place.root / "participants.tsv"
    if not os.path.lexists(file):
        return ()

    def read(file: Path) -> dict[str, list[Mapping[str, str]]]:
        state = file.stat()
        return _participants(file, state.st_mtime_ns, state.st_size)

    subject = f"sub-{place.entities['subject']}"
    rows = place.read(file, read).get(subject, [])
    if len(rows) > 1:
        raise BergerError(
            f"{place.path}: participants.tsv lists {subject} {len(rows)} times; correct it."
        )
    if not rows:
        return None
    return tuple((name, value) for name, value in rows[0].items() if name != _PARTICIPANT)


def _read_channels(place: _Place) -> ChannelTable | None:
    """Read the nearest channels.tsv."""
    file = place.nearest("channels")
    if file is None:
        return None
    return ChannelTable(
        place.called(file),
        tuple(
            DescribedChannel(
                name=row["name"],
                kind=_kind(row.get("type", "")),
                unit=_given(row.get("units", "")),
                bad=row.get("status", "").casefold() == "bad",
            )
            for row in place.table(file, "name").rows
        ),
    )


def _read_events(place: _Place) -> tuple[tuple[Annotation, ...] | None, tuple[str, ...]]:
    """Read the nearest events.tsv, and say what of it was left out.

    An event is described by its trial type, where there is none by its value.
    """
    file = place.nearest("events")
    if file is None:
        return None, ()
    called, table = place.called(file), place.table(file, "onset")

    def seconds(row: Mapping[str, str], column: str, least: float) -> float:
        try:
            number = float(row[column])
        except ValueError:
            number = math.nan
        if not least <= number < math.inf:
            raise BergerError(
                f"{place.path}: {called} has {row[column]!r} as {column} of an event, which is no "
                "time in seconds; correct it, or put n/a."
            )
        return number

    placed = [row for row in table.rows if _given(row["onset"])]
    marks = [
        Annotation(
            onset=seconds(row, "onset", -1e9),
            duration=seconds(row, "duration", 0) if _given(row.get("duration", "")) else 0.0,
            description=_given(row.get("trial_type", ""))
            or _given(row.get("value", ""))
            or "event",
        )
        for row in placed
    ]
    notes = [f"Took {len(marks)} annotations from {called}."]
    if without := len(table.rows) - len(placed):
        notes.append(f"Left out {without} events without an onset in {called}.")
    used = ("onset", "duration", "trial_type", "value", "sample")
    if others := [name for name in table.columns if name not in used]:
        notes.append(f"Did not take over {', '.join(others)} of {called}.")
    return tuple(sorted(marks, key=lambda mark: mark.onset)), tuple(notes)


def _check_continuous(place: _Place) -> None:
    """Refuse a recording that is said to be cut into trials: windows must not span two."""
    for file in place.applicable(place.folder.name, ".json"):
        content = place.read(file, _read_object)
        kind = content.get("RecordingType")
        if kind == "epoched":
            raise BergerError(
                f"{place.path}: is cut into trials by {place.called(file)} (RecordingType), and "
                "windows must not span two; give the continuous recording."
            )
        if kind is not None:
            return


def _read_object(file: Path) -> Mapping[str, object]:
    content = json.loads(file.read_bytes())
    if not isinstance(content, dict):
        raise ValueError("it holds no keys and values")
    return content


def _compare(path: Path, content: Content, table: ChannelTable, unit: Unit | None) -> Iterator[str]:
    """Hold the table against the channels that were taken; yield what is to be noted."""
    rows = table.match(path, content.labels)
    names = {index: content.labels[index] for index in content.channels.taken}
    if renamed := [
        f"{row.name} for {content.labels[index]}"
        for index, row in sorted(rows.items())
        if row.name != content.labels[index].strip()
    ]:
        more = f" and {len(renamed) - 8} more" * (len(renamed) > 8)
        yield f"{table.source} has other names than the file: {', '.join(renamed[:8])}{more}."
    in_volts = []
    for index, name in names.items() if unit is None and content.units else ():
        said, stated = rows[index].unit if index in rows else None, content.units[index]
        if said and stated and _microvolts(said) != _microvolts(stated):
            # mne-bids used to write so of what it had converted; an error of a factor of a
            # million would show in the amplitudes, which are looked at later.
            if said == "V" and _microvolts(stated) == 1:
                in_volts.append(name)
                continue
            raise BergerError(
                f"{path}: its unit of {name} is {stated}, but {said} in {table.source}; correct "
                "the table, or set `unit` to what the numbers in the file really are."
            )
    if in_volts:
        listed = f"{', '.join(in_volts[:8])}{' and others' * (len(in_volts) > 8)}"
        yield f"{table.source} says V of {listed}; the unit in the file, µV, was taken."
    if bad := [name for index, name in names.items() if index in rows and rows[index].bad]:
        yield f"{table.source} marks {', '.join(bad)} as bad."
    if unsaid := [name for index, name in names.items() if index not in rows]:
        yield f"{table.source} does not describe {', '.join(unsaid)}."


def _by_time_recorded(events: Sequence[Annotation], content: Content) -> tuple[Annotation, ...]:
    """Turn events by the clock into events by seconds recorded; unknown gaps count as none."""
    if not any(gap.seconds for gap in content.gaps):
        return tuple(events)
    gaps = sorted((Gap(0, 0.0), *content.gaps), key=lambda gap: gap.start)
    starts = np.array([gap.start for gap in gaps]) / content.sfreq
    begins = starts + np.cumsum([gap.seconds or 0.0 for gap in gaps])
    lengths = np.diff(starts, append=content.signal.shape[1] / content.sfreq)
    return recorded_annotations(events, np.stack([begins, begins + lengths], axis=1))


def _entities(name: str) -> dict[str, str]:
    """Return the parts of a file's name: "sub-01_task-x_eeg.edf" → subject 01, task x."""
    entities = get_entities_from_fname(name, on_error="ignore")
    return {key: value for key, value in entities.items() if value is not None}


def _given(text: str) -> str | None:
    return None if text.casefold() in _NOT_GIVEN else text


def _kind(declared: str) -> str | None:
    kind = _given(declared)
    return kind and _KINDS.get(kind.upper(), kind.upper())


def _microvolts(unit: str) -> float | None:
    """Return µV per unit, None if it is no voltage."""
    text = unit.strip().casefold().removesuffix("s").removesuffix("olt")
    return _PREFIXES.get(text[:-1].strip()) if text.endswith("v") else None
