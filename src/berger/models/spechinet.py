"""SpecHi-Net, one expert of SpecMoE (arXiv 2603.16739): a U-shaped network that restores EEG.

Two branches read every electrode: `fine` with short kernels, `coarse` with long, dilated ones.
Three stages shorten the signal, two at the bottom hold the embedding, three bring it back. In
between, attention over all electrodes and times mixes what the branches found.

    signal (batch, C, T), T a multiple of 120 and at least 360
      │ fold: every electrode is convolved on its own       (batch·C, 1, T)
      ├─ down1   fine ‖ coarse                               (batch·C,  64, 2T/15) ────────┐
      ├─ down2   fine ‖ coarse                               (batch·C,  64, 2T/60) ─────┐  │
      │  attention1 over C · 2T/60 tokens                                               │  │
      ├─ down3   fine ‖ coarse                               (batch·C, 128, 2T/120) ─┐  │  │
      ├─ bottom1, attention2 over C · 2T/120 tokens, bottom2 = the embedding         │  │  │
      ├─ up1     first half fine, second half coarse         (batch·C,  64, 2T/60)  ◄┘  │  │
      │  attention3 over C · 2T/60 tokens, auxiliary head                               │  │
      ├─ up2     likewise, auxiliary head                    (batch·C,  64, 2T/15) ◄────┘  │
      └─ up3     two restored signals, fine and coarse       (batch·C,   1, T) each ◄──────┘

"‖" joins the branches in time: the first half of the steps is fine, the second coarse, and both
halves cover the whole window. Lengths are those of the default widths.

Differences from the published program, all meant (docs/decisions/): channels are folded into the
batch instead of laid end to end, maps become tokens by transposing, attention is the
usual one, both halves of the joined steps carry their own times, and an auxiliary head gives one
value per electrode and step. Hence 2,925,764 parameters: the published 2,928,104 less 18 of the
19 outputs of each auxiliary head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self, cast

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from pydantic import Field, model_validator
from torch import Tensor, nn

from berger.configuration import Config
from berger.models.contract import Encoder, Features, InputContract, Reconstruction
from berger.models.layers import MapGain, RotaryAttentionLayer

LENGTH_MULTIPLE = 120
SHORTEST = 360


class SpecHiNetSize(Config):
    """Size and variants of a SpecHi-Net in any layout; the defaults are the paper's.

    Attributes
    ----------
    sfreq : float
        Sampling rate in Hz that the kernels are made for.
    scale : float
        Microvolts per unit inside the network.
    stem_dim, embed_dim, bottleneck_dim : int
        Widths of the first convolution, of stages 1 and 2, and of the bottom.
    n_heads : int
        Attention heads; divides `embed_dim` and `bottleneck_dim`.
    dropout, decoder_dropout : float
        In the encoder and attention layers, and in the three decoding stages.
    restores : {"signal", "correction", "map"}
        What the last layers put out: the whole signal (the paper); what has to be added to the
        masked input; or that and a gain by which the masked input's STFT map is multiplied, which
        a linear layer reads from attention3. docs/log.md has the measurements.
    zero_start : bool
        Start the last layer of both branches at zero, so that training starts from silence or,
        with "correction", from the masked input.
    """

    name: str
    sfreq: float = Field(200.0, gt=0)
    scale: float = Field(100.0, gt=0)
    stem_dim: int = Field(32, ge=1)
    embed_dim: int = Field(64, ge=1)
    bottleneck_dim: int = Field(128, ge=1)
    n_heads: int = Field(8, ge=1)
    dropout: float = Field(0.2, ge=0, lt=1)
    decoder_dropout: float = Field(0.2, ge=0, lt=1)
    restores: Literal["signal", "correction", "map"] = "signal"
    zero_start: bool = False

    @model_validator(mode="after")
    def _heads_divide_widths(self) -> Self:
        for width in (self.embed_dim, self.bottleneck_dim):
            if width % (2 * self.n_heads):
                raise ValueError(f"width {width} must be a multiple of 2 · n_heads")
        return self


class SpecHiNetConfig(SpecHiNetSize):
    """SpecHi-Net in the channelwise layout; fields as in `SpecHiNetSize`."""

    name: Literal["spechinet"] = "spechinet"


class SpecHiNetReconstruction(Reconstruction):
    """Restored signals: the branches "fine" and "coarse", in microvolts.

    ``auxiliary`` has the low-rate restorations from up2 and attention3 by the fine and the coarse
    half, in microvolts: (batch, n_chans, 2, T/15) and (batch, n_chans, 2, T/60), T being n_times
    padded to what the network needs.
    """

    @property
    def fine(self) -> Tensor:
        """By the fine branch (batch, n_chans, n_times)."""
        return self.branches["fine"]

    @property
    def coarse(self) -> Tensor:
        """By the coarse branch (batch, n_chans, n_times)."""
        return self.branches["coarse"]


@dataclass(frozen=True)
class Stages:
    """Stages of the encoder, as the decoder wants them; folded (batch·n_chans, dim, steps)."""

    down1: Tensor
    down2: Tensor
    down3: Tensor
    embedding: Tensor


class SpecHiNetEncoder(Encoder):
    """The encoding half of SpecHi-Net in the channelwise layout: any montage, in any order.

    Parameters
    ----------
    config : SpecHiNetSize
    contract : InputContract, optional
        Default: any window at `config.sfreq`.
    """

    config: SpecHiNetSize
    attention_layer = RotaryAttentionLayer

    def __init__(self, config: SpecHiNetSize, contract: InputContract | None = None) -> None:
        super().__init__(config, contract or InputContract(sfreq=config.sfreq))
        stem, mid, deep = config.stem_dim, config.embed_dim, config.bottleneck_dim
        drop = config.dropout
        self.down1 = Down1(stem, mid, drop)
        self.down2 = Down2(mid, drop)
        self.attention1 = self.attention_layer(mid, config.n_heads, 2 * mid, drop)
        self.down3 = Down3(mid, deep, drop)
        self.bottom1 = Bottom(deep, drop)
        self.attention2 = self.attention_layer(deep, config.n_heads, 2 * deep, drop)
        self.bottom2 = Bottom(deep, drop)

    def forward_features(
        self,
        signal: Tensor,
        ch_names: Sequence[str] | None = None,
        times: Tensor | None = None,
    ) -> Features:
        """Embed windows.

        Parameters
        ----------
        signal : Tensor, shape (batch, n_chans, n_times)
            Microvolts at `config.sfreq`.
        ch_names : sequence of str, optional
            Names of the electrodes; this network reads any and needs none.
        times : Tensor, shape (batch, n_times), optional
            Position of each sample for the rotary encoding; 0.1 to 1.1 over the window if not
            given, as the paper does downstream.

        Returns
        -------
        Features
            `config.bottleneck_dim` wide, n_chans · 2T/120 tokens.

        Raises
        ------
        BergerError
            If the shapes do not fit.
        """
        self.check_names(signal, ch_names)
        padded, times = self._prepare(signal, times)
        return self._features(self._encode(padded, times), signal.shape[1])

    def channel_embedding(self, signal: Tensor, times: Tensor | None = None) -> Tensor:
        """Return the embedding of each electrode (batch, n_chans, embed_dim, steps).

        Parameters as in `forward_features`.
        """
        padded, times = self._prepare(signal, times)
        embedding = self._encode(padded, times).embedding
        batch = signal.shape[0]
        return rearrange(embedding, "(batch chans) dim t -> batch chans dim t", batch=batch)

    def depth_groups(self) -> list[list[nn.Parameter]]:
        stages: tuple[nn.Module, ...] = (
            *(self.down1, self.down2, self.attention1),
            *(self.down3, self.bottom1, self.attention2, self.bottom2),
        )
        return [[*stage.parameters()] for stage in stages]

    def _add_decoder(self, n_auxiliary: int) -> None:
        """Build the decoding half, with as many values of an auxiliary head at each token."""
        config = self.config
        stem, mid, deep = config.stem_dim, config.embed_dim, config.bottleneck_dim
        drop = config.decoder_dropout
        self.up1 = Up1(mid, deep, drop)
        self.attention3 = self.attention_layer(mid, config.n_heads, 2 * mid, config.dropout)
        self.up2 = Up2(mid, drop)
        self.up3 = Up3(stem, mid, drop)
        self.auxiliary_up2 = nn.Linear(mid, n_auxiliary)
        self.auxiliary_up1 = nn.Linear(mid, n_auxiliary)
        if config.restores == "map":
            self.map_gain = MapGain(2 * mid, config.sfreq)
        if config.zero_start:
            self.up3.start_at_zero()

    @property
    def embed_dim(self) -> int:
        """Width of the features."""
        return self.config.bottleneck_dim

    def _prepare(self, signal: Tensor, times: Tensor | None) -> tuple[Tensor, Tensor]:
        """Scale to the network's unit, pad with zeros on the right, continue the times."""
        signal = self.as_input(signal)
        n_times = signal.shape[-1]
        if times is None:
            batch = signal.shape[0]  # len() would be a constant of an exported graph
            times = torch.linspace(0.1, 1.1, n_times, device=signal.device).expand(batch, -1)
        missing = self._padded(n_times, signal.shape[1]) - n_times
        if missing:
            step = times[:, -1:] - times[:, -2:-1]
            further = times[:, -1:] + step * torch.arange(1, missing + 1, device=times.device)
            times = torch.cat((times, further), dim=1)
        return F.pad(signal / self.config.scale, (0, missing)), times

    def n_steps(self, n_times: int, n_chans: int) -> int:
        """Steps of the fine half and, behind them, as many of the coarse one."""
        return 2 * self._padded(n_times, n_chans) // LENGTH_MULTIPLE

    @classmethod
    def _padded(cls, n_times: int, n_chans: int) -> int:
        """Samples of a window after padding."""
        longer = max(n_times, cls._shortest(n_chans))
        return longer + -longer % LENGTH_MULTIPLE

    @staticmethod
    def _shortest(n_chans: int) -> int:
        """Fewest samples of a window that the convolutions can shorten."""
        return SHORTEST

    def _encode(self, signal: Tensor, times: Tensor) -> Stages:
        n_chans = signal.shape[1]
        down1 = self.down1(rearrange(signal, "batch chans times -> (batch chans) 1 times"))
        down2 = self.down2(down1)
        x = self._attend(self.attention1, down2, n_chans, _stage_times(times, 60))
        down3 = self.down3(x)
        x = self.bottom1(down3)
        x = self._attend(self.attention2, x, n_chans, _stage_times(times, 120))
        return Stages(down1, down2, down3, embedding=self.bottom2(x))

    def _features(self, encoded: Stages, n_chans: int) -> Features:
        tokens = self._to_tokens(encoded.embedding, n_chans)
        return Features(tokens=tokens, summary=tokens.mean(1))

    def _filtered(self, signal: Tensor, x: Tensor) -> Tensor:
        """Filter every electrode by its features (batch·n_chans, dim, 2t), fine and coarse."""
        halves = rearrange(x, "bc dim (half t) -> bc (half dim) t", half=2)
        each = rearrange(signal, "batch chans times -> (batch chans) 1 times")
        filtered: Tensor = self.map_gain(each, halves)
        return filtered.view_as(signal)

    def _attend(self, layer: nn.Module, x: Tensor, n_chans: int, times: Tensor) -> Tensor:
        """Let all electrodes' steps (batch·n_chans, dim, steps) attend to one another."""
        every_time = repeat(times, "b t -> b (c t)", c=n_chans)
        tokens = layer(self._to_tokens(x, n_chans), every_time)
        y: Tensor = rearrange(tokens, "batch (chans t) dim -> (batch chans) dim t", chans=n_chans)
        return y

    @staticmethod
    def _to_tokens(x: Tensor, n_chans: int) -> Tensor:
        """(batch·n_chans, dim, steps) → (batch, n_chans·steps, dim), channel-major."""
        return rearrange(x, "(batch chans) dim t -> batch (chans t) dim", chans=n_chans)


class SpecHiNet(SpecHiNetEncoder):
    """SpecHi-Net in the channelwise layout: any montage, in any order.

    Parameters
    ----------
    config : SpecHiNetConfig
    contract : InputContract, optional
        Default: any window at `config.sfreq`.
    """

    config: SpecHiNetConfig

    def __init__(self, config: SpecHiNetConfig, contract: InputContract | None = None) -> None:
        super().__init__(config, contract)
        self._add_decoder(n_auxiliary=1)

    def reconstruct(
        self,
        signal: Tensor,
        times: Tensor | None = None,
        ch_names: Sequence[str] | None = None,
    ) -> SpecHiNetReconstruction:
        """Restore the clean signal from a masked one; parameters as in `forward_features`."""
        self.check_names(signal, ch_names)
        padded, times = self._prepare(signal, times)
        n_chans, n_times = signal.shape[1:]
        encoded = self._encode(padded, times)

        x = self.up1(torch.cat((encoded.embedding, encoded.down3), 1))
        x = self._attend(self.attention3, x, n_chans, _stage_times(times, 60))
        up1 = x
        x = self.up2(torch.cat((x, encoded.down2), 1))
        fine, coarse = self.up3(torch.cat((x, encoded.down1), 1))

        fine, coarse = (
            rearrange(y, "(batch chans) 1 times -> batch chans times", chans=n_chans)
            for y in (fine, coarse)
        )
        if self.config.restores != "signal":
            start = self._filtered(padded, up1) if self.config.restores == "map" else padded
            fine, coarse = fine + start, coarse + start
        scale = self.config.scale
        return SpecHiNetReconstruction(
            branches={
                "fine": fine[..., :n_times].to(padded.dtype) * scale,
                "coarse": coarse[..., :n_times].to(padded.dtype) * scale,
            },
            features=self._features(encoded, n_chans),
            auxiliary=(
                self._low_rate(self.auxiliary_up2, x, n_chans).to(padded.dtype) * scale,
                self._low_rate(self.auxiliary_up1, up1, n_chans).to(padded.dtype) * scale,
            ),
        )

    @staticmethod
    def _low_rate(head: nn.Module, x: Tensor, n_chans: int) -> Tensor:
        """One value per step: (batch·n_chans, dim, 2t) → (batch, n_chans, 2, t)."""
        values = head(rearrange(x, "bc dim t -> bc t dim"))
        shape = "(batch chans) (half t) 1 -> batch chans half t"
        y: Tensor = rearrange(values, shape, chans=n_chans, half=2)
        return y


def _stage_times(times: Tensor, factor: int) -> Tensor:
    """Mean time of every `factor` samples, once for the fine and once for the coarse half."""
    return F.avg_pool1d(times[:, None], factor)[:, 0].repeat(1, 2)


class Down1(nn.Module):
    """(batch, 1, T) → (batch, embed_dim, 2T/15)."""

    def __init__(self, stem: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.fine = nn.Sequential(
            *_conv(1, stem, 4),
            nn.MaxPool1d(8, stride=5, padding=2),
            nn.Dropout(dropout),
            *_conv(stem, dim, 4),
            *_conv(dim, dim, 4),
            nn.MaxPool1d(16, stride=3, padding=7),
            nn.Dropout(dropout),
        )
        self.coarse = nn.Sequential(
            *_conv(1, stem, 65, stride=3, dilation=4, padding=97),
            nn.MaxPool1d(18, stride=5, padding=9),
            nn.Dropout(dropout),
            *_conv(stem, dim, 16, padding=8),
            *_conv(dim, dim, 16, padding=8),
            nn.MaxPool1d(16, stride=1, padding=8),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        return _join(self.fine(x), self.coarse(x))


class Down2(nn.Module):
    """(batch, embed_dim, 2T/15) → (batch, embed_dim, 2T/60)."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.fine = nn.Sequential(
            *_conv(dim, dim, 4),
            nn.MaxPool1d(4, stride=2, padding=2),
            nn.Dropout(dropout),
            *_conv(dim, dim, 4),
            *_conv(dim, dim, 4),
            nn.MaxPool1d(8, stride=2, padding=3),
        )
        self.coarse = nn.Sequential(
            *_conv(dim, dim, 16, dilation=2, padding=11),
            nn.MaxPool1d(8, stride=2, padding=4),
            nn.Dropout(dropout),
            *_conv(dim, dim, 16, padding=8),
            *_conv(dim, dim, 16, padding=8),
            nn.MaxPool1d(8, stride=2, padding=4),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        fine, coarse = x.chunk(2, dim=-1)
        joined: Tensor = self.dropout(_join(self.fine(fine), self.coarse(coarse)))
        return joined


class Down3(nn.Module):
    """(batch, embed_dim, 2T/60) → (batch, bottleneck_dim, 2T/120)."""

    def __init__(self, dim: int, deep: int, dropout: float) -> None:
        super().__init__()
        self.fine = nn.Sequential(
            *_conv(dim, deep, 4),
            nn.MaxPool1d(4, stride=2, padding=1),
            nn.Dropout(dropout),
            *_conv(deep, deep, 4),
        )
        self.coarse = nn.Sequential(
            *_conv(dim, deep, 8, dilation=2, padding=5),
            nn.MaxPool1d(8, stride=2, padding=4),
            nn.Dropout(dropout),
            *_conv(deep, deep, 8, padding=4),
        )

    def forward(self, x: Tensor) -> Tensor:
        fine, coarse = x.chunk(2, dim=-1)
        return _join(self.fine(fine), self.coarse(coarse))


class Bottom(nn.Module):
    """Two convolutions at the bottom, over the joined steps; the shape stays."""

    def __init__(self, deep: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_conv(deep, deep, 8), nn.Dropout(dropout), *_conv(deep, deep, 8)
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y


class Up1(nn.Module):
    """(batch, 2 · bottleneck_dim, 2T/120) → (batch, embed_dim, 2T/60)."""

    def __init__(self, dim: int, deep: int, dropout: float) -> None:
        super().__init__()
        self.fine = nn.Sequential(
            *_conv(2 * deep, deep, 4, bias=True),
            *_grow(deep, deep, 4, stride=2, padding=1),
            *_conv(deep, dim, 4, bias=True),
        )
        self.coarse = nn.Sequential(
            *_conv(2 * deep, deep, 8, padding=4, bias=True),
            *_grow(deep, deep, 8, stride=2, padding=4),
            nn.Dropout(dropout),
            *_conv(deep, dim, 8, dilation=2, padding=7, bias=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        fine, coarse = x.chunk(2, dim=-1)
        return _join(self.fine(fine), self.coarse(coarse))


class Up2(nn.Module):
    """(batch, 2 · embed_dim, 2T/60) → (batch, embed_dim, 2T/15)."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.fine = nn.Sequential(
            *_grow(2 * dim, dim, 8, stride=2, padding=3),
            *_conv(dim, dim, 4, bias=True),
            *_conv(dim, dim, 4, bias=True),
            nn.Dropout(dropout),
            *_grow(dim, dim, 4, stride=2, padding=1),
            SameConv1d(dim, dim, 4),
        )
        self.coarse = nn.Sequential(
            *_grow(2 * dim, dim, 8, stride=1, padding=4),
            *_conv(dim, dim, 16, padding=8, bias=True),
            *_conv(dim, dim, 16, padding=8, bias=True),
            nn.Dropout(dropout),
            *_grow(dim, dim, 8, stride=2, padding=4, output_padding=1),
            nn.ConvTranspose1d(dim, dim, 16, stride=2, dilation=2, padding=16, output_padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        fine, coarse = x.chunk(2, dim=-1)
        return _join(self.fine(fine), self.coarse(coarse))


class Up3(nn.Module):
    """(batch, 2 · embed_dim, 2T/15) → two signals (batch, 1, T)."""

    def __init__(self, stem: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.fine = nn.Sequential(
            *_grow(2 * dim, dim, 16, stride=5, padding=7),
            *_conv(dim, dim, 4, padding=2, bias=True),
            *_conv(dim, stem, 4, padding=2, bias=True),
            nn.Dropout(dropout),
            *_grow(stem, stem, 8, stride=3, padding=1, output_padding=1),
            nn.Conv1d(stem, 1, 4, padding=1),
        )
        self.coarse = nn.Sequential(
            *_grow(2 * dim, dim, 16, stride=1, padding=8),
            *_conv(dim, dim, 16, padding=8, bias=True),
            *_conv(dim, stem, 16, padding=8, bias=True),
            nn.Dropout(dropout),
            *_grow(stem, stem, 18, stride=5, padding=9),
            nn.ConvTranspose1d(stem, 1, 65, stride=3, dilation=4, padding=127),
        )

    def start_at_zero(self) -> None:
        """Let both branches put out nothing."""
        for branch in (self.fine, self.coarse):
            last = cast(nn.Conv1d, branch[-1])
            nn.init.zeros_(last.weight)
            nn.init.zeros_(cast(nn.Parameter, last.bias))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine, coarse = x.chunk(2, dim=-1)
        return self.fine(fine), self.coarse(coarse)


class SameConv1d(nn.Conv1d):
    """Convolution that keeps the length, also with an even kernel (the odd zero is on the right).

    The same as ``padding="same"``, which warns about every even kernel.
    """

    def forward(self, x: Tensor) -> Tensor:
        missing = self.kernel_size[0] - 1
        return super().forward(F.pad(x, (missing // 2, missing - missing // 2)))


def _conv(
    n_in: int,
    n_out: int,
    kernel: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    padding: int | None = None,
    bias: bool = False,
) -> list[nn.Module]:
    """Convolution, batch norm, GELU; without `padding` the length stays."""
    if padding is None:
        conv: nn.Conv1d = SameConv1d(n_in, n_out, kernel, bias=bias)
    else:
        conv = nn.Conv1d(n_in, n_out, kernel, stride, padding, dilation, bias=bias)
    return [conv, nn.BatchNorm1d(n_out), nn.GELU()]


def _grow(
    n_in: int, n_out: int, kernel: int, *, stride: int, padding: int, output_padding: int = 0
) -> list[nn.Module]:
    """Transposed convolution, batch norm, GELU."""
    conv = nn.ConvTranspose1d(
        n_in, n_out, kernel, stride=stride, padding=padding, output_padding=output_padding
    )
    return [conv, nn.BatchNorm1d(n_out), nn.GELU()]


def _join(fine: Tensor, coarse: Tensor) -> Tensor:
    """Concatenate the branches in time."""
    return torch.cat((fine, coarse), dim=-1)
