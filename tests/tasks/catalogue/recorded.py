"""EDF files in the layout of a data set, and the way from them to the windows of its task."""

from __future__ import annotations

import datetime
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
from berger.tasks import cut_windows, find_data, load_task, preparation
from berger.tasks.task import TaskConfig
from berger.tasks.windows import LabelledWindows

DAY = datetime.date(2001, 1, 2)


def write_edf(
    path: Path,
    rates: Mapping[str, int] | Sequence[tuple[str, int]],
    seconds: int,
    *,
    start: str = "00:00:00",
    unit: str = "uV",
) -> Path:
    """Write noise of 20 µV, of each file its own; channels of one name hold the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scale = {"uV": 1.0, "V": 1e-6}[unit]
    channels = list(rates.items()) if isinstance(rates, Mapping) else list(rates)
    signals = []
    for label, rate in channels:
        rng = np.random.default_rng(zlib.crc32(f"{path} {label}".encode()))
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
    begin = datetime.time.fromisoformat(start)
    edfio.Edf(signals, starttime=begin, data_record_duration=1).write(path)
    return path


def write_hypnogram(path: Path, marks: Sequence[Annotation], *, start: str = "00:00:00") -> Path:
    """Write EDF+ that holds annotations only."""
    notes = [edfio.EdfAnnotation(mark.onset, mark.duration, mark.description) for mark in marks]
    begin = datetime.time.fromisoformat(start)
    edfio.Edf([], annotations=notes, starttime=begin).write(path)
    return path


def corpus_of(task: str, data: Path, sfreq: float, out: Path) -> tuple[TaskConfig, Corpus]:
    """Prepare a task's recordings without filters at their own rate."""
    config = load_task(task, data)
    contract = PreprocessingConfig(sfreq=sfreq, highpass=None, lowpass=None)
    found = find_data(config, task, data)
    prepare(found, out, preparation(config, contract), root=data.parent, progress=False)
    return config, open_corpus(out)


def windows_of(task: str, data: Path, sfreq: float, out: Path) -> LabelledWindows:
    return cut_windows(*corpus_of(task, data, sfreq, out))


def counts(table: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Return subject → class → number of windows."""
    made: dict[str, dict[str, int]] = {}
    for (subject, label), rows in table.groupby(["subject", "label"]):
        made.setdefault(str(subject), {})[str(label)] = len(rows)
    return made


def lost(windows: LabelledWindows) -> dict[str, int]:
    """Return reason → number of windows."""
    return windows.left_out.groupby("reason")["n_windows"].sum().to_dict()
