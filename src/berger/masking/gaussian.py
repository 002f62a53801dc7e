"""Gaussian masks on the STFT map: SpecMoE's pretext task (arXiv 2603.16739).

A map of ones is multiplied by 1 − level · G for one Gaussian bump G after another, until the
wanted share of the map is hidden. A bump hides a band of frequencies at all times, a stretch of
time at all frequencies, or a spot. One map serves all channels of a sample: no electrode gives
away what its neighbours hide.

    gain (batch, n_bins, n_frames) in [0, 1]        1 = left as it is, 0 = hidden
    masked signal = ISTFT(STFT(signal) · gain)
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from berger.configuration import Config
from berger.errors import BergerError
from berger.spectral import BANDS, apply_gain, map_shape


class KindShares(Config):
    """Probability of each kind of bump."""

    frequency: float = Field(0.6, ge=0, le=1)
    time: float = Field(0.3, ge=0, le=1)
    time_frequency: float = Field(0.1, ge=0, le=1)

    @model_validator(mode="after")
    def _sum_to_one(self) -> Self:
        if not math.isclose(self.frequency + self.time + self.time_frequency, 1, abs_tol=1e-6):
            raise ValueError("the shares of frequency, time and time_frequency must sum to 1")
        return self


class GaussianMaskConfig(Config):
    """How Gaussian STFT masks are drawn; the defaults are the paper's.

    Attributes
    ----------
    ratio : float
        Bumps are added until 1 − mean(gain) reaches this.
    level : float
        Depth of a bump: 1 hides its centre wholly, 0 hides nothing.
    kinds : KindShares
        Probability of each kind of bump.
    band_bias : float
        Probability that the centre frequency is drawn inside an EEG band instead of uniformly.
    bands : dict of str to float
        Probability of each band of `berger.spectral.BANDS` in that case.
    sigma_frequency, sigma_time : float
        Standard deviation of a bump as a share of the map's bins and frames.
    hard : bool
        Rectangles instead of Gaussians, each as large as the area under the Gaussian that it
        replaces (half-width σ·√(π/2)): the paper's ablation.
    n_fft, hop : int
        STFT window and step in samples.
    """

    kind: Literal["gaussian"] = "gaussian"
    ratio: float = Field(0.5, gt=0, lt=1)
    level: float = Field(1.0, ge=0, le=1)
    kinds: KindShares = KindShares()
    band_bias: float = Field(0.5, ge=0, le=1)
    bands: dict[str, float] = {"delta": 0.3, "theta": 0.4, "alpha": 0.2, "beta": 0.1}
    sigma_frequency: float = Field(0.05, gt=0)
    sigma_time: float = Field(0.05, gt=0)
    hard: bool = False
    n_fft: int = Field(400, ge=4)
    hop: int = Field(200, ge=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if unknown := set(self.bands) - set(BANDS):
            raise ValueError(f"unknown bands {sorted(unknown)}; known are {list(BANDS)}")
        if not math.isclose(sum(self.bands.values()), 1, abs_tol=1e-6):
            raise ValueError("the shares of the bands must sum to 1")
        if self.hop * 2 > self.n_fft:
            raise ValueError("hop must be at most n_fft / 2, or the map cannot be inverted")
        return self


class Bumps(NamedTuple):
    """Bumps in the order in which they are laid on, all of shape (n_samples, n_bumps).

    Attributes
    ----------
    hides_frequency, hides_time : Tensor of bool
        Of a bump's two factors, those that are not 1 throughout; a spot in time and frequency has
        both.
    centre_bin, centre_frame : Tensor of float
        Where it is deepest; without meaning along an axis on which it is 1.
    """

    hides_frequency: Tensor
    hides_time: Tensor
    centre_bin: Tensor
    centre_frame: Tensor


def draw_gain(
    n_samples: int,
    n_times: int,
    sfreq: float,
    config: GaussianMaskConfig,
    generator: torch.Generator,
    device: torch.device | None = None,
    which: slice = slice(None),
) -> Tensor:
    """Draw one mask for each sample of a batch.

    A sample uses up the same number of random numbers whatever its neighbours need, so that the
    masks depend on the generator and a sample's place in the stream, not on the batch size.

    Parameters
    ----------
    n_samples, n_times : int
        Batch size and window length in samples.
    sfreq : float
        Sampling rate in Hz.
    generator : torch.Generator
        On the CPU, so that every device gets the same masks.
    device : torch.device, optional
        Where the masks are made; default: the CPU.
    which : slice
        The samples whose masks are made; the others', which other processes make, are only drawn.

    Returns
    -------
    Tensor, float32, shape (n_samples or as many as `which` has, n_bins, n_frames)
        Gain in [0, 1]; 1 leaves the map as it is.

    Raises
    ------
    BergerError
        If the configuration cannot hide the wanted share.
    """
    shape = map_shape(n_times, config.n_fft, config.hop)
    if config.level == 0:
        return torch.ones(n_samples, *shape, device=device)[which]
    everybody = draw_bumps(n_samples, shape, sfreq, config, generator, device)
    bumps = Bumps(*(values[which] for values in everybody))
    gain, _ = lay_on(bumps, shape, config)
    return gain


def draw_bumps(
    n_samples: int,
    shape: tuple[int, int],
    sfreq: float,
    config: GaussianMaskConfig,
    generator: torch.Generator,
    device: torch.device | None = None,
) -> Bumps:
    """Draw kinds and centres of more bumps than will be needed; parameters as in `draw_gain`.

    `shape` is that of the map, (n_bins, n_frames).
    """
    n_bins, n_frames = shape
    numbers = torch.rand(n_samples, _enough_draws(config), 6, generator=generator).to(device)
    pick_kind, pick_bin, pick_frame, pick_bias, pick_band, pick_in_band = numbers.movedim(-1, 0)

    hides_frequency = pick_kind < config.kinds.frequency + config.kinds.time_frequency
    hides_time = (pick_kind < config.kinds.time_frequency) | ~hides_frequency

    # in the order of BANDS: configurations that are equal may list them in another
    shares = [(*BANDS[band], config.bands[band]) for band in BANDS if band in config.bands]
    low, high, share = torch.tensor(shares, device=device).unbind(-1)
    band = torch.bucketize(pick_band.contiguous(), share.cumsum(0)[:-1], right=True)
    hertz = low[band] + (high - low)[band] * pick_in_band
    centre_bin = torch.where(
        pick_bias < config.band_bias,
        (hertz * config.n_fft / sfreq).floor(),
        (pick_bin * n_bins).floor(),
    )
    return Bumps(hides_frequency, hides_time, centre_bin, (pick_frame * n_frames).floor())


def lay_on(
    bumps: Bumps, shape: tuple[int, int], config: GaussianMaskConfig
) -> tuple[Tensor, Tensor]:
    """Multiply maps of ones by 1 − level · bump until each hides `config.ratio`.

    Returns
    -------
    gain : Tensor, float32, shape (n_samples, n_bins, n_frames)
    n_bumps : Tensor of int, shape (n_samples,)
        How many bumps each map took.

    Raises
    ------
    BergerError
        If the bumps do not suffice.
    """
    n_bins, n_frames = shape
    n_samples, n_draws = bumps.centre_bin.shape
    device = bumps.centre_bin.device
    gain = torch.ones(n_samples, n_bins, n_frames, device=device)
    n_bumps = torch.zeros(n_samples, dtype=torch.long, device=device)
    bins = torch.arange(n_bins, device=device)
    frames = torch.arange(n_frames, device=device)
    for draw in range(n_draws):
        short = 1 - gain.mean((1, 2)) < config.ratio
        if not short.any():
            break
        hides_frequency, hides_time, centre_bin, centre_frame = (x[:, draw] for x in bumps)
        across = _bump(bins, centre_bin, config.sigma_frequency * n_bins, config.hard)
        along = _bump(frames, centre_frame, config.sigma_time * n_frames, config.hard)
        across = torch.where(hides_frequency[:, None], across, 1.0)
        along = torch.where(hides_time[:, None], along, 1.0)
        bump = across[:, :, None] * along[:, None, :]
        gain = torch.where(short[:, None, None], gain * (1 - config.level * bump), gain)
        n_bumps += short
    hidden = 1 - gain.mean((1, 2)).min().item()
    if hidden < config.ratio:
        raise BergerError(
            f"masks of this configuration hide {hidden:.2f} of the map after {n_draws} bumps, not "
            f"the ratio of {config.ratio:g}; lower ratio or band_bias, or raise level."
        )
    return gain, n_bumps


def mask_signal(signal: Tensor, gain: Tensor, config: GaussianMaskConfig) -> Tensor:
    """Return `signal` (batch, n_chans, n_times) with its STFT map multiplied by `gain`."""
    return apply_gain(signal, gain.to(signal), config.n_fft, config.hop)


def _bump(grid: Tensor, centre: Tensor, sigma: float, hard: bool) -> Tensor:
    """Value of bumps (n_samples, len(grid)) with the given centres (n_samples,)."""
    distance = (grid - centre[:, None]) / sigma
    if hard:
        return (distance.abs() <= math.sqrt(math.pi / 2)).float()
    return torch.exp(-0.5 * distance**2)


def _enough_draws(config: GaussianMaskConfig) -> int:
    """Return a number of bumps that reaches the ratio with room to spare.

    A bump covers the share c of the map that lies under its Gaussian, at least a quarter of it
    where it is centred in a corner; n bumps leave about (1 − level · c)ⁿ of the map.
    """
    width = {"frequency": config.sigma_frequency, "time": config.sigma_time}
    width["time_frequency"] = width["frequency"] * width["time"] * math.sqrt(2 * math.pi)
    # bumps inside the bands soon fall on one another; those drawn uniformly do the rest
    uniform = {"time": 1.0, "frequency": max(1 - config.band_bias, 0.05)}
    uniform["time_frequency"] = uniform["frequency"]
    covered = sum(
        share * uniform[kind] * min(width[kind] * math.sqrt(2 * math.pi), 1.0) / 2
        for kind, share in config.kinds.model_dump().items()
    )
    return math.ceil(3 * math.log(1 - config.ratio) / math.log1p(-config.level * covered)) + 16
