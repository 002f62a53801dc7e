"""The training loop: setup → fit → validate, with all state in one dictionary."""

from __future__ import annotations

import hashlib
import math
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from berger.corpus import Batch, WindowDataset, WindowSampler, collate
from berger.corpus.unchanged import UnchangedShards
from berger.errors import BergerError, StoppedError
from berger.models.device import Device
from berger.training import devices
from berger.training.devices import Strategy
from berger.training.energy import Meter
from berger.training.log import JsonLinesLog
from berger.training.profiling import profiled
from berger.training.run import Fitted, Run, Step, TooManySkippedError, TrainingConfig
from berger.training.sinks import MakeSink
from berger.training.state import has_state
from berger.training.stopping import leave_stopping_to_parent, stop_on_signals

WANT_OF_MEMORY = ("can't allocate memory", "not enough memory", "STATUS_ALLOC_FAILED")
"""In the words of torch's own allocator on CPUs, and of cuBLAS and cuDNN."""


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
    meter: Meter | None = None,
    validate: Callable[[], dict[str, float]] | None = None,
) -> Fitted:
    """Minimise an objective, on all the devices that this process was started for.

    Every `save_every` steps, if that step was not skipped, the whole state goes to
    ``out/state.ckpt``; a run that is resumed from it ends with the same weights as one that was
    never interrupted. On several devices, the first process alone writes, and all see the same
    losses.

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
    meter : Meter, optional
        Counts time and energy; what earlier parts of a resumed run cost is added to it.
    validate : callable, optional
        Returns the validation losses of the objective as it stands.

    Raises
    ------
    BergerError
        If there is nothing to resume, memory did not suffice, or windows could not be read.
    TooManySkippedError
        If too many steps were skipped, or the last ones because the weights have gone wrong.
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
    run = Run(fabric, objective, module, optimizer, bare, config, total, generator, meter)
    run.windows, run.shards = _fingerprint(dataset), UnchangedShards(dataset)
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
        worker_init_fn=leave_stopping_to_parent,
    )
    module.train()
    with ExitStack() as stack:
        stop = stack.enter_context(stop_on_signals())
        tell = _Tell(out, sinks, run, quiet, stack) if first else None
        traced = out / "trace.json" if profile and first else None
        trace = stack.enter_context(profiled(traced, total - run.step))
        # closed, the processes that read end now and not when all else does
        batches = stack.enter_context(closing(_read(loader, sampler, place)))
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
                    raise TooManySkippedError(run.too_many(out, windows), run.skipped)
            elif tell and (step % config.log_every == 0 or step == 1 or last):
                tell.step(found, seconds)
            if tell:
                tell.bar.update()
            if validate is not None and (step % config.validate_every == 0 or last):
                module.eval()
                with _told(out, config):  # each device has whole batches of it
                    losses = validate()
                module.train()
                if tell:
                    tell.write(step=step, split="validation", **losses)
                # skipped to the end not because of windows, but because the weights are bad
                if last and found.fault and not math.isfinite(losses["loss"]):
                    raise TooManySkippedError(run.too_many(out, windows), run.skipped)
            stopping = run.anybody(bool(stop))
            # a step may have been skipped because the weights are bad
            if (step % config.save_every == 0 and not found.fault) or last or stopping:
                run.save(out)
            if stopping:
                name = stop.by.name if stop.by else "a signal to another process"
                raise StoppedError(
                    f"{out}: stopped by {name} after step {step} of {total}; continue it with "
                    "--resume."
                )
    return run.fitted()


class _Tell:
    """What the first process says: log, progress bar, sinks."""

    def __init__(
        self, out: Path, sinks: Sequence[MakeSink], run: Run, quiet: bool, stack: ExitStack
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
        """Write a line of the log; JSON has no number for what is not finite."""
        known = {name: None if _no_number(value) else value for name, value in values.items()}
        self._log.write(step=step, split=split, **known)
        numbers = {
            f"{split}/{name}": value
            for name, value in values.items()
            if isinstance(value, int | float) and math.isfinite(value)
        }
        for sink in self._sinks if numbers else ():
            sink.write(step, numbers)

    def step(self, found: Step, seconds: float) -> None:
        """Write what a step found."""
        self.write(
            step=self._run.step,
            split="train",
            **found.values,
            lr=found.lr,
            grad_norm=found.norm,  # of half precision no number while the scale is too large
            **({} if self._run.scaler is None else {"loss_scale": self._run.scaler.get_scale()}),
            seconds_per_step=round(seconds, 6),
            data_wait=round(found.waited / seconds, 6),
        )
        self._postfix(found.values["loss"])

    def fault(self, found: Step, windows: list[str]) -> None:
        """Write why a step was skipped."""
        self.write(
            step=self._run.step,
            split="skipped",
            **found.values,
            grad_norm=found.norm,
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


def _no_number(value: Any) -> bool:
    """Tell whether it should be a number and is none."""
    return isinstance(value, float) and not math.isfinite(value)


def is_of_memory(error: Exception) -> bool:
    """Whether an error says that memory did not suffice."""
    short = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return short or any(words in str(error) for words in WANT_OF_MEMORY)


@contextmanager
def _told(out: Path, config: TrainingConfig) -> Iterator[None]:
    """Say what to do where memory does not suffice or a process that reads is gone."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch's own errors of memory are of the latter
        said = str(error)
        if "DataLoader worker (pid" in said:  # and no fault that one of them reports
            raise BergerError(
                f"{out}: a process that reads windows was killed, perhaps for want of memory; "
                "continue with --resume, and with fewer --workers."
            ) from error
        if is_of_memory(error):
            several = config.batch_size > 1
            raise BergerError(
                f"{out}: memory did not suffice for {config.batch_size} window{'s' * several} at "
                f"once; {_with_less_memory(config)}{' in another folder' * has_state(out)}."
            ) from error
        raise


def _with_less_memory(config: TrainingConfig) -> str:
    """Say what to try."""
    cures = []
    if config.batch_size > 1:
        fewer = config.batch_size // 2
        passes = -(-config.batch_size * config.accumulate // fewer)
        cures.append(f"--training.batch_size {fewer} --training.accumulate {passes}")
    if not config.checkpoint_activations:
        cures.append("--training.checkpoint_activations true")
    return f"try {', or '.join(cures)}" if cures else "choose a smaller model or shorter windows"


def _read(
    loader: DataLoader[Any], sampler: WindowSampler, place: int
) -> Generator[tuple[Batch, float]]:
    """Yield batches, and what this process's mean counts in the mean over all."""
    batches = iter(loader)
    while True:
        try:
            batch: Batch = next(batches)
        except BergerError as error:  # a worker puts its traceback before the sentence
            raise BergerError(str(error).rpartition("BergerError: ")[2].strip()) from error
        yield batch._replace(shared=sampler.share(place)), sampler.weight(place)
        place += 1


def _fingerprint(dataset: WindowDataset) -> str:
    """Tell windows apart by what is in them, wherever the corpus lies."""
    digest = hashlib.sha256(dataset.starts.tobytes() + dataset.of_block.tobytes())
    for block in dataset.blocks:
        digest.update(f"{block.content} {block.offset} {block.subject} ".encode())
    if dataset.weights is not None:  # they decide which windows come when
        digest.update(f"{dataset.corpora} {dataset.weights}".encode())
    return digest.hexdigest()
