"""Every encoder by the configuration that describes it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from torch import nn

from berger.configuration import Config
from berger.models.contract import Encoder, InputContract
from berger.models.dare import DareConfig, DareEEG
from berger.models.layers import PreNormAttentionLayer, RotaryAttentionLayer
from berger.models.spechinet import (
    Bottom,
    Down1,
    Down2,
    Down3,
    SpecHiNet,
    SpecHiNetConfig,
    SpecHiNetEncoder,
    Up1,
    Up2,
    Up3,
)
from berger.models.spechinet_published import (
    SpecHiNetPublished,
    SpecHiNetPublishedConfig,
    SpecHiNetPublishedEncoder,
)
from berger.models.specmoe import SpecMoE, SpecMoEConfig

EncoderConfig = Annotated[
    SpecHiNetConfig | SpecHiNetPublishedConfig | SpecMoEConfig | DareConfig,
    Field(discriminator="name"),
]
Restorer = SpecHiNet | SpecHiNetPublished | DareEEG
"""Models that can draw a signal from their features: they have `reconstruct`."""
ENCODERS: dict[type[Config], type[Any]] = {
    SpecHiNetConfig: SpecHiNet,
    SpecHiNetPublishedConfig: SpecHiNetPublished,
    SpecMoEConfig: SpecMoE,
    DareConfig: DareEEG,
}

BLOCKS: tuple[type[nn.Module], ...] = (
    *(Down1, Down2, Down3, Bottom, Up1, Up2, Up3),
    *(RotaryAttentionLayer, PreNormAttentionLayer),
)
"""Parts that hold nearly all of an encoder's work: what is compiled, or spread over devices."""


def build_encoder(config: Config, contract: InputContract | None = None) -> Encoder:
    """Build an encoder with fresh weights from one of the configurations in `ENCODERS`."""
    encoder: Encoder = ENCODERS[type(config)](config, contract)
    return encoder


def encoding_half(model: Restorer) -> Encoder:
    """Return a copy of a model with no more than `forward_features` needs."""
    half: Encoder
    if isinstance(model, DareEEG):
        alone = model.config.model_copy(update={"parts": "encoder"})
        half = DareEEG(alone, model.contract)
    elif isinstance(model, SpecHiNetPublished):
        half = SpecHiNetPublishedEncoder(model.config, model.contract)
    else:
        half = SpecHiNetEncoder(model.config, model.contract)
    weights = model.state_dict()
    half.load_state_dict({name: weights[name] for name in half.state_dict()})
    return half
