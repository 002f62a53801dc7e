"""SpecMoE (arXiv 2603.16739): pretrained experts, weighed by what the spectrum of the input says.

    signal (batch, C, T)
      ├─ expert 0 … K−1   encoders of SpecHi-Net    (batch, C, D, t) each
      │                   pooled over t             (batch, C, D) each
      ├─ gate             spectrum of the input     (batch, C, K, D)
      │  pooled features × gate, side by side       (batch, C, K·D)
      │  pooled over electrodes                     (batch, K·D)
      └─ head             norm, hidden layer        (batch, n_outputs)

The network's input, and so the spectrum, is in units of 100 µV. How an expert lays out its tensors
is its own affair (`channel_embedding`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, Self, cast

import torch
from einops import rearrange
from pydantic import Field, model_validator
from torch import Tensor, nn

from berger.configuration import Config, differences
from berger.errors import BergerError
from berger.models.contract import Encoder, Features, InputContract
from berger.models.layers import ValueScale
from berger.models.spechinet import SpecHiNetConfig, SpecHiNetEncoder
from berger.models.spechinet_published import SpecHiNetPublishedConfig, SpecHiNetPublishedEncoder
from berger.spectral import welch

Pool = Literal["mean", "max"]
ExpertConfig = Annotated[SpecHiNetConfig | SpecHiNetPublishedConfig, Field(discriminator="name")]
EXPERTS: dict[type[Config], type[SpecHiNetEncoder]] = {
    SpecHiNetConfig: SpecHiNetEncoder,
    SpecHiNetPublishedConfig: SpecHiNetPublishedEncoder,
}


class MixtureConfig(Config):
    """How experts are joined; the defaults are the paper's.

    Attributes
    ----------
    gate : {"spectral", "encoding", "softmax", "none"}
        What weighs the experts' features: a gate in [0, 1] for each feature, read from the power
        spectrum or from a small encoding of the input; weights of whole experts that add up to
        one, read from the spectrum; or nothing.
    segment_seconds : float
        Segments of the power spectrum, overlapping by half; windows must not be shorter, so 1 for
        windows of a second.
    pool_time, pool_chans : {"mean", "max"}
        Over the steps of an electrode and over the electrodes.
    dropout : float
        In the head.
    temperature : float
        Of the softmax gate; the higher, the more alike the weights.
    entropy_weight : float
        Of the softmax gate's loss.
    """

    gate: Literal["spectral", "encoding", "softmax", "none"] = "spectral"
    segment_seconds: float = Field(2.0, gt=0)
    pool_time: Pool = "mean"
    pool_chans: Pool = "mean"
    dropout: float = Field(0.2, ge=0, lt=1)
    temperature: float = Field(1.5, gt=0)
    entropy_weight: float = Field(0.01, ge=0)


class SpecMoEConfig(MixtureConfig):
    """A mixture of experts.

    Attributes
    ----------
    expert : SpecHiNetConfig or SpecHiNetPublishedConfig
        Of every expert; only the encoding half is built.
    n_experts : int
    n_outputs : int
        1 for a regression.
    classes : tuple of str
        Names of the outputs of a classification.
    target : str, optional
        What the output of a regression is, with its unit.
    """

    name: Literal["specmoe"] = "specmoe"
    expert: ExpertConfig = SpecHiNetConfig()
    n_experts: int = Field(3, ge=1)
    n_outputs: int = Field(1, ge=1)
    classes: tuple[str, ...] = ()
    target: str | None = None

    @property
    def sfreq(self) -> float:
        """Sampling rate in Hz."""
        return self.expert.sfreq

    @property
    def scale(self) -> float:
        """Microvolts per unit inside the experts."""
        return self.expert.scale

    @property
    def segment(self) -> int:
        """Samples of a segment of the power spectrum."""
        return round(self.segment_seconds * self.sfreq)

    @model_validator(mode="after")
    def _outputs_are_named(self) -> Self:
        if self.classes and len(self.classes) != self.n_outputs:
            raise ValueError(f"{len(self.classes)} classes but n_outputs: {self.n_outputs}")
        if self.target and (self.classes or self.n_outputs > 1):
            raise ValueError("a target has one output and no classes")
        if self.segment < 2:
            raise ValueError("segment_seconds must span two samples")
        return self


class SpecMoE(Encoder):
    """Experts, gate, head.

    Parameters
    ----------
    config : SpecMoEConfig
    contract : InputContract, optional
        Default: any window at the experts' rate.
    """

    config: SpecMoEConfig

    def __init__(self, config: SpecMoEConfig, contract: InputContract | None = None) -> None:
        super().__init__(config, contract or InputContract(sfreq=config.sfreq))
        build = EXPERTS[type(config.expert)]
        self.experts = nn.ModuleList(build(config.expert) for _ in range(config.n_experts))
        self.gate = _gate(config)
        self.head = _head(config)
        self.values = ValueScale() if config.target else None

    @classmethod
    def from_experts(
        cls,
        experts: Sequence[SpecHiNetEncoder],
        contract: InputContract | None = None,
        **settings: Any,
    ) -> SpecMoE:
        """Join pretrained experts; gate and head are new.

        Parameters
        ----------
        experts : sequence of SpecHiNetEncoder
            All of one configuration; their decoders, if any, are left out.
        contract : InputContract, optional
            Default: the first expert's.
        **settings
            Further fields of `SpecMoEConfig`.

        Raises
        ------
        BergerError
            If the experts are of different configurations.
        """
        config = experts[0].config
        for expert in experts:
            if changed := differences(config, expert.config):
                raise BergerError(
                    f"the experts are different networks ({'; '.join(changed)}); give experts of "
                    "one configuration."
                )
        settings |= {"expert": config.model_dump(), "n_experts": len(experts)}
        model = cls(SpecMoEConfig.model_validate(settings), contract or experts[0].contract)
        for own, expert in zip(model.experts, experts, strict=True):
            weights = expert.state_dict()
            own.load_state_dict({name: weights[name] for name in own.state_dict()})
        return model

    def forward(self, signal: Tensor, times: Tensor | None = None) -> Tensor:
        """Outputs (batch, n_outputs): logits, or the predicted values of a regression.

        Parameters
        ----------
        signal : Tensor, shape (batch, n_chans, n_times)
            Microvolts at `config.sfreq`.
        times : Tensor, shape (batch, n_times), optional
            Position of each sample; 0.1 to 1.1 over the window if not given.
        """
        return self.forward_with_gates(signal, times)[0]

    def forward_with_gates(
        self, signal: Tensor, times: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Outputs as from `forward` and gates as from `gates`, computed once."""
        gates = self.gates(signal)
        outputs: Tensor = self.head(self._pool_chans(self._mix(signal, times, gates)))
        return outputs if self.values is None else self.values(outputs), gates

    def forward_features(
        self,
        signal: Tensor,
        ch_names: Sequence[str] | None = None,
        times: Tensor | None = None,
    ) -> Features:
        """Embed windows, parameters as in `forward`, and names of the electrodes, if wanted.

        Returns
        -------
        Features
            `embed_dim` wide, a token for each electrode: the gated features of all experts side by
            side; the summary is pooled over electrodes by `config.pool_chans`.

        Raises
        ------
        BergerError
            If the shapes do not fit, or the window is shorter than a segment of the spectrum.
        """
        self.check_names(signal, ch_names)
        mixed = self._mix(signal, times, self.gates(signal))
        return Features(tokens=mixed, summary=self._pool_chans(mixed))

    @property
    def embed_dim(self) -> int:
        """Width of the features: that of an expert, times the experts."""
        return self.config.n_experts * self.config.expert.bottleneck_dim

    def n_steps(self, n_times: int, n_chans: int) -> int:
        """One: the experts' features are pooled over time."""
        return 1

    def depth_groups(self) -> list[list[nn.Parameter]]:
        experts = cast(Iterable[SpecHiNetEncoder], self.experts)
        depths = zip(*(expert.depth_groups() for expert in experts), strict=True)
        groups = [[parameter for part in parts for parameter in part] for parts in depths]
        gate = [*self.gate.parameters()]
        return [*groups, gate] if gate else groups

    def gates(self, signal: Tensor) -> Tensor:
        """Return how much of each expert's features is let through.

        Parameters
        ----------
        signal : Tensor, shape (batch, n_chans, n_times)
            Microvolts.

        Returns
        -------
        Tensor, shape (batch, n_chans, n_experts, dim)
            In [0, 1]; dim is 1 where experts are weighed as a whole (gates "softmax", "none").
        """
        weights: Tensor = self.gate(self.as_input(signal) / self.config.expert.scale)
        return weights

    def loss_gate(self, gates: Tensor) -> Tensor:
        """What the softmax gate adds to the loss: the less it uses all experts, the more.

        The entropy that is missing to equal weights, times `config.entropy_weight`; zero for the
        other gates, which do not make the experts compete.

        Parameters
        ----------
        gates : Tensor
            From `forward_with_gates`.
        """
        if self.config.gate != "softmax":
            return gates.new_zeros(())
        entropy = -(gates * gates.clamp_min(1e-12).log()).sum(2).mean()
        return self.config.entropy_weight * (math.log(self.config.n_experts) - entropy)

    def _mix(self, signal: Tensor, times: Tensor | None, gates: Tensor) -> Tensor:
        """Gated features of all experts side by side (batch, n_chans, embed_dim)."""
        experts = cast(Iterable[SpecHiNetEncoder], self.experts)
        embedded = [expert.channel_embedding(signal, times) for expert in experts]
        pooled = [_pool(each, self.config.pool_time, -1) for each in embedded]
        return (torch.stack(pooled, dim=2) * gates).flatten(2)

    def _pool_chans(self, mixed: Tensor) -> Tensor:
        return _pool(mixed, self.config.pool_chans, 1)


class SpectralGate(nn.Module):
    """A gate for every feature of every expert, from the power spectrum of each electrode.

    Parameters
    ----------
    n_experts, dim : int
        Experts and their width.
    sfreq : float
        Sampling rate in Hz.
    segment : int
        Samples of a segment of the spectrum.
    """

    def __init__(self, n_experts: int, dim: int, sfreq: float, segment: int) -> None:
        super().__init__()
        self.sfreq = sfreq
        self.segment = segment
        self.layers = nn.ModuleList(nn.Linear(segment // 2 + 1, dim) for _ in range(n_experts))

    def forward(self, signal: Tensor) -> Tensor:
        power = self.spectrum(signal)
        return torch.stack([layer(power) for layer in self.layers], dim=2).sigmoid()

    def spectrum(self, signal: Tensor) -> Tensor:
        """Power spectral density (batch, n_chans, segment // 2 + 1)."""
        if signal.shape[-1] < self.segment:
            raise BergerError(
                f"a window of {signal.shape[-1]} samples is shorter than a segment of the gate's "
                f"spectrum, {self.segment}; give longer windows or build the model with a smaller "
                "segment_seconds."
            )
        return welch(signal, self.sfreq, self.segment)


class SoftmaxGate(SpectralGate):
    """Weights of the experts that add up to one, from the power spectrum of each electrode.

    Parameters
    ----------
    n_experts, sfreq, segment
        As in `SpectralGate`.
    temperature : float
    """

    def __init__(self, n_experts: int, sfreq: float, segment: int, temperature: float) -> None:
        super().__init__(n_experts, 1, sfreq, segment)
        self.temperature = temperature

    def forward(self, signal: Tensor) -> Tensor:
        power = self.spectrum(signal)
        logits = torch.stack([layer(power) for layer in self.layers], dim=2)
        return (logits / self.temperature).softmax(2)


class EncodingGate(nn.Module):
    """A gate for every feature of every expert, from a small encoding of each electrode.

    Parameters
    ----------
    n_experts, dim : int
        Experts and their width.
    width : int
        Filters of the encoding.
    """

    def __init__(self, n_experts: int, dim: int, width: int = 32) -> None:
        super().__init__()
        self.encode = nn.Sequential(
            nn.Conv1d(1, width, 64, stride=4, padding=32),
            nn.GELU(),
            nn.Conv1d(width, width, 16, stride=4, padding=8, groups=width),  # depthwise
            nn.GELU(),
            nn.AdaptiveAvgPool1d(1),
        )
        self.layers = nn.ModuleList(nn.Linear(width, dim) for _ in range(n_experts))

    def forward(self, signal: Tensor) -> Tensor:
        each = self.encode(rearrange(signal, "batch chans times -> (batch chans) 1 times"))
        encoded = rearrange(each, "(batch chans) dim 1 -> batch chans dim", chans=signal.shape[1])
        return torch.stack([layer(encoded) for layer in self.layers], dim=2).sigmoid()


class OpenGate(nn.Module):
    """Lets everything through.

    Parameters
    ----------
    n_experts : int
    """

    def __init__(self, n_experts: int) -> None:
        super().__init__()
        self.n_experts = n_experts

    def forward(self, signal: Tensor) -> Tensor:
        return signal.new_ones(*signal.shape[:2], self.n_experts, 1)


def _gate(config: SpecMoEConfig) -> nn.Module:
    dim = config.expert.bottleneck_dim
    if config.gate == "spectral":
        return SpectralGate(config.n_experts, dim, config.sfreq, config.segment)
    if config.gate == "softmax":
        return SoftmaxGate(config.n_experts, config.sfreq, config.segment, config.temperature)
    if config.gate == "encoding":
        return EncodingGate(config.n_experts, dim)
    return OpenGate(config.n_experts)


def _head(config: SpecMoEConfig) -> nn.Sequential:
    width = config.n_experts * config.expert.bottleneck_dim
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, width),
        nn.GELU(),
        nn.Dropout(config.dropout),
        nn.Linear(width, config.n_outputs),
    )


def _pool(x: Tensor, pool: Pool, dim: int) -> Tensor:
    return x.mean(dim) if pool == "mean" else x.amax(dim)
