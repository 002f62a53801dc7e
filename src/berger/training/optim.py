"""Optimiser and learning-rate schedule."""

from __future__ import annotations

import math

from pydantic import Field
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from berger.configuration import Config


class OptimizerConfig(Config):
    """AdamW with linear warm-up and a cosine to `final_lr`, counted in optimiser steps.

    Attributes
    ----------
    lr, final_lr : float
        Highest learning rate, and the one that it has come down to after the last step.
    warmup : float
        Share of the steps in which the learning rate rises.
    weight_decay : float
        Not applied to biases and other 1-D parameters.
    betas : tuple of float
    clip_norm : float, optional
        Largest norm of the gradient, over all parameters together.
    """

    lr: float = Field(1e-3, gt=0)
    final_lr: float = Field(1e-6, ge=0)
    warmup: float = Field(0.0, ge=0, lt=1)
    weight_decay: float = Field(0.05, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float | None = Field(5.0, gt=0)


def build_optimizer(module: nn.Module, config: OptimizerConfig) -> AdamW:
    """Return AdamW over the parameters of `module` that are trained."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return AdamW([group for group in groups if group["params"]], config.lr, betas=config.betas)


def build_schedule(optimizer: Optimizer, config: OptimizerConfig, steps: int) -> LambdaLR:
    """Return the schedule of a run of `steps` optimiser steps."""
    return LambdaLR(optimizer, lambda step: _share_of_lr(step, steps, config))


def _share_of_lr(step: int, steps: int, config: OptimizerConfig) -> float:
    warmup = round(config.warmup * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    floor = config.final_lr / config.lr
    progress = min((step - warmup) / max(steps - warmup, 1), 1.0)
    return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2
