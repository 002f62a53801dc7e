"""Which patches are seen: two overlapping views of a batch, DARE-EEG's masks (arXiv 2605.18298).

A patch is a piece of one electrode's signal within one time step; patch step · n_chans + channel
is that of a channel in a step. A time step is hidden wholly, or a few of its electrodes are seen.

    step          0    1    2    3    4    5
    view 1        C3        Pz        O1        every step seen shows equally many electrodes
                  Fz        Oz        C3
    view 2        C3        Fz        T7        of which it shares some with view 1
                  T8        Oz        C3
    targets            all       all       all  and some of what view 1 hides in steps 0, 2, 4

All windows of a batch are masked alike.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from berger.configuration import Config
from berger.errors import BergerError

FEW_CHANNELS = 24
"""Montages of fewer channels show at most half of them in a step."""
MAX_SHARED = 0.95
"""Largest share of channels that the views are meant to have in common."""
MAX_DRAWS = 1000
"""Masks are drawn again until there is something to see and something to restore."""


class ViewsConfig(Config):
    """How the two views are drawn; the defaults are the paper's.

    Attributes
    ----------
    step_mask : float
        Probability that a time step is hidden wholly.
    visible : int
        Channels seen in each other step; montages of fewer than 24 show at most ⌊n_chans / 2⌋.
    target_share : float
        Probability of each unseen patch of a seen step to be a target, as all patches of hidden
        steps are.
    overlap : tuple of float
        Range from which the wanted intersection over union ρ of the two views is drawn, once for a
        batch.
    jitter : float
        The share of channels that the views have in common, 2ρ / (1 + ρ), is moved by up to this.
    same_steps : bool
        Whether both views see the same time steps (the paper). Otherwise each has steps of its
        own, so that views cannot be told to belong together by their steps; `overlap` then holds
        for the steps that both see.
    """

    kind: Literal["views"] = "views"
    step_mask: float = Field(0.5, ge=0, lt=1)
    visible: int = Field(12, ge=1)
    target_share: float = Field(0.2, gt=0, le=1)
    overlap: tuple[float, float] = (0.2, 0.8)
    jitter: float = Field(0.05, ge=0, le=1)
    same_steps: bool = True

    @model_validator(mode="after")
    def _overlap_is_a_range(self) -> Self:
        if not 0 <= self.overlap[0] <= self.overlap[1] <= 1:
            raise ValueError("overlap must be two numbers from 0 to 1, the lower one first")
        return self


class Views(NamedTuple):
    """What is seen of a batch, and what is to be restored.

    Attributes
    ----------
    steps : Tensor of int, shape (n_seen,)
        Time steps that the first view sees, sorted; the second too, with `same_steps`.
    visible1, visible2 : Tensor of int, shape (n_seen, n_visible)
        Patches that each view sees, one row for each of its steps, in the order of time. Without
        `same_steps` the second may have another number of rows.
    targets : Tensor of int, shape (n_targets,)
        Patches to be restored from the first view, sorted; it sees none of them.
    overlap : float
        Patches seen by both views / patches seen by at least one.
    """

    steps: Tensor
    visible1: Tensor
    visible2: Tensor
    targets: Tensor
    overlap: float


def draw_views(
    n_steps: int,
    n_chans: int,
    config: ViewsConfig,
    generator: torch.Generator,
    device: torch.device | None = None,
) -> Views:
    """Draw the masks of one batch.

    Parameters
    ----------
    n_steps, n_chans : int
        Size of the grid of patches.
    config : ViewsConfig
    generator : torch.Generator
        On the CPU, so that every device gets the same masks.
    device : torch.device, optional
        Where the masks are wanted; default: the CPU.

    Raises
    ------
    BergerError
        If there is no channel to hide, or no draw leaves both something to see and something to
        restore in a step that is seen.
    """
    n_visible = count_visible(n_chans, config)
    n_shared = _draw_shared(n_visible, n_chans, config, generator)
    for _ in range(MAX_DRAWS):
        seen = torch.rand(2, n_steps, generator=generator) >= config.step_mask
        if config.same_steps:
            seen[1] = seen[0]
        order = torch.rand(n_steps, n_chans, generator=generator).argsort(1)
        drawn = torch.rand(n_steps, n_chans, generator=generator) < config.target_share
        # the second view: some of the first one's channels, the rest from behind them
        second = torch.cat((order[:, :n_shared], order[:, n_visible : 2 * n_visible - n_shared]), 1)
        in_view1 = _grid(order[:, :n_visible], seen[0], n_chans)
        in_view2 = _grid(second, seen[1], n_chans)
        unseen = seen[0, :, None] & ~in_view1
        if seen.any(1).all() and (unseen & drawn).any():
            break
    else:
        raise BergerError(
            f"masks of {n_steps} time steps × {n_chans} channels with step_mask = "
            f"{config.step_mask:g} and target_share = {config.target_share:g} left nothing to see "
            f"or nothing to restore in {MAX_DRAWS} draws; lower step_mask, raise target_share, or "
            "use longer windows."
        )
    targets = ~seen[0, :, None] | (unseen & drawn)
    steps1, steps2 = (one.nonzero().squeeze(1) for one in seen)
    return Views(
        steps=steps1.to(device),
        visible1=(steps1[:, None] * n_chans + order[steps1, :n_visible]).to(device),
        visible2=(steps2[:, None] * n_chans + second[steps2]).to(device),
        targets=targets.flatten().nonzero().squeeze(1).to(device),
        overlap=((in_view1 & in_view2).sum() / (in_view1 | in_view2).sum()).item(),
    )


def count_visible(n_chans: int, config: ViewsConfig) -> int:
    """Return how many channels of a montage are seen in a step.

    Raises
    ------
    BergerError
        If that is all of them.
    """
    if n_chans < 2:
        raise BergerError(
            "a recording of a single channel has none that could be hidden and restored from the "
            "others; use recordings of two channels at least."
        )
    n_visible = config.visible
    if n_chans < FEW_CHANNELS:
        n_visible = min(n_visible, n_chans // 2)
    if n_visible >= n_chans:
        raise BergerError(
            f"visible = {n_visible} hides nothing of {n_chans} channels; lower it to "
            f"{n_chans // 2} or less."
        )
    return n_visible


def _draw_shared(
    n_visible: int, n_chans: int, config: ViewsConfig, generator: torch.Generator
) -> int:
    """Draw how many of a step's channels both views see."""
    low, high = config.overlap
    pick_overlap, pick_jitter = (pick.item() for pick in torch.rand(2, generator=generator))
    overlap = low + (high - low) * pick_overlap
    shared: float = 2 * overlap / (1 + overlap) + config.jitter * (2 * pick_jitter - 1)
    n_shared = round(min(max(shared, 0.0), MAX_SHARED) * n_visible)
    if n_visible > 1:  # else views of few channels would be the same
        n_shared = min(n_shared, n_visible - 1)
    return max(n_shared, 2 * n_visible - n_chans)  # there are no more channels to be different in


def _grid(channels: Tensor, steps: Tensor, n_chans: int) -> Tensor:
    """Mark `channels` (n_steps, k) of the steps where `steps` is true in (n_steps, n_chans)."""
    grid = torch.zeros(len(steps), n_chans, dtype=torch.bool)
    return grid.scatter(1, channels, steps[:, None].expand_as(channels))
