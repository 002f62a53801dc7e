"""Where else the lines of a training's log go: TensorBoard, Weights & Biases."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol
from uuid import uuid4

from berger.errors import BergerError
from berger.files import written_whole

SinkName = Literal["tensorboard", "wandb"]
PACKAGES: dict[SinkName, tuple[str, str]] = {
    "tensorboard": ("torch.utils.tensorboard", "tensorboard"),
    "wandb": ("wandb", "wandb"),
}
"""What is imported, and what is to be installed for it."""
IDENTITY_FILE = "wandb-id.txt"


class Sink(Protocol):
    """Takes the numbers of one step."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Take finite numbers by name, as ``train/loss``."""

    def close(self) -> None:
        """Let go of files and connections."""


class TensorBoard:
    """Event files in ``OUT/tensorboard``.

    Each part of a resumed run writes a file of its own, which hides what lies behind its state in
    those before.

    Parameters
    ----------
    out : Path
        The run's folder.
    step : int
        The last step of the state, 0 at the beginning.
    config : mapping
        Stands beside the curves as text.
    """

    def __init__(self, out: Path, step: int, config: Mapping[str, Any]) -> None:
        board = _optional("tensorboard")
        self._writer = board.SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)
        if step == 0:
            text = json.dumps(dict(config), indent=2)
            self._writer.add_text("configuration", f"```\n{text}\n```", 0)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class WeightsAndBiases:
    """A run called like its folder; WANDB_PROJECT, WANDB_MODE and the like are obeyed.

    Its identity is kept in ``OUT/wandb-id.txt``, so that a resumed run goes on in the same curves.
    Steps that were sent already, behind the last state, are not taken a second time: Weights &
    Biases leaves them out.

    Parameters
    ----------
    out, step
        As for `TensorBoard`.
    config : mapping
        Shown beside the curves.

    Raises
    ------
    BergerError
        If Weights & Biases does not begin, e.g. because nobody is logged in.
    """

    def __init__(self, out: Path, step: int, config: Mapping[str, Any]) -> None:
        wandb = _optional("wandb")
        path = out / IDENTITY_FILE
        if step == 0 or not path.is_file():
            with written_whole(path) as temporary:
                temporary.write_text(f"{uuid4().hex}\n", encoding="utf-8")
        identity = path.read_text(encoding="utf-8").strip()
        try:
            self._run = wandb.init(
                dir=str(out),
                name=out.absolute().name,
                id=identity,
                resume="allow",
                config=dict(config),
            )
        except wandb.Error as error:
            raise BergerError(
                f"Weights & Biases does not begin ({' '.join(str(error).split())}); log in by "
                "`wandb login`, or set WANDB_MODE=offline."
            ) from error

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
    for name in dict.fromkeys(names):
        _optional(name)
        kind = TensorBoard if name == "tensorboard" else WeightsAndBiases
        made.append(partial(kind, config=config))
    return made


def _optional(name: SinkName) -> ModuleType:
    module, package = PACKAGES[name]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise BergerError(
            f"{package} is not installed; `pip install 'berger[{package}]'`, or leave "
            f"{name} out of --log-to."
        ) from error
