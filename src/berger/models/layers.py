"""Layers that several models share: rotary attention, weights of limited norm, a map's gain."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from berger.spectral import apply_gain, map_shape


def rotate(x: Tensor, times: Tensor, base: float = 10_000.0) -> Tensor:
    """Turn adjacent pairs of the last axis by angles proportional to real-valued times.

    Parameters
    ----------
    x : Tensor, shape (batch, n_heads, n_tokens, dim)
        `dim` even.
    times : Tensor, shape (batch, n_tokens)
        Position of each token, in any unit of time.
    base : float
        Pair i turns by times · base^(−2i/dim).

    Returns
    -------
    Tensor, shape (batch, n_heads, n_tokens, dim)
        Dot products of two turned vectors depend on the difference of their times only
        (Su et al. 2021, arXiv 2104.09864, section 3.2).
    """
    dim = x.shape[-1]
    # angles of large times need more digits than half precision has
    exact = torch.promote_types(x.dtype, torch.float32)
    speed = base ** (-torch.arange(0, dim, 2, device=x.device, dtype=exact) / dim)
    angle = times[:, None, :, None].to(exact) * speed
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


class RotaryAttentionLayer(nn.Module):
    """SpecHi-Net's attention layer (arXiv 2603.16739): post-norm, with the residual around q.

        q = W_in x;  y = Norm(q + attention(q, W_k x, W_v x));  out = Norm(y + FFN(y))

    Parameters
    ----------
    dim : int
        Width of the tokens.
    n_heads : int
    dim_feedforward : int
    dropout : float
        Inside the feed-forward part and on both residual branches.
    """

    def __init__(self, dim: int, n_heads: int, dim_feedforward: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        self.norm_attention: nn.Module = nn.LayerNorm(dim, eps=1e-6)
        self.norm_feedforward: nn.Module = nn.LayerNorm(dim, eps=1e-6)
        self.feedforward = nn.Sequential(
            nn.Linear(dim, dim_feedforward),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(dim_feedforward, dim),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, times: Tensor) -> Tensor:
        """Map tokens (batch, n_tokens, dim) at times (batch, n_tokens) to the same shape."""
        query = self.query(tokens)
        attended = self.attend(query, self.key(tokens), self.value(tokens), times)
        y = self.norm_attention(query + self.dropout(self.out(attended)))
        out: Tensor = self.norm_feedforward(y + self.dropout(self.feedforward(y)))
        return out

    def attend(self, query: Tensor, key: Tensor, value: Tensor, times: Tensor) -> Tensor:
        """Multi-head attention; all but the times are (batch, n_tokens, dim)."""
        q, k, v = (
            rearrange(x, "batch tokens (heads dim) -> batch heads tokens dim", heads=self.n_heads)
            for x in (query, key, value)
        )
        # never materialises the (n_tokens, n_tokens) scores
        attended = F.scaled_dot_product_attention(rotate(q, times), rotate(k, times), v)
        return rearrange(attended, "batch heads tokens dim -> batch tokens (heads dim)")


class PreNormAttentionLayer(nn.Module):
    """The usual attention layer with norms inside the residual branches.

        y = x + W_o attention(W_qkv Norm(x));  out = y + FFN(Norm(y))

    Parameters
    ----------
    dim : int
        Width of the tokens.
    n_heads : int
    """

    def __init__(self, dim: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm_attention = nn.LayerNorm(dim, eps=1e-6)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.norm_feedforward = nn.LayerNorm(dim, eps=1e-6)
        self.feedforward = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)
        )

    def forward(
        self, tokens: Tensor, times: Tensor | None = None, n_last: int | None = None
    ) -> Tensor:
        """Map tokens to the same shape, or the last few of them.

        Parameters
        ----------
        tokens : Tensor, shape (batch, n_tokens, dim)
        times : Tensor, shape (batch or 1, n_tokens), optional
            Positions, by which the first half of each head's queries and keys is turned.
        n_last : int, optional
            Only the last so many tokens are wanted: they attend to all, the others are not mapped.

        Returns
        -------
        Tensor, shape (batch, n_tokens or n_last, dim)
        """
        first = 0 if n_last is None else tokens.shape[1] - n_last
        normed = self.norm_attention(tokens)
        # a layer of low rank beside `qkv` is part of what stands in its place, not of its weight
        if first and isinstance(self.qkv, nn.Linear):
            dim = tokens.shape[-1]
            weight, bias = self.qkv.weight, self.qkv.bias
            query = F.linear(normed[:, first:], weight[:dim], bias[:dim])
            key, value = F.linear(normed, weight[dim:], bias[dim:]).chunk(2, dim=-1)
        else:
            query, key, value = self.qkv(normed).chunk(3, dim=-1)
            query = query[:, first:]
        q, k, v = (
            rearrange(x, "batch tokens (heads dim) -> batch heads tokens dim", heads=self.n_heads)
            for x in (query, key, value)
        )
        if times is not None:
            q, k = _rotate_first_half(q, times[:, first:]), _rotate_first_half(k, times)
        attended = F.scaled_dot_product_attention(q, k, v)
        joined = rearrange(attended, "batch heads tokens dim -> batch tokens (heads dim)")
        y = tokens[:, first:] + self.out(joined)
        out: Tensor = y + self.feedforward(self.norm_feedforward(y))
        return out


class MapGain(nn.Module):
    """Multiply a signal's STFT map by a gain that is read from features; one at the start.

    The mask that is to be undone is itself a gain on this map (2-s Hann windows, 1-s steps).

    Parameters
    ----------
    dim : int
        Width of the features.
    sfreq : float
        Sampling rate in Hz.
    """

    def __init__(self, dim: int, sfreq: float) -> None:
        super().__init__()
        self.hop = round(sfreq)
        n_bins, _ = map_shape(0, 2 * self.hop, self.hop)
        self.log_gain = nn.Linear(dim, n_bins)
        nn.init.zeros_(self.log_gain.weight)
        nn.init.zeros_(self.log_gain.bias)

    def forward(self, signal: Tensor, x: Tensor) -> Tensor:
        """Filter signals (batch, n_chans, n_times), all channels alike, by a map (batch, dim, t).

        The steps of the features, of about a quarter of a second, cover the window evenly.
        """
        n_fft = 2 * self.hop
        _, n_frames = map_shape(signal.shape[-1], n_fft, self.hop)
        smooth = F.avg_pool1d(x, 5, stride=1, padding=2, count_include_pad=False)
        step = signal.shape[-1] / smooth.shape[-1]
        centres = torch.arange(n_frames, device=x.device) * self.hop  # frame m is centred here
        nearest = (centres / step - 0.5).round().long().clamp(0, smooth.shape[-1] - 1)
        frames = smooth[..., nearest]
        # e³: a bin left with a twentieth of its amplitude can be brought back
        log_gain = self.log_gain(rearrange(frames, "batch dim m -> batch m dim"))
        gain = log_gain.to(signal.dtype).clamp(max=3.0).exp()
        return apply_gain(signal, rearrange(gain, "batch m bins -> batch bins m"), n_fft, self.hop)


def _rotate_first_half(x: Tensor, times: Tensor) -> Tensor:
    turned, kept = x.chunk(2, dim=-1)
    return torch.cat((rotate(turned, times), kept), dim=-1)


class MaxNorm(nn.Module):
    """Parametrisation by which no output's weights have a norm above a limit.

    The optimiser moves free weights; what the layer computes with are these, each output's row
    shortened to the limit where it is longer. So the limit holds after every step, and the gradient
    knows of it.

    Parameters
    ----------
    limit : float
    """

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, weight: Tensor) -> Tensor:
        """Return weights (n_outputs, ...) of the same shape."""
        norms = weight.flatten(1).norm(dim=1)
        shortened = self.limit / norms.clamp_min(self.limit)
        limited: Tensor = weight * shortened.view(-1, *(1 for _ in weight.shape[1:]))
        return limited

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Return the free weights that stand for given ones: themselves."""
        return weight


Layer = TypeVar("Layer", nn.Linear, nn.Conv1d)


def with_max_norm(layer: Layer, limit: float) -> Layer:
    """Keep the norm of each output's weights at or below a limit; the layer itself is changed."""
    register_parametrization(layer, "weight", MaxNorm(limit))
    return layer


class ValueScale(nn.Module):
    """Values in their own unit from outputs around 0 with a deviation of 1."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("deviation", torch.ones(()))

    def fit(self, values: Tensor) -> None:
        """Take mean and deviation of values (n,); equal values leave the deviation at 1."""
        deviation = values.std(correction=0)
        self.mean.copy_(values.mean())
        self.deviation.copy_(deviation if deviation > 0 else torch.ones(()))

    def forward(self, outputs: Tensor) -> Tensor:
        """Return values of the same shape."""
        return outputs * self.deviation + self.mean
