"""Networks that are trained from random weights for one task: EEGNet and ShallowConvNet.

They come from braindecode, which is an extra: ``pip install berger[braindecode]``.

::

    signal (batch, n_chans, n_times) µV ─► − mean, ÷ deviation of each electrode ─► network
                                           (of the training people)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from berger.adaptation.finetuning import FineTuningConfig, Labelled, fine_tune, outputs
from berger.corpus import WindowDataset
from berger.errors import BergerError
from berger.evaluation.electrodes import common_electrodes, with_electrodes
from berger.evaluation.protocol import Array, Learn, Mask
from berger.evaluation.strategies import Question

NETWORKS = ("EEGNet", "ShallowConvNet")
SHORTEST = {"EEGNet": 0.35, "ShallowConvNet": 0.45}
"""Seconds that a window must have: what filters and pooling take together, however they round."""

Build = Callable[[int, int, float, int], nn.Module]
"""n_chans, n_times, sfreq in Hz, n_outputs → a network with random weights."""
Make = Callable[[WindowDataset], nn.Module]
"""Windows of training people → a network to train, which reads µV."""


def require_braindecode(name: str) -> Any:
    """Return braindecode's models.

    Raises
    ------
    BergerError
        If braindecode is not installed, or not all that it needs.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of their own deprecations
            from braindecode import models
    except (ImportError, OSError) as error:  # OSError: torchaudio needs more of torch
        raise BergerError(
            f"{name}: braindecode cannot be loaded ({error}); install it by `pip install "
            "berger[braindecode]` with torch and torchaudio from one index, or leave the network "
            "out."
        ) from error
    return models


def build_network(name: str, n_chans: int, n_times: int, sfreq: float, n_outputs: int) -> nn.Module:
    """Return a network with random weights, its filters as long in seconds as in its paper.

    EEGNet-8,2 (Lawhern et al., J. Neural Eng. 15, 2018, at 128 Hz): temporal filters of half a
    second, pooled to 32 Hz. ShallowConvNet (Schirrmeister et al., Human Brain Mapping 38, 2017, at
    250 Hz): temporal filters of 0.1 s, power over 0.3 s every 0.06 s. braindecode's defaults are
    these numbers of samples at any rate.

    Parameters
    ----------
    name : {"EEGNet", "ShallowConvNet"}
    n_chans, n_times : int
    sfreq : float
        Hz.
    n_outputs : int
        Number of classes; 1 for a value.

    Raises
    ------
    BergerError
        If braindecode is not installed, or windows are too short for the network.
    """
    models = require_braindecode(name)
    if n_times / sfreq < SHORTEST[name]:
        raise BergerError(
            f"{name} needs windows of at least {SHORTEST[name]:g} s, not {n_times / sfreq:g} s; "
            "leave it out of baselines."
        )
    shape = {"n_chans": n_chans, "n_times": n_times, "n_outputs": n_outputs, "sfreq": sfreq}

    def samples(seconds: float) -> int:
        return max(1, round(seconds * sfreq))

    if name == "EEGNet":
        network: nn.Module = models.EEGNet(
            **shape,
            kernel_length=samples(0.5),
            pool1_kernel_size=samples(1 / 32),
            final_layer_with_constraint=True,
        )
    else:
        network = models.ShallowFBCSPNet(
            **shape,
            filter_time_length=samples(0.1),
            pool_time_length=samples(0.3),
            pool_time_stride=samples(0.06),
        )
    return network


class Standardised(nn.Module):
    """A network behind a fixed standardisation of each electrode, which is saved with its weights.

    Parameters
    ----------
    network : nn.Module
    windows : WindowDataset
        Of training people: their mean and standard deviation of each electrode are what signals
        are standardised by. An electrode that never varies is only centred.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, network: nn.Module, windows: WindowDataset) -> None:
        super().__init__()
        self.network = network
        mean, deviation = _mean_and_deviation(windows)
        self.register_buffer("mean", torch.from_numpy(mean)[:, None].float())
        self.register_buffer("deviation", torch.from_numpy(deviation)[:, None].float())

    def forward(self, signal: Tensor) -> Tensor:
        """Map a signal (batch, n_chans, n_times) in µV to outputs (batch, n_outputs)."""
        answers: Tensor = self.network((signal - self.mean) / self.deviation)
        return answers


def learn_network(
    build: Build,
    question: Question,
    config: FineTuningConfig,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    tell: Callable[[dict[str, Any]], None] = lambda line: None,
    quiet: bool = True,
) -> Learn:
    """Return a network in the form that the protocol runs; the choice is an epoch.

    It reads the electrodes that all recordings have, standardised, and is trained from random
    weights as by `learn_by_training`.

    Parameters
    ----------
    build : callable
        As `build_network` with a name.
    question : Question
        With labels that are class numbers, or values.
    config : FineTuningConfig
    seed : int
        Of random weights, order of the windows and dropout.
    device : torch.device or str
    tell : callable, optional
        Called with each line of the log of a training.
    quiet : bool
        No progress bar.

    Raises
    ------
    BergerError
        If the recordings share no electrode or differ in rate.
    """
    windows = with_electrodes(question.windows, common_electrodes(question.windows))
    sfreq = common_rate(windows)

    def make(known: WindowDataset) -> nn.Module:
        n_chans, n_times = known[0].signal.shape
        n_outputs = 1 if question.is_regression else len(question.classes)
        return Standardised(build(n_chans, n_times, sfreq, n_outputs), known)

    asked = replace(question, windows=windows)
    return learn_by_training(make, asked, config, seed=seed, device=device, tell=tell, quiet=quiet)


def learn_by_training(
    make: Make,
    question: Question,
    config: FineTuningConfig,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    tell: Callable[[dict[str, Any]], None] = lambda line: None,
    quiet: bool = True,
) -> Learn:
    """Train what is made on training people, and keep the epoch that validation people choose.

    That is the epoch with the lowest loss on them. Values to regress on are standardised by those
    of the training people.

    Parameters
    ----------
    make : callable
    question : Question
        Its windows are what the network reads.
    config, seed, device, tell, quiet
        As in `learn_network`.
    """
    windows, labels, regression = question.windows, question.labels, question.is_regression

    def learn(train: Mask, validation: Mask) -> tuple[Callable[[Mask], Array], float]:
        centre, spread = (labels[train].mean(), labels[train].std()) if regression else (0, 1)
        targets = (labels - centre) / (spread or 1) if regression else labels
        known, judges = (
            Labelled(windows.take(np.flatnonzero(some)), targets[some])
            for some in (train, validation)
        )
        torch.manual_seed(seed)
        model = make(known.windows).to(device)
        tuned = fine_tune(model, known, judges, config, seed=seed, tell=tell, quiet=quiet)

        def answer(some: Mask) -> Array:
            asked = windows.take(np.flatnonzero(some))
            found = outputs(model, asked, config.batch_size).double()
            answers: Array = (found * spread + centre if regression else found.softmax(1)).numpy()
            return answers

        return answer, float(tuned.best_epoch)

    return learn


def common_rate(windows: WindowDataset) -> float:
    """Return the sampling rate of all recordings in Hz; raises BergerError if there are several."""
    rates = sorted({block.sfreq for block in windows.blocks})
    if len(rates) > 1:
        raise BergerError(
            f"the recordings have {' and '.join(f'{rate:g}' for rate in rates)} Hz, but a network "
            "needs one rate; prepare them with one sfreq."
        )
    return rates[0]


def _mean_and_deviation(windows: WindowDataset) -> tuple[Array, Array]:
    """Mean and standard deviation (n_chans,) over all samples, in µV."""
    count, total, squares = 0, np.zeros(1), np.zeros(1)
    for batch in windows.batches(256):
        signal = batch.signal().numpy().astype(np.float64)
        count += signal.shape[0] * signal.shape[2]
        total = total + signal.sum((0, 2))
        squares = squares + np.square(signal).sum((0, 2))
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - np.square(mean), 0))
    return mean, np.where(deviation > 1e-6, deviation, 1.0)
