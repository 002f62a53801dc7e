"""A model as a folder and back, bit-exact.

config.json        what to build, plain JSON: no import paths, nothing that runs
model.safetensors  every parameter and buffer
provenance.json    what it was made from: corpus, people, versions, command
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from berger.errors import BergerError
from berger.files import write_json, written_whole

FORMAT = "berger-checkpoint"
VERSION = 1
FILES = ("config.json", "model.safetensors", "provenance.json")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Content of a checkpoint folder.

    Attributes
    ----------
    config : dict
        Sections ``model``, what to build, and ``contract``, what it expects of its input.
    tensors : dict of str to Tensor
        Parameters and buffers by name.
    provenance : dict
        What the model was made from.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    provenance: dict[str, Any]


def write_checkpoint(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    provenance: Mapping[str, Any],
) -> None:
    """Write a checkpoint folder, whole or not at all; one that stands there is replaced."""
    with written_whole(folder) as temporary:
        temporary.mkdir()
        write_json(
            temporary / "config.json", {"format": FORMAT, "version": VERSION, **dict(config)}
        )
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        # not save_file, whose errors are not the system's: a full disk would be a fault of ours
        (temporary / "model.safetensors").write_bytes(save(contiguous))
        write_json(temporary / "provenance.json", dict(provenance))


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint folder.

    Raises
    ------
    BergerError
        If the folder or one of its files is missing, damaged or of another format version.
    """
    if not folder.is_dir():
        raise BergerError(f"{folder}: no such folder; give the folder of a checkpoint.")
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise BergerError(
            f"{folder}: not a complete checkpoint, {' and '.join(missing)} missing; copy the "
            "whole folder again or give another one."
        )
    config, provenance = (_read_json(folder / name) for name in ("config.json", "provenance.json"))
    if config.get("format") != FORMAT or config.get("version") != VERSION:
        raise BergerError(
            f"{folder}/config.json: format {config.get('format')!r} version "
            f"{config.get('version')!r}, but this Berger reads {FORMAT!r} version {VERSION}; "
            "install the version of Berger that wrote it."
        )
    return Checkpoint(config, read_tensors(folder / "model.safetensors"), provenance)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises
    ------
    BergerError
        If it is damaged, or no such file.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise BergerError(f"{path}: damaged ({error}); copy the checkpoint again.") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BergerError(f"{path}: not readable as JSON; copy the checkpoint again.") from error
    if not isinstance(content, dict):
        raise BergerError(f"{path}: must hold a JSON object; copy the checkpoint again.")
    return content
