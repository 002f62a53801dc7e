"""What every model shares: its contract with the signal, its features, saving and loading."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from berger.checkpoints import write_checkpoint
from berger.configuration import Config
from berger.errors import BergerError
from berger.preprocessing import PreprocessingConfig


class EuclideanAlignment(Config):
    """How the signals of each recording are whitened (He & Wu 2020, doi:10.1109/TBME.2019.2913914).

    Attributes
    ----------
    amplitude : float
        Standard deviation in µV that every direction of the electrodes' space gets.
    tolerance : float
        Directions whose variance is below this share of the median electrode's are taken for
        empty, and are set to zero.
    min_seconds : float
        Length of usable windows that a recording needs for a covariance of its own.
    """

    amplitude: float = Field(10.0, gt=0)
    tolerance: float = Field(1e-6, gt=0, lt=1)
    min_seconds: float = Field(10.0, ge=0)


class InputContract(Config):
    """What a trained model expects of its input.

    Attributes
    ----------
    sfreq : float
        Sampling rate in Hz.
    unit : str
        Unit of the signal.
    ch_names : tuple of str, optional
        Electrodes, in this order; None for any montage.
    window_seconds : float, optional
        Length of the windows that the model was trained on.
    preprocessing : PreprocessingConfig, optional
        How the corpus was prepared that the model was trained on.
    euclidean_alignment : EuclideanAlignment, optional
        How each recording was aligned after that, by a matrix from its own windows.
    """

    sfreq: float
    unit: Literal["µV"] = "µV"
    ch_names: tuple[str, ...] | None = None
    window_seconds: float | None = None
    preprocessing: PreprocessingConfig | None = None
    euclidean_alignment: EuclideanAlignment | None = None

    def check(self, sfreq: float, ch_names: tuple[str, ...], source: object) -> None:
        """Raise BergerError unless a signal's rate and electrodes are the model's."""
        if sfreq != self.sfreq:
            raise BergerError(
                f"{source}: sampled at {sfreq:g} Hz, but the model was made for {self.sfreq:g} Hz; "
                f"prepare the recordings with sfreq: {self.sfreq:g}."
            )
        if self.ch_names is not None and ch_names != self.ch_names:
            raise BergerError(
                f"{source}: has the electrodes {' '.join(ch_names)}, but the model was made for "
                f"{' '.join(self.ch_names)} in this order; prepare the recordings with these."
            )

    def check_preprocessing(
        self,
        preprocessing: PreprocessingConfig,
        source: object,
        besides: Collection[str] = (),
    ) -> None:
        """Raise BergerError if recordings were filtered or referenced in another way.

        The notch is free, since the mains' frequency depends on the country, and so are the fields
        `besides`, for which something else makes up.
        """
        if self.preprocessing is None:
            return
        for field in ("sfreq", "highpass", "lowpass", "reference", "bipolar"):
            own, other = getattr(self.preprocessing, field), getattr(preprocessing, field)
            if own != other and field not in besides:
                raise BergerError(
                    f"{source}: was prepared with {field}: {other}, but the model was trained "
                    f"with {field}: {own}; prepare the recordings again with that."
                )


@dataclass(frozen=True)
class Features:
    """What an encoder knows of a window.

    Attributes
    ----------
    tokens : Tensor, shape (batch, n_tokens, dim)
        Channel-major, where tokens belong to electrodes (`Encoder.features_by_electrode`): all
        steps of the first electrode, then of the second, …; otherwise time-major.
    summary : Tensor, shape (batch, dim)
        The tokens pooled: their mean, unless the model's configuration says otherwise.
    """

    tokens: Tensor
    summary: Tensor


@dataclass(frozen=True)
class Reconstruction:
    """What a model makes of a masked signal.

    Attributes
    ----------
    branches : dict of str to Tensor, shape (batch, n_chans, n_times)
        Guesses at the clean signal in microvolts, by the part of the network that makes them.
    features : Features
        What its encoder knows of the masked signal.
    auxiliary : tuple of Tensor
        Guesses at a low rate, where a network has heads for them.
    """

    branches: dict[str, Tensor]
    features: Features
    auxiliary: tuple[Tensor, ...] = ()

    @property
    def mean(self) -> Tensor:
        """Mean of the branches (batch, n_chans, n_times) in microvolts: the best single guess."""
        return torch.stack(list(self.branches.values())).mean(0)


class EEGModel(nn.Module):
    """Base of every model: a configuration, a contract, and a way to disk.

    Parameters
    ----------
    config : Config
        From which the same model can be built again.
    contract : InputContract
        What it expects of its input.
    """

    provenance: Mapping[str, Any] = {}
    """What a loaded model was made from; empty for a new one."""

    def __init__(self, config: Config, contract: InputContract) -> None:
        super().__init__()
        self.config = config
        self.contract = contract

    @property
    def n_parameters(self) -> int:
        """Number of trainable values."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the outputs; empty unless it was adapted to a classification."""
        return tuple(getattr(self.config, "classes", []))

    @property
    def target(self) -> str | None:
        """What value it predicts, with its unit; None unless adapted to a regression."""
        target: str | None = getattr(self.config, "target", None)
        return target

    @property
    def is_adapted(self) -> bool:
        """Whether it answers a question: what class a window has, or which value."""
        return bool(self.classes or self.target)

    def check_montage(self, ch_names: Sequence[str], source: object) -> None:
        """Raise BergerError if the model cannot read one of a recording's electrodes."""

    def save_checkpoint(
        self, folder: str | Path, provenance: Mapping[str, Any] | None = None
    ) -> None:
        """Write the model as a checkpoint folder; `berger.load_checkpoint` reads it back."""
        config = {
            "model": self.config.model_dump(mode="json"),
            "contract": self.contract.model_dump(mode="json"),
        }
        made_from = self.provenance if provenance is None else provenance
        write_checkpoint(Path(folder), config, self.state_dict(), made_from)


class Encoder(EEGModel, ABC):
    """A model that turns windows into features."""

    features_by_electrode = True
    """Whether every electrode has tokens of its own, the same number each."""
    n_streams = 1
    """Tokens of a time step, where they do not belong to electrodes."""

    def as_input(self, signal: Tensor) -> Tensor:
        """Return windows in the type and on the device of the model's weights.

        Raises
        ------
        BergerError
            Unless they are (batch, n_chans, n_times).
        """
        parameter = next(self.parameters())
        signal = torch.as_tensor(signal, dtype=parameter.dtype, device=parameter.device)
        if signal.ndim != 3:
            raise BergerError(
                f"a signal of shape {tuple(signal.shape)}; give (batch, n_chans, n_times) in µV."
            )
        return signal

    @staticmethod
    def check_names(signal: Tensor, ch_names: Sequence[str] | None) -> None:
        """Raise BergerError unless there is a name for each electrode, or none at all."""
        if ch_names is None:
            return
        if isinstance(ch_names, str) or not all(isinstance(name, str) for name in ch_names):
            raise BergerError("ch_names must be names, one for each electrode of the signal.")
        if len(ch_names) != signal.shape[1]:
            raise BergerError(
                f"{len(ch_names)} names for a signal of {signal.shape[1]} electrodes; name each."
            )

    @property
    @abstractmethod
    def embed_dim(self) -> int:
        """Width of the features."""

    @abstractmethod
    def n_steps(self, n_times: int, n_chans: int) -> int:
        """Return how many tokens each electrode, or each stream, of such a window has."""

    @abstractmethod
    def depth_groups(self) -> list[list[nn.Parameter]]:
        """Return the parameters on which the features depend, group by group from the input on."""

    @abstractmethod
    def forward_features(
        self,
        signal: Tensor,
        ch_names: Sequence[str] | None = None,
        times: Tensor | None = None,
    ) -> Features:
        """Embed windows.

        Parameters
        ----------
        signal : Tensor, shape (batch, n_chans, n_times)
            Microvolts at the contract's rate.
        ch_names : sequence of str, optional
            Names of the electrodes.
        times : Tensor, shape (batch, n_times), optional
            Position of each sample.

        Returns
        -------
        Features
            `embed_dim` wide.
        """
