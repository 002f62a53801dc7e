"""Where else the lines of a training's log go: TensorBoard, Weights & Biases."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol

from berger.errors import BergerError

SinkName = Literal["tensorboard", "wandb"]
PACKAGES: dict[SinkName, tuple[str, str]] = {
    "tensorboard": ("torch.utils.tensorboard", "tensorboard"),
    "wandb": ("wandb", "wandb"),
}
"""What is imported, and what is to be installed for it."""


class Sink(Protocol):
    """Takes the numbers of one step."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Take numbers by name, as ``train/loss``."""

    def close(self) -> None:
        """Let go of files and connections."""


class TensorBoard:
    """Event files in ``OUT/tensorboard``; a resumed run hides what lay behind its state."""

    def __init__(self, out: Path, step: int, config: Mapping[str, Any]) -> None:
        board = _optional(*PACKAGES["tensorboard"])
        self._writer = board.SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class WeightsAndBiases:
    """A run of the name of its folder; WANDB_PROJECT, WANDB_MODE and the like are obeyed."""

    def __init__(self, out: Path, step: int, config: Mapping[str, Any]) -> None:
        wandb = _optional(*PACKAGES["wandb"])
        # the folder is the run: one that is resumed goes on in the same curves
        identity = f"{out.absolute()}".replace("/", "-").strip("-")[-64:]
        self._run = wandb.init(
            dir=str(out), name=out.name, id=identity, resume="allow", config=dict(config)
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Send a point of each curve."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()


MakeSink = Callable[[Path, int], Sink]
"""Of a run's folder and its last step."""


def make_sinks(names: Sequence[SinkName], config: Mapping[str, Any]) -> list[MakeSink]:
    """Return how the sinks of a run of this configuration are made.

    Raises
    ------
    BergerError
        If the package of one is not installed.
    """
    made: list[MakeSink] = []
    for name in names:
        _optional(*PACKAGES[name])
        if name == "tensorboard":
            made.append(partial(TensorBoard, config=config))
        else:
            made.append(partial(WeightsAndBiases, config=config))
    return made


def _optional(module: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise BergerError(
            f"{package} is not installed; `pip install 'berger[{package}]'`, or leave it out."
        ) from error
