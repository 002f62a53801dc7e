"""Frozen linear probe: the encoder stays as it is, a logistic regression reads its features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from tqdm import tqdm

from berger.corpus import WindowDataset
from berger.models import Encoder
from berger.models.heads import Pooling, pooled_features

Array = npt.NDArray[np.float64]


@torch.inference_mode()
def embed_windows(
    encoder: Encoder,
    windows: WindowDataset,
    pooling: Pooling,
    *,
    batch_size: int = 16,
    quiet: bool = True,
) -> Array:
    """Return the frozen features of windows.

    Parameters
    ----------
    encoder : Encoder
        Used in evaluation mode, on the device where it is.
    windows : WindowDataset
    pooling : {"mean", "electrodes"}
    batch_size : int
    quiet : bool
        No progress bar.

    Returns
    -------
    ndarray, shape (n_windows, n_features)
        In the order of `windows`.
    """
    encoder.eval()
    device = next(encoder.parameters()).device
    rows = []
    with tqdm(total=len(windows), unit="window", disable=quiet) as bar:
        for batch in windows.batches(batch_size):
            encoder.contract.check(batch.sfreq, batch.ch_names, batch.recordings[0])
            signal = batch.signal(device)
            rows.append(pooled_features(encoder, signal, pooling, batch.ch_names).cpu().numpy())
            bar.update(batch.n_windows)
    features: Array = np.concatenate(rows).astype(np.float64)
    return features


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """A multinomial logistic regression.

    Attributes
    ----------
    weight : ndarray, shape (n_outputs, n_features)
    bias : ndarray, shape (n_outputs,)
    """

    weight: Array
    bias: Array

    def probabilities(self, features: Array) -> Array:
        """Return class probabilities (n_windows, n_outputs)."""
        probabilities: Array = softmax(features @ self.weight.T + self.bias, axis=1)
        return probabilities


def fit_probe(
    features: Array, labels: npt.NDArray[Any], n_outputs: int, penalty: float
) -> LinearProbe:
    """Fit a class-balanced logistic regression on standardised features.

    Minimises the cross-entropy, each class weighing the same, plus penalty / 2 · ‖W‖², by L-BFGS.
    Mean and scale come from these features alone and are folded into the weights.

    Parameters
    ----------
    features : ndarray, shape (n_windows, n_features)
    labels : ndarray of int, shape (n_windows,)
        0 … n_outputs − 1; a class without windows is never guessed.
    n_outputs : int
    penalty : float
        Strength of the L2 penalty, beside the mean loss of a window.
    """
    mean, scale = features.mean(0), features.std(0)
    scale = np.where(scale > 1e-12, scale, 1.0)
    x = (features - mean) / scale
    truth = np.eye(n_outputs)[labels]
    share = truth / np.maximum(truth.sum(0), 1)  # every class weighs the same …
    share /= share.sum()  # … and all windows together one

    def loss(flat: Array) -> tuple[float, Array]:
        """Value and gradient; the last column of `flat` is the bias."""
        both = flat.reshape(n_outputs, -1)
        weight = both[:, :-1]
        logits = x @ weight.T + both[:, -1]
        value = -(share * log_softmax(logits, axis=1)).sum() + penalty / 2 * (weight**2).sum()
        slope = softmax(logits, axis=1) * share.sum(1, keepdims=True) - share
        return value, np.column_stack((slope.T @ x + penalty * weight, slope.sum(0))).ravel()

    start = np.zeros(n_outputs * (x.shape[1] + 1))
    found = minimize(
        loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 1000, "gtol": 1e-6}
    )
    both = found.x.reshape(n_outputs, -1)
    weight = both[:, :-1] / scale
    return LinearProbe(weight, both[:, -1] - weight @ mean)
