"""The training loop: setup → fit → validate, with all state in one dictionary."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal, Self

import torch
from lightning_fabric import Fabric
from pydantic import Field, model_validator
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from berger.configuration import Config
from berger.corpus import Batch, WindowDataset, WindowSampler, collate
from berger.errors import BergerError
from berger.files import written_whole
from berger.models.device import Device, compute_device
from berger.objectives.restoration import Losses
from berger.training.log import JsonLinesLog
from berger.training.optim import OptimizerConfig, build_optimizer, build_schedule

STATE_FILE = "state.ckpt"


class TrainingConfig(Config):
    """How long and how a model is trained.

    Attributes
    ----------
    steps, epochs : int and float, optional
        Length of the run in optimiser steps or in passes over the windows; exactly one is given.
    batch_size : int
        Windows of one forward pass.
    accumulate : int
        Forward passes of one optimiser step.
    optimizer : OptimizerConfig
    precision : {"32-true", "bf16-mixed"}
        Arithmetic of the forward and backward passes.
    log_every, validate_every, save_every : int
        In optimiser steps.
    """

    steps: int | None = Field(None, ge=1)
    epochs: float | None = Field(None, gt=0)
    batch_size: int = Field(64, ge=1)
    accumulate: int = Field(1, ge=1)
    optimizer: OptimizerConfig = OptimizerConfig()
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    log_every: int = Field(10, ge=1)
    validate_every: int = Field(100, ge=1)
    save_every: int = Field(100, ge=1)

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs")
        return self

    def total_steps(self, batches_per_epoch: int) -> int:
        """Return the number of optimiser steps of the whole run."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return max(1, round(self.epochs * batches_per_epoch / self.accumulate))


def fit(
    objective: nn.Module,
    dataset: WindowDataset,
    config: TrainingConfig,
    out: Path,
    *,
    seed: int,
    device: Device = "auto",
    workers: int = 0,
    resume: bool = False,
    quiet: bool = False,
    validate: Callable[[], dict[str, float]] | None = None,
) -> int:
    """Minimise an objective.

    Every `save_every` steps the whole state goes to ``out/state.ckpt``; a run that is resumed from
    it ends with the same weights as one that was never interrupted.

    Parameters
    ----------
    objective : nn.Module
        Called as ``objective(batch, generator)``; returns `Losses` with the key ``loss``. If it has
        a method ``after_step(step, total)``, that is called after each optimiser step, counted from
        1. What it changes must be in the objective's ``state_dict``.
    dataset : WindowDataset
        Windows to learn from.
    config : TrainingConfig
    out : Path
        The run's folder.
    seed : int
        Of the order of the windows, the masks and dropout.
    device : {"auto", "cpu", "cuda"}
    workers : int
        Processes that read windows; 0 reads in this one.
    resume : bool
        Continue from ``out/state.ckpt``.
    quiet : bool
        No progress bar.
    validate : callable, optional
        Returns the validation losses of the objective as it stands.

    Returns
    -------
    int
        The number of optimiser steps taken in all.

    Raises
    ------
    BergerError
        If there is nothing to resume or the loss is no longer a finite number.
    """
    place = compute_device(device)
    fabric = Fabric(accelerator=place.type, devices=1, precision=config.precision)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    sampler = WindowSampler(dataset, config.batch_size, seed)
    total = config.total_steps(sampler.batches_per_epoch)

    bare_optimizer = build_optimizer(objective, config.optimizer)
    schedule = build_schedule(bare_optimizer, config.optimizer, total)
    module, optimizer = fabric.setup(objective, bare_optimizer)
    state: dict[str, Any] = {
        "objective": module,
        "optimizer": optimizer,
        "schedule": schedule,
        "generators": {},
        "step": 0,  # also the sampler's position: batch step · accumulate comes next
        "windows": _fingerprint(dataset),
    }
    if resume:
        _load(fabric, out, state, generator)
    loader = DataLoader(
        dataset,
        batch_sampler=sampler.starting_at(state["step"] * config.accumulate),
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        # it draws a number when it starts, which dropout would miss in a resumed run
        generator=torch.Generator(),
    )
    batches = iter(loader)
    after_step = getattr(objective, "after_step", None)
    module.train()
    with (
        closing(JsonLinesLog(out / "log.jsonl", keep_until=state["step"])) as log,
        tqdm(
            total=total,
            initial=state["step"],
            unit="step",
            disable=quiet,
            file=sys.stderr,
            smoothing=0.1,
        ) as bar,
    ):
        while state["step"] < total:
            started = time.perf_counter()
            losses, waited = _accumulate(fabric, module, batches, generator, config.accumulate)
            clip = config.optimizer.clip_norm
            norm = fabric.clip_gradients(
                module, optimizer, max_norm=clip or float("inf"), error_if_nonfinite=False
            )
            learning_rate = schedule.get_last_lr()[0]
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            state["step"] += 1
            if after_step is not None:
                after_step(state["step"], total)
            seconds = time.perf_counter() - started

            step, last = state["step"], state["step"] == total
            logs = step % config.log_every == 0 or step == 1 or last
            saves = step % config.save_every == 0 or last
            if (logs or saves) and not all(map(torch.isfinite, losses.values())):
                raise BergerError(
                    f"{out}: the loss is no longer a finite number at step {step}; lower "
                    "training.optimizer.lr, or look at the recordings with `berger report`."
                )
            if logs:
                values = {name: value.item() for name, value in losses.items()}
                log.write(
                    step=step,
                    split="train",
                    **values,
                    lr=learning_rate,
                    grad_norm=float(norm) if norm is not None else None,
                    seconds_per_step=round(seconds, 6),
                    data_wait=round(waited / seconds, 6),
                )
                bar.set_postfix(loss=f"{values['loss']:.4g}", refresh=False)
            bar.update()
            if validate is not None and (step % config.validate_every == 0 or last):
                module.eval()
                log.write(step=step, split="validation", **validate())
                module.train()
            if saves:
                _save(fabric, out, state, generator)
    return total


def _accumulate(
    fabric: Fabric,
    module: nn.Module,
    batches: Any,
    generator: torch.Generator,
    accumulate: int,
) -> tuple[Losses, float]:
    """Add up the gradients of some batches; return their mean losses and the seconds waited."""
    totals: Losses = {}
    waited = 0.0
    for _ in range(accumulate):
        before = time.perf_counter()
        try:
            batch: Batch = next(batches)
        except BergerError as error:  # a worker puts its traceback before the sentence
            raise BergerError(str(error).rpartition("BergerError: ")[2].strip()) from error
        waited += time.perf_counter() - before
        losses: Losses = module(batch, generator)
        fabric.backward(losses["loss"] / accumulate)
        for name, value in losses.items():
            totals[name] = totals.get(name, torch.zeros_like(value)) + value.detach() / accumulate
    return totals, waited


def _fingerprint(dataset: WindowDataset) -> str:
    """Tell windows apart by what is in them, wherever the corpus lies."""
    digest = hashlib.sha256(dataset.starts.tobytes() + dataset.of_block.tobytes())
    for block in dataset.blocks:
        digest.update(f"{block.content} {block.offset} {block.subject} ".encode())
    if dataset.weights is not None:  # they decide which windows come when
        digest.update(f"{dataset.corpora} {dataset.weights}".encode())
    return digest.hexdigest()


def _save(fabric: Fabric, out: Path, state: dict[str, Any], generator: torch.Generator) -> None:
    state["generators"] = {"masks": generator.get_state(), "torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["generators"]["cuda"] = torch.cuda.get_rng_state()
    with written_whole(out / STATE_FILE) as temporary:
        fabric.save(temporary, state)


def _load(fabric: Fabric, out: Path, state: dict[str, Any], generator: torch.Generator) -> None:
    path = out / STATE_FILE
    if not path.is_file():
        raise BergerError(f"{out}: nothing to resume, no {STATE_FILE}; start without --resume.")
    windows = state["windows"]
    try:
        fabric.load(path, state, weights_only=True)
    except (RuntimeError, ValueError, KeyError, EOFError, UnpicklingError) as error:
        raise BergerError(
            f"{path}: damaged or of another Berger; start a new run in another folder."
        ) from error
    if state["windows"] != windows:
        raise BergerError(
            f"{out}: was started on other windows; resume with the same corpus and expert, or "
            "start a new run in another folder."
        )
    generator.set_state(state["generators"]["masks"].cpu())
    torch.set_rng_state(state["generators"]["torch"].cpu())
    if "cuda" in state["generators"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["generators"]["cuda"].cpu())
