"""Values read from features by ridge regression, in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import Ridge

from berger.evaluation.protocol import Array, Mask


@dataclass(frozen=True, eq=False)
class RidgeProbe:
    """A linear regression.

    Attributes
    ----------
    weight : ndarray, shape (1, n_features)
    bias : ndarray, shape (1,)
    """

    weight: Array
    bias: Array

    def values(self, features: Array) -> Array:
        """Return values (n_windows, 1)."""
        values: Array = features @ self.weight.T + self.bias
        return values


def fit_ridge(features: Array, values: Array, penalty: float) -> RidgeProbe:
    """Fit a ridge regression on standardised features, the intercept not penalised.

    Minimises the mean squared error plus penalty · ‖w‖². Mean and scale of the features come from
    these alone and are folded into the weights.

    Parameters
    ----------
    features : ndarray, shape (n_windows, n_features)
    values : ndarray, shape (n_windows,)
    penalty : float
    """
    mean, scale = features.mean(0), features.std(0)
    scale = np.where(scale > 1e-12, scale, 1.0)
    ridge = Ridge(alpha=penalty * len(values)).fit((features - mean) / scale, values)
    weight = ridge.coef_[None] / scale
    return RidgeProbe(weight, ridge.intercept_ - weight @ mean)


def choose_ridge(
    features: Array, values: Array, train: Mask, validation: Mask, penalties: Sequence[float]
) -> tuple[RidgeProbe, float]:
    """Fit to the training people with each penalty, then to all known people with the best one.

    Returns
    -------
    RidgeProbe, float
        And its penalty, the best by squared error on the validation people.
    """

    def error(penalty: float) -> float:
        probe = fit_ridge(features[train], values[train], penalty)
        return float(
            np.square(probe.values(features[validation])[:, 0] - values[validation]).mean()
        )

    penalty = min(penalties, key=error) if len(penalties) > 1 else penalties[0]
    known = train | validation
    return fit_ridge(features[known], values[known], penalty), penalty
