"""The facts of labelled data sets, and the labelled windows that they ask for.

A task is a YAML file: one of those beside this module, or a user's own.
"""

from __future__ import annotations

import os
import re
from glob import glob
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import pandas as pd
from pydantic import Field, field_validator, model_validator

from berger.configuration import Config, load_config, locate
from berger.corpus import Corpus
from berger.errors import BergerError
from berger.preprocessing import PreprocessingConfig

Classes = dict[str, str]
"""What stands in the data → the name of the class."""


class FileNameLabels(Config):
    """One label for a whole recording, read from its name.

    Attributes
    ----------
    pattern : str
        Regular expression with a group ``label``, searched in the recording's id: the file's name,
        and before it the folders below the one that a corpus was prepared from.
    classes : dict of str to str
        What the group finds → class. Recordings with anything else are left out.
    """

    origin: Literal["file name"] = Field(alias="from")
    pattern: str
    classes: Classes

    @field_validator("pattern")
    @classmethod
    def _has_a_label(cls, pattern: str) -> str:
        try:
            groups = re.compile(pattern).groupindex
        except re.error as error:
            raise ValueError(f"no regular expression ({error})") from error
        if "label" not in groups:
            raise ValueError("must hold a group (?P<label>...)")
        return pattern


class AnnotationLabels(Config):
    """A label for each annotated stretch; windows lie wholly within one.

    Attributes
    ----------
    classes : dict of str to str
        Description of the annotation → class. Other annotations are not used.
    """

    origin: Literal["annotations"] = Field(alias="from")
    classes: Classes


class TaskConfig(Config):
    """A labelled data set and the question asked of it.

    Attributes
    ----------
    name, title, description : str
    recordings : tuple of str
        Paths or glob patterns; relative ones count from the data folder.
    labels : FileNameLabels or AnnotationLabels
    window_seconds, step_seconds : float
        Length of a window, and from one window to the next (default: the length).
    subject_pattern : str, optional
        Regular expression with a group ``subject``, searched in the path; default: Berger's own
        rules for file names and headers.
    max_amplitude : float, optional
        In µV; windows that reach it are left out. None keeps all.
    n_folds : int
        Folds by person.
    species, licence, paper, source : str
        Facts for the report.
    """

    name: str
    title: str = ""
    description: str = ""
    recordings: tuple[str, ...] = ("**/*.edf",)
    labels: Annotated[FileNameLabels | AnnotationLabels, Field(discriminator="origin")]
    window_seconds: float = Field(gt=0)
    step_seconds: float | None = Field(None, gt=0)
    subject_pattern: str | None = None
    max_amplitude: float | None = Field(None, gt=0)
    n_folds: int = Field(6, ge=2)
    species: str = "human"
    licence: str = ""
    paper: str = ""
    source: str = ""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order in which they are given."""
        return tuple(dict.fromkeys(self.labels.classes.values()))

    @model_validator(mode="after")
    def _has_a_question(self) -> Self:
        if len(self.classes) < 2:
            raise ValueError("labels.classes must name at least two classes")
        return self


def catalogue() -> dict[str, Path]:
    """Return name → file of every task that is shipped with the package."""
    folder = Path(str(resources.files(__name__)))
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def load_task(task: str | Path) -> TaskConfig:
    """Return the shipped task of that name, or read a user's YAML file."""
    path = locate(task, catalogue(), "task")
    return load_config(TaskConfig, path)


def find_data(task: TaskConfig, origin: str | Path, data: Path | None) -> list[Path]:
    """Return the recordings of a task.

    Parameters
    ----------
    task : TaskConfig
    origin : str or Path
        As given to `load_task`: a file's patterns count from its own folder.
    data : Path, optional
        Folder that holds the data set. Default: the YAML file's folder, or for a shipped task the
        folder of the task's name below ``$BERGER_DATA``.

    Raises
    ------
    BergerError
        If the folder is not known or nothing in it fits.
    """
    if data is None:
        if str(origin) not in catalogue():
            data = Path(origin).parent
        elif root := os.environ.get("BERGER_DATA"):
            data = Path(root) / task.name
        else:
            raise BergerError(
                f"task {task.name}: where is the data? Give --data FOLDER with the files from "
                f"{task.source or 'its source'}, or --corpus with a corpus made from them."
            )
    found = sorted(
        {
            data / path
            for pattern in task.recordings
            for path in glob(pattern, root_dir=data, recursive=True)  # noqa: PTH207 - absolute too
        }
    )
    if not found:
        raise BergerError(
            f"{data}: nothing there fits {' or '.join(task.recordings)}; give the folder "
            f"that holds the recordings of {task.name} by --data."
        )
    return found


def preparation(task: TaskConfig, contract: PreprocessingConfig) -> PreprocessingConfig:
    """Return how a task's recordings are prepared for a model trained on `contract`."""
    return contract.model_copy(
        update={
            "max_amplitude": task.max_amplitude,
            "subject_pattern": task.subject_pattern,
            "cut_start": 0.0,
            "cut_end": 0.0,
            "min_duration": 0.0,
            "unit": None,
        }
    )


def labelled_windows(task: TaskConfig, corpus: Corpus) -> pd.DataFrame:
    """Cut a corpus into the windows of a task.

    Returns
    -------
    DataFrame
        ``recording, subject, start`` (sample), ``label`` (class name), by recording and start.

    Raises
    ------
    BergerError
        If a class has no window.
    """
    windows = corpus.windows(task.window_seconds, task.step_seconds).table
    if isinstance(task.labels, FileNameLabels):
        table = _label_by_file_name(windows, task.labels)
    else:
        table = _label_by_annotation(corpus, task, task.labels)
    found = set(table["label"])
    if missing := [name for name in task.classes if name not in found]:
        raise BergerError(
            f"task {task.name}: no window of class {' or '.join(missing)} among {len(windows)} "
            "windows; check the labels of the task, or loosen max_amplitude."
        )
    return table.sort_values(["recording", "start"], ignore_index=True)


def _label_by_file_name(windows: pd.DataFrame, labels: FileNameLabels) -> pd.DataFrame:
    def label(recording: str) -> str | None:
        found = re.search(labels.pattern, recording)
        return labels.classes.get(found["label"]) if found else None

    by_recording = {name: label(name) for name in windows["recording"].unique()}
    table = windows.assign(label=windows["recording"].map(by_recording))
    return table.dropna(subset="label")


def _label_by_annotation(
    corpus: Corpus, task: TaskConfig, labels: AnnotationLabels
) -> pd.DataFrame:
    step_seconds = task.step_seconds or task.window_seconds
    stretches = corpus.stretches.groupby("recording")
    rows = []
    for recording in corpus.recordings[corpus.recordings["status"] == "ok"].itertuples():
        n_times = round(task.window_seconds * recording.sfreq)
        step = round(step_seconds * recording.sfreq)
        usable = (
            stretches.get_group(recording.recording)[["start", "stop"]].to_numpy()
            if recording.recording in stretches.groups
            else np.empty((0, 2), int)
        )
        marks = sorted(
            (mark["onset"], mark["onset"] + mark["duration"], labels.classes[mark["description"]])
            for mark in recording.annotations
            if mark["description"] in labels.classes
        )
        for (_, end_before, _), (onset, _, _) in pairwise(marks):
            if onset < end_before - 1 / recording.sfreq:
                raise BergerError(
                    f"{recording.recording}: labelled annotations overlap at {onset:g} s, so that "
                    "windows would count twice; leave one description out of `classes`."
                )
        for onset, offset, label in marks:
            first = max(round(onset * recording.sfreq), 0)
            end = round(offset * recording.sfreq)
            for start in range(first, end - n_times + 1, step):
                if ((usable[:, 0] <= start) & (start + n_times <= usable[:, 1])).any():
                    rows.append((recording.recording, recording.subject, start, label))
    return pd.DataFrame(rows, columns=["recording", "subject", "start", "label"])
