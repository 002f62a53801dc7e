"""What stands behind an encoder to answer a question about a window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from einops import rearrange
from pydantic import Field, model_validator
from torch import Tensor, nn

from berger.configuration import Config
from berger.errors import BergerError
from berger.models.contract import EEGModel, Encoder, InputContract
from berger.models.encoders import EncoderConfig, build_encoder

Pooling = Literal["mean", "electrodes"]
"""Features of a window: their mean over electrodes and steps, or one mean for each electrode."""


class ClassifierConfig(Config):
    """An encoder with a linear head.

    Attributes
    ----------
    encoder : config of any encoder
    pooling : {"mean", "electrodes"}
        "electrodes" keeps each electrode's own features and so needs a fixed montage.
    n_chans : int, optional
        Number of electrodes; needed for "electrodes".
    classes : tuple of str
        Names of the classes, in the order of the outputs.
    """

    name: Literal["classifier"] = "classifier"
    encoder: EncoderConfig
    pooling: Pooling = "mean"
    n_chans: int | None = Field(None, ge=1)
    classes: tuple[str, ...] = Field(min_length=2)

    @property
    def n_outputs(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @model_validator(mode="after")
    def _electrodes_are_counted(self) -> Self:
        if self.pooling == "electrodes" and self.n_chans is None:
            raise ValueError("pooling: electrodes needs n_chans")
        return self


class Classifier(EEGModel):
    """Encoder, pooling, linear head.

    Parameters
    ----------
    config : ClassifierConfig
    contract : InputContract, optional
    """

    config: ClassifierConfig

    def __init__(self, config: ClassifierConfig, contract: InputContract | None = None) -> None:
        super().__init__(config, contract or InputContract(sfreq=config.encoder.sfreq))
        self.encoder = build_encoder(config.encoder)
        width = self.encoder.embed_dim
        if config.pooling == "electrodes":
            width *= config.n_chans or 1
        self.head = nn.Linear(width, config.n_outputs)

    def forward_features(self, signal: Tensor, ch_names: Sequence[str] | None = None) -> Tensor:
        """Pooled features (batch, width); parameters as in `forward`."""
        return pooled_features(self.encoder, signal, self.config.pooling, self._names(ch_names))

    def forward(self, signal: Tensor, ch_names: Sequence[str] | None = None) -> Tensor:
        """Logits (batch, n_outputs).

        Parameters
        ----------
        signal : Tensor, shape (batch, n_chans, n_times)
            Microvolts.
        ch_names : sequence of str, optional
            Names of the electrodes, which some encoders need; default: those of the contract.
        """
        logits: Tensor = self.head(self.forward_features(signal, ch_names))
        return logits

    def check_montage(self, ch_names: Sequence[str], source: object) -> None:
        self.encoder.check_montage(ch_names, source)

    def _names(self, ch_names: Sequence[str] | None) -> Sequence[str] | None:
        return self.contract.ch_names if ch_names is None else ch_names


def pooled_features(
    encoder: Encoder, signal: Tensor, pooling: Pooling, ch_names: Sequence[str] | None = None
) -> Tensor:
    """Features of windows, one row each.

    Parameters
    ----------
    encoder : Encoder
    signal : Tensor, shape (batch, n_chans, n_times)
        Microvolts.
    pooling : {"mean", "electrodes"}
    ch_names : sequence of str, optional
        Names of the electrodes, which some encoders need.

    Returns
    -------
    Tensor, shape (batch, embed_dim) or (batch, n_chans · embed_dim)

    Raises
    ------
    BergerError
        If the encoder has no features of single electrodes, but they are asked for.
    """
    if pooling == "electrodes" and not encoder.features_by_electrode:
        raise BergerError(
            f"{type(encoder).__name__} sums up all electrodes of a time step and has no features "
            "of single ones; use pooling: mean."
        )
    features = encoder.forward_features(signal, ch_names)
    if pooling == "mean":
        return features.summary
    n_chans = signal.shape[1]
    per_electrode = rearrange(features.tokens, "b (chans t) dim -> b chans t dim", chans=n_chans)
    return per_electrode.mean(2).flatten(1)
