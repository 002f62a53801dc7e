"""How sure a number is: bootstrap over people, whose windows are not independent."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

N_RESAMPLES = 2000


def balanced_accuracy_interval(
    predictions: pd.DataFrame,
    classes: tuple[str, ...],
    seed: int,
    level: float = 0.95,
    n_resamples: int = N_RESAMPLES,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the balanced accuracy, resampling people.

    Parameters
    ----------
    predictions : DataFrame
        Columns ``subject``, ``truth``, ``prediction``.
    classes : tuple of str
    seed : int
    level : float
    n_resamples : int

    Returns
    -------
    tuple of float
        Lower and upper end; NaN with fewer than two people.
    """
    counts = confusion_by_subject(predictions, classes)
    if len(counts) < 2:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(counts), size=(n_resamples, len(counts)))
    values = balanced_accuracy(counts[drawn].sum(1))
    tail = 50 * (1 - level)
    low, high = np.nanpercentile(values, [tail, 100 - tail])
    return float(low), float(high)


def confusion_by_subject(
    predictions: pd.DataFrame, classes: tuple[str, ...]
) -> npt.NDArray[np.int64]:
    """Return counts (n_subjects, n_true, n_predicted), people in sorted order."""
    position = {name: index for index, name in enumerate(classes)}
    people, subject = np.unique(predictions["subject"], return_inverse=True)
    counts = np.zeros((len(people), len(classes), len(classes)), dtype=np.int64)
    truth = predictions["truth"].map(position).to_numpy()
    guess = predictions["prediction"].map(position).to_numpy()
    np.add.at(counts, (subject, truth, guess), 1)
    return counts


def balanced_accuracy(confusion: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Mean recall of the classes that occur, from confusion counts (..., n_true, n_predicted)."""
    true_total = confusion.sum(-1)
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    recall = np.where(true_total > 0, hits / np.maximum(true_total, 1), np.nan)
    result: npt.NDArray[np.float64] = np.nanmean(recall, axis=-1)
    return result
