"""Miniatures of data sets: EDF files as they are distributed, and the way from there to windows."""

from __future__ import annotations

import datetime
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import edfio
import numpy as np
import pandas as pd

from berger import open_corpus
from berger.corpus import Corpus, prepare
from berger.preprocessing import PreprocessingConfig
from berger.recordings import Annotation
from berger.tasks import TaskConfig, cut_windows, find_data, load_task, preparation
from berger.tasks.splits import Fold
from berger.tasks.windows import LabelledWindows

MODEL = PreprocessingConfig(sfreq=100, highpass=None, lowpass=40)


def write_edf(
    path: Path,
    channels: Mapping[str, int] | Sequence[tuple[str, int]],
    seconds: int,
    marks: Sequence[Annotation] = (),
    *,
    start: str = "00:00:00",
    unit: str = "uV",
) -> Path:
    """Write noise of 20 µV, of each file its own; channels of one name hold the same.

    `channels` are labels and their rates; with marks the file is EDF+.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scale = {"uV": 1.0, "V": 1e-6}[unit]
    signals = []
    for label, rate in channels.items() if isinstance(channels, Mapping) else channels:
        rng = np.random.default_rng(zlib.crc32(f"{path.parent.name}/{path.name} {label}".encode()))
        wave = rng.normal(0, 20, rate * seconds).clip(-150, 150)
        signals.append(
            edfio.EdfSignal(
                wave * scale,
                rate,
                label=label,
                physical_dimension=unit,
                physical_range=(-200 * scale, 200 * scale),
            )
        )
    edfio.Edf(
        signals,
        annotations=_notes(marks) or None,
        starttime=datetime.time.fromisoformat(start),
        data_record_duration=1,
    ).write(path)
    return path


def write_hypnogram(path: Path, marks: Sequence[Annotation], *, start: str = "00:00:00") -> Path:
    """Write EDF+ that holds annotations only."""
    begin = datetime.time.fromisoformat(start)
    edfio.Edf([], annotations=_notes(marks), starttime=begin).write(path)
    return path


def _notes(marks: Sequence[Annotation]) -> list[edfio.EdfAnnotation]:
    return [edfio.EdfAnnotation(mark.onset, mark.duration, mark.description) for mark in marks]


def corpus_of(
    task: TaskConfig, folder: Path, out: Path, contract: PreprocessingConfig = MODEL
) -> Corpus:
    """Prepare the recordings that a shipped task finds in a folder."""
    data = find_data(task, task.name, folder)
    root = Path(os.path.commonpath([path.parent for path in data]))  # as the commands do
    prepare(data, out, preparation(task, contract), root=root, progress=False)
    return open_corpus(out)


def windows_of(task: str, data: Path, sfreq: float, out: Path) -> LabelledWindows:
    """Cut the windows of a task whose recordings are prepared without filters."""
    loaded = load_task(task, data)
    return cut_windows(loaded, corpus_of(loaded, data, out, unfiltered(sfreq)))


def unfiltered(sfreq: float) -> PreprocessingConfig:
    return PreprocessingConfig(sfreq=sfreq, highpass=None, lowpass=None)


def folds_of(task: TaskConfig, corpus: Corpus) -> list[Fold]:
    """Return the folds of a task's windows."""
    table = cut_windows(task, corpus).table
    first = table.drop_duplicates("recording")
    return task.folds(
        first["subject"].tolist(),
        [None] * len(first),
        recordings=first["recording"].tolist(),
        trials=[*table["trial"].unique()] if "trial" in table else (),
        validation_share=0.3,
        seed=0,
    )


def counts(table: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Return subject → class → number of windows."""
    made: dict[str, dict[str, int]] = {}
    for (subject, label), rows in table.groupby(["subject", "label"]):
        made.setdefault(str(subject), {})[str(label)] = len(rows)
    return made


def lost(windows: LabelledWindows) -> dict[str, int]:
    """Return reason → number of windows."""
    return windows.left_out.groupby("reason")["n_windows"].sum().to_dict()
