"""MATLAB 7.3 files made by script, and tasks prepared from what they hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from berger import open_corpus
from berger.corpus import Corpus, prepare
from berger.preprocessing import PreprocessingConfig
from berger.tasks import TaskConfig, preparation
from berger.tasks.task import recordings_of


def prepared(task: TaskConfig, out: Path, **contract: object) -> Corpus:
    """Prepare a task's recordings for a model that was trained without filters."""
    bare = {"sfreq": 200, "highpass": None, "lowpass": None}
    config = preparation(task, PreprocessingConfig.model_validate(bare | contract))
    prepare(recordings_of(task), out, config, root=task.data_folder, progress=False)
    return open_corpus(out)


def write_hdf5(path: Path, variables: Mapping[str, Any]) -> None:
    """Write as MATLAB 7.3 does: axes reversed, texts as numbers, cells as references."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in variables.items():
            _put(file, name, value)
    with path.open("r+b") as written:
        written.write(b"MATLAB 7.3 MAT-file".ljust(116) + bytes(8) + b"\x00\x02IM")


def _put(group: h5py.Group, name: str, value: Any) -> None:
    if isinstance(value, Mapping):
        inside = group.create_group(name)
        for key, part in value.items():
            _put(inside, key, part)
    elif isinstance(value, str):
        letters = np.array([[ord(letter)] for letter in value], np.uint16)
        group.create_dataset(name, data=letters).attrs["MATLAB_class"] = np.bytes_("char")
    elif isinstance(value, list):  # a row of cells
        store = group.file.require_group("#refs#")
        references = []
        for part in value:
            called = f"r{len(store)}"
            _put(store, called, part)
            references.append([store[called].ref])
        cells = np.array(references, h5py.ref_dtype)
        group.create_dataset(name, data=cells).attrs["MATLAB_class"] = np.bytes_("cell")
    else:
        numbers = np.atleast_2d(np.asarray(value, float))
        group.create_dataset(name, data=numbers.T).attrs["MATLAB_class"] = np.bytes_("double")
