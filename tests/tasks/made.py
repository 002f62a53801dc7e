"""Recordings and tasks made by script."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from berger import open_corpus
from berger.corpus import Corpus, prepare
from berger.preprocessing import PreprocessingConfig
from berger.recordings import Annotation, Recording
from berger.simulation import write_edf
from berger.tasks import TaskConfig, load_task

SFREQ = 100


def record(
    path: Path, seconds: int, marks: Sequence[Annotation] = (), spikes: Sequence[float] = ()
) -> None:
    """Write two channels of noise; for 0.1 s from each of `spikes` it reaches 300 µV."""
    rng = np.random.default_rng(0)
    signal = rng.normal(0, 10, (2, seconds * SFREQ)).clip(-50, 50)
    for second in spikes:
        start = round(second * SFREQ)
        signal[:, start : start + SFREQ // 10] = 300
    recording = Recording(
        signal=signal,
        ch_names=("Fz", "Cz"),
        sfreq=SFREQ,
        subject=path.stem,
        subject_source="simulation",
        session=None,
        path=path,
        original_ch_names=("Fz", "Cz"),
        annotations=tuple(marks),
    )
    write_edf(recording, path)


def prepared(raw: Path, out: Path, **fields: object) -> Corpus:
    """Prepare without filters; what reaches 200 µV is not usable."""
    config = PreprocessingConfig.model_validate(
        {"sfreq": SFREQ, "highpass": None, "lowpass": None, "max_amplitude": 200} | fields
    )
    prepare([raw], out, config, progress=False)
    return open_corpus(out)


def task_in(folder: Path, labels: dict[str, object], **fields: object) -> TaskConfig:
    """Write a task into a folder and load it."""
    content = {"name": "mine", "window_seconds": 2, "labels": labels} | fields
    if "window" in fields:
        del content["window_seconds"]
    (folder / "task.yaml").write_text(yaml.safe_dump(content))
    return load_task(folder / "task.yaml")
