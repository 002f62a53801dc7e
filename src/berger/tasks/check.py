"""Compare a folder with the facts of a task, by headers and files of labels alone.

::

    recordings ──► headers ──► marks ──► windows ──┐
    (`find_recordings`)                            ├──► fact, expected, found, ok
    YAML ──► `Facts` ──────────────────────────────┘
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from berger.corpus.windows import count_samples
from berger.errors import BergerError
from berger.preprocessing import PreprocessingConfig
from berger.preprocessing.reference import rereference
from berger.recordings import (
    Recording,
    RejectedError,
    find_recordings,
    identify,
    read_recording,
)
from berger.tasks.facts import WindowCount
from berger.tasks.labels import ParticipantLabels, TableLabels
from berger.tasks.marks import Marks
from berger.tasks.origins import Listed, marks_of
from berger.tasks.task import TaskConfig, load_task, preparation, recordings_of
from berger.tasks.windows import BEYOND, cut_recording

LISTED = 4  # names of channels in one cell of the table

_Row = tuple[str, str, str, bool | None]


@dataclass(frozen=True, eq=False)
class FolderCheck:
    """What was found in a folder.

    Attributes
    ----------
    task : TaskConfig
    folder : Path
    table : DataFrame
        ``fact, expected, found, ok``, texts but for the last: True or False, None where nothing is
        expected.
    faults : DataFrame
        ``recording, reason``: what cannot be used or understood, a sentence each.
    left_out : DataFrame
        ``n_recordings, n_windows, reason``: windows that the labels tell of and that will not be
        there.
    """

    task: TaskConfig
    folder: Path
    table: pd.DataFrame
    faults: pd.DataFrame
    left_out: pd.DataFrame

    @property
    def holds(self) -> bool:
        """Whether all is as expected."""
        return not any(ok is False for ok in self.table["ok"])

    @property
    def difference(self) -> str:
        """What is not, in one sentence; empty if all is."""
        wrong = [row for row in self.table.itertuples() if row.ok is False]
        told = "; ".join(f"{row.fact}: {row.found}, not {row.expected}" for row in wrong)
        facts = self.task.facts
        place = facts.url or self.task.source or "its source"
        asked = f"; apply: {facts.apply}" if facts.access != "open" and facts.apply else ""
        version = f" {facts.version}" if facts.version else ""
        if not wrong:
            return ""
        return (
            f"{self.folder}: differs from the facts of {self.task.name}{version} ({told}); what is "
            f"there can be worked with, the rest is to be had from {place}{asked}."
        )


@dataclass
class _Seen:
    """What was learned of one recording."""

    recording: str
    subject: str | None = None
    labels: tuple[str, ...] = ()  # of all channels
    row: dict[str, Any] | None = None  # as in a corpus; None if it cannot be read
    has_channels: bool = True  # that the task asks for
    faults: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)  # class → marks, or epochs
    windows: Counter[str | float | None] = field(default_factory=Counter)  # by label
    left_out: Counter[str] = field(default_factory=Counter)  # why → windows


def check_folder(
    task: TaskConfig | str | Path, data: Path | None = None, *, progress: bool = False
) -> FolderCheck:
    """Compare the folder of a data set with the facts of a task; no signal is read.

    Windows are counted as `berger.tasks.cut_windows` does, as if all of every recording could be
    used: what amplitudes will leave out is not known.

    Parameters
    ----------
    task : TaskConfig, str or Path
        Loaded with its data folder, or as for `berger.tasks.load_task`.
    data : Path, optional
        As there; not with a TaskConfig.
    progress : bool
        Whether to show a progress bar on stderr.

    Raises
    ------
    BergerError
        If nothing in the folder fits the task. What is wrong with single files is in the result.
    """
    config = task if isinstance(task, TaskConfig) else load_task(task, data)
    how = preparation(config, PreprocessingConfig())
    place, found = _find(config, how)
    # A table of all recordings, or of all people, is read once and may name any of them.
    at_once = isinstance(config.labels, ParticipantLabels) or (
        isinstance(config.labels, TableLabels) and config.labels.table is not None
    )
    every, faults = [], []
    for recording, path in tqdm(found, unit="file", disable=not progress):
        seen = _header(how, recording, path)
        if not at_once:
            _count(config, [seen], place, {path.name: [path]})
        every.append(seen)
    if at_once and (fault := _count(config, every, place, {})):
        faults.append(("", fault))
    faults += [(seen.recording, fault) for seen in every for fault in seen.faults]
    return FolderCheck(
        config,
        config.data_folder,
        pd.DataFrame(
            _rows(config, every, len(faults)), columns=["fact", "expected", "found", "ok"]
        ),
        pd.DataFrame(faults, columns=["recording", "reason"]),
        _left_out(every),
    )


def part_of_it(task: TaskConfig) -> str:
    """Return a sentence if a folder has other recordings, by their number, than the facts say.

    Raises
    ------
    BergerError
        If nothing in the folder fits the task.
    """
    expected = task.facts.recordings
    if expected is None:
        return ""
    n = len(_find(task, preparation(task, PreprocessingConfig()))[1])
    if n == expected:
        return ""
    has = (
        f"{n} of the {expected} recordings" if n < expected else f"{n} recordings, not {expected},"
    )
    return f"{task.data_folder}: has {has} of {task.name}; see `berger tasks` with --data."


def _find(task: TaskConfig, how: PreprocessingConfig) -> tuple[str, list[tuple[str, Path]]]:
    """Return where all recordings lie, and these, called as when they are prepared for the task."""
    paths = recordings_of(task)
    root = Path(os.path.commonpath([os.path.normpath(path.parent.absolute()) for path in paths]))
    return str(root), find_recordings(paths, root=root, layout=how.layout)


def _header(how: PreprocessingConfig, recording: str, path: Path) -> _Seen:
    """Return what the header of a recording tells, and what its name does if it cannot be read."""
    seen = _Seen(recording)
    if how.subject_pattern is not None:
        with suppress(BergerError):  # reading it will say so
            seen.subject = identify(path, subject_pattern=how.subject_pattern).subject
    header = None
    try:
        header = _read(how, path, how.ch_names)
        if how.bipolar is not None:
            rereference(replace(header, signal=header.signal[:, :1]), (), how, [])
    except BergerError as error:
        seen.faults.append(str(error))
        seen.has_channels = False
        if header is None and isinstance(error, RejectedError) and error.there:
            with suppress(BergerError):  # one fault is enough
                header = _read(how, path, error.there)
    if header is None:
        return seen
    seen.subject = header.subject
    seen.labels = header.original_ch_names + tuple(
        channel.name for channel in header.kept_out if channel.reason != "annotations"
    )
    seen.row = {
        "recording": recording,
        "subject": header.subject,
        "status": "ok",
        "sfreq": header.sfreq,
        "n_times": header.signal.shape[1],
        "offset_seconds": 0.0,
        "annotations": [asdict(mark) for mark in header.annotations],
        "gaps": [asdict(gap) for gap in header.gaps],
        "participant": [{"name": name, "value": value} for name, value in header.participant],
    }
    return seen


def _read(how: PreprocessingConfig, path: Path, ch_names: Sequence[str] | None) -> Recording:
    return read_recording(
        path,
        subject_pattern=how.subject_pattern,
        ch_names=ch_names,
        besides=how.besides,
        layout=how.layout,
        samples=False,
    )


def _count(
    task: TaskConfig, several: Sequence[_Seen], place: str, files: dict[str, list[Path]]
) -> str:
    """Count labels and windows of recordings; return what is wrong with the labels of all."""
    rows = {seen.recording: seen.row for seen in several if seen.row is not None}
    if not rows:
        return ""
    try:
        marks = marks_of(task, Listed(place, pd.DataFrame(list(rows.values())), lambda: files))
    except BergerError as error:
        if len(several) > 1:
            return str(error)
        if not several[0].faults:
            several[0].faults.append(str(error))
        return ""
    for seen in several:
        if seen.row is not None:
            _count_one(task, seen, seen.row, marks)
    return ""


def _count_one(task: TaskConfig, seen: _Seen, row: dict[str, Any], marks: Marks) -> None:
    if reason := marks.without.get(seen.recording):
        seen.left_out[reason] = 0
    own = marks.of.get(seen.recording, [])
    for mark in own:
        if isinstance(mark.label, str):
            length = mark.offset - mark.onset
            seen.counts[mark.label] += round(length / task.window_seconds) if task.hypnogram else 1
    if not seen.has_channels or seen.recording not in marks.of:
        return
    rate = _whole_rate(task, row["sfreq"])
    n_times = int(row["n_times"] * rate / row["sfreq"])
    at_rate = SimpleNamespace(recording=seen.recording, sfreq=rate, n_times=n_times)
    try:
        windows, seen.left_out = cut_recording(task, at_rate, own, np.array([[0, n_times]]))
    except BergerError as error:
        seen.faults.append(str(error))
    else:
        seen.windows.update(mark.label for _, mark in windows)


def _whole_rate(task: TaskConfig, sfreq: float) -> float:
    """Return a rate at which windows are whole samples: the file's, or one that models have."""
    for rate in (sfreq, 200.0, 256.0):
        with suppress(BergerError):
            for seconds in (task.window_seconds, task.step_seconds or task.window_seconds):
                count_samples(seconds, rate)
            return rate
    return sfreq  # cutting says what is wrong


def _rows(task: TaskConfig, every: list[_Seen], n_faults: int) -> Iterator[_Row]:
    """Yield the rows of the table."""
    facts = task.facts
    people = {seen.subject for seen in every} - {None}
    yield _compared("recordings", facts.recordings, len(every))
    yield _compared("subjects", facts.subjects, len(people))
    rates = Counter(float(seen.row["sfreq"]) for seen in every if seen.row is not None)
    told = ", ".join(f"{rate:g}" for rate in sorted(rates))
    expected = ", ".join(f"{rate:g}" for rate in sorted(facts.sfreq))
    known = {*rates} <= {*facts.sfreq} if facts.sfreq and rates else None
    yield "rates (Hz)", expected, told, known
    yield _channels(facts.ch_names, [seen.labels for seen in every if seen.labels])
    counts = sum((seen.counts for seen in every), Counter[str]())
    for name in task.classes:
        if name != task.background:
            yield _compared(f"label {name}", facts.labels.get(name), counts[name])
    yield from _windows(task, every)
    if lacking := [name for name in task.classes if not any(seen.windows[name] for seen in every)]:
        yield "classes without windows", "none", ", ".join(lacking), False
    yield _compared("recordings or labels with a fault", facts.unusable, n_faults)


def _compared(fact: str, expected: int | None, found: int) -> _Row:
    if expected is None:
        return fact, "", str(found), None
    return fact, str(expected), str(found), found == expected


def _channels(expected: tuple[str, ...], of_files: list[tuple[str, ...]]) -> _Row:
    if not expected:
        sizes = sorted({len(labels) for labels in of_files})
        return "channels", "", " to ".join(map(str, sorted({*sizes[:1], *sizes[-1:]}))), None
    lacking = Counter(name for labels in of_files for name in {*expected} - {*labels})
    n_files = sum(not {*expected} <= {*labels} for labels in of_files)
    told = "all of them"
    if lacking:
        names = ", ".join(name for name in expected if name in lacking)
        names = names if len(lacking) <= LISTED else f"{len(lacking)} of them"
        told = f"{n_files} file{'s' * (n_files > 1)} without {names}"
    named = ", ".join(expected) if len(expected) <= LISTED else str(len(expected))
    return "channels", f"{named} in every file", told, not lacking


def _windows(task: TaskConfig, every: list[_Seen]) -> Iterator[_Row]:
    """Yield how many windows there are, and beside what others count."""
    if not any("all" in count.counts for count in task.facts.windows):
        yield "windows", "", str(sum(seen.windows.total() for seen in every)), None
    for split in dict.fromkeys(count.split for count in task.facts.windows):
        known = [count for count in task.facts.windows if count.split == split]
        try:
            found = [_in_parts(task, count, every) for count in known]
        except BergerError as error:
            counts = ", ".join(f"{part} {n}" for part, n in known[0].counts.items())
            why = str(error).removesuffix(".")
            yield f"windows by parts ({split})", counts, f"not told: {why}", False
            continue
        # of several versions that which it seems to be
        nearest = min(
            range(len(known)),
            key=lambda i: sum(abs(n - found[i][part]) for part, n in known[i].counts.items()),
        )
        of = ", ".join(name for name in (split, known[nearest].version) if name)
        for part, n in known[nearest].counts.items():
            yield _compared(f"windows, {part}{of and f' ({of})'}", n, found[nearest][part])


def _in_parts(task: TaskConfig, count: WindowCount, every: list[_Seen]) -> Counter[str]:
    """Return how many windows are in each part of a split."""
    own = [(seen, seen.windows.total() + count.beyond * seen.left_out[BEYOND]) for seen in every]
    own = [(seen, n) for seen, n in own if n]
    parts = Counter({"all": sum(n for _, n in own)})
    if count.split is None:
        return parts
    placed = task.model_copy(update={"split": task.splits[count.split], "split_name": count.split})
    made = placed.folds(
        [str(seen.subject) for seen, _ in own],
        [None] * len(own),
        recordings=[seen.recording for seen, _ in own],
        validation_share=0.5,  # if they are drawn, nothing is said of them alone
        seed=0,
    )
    if len(made) > 1:
        raise BergerError(f"the split {count.split} has {len(made)} folds.")
    fold = made[0]
    if fold.unit not in ("subject", "recording"):
        raise BergerError(f"the split {count.split} is of {fold.unit}s.")
    for part in ("train", "validation", "test"):
        names = {*getattr(fold, part)}
        parts[part] = sum(n for seen, n in own if getattr(seen, fold.unit) in names)
    parts["train + validation"] = parts["train"] + parts["validation"]
    return parts


def _left_out(every: list[_Seen]) -> pd.DataFrame:
    reasons = dict.fromkeys(reason for seen in every for reason in seen.left_out)
    rows = []
    for reason in reasons:
        own = [seen.left_out[reason] for seen in every if reason in seen.left_out]
        rows.append((len(own), sum(own), reason))
    return pd.DataFrame(rows, columns=["n_recordings", "n_windows", "reason"])
