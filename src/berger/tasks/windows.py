"""From marks to the windows of a task, and what was left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from berger.corpus import Corpus
from berger.corpus.windows import count_samples
from berger.errors import BergerError
from berger.preprocessing import PreprocessingConfig
from berger.tasks.folds import FEWEST_RECORDINGS, too_few_recordings, trial_name
from berger.tasks.marks import Mark
from berger.tasks.origins import find_marks
from berger.tasks.splits import RecordingWithinSubject, TrialSplit, may_draw_trials
from berger.tasks.task import TaskConfig

BEYOND = "it reaches beyond the recording"
"""Why a window is left out that published programs fill up."""


@dataclass(frozen=True, eq=False)
class LabelledWindows:
    """The windows of a task in a corpus.

    Attributes
    ----------
    table : DataFrame
        ``recording, subject, start`` (sample), ``label`` (class name, or number), by recording
        and start; for splits that may be of trials also ``trial``, in which the window lies.
    left_out : DataFrame
        ``recording, n_windows, reason``: how many windows of a recording are not in `table` and
        why; 0 windows where a recording as a whole has no part in the task.
    """

    table: pd.DataFrame
    left_out: pd.DataFrame


def labelled_windows(task: TaskConfig, corpus: Corpus) -> pd.DataFrame:
    """Return the table of `cut_windows`."""
    return cut_windows(task, corpus).table


def cut_windows(task: TaskConfig, corpus: Corpus) -> LabelledWindows:
    """Cut a corpus into the windows of a task.

    Stepped windows lie wholly within one labelled stretch, the first at its beginning, unless the
    task has a background class; one window per event lies around its onset. All lie wholly within a
    usable stretch.

    Raises
    ------
    BergerError
        If a label cannot be found or placed (see `berger.tasks.origins.find_marks`), two labels
        contradict each other, a class has no window, or the numbers of a regression do not differ.
    """
    _check_channels(task, corpus)
    marks = find_marks(task, corpus)
    stretches = {
        recording: rows[["start", "stop"]].to_numpy()
        for recording, rows in corpus.stretches.groupby("recording")
    }
    rows: list[tuple[str, str, int, str | float | None, str]] = []
    left_out: list[tuple[str, int, str]] = []
    lengths: dict[str, int] = {}
    for row in corpus.recordings.itertuples():
        if row.status != "ok":
            left_out.append((row.recording, 0, row.reason))
            continue
        if row.recording not in marks.of:
            left_out.append((row.recording, 0, marks.without[row.recording]))
            continue
        own = [mark._replace(number=n) for n, mark in enumerate(marks.of[row.recording], start=1)]
        usable = stretches.get(row.recording, np.empty((0, 2), np.int64))
        lengths[row.recording] = count_samples(task.window_seconds, row.sfreq)
        kept, lost = cut_recording(task, row, own, usable)
        rows += [
            (row.recording, row.subject, start, mark.label, trial_name(row.recording, mark.number))
            for start, mark in kept
        ]
        left_out += [(row.recording, n, reason) for reason, n in sorted(lost.items())]
    table = pd.DataFrame(rows, columns=["recording", "subject", "start", "label", "trial"])
    table = table.sort_values(["recording", "start"], ignore_index=True)
    if not may_draw_trials(task.split) or _trials_overlap(task, table, lengths):
        table = table.drop(columns="trial")
    if isinstance(task.split, RecordingWithinSubject) and task.split.incomplete:
        table, lone = _with_enough_recordings(task, table)
        left_out += lone
    if table.empty:
        corpus.windows(task.window_seconds)  # says so if windows of this length do not exist
    out = pd.DataFrame(left_out, columns=["recording", "n_windows", "reason"])
    _check_labels(task, table, out)
    return LabelledWindows(table.reset_index(drop=True), out)


def cut_recording(
    task: TaskConfig, row: Any, marks: list[Mark], usable: npt.NDArray[np.int64]
) -> tuple[list[tuple[int, Mark]], Counter[str]]:
    """Cut one recording into the windows of a task.

    Parameters
    ----------
    task : TaskConfig
    row : named tuple
        With its ``recording, sfreq, n_times``.
    marks : list of Mark
    usable : ndarray of int, shape (n_stretches, 2)
        First and last sample (exclusive) of what can be used.

    Returns
    -------
    windows : list of (int, Mark)
        First sample, and what has its label.
    left_out : Counter
        Why how many windows are not among them.

    Raises
    ------
    BergerError
        If labels contradict each other, or a window is no whole number of samples.
    """
    n_times = count_samples(task.window_seconds, row.sfreq)
    windows: list[tuple[int, Mark]] = []
    lost: Counter[str] = Counter()
    for starts, mark in _candidates(task, row, marks, n_times, lost):
        if mark.label is None:
            lost[mark.reason] += len(starts)
            continue
        for start, reason in zip(
            starts.tolist(), _faults(starts, n_times, row.n_times, usable), strict=True
        ):
            if reason:
                lost[reason] += 1
            else:
                windows.append((start, mark))
    return windows, lost


def _check_channels(task: TaskConfig, corpus: Corpus) -> None:
    made = corpus.manifest.preprocessing.bipolar_pairs
    if task.bipolar is not None and made != PreprocessingConfig(bipolar=task.bipolar).bipolar_pairs:
        raise BergerError(
            f"{corpus.folder}: was not prepared with the bipolar channels that task {task.name} "
            "asks for; prepare the recordings with `bipolar` of the task."
        )
    reference = corpus.manifest.preprocessing.reference
    if task.reference is not None and task.reference != reference:
        raise BergerError(
            f"{corpus.folder}: was prepared with another reference than task {task.name} asks for; "
            "prepare the recordings with `reference` of the task."
        )
    kept = corpus.manifest.preprocessing.ch_names
    if task.channels is not None and task.channels != kept:
        has = "all channels" if kept is None else ", ".join(kept)
        raise BergerError(
            f"{corpus.folder}: was prepared with {has}, but task {task.name} asks for "
            f"{', '.join(task.channels)}; prepare the recordings with ch_names of the task."
        )


def _candidates(
    task: TaskConfig, row: Any, marks: list[Mark], n_times: int, lost: Counter[str]
) -> Iterator[tuple[npt.NDArray[np.int64], Mark]]:
    """Yield the first samples of the windows of each mark, usable or not."""
    if task.window is not None:
        tmin = task.window.tmin
        begins = [round((mark.onset + tmin) * row.sfreq) for mark in marks]
        if task.window.repeats == "refuse":
            _check_events(row, begins, marks)
        elif task.window.repeats == "once":
            begins, marks = _once(begins, marks)
        for begin, mark in zip(begins, marks, strict=True):
            yield np.array([begin]), mark
        return
    step = count_samples(task.step_seconds or task.window_seconds, row.sfreq)
    if task.background is not None:
        if row.n_times < n_times:
            lost["the recording is shorter than a window"] += 1
        through = _through(task.background, row, marks, n_times, step)
        yield from ((starts, mark) for starts, mark in through if len(starts))
        return
    _check_overlaps(task, row, marks)
    for mark in marks:
        first, end = max(round(mark.onset * row.sfreq), 0), round(mark.offset * row.sfreq)
        starts = np.arange(first, end - n_times + 1, step)
        if len(starts):
            yield starts, mark
        else:
            whole = first == 0 and end == row.n_times
            what = "the recording is" if whole else "a labelled stretch is"
            lost[mark.reason or f"{what} shorter than a window"] += 1


def _once(begins: list[int], marks: list[Mark]) -> tuple[list[int], list[Mark]]:
    """Join the events whose windows are one; without a label where theirs contradict each other."""
    at: dict[int, list[Mark]] = {}
    for begin, mark in zip(begins, marks, strict=True):
        at.setdefault(begin, []).append(mark)
    joined = []
    for together in at.values():
        labelled = [mark for mark in together if mark.label is not None]
        mark = (labelled or together)[0]
        if len({one.label for one in labelled}) > 1:
            mark = mark._replace(label=None, reason="events of several classes lie there")
        joined.append(mark)
    return [*at], joined


def _through(
    background: str, row: Any, marks: list[Mark], n_times: int, step: int
) -> Iterator[tuple[npt.NDArray[np.int64], Mark]]:
    """Yield the windows through a whole recording, by what touches them: first those by nothing."""
    starts = np.arange(0, row.n_times - n_times + 1, step)
    touched = np.zeros(len(starts), int)  # by which mark, from 1
    several = np.zeros(len(starts), bool)
    labels = np.array([None, *(mark.label for mark in marks)], object)
    for number, mark in enumerate(marks, start=1):
        first, end = round(mark.onset * row.sfreq), round(mark.offset * row.sfreq)
        here = (starts < end) & (starts + n_times > first)
        several |= here & (touched > 0) & (labels[touched] != mark.label)
        touched[here] = number
    yield starts[touched == 0], Mark(0.0, 0.0, background)
    yield starts[several], Mark(0.0, 0.0, None, "labels of several classes touch it")
    for number, mark in enumerate(marks, start=1):
        yield starts[(touched == number) & ~several], mark


def _faults(
    starts: npt.NDArray[np.int64], n_times: int, n_recorded: int, usable: npt.NDArray[np.int64]
) -> list[str]:
    """Return what is wrong with each window; "" if nothing is."""
    stops = starts + n_times
    last = np.searchsorted(usable[:, 0], starts, side="right") - 1
    inside = np.zeros(len(starts), bool)
    inside[last >= 0] = stops[last >= 0] <= usable[last[last >= 0], 1]
    beyond = (starts < 0) | (stops > n_recorded)
    return [
        "" if fits else BEYOND if out else "it is not wholly usable"
        for fits, out in zip(inside.tolist(), beyond.tolist(), strict=True)
    ]


def _check_overlaps(task: TaskConfig, row: Any, marks: list[Mark]) -> None:
    labelled = sorted(mark for mark in marks if mark.label is not None)
    for before, mark in pairwise(labelled):
        if mark.onset < before.offset - 1 / row.sfreq:
            annotations = task.labels.origin == "annotations"
            what = "annotations" if annotations else "stretches"
            cure = "leave one description out of `classes`" if annotations else "correct the table"
            raise BergerError(
                f"{row.recording}: labelled {what} overlap at {mark.onset:g} s, so that "
                f"windows would count twice; {cure}."
            )


def _check_events(row: Any, starts: list[int], marks: list[Mark]) -> None:
    seen: dict[int, Mark] = {}
    for start, mark in zip(starts, marks, strict=True):
        if mark.label is not None and seen.setdefault(start, mark) is not mark:
            raise BergerError(
                f"{row.recording}: two labelled events ({seen[start].label} and {mark.label}) lie "
                f"at {mark.onset:g} s, so that their window would count twice; leave one out."
            )


def _trials_overlap(task: TaskConfig, table: pd.DataFrame, lengths: dict[str, int]) -> bool:
    """Return whether windows of different trials overlap; a split by trial is refused then.

    Two of the same length overlap only if the later one, or one between them, overlaps the one
    before it.
    """
    after = table.shift(-1)
    overlap = (
        (table["recording"] == after["recording"])
        & (table["trial"] != after["trial"])
        & (after["start"] - table["start"] < table["recording"].map(lengths))
    )
    if isinstance(task.split, TrialSplit) and overlap.any():
        place = int(overlap.argmax())
        one, other = table["trial"][place], after["trial"][place]
        raise BergerError(
            f"task {task.name}: windows of the trials {one} and {other} overlap, so that they "
            "would be on two sides of a split by trial; take shorter windows, or split otherwise."
        )
    return bool(overlap.any())


def _with_enough_recordings(
    task: TaskConfig, table: pd.DataFrame
) -> tuple[pd.DataFrame, list[tuple[str, int, str]]]:
    """Leave out people who cannot be tested within themselves."""
    few = too_few_recordings(dict(zip(table["recording"], table["subject"], strict=True)))
    lone = table["subject"].isin(few)
    if lone.all() and len(table):
        raise BergerError(
            f"task {task.name}: nobody has {FEWEST_RECORDINGS} recordings with windows, which a "
            "split within subjects needs; split by subject."
        )
    reason = f"its person has fewer than {FEWEST_RECORDINGS} recordings to be tested within"
    counts = table[lone].groupby("recording", sort=False).size()
    return table[~lone], [(str(recording), int(n), reason) for recording, n in counts.items()]


def _check_labels(task: TaskConfig, table: pd.DataFrame, left_out: pd.DataFrame) -> None:
    found = set(table["label"])
    lost = left_out.groupby("reason")["n_windows"].sum().sort_values()
    most = f" ({lost.iloc[-1]} were left out since {lost.index[-1]})" if lost.sum() else ""
    if task.kind == "regression":
        if len(found) < 2:
            has = "have one number only" if found else "do not exist"
            raise BergerError(
                f"task {task.name}: its windows {has}{most}, from which nothing can be learned; "
                "check the labels of the task, or loosen max_amplitude."
            )
    elif missing := [name for name in task.classes if name not in found]:
        raise BergerError(
            f"task {task.name}: no window of class {' or '.join(missing)} among {len(table)} "
            f"windows{most}; check the labels of the task, or loosen max_amplitude."
        )
