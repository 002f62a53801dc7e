"""What stands around an encoder to answer a question about a window.

signal (batch, C, T)                as recorded
  │ adapter                         channels and rate that the encoder knows; mostly nothing
  │ encoder                         tokens of electrodes or of time steps
  └ head                            reads one of
      linear, mlp                   the window's features, pooled  (batch, width)
      steps                         the features of each time step (batch, n_steps, width)
      attention                     every token                    (batch, n_tokens, dim)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

import torch
from einops import rearrange
from pydantic import Field, model_validator
from torch import Tensor, nn

from berger.configuration import Config
from berger.errors import BergerError
from berger.models.adapter import Adapter, AdapterConfig
from berger.models.contract import EEGModel, Encoder, InputContract
from berger.models.encoders import EncoderConfig, build_encoder
from berger.models.layers import ValueScale, with_max_norm

Pooling = Literal["mean", "electrodes"]
"""Features of a window: their mean over electrodes and steps, or one mean for each electrode."""


class LinearHeadConfig(Config):
    """A linear layer on a window's pooled features."""

    name: Literal["linear"] = "linear"


class StepsHeadConfig(Config):
    """The linear probe of DARE-EEG (arXiv 2605.18298): a few values of each time step, then all.

    Attributes
    ----------
    width : int
        Values of a time step.
    dropout : float
        Before the first layer.
    max_norm, max_norm_out : float
        Largest norm of each output's weights in the first and in the last layer.
    """

    name: Literal["steps"] = "steps"
    width: int = Field(16, ge=1)
    dropout: float = Field(0.5, ge=0, lt=1)
    max_norm: float = Field(1.0, gt=0)
    max_norm_out: float = Field(0.25, gt=0)


class MlpHeadConfig(Config):
    """Norm, a hidden layer with GELU and dropout, a linear layer; on pooled features.

    Attributes
    ----------
    width : int
        Of the hidden layer.
    dropout : float
    """

    name: Literal["mlp"] = "mlp"
    width: int = Field(64, ge=1)
    dropout: float = Field(0.5, ge=0, lt=1)


class AttentionHeadConfig(Config):
    """Means over all tokens, weighed by learned queries, and a linear layer.

    Attributes
    ----------
    n_queries : int
        Means that are taken.
    dropout : float
        Before the last layer.
    """

    name: Literal["attention"] = "attention"
    n_queries: int = Field(1, ge=1)
    dropout: float = Field(0.5, ge=0, lt=1)


HeadConfig = Annotated[
    LinearHeadConfig | StepsHeadConfig | MlpHeadConfig | AttentionHeadConfig,
    Field(discriminator="name"),
]


class ClassifierConfig(Config):
    """An encoder with a head and, if wanted, an adapter in front.

    Attributes
    ----------
    encoder : config of any encoder
    adapter : AdapterConfig
        By default none: recordings have the rate and the electrodes that the encoder reads.
    head : LinearHeadConfig, StepsHeadConfig, MlpHeadConfig or AttentionHeadConfig
    pooling : {"mean", "electrodes"}
        "electrodes" keeps each electrode's own features and so needs a fixed montage; with the
        head "steps" it keeps those of each of its time steps.
    n_chans : int, optional
        Number of electrodes that the encoder reads; needed for "electrodes" without a projection.
    classes : tuple of str
        Names of the classes, in the order of the outputs.
    target : str, optional
        In place of classes: the value that is predicted, with its unit.
    """

    name: Literal["classifier"] = "classifier"
    encoder: EncoderConfig
    adapter: AdapterConfig = AdapterConfig()
    head: HeadConfig = LinearHeadConfig()
    pooling: Pooling = "mean"
    n_chans: int | None = Field(None, ge=1)
    classes: tuple[str, ...] = ()
    target: str | None = None

    @property
    def n_outputs(self) -> int:
        """Number of classes; 1 for a value."""
        return len(self.classes) or 1

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if (len(self.classes) < 2) if self.target is None else self.classes:
            raise ValueError("name at least two classes, or a target")
        check_pooling(self.head, self.pooling)
        if self.adapter.targets and self.n_chans not in (None, len(self.adapter.targets)):
            raise ValueError("n_chans must be the number of adapter.targets")
        if self.pooling == "electrodes" and self.n_chans is None and not self.adapter.targets:
            raise ValueError("pooling: electrodes needs n_chans")
        return self


def check_pooling(head: HeadConfig, pooling: Pooling) -> None:
    """Raise ValueError if a head that pools by itself is to pool in another way."""
    if head.name == "attention" and pooling == "electrodes":
        raise ValueError("the head attention weighs all tokens by itself; leave pooling at mean")


class Classifier(EEGModel):
    """Adapter, encoder, head.

    Parameters
    ----------
    config : ClassifierConfig
    contract : InputContract, optional
        Of the recorded signal. An adapter needs its electrodes, and the head "steps" the length
        of the windows.

    Raises
    ------
    BergerError
        If contract, adapter, encoder and head do not fit together.
    """

    config: ClassifierConfig

    def __init__(self, config: ClassifierConfig, contract: InputContract | None = None) -> None:
        sfreq, targets = config.encoder.sfreq, config.adapter.targets
        super().__init__(config, contract or InputContract(sfreq=sfreq))
        self.encoder = build_encoder(config.encoder, InputContract(sfreq=sfreq, ch_names=targets))
        if targets:
            self.encoder.check_montage(targets, "adapter.targets")
        self.adapter = Adapter(config.adapter, self.contract, sfreq, config.encoder.scale)
        seconds = self.contract.window_seconds
        n_times = round(seconds * self.contract.sfreq) if seconds else None
        self.head = _head(config, self.encoder, n_times and self.adapter.n_times(n_times))
        self.values = ValueScale() if config.target else None

    def adapt(
        self, signal: Tensor, ch_names: Sequence[str] | None = None
    ) -> tuple[Tensor, Sequence[str] | None]:
        """Return what the encoder reads: a signal at its rate, and names of its electrodes.

        Parameters
        ----------
        signal : Tensor, shape (batch, n_chans, n_times)
            Microvolts, as recorded.
        ch_names : sequence of str, optional
            Names of the recorded channels; default: those of the contract.

        Raises
        ------
        BergerError
            If these are not the channels that the adapter was made for, or the window has no whole
            number of samples at the encoder's rate.
        """
        names = self.contract.ch_names if ch_names is None else ch_names
        adapter = self.config.adapter
        if not adapter.is_on:
            return signal, names
        signal = self.encoder.as_input(signal)
        if adapter.needs_montage:
            assert names is not None  # the contract has them
            self.encoder.check_names(signal, names)
            self.contract.check(self.contract.sfreq, tuple(names), "the signal")
        return self.adapter(signal), adapter.targets or names

    def forward_features(self, signal: Tensor, ch_names: Sequence[str] | None = None) -> Tensor:
        """Pooled features (batch, width); parameters as in `forward`."""
        return pooled_features(self, signal, self.config.pooling, ch_names)

    def forward(self, signal: Tensor, ch_names: Sequence[str] | None = None) -> Tensor:
        """Logits (batch, n_outputs), or values (batch, 1) where there is a target.

        Parameters
        ----------
        signal : Tensor, shape (batch, n_chans, n_times)
            Microvolts.
        ch_names : sequence of str, optional
            Names of the electrodes, which some encoders need; default: those of the contract.
        """
        if self.config.head.name in ("linear", "mlp"):
            features = self.forward_features(signal, ch_names)
        else:
            signal, names = self.adapt(signal, ch_names)
            if self.config.head.name == "steps":
                features = step_features(self.encoder, signal, self.config.pooling, names)
            else:
                features = self.encoder.forward_features(signal, names).tokens
        outputs: Tensor = self.head(features)
        return outputs if self.values is None else self.values(outputs)

    def check_montage(self, ch_names: Sequence[str], source: object) -> None:
        if self.config.adapter.needs_montage:
            self.contract.check(self.contract.sfreq, tuple(ch_names), source)
        if not self.config.adapter.targets:
            self.encoder.check_montage(ch_names, source)


class StepsHead(nn.Module):
    """(batch, n_steps, width) → (batch, n_outputs), each time step by the same first layer.

    Parameters
    ----------
    config : StepsHeadConfig
    n_steps, width : int
        Of the features.
    n_outputs : int
    """

    def __init__(self, config: StepsHeadConfig, n_steps: int, width: int, n_outputs: int) -> None:
        super().__init__()
        self.n_steps = n_steps
        self.dropout = nn.Dropout(config.dropout)
        self.each = with_max_norm(nn.Linear(width, config.width), config.max_norm)
        self.all = with_max_norm(nn.Linear(n_steps * config.width, n_outputs), config.max_norm_out)

    def forward(self, steps: Tensor) -> Tensor:
        if steps.shape[1] != self.n_steps:
            raise BergerError(
                f"a window of {steps.shape[1]} time steps, but the model's head reads "
                f"{self.n_steps}; cut windows as long as those that it was trained on."
            )
        outputs: Tensor = self.all(self.each(self.dropout(steps)).flatten(1))
        return outputs


class AttentionHead(nn.Module):
    """(batch, n_tokens, dim) → (batch, n_outputs), any number of tokens.

    The weights of the first step are equal: it starts from the mean.

    Parameters
    ----------
    config : AttentionHeadConfig
    dim : int
        Width of the tokens.
    n_outputs : int
    """

    def __init__(self, config: AttentionHeadConfig, dim: int, n_outputs: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.queries = nn.Parameter(torch.zeros(config.n_queries, dim))
        self.dropout = nn.Dropout(config.dropout)
        self.out = nn.Linear(config.n_queries * dim, n_outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        normed = self.norm(tokens)
        scores = self.queries @ normed.mT / normed.shape[-1] ** 0.5
        means = scores.softmax(-1) @ normed  # (batch, n_queries, dim)
        outputs: Tensor = self.out(self.dropout(means.flatten(1)))
        return outputs


def pooled_features(
    model: EEGModel, signal: Tensor, pooling: Pooling, ch_names: Sequence[str] | None = None
) -> Tensor:
    """Features of windows, one row each.

    Parameters
    ----------
    model : Encoder or Classifier
        Of the latter its encoder, behind its adapter.
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
    if isinstance(model, Classifier):
        signal, ch_names = model.adapt(signal, ch_names)
        model = model.encoder
    if not isinstance(model, Encoder):
        raise BergerError(f"{type(model).__name__} is no encoder and has no features.")
    if pooling == "electrodes":
        _check_electrodes(model)
    features = model.forward_features(signal, ch_names)
    if pooling == "mean":
        return features.summary
    n_chans = signal.shape[1]
    per_electrode = rearrange(features.tokens, "b (chans t) dim -> b chans t dim", chans=n_chans)
    return per_electrode.mean(2).flatten(1)


def step_features(
    encoder: Encoder, signal: Tensor, pooling: Pooling, ch_names: Sequence[str] | None = None
) -> Tensor:
    """Features of the time steps of windows.

    Parameters
    ----------
    encoder : Encoder
    signal, pooling, ch_names
        As in `pooled_features`.

    Returns
    -------
    Tensor, shape (batch, n_steps, width)
        All streams of a time step side by side; where tokens belong to electrodes, their mean over
        electrodes, or with "electrodes" all electrodes side by side.

    Raises
    ------
    BergerError
        As `pooled_features`.
    """
    if pooling == "electrodes":
        _check_electrodes(encoder)
    tokens = encoder.forward_features(signal, ch_names).tokens
    if not encoder.features_by_electrode:
        shape = "batch (steps streams) dim -> batch steps (streams dim)"
        return rearrange(tokens, shape, streams=encoder.n_streams)
    shape = "batch (chans steps) dim -> batch steps chans dim"
    steps = rearrange(tokens, shape, chans=signal.shape[1])
    return steps.mean(2) if pooling == "mean" else steps.flatten(2)


def _check_electrodes(encoder: Encoder) -> None:
    if not encoder.features_by_electrode:
        raise BergerError(
            f"{type(encoder).__name__} sums up all electrodes of a time step and has no features "
            "of single ones; use pooling: mean."
        )


def _head(config: ClassifierConfig, encoder: Encoder, n_times: int | None) -> nn.Module:
    """Build the head for windows of so many samples at the encoder's rate."""
    head, n_outputs = config.head, config.n_outputs
    n_chans = len(config.adapter.targets or ()) or config.n_chans or 1
    width = encoder.embed_dim * (n_chans if config.pooling == "electrodes" else 1)
    if isinstance(head, StepsHeadConfig):
        if n_times is None:
            raise BergerError(
                "the head steps reads windows of one length; give the model a contract with "
                "window_seconds."
            )
        n_steps = encoder.n_steps(n_times, n_chans)
        return StepsHead(head, n_steps, width * encoder.n_streams, n_outputs)
    if isinstance(head, AttentionHeadConfig):
        return AttentionHead(head, encoder.embed_dim, n_outputs)
    if isinstance(head, MlpHeadConfig):
        return nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, head.width),
            nn.GELU(),
            nn.Dropout(head.dropout),
            nn.Linear(head.width, n_outputs),
        )
    return nn.Linear(width, n_outputs)
