"""What stands in front of an encoder: recorded channels and rate become those it was trained on.

    signal (batch, recorded channels, T)                 at the recorded rate
      │ projection   1 × 1 convolutions across channels  (batch, targets, T)
      │ resampling   a fixed low-pass                    (batch, targets, T · rate / recorded rate)
      └ kernel       a convolution of each channel       the same shape, at the encoder's rate

The spectro-spatial projection and the adaptation of the rate follow the conv-linear-probing of
DARE-EEG (arXiv 2605.18298). They know nothing of each other and each can be off; off means that the
signal passes as it is. docs/decisions/0019-conv-linear-probing.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import Field, field_validator, model_validator
from scipy.signal import firwin, kaiserord
from torch import Tensor, nn

from berger.channels import canonical_names, positions
from berger.configuration import Config
from berger.errors import BergerError
from berger.models.contract import InputContract
from berger.models.layers import with_max_norm
from berger.preprocessing import PreprocessingConfig

_TEN_TWENTY = "Fp1 Fp2 F7 F3 Fz F4 F8 T7 C3 Cz C4 T8 P7 P3 Pz P4 P8 O1 O2"
TEN_TWENTY = tuple(_TEN_TWENTY.split())
"""Electrodes of the 10–20 system, which every encoder here reads."""
WIDEST = 256
"""Largest width between two layers of a projection."""
LARGEST_TERM = 1000
"""Of the ratio of two rates; the filters of a resampling grow with the product of both terms."""
PASS_SHARE = 0.8
"""Of the lower Nyquist frequency, up to which a resampling keeps everything."""
STOP_DB = 60.0
"""By which it lowers what lies above that frequency."""


class AdapterConfig(Config):
    """What is trained in front of an encoder; by default nothing.

    Attributes
    ----------
    targets : tuple of str, "10-20" or None
        Electrodes onto which the recorded channels are projected, under these names the encoder
        reads them; "10-20" stands for the 19 of that system. None: no projection.
    n_layers : int
        Convolutions of the projection. The widths between them double from the number of recorded
        channels up to 256, with batch norm and GELU behind each.
    max_norm : float
        Largest norm of the weights of each channel that a convolution puts out.
    start : {"electrodes", "random"}
        How a projection of one layer begins: a target that was recorded under its name as that
        channel, any other as the mean of the recorded electrodes, weighed by one over the squared
        distance; or at random. Several layers begin at random.
    resample : bool
        Take a signal from the recorded rate to the encoder's, by a fixed low-pass filter without
        delay; nothing where the rates agree.
    kernel_size : int, optional
        Samples, at the encoder's rate, of a trained filter of each channel behind that, odd; it
        begins as doing nothing. None: no such filter.
    """

    targets: tuple[str, ...] | None = Field(None, min_length=1)
    n_layers: int = Field(1, ge=1)
    max_norm: float = Field(1.0, gt=0)
    start: Literal["electrodes", "random"] = "electrodes"
    resample: bool = False
    kernel_size: int | None = Field(None, ge=3)

    @field_validator("targets", mode="before")
    @classmethod
    def _name_of_a_set(cls, targets: Any) -> Any:
        if isinstance(targets, str):
            if targets != "10-20":
                raise ValueError("must be 10-20, a list of electrodes, or null")
            return TEN_TWENTY
        return targets

    @model_validator(mode="after")
    def _fields_fit(self) -> Self:
        if self.targets and len(set(self.targets)) < len(self.targets):
            raise ValueError("targets names an electrode twice")
        if self.n_layers > 1 and self.start == "electrodes":
            raise ValueError("only a single layer can start from electrodes; set start to random")
        if self.kernel_size is not None and self.kernel_size % 2 == 0:
            raise ValueError("kernel_size must be odd, or the filter would shift the signal")
        return self

    @property
    def is_on(self) -> bool:
        """Whether there is anything in front of the encoder."""
        return self.needs_montage or self.resample

    @property
    def needs_montage(self) -> bool:
        """Whether a model with this works for one montage only."""
        return self.targets is not None or self.kernel_size is not None

    def absorbs(self, own: PreprocessingConfig, recorded: PreprocessingConfig) -> set[str]:
        """Return in which fields recordings may be prepared otherwise than the encoder's corpus.

        A resampling makes up for the rate, and for a low-pass that does not exist at the recorded
        one; a projection, which mixes channels, for reference and bipolar channels. Other filters
        must agree.
        """
        fields = {"reference", "bipolar"} if self.targets else set()
        if self.resample:
            fields.add("sfreq")
            if recorded.sfreq / 2 <= (own.lowpass or own.sfreq / 2):
                fields.add("lowpass")
        return fields


class Adapter(nn.Module):
    """Projection, resampling, kernel; each only where the configuration asks for it.

    Parameters
    ----------
    config : AdapterConfig
    contract : InputContract
        Of the recorded signal: its rate and, for projection and kernel, its channels.
    sfreq : float
        The encoder's rate in Hz.
    unit : float
        Microvolts in which several layers put out their signal; batch norm has taken its own.

    Raises
    ------
    BergerError
        If the rates differ and nothing resamples, or the channels are needed and not known.
    """

    def __init__(
        self, config: AdapterConfig, contract: InputContract, sfreq: float, unit: float
    ) -> None:
        super().__init__()
        self.unit = unit if config.targets and config.n_layers > 1 else 1.0
        ch_names = contract.ch_names or ()
        if config.needs_montage and not ch_names:
            raise BergerError(
                "an adapter works for one montage; give the model a contract with ch_names."
            )
        if contract.sfreq != sfreq and not config.resample:
            raise BergerError(
                f"signals at {contract.sfreq:g} Hz for an encoder at {sfreq:g} Hz; set "
                f"adapter.resample to true, or prepare the recordings with sfreq: {sfreq:g}."
            )
        self.projection: nn.Module = nn.Identity()
        self.resampling: nn.Module = nn.Identity()
        self.kernel: nn.Module = nn.Identity()
        if config.targets:
            self.projection = _projection(config, ch_names, config.targets)
        if contract.sfreq != sfreq:
            self.resampling = Resampling(contract.sfreq, sfreq)
        if config.kernel_size:
            n_chans = len(config.targets or ch_names)
            self.kernel = _kernel(n_chans, config.kernel_size)

    def forward(self, signal: Tensor) -> Tensor:
        """Return what the encoder reads, µV.

        Parameters
        ----------
        signal : Tensor, shape (batch, n_chans, n_times)
            Microvolts, as recorded.
        """
        adapted: Tensor = self.kernel(self.resampling(self.projection(signal) * self.unit))
        return adapted

    def n_times(self, n_times: int) -> int:
        """Return how many samples a window of so many recorded ones has for the encoder.

        Raises
        ------
        BergerError
            If that is no whole number.
        """
        resampling = self.resampling
        return resampling.n_times(n_times) if isinstance(resampling, Resampling) else n_times


class Resampling(nn.Module):
    """Change the sampling rate by the ratio of two whole numbers, without delay.

    Output sample m is the signal at input sample m · down / up: a sum over the samples around it,
    weighed by a low-pass that was designed at up times the input's rate. There are `up` different
    places between input samples, so as many sets of weights: one convolution with a stride of
    `down` has one output for each set, and these are interleaved (polyphase resampling; Crochiere
    and Rabiner, Multirate Digital Signal Processing, 1983, chapter 3).

    The edges of a window continue as its first and last sample.

    Parameters
    ----------
    sfreq, new_sfreq : float
        Hz.

    Raises
    ------
    BergerError
        If the ratio of both is none of whole numbers up to `LARGEST_TERM`.
    """

    def __init__(self, sfreq: float, new_sfreq: float) -> None:
        super().__init__()
        ratio = (Fraction(new_sfreq) / Fraction(sfreq)).limit_denominator(LARGEST_TERM)
        self.up, self.down = ratio.numerator, ratio.denominator
        # over a minute this is less than a hundredth of a sample
        close = abs(float(ratio) * sfreq / new_sfreq - 1) < 1e-7
        if not close or max(self.up, self.down) > LARGEST_TERM:
            raise BergerError(
                f"{sfreq:g} Hz cannot be taken to {new_sfreq:g} Hz by whole numbers up to "
                f"{LARGEST_TERM}; prepare the recordings with another sfreq."
            )
        weight, self.reach = _polyphase(self.up, self.down)
        self.register_buffer("weight", torch.tensor(weight[:, None], dtype=torch.float32))
        self.weight: Tensor

    def forward(self, signal: Tensor) -> Tensor:
        """Return a signal (batch, n_chans, n_times · up / down).

        Raises
        ------
        BergerError
            If that is no whole number.
        """
        self.n_times(signal.shape[-1])
        behind = self.weight.shape[-1] - self.reach - self.down
        padded = F.pad(signal, (self.reach, behind), mode="replicate")
        chans = rearrange(padded, "batch chans times -> (batch chans) 1 times")
        phases = F.conv1d(chans, self.weight.to(signal.dtype), stride=self.down)
        return rearrange(
            phases, "(batch chans) up times -> batch chans (times up)", chans=signal.shape[1]
        )

    def n_times(self, n_times: int) -> int:
        """As `Adapter.n_times`."""
        if n_times % self.down:
            raise BergerError(
                f"a window of {n_times} samples has no whole number of samples after resampling by "
                f"{self.up}/{self.down}; cut windows of a multiple of {self.down} samples."
            )
        return n_times // self.down * self.up


def starting_weights(ch_names: Sequence[str], targets: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return how recorded channels are mixed before anything is known of the data.

    Parameters
    ----------
    ch_names : sequence of str
        Recorded channels.
    targets : sequence of str

    Returns
    -------
    ndarray, shape (n_targets, n_chans)
        A row with a single 1 for a target that was recorded; otherwise weights of all electrodes
        with a position that add up to 1, each one over its squared distance from the target.

    Raises
    ------
    BergerError
        If a target was not recorded and it, or every recorded channel, has no position.
    """
    recorded, wanted = (
        [known or name for known, name in zip(canonical_names(names), names, strict=True)]
        for names in (ch_names, targets)
    )
    places = positions(ch_names)
    has_place = np.isfinite(places).all(1)
    weights = np.zeros((len(wanted), len(recorded)))
    for row, name, target in zip(weights, wanted, positions(targets), strict=True):
        if name in recorded:
            row[recorded.index(name)] = 1
            continue
        if not has_place.any() or not np.isfinite(target).all():
            raise BergerError(
                f"adapter: {name} was not recorded and cannot be placed among the electrodes "
                f"{' '.join(ch_names)}; set adapter.start to random, or name other targets."
            )
        row[has_place] = 1 / ((places[has_place] - target) ** 2).sum(1)
        row /= row.sum()
    return weights


def _projection(
    config: AdapterConfig, ch_names: Sequence[str], targets: Sequence[str]
) -> nn.Sequential:
    """Convolutions across channels, (batch, n_chans, T) → (batch, n_targets, T)."""
    widths = [len(ch_names)]
    for _ in range(config.n_layers - 1):
        widths.append(min(2 * widths[-1], WIDEST))
    widths.append(len(targets))
    layers: list[nn.Module] = []
    for before, behind in pairwise(widths):
        if layers:
            layers += [nn.BatchNorm1d(before), nn.GELU()]
        layer = nn.Conv1d(before, behind, 1, bias=False)  # a constant is what the filters remove
        nn.init.xavier_uniform_(layer.weight)
        layers.append(layer)
    if config.start == "electrodes":
        weights = torch.tensor(starting_weights(ch_names, targets), dtype=torch.float32)
        with torch.no_grad():
            layer.weight.copy_(weights[..., None])
    return nn.Sequential(
        *(
            with_max_norm(layer, config.max_norm) if isinstance(layer, nn.Conv1d) else layer
            for layer in layers
        )
    )


def _kernel(n_chans: int, size: int) -> nn.Conv1d:
    """Return a convolution of each channel that does nothing as yet."""
    kernel = nn.Conv1d(
        n_chans,
        n_chans,
        size,
        padding=size // 2,
        groups=n_chans,
        bias=False,
        padding_mode="replicate",
    )
    nn.init.dirac_(kernel.weight, groups=n_chans)
    return kernel


def _polyphase(up: int, down: int) -> tuple[npt.NDArray[np.float64], int]:
    """Return the weights of each output's place between input samples.

    Returns
    -------
    ndarray, shape (up, n_weights)
        Each row adds up to 1, so that constants are kept.
    int
        How many input samples before the first of a stride the first weight lies.
    """
    larger = max(up, down)
    n_taps, beta = kaiserord(STOP_DB, (1 - PASS_SHARE) / larger)
    half = -(-n_taps // 2)
    low_pass = firwin(2 * half + 1, (1 + PASS_SHARE) / 2 / larger, window=("kaiser", beta))
    reach = half // up
    last = ((up - 1) * down + half) // up
    # output `phase` of a stride lies at its input sample phase · down / up
    phase, sample = np.ogrid[:up, -reach : last + 1]
    tap = phase * down - sample * up + half
    weights = np.where((tap >= 0) & (tap <= 2 * half), low_pass[tap.clip(0, 2 * half)], 0.0)
    return weights / weights.sum(1, keepdims=True), reach
