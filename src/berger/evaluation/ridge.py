"""Values and classes read from features by ridge regression, in closed form.

::

    features ─► standardised ─► one singular value decomposition ─► weights for every penalty

Of classes the values are 1 for the class that a window has and 0 for the others.
docs/decisions/0025-strategies.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import Ridge

from berger.adaptation.probe import LinearProbe
from berger.evaluation.protocol import Array, Mask, mean_recall


@dataclass(frozen=True, eq=False)
class RidgeProbe:
    """A linear regression.

    Attributes
    ----------
    weight : ndarray, shape (n_outputs, n_features)
    bias : ndarray, shape (n_outputs,)
    """

    weight: Array
    bias: Array

    def values(self, features: Array) -> Array:
        """Return values (n_windows, n_outputs)."""
        values: Array = features @ self.weight.T + self.bias
        return values


def fit_ridges(
    features: Array, targets: Array, penalties: Sequence[float], weights: Array | None = None
) -> list[RidgeProbe]:
    """Fit ridge regressions on standardised features, the intercept not penalised.

    Each minimises the mean squared error plus penalty · ‖W‖². Mean and scale of the features come
    from these alone and are folded into the weights.

    Parameters
    ----------
    features : ndarray, shape (n_windows, n_features)
    targets : ndarray, shape (n_windows, n_outputs)
    penalties : sequence of float
    weights : ndarray, shape (n_windows,), optional
        What each window's error weighs in the mean; their own mean is 1.

    Returns
    -------
    list of RidgeProbe
        One for each penalty.
    """
    mean, scale = features.mean(0), features.std(0)
    scale = np.where(scale > 1e-12, scale, 1.0)
    n_windows, n_outputs = targets.shape
    # outputs with penalties of their own, which one decomposition serves
    ridge = Ridge(alpha=np.repeat(penalties, n_outputs) * n_windows, solver="svd")
    ridge.fit((features - mean) / scale, np.tile(targets, len(penalties)), sample_weight=weights)
    weight = np.reshape(ridge.coef_, (len(penalties), n_outputs, -1)) / scale
    bias = np.reshape(ridge.intercept_, (len(penalties), n_outputs)) - weight @ mean
    return [RidgeProbe(*both) for both in zip(weight, bias, strict=True)]


def fit_ridge(features: Array, values: Array, penalty: float) -> RidgeProbe:
    """Fit one ridge regression of values (n_windows,); see `fit_ridges`."""
    return fit_ridges(features, values[:, None], [penalty])[0]


def fit_class_ridges(
    features: Array, labels: npt.NDArray[np.int64], n_outputs: int, penalties: Sequence[float]
) -> list[LinearProbe]:
    """Fit ridge regressions of classes, each class weighing the same.

    What a regression puts out, s, adds up to 1 over the classes and estimates their probabilities
    where all are equally frequent, but may lie below 0 or above 1. The probability that is told is
    softmax(n_outputs · s): in the same order, in (0, 1), and next to chance s itself, since there
    the slope is 1. No window was used to calibrate it.

    Parameters
    ----------
    features : ndarray, shape (n_windows, n_features)
    labels : ndarray of int, shape (n_windows,)
        0 … n_outputs − 1.
    n_outputs : int
    penalties : sequence of float

    Returns
    -------
    list of LinearProbe
        One for each penalty; its weights are those of n_outputs · s.
    """
    truth = np.eye(n_outputs)[labels]
    counts = truth.sum(0)
    weights = len(labels) / (np.count_nonzero(counts) * counts[labels])
    ridges = fit_ridges(features, truth, penalties, weights)
    return [LinearProbe(n_outputs * ridge.weight, n_outputs * ridge.bias) for ridge in ridges]


def choose_ridge(
    features: Array, values: Array, train: Mask, validation: Mask, penalties: Sequence[float]
) -> tuple[RidgeProbe, float]:
    """Fit to the training people with each penalty, then to all known people with the best one.

    Returns
    -------
    RidgeProbe, float
        And its penalty, the best by squared error on the validation people.
    """
    fitted = fit_ridges(features[train], values[train, None], penalties)
    errors = [
        np.square(probe.values(features[validation])[:, 0] - values[validation]).mean()
        for probe in fitted
    ]
    penalty = penalties[int(np.argmin(errors))]
    known = train | validation
    return fit_ridge(features[known], values[known], penalty), penalty


def choose_class_ridge(
    features: Array,
    labels: npt.NDArray[np.int64],
    n_outputs: int,
    train: Mask,
    validation: Mask,
    penalties: Sequence[float],
) -> tuple[LinearProbe, float]:
    """As `choose_ridge`, of classes; the best by balanced accuracy on the validation people."""
    fitted = fit_class_ridges(features[train], labels[train], n_outputs, penalties)
    recalls = [
        mean_recall(probe.probabilities(features[validation]), labels[validation])
        for probe in fitted
    ]
    penalty = penalties[int(np.argmax(recalls))]
    known = train | validation
    return fit_class_ridges(features[known], labels[known], n_outputs, [penalty])[0], penalty
