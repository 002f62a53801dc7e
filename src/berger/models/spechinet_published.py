"""SpecHi-Net as the published program computes it (arXiv 2603.16739), for the published weights.

The same convolutions as `berger.models.spechinet`, but all electrodes are laid end to end as one
sequence, and memory is read anew where a transpose is meant. New models use the channelwise layout.

    signal (batch, C, T), T a multiple of 120, read as     (batch, 1, C·T)
      ├─ down1   fine ‖ coarse                              (batch,  64, 2·C·T/15)
      ├─ down2   fine ‖ coarse, laid out by electrode       (batch,  64, C, 2T/60)
      │  memory read as tokens (batch, C·2T/60, 64), attention1, tokens permuted to a map
      ├─ down3   fine ‖ coarse, laid out by electrode       (batch, 128, C, 2T/120)
      ├─ bottom1, attention2, bottom2 = the embedding       (batch, 128, C·2T/120)
      ├─ up1     of embedding and down3                     (batch,  64, C, 2T/60)
      │  attention3, auxiliary head
      ├─ up2     of attention3 and attention1's input       (batch,  64, C, 2T/15), auxiliary head
      └─ up3     of up2 and down1's memory read as (batch, 64, C, 2T/15)

Between the stages the fine half of all electrodes comes first, then the coarse half of all
electrodes: "laid out by electrode" gives every electrode its fine and then its coarse steps.
docs/decisions/0014-published-layout.md lists what else differs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from berger.models.contract import InputContract
from berger.models.layers import RotaryAttentionLayer, rotate
from berger.models.spechinet import (
    SHORTEST,
    SpecHiNetEncoder,
    SpecHiNetReconstruction,
    SpecHiNetSize,
    Stages,
)

KEYS_AT_ONCE = 64
MOST_EXPORTED_BLOCKS = 8
"""Each is a part of its own of an exported graph, which takes time to make."""

_NAMES = (
    (r"^(Down|Up)(\d)\.features1\.", r"\1\2.fine."),
    (r"^(Down|Up)(\d)\.features3\.", r"\1\2.coarse."),
    (r"^(Bottom\d)\.features\.", r"\1.layers."),
    (r"^aux_head_(up\d)\.0\.", r"auxiliary_\1."),
    (r"^TransformerEnc(\d)\.", r"attention\1."),
    (r"^(attention\d\.)lin_1\.", r"\1query."),
    (r"MultiH_Attn\.k_proj\.", "key."),
    (r"MultiH_Attn\.v_proj\.", "value."),
    (r"MultiH_Attn\.out_proj\.", "out."),
    (r"feed_forward\.w_1\.", "feedforward.0."),
    (r"feed_forward\.w_2\.", "feedforward.3."),
    (r"sublayer_output\.0\.norm\.", "norm_attention."),
    (r"sublayer_output\.1\.norm\.", "norm_feedforward."),
    (r"\.a_2$", ".weight"),
    (r"\.b_2$", ".bias"),
)
"""How the published program names its parameters, and how they are named here."""


class SpecHiNetPublishedConfig(SpecHiNetSize):
    """SpecHi-Net in the published layout; fields as in `SpecHiNetSize`, and one more.

    Attributes
    ----------
    n_auxiliary : int
        Outputs of each auxiliary head at each token.
    """

    name: Literal["spechinet-published"] = "spechinet-published"
    n_auxiliary: int = Field(19, ge=1)


class UnbiasedNorm(nn.Module):
    """(x − mean) / (unbiased standard deviation + 1e-6) · weight + bias, over the last axis."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (x.std(-1, keepdim=True) + 1e-6) * self.weight + self.bias


def query_normalised_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention whose softmax runs over the queries, with a zero where a token meets itself.

        S = Q Kᵀ / √dim, S_jj = 0;  P_ij = exp(S_ij) / Σ_l exp(S_lj);  out_i = Σ_j P_ij v_j

    A key's normaliser needs that key's column of S only. So every block of keys gives a term of
    its own, which is added up: memory grows with n_tokens, not with its square. For gradients the
    scores of each block are computed a second time. Computes in single precision at least.

    Parameters
    ----------
    query, key, value : Tensor, shape (batch, n_heads, n_tokens, dim)

    Returns
    -------
    Tensor, shape (batch, n_heads, n_tokens, dim)
    """
    exact = torch.promote_types(value.dtype, torch.float32)
    scaled = query.to(exact) / query.shape[-1] ** 0.5
    inputs = scaled, key.to(exact), value.to(exact)
    with torch.autocast(query.device.type, enabled=False):
        if torch.compiler.is_exporting():
            return _attend_in_a_graph(*inputs).to(value.dtype)
        attend = _InBlocks.apply if torch.is_grad_enabled() else _attend_in_blocks
        out: Tensor = attend(*inputs)
    return out.to(value.dtype)


def _attend_in_blocks(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    out = torch.zeros_like(query)
    for block in _blocks(key):
        out += _weights(query, key, block).transpose(-2, -1) @ value[..., block, :]
    return out


def _attend_in_a_graph(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """As `_attend_in_blocks`, in few blocks and with nothing written in place."""
    size = max(KEYS_AT_ONCE, -(-key.shape[-2] // MOST_EXPORTED_BLOCKS))
    others = 1 - torch.eye(size, dtype=key.dtype, device=key.device)
    terms = []
    for block in _blocks(key, size):
        scores = key[..., block, :] @ query.transpose(-2, -1)
        before, own, after = scores.tensor_split((block.start, block.stop), -1)
        own = own * others[: own.shape[-2], : own.shape[-1]]
        weights = torch.cat((before, own, after), -1).softmax(-1)
        terms.append(weights.transpose(-2, -1) @ value[..., block, :])
    return sum(terms[1:], terms[0])


def _blocks(key: Tensor, size: int = KEYS_AT_ONCE) -> list[slice]:
    n_tokens = key.shape[-2]
    starts = range(0, n_tokens, size)
    return [slice(start, min(start + size, n_tokens)) for start in starts]


def _weights(query: Tensor, key: Tensor, block: slice) -> Tensor:
    """A block's rows of Pᵀ (batch, n_heads, keys, n_tokens): each adds up to one."""
    scores = key[..., block, :] @ query.transpose(-2, -1)
    scores.diagonal(block.start, -2, -1).zero_()
    return scores.softmax(-1)


class _InBlocks(torch.autograd.Function):
    """`_attend_in_blocks` with its gradient, which is also computed in blocks."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(query, key, value)
        return _attend_in_blocks(query, key, value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = ctx.saved_tensors
        slopes = torch.zeros_like(query), torch.empty_like(key), torch.empty_like(value)
        for block in _blocks(key):
            weights, values = _weights(query, key, block), value[..., block, :]
            of_values = weights @ slope
            slopes[2][..., block, :] = of_values
            # of a softmax: P (∂P − Σ P ∂P), where ∂P_ij = slope_i · v_j
            of_scores = values @ slope.transpose(-2, -1)
            of_scores -= (values * of_values).sum(-1, keepdim=True)
            of_scores *= weights
            of_scores.diagonal(block.start, -2, -1).zero_()
            slopes[1][..., block, :] = of_scores @ query
            slopes[0].add_(of_scores.transpose(-2, -1) @ key[..., block, :])
        return slopes


class PublishedAttentionLayer(RotaryAttentionLayer):
    """The published attention layer.

    Heads by reading memory anew, rotary positions on the values too, softmax over the queries.
    Parameters as in `berger.models.layers.RotaryAttentionLayer`.
    """

    def __init__(self, dim: int, n_heads: int, dim_feedforward: int, dropout: float) -> None:
        super().__init__(dim, n_heads, dim_feedforward, dropout)
        self.norm_attention = UnbiasedNorm(dim)
        self.norm_feedforward = UnbiasedNorm(dim)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, times: Tensor) -> Tensor:
        batch, n_tokens, dim = query.shape
        heads = (batch, self.n_heads, n_tokens, dim // self.n_heads)
        q, k, v = (rotate(x.reshape(heads), times) for x in (query, key, value))
        attended = query_normalised_attention(q, k, v)
        return rearrange(attended, "batch heads tokens dim -> batch tokens (heads dim)")


class SpecHiNetPublishedEncoder(SpecHiNetEncoder):
    """The encoding half in the published layout.

    Parameters
    ----------
    config : SpecHiNetPublishedConfig
    contract : InputContract, optional
        Default: any window at `config.sfreq`.
    """

    attention_layer = PublishedAttentionLayer

    def channel_embedding(self, signal: Tensor, times: Tensor | None = None) -> Tensor:
        """Return what the published program takes for the embedding of each electrode.

        The memory (batch, dim, n_chans·steps) read as (batch, n_chans, dim, steps).
        Parameters as in `forward_features`.
        """
        padded, times = self._prepare(signal, times)
        embedding = self._encode(padded, times).embedding
        batch, dim, _ = embedding.shape
        return embedding.reshape(batch, signal.shape[1], dim, -1)

    @staticmethod
    def _shortest(n_chans: int) -> int:
        return -(-SHORTEST // n_chans)

    @staticmethod
    def _to_tokens(x: Tensor, n_chans: int) -> Tensor:
        return rearrange(x, "batch dim steps -> batch steps dim")

    def _encode(self, signal: Tensor, times: Tensor) -> Stages:
        """Stages (batch, dim, n_chans·steps); down2 is what attention1 reads."""
        n_chans = signal.shape[1]
        down1 = self.down1(rearrange(signal, "batch chans times -> batch 1 (chans times)"))
        down2 = _by_electrode(self.down2(down1), n_chans)
        tokens = down2.reshape(down2.shape[0], -1, down2.shape[1])
        x = _to_map(self.attention1(tokens, _stage_times(times, n_chans, 16)))
        down3 = _by_electrode(self.down3(_by_branch(x, n_chans)), n_chans)
        x = self._to_tokens(self.bottom1(down3), n_chans)
        x = _to_map(self.attention2(x, _stage_times(times, n_chans, 32)))
        return Stages(down1, _to_map(tokens), down3, embedding=self.bottom2(x))


class SpecHiNetPublished(SpecHiNetPublishedEncoder):
    """SpecHi-Net in the published layout: the order of the electrodes counts.

    Parameters
    ----------
    config : SpecHiNetPublishedConfig
    contract : InputContract, optional
        Default: any window at `config.sfreq`.
    """

    config: SpecHiNetPublishedConfig

    def __init__(
        self, config: SpecHiNetPublishedConfig, contract: InputContract | None = None
    ) -> None:
        super().__init__(config, contract)
        self._add_decoder(config.n_auxiliary)

    def reconstruct(
        self,
        signal: Tensor,
        times: Tensor | None = None,
        ch_names: Sequence[str] | None = None,
    ) -> SpecHiNetReconstruction:
        """Restore the clean signal from a masked one; parameters as in `forward_features`.

        The auxiliary restorations are (batch, n_auxiliary, n_chans · 2T/15) and
        (batch, n_auxiliary, n_chans · 2T/60): all tokens in a row for each output.
        """
        self.check_names(signal, ch_names)
        padded, times = self._prepare(signal, times)
        n_chans, n_times = signal.shape[1:]
        encoded = self._encode(padded, times)

        x = torch.cat((encoded.embedding, encoded.down3), 1)
        x = _by_electrode(self.up1(_by_branch(x, n_chans)), n_chans)
        tokens1 = self.attention3(self._to_tokens(x, n_chans), _stage_times(times, n_chans, 16))
        x = torch.cat((_to_map(tokens1), encoded.down2), 1)
        x = _by_electrode(self.up2(_by_branch(x, n_chans)), n_chans)
        tokens2 = self._to_tokens(x, n_chans)
        # down1 is read as if it were laid out by electrode
        fine, coarse = self.up3(_by_branch(torch.cat((x, encoded.down1), 1), n_chans))

        fine, coarse = (
            rearrange(y, "batch 1 (chans times) -> batch chans times", chans=n_chans)
            for y in (fine, coarse)
        )
        if self.config.restores != "signal":
            start = padded
            if self.config.restores == "map":
                each = rearrange(
                    tokens1, "batch (chans t) dim -> (batch chans) dim t", chans=n_chans
                )
                start = self._filtered(padded, each)
            fine, coarse = fine + start, coarse + start
        scale = self.config.scale
        fine, coarse = fine * scale, coarse * scale
        auxiliary = (
            _to_map(self.auxiliary_up2(tokens2)) * scale,
            _to_map(self.auxiliary_up1(tokens1)) * scale,
        )
        branches = {"fine": fine[..., :n_times], "coarse": coarse[..., :n_times]}
        return SpecHiNetReconstruction(branches, self._features(encoded, n_chans), auxiliary)


def _by_electrode(x: Tensor, n_chans: int) -> Tensor:
    """Fine steps of all electrodes, then coarse ones → each electrode's fine and coarse steps."""
    return rearrange(x, "b dim (half chans t) -> b dim (chans half t)", half=2, chans=n_chans)


def _by_branch(x: Tensor, n_chans: int) -> Tensor:
    """The reverse of `_by_electrode`."""
    return rearrange(x, "b dim (chans half t) -> b dim (half chans t)", half=2, chans=n_chans)


def _to_map(tokens: Tensor) -> Tensor:
    return rearrange(tokens, "batch steps dim -> batch dim steps")


def _stage_times(times: Tensor, n_chans: int, kernel: int) -> Tensor:
    """Mean times of a stage's steps, each repeated for every electrode."""
    pooled = F.avg_pool1d(times[:, None], 8, stride=5, padding=4)
    stride = kernel * 3 // 8
    pooled = F.avg_pool1d(pooled, kernel, stride=stride, padding=stride)[:, 0]
    return pooled.repeat_interleave(n_chans, dim=1)


def name_here(published: str) -> str:
    """Return the name here of a parameter of the published program."""
    name = published
    for pattern, ours in _NAMES:
        name = re.sub(pattern, ours, name)
    return name[:1].lower() + name[1:]
