"""Miniatures of data sets: EDF files as they are distributed, and the way from there to windows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from berger import open_corpus
from berger.corpus import Corpus, prepare
from berger.preprocessing import PreprocessingConfig
from berger.recordings import Annotation, Recording
from berger.simulation import write_edf
from berger.tasks import TaskConfig, cut_windows, find_data, preparation
from berger.tasks.splits import Fold

MODEL = PreprocessingConfig(sfreq=100, highpass=None, lowpass=40)


def write(
    path: Path,
    labels: Sequence[str],
    sfreq: int,
    seconds: int,
    marks: Sequence[Annotation] = (),
    *,
    seed: int = 0,
) -> None:
    """Write noise of 10 µV into an EDF+ file; each channel is its own."""
    rng = np.random.default_rng([seed, *path.name.encode()])  # no two files may be equal
    names = tuple(labels)
    recording = Recording(
        signal=rng.normal(0, 10, (len(names), seconds * sfreq)).clip(-50, 50),
        ch_names=names,
        sfreq=sfreq,
        subject="X",
        subject_source="simulation",
        session=None,
        path=path,
        original_ch_names=names,
        annotations=tuple(marks),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_edf(recording, path)


def corpus_of(task: TaskConfig, folder: Path, out: Path) -> Corpus:
    """Prepare the recordings that a shipped task finds in a folder."""
    data = find_data(task, task.name, folder)
    root = Path(os.path.commonpath([path.parent for path in data]))  # as the commands do
    prepare(data, out, preparation(task, MODEL), root=root, progress=False)
    return open_corpus(out)


def folds_of(task: TaskConfig, corpus: Corpus) -> list[Fold]:
    """Return the folds of a task's windows."""
    first = cut_windows(task, corpus).table.drop_duplicates("recording")
    return task.folds(
        first["subject"].tolist(),
        [None] * len(first),
        recordings=first["recording"].tolist(),
        validation_share=0.3,
        seed=0,
    )
