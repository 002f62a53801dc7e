"""The training loop: setup → fit → validate, with all state in one dictionary."""

from __future__ import annotations

import hashlib
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from lightning_fabric.wrappers import _FabricModule
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from berger.configuration import Config
from berger.corpus import Batch, WindowDataset, WindowSampler, collate
from berger.errors import BergerError, StoppedError
from berger.models.device import Device
from berger.objectives.restoration import Losses
from berger.training import devices
from berger.training.devices import Strategy
from berger.training.log import JsonLinesLog
from berger.training.optim import OptimizerConfig, build_schedule
from berger.training.profiling import profiled
from berger.training.sinks import MakeSink
from berger.training.state import (
    STATE_FILE,
    generators,
    read_state,
    set_generators,
    set_weights_and_moments,
    weights_and_moments,
    write_state,
)
from berger.training.stopping import stop_on_signals

RECENT = 100
"""Steps among which faults are counted, and whose losses say what is usual."""
FEWEST_LOSSES = 20
"""Known losses below which nothing is said to be unusual."""


class TrainingConfig(Config):
    """How long and how a model is trained.

    Attributes
    ----------
    steps, epochs : int and float, optional
        Length of the run in optimiser steps or in passes over the windows; exactly one is given.
    batch_size : int
        Windows of one forward pass, of all devices together: more devices train faster, not
        otherwise.
    accumulate : int
        Forward passes of one optimiser step.
    optimizer : OptimizerConfig
    precision : {"32-true", "bf16-mixed", "16-mixed"}
        Arithmetic of the forward and backward passes; the last scales the loss as it needs.
    compile : bool
        Whether the network's blocks are compiled by `torch.compile`.
    checkpoint_activations : bool
        Whether the network's blocks compute their activations once more in the backward pass
        instead of keeping them.
    explosion : float, optional
        A step is skipped if its loss is more than this many times the median of the last 100
        steps; None skips no finite loss.
    max_skipped : int
        Training ends when more than so many of the last 100 steps were skipped.
    log_every, validate_every, save_every : int
        In optimiser steps.
    """

    steps: int | None = Field(None, ge=1)
    epochs: float | None = Field(None, gt=0)
    batch_size: int = Field(64, ge=1)
    accumulate: int = Field(1, ge=1)
    optimizer: OptimizerConfig = OptimizerConfig()
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    compile: bool = False
    checkpoint_activations: bool = False
    explosion: float | None = Field(1000.0, gt=1)
    max_skipped: int = Field(10, ge=0)
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


class Fitted(NamedTuple):
    """What came of a training, resumed ones included.

    Attributes
    ----------
    steps, skipped : int
        Optimiser steps in all, and those that were skipped.
    seconds : float
        Time that was trained, on the clock.
    data_wait : float
        Share of it in which a step waited for windows.
    """

    steps: int
    skipped: int
    seconds: float
    data_wait: float


def fit(
    objective: nn.Module,
    dataset: WindowDataset,
    config: TrainingConfig,
    out: Path,
    *,
    seed: int,
    device: Device = "auto",
    strategy: Strategy = "ddp",
    workers: int = 0,
    resume: bool = False,
    quiet: bool = False,
    profile: bool = False,
    sinks: Sequence[MakeSink] = (),
    validate: Callable[[], dict[str, float]] | None = None,
) -> Fitted:
    """Minimise an objective, on all the devices that this process was started for.

    Every `save_every` steps the whole state goes to ``out/state.ckpt``; a run that is resumed from
    it ends with the same weights as one that was never interrupted. On several devices, the first
    process alone writes, and all see the same losses.

    A step whose loss or gradient is no finite number, or whose loss is far beyond the usual,
    changes nothing: it is skipped, counted and logged with its windows.

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
    strategy : {"ddp", "fsdp"}
        On several devices: the whole model on each, or a part of it.
    workers : int
        Processes that read windows; 0 reads in this one.
    resume : bool
        Continue from ``out/state.ckpt``.
    quiet : bool
        No progress bar.
    profile : bool
        Write ``out/trace.json``, what a few of the first steps spent their time on.
    sinks : sequence of callable
        Each makes, of the folder and the last step, where else the log's numbers go.
    validate : callable, optional
        Returns the validation losses of the objective as it stands.

    Raises
    ------
    BergerError
        If there is nothing to resume, too many steps were skipped, memory did not suffice, or
        windows could not be read.
    StoppedError
        If the process was told to stop, after the state is saved.
    """
    fabric = devices.fabric(device, config.precision, strategy)
    first = fabric.is_global_zero
    torch.manual_seed(seed + fabric.global_rank)  # of dropout
    generator = torch.Generator().manual_seed(seed)
    sampler = WindowSampler(
        dataset,
        config.batch_size,
        seed,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )
    total = config.total_steps(sampler.batches_per_epoch)
    if config.checkpoint_activations:
        devices.checkpoint_activations(objective)
    if config.compile:
        devices.compile_blocks(objective)
    module, optimizer, bare = devices.setup(fabric, objective, config.optimizer)
    run = _Run(fabric, objective, module, optimizer, bare, config, total, generator)
    run.windows = _fingerprint(dataset)
    if resume:
        run.load(out)
    place = run.step * config.accumulate
    loader = DataLoader(
        dataset,
        batch_sampler=sampler.starting_at(place),
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        # it draws a number when it starts, which dropout would miss in a resumed run
        generator=torch.Generator(),
    )
    module.train()
    with ExitStack() as stack:
        stop = stack.enter_context(stop_on_signals())
        tell = _Tell(out, sinks, run, quiet, stack) if first else None
        trace = stack.enter_context(profiled(out / "trace.json" if profile and first else None))
        batches = _read(loader, sampler, place)
        while run.step < total:
            begun = time.perf_counter()
            with _told(out, config):
                found = run.attempt(batches)
            step, last = run.step, run.step == total
            seconds = time.perf_counter() - begun
            run.count(seconds, found.waited)
            trace()
            if found.fault:
                run.skipped.append(step)
                windows = run.suspects(found)
                if tell:
                    tell.fault(found, windows)
                if len(run.recently_skipped) > config.max_skipped:
                    raise BergerError(run.too_many(out, windows))
            elif tell and (step % config.log_every == 0 or step == 1 or last):
                tell.step(found, seconds)
            if tell:
                tell.bar.update()
            if validate is not None and (step % config.validate_every == 0 or last):
                module.eval()
                losses = validate()
                module.train()
                if tell:
                    tell.write(step=step, split="validation", **losses)
            stopping = run.anybody(bool(stop))
            if step % config.save_every == 0 or last or stopping:
                run.save(out)
            if stopping and not last:
                name = stop.by.name if stop.by else "a signal to another process"
                raise StoppedError(
                    f"{out}: stopped by {name} after step {step} of {total}; continue it with "
                    "--resume."
                )
    return run.fitted()


class _Step(NamedTuple):
    """What one optimiser step found."""

    values: dict[str, float]  # losses, over all devices
    lr: float
    norm: float | None
    fault: str  # why it was skipped, if it was
    waited: float  # seconds
    batches: list[Batch]


class _Run:
    """All that changes while a model is trained, and how it is saved."""

    def __init__(
        self,
        fabric: Fabric,
        objective: nn.Module,
        module: _FabricModule,
        optimizer: Any,
        bare: torch.optim.Optimizer,
        config: TrainingConfig,
        total: int,
        generator: torch.Generator,
    ) -> None:
        self.fabric = fabric
        self.objective, self.module = objective, module
        self.optimizer, self.bare = optimizer, bare
        self.config, self.total = config, total
        self.schedule = build_schedule(bare, config.optimizer, total)
        self.after_step = getattr(objective, "after_step", None)
        self.generator = generator
        self.scaler = getattr(fabric.strategy.precision, "scaler", None)
        self.windows = ""
        self.step = 0  # also the sampler's position: batch step · accumulate comes next
        self.losses: list[float] = []
        self.skipped: list[int] = []
        self.seconds = self.waited = 0.0

    def attempt(self, batches: Iterator[tuple[Batch, float]]) -> _Step:
        """Take a step, unless there is something wrong with it."""
        totals, waited, read = self.add_gradients(batches)
        clip = self.config.optimizer.clip_norm
        norm = self.fabric.clip_gradients(
            self.module, self.optimizer, max_norm=clip or float("inf"), error_if_nonfinite=False
        )
        values = self._over_devices(totals)
        lr = float(self.schedule.get_last_lr()[0])
        length = None if norm is None else float(getattr(norm, "full_tensor", lambda: norm)())
        fault = self._fault(values, length)
        self.step += 1
        if fault:
            if self.scaler is not None:
                self.scaler.update()
        else:
            self.optimizer.step()
            self.losses = [*self.losses, values["loss"]][-RECENT:]
        self.optimizer.zero_grad()
        with warnings.catch_warnings():  # of a first step that was skipped
            warnings.filterwarnings("ignore", ".*lr_scheduler.step.*before.*optimizer.step")
            self.schedule.step()
        if self.after_step is not None and not fault:
            self.after_step(self.step, self.total)
        return _Step(values, lr, length, fault, waited, read)

    def add_gradients(
        self, batches: Iterator[tuple[Batch, float]]
    ) -> tuple[Losses, float, list[Batch]]:
        """Add up the gradients of some batches; return their mean losses and the seconds waited."""
        totals: Losses = {}
        waited, read, accumulate = 0.0, [], self.config.accumulate
        for part in range(accumulate):
            before = time.perf_counter()
            batch, weight = next(batches)
            waited += time.perf_counter() - before
            read.append(batch)
            more = part < accumulate - 1
            with self.fabric.no_backward_sync(self.module, enabled=more):
                losses: Losses = self.module(batch, self.generator)
                self.fabric.backward(losses["loss"] * (weight / accumulate))
            for name, value in losses.items():
                one = value.detach() * (weight / accumulate)
                totals[name] = totals[name] + one if name in totals else one
        return totals, waited, read

    def _over_devices(self, totals: Losses) -> dict[str, float]:
        """Return the mean over devices, which all then know."""
        values = torch.stack([value.float() for value in totals.values()])
        if self.fabric.world_size > 1:
            reduced = self.fabric.all_reduce(values, reduce_op="mean")
            assert isinstance(reduced, Tensor)
            values = reduced
        return dict(zip(totals, values.tolist(), strict=True))

    def _fault(self, values: Mapping[str, float], norm: float | None) -> str:
        """Say what is wrong with a step, if anything is."""
        if not all(map(math.isfinite, values.values())):
            return "the loss is no finite number"
        # half precision lowers its scale until gradients fit, and passes over the step by itself
        scaled = self.scaler is not None and self.scaler.get_scale() > 1
        if norm is not None and not math.isfinite(norm) and not scaled:
            return "the gradient is no finite number"
        if self.config.explosion is not None and len(self.losses) >= FEWEST_LOSSES:
            usual = statistics.median(self.losses)
            if values["loss"] > self.config.explosion * usual:
                return f"the loss is {values['loss'] / usual:,.0f} times the usual"
        return ""

    @property
    def recently_skipped(self) -> list[int]:
        """Steps of the last 100 that were skipped."""
        return [step for step in self.skipped if step > self.step - RECENT]

    def count(self, seconds: float, waited: float) -> None:
        """Add up time."""
        self.seconds += seconds
        self.waited += waited

    def suspects(self, found: _Step) -> list[str]:
        """Name the windows of a bad step that are bad alone; all of it if none is."""
        everything = [one for batch in found.batches for one in _windows(batch)]
        usual = statistics.median(self.losses) if self.losses else math.inf
        worst = usual * (self.config.explosion or math.inf)
        bad = set()
        if not isinstance(self.fabric.strategy, ModelParallelStrategy):  # parts must go together
            self.objective.eval()
            for place, one in enumerate(everything):
                with torch.random.fork_rng(), torch.no_grad():
                    try:
                        loss = self.objective(one, torch.Generator().manual_seed(0))["loss"].item()
                    except RuntimeError:  # eigenvalues of what is no number
                        loss = math.nan
                if not loss <= worst:
                    bad.add(place)
            self.objective.train()
        named = [
            (f"{one.recordings[0]} at {one.starts[0].item() / one.sfreq:g} s", place in bad)
            for place, one in enumerate(everything)
        ]
        all_named = [pair for pairs in devices.everybodys(named) for pair in pairs]
        return [name for name, is_bad in all_named if is_bad] or [name for name, _ in all_named]

    def too_many(self, out: Path, windows: list[str]) -> str:
        """Say why training ends."""
        more = f" and {len(windows) - 3} more" if len(windows) > 3 else ""
        return (
            f"{out}: {len(self.recently_skipped)} of the last {min(RECENT, self.step)} steps were "
            f"skipped, the last, {self.step}, because of {', '.join(windows[:3])}{more}; look at "
            "these windows (log.jsonl names all), lower training.optimizer.lr, and continue from "
            "the last good state with --resume or start a new run."
        )

    def anybody(self, here: bool) -> bool:
        """Whether it is so in any process."""
        if self.fabric.world_size == 1:
            return here
        flag = torch.tensor([float(here)], device=self.fabric.device)
        found = self.fabric.all_reduce(flag, reduce_op="sum")
        assert isinstance(found, Tensor)
        return bool(found.item() > 0)

    def fitted(self) -> Fitted:
        """Return what came of it."""
        wait = self.waited / self.seconds if self.seconds else 0.0
        return Fitted(self.step, len(self.skipped), round(self.seconds, 1), round(wait, 4))

    def save(self, out: Path) -> None:
        """Write the whole state."""
        state = weights_and_moments(self.objective, self.bare) | {
            "schedule": self.schedule.state_dict(),
            "scaler": self.fabric.strategy.precision.state_dict(),
            "generators": {
                "masks": self.generator.get_state(),
                "ranks": devices.everybodys(generators()),
            },
            "step": self.step,
            "losses": self.losses,
            "skipped": self.skipped,
            "windows": self.windows,
            "time": [self.seconds, self.waited],
        }
        if self.fabric.is_global_zero:
            write_state(out, state)
        devices.wait_for_all()

    def load(self, out: Path) -> None:
        """Take up the last state that is whole."""
        state = read_state(out)
        if state["windows"] != self.windows:
            raise BergerError(
                f"{out}: was started on other windows; resume with the same corpus and expert, or "
                "start a new run in another folder."
            )
        try:
            set_weights_and_moments(self.objective, self.bare, state)
        except (RuntimeError, ValueError, KeyError) as error:
            raise BergerError(
                f"{out / STATE_FILE}: damaged or of another Berger; start a new run in another "
                "folder."
            ) from error
        self.schedule.load_state_dict(state["schedule"])
        self.fabric.strategy.precision.load_state_dict(state["scaler"])
        self.generator.set_state(state["generators"]["masks"])
        ranks = state["generators"]["ranks"]
        if len(ranks) == self.fabric.world_size:
            set_generators(ranks[self.fabric.global_rank])
        else:  # dropout cannot go on where it was
            torch.manual_seed(torch.initial_seed() + state["step"] * self.fabric.world_size)
        self.step, self.losses, self.skipped = state["step"], state["losses"], state["skipped"]
        self.seconds, self.waited = state["time"]


class _Tell:
    """What the first process says: log, progress bar, sinks."""

    def __init__(
        self, out: Path, sinks: Sequence[MakeSink], run: _Run, quiet: bool, stack: ExitStack
    ) -> None:
        self._log = stack.enter_context(
            closing(JsonLinesLog(out / "log.jsonl", keep_until=run.step))
        )
        self._sinks = [stack.enter_context(closing(make(out, run.step))) for make in sinks]
        self._run = run
        self.bar = stack.enter_context(
            tqdm(
                total=run.total,
                initial=run.step,
                unit="step",
                disable=quiet,
                file=sys.stderr,
                smoothing=0.1,
            )
        )

    def write(self, step: int, split: str, **values: Any) -> None:
        """Write a line of the log."""
        self._log.write(step=step, split=split, **values)
        numbers = {
            f"{split}/{name}": value
            for name, value in values.items()
            if isinstance(value, int | float) and math.isfinite(value)
        }
        for sink in self._sinks:
            sink.write(step, numbers)

    def step(self, found: _Step, seconds: float) -> None:
        """Write what a step found."""
        self.write(
            step=self._run.step,
            split="train",
            **found.values,
            lr=found.lr,
            grad_norm=found.norm,
            **({} if self._run.scaler is None else {"loss_scale": self._run.scaler.get_scale()}),
            seconds_per_step=round(seconds, 6),
            data_wait=round(found.waited / seconds, 6),
        )
        self._postfix(found.values["loss"])

    def fault(self, found: _Step, windows: list[str]) -> None:
        """Write why a step was skipped."""
        losses = {name: _finite(value) for name, value in found.values.items()}
        self.write(
            step=self._run.step,
            split="skipped",
            **losses,
            grad_norm=None if found.norm is None else _finite(found.norm),
            reason=found.fault,
            windows=windows,
        )
        self._postfix(found.values["loss"])

    def _postfix(self, loss: float) -> None:
        skipped = len(self._run.skipped)
        shown: dict[str, object] = {"loss": f"{loss:.4g}"}
        if skipped:
            shown["skipped"] = skipped
        self.bar.set_postfix(shown, refresh=False)


def _finite(value: float) -> float | None:
    """Return what JSON has a number for."""
    return value if math.isfinite(value) else None


@contextmanager
def _told(out: Path, config: TrainingConfig) -> Iterator[None]:
    """Say what to do where memory does not suffice or a process that reads is gone."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch's own errors of memory are of the latter
        said = str(error)
        if "DataLoader worker" in said:
            raise BergerError(
                f"{out}: a process that reads windows was killed, perhaps for want of memory; "
                "continue with --resume, and with fewer --workers."
            ) from error
        short = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if short or "can't allocate memory" in said or "not enough memory" in said:
            fewer = max(1, config.batch_size // 2)
            smaller = (
                f"--training.batch_size {fewer} --training.accumulate "
                f"{-(-config.batch_size * config.accumulate // fewer)}, or "
                if config.batch_size > 1
                else ""
            )
            raise BergerError(
                f"{out}: memory did not suffice for {config.batch_size} windows at once; try "
                f"{smaller}--training.checkpoint_activations true."
            ) from error
        raise


def _read(
    loader: DataLoader[Any], sampler: WindowSampler, place: int
) -> Iterator[tuple[Batch, float]]:
    """Yield batches, and what this process's mean counts in the mean over all."""
    batches = iter(loader)
    while True:
        try:
            batch: Batch = next(batches)
        except BergerError as error:  # a worker puts its traceback before the sentence
            raise BergerError(str(error).rpartition("BergerError: ")[2].strip()) from error
        yield batch._replace(shared=sampler.share(place)), sampler.weight(place)
        place += 1


def _windows(batch: Batch) -> Iterator[Batch]:
    """Yield the windows of a batch one by one."""
    for place in range(batch.n_windows):
        one = slice(place, place + 1)
        filters = batch.spatial_filter
        yield batch._replace(
            samples=batch.samples[one],
            scale=batch.scale[one],
            recordings=batch.recordings[one],
            subjects=batch.subjects[one],
            starts=batch.starts[one],
            spatial_filter=None if filters is None else filters[one],
            shared=None,
        )


def _fingerprint(dataset: WindowDataset) -> str:
    """Tell windows apart by what is in them, wherever the corpus lies."""
    digest = hashlib.sha256(dataset.starts.tobytes() + dataset.of_block.tobytes())
    for block in dataset.blocks:
        digest.update(f"{block.content} {block.offset} {block.subject} ".encode())
    if dataset.weights is not None:  # they decide which windows come when
        digest.update(f"{dataset.corpora} {dataset.weights}".encode())
    return digest.hexdigest()
