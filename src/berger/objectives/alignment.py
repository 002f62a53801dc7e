"""What objectives that align features have in common.

    signal ─┬─ view 1 ─► encoder ─► predictor ──── anchor alignment ─┐
            ├─ view 2 ─► encoder ─► projection ─── mask alignment    │   with view 1
            └─ clean ──► momentum copy, no gradient ─────────────────┘

- *anchor alignment*: features predicted from a masked signal are to be those that a momentum copy
  of the encoder, which no gradient reaches, has of the clean one;
- *mask alignment*: two views of a window are told from the other windows of the batch.

Which views there are, what predicts and what else is learned belong to each objective.
"""

from __future__ import annotations

import copy
from typing import Self, TypeVar

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from berger.configuration import Config
from berger.objectives.collapse import spread
from berger.objectives.ranks import gathered
from berger.objectives.restoration import Losses

E = TypeVar("E", bound=nn.Module)


class AlignmentConfig(Config):
    """What is aligned, and how strongly; the defaults are DARE-EEG's (arXiv 2605.18298).

    Attributes
    ----------
    anchor, mask_alignment : float
        Weights of the terms; 0 switches a term off.
    temperature : float
        Of the mask alignment.
    hidden_dim, projection_dim : int
        Widths of the projection head.
    momentum : tuple of float
        The target encoder keeps this share of itself at the first and at the last step, in between
        on a straight line.
    """

    name: str
    anchor: float = Field(1.0, ge=0)
    mask_alignment: float = Field(0.1, ge=0)
    temperature: float = Field(0.1, gt=0)
    hidden_dim: int = Field(512, ge=1)
    projection_dim: int = Field(256, ge=1)
    momentum: tuple[float, float] = (0.996, 1.0)

    @model_validator(mode="after")
    def _momentum_is_two_shares(self) -> Self:
        if not all(0 <= share <= 1 for share in self.momentum):
            raise ValueError("momentum must be two numbers from 0 to 1")
        return self


def momentum_copy(encoder: E) -> E:
    """Return a copy that is never trained: in evaluation mode, without gradients."""
    return copy.deepcopy(encoder).requires_grad_(False).eval()


@torch.no_grad()
def follow(
    target: nn.Module, trained: nn.Module, momentum: tuple[float, float], step: int, total: int
) -> None:
    """Let a momentum copy follow, after optimiser step `step` of `total`.

    Parameters
    ----------
    target : nn.Module
    trained : nn.Module
        Has everything that the copy has, under the same names, and perhaps more.
    momentum : tuple of float
        Share of itself that the copy keeps at the first and at the last step.
    step, total : int
        Counted from 1.
    """
    first, last = momentum
    kept = first + (last - first) * (step - 1) / max(total - 1, 1)
    for name, weight in target.named_parameters():
        weight.lerp_(trained.get_parameter(name), 1 - kept)
    for name, buffer in target.named_buffers():  # batch norms' statistics are averages already
        buffer.copy_(trained.get_buffer(name))


def projection_head(n_features: int, config: AlignmentConfig) -> nn.Sequential:
    """Return the head behind which views are compared; idle if nothing is."""
    head = nn.Sequential(
        nn.Linear(n_features, config.hidden_dim),
        nn.ReLU(),
        nn.Linear(config.hidden_dim, config.projection_dim),
    )
    # an optimiser, and a process group that waits for every gradient, is told what is idle
    return head.requires_grad_(config.mask_alignment > 0)


def normalized(targets: Tensor) -> Tensor:
    """Layer-normalise targets over their last axis, without parameters."""
    return F.layer_norm(targets, targets.shape[-1:], eps=1e-5)


def anchor_loss(predicted: Tensor, anchors: Tensor) -> Tensor:
    """Mean squared error of predicted features (..., dim) and layer-normalised anchors."""
    return F.mse_loss(predicted, normalized(anchors))


def unexplained(predicted: Tensor, anchors: Tensor) -> Tensor:
    """Return the anchor loss over the variance of the anchors.

    Parameters
    ----------
    predicted, anchors : Tensor, shape (batch, n_tokens, ..., dim)

    Returns
    -------
    Tensor
        Scalar; 1 for the best constant, i.e. the anchors' mean over windows and tokens.
    """
    variance = normalized(anchors).var((0, 1), correction=0).mean()
    return anchor_loss(predicted, anchors) / variance.clamp_min(1e-5)


def info_nce(
    one: Tensor, other: Tensor, temperature: float = 0.1, *, shared: bool = False
) -> Tensor:
    """Tell which rows of two tables belong together, in both directions.

    Each row's negatives are the other table's other rows, with `shared` those of all processes. The
    mean over all processes' rows is then the loss of the whole batch.

    Parameters
    ----------
    one, other : Tensor, shape (batch, dim)
        Row i of both belongs together; of any length.
    temperature : float
    shared : bool
        Whether every process has other rows of one batch.

    Returns
    -------
    Tensor
        Scalar; the mean of both directions' cross entropies.
    """
    # products of half precision are too coarse for a tenth as temperature
    with torch.autocast(one.device.type, enabled=False):
        one, other = (F.normalize(rows.float(), dim=-1) for rows in (one, other))
        all_one, first = gathered(one) if shared else (one, 0)
        all_other, _ = gathered(other) if shared else (other, 0)
        own = torch.arange(first, first + len(one), device=one.device)
        there = F.cross_entropy(one @ all_other.T / temperature, own)
        back = F.cross_entropy(other @ all_one.T / temperature, own)
    return (there + back) / 2


def measures(tokens: Tensor, one: Tensor, other: Tensor) -> Losses:
    """Tell whether features are worth something, which no gradient follows.

    Parameters
    ----------
    tokens : Tensor, shape (..., dim)
        A view's features.
    one, other : Tensor, shape (batch, n)
        Pooled features of two views.

    Returns
    -------
    Losses
        - ``feature_std`` and ``effective_rank``: see `berger.objectives.collapse.spread`;
        - ``retrieval``: share of windows whose second view is the nearest of the batch to the
          first.
    """
    return {**spread(tokens), "retrieval": retrieval(one, other)}


def retrieval(one: Tensor, other: Tensor) -> Tensor:
    """Share of rows whose most similar row (by cosine) of the other table is their own."""
    one, other = (F.normalize(rows.float(), dim=-1) for rows in (one, other))
    nearest = (one @ other.T).argmax(1)
    return (nearest == torch.arange(len(one), device=one.device)).float().mean()
