"""Frozen linear probe: the encoder stays as it is, a logistic regression reads its features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from tqdm import tqdm

from berger.corpus import WindowDataset
from berger.models import SpecHiNet
from berger.models.heads import Pooling, pooled_features

Array = npt.NDArray[np.float64]


@torch.inference_mode()
def embed_windows(
    encoder: SpecHiNet,
    windows: WindowDataset,
    pooling: Pooling,
    *,
    batch_size: int = 64,
    quiet: bool = True,
) -> Array:
    """Return the frozen features of windows.

    Parameters
    ----------
    encoder : SpecHiNet
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
            rows.append(pooled_features(encoder, batch.signal(device), pooling).cpu().numpy())
            bar.update(len(batch.subjects))
    features: Array = np.concatenate(rows).astype(np.float64)
    return features


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """A multinomial logistic regression.

    Attributes
    ----------
    weight : Tensor, float64, shape (n_outputs, n_features)
    bias : Tensor, float64, shape (n_outputs,)
    """

    weight: Tensor
    bias: Tensor

    def probabilities(self, features: Array) -> Array:
        """Return class probabilities (n_windows, n_outputs)."""
        logits = torch.from_numpy(features) @ self.weight.T + self.bias
        probabilities: Array = logits.softmax(-1).numpy()
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
        0 … n_outputs − 1.
    n_outputs : int
    penalty : float
        Strength of the L2 penalty.
    """
    x = torch.from_numpy(features)
    mean, scale = x.mean(0), x.std(0, correction=0)
    scale = torch.where(scale > 1e-12, scale, 1.0)
    x = (x - mean) / scale
    y = torch.tensor(labels, dtype=torch.long)
    counts = torch.bincount(y, minlength=n_outputs).double()
    weights = torch.where(counts > 0, len(y) / (n_outputs * counts.clamp_min(1)), 0.0)

    weight = torch.zeros(n_outputs, x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(n_outputs, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(x @ weight.T + bias, y, weights)
        loss = loss + penalty / 2 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    folded = weight.detach() / scale
    return LinearProbe(folded, bias.detach() - folded @ mean)
