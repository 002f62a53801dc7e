"""Optimiser and learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

from pydantic import Field, model_validator
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from berger.configuration import Config


class OptimizerConfig(Config):
    """AdamW with a warm-up and a cosine to `final_lr`, counted in optimiser steps.

    Attributes
    ----------
    lr, final_lr : float
        Highest learning rate, and the one that it has come down to after the last step.
    warmup : float
        Share of the steps in which the learning rate rises.
    start_lr : float, optional
        Learning rate of the first step, from which it rises along half a cosine (a one-cycle
        schedule); None: it rises linearly from nearly 0.
    weight_decay : float
        Not applied to biases and other 1-D parameters.
    betas : tuple of float
    clip_norm : float, optional
        Largest norm of the gradient, over all parameters together.
    """

    lr: float = Field(1e-3, gt=0)
    final_lr: float = Field(1e-6, ge=0)
    warmup: float = Field(0.0, ge=0, lt=1)
    start_lr: float | None = Field(None, ge=0)
    weight_decay: float = Field(0.05, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float | None = Field(5.0, gt=0)

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.start_lr is not None and (self.start_lr > self.lr or not self.warmup):
            raise ValueError("start_lr must not exceed lr, and needs a warmup in which to rise")
        return self


def build_optimizer(module: nn.Module, config: OptimizerConfig) -> AdamW:
    """Return AdamW over the parameters of `module` that are trained."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return AdamW(decay_groups(trained, config.weight_decay), config.lr, betas=config.betas)


def decay_groups(parameters: Sequence[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Return parameters as groups of an optimiser; biases and other 1-D ones are not decayed."""
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build_schedule(optimizer: Optimizer, config: OptimizerConfig, steps: int) -> LambdaLR:
    """Return the schedule of a run of `steps` optimiser steps."""
    return LambdaLR(optimizer, lambda step: _share_of_lr(step, steps, config))


def _share_of_lr(step: int, steps: int, config: OptimizerConfig) -> float:
    warmup = round(config.warmup * steps)
    if step < warmup:
        if config.start_lr is None:
            return (step + 1) / (warmup + 1)
        return _half_cosine(config.start_lr / config.lr, 1.0, step / warmup)
    return _half_cosine(
        1.0, config.final_lr / config.lr, min((step - warmup) / max(steps - warmup, 1), 1.0)
    )


def _half_cosine(first: float, last: float, progress: float) -> float:
    """Go from `first` to `last` while `progress` goes from 0 to 1, slowly at both ends."""
    return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2
