"""Map signals to features: build a model by name, load one from a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from berger.checkpoints import read_checkpoint
from berger.configuration import Config
from berger.errors import BergerError
from berger.models.adapter import AdapterConfig
from berger.models.contract import (
    EEGModel,
    Encoder,
    EuclideanAlignment,
    Features,
    InputContract,
    Reconstruction,
)
from berger.models.dare import DARE_SIZES, DareConfig, DareEEG
from berger.models.encoders import ENCODERS, EncoderConfig
from berger.models.heads import Classifier, ClassifierConfig
from berger.models.spechinet import SpecHiNet, SpecHiNetConfig
from berger.models.spechinet_published import SpecHiNetPublished, SpecHiNetPublishedConfig
from berger.models.specmoe import MixtureConfig, SpecMoE, SpecMoEConfig

__all__ = [
    "AdapterConfig",
    "Classifier",
    "ClassifierConfig",
    "DareConfig",
    "DareEEG",
    "EEGModel",
    "Encoder",
    "EuclideanAlignment",
    "Features",
    "InputContract",
    "MixtureConfig",
    "Reconstruction",
    "SpecHiNet",
    "SpecHiNetConfig",
    "SpecHiNetPublished",
    "SpecHiNetPublishedConfig",
    "SpecMoE",
    "SpecMoEConfig",
    "create_model",
    "list_models",
    "load_checkpoint",
]

ARCHITECTURES: dict[str, tuple[type[Config], type[Any]]] = {
    schema.model_fields["name"].default: (schema, model) for schema, model in ENCODERS.items()
} | {"classifier": (ClassifierConfig, Classifier)}
"""The ``name`` in a configuration → its schema and its model."""

SMALL_SPECHINET = SpecHiNetConfig(
    stem_dim=16,
    embed_dim=32,
    bottleneck_dim=64,
    n_heads=4,
    restores="map",
    zero_start=True,
    dropout=0,
    decoder_dropout=0,
)
"""As in configs/pretraining/spechinet-small.yaml."""

MODELS: dict[str, EncoderConfig] = {
    "spechinet": SpecHiNetConfig(),
    "spechinet-small": SMALL_SPECHINET,
    "spechinet-published": SpecHiNetPublishedConfig(),
    "specmoe": SpecMoEConfig(),
    "specmoe-small": SpecMoEConfig(expert=SMALL_SPECHINET),
    **{f"dare-{size}": config for size, config in DARE_SIZES.items()},
}
"""The models that can be made by name."""


def list_models() -> list[str]:
    """Return the names that `create_model` knows."""
    return list(MODELS)


def create_model(model: str | Config, contract: InputContract | None = None) -> EEGModel:
    """Build a model with fresh weights.

    Parameters
    ----------
    model : str or Config
        A name from `list_models`, or a configuration object.
    contract : InputContract, optional
        What the model shall expect of its input; default: any window at the model's rate.

    Raises
    ------
    BergerError
        For an unknown name.
    """
    if isinstance(model, str):
        if model not in MODELS:
            raise BergerError(f"no model is called {model!r}; there are {', '.join(MODELS)}.")
        model = MODELS[model]
    for schema, architecture in ARCHITECTURES.values():
        if isinstance(model, schema):
            built: EEGModel = architecture(model, contract)
            return built
    raise BergerError(f"{type(model).__name__} is not the configuration of a model.")


def load_checkpoint(folder: str | Path) -> EEGModel:
    """Load a model from a checkpoint folder.

    Parameters
    ----------
    folder : str or Path

    Returns
    -------
    EEGModel
        In evaluation mode, with its ``contract`` and ``provenance``.

    Raises
    ------
    BergerError
        If the folder is incomplete or damaged, or its weights do not fit its configuration.
    """
    folder = Path(folder)
    checkpoint = read_checkpoint(folder)
    try:
        described = checkpoint.config["model"]
        schema, architecture = ARCHITECTURES[described["name"]]
        contract = InputContract.model_validate(checkpoint.config["contract"])
        model: EEGModel = architecture(schema.model_validate(described), contract)
    except (KeyError, TypeError, ValidationError) as error:
        reason = " ".join(str(error).split())
        raise BergerError(
            f"{folder}/config.json: does not describe a model of this Berger ({reason}); "
            "install the version of Berger that wrote it."
        ) from error
    try:
        model.load_state_dict(checkpoint.tensors)
    except RuntimeError as error:
        raise BergerError(
            f"{folder}/model.safetensors: the weights do not fit config.json; both files must "
            "come from one checkpoint, copy it again."
        ) from error
    model.provenance = checkpoint.provenance
    return model.eval()


def count_parameters(config: Config) -> int:
    """Return the number of parameters of a configuration's model, without allocating it."""
    with torch.device("meta"):
        return create_model(config).n_parameters
