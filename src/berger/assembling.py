"""Train several experts and join them into one SpecMoE (arXiv 2603.16739).

    corpus ─┬─ part 0 ─► expert 0 ─┐
            ├─ part 1 ─► expert 1 ─┼─► SpecMoE
            └─ part 2 ─► expert 2 ─┘

Experts may have been trained at the same time on different machines. What their checkpoints say of
themselves decides whether they belong together: one corpus divided in one way, different parts of
it, one kind of input, one architecture.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch

from berger.configuration import differences
from berger.corpus import open_corpus
from berger.errors import BergerError
from berger.files import write_json
from berger.models import SpecMoE, load_checkpoint
from berger.models.spechinet import SpecHiNetEncoder
from berger.pretraining import (
    PART_FILE,
    RECORD_FILE,
    PretrainingConfig,
    claimed,
    pretrain,
    windows_mark,
)
from berger.training.devices import Strategy, wait_for_all
from berger.training.log import run_record
from berger.training.processes import is_first
from berger.training.sinks import SinkName, make_sinks
from berger.training.state import has_state

SEEN = ("subjects", "training_files", "training_contents")
"""Whom a checkpoint has seen; experts of one division have seen the same people."""
GATE_SECONDS = 2.0
"""Segments of the gate's spectrum, the paper's; shorter windows have shorter ones."""


def pretrain_experts(
    config: PretrainingConfig,
    corpus_folder: Path | str,
    out: Path,
    *,
    subjects: Sequence[str] | None = None,
    resume: bool = False,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    strategy: Strategy = "ddp",
    workers: int = 0,
    quiet: bool = False,
    profile: bool = False,
    log_to: Sequence[SinkName] = (),
) -> Path:
    """Pretrain all experts of a configuration in turn, and assemble them.

    Parameters
    ----------
    config, corpus_folder, subjects, device, strategy, workers, quiet, profile, log_to
        As in `berger.pretraining.pretrain`.
    out : Path
        ``expert-0/``, ``expert-1/``, … are runs like any other; ``checkpoint/`` is the SpecMoE.
    resume : bool
        Continue in `out`: experts that are finished stay, one that was interrupted goes on.

    Returns
    -------
    Path
        The assembled checkpoint's folder.

    Raises
    ------
    BergerError
        As `pretrain` and `assemble` do.
    """
    make_sinks(log_to, {})  # says what is missing before anything is written
    with claimed(out, config, resume):
        corpus = open_corpus(corpus_folder).manifest.id
        runs = [out / f"expert-{number}" for number in range(config.experts)]
        for run in runs:
            if (run / RECORD_FILE).is_file() and _record(run)["corpus"]["id"] != corpus:
                raise BergerError(
                    f"{run}: was trained on another corpus; resume with the same one, or start a "
                    "new run in another folder."
                )
        for number, run in enumerate(runs):
            if not (run / RECORD_FILE).is_file():
                pretrain(
                    config,
                    corpus_folder,
                    run,
                    expert=number,
                    subjects=subjects,
                    resume=has_state(run),
                    device=device,
                    strategy=strategy,
                    workers=workers,
                    quiet=quiet,
                    profile=profile,
                    log_to=log_to,
                )
        checkpoint = out / "checkpoint"
        if is_first():
            if not checkpoint.is_dir():
                assemble(runs, checkpoint, config.seed)
            seconds = sum(_record(run)["wall_seconds"] for run in runs)
            total = {"wall_seconds": round(seconds, 1)}
            write_json(out / RECORD_FILE, {**load_checkpoint(checkpoint).provenance, **total})
    wait_for_all()
    return checkpoint


def _record(run: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((run / RECORD_FILE).read_text(encoding="utf-8"))
    return record


@dataclass(frozen=True)
class Expert:
    """A pretrained expert and what its checkpoint says of itself.

    Attributes
    ----------
    folder : Path
        The checkpoint.
    model : SpecHiNetEncoder
    """

    folder: Path
    model: SpecHiNetEncoder

    @property
    def corpus(self) -> str:
        """Id of the corpus."""
        return str(self.model.provenance["corpus"]["id"])

    @property
    def division(self) -> dict[str, Any]:
        """How the corpus was divided, without which part this expert got."""
        own = ("expert", "windows_sha256")
        return {k: v for k, v in self.model.provenance["part"].items() if k not in own}

    @property
    def number(self) -> int:
        """Which of the experts this is."""
        return int(self.model.provenance["part"]["expert"])

    @cached_property
    def windows(self) -> pd.DataFrame | None:
        """The windows of its part, where the run's folder is at hand."""
        path = self.folder.parent / PART_FILE
        if not path.is_file():
            return None
        table = pd.read_parquet(path)
        if windows_mark(table) != self.model.provenance["part"]["windows_sha256"]:
            raise BergerError(
                f"{path}: is not the part that {self.folder} was trained on; copy the run again, "
                "or give its checkpoint alone."
            )
        return table


def assemble(folders: Sequence[Path], out: Path, seed: int = 0) -> Path:
    """Join experts into one SpecMoE.

    Its gate and head are new and learn when it is adapted.

    Parameters
    ----------
    folders : sequence of Path
        Checkpoints of experts, or runs that ended with one; their order does not matter.
    out : Path
        The new checkpoint's folder.
    seed : int
        Of the gate and the head.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    BergerError
        If the experts do not belong together (see `check`), or something stands at `out`.
    """
    if out.exists():
        raise BergerError(f"{out}: exists already; choose another folder.")
    experts = sorted((read_expert(folder) for folder in folders), key=lambda e: e.number)
    check(experts)
    first = experts[0].model
    seconds = first.contract.window_seconds
    torch.manual_seed(seed)
    model = SpecMoE.from_experts(
        [expert.model for expert in experts],
        first.contract,
        segment_seconds=GATE_SECONDS if seconds is None else min(GATE_SECONDS, seconds),
    )
    model.save_checkpoint(out, _provenance(experts, model) | {"seed": seed})
    return out


def _provenance(experts: Sequence[Expert], model: SpecMoE) -> dict[str, Any]:
    """What the experts were made from, and together: whom any of them has seen, which windows."""
    each = [dict(expert.model.provenance) for expert in experts]
    return run_record() | {
        "kind": "assembly",
        "corpus": each[0]["corpus"],
        "window_seconds": each[0]["window_seconds"],
        **{key: each[0][key] for key in SEEN if key in each[0]},
        "validation_by": each[0].get("validation_by", "subject"),
        "training_windows": sum(one["training_windows"] for one in each),
        "n_parameters": model.n_parameters,
        "experts": each,
    }


def read_expert(folder: Path) -> Expert:
    """Load an expert from its checkpoint or from the folder of its run.

    Raises
    ------
    BergerError
        If it is no pretrained SpecHi-Net that knows its corpus and part.
    """
    if (folder / "checkpoint").is_dir():
        folder = folder / "checkpoint"
    model = load_checkpoint(folder)
    if not isinstance(model, SpecHiNetEncoder):
        raise BergerError(
            f"{folder}: is a {type(model).__name__}, not an expert; give checkpoints of "
            "`berger pretrain --expert`."
        )
    if not {"corpus", "part"} <= set(model.provenance):
        raise BergerError(
            f"{folder}: does not tell the part of a corpus that it was trained on; give "
            "checkpoints of `berger pretrain --expert`, or import published experts together."
        )
    return Expert(folder, model)


def check(experts: Sequence[Expert]) -> None:
    """Raise BergerError unless experts belong together.

    They must have been trained on disjoint parts of one corpus, divided in one way, with the same
    contract and architecture.
    """
    if not experts:
        raise BergerError("no experts given; name their checkpoints before --out.")
    for one, other in combinations(experts, 2):
        for refuse in REFUSALS:
            if reason := refuse(one, other):
                raise BergerError(f"{one.folder} and {other.folder} {reason}")


def _other_corpus(one: Expert, other: Expert) -> str | None:
    if one.corpus == other.corpus:
        return None
    return (
        f"were trained on different corpora ({one.corpus[:16]}, {other.corpus[:16]}), whose "
        "recordings may overlap; train the experts on one."
    )


def _other_division(one: Expert, other: Expert) -> str | None:
    changed = [
        f"{key}: {value} → {other.division.get(key)}"
        for key, value in one.division.items()
        if value != other.division.get(key)
    ]
    if not changed:
        return None
    return (
        f"come from different divisions of the corpus ({'; '.join(changed)}), whose parts overlap; "
        "train the experts with one configuration."
    )


def _same_part(one: Expert, other: Expert) -> str | None:
    if one.number == other.number:
        return f"were both trained on part {one.number}; give one expert of each part."
    if one.windows is None or other.windows is None:  # the division keeps parts apart
        return None
    common = len(one.windows.merge(other.windows))
    if not common:
        return None
    return f"share {common} windows that they were trained on; train one of them again."


def _other_contract(one: Expert, other: Expert) -> str | None:
    changed = differences(one.model.contract, other.model.contract)
    if not changed:
        return None
    return (
        f"expect different input ({'; '.join(changed)}); train the experts with one configuration."
    )


def _other_architecture(one: Expert, other: Expert) -> str | None:
    changed = differences(one.model.config, other.model.config)
    if not changed:
        return None
    return (
        f"are different networks ({'; '.join(changed)}); train the experts with one configuration."
    )


REFUSALS: tuple[Callable[[Expert, Expert], str | None], ...] = (
    _other_corpus,
    _other_division,
    _same_part,
    _other_contract,
    _other_architecture,
)
"""What can be wrong with two experts; each returns the second half of a sentence, or None."""
