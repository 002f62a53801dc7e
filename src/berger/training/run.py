"""One training under way: what changes while a model is trained, and how that is saved."""

from __future__ import annotations

import math
import statistics
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from lightning_fabric.wrappers import _FabricModule
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.profiler import record_function

from berger.configuration import Config
from berger.corpus import Batch
from berger.corpus.unchanged import UnchangedShards
from berger.errors import BergerError
from berger.objectives.restoration import Losses
from berger.training import devices
from berger.training.energy import Meter
from berger.training.optim import OptimizerConfig, build_schedule
from berger.training.state import (
    STATE_FILE,
    generators,
    read_state,
    set_generators,
    set_weights_and_moments,
    weights_and_moments,
    write_state,
)

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


class TooManySkippedError(BergerError):
    """A training that ended because too many of its steps were skipped.

    Attributes
    ----------
    skipped : frozenset of int
        All of them.
    """

    def __init__(self, message: str, skipped: Iterable[int]) -> None:
        super().__init__(message)
        self.skipped = frozenset(skipped)


class Step(NamedTuple):
    """What one optimiser step found."""

    values: dict[str, float]  # losses, over all devices
    lr: float
    norm: float | None
    fault: str  # why it was skipped, if it was
    waited: float  # seconds
    batches: list[Batch]


class Run:
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
        meter: Meter | None = None,
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
        self.shards: UnchangedShards | None = None
        self.step = 0  # also the sampler's position: batch step · accumulate comes next
        self.losses: list[float] = []
        self.skipped: list[int] = []
        self.seconds = self.waited = 0.0
        self.meter = meter or Meter()

    def attempt(self, batches: Iterator[tuple[Batch, float]]) -> Step:
        """Take a step, unless there is something wrong with it."""
        # batch norms count a batch before anybody knows that it is bad
        buffers = [(buffer, buffer.clone()) for buffer in self.objective.buffers()]
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
            for buffer, before in buffers:
                buffer.copy_(before)
            if self.scaler is not None:
                self.scaler.update()
        else:
            with record_function("optimiser"):
                self.optimizer.step()
            self.losses = [*self.losses, values["loss"]][-RECENT:]
        self.optimizer.zero_grad()
        with warnings.catch_warnings():  # of a first step that was skipped
            warnings.filterwarnings("ignore", ".*lr_scheduler.step.*before.*optimizer.step")
            self.schedule.step()
        if self.after_step is not None and not fault:
            self.after_step(self.step, self.total)
        return Step(values, lr, length, fault, waited, read)

    def add_gradients(
        self, batches: Iterator[tuple[Batch, float]]
    ) -> tuple[Losses, float, list[Batch]]:
        """Add up the gradients of some batches; return their mean losses and the seconds waited."""
        totals: Losses = {}
        waited, read, accumulate = 0.0, [], self.config.accumulate
        for part in range(accumulate):
            before = time.perf_counter()
            with record_function("wait for data"):
                batch, weight = next(batches)
            waited += time.perf_counter() - before
            read.append(batch)
            if self.fabric.world_size > 1:
                whole = batch.shared is None  # which all processes then have
                devices.tell_copies(self.objective, self.fabric.world_size if whole else 1)
            more = part < accumulate - 1
            with self.fabric.no_backward_sync(self.module, enabled=more):
                with record_function("forward"):
                    losses: Losses = self.module(batch, self.generator)
                with record_function("backward"):
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
            if values["loss"] > self.config.explosion * usual > 0:
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
        self.meter.look()

    def suspects(self, found: Step) -> list[str]:
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
            "these windows (log.jsonl names all), and start a new run in another folder, without "
            "them or with a lower training.optimizer.lr."
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
        """Write the whole state, unless it has learned from a shard that was changed."""
        began = time.time()
        if self.shards is not None and self.fabric.is_global_zero:
            self.shards.check()
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
            "time": {
                "trained": self.seconds,
                "waited": self.waited,
                "meter": self.meter.state(),
                "saved": began,
            },
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
            ranks, spent = state["generators"]["ranks"], state["time"]
            self.step, self.losses, self.skipped = state["step"], state["losses"], state["skipped"]
            set_weights_and_moments(self.objective, self.bare, state)
            self.schedule.load_state_dict(state["schedule"])
            self.fabric.strategy.precision.load_state_dict(state["scaler"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise BergerError(
                f"{out / STATE_FILE}: damaged or of another Berger; start a new run in another "
                "folder."
            ) from error
        self.generator.set_state(state["generators"]["masks"])
        if len(ranks) == self.fabric.world_size:
            set_generators(ranks[self.fabric.global_rank])
        else:  # dropout cannot go on where it was
            torch.manual_seed(torch.initial_seed() + state["step"] * self.fabric.world_size)
        self.seconds, self.waited = spent["trained"], spent["waited"]
        self.meter.go_on(spent["meter"])
        if self.shards is not None and self.fabric.is_global_zero:
            self.shards.check_since(spent["saved"])


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
