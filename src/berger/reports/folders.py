"""Find what a folder holds and read it; whatever is missing or damaged is said in one sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import yaml

from berger.errors import BergerError

if TYPE_CHECKING:
    from berger.corpus import Corpus

Kind = Literal["corpus", "pretraining", "adaptation", "evaluation"]
ROAD: tuple[Kind, ...] = ("corpus", "pretraining", "adaptation", "evaluation")

_WRITTEN = {
    "example.npz": "it is written when pretraining ends",
    "restoration.parquet": "it is written when pretraining ends",
    "invariance.parquet": "it is written when pretraining ends",
    "log.jsonl": "it is written while a run trains",
    "predictions.parquet": "it is written when an adaptation ends",
    "results.parquet": "it is written when an adaptation ends",
    "cells.parquet": "it is written when an evaluation ends",
    "comparisons.parquet": "it is written when an evaluation ends",
}


@dataclass(frozen=True)
class Part:
    """A folder that a report has a section for; what it holds is opened once."""

    kind: Kind
    folder: Path

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.resolve().name

    @cached_property
    def corpus(self) -> Corpus:
        """The corpus; raises BergerError if it cannot be opened, e.g. because it is unfinished."""
        # loads torch, which a report of runs does without
        from berger.corpus import open_corpus

        return open_corpus(self.folder)

    @cached_property
    def run(self) -> Run:
        """The run, finished or not."""
        return Run(self.folder)


def find_parts(folder: Path) -> list[Part]:
    """Return what a folder is and what the folders directly in it are, in the road's order.

    Raises
    ------
    BergerError
        If there is no such folder or nothing in it is recognised.
    """
    if not folder.is_dir():
        raise BergerError(f"{folder}: no such folder; give the folder of a corpus or a run.")
    parts = [
        Part(kind, candidate)
        for candidate in (folder, *sorted(child for child in folder.iterdir() if child.is_dir()))
        if (kind := kind_of_folder(candidate))
    ]
    if not parts:
        raise BergerError(
            f"{folder}: nothing to report, neither it nor a folder directly in it holds a corpus "
            "(manifest.json) or a run (run.json, log.jsonl or predictions.parquet); give the "
            "folder that was --out of `berger prepare`, `pretrain`, `adapt` or `demo`."
        )
    return sorted(parts, key=lambda part: ROAD.index(part.kind))


def kind_of_folder(folder: Path) -> Kind | None:
    """Recognise a folder by the files in it, those of an unfinished run too."""
    if (folder / "manifest.json").is_file() or (folder / ".staging").is_dir():
        return "corpus"
    kind = Run(folder).record.get("kind")
    for known in ROAD[1:]:
        if kind == known:
            return known
    if (folder / "predictions.parquet").is_file() or (folder / "results.parquet").is_file():
        return "adaptation"
    if (folder / "log.jsonl").is_file() or (folder / "restoration.parquet").is_file():
        return "pretraining"
    return None


@dataclass(frozen=True)
class Run:
    """The files of a pretraining, an adaptation or an evaluation, each read when it is asked for.

    Attributes
    ----------
    folder : Path
    """

    folder: Path

    @cached_property
    def record(self) -> dict[str, Any]:
        """Content of ``run.json``; empty where there is none that can be read."""
        return self._mapping("run.json")

    @cached_property
    def config(self) -> dict[str, Any]:
        """Content of ``config.yaml``; empty where there is none that can be read."""
        return self._mapping("config.yaml")

    @cached_property
    def contract(self) -> dict[str, Any]:
        """What the checkpoint says of its input, preprocessing included; may be empty."""
        return mapping(self._mapping("checkpoint/config.json"), "contract")

    @cached_property
    def cell(self) -> dict[str, Any]:
        """Content of ``cell.json``, of a cell of an evaluation; empty where it is none."""
        return self._mapping("cell.json")

    @property
    def config_text(self) -> str:
        """``config.yaml`` as it stands."""
        path = self.folder / "config.yaml"
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

    def table(self, name: str, columns: tuple[str, ...]) -> pd.DataFrame:
        """Read a table.

        Raises
        ------
        BergerError
            If it is missing, damaged, empty or lacks one of the columns.
        """
        path = self._existing(name)
        try:
            table = pd.read_parquet(path)
        except (OSError, ValueError) as error:
            raise BergerError(f"{path}: not readable as a table; make the run again.") from error
        if missing := [column for column in columns if column not in table]:
            raise BergerError(
                f"{path}: lacks the column {' and '.join(missing)}; make the run again with this "
                "version of Berger."
            )
        if table.empty:
            raise BergerError(f"{path}: has no rows, so there is nothing to show.")
        return table

    def arrays(self, name: str, keys: tuple[str, ...]) -> dict[str, npt.NDArray[Any]]:
        """Read arrays; raises BergerError if the file is missing, damaged or lacks one of them."""
        path = self._existing(name)
        try:
            # opened here, because numpy leaves a damaged file open
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                return {key: stored[key] for key in keys}
        except KeyError as error:
            raise BergerError(
                f"{path}: {str(error.args[0])[:200]}; make the run again with this version of "
                "Berger."
            ) from error
        except Exception as error:  # numpy and zipfile raise many kinds on damaged bytes
            raise BergerError(f"{path}: damaged; make the run again.") from error

    def log(self) -> pd.DataFrame:
        """Read ``log.jsonl``: one row per line; a last line that was cut off is left out.

        Raises
        ------
        BergerError
            If it is missing, holds nothing yet or a line in it is damaged.
        """
        return self._log(("step", "split", "loss"))

    def epochs(self) -> pd.DataFrame:
        """Read the ``log.jsonl`` of a cell, with a row per epoch; raises as `log` does."""
        return self._log(("epoch", "train_loss", "validation_loss"))

    def table_of_epochs(self) -> pd.DataFrame:
        """Read the ``log.jsonl`` of an adaptation, whose models are trained one after another."""
        return self._log(("model", "epoch", "train_loss"))

    def _log(self, columns: tuple[str, ...]) -> pd.DataFrame:
        path = self._existing("log.jsonl")
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        try:
            rows = [json.loads(line) for line in lines if line.endswith("\n")]
        except json.JSONDecodeError as error:
            raise BergerError(f"{path}: a line in it is no JSON; restore the file.") from error
        log = pd.DataFrame(row for row in rows if isinstance(row, dict))
        if not {*columns} <= {*log.columns}:
            raise BergerError(f"{path}: holds no {columns[0]} yet, so there is no curve to show.")
        return log

    def _existing(self, name: str) -> Path:
        path = self.folder / name
        if not path.is_file():
            raise BergerError(
                f"{path.parent.name}/{name} is missing ({_WRITTEN[name]}), so this part cannot be "
                "shown; finish the run and make the report again."
            )
        return path

    def _mapping(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        try:
            text = path.read_text(encoding="utf-8")
            content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        except (OSError, ValueError, yaml.YAMLError):
            return {}
        return content if isinstance(content, dict) else {}


def model_name(config: Mapping[str, Any]) -> str:
    """Return the name by which people know the model of a configuration."""
    name = str(config.get("name", "the network"))
    known = {
        "spechinet": "SpecHi-Net",
        "spechinet-published": "SpecHi-Net in its published layout",
        "specmoe": "SpecMoE",
        "dare": "DARE-EEG",
    }
    return known.get(name, name)


def aligns(config: Mapping[str, Any]) -> bool:
    """Tell whether a run's objective aligns features, so that its log has measures of them."""
    return mapping(config, "objective").get("name") in ("dual-alignment", "aligned-restoration")


def restores(config: Mapping[str, Any]) -> bool:
    """Tell whether a run's objective restores whole signals, so that it leaves some."""
    return mapping(config, "objective").get("name") != "dual-alignment"


def tested_people(record: Mapping[str, Any]) -> set[str]:
    """Return who was tested in the folds of a record, also of folds of recordings or trials."""
    tested: set[str] = set()
    for fold in record.get("folds") or ():
        earlier = [fold["within"]] if fold.get("within") else fold.get("test", ())
        tested |= {*(fold.get("people") or earlier)}
    return tested


def fold_unit(record: Mapping[str, Any]) -> str:
    """Return what the folds of a record are of: a person, a recording or a trial."""
    first = (record.get("folds") or [{}])[0]
    unit = str(first.get("unit") or ("recording" if first.get("within") else "subject"))
    return "person" if unit == "subject" else unit


def mapping(content: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """Return the mapping at a path of keys; empty where there is none."""
    found: Any = content
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return dict(found) if isinstance(found, Mapping) else {}
