"""Restore the clean signal from its Gaussian-masked version: SpecMoE's objective.

arXiv 2603.16739; per restored signal MSE + 0.02 · spectral distance, both branches summed, plus
the same at low rate for two auxiliary heads. The published trainer compares with the masked input
instead of the clean signal; that is a fault of the program, not the method.

Any model that can draw signals learns by it; one without auxiliary heads without their terms.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from berger.configuration import Config
from berger.corpus import Batch
from berger.masking.gaussian import GaussianMaskConfig, draw_gain, mask_signal
from berger.models import DareEEG, Reconstruction
from berger.models.encoders import Restorer
from berger.objectives.collapse import spread
from berger.spectral import downsample, stft

AUXILIARY_STEPS = (15, 60)
"""Samples of one step of the auxiliary heads at up2 and up1."""

Losses = dict[str, Tensor]
"""What an objective returns: scalars by name; ``loss`` is the one that is minimised."""


class RestorationConfig(Config):
    """What is restored and what counts as wrong; the defaults are the paper's.

    Attributes
    ----------
    mask : GaussianMaskConfig
        How the input is masked.
    pre_emphasis : float
        The squared error is taken of x[t] − pre_emphasis · x[t − 1]. EEG's power falls with
        frequency, so that without it (0, the paper) slow waves are nearly all that is learned.
    spectral_weight : float
        Weight of the distance between STFT magnitudes, beside the mean squared error.
    auxiliary_weights : tuple of float
        Weights of the low-rate restorations from up2 and up1 of a SpecHi-Net; zeros for models
        that have none.
    n_fft, hop : int
        STFT of the spectral distance in samples; at low rate the window keeps its seconds.
    n_chans : int, optional
        Train every batch on this many electrodes, drawn at random; None takes all (the paper).
    """

    name: Literal["restoration"] = "restoration"
    mask: GaussianMaskConfig = GaussianMaskConfig()
    pre_emphasis: float = Field(0.0, ge=0, le=1)
    spectral_weight: float = Field(0.02, ge=0)
    auxiliary_weights: tuple[float, float] = (0.3, 0.2)
    n_fft: int = Field(512, ge=4)
    hop: int = Field(256, ge=1)
    n_chans: int | None = Field(None, ge=1)


class Restoration(nn.Module):
    """Mask a batch, let the model restore it, compare with the clean signal.

    Parameters
    ----------
    model : SpecHiNet, SpecHiNetPublished or DareEEG
    config : RestorationConfig
        For the published layout, whose auxiliary heads answer otherwise, and for DARE-EEG, which
        has none, without their weights.
    """

    def __init__(self, model: Restorer, config: RestorationConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config
        if not isinstance(model, DareEEG):
            # an optimiser, and a process group that waits for every gradient, is told what is idle
            heads = (model.auxiliary_up2, model.auxiliary_up1)
            for weight, head in zip(config.auxiliary_weights, heads, strict=True):
                head.requires_grad_(weight > 0)

    def forward(self, batch: Batch, generator: torch.Generator) -> Losses:
        """Return the losses of a batch.

        Parameters
        ----------
        batch : Batch
            Clean windows.
        generator : torch.Generator
            Source of the masks and of the choice of electrodes; on the CPU.

        Returns
        -------
        Losses
            As `restoration_losses` has them; in evaluation mode also the `spread` of the features.
        """
        clean, ch_names = self.choose(batch, generator)
        masked, _ = self.mask(clean, generator, batch)
        restored = self.restore(masked, batch.starts, ch_names)
        losses = restoration_losses(restored, clean, self.model.config.scale, self.config)
        return losses if self.training else losses | spread(restored.features.tokens)

    def check(self, n_times: int, ch_names: tuple[str, ...]) -> None:
        """Raise BergerError if windows of this length and montage cannot be learned from."""
        if isinstance(self.model, DareEEG):  # the others read any
            self.model.prepare(torch.empty(1, len(ch_names), n_times), ch_names)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def pretrained(self) -> Restorer:
        """Return the model as it goes into the checkpoint, in evaluation mode."""
        return self.model.eval()

    def choose(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, tuple[str, ...]]:
        """Return the clean signal of the electrodes that are to be restored, and their names."""
        clean, ch_names = batch.signal(self.device), batch.ch_names
        wanted = self.config.n_chans
        if wanted is not None and wanted < len(ch_names):
            chosen = torch.randperm(len(ch_names), generator=generator)[:wanted]
            clean = clean[:, chosen.to(clean.device)]
            ch_names = tuple(ch_names[place] for place in chosen.tolist())
        return clean, ch_names

    def restore(self, masked: Tensor, starts: Tensor, ch_names: tuple[str, ...]) -> Reconstruction:
        """Let the model restore windows (batch, n_chans, n_times) that begin at sample `starts`."""
        times = window_times(starts.to(masked.device), masked.shape[-1])
        return self.model.reconstruct(masked, times, ch_names)

    def mask(
        self, signal: Tensor, generator: torch.Generator, batch: Batch | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the masked signal (batch, n_chans, n_times) and the gain that masked it.

        The masks of a batch that several processes share, each with the same generator, are those
        of one process.
        """
        n_samples, _, n_times = signal.shape
        sfreq = self.model.config.sfreq
        mask = self.config.mask
        which = slice(None)
        if batch is not None and batch.shared is not None:
            n_samples, which = batch.shared.n_windows, batch.shared.own
        gain = draw_gain(n_samples, n_times, sfreq, mask, generator, signal.device, which)
        return mask_signal(signal, gain, mask), gain


def window_times(starts: Tensor, n_times: int) -> Tensor:
    """Times for the rotary encoding: 1 + 10·i to 10 + 10·i over a recording's i-th window.

    Parameters
    ----------
    starts : Tensor, shape (batch,)
        First sample of each window.
    n_times : int
        Length of a window in samples.

    Returns
    -------
    Tensor, float32, shape (batch, n_times)
    """
    within = torch.linspace(1, 10, n_times, device=starts.device)
    return 10 * (starts / n_times).float()[:, None] + within


def restoration_losses(
    restored: Reconstruction, clean: Tensor, scale: float, config: RestorationConfig
) -> Losses:
    """Compare a restoration with the clean signal.

    Parameters
    ----------
    restored : Reconstruction
        Microvolts.
    clean : Tensor, shape (batch, n_chans, n_times)
        Microvolts.
    scale : float
        Microvolts per unit in which the errors are counted.

    Returns
    -------
    Losses
        ``mse`` and ``spectral`` (weighted) summed over the branches, ``auxiliary`` (weighted),
        and their sum ``loss``.
    """
    clean = clean / scale
    branches = [branch / scale for branch in restored.branches.values()]
    mse = sum_of(squared_error(branch, clean, config.pre_emphasis) for branch in branches)
    spectral = config.spectral_weight * sum_of(
        spectral_distance(branch, clean, config.n_fft, config.hop) for branch in branches
    )
    auxiliary = clean.new_zeros(())
    if any(config.auxiliary_weights):
        for weight, head, factor in zip(
            config.auxiliary_weights, restored.auxiliary, AUXILIARY_STEPS, strict=True
        ):
            if weight:
                auxiliary = auxiliary + weight * auxiliary_loss(head / scale, clean, factor, config)
    loss = mse + spectral + auxiliary
    return {"loss": loss, "mse": mse, "spectral": spectral, "auxiliary": auxiliary}


def squared_error(signal: Tensor, target: Tensor, pre_emphasis: float = 0.0) -> Tensor:
    """Mean squared difference of two signals (..., n_times), fast waves emphasised."""
    error = signal - target
    error = torch.cat((error[..., :1], error[..., 1:] - pre_emphasis * error[..., :-1]), dim=-1)
    return error.square().mean()


def spectral_distance(signal: Tensor, target: Tensor, n_fft: int, hop: int) -> Tensor:
    """Mean squared difference of the STFT magnitudes of two signals (..., n_times).

    The ends are mirrored; a window longer than mirroring allows is shortened to what fits.
    """
    longest = 2 * (signal.shape[-1] - 1)
    n_fft, hop = max(min(n_fft, longest), 2), max(min(hop, longest // 2), 1)
    found, wanted = (_magnitude(stft(x, n_fft, hop, "reflect")) for x in (signal, target))
    return F.mse_loss(found, wanted)


def _magnitude(frames: Tensor) -> Tensor:
    # the gradient of |z| at 0 is not a number under some kernels; the tiny floor makes it 0
    return (frames.real**2 + frames.imag**2).clamp_min(1e-20).sqrt()


def auxiliary_loss(head: Tensor, clean: Tensor, factor: int, config: RestorationConfig) -> Tensor:
    """Compare low-rate restorations with the low-passed clean signal.

    Parameters
    ----------
    head : Tensor, shape (batch, n_chans, 2, steps)
        By the fine and the coarse half, one value for every `factor` samples; steps behind the
        signal's end do not count.
    clean : Tensor, shape (batch, n_chans, n_times)
        In the same unit.
    factor : int
        Samples of one step.
    """
    steps = -(-clean.shape[-1] // factor)
    padded = F.pad(clean, (0, steps * factor - clean.shape[-1]))
    head = head[..., :steps]
    target = downsample(padded, factor)[:, :, None].expand_as(head)
    n_fft, hop = config.n_fft // factor, config.hop // factor
    distance = spectral_distance(head, target, n_fft, hop)
    return squared_error(head, target) + config.spectral_weight * distance


def sum_of(terms: Iterator[Tensor]) -> Tensor:
    """Sum tensors without starting from Python's integer 0."""
    return torch.stack(list(terms)).sum()
