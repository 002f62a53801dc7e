"""The whole state of a run in one file, and the one before it in case that is damaged.

The file holds tensors by the names of the parameters, whole on any number of devices, so that a
run can be resumed on another number or by another strategy.
"""

from __future__ import annotations

import errno
import os
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from berger.errors import BergerError
from berger.files import written_whole

STATE_FILE, BEFORE_FILE = "state.ckpt", "state-before.ckpt"
OF_A_FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def has_state(out: Path) -> bool:
    """Whether there is something in a run's folder to resume from."""
    return any((out / name).exists() for name in (STATE_FILE, BEFORE_FILE))


def weights_and_moments(module: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Return what a module and its optimiser hold, whole and on the CPU; all ranks must ask."""
    with warnings.catch_warnings():  # it tells users of several devices how it gathers
        warnings.simplefilter("ignore")
        if (
            not optimizer.state
        ):  # asked before its first step, it takes one of nothing and counts it
            get_optimizer_state_dict(module, optimizer, options=WHOLE)
            for moments in optimizer.state.values():
                moments["step"].zero_()
        return {
            "objective": get_model_state_dict(module, options=WHOLE),
            "optimizer": get_optimizer_state_dict(module, optimizer, options=WHOLE),
        }


def set_weights_and_moments(
    module: nn.Module, optimizer: Optimizer, state: Mapping[str, Any]
) -> None:
    """Put back what `weights_and_moments` returned, on any number of devices.

    Raises
    ------
    KeyError
        If it is of a module of other parts.
    """
    if other := state["objective"].keys() ^ module.state_dict().keys():
        raise KeyError(min(other))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        set_model_state_dict(module, state["objective"], options=WHOLE)
        set_optimizer_state_dict(module, optimizer, state["optimizer"], options=WHOLE)
    for group in optimizer.param_groups:
        group["betas"] = tuple(group["betas"])  # of which a list was made on the way


def write_state(out: Path, state: Mapping[str, Any]) -> None:
    """Write a state beside the last one and let it take its place, which is kept as well."""
    path = out / STATE_FILE
    with written_whole(path) as temporary:
        try:
            with temporary.open("wb") as file:
                torch.save(dict(state), file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:  # torch's writer says less than the disk did
            reason = _of_the_disk(error)
            if reason is None:
                raise
            full = reason.errno in OF_A_FULL_DISK
            cure = "free space, or raise the quota, and" if full else "see to that and"
            kept = "the last state is good" if has_state(out) else "there is no earlier state"
            raise BergerError(
                f"{path}: cannot be written ({reason.strerror}), {kept}; {cure} continue with "
                "--resume."
            ) from error
        if path.is_file():
            path.replace(out / BEFORE_FILE)


def _of_the_disk(error: BaseException | None) -> OSError | None:
    """Return the disk's own error among those that led to this one."""
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error


def read_state(out: Path) -> dict[str, Any]:
    """Return the last state that is whole.

    Parameters
    ----------
    out : Path
        The run's folder.

    Raises
    ------
    BergerError
        If there is none, or none that is whole.
    """
    damaged = ""
    for path in (out / STATE_FILE, out / BEFORE_FILE):
        if not path.is_file():
            continue
        if (state := _whole(path)) is None:
            damaged = damaged or path.name
            continue
        if damaged:
            warnings.warn(
                f"{out / damaged} is damaged; {path.name}, of step {state['step']}, is used.",
                stacklevel=2,
            )
        return state
    if damaged:
        raise BergerError(
            f"{out / damaged}: damaged or of another Berger; start a new run in another folder."
        )
    raise BergerError(f"{out}: nothing to resume, no {STATE_FILE}; start without --resume.")


def last_good(out: Path, skipped: frozenset[int]) -> dict[str, Any] | None:
    """Return the last whole state after which a step was not skipped; None if there is none.

    Of another it may be the weights that are bad.

    Parameters
    ----------
    out : Path
        The run's folder.
    skipped : frozenset of int
        Steps that were skipped, the run's last among them.
    """
    for path in (out / STATE_FILE, out / BEFORE_FILE):
        state = _whole(path) if path.is_file() else None
        if state and not skipped.issuperset(range(state["step"] + 1, max(skipped))):
            return state
    return None


def _whole(path: Path) -> dict[str, Any] | None:
    """Return a state; None if it is damaged."""
    try:
        with zipfile.ZipFile(path) as file:  # torch's own reader does not compare check sums
            if (broken := file.testzip()) is not None:
                raise ValueError(broken)
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, KeyError, EOFError, UnpicklingError, zipfile.BadZipFile):
        return None
    return state


def generators() -> dict[str, Tensor]:
    """Return the state of torch's own generators in this process."""
    states = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_generators(states: Mapping[str, Tensor]) -> None:
    """Put back what `generators` returned."""
    torch.set_rng_state(states["torch"].cpu())
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"].cpu())
