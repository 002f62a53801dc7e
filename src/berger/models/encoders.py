"""Every encoder by the configuration that describes it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from berger.configuration import Config
from berger.models.contract import Encoder, InputContract
from berger.models.dare import DareConfig, DareEEG
from berger.models.spechinet import SpecHiNet, SpecHiNetConfig
from berger.models.spechinet_published import SpecHiNetPublished, SpecHiNetPublishedConfig
from berger.models.specmoe import SpecMoE, SpecMoEConfig

EncoderConfig = Annotated[
    SpecHiNetConfig | SpecHiNetPublishedConfig | SpecMoEConfig | DareConfig,
    Field(discriminator="name"),
]
ENCODERS: dict[type[Config], type[Any]] = {
    SpecHiNetConfig: SpecHiNet,
    SpecHiNetPublishedConfig: SpecHiNetPublished,
    SpecMoEConfig: SpecMoE,
    DareConfig: DareEEG,
}


def build_encoder(config: Config, contract: InputContract | None = None) -> Encoder:
    """Build an encoder with fresh weights from one of the configurations in `ENCODERS`."""
    encoder: Encoder = ENCODERS[type(config)](config, contract)
    return encoder
