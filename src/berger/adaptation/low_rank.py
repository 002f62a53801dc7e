"""Low-rank adaptation (Hu et al. 2022, arXiv 2106.09685) of encoders, by peft.

::

    x ─┬─ frozen layer W ──────────────────────────────┬─ + ─►  (W + alpha / rank · B A) x
       └─ A, to `rank` values ─► B, zero at the start ─┘

peft is an extra, ``pip install berger[peft]``, and is loaded when it is used.
docs/decisions/0025-strategies.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pydantic import Field
from torch import nn

from berger.configuration import Config
from berger.errors import BergerError
from berger.models import Encoder


class LowRankConfig(Config):
    """What is trained inside an encoder whose own weights stay as they are.

    Attributes
    ----------
    rank : int
        Values between the two layers that are put beside each layer of the encoder.
    alpha : int
        They count alpha / rank.
    """

    rank: int = Field(8, ge=1)
    alpha: int = Field(16, ge=1)


def require_peft() -> Any:
    """Return peft.

    Raises
    ------
    BergerError
        If it is not installed, or not all that it needs.
    """
    try:
        import peft
    except (ImportError, OSError) as error:
        raise BergerError(
            f"low_rank: peft cannot be loaded ({error}); install it by `pip install berger[peft]`, "
            "or leave low_rank out of the configuration."
        ) from error
    return peft


def add_low_rank(encoders: Sequence[Encoder], config: LowRankConfig) -> Callable[[], None]:
    """Freeze encoders and put trained layers of low rank beside their layers, in place.

    At first they change nothing. They are drawn by torch's global generator.

    Parameters
    ----------
    encoders : sequence of Encoder
    config : LowRankConfig

    Returns
    -------
    callable
        Adds what was learned to the encoders' own weights, and takes the layers away again.

    Raises
    ------
    BergerError
        If peft is missing, or an encoder has no layer that could be adapted.
    """
    peft = require_peft()
    together = nn.ModuleList(encoders)
    names = [
        f"{number}.{name}"
        for number, encoder in enumerate(encoders)
        for name in adaptable_layers(encoder)
    ]
    if not names:
        raise BergerError("the encoder has no layer that low_rank could adapt; leave it out.")
    described = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        target_modules="|".join(map(re.escape, names)),
    )
    tuner = peft.LoraModel(together, described, "default")

    def merge() -> None:
        tuner.merge_and_unload()
        together.requires_grad_(True)

    return merge


def adaptable_layers(encoder: Encoder) -> Iterator[str]:
    """Yield the names of the layers on which the features depend and that peft can adapt.

    They are the linear layers and the convolutions, but for those with holes or groups: the layer
    that peft puts beside a convolution has neither.
    """
    needed = {parameter for group in encoder.depth_groups() for parameter in group}
    for name, layer in encoder.named_modules():
        plain = isinstance(layer, nn.Linear) or (
            isinstance(layer, nn.Conv1d) and layer.dilation == (1,) and layer.groups == 1
        )
        if plain and layer.weight in needed:
            yield name
