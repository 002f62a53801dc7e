"""Restore what is hidden and align features as well: SpecMoE's pretext task, DARE-EEG's alignments.

    clean ─┬─ mask 1 ─► encoder ─┬─► decoder ─────────────────────── restoration
           │                     ├─► predictor, one linear layer ─── anchor alignment ─┐
           │                     └─► projection head ─────────────── mask alignment    │
           ├─ mask 2 ─► encoder ───► projection head ────────────────┘                 │
           └──────────► target encoder (momentum copy, no gradient) ───────────────────┘

Views differ in their Gaussian masks, not in their electrodes. docs/decisions/0021-composing.md.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field
from torch import nn

from berger.corpus import Batch
from berger.models.encoders import Restorer, encoding_half
from berger.objectives.alignment import (
    AlignmentConfig,
    anchor_loss,
    follow,
    info_nce,
    measures,
    momentum_copy,
    projection_head,
    unexplained,
)
from berger.objectives.restoration import (
    Losses,
    Restoration,
    RestorationConfig,
    restoration_losses,
    window_times,
)


class AlignedRestorationConfig(RestorationConfig, AlignmentConfig):
    """Restoration with alignment beside it; fields as in both.

    The weights are such that each alignment begins with a loss of about the restoration's size:
    squared errors are counted in the model's unit, a SpecHi-Net's in (100 µV)².
    """

    name: Literal["aligned-restoration"] = "aligned-restoration"  # type: ignore[assignment]
    anchor: float = Field(0.02, ge=0)
    mask_alignment: float = Field(0.002, ge=0)


class AlignedRestoration(Restoration):
    """Restore a batch, and align what the encoder makes of it.

    Parameters
    ----------
    model : SpecHiNet, SpecHiNetPublished or DareEEG
    config : AlignedRestorationConfig

    Attributes
    ----------
    target_encoder : Encoder
        Momentum copy of the encoding half: always in evaluation mode, never given to an optimiser.
    predictor : nn.Linear
        Tells the target encoder's tokens from those of the masked signal.
    projection : nn.Sequential
        Head of the mask alignment.
    """

    config: AlignedRestorationConfig

    def __init__(self, model: Restorer, config: AlignedRestorationConfig) -> None:
        super().__init__(model, config)
        self.target_encoder = momentum_copy(encoding_half(model))
        self.predictor = nn.Linear(model.embed_dim, model.embed_dim)
        self.predictor.requires_grad_(config.anchor > 0)
        self.projection = projection_head(model.embed_dim, config)

    def train(self, mode: bool = True) -> Self:
        """Switch all parts but the target encoder."""
        super().train(mode)
        self.target_encoder.eval()
        return self

    def forward(self, batch: Batch, generator: torch.Generator) -> Losses:
        """Return the losses of a batch.

        Parameters
        ----------
        batch : Batch
            Clean windows.
        generator : torch.Generator
            Source of both masks and of the choice of electrodes; on the CPU.

        Returns
        -------
        Losses
            Those of the restoration; the weighted alignments that are on, ``anchor`` and
            ``mask_alignment``; and the sum ``loss``. In evaluation mode also the `measures` of the
            tokens and, with anchor alignment, ``anchor_unexplained``: its error over the variance
            of the targets.
        """
        config = self.config
        clean, ch_names = self.choose(batch, generator)
        masked, _ = self.mask(clean, generator, batch)
        restored = self.restore(masked, batch.starts, ch_names)
        losses = restoration_losses(restored, clean, self.model.config.scale, config)
        times = window_times(batch.starts.to(clean.device), clean.shape[-1])
        view1 = restored.features
        if config.anchor:
            with torch.no_grad():
                anchors = self.target_encoder.forward_features(clean, ch_names, times).tokens
            predicted = self.predictor(view1.tokens)
            losses["anchor"] = config.anchor * anchor_loss(predicted, anchors)
            losses["loss"] = losses["loss"] + losses["anchor"]
            if not self.training:
                losses["anchor_unexplained"] = unexplained(predicted, anchors)
        if config.mask_alignment or not self.training:
            masked, _ = self.mask(clean, generator, batch)
            view2 = self.model.forward_features(masked, ch_names, times)
        if config.mask_alignment:
            losses["mask_alignment"] = config.mask_alignment * info_nce(
                self.projection(view1.summary),
                self.projection(view2.summary),
                config.temperature,
                shared=batch.shared is not None,
            )
            losses["loss"] = losses["loss"] + losses["mask_alignment"]
        if not self.training:
            losses |= measures(view1.tokens, view1.summary, view2.summary)
        return losses

    def after_step(self, step: int, total: int) -> None:
        """Let the target encoder follow the encoder, after optimiser step `step` of `total`."""
        if self.config.anchor:
            follow(self.target_encoder, self.model, self.config.momentum, step, total)
