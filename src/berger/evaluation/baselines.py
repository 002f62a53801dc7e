"""What any model has to beat, through the same protocol and on the same folds.

::

    chance                nothing ───────────────────────────────────────┐
    band power            log power per electrode and band ──────────────┼─► logistic regression,
    Riemannian            covariances per band ─► training people's      │   or ridge regression
                          tangent space ─────────────────────────────────┘   of values
    EEGNet, ShallowConvNet  standardised signal ─► network, trained from random weights

docs/decisions/0023-baselines.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from pyriemann.geometry.covariance import covariances
from pyriemann.geometry.mean import mean_riemann
from pyriemann.geometry.tangentspace import tangent_space
from scipy.signal import welch
from scipy.signal.windows import hann

from berger.adaptation.finetuning import FineTuningConfig
from berger.adaptation.probe import fit_probe
from berger.corpus import WindowDataset
from berger.evaluation.electrodes import common_electrodes
from berger.evaluation.networks import (
    NETWORKS,
    build_network,
    learn_network,
    require_braindecode,
)
from berger.evaluation.protocol import Array, Learn, Mask, Probabilities, choose_penalty
from berger.evaluation.ridge import choose_ridge
from berger.evaluation.strategies import Question
from berger.spectral import BANDS

Baseline = Literal[
    "same network, random weights",
    "band power + logistic regression",
    "Riemannian tangent space + logistic regression",
    "EEGNet",
    "ShallowConvNet",
    "chance",
]
RANDOM: Final = "same network, random weights"
BAND_POWER: Final = "band power + logistic regression"
RIEMANN: Final = "Riemannian tangent space + logistic regression"
CHANCE: Final = "chance"

NOISE = 10
"""How many times the rounding's variance a direction must have to count as one that varies."""

FeaturesOf = Callable[[Mask], Array]
"""Which windows are of training people → features of all windows (n_windows, n_features)."""


def check_installed(names: Sequence[str]) -> None:
    """Raise a `BergerError` if a package that one of these baselines needs is missing."""
    for name in names:
        if name in NETWORKS:
            require_braindecode(name)


def baseline_title(name: str, is_regression: bool) -> str:
    """Return what a baseline is called in tables: values are read by another regression."""
    return name.replace("logistic", "ridge") if is_regression else name


def learn_baseline(
    name: str,
    question: Question,
    *,
    penalties: Sequence[float],
    training: FineTuningConfig,
    seed: int,
    device: torch.device | str = "cpu",
    tell: Callable[[dict[str, Any]], None] = lambda line: None,
    quiet: bool = True,
) -> Learn:
    """Return a baseline in the form that the protocol runs.

    Parameters
    ----------
    name : str
        Of `Baseline`, but for the random weights, which are those of the model under test.
    question : Question
        Windows and labels; labels that are real numbers are values to regress on, and then a ridge
        regression takes the place of the logistic one.
    penalties : sequence of float
        From which the validation people choose the strength of the L2 penalty.
    training : FineTuningConfig
        How EEGNet and ShallowConvNet are trained.
    seed : int
        Of their random weights and of the order of windows.
    device : torch.device or str
        Where they are trained.
    tell : callable, optional
        Called with each line of the log of their training.
    quiet : bool
        No progress bar.

    Raises
    ------
    BergerError
        If the recordings share no electrode, or braindecode is needed and not installed.
    """
    windows = question.windows
    if name in NETWORKS:
        build = partial(build_network, name)
        return learn_network(
            build, question, training, seed=seed, device=device, tell=tell, quiet=quiet
        )
    if name == BAND_POWER:
        power = band_power_features(windows, common_electrodes(windows))
        return learn_linear(question, lambda train: power, penalties)
    if name == RIEMANN:
        matrices = band_covariances(windows, common_electrodes(windows))
        return learn_linear(question, lambda train: tangent_features(matrices, train), penalties)
    if name == CHANCE:
        nothing = np.zeros((len(windows), 1))
        return learn_linear(question, lambda train: nothing, penalties[:1])
    raise ValueError(f"{name} is no baseline of its own")


def learn_linear(question: Question, features_of: FeaturesOf, penalties: Sequence[float]) -> Learn:
    """Read features by a logistic regression, or by a ridge regression where labels are values.

    Parameters
    ----------
    question : Question
    features_of : callable
        What it fits, it fits to the training people.
    penalties : sequence of float
        From which the validation people choose, by balanced accuracy or by squared error.

    Returns
    -------
    Learn
        Answers with probabilities (n_windows, n_classes) or values (n_windows, 1).
    """
    labels = question.labels

    def fit(x: Array, y: npt.NDArray[np.int64], penalty: float) -> Probabilities:
        return fit_probe(x, y, len(question.classes), penalty).probabilities

    def learn(train: Mask, validation: Mask) -> tuple[Callable[[Mask], Array], float]:
        features = features_of(train)
        if question.is_regression:
            ridge, penalty = choose_ridge(features, labels, train, validation, penalties)
            return lambda some: ridge.values(features[some]), penalty
        model, penalty = choose_penalty(features, labels, train, validation, fit, penalties)
        return lambda some: model(features[some]), penalty

    return learn


def band_power_features(windows: WindowDataset, ch_names: tuple[str, ...]) -> Array:
    """Log band powers per electrode.

    Parameters
    ----------
    windows : WindowDataset
    ch_names : tuple of str
        Electrodes that every window has; the others are not used.

    Returns
    -------
    ndarray, shape (n_windows, n_chans · n_bands)
        Natural logarithm of the power in µV², Welch with 2-s Hann segments that overlap by half,
        in each of `berger.spectral.BANDS` that lies below the Nyquist frequency.
    """
    rows = []
    for batch in windows.batches(256):
        order = [batch.ch_names.index(name) for name in ch_names]
        signal = batch.signal().numpy()[:, order].astype(np.float64)
        segment = min(round(2 * batch.sfreq), signal.shape[-1])
        freqs, density = welch(signal, batch.sfreq, nperseg=segment)
        bands = [(freqs >= low) & (freqs < high) for low, high in BANDS.values()]
        power = [density[..., band].sum(-1) * freqs[1] for band in bands if band.any()]
        rows.append(np.log(np.stack(power, -1) + 1e-12).reshape(len(signal), -1))
    return np.concatenate(rows)


@dataclass(frozen=True, eq=False)
class BandCovariances:
    """How electrodes vary together in each band.

    Attributes
    ----------
    shrunk : ndarray, shape (n_windows, n_bands, n_chans, n_chans)
        µV²; positive definite.
    plain : ndarray, shape (n_windows, n_chans, n_chans)
        µV², all bands together, as measured; singular where electrodes depend on one another.
    rounding : ndarray, shape (n_windows,)
        µV²; variance of an electrode's rounding to the counts in which the corpus holds it.
    """

    shrunk: Array
    plain: Array
    rounding: Array


def band_covariances(windows: WindowDataset, ch_names: tuple[str, ...]) -> BandCovariances:
    """Return covariances in each of `berger.spectral.BANDS` below the Nyquist frequency.

    They are those of the Fourier coefficients of the window under a Hann taper. Each coefficient of
    a band is two samples, its real and its imaginary part, so that the oracle approximating
    shrinkage (Chen et al., IEEE Trans. Signal Processing 58, 2010) goes by the band's degrees of
    freedom: a covariance of 5 s of theta is shrunk more than one of 5 s of gamma.

    Parameters
    ----------
    windows : WindowDataset
    ch_names : tuple of str
        Electrodes that every window has; the others are not used.
    """
    shrunk, plain, rounding = [], [], []
    for batch in windows.batches(64):
        order = [batch.ch_names.index(name) for name in ch_names]
        signal = batch.signal().numpy()[:, order].astype(np.float64)
        n_times = signal.shape[-1]
        taper = hann(n_times, sym=False)
        spectrum = np.fft.rfft((signal - signal.mean(-1, keepdims=True)) * taper)
        freqs = np.fft.rfftfreq(n_times, 1 / batch.sfreq)
        bands = [(freqs >= low) & (freqs < high) for low, high in BANDS.values()]
        measured, regular = [], []
        for band in filter(np.any, bands):
            # the sum of squares over a band's coefficients is its power in µV²
            scale = 2 * np.sqrt(band.sum() / (n_times * np.square(taper).sum()))
            inside = spectrum[..., band] * scale
            samples = np.concatenate((inside.real, inside.imag), axis=-1)
            measured.append(covariances(samples, "scm", assume_centered=True))
            regular.append(covariances(samples, "oas", assume_centered=True))
        steps = batch.scale.numpy()[:, order].astype(np.float64)
        variance = np.square(steps).mean(1) / 12  # of a uniform error one step wide
        # what is smaller than the rounding is not known; in silence the logarithm needs a floor
        floor = np.maximum(variance, 1e-12)[:, None, None, None] * np.eye(len(order))
        shrunk.append(np.stack(regular, 1) + floor)
        plain.append(np.sum(measured, axis=0))
        rounding.append(variance)
    return BandCovariances(*map(np.concatenate, (shrunk, plain, rounding)))


def tangent_features(matrices: BandCovariances, train: Mask) -> Array:
    """Map covariances to the tangent space at the training people's geometric mean.

    Of each band its own (Barachant et al., IEEE Trans. Biomed. Eng. 59, 2012), put side by side.
    Directions in which the training people's signals do not vary, such as the sum of all electrodes
    after an average reference, are left out first, since there the affine-invariant metric knows no
    distance (Sabbagh et al., NeurIPS 2019).

    Parameters
    ----------
    matrices : BandCovariances
        Of all windows.
    train : ndarray of bool, shape (n_windows,)
        Windows of training people, to which directions and means are fitted.

    Returns
    -------
    ndarray, shape (n_windows, n_bands · rank · (rank + 1) / 2)
    """
    variances, directions = np.linalg.eigh(matrices.plain[train].mean(0))
    audible = variances > NOISE * matrices.rounding[train].mean()
    basis = directions[:, audible]
    projected = basis.T @ matrices.shrunk @ basis
    # the mean to six digits: by which point distances are measured matters less than that
    references = [
        mean_riemann(projected[train, band], tol=1e-6, maxiter=200)
        for band in range(projected.shape[1])
    ]
    features = [
        tangent_space(projected[:, band], reference) for band, reference in enumerate(references)
    ]
    return np.concatenate(features, axis=1)
