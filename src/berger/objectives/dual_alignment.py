"""Restore what is hidden and align twice: DARE-EEG's objective (arXiv 2605.18298).

    signal ─┬─ view 1 ─► encoder ─┬─► predictor ─► predicted ──────────── anchor alignment ─┐
            │                     │       └─► combined ─► reconstructor ─ reconstruction    │
            ├─ view 2 ─► encoder ─┴─► projection head ─── mask alignment                    │
            └─ all ────► target encoder (momentum copy, no gradient) ───────────────────────┘

- *reconstruction*: the hidden patches from view 1;
- *anchor alignment*: features of every step, predicted from view 1, against those that the target
  encoder has of the complete signal;
- *mask alignment*: the two views of a window are told from the other windows of the batch;
- *activation*: a small price on the size of the features.

Each has a weight; what no weight needs is not computed, and not trained.
"""

from __future__ import annotations

import copy
from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from berger.corpus import Batch
from berger.masking.views import Views, ViewsConfig, count_visible, draw_views
from berger.models.dare import DareEEG, patches_at
from berger.objectives.alignment import (
    AlignmentConfig,
    anchor_loss,
    follow,
    info_nce,
    measures,
    momentum_copy,
    normalized,
    projection_head,
    unexplained,
)
from berger.objectives.restoration import Losses, sum_of


class DualAlignmentConfig(AlignmentConfig):
    """What is learned from two views; the defaults are the paper's.

    Attributes
    ----------
    views : ViewsConfig
        How the two views are drawn.
    reconstruction, activation : float
        Weights of the terms that `AlignmentConfig` does not have; 0 switches a term off.
    normalize_targets : bool
        Whether patches are restored after layer normalisation over their samples; otherwise in
        the model's units, with their amplitude.
    keep_seen : bool
        Whether the reconstructor gets the encoder's features at seen steps; otherwise it gets
        predicted ones at all steps.
    saves : {"target", "trained"}
        Which encoder goes into the checkpoint: the momentum copy, which the paper uses downstream,
        or the one that the optimiser trains.
    """

    name: Literal["dual-alignment"] = "dual-alignment"
    views: ViewsConfig = ViewsConfig()
    reconstruction: float = Field(1.0, ge=0)
    activation: float = Field(1e-4, ge=0)
    normalize_targets: bool = True
    keep_seen: bool = True
    saves: Literal["target", "trained"] = "target"

    @model_validator(mode="after")
    def _something_is_learned(self) -> Self:
        if not (self.reconstruction or self.anchor or self.mask_alignment):
            raise ValueError("reconstruction, anchor and mask_alignment cannot all be 0")
        return self


class DualAlignment(nn.Module):
    """Own the model, its momentum copy and the projection head, and compare views.

    Parameters
    ----------
    model : DareEEG
        With predictor and reconstructor.
        Its encoder, predictor and reconstructor are trained, as far as the weights need them.
    config : DualAlignmentConfig

    Attributes
    ----------
    target_encoder : nn.Module
        The momentum copy: always in evaluation mode, never given to an optimiser.
    projection : nn.Sequential
        Head of the mask alignment.
    """

    def __init__(self, model: DareEEG, config: DualAlignmentConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.target_encoder = momentum_copy(model.encoder)
        width = model.config.n_streams * model.config.embed_dim
        self.projection = projection_head(width, config)
        # as the projection head, what no weight needs is idle
        model.reconstructor.requires_grad_(config.reconstruction > 0)
        model.predictor.requires_grad_(config.reconstruction > 0 or config.anchor > 0)

    def train(self, mode: bool = True) -> Self:
        """Switch all parts but the target encoder."""
        super().train(mode)
        self.target_encoder.eval()
        return self

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def forward(self, batch: Batch, generator: torch.Generator) -> Losses:
        """Return the losses of a batch.

        Parameters
        ----------
        batch : Batch
            Clean windows.
        generator : torch.Generator
            Source of the masks; on the CPU.

        Returns
        -------
        Losses
            See `losses`.
        """
        signal = batch.signal(self.device)
        _, n_chans, n_times = signal.shape
        n_steps = n_times // self.model.config.patch_size
        views = draw_views(n_steps, n_chans, self.config.views, generator, signal.device)
        return self.losses(signal, batch.ch_names, views, shared=batch.shared is not None)

    def check(self, n_times: int, ch_names: tuple[str, ...]) -> None:
        """Raise BergerError if windows of this length and montage cannot be learned from."""
        self.model.prepare(torch.empty(1, len(ch_names), n_times), ch_names)
        count_visible(len(ch_names), self.config.views)

    def losses(
        self, signal: Tensor, ch_names: tuple[str, ...], views: Views, *, shared: bool = False
    ) -> Losses:
        """Compare two views of a signal with each other and with the whole.

        Parameters
        ----------
        signal : Tensor, shape (batch, n_chans, n_times)
            Microvolts.
        ch_names : tuple of str
        views : Views
        shared : bool
            Whether other processes have other windows of the same batch.

        Returns
        -------
        Losses
            The weighted terms that are on, ``reconstruction``, ``anchor``, ``mask_alignment`` and
            ``activation``, and their sum ``loss``. In evaluation mode also what tells whether
            the features are worth something: those of `measures`, of view 1 and before the
            projection head, and with anchor alignment, if a step is unseen, ``anchor_unseen``, the
            anchor error there over the targets' variance.
        """
        config, patch_size = self.config, self.model.config.patch_size
        scaled, electrodes = self.model.prepare(signal, ch_names)
        n_steps = scaled.shape[-1] // patch_size
        terms: Losses = {}
        found: Losses = {}
        view1 = self.model.encoder(scaled, electrodes, views.visible1)
        if config.reconstruction or config.anchor:
            predicted, combined = self.model.predictor(view1, views.steps, n_steps)
        if config.reconstruction:
            known = combined if config.keep_seen else predicted
            reconstruction = self.model.reconstructor(known, views.targets, electrodes)
            patches = patches_at(scaled, views.targets, patch_size)
            terms["reconstruction"] = config.reconstruction * reconstruction_loss(
                reconstruction, patches, config.normalize_targets
            )
        if config.anchor:
            with torch.no_grad():
                anchors = self.target_encoder(scaled, electrodes)
            terms["anchor"] = config.anchor * anchor_loss(predicted, anchors)
            if not self.training and len(views.steps) < n_steps:
                unseen = sorted(set(range(n_steps)) - set(views.steps.tolist()))
                found["anchor_unseen"] = unexplained(predicted[:, unseen], anchors[:, unseen])
        if config.mask_alignment or config.activation or not self.training:
            view2 = self.model.encoder(scaled, electrodes, views.visible2)
        if config.mask_alignment:
            terms["mask_alignment"] = config.mask_alignment * info_nce(
                self.projection(pooled(view1)),
                self.projection(pooled(view2)),
                config.temperature,
                shared=shared,
            )
        if config.activation:
            terms["activation"] = config.activation * activation_penalty(view1, view2)
        if not self.training:
            found |= measures(view1, pooled(view1), pooled(view2))
        return {"loss": sum_of(iter(terms.values())), **terms, **found}

    def after_step(self, step: int, total: int) -> None:
        """Let the target encoder follow the encoder, after optimiser step `step` of `total`."""
        follow(self.target_encoder, self.model.encoder, self.config.momentum, step, total)

    def pretrained(self) -> DareEEG:
        """Return the model as it goes into the checkpoint, in evaluation mode.

        A copy, whose ``encoder`` is the one that `DualAlignmentConfig.saves` names.
        """
        model = copy.deepcopy(self.model)
        if self.config.saves == "target":
            model.encoder.load_state_dict(self.target_encoder.state_dict())
        return model.requires_grad_(True).eval()


def reconstruction_loss(reconstruction: Tensor, patches: Tensor, normalize: bool = True) -> Tensor:
    """Mean squared error of patches (batch, n_targets, patch_size).

    With `normalize` the clean patches, not the reconstructed ones, are layer-normalised.
    """
    if normalize:
        patches = normalized(patches)
    return F.mse_loss(reconstruction, patches)


def activation_penalty(view1: Tensor, view2: Tensor) -> Tensor:
    """Half the sum of the mean squares of two views' features."""
    return (view1.square().mean() + view2.square().mean()) / 2


def pooled(features: Tensor) -> Tensor:
    """Average features (batch, n_steps, n_streams, dim) over steps: (batch, n_streams · dim)."""
    return features.mean(1).flatten(1)
