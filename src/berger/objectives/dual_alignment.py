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
import torch.distributed.nn.functional as across_ranks
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, distributed, nn

from berger.configuration import Config
from berger.corpus import Batch
from berger.masking.views import Views, ViewsConfig, count_visible, draw_views
from berger.models.dare import DareEEG, patches_at
from berger.objectives.restoration import Losses, sum_of

EPS = 1e-5
"""Of the layer norms of targets, which have no parameters."""


class DualAlignmentConfig(Config):
    """What is learned from two views; the defaults are the paper's.

    Attributes
    ----------
    views : ViewsConfig
        How the two views are drawn.
    reconstruction, anchor, mask_alignment, activation : float
        Weights of the terms; 0 switches a term off.
    normalize_targets : bool
        Whether patches are restored after layer normalisation over their samples; otherwise in
        the model's units, with their amplitude.
    keep_seen : bool
        Whether the reconstructor gets the encoder's features at seen steps; otherwise it gets
        predicted ones at all steps.
    temperature : float
        Of the mask alignment.
    hidden_dim, projection_dim : int
        Widths of the projection head.
    momentum : tuple of float
        The target encoder keeps this share of itself at the first and at the last step, in between
        on a straight line.
    saves : {"target", "trained"}
        Which encoder goes into the checkpoint: the momentum copy, which the paper uses downstream,
        or the one that the optimiser trains.
    """

    name: Literal["dual-alignment"] = "dual-alignment"
    views: ViewsConfig = ViewsConfig()
    reconstruction: float = Field(1.0, ge=0)
    anchor: float = Field(1.0, ge=0)
    mask_alignment: float = Field(0.1, ge=0)
    activation: float = Field(1e-4, ge=0)
    normalize_targets: bool = True
    keep_seen: bool = True
    temperature: float = Field(0.1, gt=0)
    hidden_dim: int = Field(512, ge=1)
    projection_dim: int = Field(256, ge=1)
    momentum: tuple[float, float] = (0.996, 1.0)
    saves: Literal["target", "trained"] = "target"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not all(0 <= share <= 1 for share in self.momentum):
            raise ValueError("momentum must be two numbers from 0 to 1")
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
        self.target_encoder = copy.deepcopy(model.encoder).requires_grad_(False).eval()
        self.projection = nn.Sequential(
            nn.Linear(model.config.n_streams * model.config.embed_dim, config.hidden_dim),
            nn.ReLU(),
            nn.Linear(config.hidden_dim, config.projection_dim),
        )
        # an optimiser, and a process group that waits for every gradient, is told what is idle
        model.reconstructor.requires_grad_(config.reconstruction > 0)
        model.predictor.requires_grad_(config.reconstruction > 0 or config.anchor > 0)
        self.projection.requires_grad_(config.mask_alignment > 0)

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
        return self.losses(signal, batch.ch_names, views)

    def check(self, n_times: int, ch_names: tuple[str, ...]) -> None:
        """Raise BergerError if windows of this length and montage cannot be learned from."""
        self.model.prepare(torch.empty(1, len(ch_names), n_times), ch_names)
        count_visible(len(ch_names), self.config.views)

    def losses(self, signal: Tensor, ch_names: tuple[str, ...], views: Views) -> Losses:
        """Compare two views of a signal with each other and with the whole.

        Parameters
        ----------
        signal : Tensor, shape (batch, n_chans, n_times)
            Microvolts.
        ch_names : tuple of str
        views : Views

        Returns
        -------
        Losses
            The weighted terms that are on, ``reconstruction``, ``anchor``, ``mask_alignment`` and
            ``activation``, and their sum ``loss``. In evaluation mode also what tells whether
            the features are worth something, which no gradient follows:

            - ``feature_std``: standard deviation of view 1's features over windows and steps,
              averaged over dimensions; 0 if they have collapsed to a point;
            - ``effective_rank``: see `effective_rank`;
            - ``retrieval``: share of windows whose second view is the nearest of the batch to the
              first, by the features before the projection head;
            - ``anchor_unseen``, with anchor alignment, if a step is unseen: the anchor error there
              over the targets' variance; a constant would have 1.
        """
        config, patch_size = self.config, self.model.config.patch_size
        scaled, electrodes = self.model.prepare(signal, ch_names)
        n_steps = scaled.shape[-1] // patch_size
        terms: Losses = {}
        measures: Losses = {}
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
                measures["anchor_unseen"] = unexplained(predicted, anchors, views.steps)
        if config.mask_alignment or config.activation or not self.training:
            view2 = self.model.encoder(scaled, electrodes, views.visible2)
        if config.mask_alignment:
            terms["mask_alignment"] = config.mask_alignment * info_nce(
                self.projection(pooled(view1)), self.projection(pooled(view2)), config.temperature
            )
        if config.activation:
            terms["activation"] = config.activation * activation_penalty(view1, view2)
        if not self.training:
            rows = view1.detach().flatten(0, 2)
            measures["feature_std"] = rows.std(0, correction=0).mean()
            measures["effective_rank"] = effective_rank(rows)
            measures["retrieval"] = retrieval(pooled(view1), pooled(view2))
        return {"loss": sum_of(iter(terms.values())), **terms, **measures}

    @torch.no_grad()
    def after_step(self, step: int, total: int) -> None:
        """Let the target encoder follow the encoder, after optimiser step `step` of `total`."""
        first, last = self.config.momentum
        momentum = first + (last - first) * (step - 1) / max(total - 1, 1)
        for target, trained in zip(
            self.target_encoder.parameters(), self.model.encoder.parameters(), strict=True
        ):
            target.lerp_(trained, 1 - momentum)

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
        patches = F.layer_norm(patches, patches.shape[-1:], eps=EPS)
    return F.mse_loss(reconstruction, patches)


def anchor_loss(predicted: Tensor, anchors: Tensor) -> Tensor:
    """Mean squared error of predicted features (..., dim) and layer-normalised anchors."""
    return F.mse_loss(predicted, F.layer_norm(anchors, anchors.shape[-1:], eps=EPS))


def unexplained(predicted: Tensor, anchors: Tensor, seen: Tensor) -> Tensor:
    """Return the anchor loss at unseen steps over the variance of the anchors there.

    Parameters
    ----------
    predicted, anchors : Tensor, shape (batch, n_steps, n_streams, dim)
    seen : Tensor of int, shape (n_seen,)
        Steps that do not count.

    Returns
    -------
    Tensor
        Scalar; 1 for the best constant, i.e. the anchors' mean over windows and steps.
    """
    unseen = torch.ones(predicted.shape[1], dtype=torch.bool, device=seen.device)
    unseen[seen] = False
    predicted, anchors = predicted[:, unseen], anchors[:, unseen]
    normalized = F.layer_norm(anchors, anchors.shape[-1:], eps=EPS)
    variance = normalized.var((0, 1), correction=0).mean()
    return anchor_loss(predicted, anchors) / variance.clamp_min(EPS)


def activation_penalty(view1: Tensor, view2: Tensor) -> Tensor:
    """Half the sum of the mean squares of two views' features."""
    return (view1.square().mean() + view2.square().mean()) / 2


def pooled(features: Tensor) -> Tensor:
    """Average features (batch, n_steps, n_streams, dim) over steps: (batch, n_streams · dim)."""
    return features.mean(1).flatten(1)


def info_nce(one: Tensor, other: Tensor, temperature: float = 0.1) -> Tensor:
    """Tell which rows of two tables belong together, in both directions.

    Each row's negatives are the other table's other rows, on all ranks if there are several. The
    mean over ranks of rows is then the loss of the rows of all ranks.

    Parameters
    ----------
    one, other : Tensor, shape (batch, dim)
        Row i of both belongs together; of any length.
    temperature : float

    Returns
    -------
    Tensor
        Scalar; the mean of both directions' cross entropies.
    """
    # products of half precision are too coarse for a tenth as temperature
    with torch.autocast(one.device.type, enabled=False):
        one, other = (F.normalize(rows.float(), dim=-1) for rows in (one, other))
        all_one, first = gather(one)
        all_other, _ = gather(other)
        own = torch.arange(first, first + len(one), device=one.device)
        there = F.cross_entropy(one @ all_other.T / temperature, own)
        back = F.cross_entropy(other @ all_one.T / temperature, own)
    return (there + back) / 2


def gather(rows: Tensor) -> tuple[Tensor, int]:
    """Put the rows of all ranks behind each other; gradients find their way back.

    Parameters
    ----------
    rows : Tensor, shape (n, dim)
        Ranks may have different numbers.

    Returns
    -------
    rows : Tensor, shape (n of all ranks, dim)
        In one process the rows as they are.
    first : int
        Where this rank's begin.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return rows, 0
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    counts = [torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(world_size)]
    distributed.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    sizes = [int(count) for count in counts]
    padded = F.pad(rows, (0, 0, 0, max(sizes) - len(rows)))  # ranks exchange equal shapes only
    parts: list[Tensor] = across_ranks.all_gather(padded)  # type: ignore[no-untyped-call]
    everybody = torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
    return everybody, sum(sizes[:rank])


def effective_rank(rows: Tensor) -> Tensor:
    """Count the dimensions that a table of features spans, small ones in part.

    The exponential of the entropy of the eigenvalues of the rows' covariance, each taken as a
    share of their sum (after Roy & Vetterli, EUSIPCO 2007): d if d dimensions vary alike and
    without correlation, 1 if all rows lie on a line or a point.

    Parameters
    ----------
    rows : Tensor, shape (n, dim)
    """
    centred = (rows - rows.mean(0)).double()
    values = torch.linalg.eigvalsh(centred.T @ centred).clamp_min(0)
    shares = values / values.sum().clamp_min(torch.finfo(torch.double).tiny)
    rank: Tensor = torch.special.entr(shares).sum().exp()
    return rank


def retrieval(one: Tensor, other: Tensor) -> Tensor:
    """Share of rows whose most similar row (by cosine) of the other table is their own."""
    one, other = (F.normalize(rows.float(), dim=-1) for rows in (one, other))
    nearest = (one @ other.T).argmax(1)
    return (nearest == torch.arange(len(one), device=one.device)).float().mean()
