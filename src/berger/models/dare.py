"""DARE-EEG (arXiv 2605.18298): electrodes are read in space, time steps are predicted in time.

A window is cut into patches of 64 samples of one electrode. The encoder sums up each time step on
its own from whichever patches are visible; the predictor tells what it would have said of the steps
it did not see; the reconstructor draws hidden patches from both. Only the encoder is used
downstream.

    signal (batch, C, T), T a multiple of 64         N = T / 64 steps, S of them seen
      │ visible patches are picked, then embedded     (batch, S, V, D)
      ├─ encoder        over a step's patches and K summary tokens, step by step
      │                 the summary tokens are kept   (batch, S, K, D) = the features
      ├─ predictor      over all steps, rotary; mask tokens where a step was not seen
      │                 predicted                     (batch, N, K, D)
      │                 combined: features at seen steps, predicted ones at the others
      └─ reconstructor  over `combined` and one query for each hidden patch, rotary
                                                      (batch, hidden patches, 64)

Every electrode has a learned embedding, found by its name, so that any montage of the 62 in any
order can be read. A patch is addressed by one number, step · C + channel.

Differences from the published program: patches are embedded by a linear layer, which is what its
convolution without overlap amounts to, and hidden patches are left out before they are embedded.
docs/decisions/0017-dare.md.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Literal, Self, cast

import torch
from einops import rearrange
from pydantic import Field, model_validator
from torch import Tensor, nn

from berger.configuration import Config
from berger.errors import BergerError
from berger.models.contract import Encoder, Features, InputContract, Reconstruction
from berger.models.dare_electrodes import ELECTRODES, find_places, named_places
from berger.models.layers import MapGain, PreNormAttentionLayer

_NAMES = (
    (r"patch_embed\.proj\.", "embed."),
    (r"chan_embed\.", "electrodes."),
    (r"summary_token$", "summary_tokens"),
    (r"\.(predictor|reconstructor)_(embed|norm)\.", r".\2."),
    (r"\.(predictor|reconstructor)_proj\.", ".out."),
    (r"\.((predictor|reconstructor)_)?blocks\.", ".layers."),
    (r"norm1\.", "norm_attention."),
    (r"attn\.qkv\.", "qkv."),
    (r"attn\.proj\.", "out."),
    (r"norm2\.", "norm_feedforward."),
    (r"mlp\.fc1\.", "feedforward.0."),
    (r"mlp\.fc2\.", "feedforward.2."),
)
"""How the published program names its parameters, and how they are named here."""


class DareConfig(Config):
    """Size and variants of a DARE-EEG; the defaults are the paper's nano.

    Attributes
    ----------
    sfreq : float
        Sampling rate in Hz.
    scale : float
        Microvolts per unit inside the network.
    patch_size : int
        Samples of a patch.
    embed_dim : int
        Width of the tokens.
    n_streams : int
        Summary tokens of a time step.
    encoder_depth, predictor_depth, reconstructor_depth : int
        Attention layers.
    n_heads : int
        Attention heads; a head's width must be a multiple of 4.
    parts : {"all", "encoder"}
        "encoder" leaves out what only pretraining needs.
    restores : {"signal", "correction", "map"}
        What `reconstruct` takes the reconstructor's patches for: the whole signal; what has to be
        added to the masked input; or that, after the input's STFT map was multiplied by a gain
        that a linear layer reads from the predictor's features, the same for all electrodes. The
        latter two start from the input.
    spectrum : bool
        Whether a patch's token also gets its log power spectrum, through a linear layer of its own.
        The paper's gets the samples only, of which fast waves are a small part: with fresh weights
        its features say next to nothing of them (docs/log.md).
    electrodes : tuple of str, optional
        Names of the channels that have an embedding, where they are not those of the 10-20 system,
        e.g. a mouse's; default: the 62 of the paper.
    unknown_electrodes : {"refuse", "nearest"}
        What becomes of electrodes without an embedding: an error, or they take the embedding of
        the nearest electrode that has one, which a warning says.
    """

    name: Literal["dare"] = "dare"
    sfreq: float = Field(256.0, gt=0)
    scale: float = Field(10.0, gt=0)
    patch_size: int = Field(64, ge=2)
    embed_dim: int = Field(64, ge=4)
    n_streams: int = Field(1, ge=1)
    encoder_depth: int = Field(2, ge=1)
    predictor_depth: int = Field(2, ge=1)
    reconstructor_depth: int = Field(4, ge=1)
    n_heads: int = Field(4, ge=1)
    parts: Literal["all", "encoder"] = "all"
    restores: Literal["signal", "correction", "map"] = "signal"
    spectrum: bool = False
    electrodes: tuple[str, ...] | None = Field(None, min_length=1)
    unknown_electrodes: Literal["refuse", "nearest"] = "refuse"

    @property
    def known_electrodes(self) -> tuple[str, ...]:
        """The names, in the order of the embeddings."""
        return self.electrodes or ELECTRODES

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = self.electrodes or ()
        if len(set(names)) < len(names):
            raise ValueError("electrodes: one is named twice; remove it")
        if names and self.unknown_electrodes == "nearest":
            raise ValueError("electrodes of one's own have no place in space; leave out `nearest`")
        return self

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.embed_dim % (4 * self.n_heads):
            raise ValueError(f"width {self.embed_dim} must be a multiple of 4 · n_heads")
        return self


def _size(dim: int, n_streams: int, depths: tuple[int, int, int], n_heads: int) -> DareConfig:
    encoder, predictor, reconstructor = depths
    return DareConfig(
        embed_dim=dim,
        n_streams=n_streams,
        encoder_depth=encoder,
        predictor_depth=predictor,
        reconstructor_depth=reconstructor,
        n_heads=n_heads,
    )


DARE_SIZES = {
    "nano": _size(64, 1, (2, 2, 4), 4),
    "light": _size(128, 1, (6, 6, 6), 4),
    "small": _size(256, 1, (6, 6, 6), 4),
    "base": _size(256, 4, (8, 8, 8), 4),
    "deep": _size(512, 4, (8, 8, 8), 8),
}
"""The paper's sizes."""


class DareEEG(Encoder):
    """Encoder, predictor and reconstructor; the latter two are there if `config.parts` is "all".

    Parameters
    ----------
    config : DareConfig
    contract : InputContract, optional
        Default: any window at `config.sfreq`. Its electrodes, if it names any, serve where no
        names are given.
    """

    config: DareConfig
    features_by_electrode = False

    def __init__(self, config: DareConfig, contract: InputContract | None = None) -> None:
        super().__init__(config, contract or InputContract(sfreq=config.sfreq))
        self.n_streams = config.n_streams
        self.encoder = DareEncoder(config)
        if config.parts == "all":
            self.predictor = DarePredictor(config)
            self.reconstructor = DareReconstructor(config)
            if config.restores != "signal":
                nn.init.zeros_(self.reconstructor.out.weight)
            if config.restores == "map":
                self.map_gain = MapGain(config.n_streams * config.embed_dim, config.sfreq)
        self._montages: dict[tuple[str, ...], list[int]] = {}

    def forward_features(
        self,
        signal: Tensor,
        ch_names: Sequence[str] | None = None,
        times: Tensor | None = None,
        visible: Tensor | None = None,
    ) -> Features:
        """Embed windows.

        Parameters
        ----------
        signal : Tensor, shape (batch, n_chans, n_times)
            Microvolts at `config.sfreq`; n_times a multiple of `config.patch_size`.
        ch_names : sequence of str, optional
            Names of the electrodes; default: those of the contract.
        times : Tensor, shape (batch, n_times), optional
            Changes nothing: the encoder reads every time step on its own.
        visible : Tensor of int, shape (n_seen, n_visible), optional
            Patches that are looked at, step · n_chans + channel, the same for the whole batch; a
            row holds patches of one step. Default: all.

        Returns
        -------
        Features
            n_seen · n_streams tokens, time-major: all streams of the first seen step, then of the
            second, …; the summary is their mean.

        Raises
        ------
        BergerError
            If the shapes do not fit, or an electrode has no embedding of its own.
        """
        scaled, electrodes = self.prepare(signal, ch_names)
        if visible is not None:
            visible = torch.as_tensor(visible, device=scaled.device)
            _check_visible(visible, scaled.shape[1], scaled.shape[2] // self.config.patch_size)
        return _features(self.encoder(scaled, electrodes, visible))

    def reconstruct(
        self,
        signal: Tensor,
        times: Tensor | None = None,
        ch_names: Sequence[str] | None = None,
    ) -> Reconstruction:
        """Restore the clean signal from a masked one of which every patch is seen.

        The predictor, which sees every step, hands its features to the reconstructor, which is
        asked for every patch. Parameters as in `forward_features`.
        """
        scaled, electrodes = self.prepare(signal, ch_names)
        n_chans, n_times = scaled.shape[1:]
        steps = torch.arange(n_times // self.config.patch_size, device=scaled.device)
        every = torch.arange(len(steps) * n_chans, device=scaled.device)
        features = self.encoder(scaled, electrodes)
        predicted, _ = self.predictor(features, steps, len(steps))
        patches = self.reconstructor(predicted, every, electrodes)
        restored = rearrange(
            patches, "batch (steps chans) size -> batch chans (steps size)", chans=n_chans
        ).to(scaled.dtype)
        if self.config.restores == "map":
            steps_last = rearrange(
                predicted, "batch steps streams dim -> batch (streams dim) steps"
            )
            restored = restored + self.map_gain(scaled, steps_last)
        elif self.config.restores == "correction":
            restored = restored + scaled
        return Reconstruction(
            branches={"reconstructor": restored * self.config.scale},
            features=_features(features),
        )

    @property
    def embed_dim(self) -> int:
        """Width of the features."""
        return self.config.embed_dim

    def n_steps(self, n_times: int, n_chans: int) -> int:
        """Patches of an electrode: a window's time steps."""
        return n_times // self.config.patch_size

    def depth_groups(self) -> list[list[nn.Parameter]]:
        encoder = self.encoder
        tokens = [*encoder.embed.parameters(), *encoder.electrodes.parameters()]
        if encoder.spectrum is not None:
            tokens += encoder.spectrum.parameters()
        layers = [[*layer.parameters()] for layer in encoder.layers]
        layers[-1] += encoder.norm.parameters()
        return [[*tokens, encoder.summary_tokens], *layers]

    def prepare(
        self, signal: Tensor, ch_names: Sequence[str] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return what `encoder` and `reconstructor` read.

        Parameters
        ----------
        signal, ch_names
            As in `forward_features`.

        Returns
        -------
        Tensor, shape (batch, n_chans, n_times)
            The signal in the network's unit.
        Tensor of int, shape (n_chans,)
            Each channel's place in the table of embeddings.

        Raises
        ------
        BergerError
            As `forward_features`.
        """
        signal = self.as_input(signal)
        if (n_times := signal.shape[-1]) % self.config.patch_size or not n_times:
            raise BergerError(
                f"a window of {n_times} samples is no multiple of a patch's "
                f"{self.config.patch_size}; cut windows of whole patches, "
                f"{self.config.patch_size / self.config.sfreq:g} s each."
            )
        names = self.contract.ch_names if ch_names is None else ch_names
        if names is None:
            raise BergerError("this model finds its electrodes by name; give ch_names.")
        self.check_names(signal, names)
        places = torch.tensor(self.places(names), device=signal.device)
        return signal / self.config.scale, places

    def check_montage(self, ch_names: Sequence[str], source: object) -> None:
        try:
            self.places(ch_names)
        except BergerError as error:
            raise BergerError(f"{source}: {error}") from error

    def places(self, ch_names: Sequence[str]) -> list[int]:
        """Return each channel's place in the table of embeddings.

        Warns, once for each montage, where `config.unknown_electrodes` is "nearest" and a channel
        takes the embedding of its neighbour.

        Raises
        ------
        BergerError
            If a channel has no embedding, or two have the same.
        """
        montage = tuple(ch_names)
        if montage not in self._montages:
            own, nearest = self.config.electrodes, self.config.unknown_electrodes == "nearest"
            places, borrowed = (
                find_places(montage, nearest) if own is None else (named_places(montage, own), [])
            )
            if borrowed:
                told = ", ".join(f"{name} as {ELECTRODES[place]}" for name, place in borrowed)
                warnings.warn(
                    f"electrodes without an embedding are read as their nearest: {told}.",
                    stacklevel=2,
                )
            self._montages[montage] = places
        return self._montages[montage]


class DareEncoder(nn.Module):
    """Sums up each time step on its own.

    Parameters
    ----------
    config : DareConfig
    """

    def __init__(self, config: DareConfig) -> None:
        super().__init__()
        dim, self.n_streams, self.patch_size = config.embed_dim, config.n_streams, config.patch_size
        self.embed = nn.Linear(config.patch_size, dim)
        self.spectrum = PatchSpectrum(config) if config.spectrum else None
        self.electrodes = nn.Embedding(len(config.known_electrodes), dim)
        self.summary_tokens = nn.Parameter(torch.empty(1, config.n_streams, dim))
        self.layers = _layers(config, config.encoder_depth)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        _initialise(self)

    def forward(self, signal: Tensor, electrodes: Tensor, visible: Tensor | None = None) -> Tensor:
        """Return features (batch, n_seen, n_streams, dim).

        Parameters
        ----------
        signal : Tensor, shape (batch, n_chans, n_times)
            In the network's unit.
        electrodes : Tensor of int, shape (n_chans,)
            Places in the table of embeddings.
        visible : Tensor of int, shape (n_seen, n_visible), optional
            As in `DareEEG.forward_features`. What is not in it is never read.
        """
        n_chans = signal.shape[1]
        if visible is None:
            n_steps = signal.shape[2] // self.patch_size
            visible = torch.arange(n_steps * n_chans, device=signal.device).view(n_steps, n_chans)
        tokens = self.embed_visible(signal, electrodes, visible)
        steps = rearrange(tokens, "batch steps patches dim -> (batch steps) patches dim")
        # len() would be a constant of an exported graph
        x = torch.cat((steps, self.summary_tokens.expand(steps.shape[0], -1, -1)), 1)
        for layer in self.layers[:-1]:
            x = layer(x)
        # of the last layer only what becomes of the summary tokens is kept
        features: Tensor = self.norm(self.layers[-1](x, n_last=self.n_streams))
        return features.view(signal.shape[0], len(visible), self.n_streams, -1)

    def embed_visible(self, signal: Tensor, electrodes: Tensor, visible: Tensor) -> Tensor:
        """Return the tokens (batch, n_seen, n_visible, dim) of visible patches; see `forward`."""
        patches = patches_at(signal, visible, self.patch_size)
        tokens: Tensor = self.embed(patches)
        if self.spectrum is not None:
            tokens = tokens + self.spectrum(patches)
        places: Tensor = self.electrodes(electrodes[visible % signal.shape[1]])
        return tokens + places


class PatchSpectrum(nn.Module):
    """Embeds how much of each frequency is in a patch, whatever its phase.

    Parameters
    ----------
    config : DareConfig
    """

    FLOOR = 1e-4
    """Power in the network's unit that counts as none; white noise of deviation 1 has some 24."""

    basis: Tensor

    def __init__(self, config: DareConfig) -> None:
        super().__init__()
        size = config.patch_size
        window = torch.hann_window(size, dtype=torch.float64)
        waves = torch.fft.rfft(torch.diag(window))  # (size, n_bins); a product exports to ONNX
        basis = torch.cat((waves.real, waves.imag), 1).float()
        self.register_buffer("basis", basis, persistent=False)
        self.embed = nn.Linear(size // 2 + 1, config.embed_dim)

    def forward(self, patches: Tensor) -> Tensor:
        """Map patches (..., patch_size) to (..., dim)."""
        with torch.autocast(patches.device.type, enabled=False):  # powers span many decades
            real, imaginary = (patches.float() @ self.basis.float()).chunk(2, dim=-1)
            log_power = (real.square() + imaginary.square() + self.FLOOR).log()
        embedded: Tensor = self.embed(log_power.to(self.embed.weight.dtype))
        return embedded


class DarePredictor(nn.Module):
    """Tells what the encoder would have said of the time steps that it did not see.

    Parameters
    ----------
    config : DareConfig
    """

    def __init__(self, config: DareConfig) -> None:
        super().__init__()
        dim = config.embed_dim
        self.embed = nn.Linear(dim, dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, config.n_streams, dim))
        self.layers = _layers(config, config.predictor_depth)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.out = nn.Linear(dim, dim)
        _initialise(self)

    def forward(self, features: Tensor, seen: Tensor, n_steps: int) -> tuple[Tensor, Tensor]:
        """Predict the features of all time steps from those of the seen ones.

        Parameters
        ----------
        features : Tensor, shape (batch, n_seen, n_streams, dim)
            From `DareEncoder`.
        seen : Tensor of int, shape (n_seen,)
            Time step of each of them.
        n_steps : int
            Time steps of the window.

        Returns
        -------
        predicted : Tensor, shape (batch, n_steps, n_streams, dim)
        combined : Tensor, shape (batch, n_steps, n_streams, dim)
            The encoder's features at seen steps, predicted ones at the others.
        """
        n_streams = features.shape[2]
        every = torch.arange(n_steps, device=features.device)
        place = torch.arange(len(seen), device=features.device)
        masks = self.mask_token.expand(len(features), -1, -1, -1)
        # place of each step's token among those of the seen steps and, last, the mask token
        source = torch.full_like(every, len(seen)).index_copy(0, seen, place)
        tokens = torch.cat((self.embed(features), masks), 1)[:, source]
        x = rearrange(tokens, "batch steps streams dim -> batch (steps streams) dim")
        times = _times(every).repeat_interleave(n_streams)[None]
        for layer in self.layers:
            x = layer(x, times)
        predicted = self.out(self.norm(x))
        predicted = rearrange(predicted, "batch (steps k) dim -> batch steps k dim", k=n_streams)
        source = (every + len(seen)).index_copy(0, seen, place)
        return predicted, torch.cat((features, predicted), 1)[:, source]


class DareReconstructor(nn.Module):
    """Draws hidden patches.

    Parameters
    ----------
    config : DareConfig
    """

    def __init__(self, config: DareConfig) -> None:
        super().__init__()
        dim = config.embed_dim
        self.embed = nn.Linear(dim, dim)
        self.electrodes = nn.Embedding(len(config.known_electrodes), dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, dim))
        self.layers = _layers(config, config.reconstructor_depth)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.out = nn.Linear(dim, config.patch_size)
        _initialise(self)

    def forward(self, combined: Tensor, targets: Tensor, electrodes: Tensor) -> Tensor:
        """Return patches (batch, n_targets, patch_size), in the order of the targets.

        Parameters
        ----------
        combined : Tensor, shape (batch, n_steps, n_streams, dim)
            From `DarePredictor`.
        targets : Tensor of int, shape (n_targets,)
            Patches to draw, step · n_chans + channel.
        electrodes : Tensor of int, shape (n_chans,)
            Places in the table of embeddings.
        """
        batch, n_steps, n_streams, _ = combined.shape
        n_chans = len(electrodes)
        queries = self.mask_token + self.electrodes(electrodes[targets % n_chans])
        known = self.embed(combined).flatten(1, 2)
        x = torch.cat((known, queries.expand(batch, -1, -1)), 1)
        every = torch.arange(n_steps, device=combined.device)
        times = torch.cat((every.repeat_interleave(n_streams), targets // n_chans))
        for layer in self.layers:
            x = layer(x, _times(times)[None])
        patches: Tensor = self.out(self.norm(x[:, known.shape[1] :]))
        return patches


def _features(features: Tensor) -> Features:
    """Tokens of steps and streams (batch, n_steps, n_streams, dim), time-major."""
    tokens = rearrange(features, "batch steps streams dim -> batch (steps streams) dim")
    return Features(tokens=tokens, summary=tokens.mean(1))


def patches_at(signal: Tensor, indices: Tensor, patch_size: int) -> Tensor:
    """Pick patches.

    Parameters
    ----------
    signal : Tensor, shape (batch, n_chans, n_times)
    indices : Tensor of int, shape (...)
        step · n_chans + channel.
    patch_size : int

    Returns
    -------
    Tensor, shape (batch, ..., patch_size)
    """
    n_chans = signal.shape[1]
    cut = rearrange(signal, "batch chans (steps size) -> batch chans steps size", size=patch_size)
    picked: Tensor = cut[:, indices % n_chans, indices // n_chans]
    return picked


def name_here(published: str) -> str:
    """Return the name here of a parameter of the published program."""
    name = published
    for pattern, ours in _NAMES:
        name = re.sub(pattern, ours, name)
    return name


def _check_visible(visible: Tensor, n_chans: int, n_steps: int) -> None:
    """Raise BergerError unless these are patches of a window, each row of one step, none twice."""
    fault = None
    if visible.ndim != 2 or visible.is_floating_point() or not visible.numel():
        fault = "are no table of whole numbers, a row for each seen step"
    elif visible.min() < 0 or visible.max() >= n_chans * n_steps:
        fault = f"reach beyond the window's {n_chans * n_steps} patches"
    elif (visible // n_chans != visible[:, :1] // n_chans).any():
        fault = "hold patches of several time steps in one row"
    elif len(set(visible.flatten().tolist())) < visible.numel():
        fault = "hold a patch twice"
    if fault:
        raise BergerError(f"the visible patches {fault}; give step · {n_chans} + channel.")


def _times(steps: Tensor) -> Tensor:
    """Positions of time steps for the rotary encoding."""
    return steps / 2


def _layers(config: DareConfig, depth: int) -> nn.ModuleList:
    return nn.ModuleList(
        PreNormAttentionLayer(config.embed_dim, config.n_heads) for _ in range(depth)
    )


def _initialise(part: DareEncoder | DarePredictor | DareReconstructor) -> None:
    """Truncated normal weights, zero biases; the deeper a layer, the less it adds at first."""
    for module in part.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.trunc_normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
    for token in part.parameters(recurse=False):
        nn.init.trunc_normal_(token, std=0.02)
    with torch.no_grad():
        for depth, layer in enumerate(cast(Sequence[PreNormAttentionLayer], part.layers), 1):
            layer.out.weight /= (2 * depth) ** 0.5
            cast(nn.Linear, layer.feedforward[-1]).weight /= (2 * depth) ** 0.5
