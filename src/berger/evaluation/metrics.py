"""Numbers that say how good predictions are, from the table of predictions alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import pearsonr
from sklearn.metrics import (
    average_precision_score,
    cohen_kappa_score,
    f1_score,
    r2_score,
    recall_score,
    roc_auc_score,
    root_mean_squared_error,
)

N_BINS = 15
"""Bins of confidence, of equal width, by which calibration is looked at."""


def score_predictions(predictions: pd.DataFrame, classes: tuple[str, ...]) -> dict[str, float]:
    """Score one model's predictions of classes.

    Parameters
    ----------
    predictions : DataFrame
        Columns ``truth``, ``prediction`` and ``score_<class>``, a probability, for each class; one
        row a window.
    classes : tuple of str

    Returns
    -------
    dict of str to float
        - ``balanced_accuracy``: mean recall of the classes that occur;
        - ``auroc``, ``auprc``: area under the ROC curve, and average precision, of the second
          class; with more than two classes of each one against the rest, averaged; NaN unless
          every class occurs;
        - ``kappa``: see `cohen_kappa`;
        - ``f1_weighted``: F1 of each class, weighed by how often it occurs;
        - ``calibration_error``: see `calibration`;
        - ``brier``: squared distance of the probabilities from the truth, summed over classes; 0
          for certainty that is right, 2 for certainty that is wrong.
    """
    truth, guess = predictions["truth"], predictions["prediction"]
    present = sorted(set(truth))
    scores = predictions[[f"score_{name}" for name in classes]].to_numpy(np.float64)
    is_class = np.stack([truth == name for name in classes], axis=1)
    auroc = auprc = float("nan")
    if len(present) == len(classes):
        asked = slice(1, None) if len(classes) == 2 else slice(None)
        auroc = float(roc_auc_score(is_class[:, asked], scores[:, asked]))
        auprc = float(average_precision_score(is_class[:, asked], scores[:, asked]))
    return {
        # scikit-learn's balanced_accuracy_score warns about a class that was guessed but never
        # occurs; recall over the classes that occur is the same number
        "balanced_accuracy": float(
            recall_score(truth, guess, labels=present, average="macro", zero_division=0)
        ),
        "auroc": auroc,
        "auprc": auprc,
        "kappa": cohen_kappa(truth, guess, classes),
        "f1_weighted": float(f1_score(truth, guess, average="weighted", zero_division=0)),
        "calibration_error": calibration_error(calibration(predictions, classes)),
        "brier": float(np.square(scores - is_class).sum(1).mean()),
    }


def cohen_kappa(truth: pd.Series, guess: pd.Series, classes: tuple[str, ...]) -> float:
    """Cohen's κ; NaN where it is not defined, i.e. if truth and predictions are one class."""
    if {*truth} == {*guess} and len({*truth}) < 2:
        return float("nan")
    return float(cohen_kappa_score(truth, guess, labels=list(classes)))


def score_values(predictions: pd.DataFrame) -> dict[str, float]:
    """Score one model's predictions of values.

    Parameters
    ----------
    predictions : DataFrame
        Columns ``truth`` and ``prediction``, numbers; one row a window.

    Returns
    -------
    dict of str to float
        ``pearson``: correlation, NaN where either is constant; ``r2``: 1 − squared error over
        the truth's variance, negative where the truth's mean is the better guess, NaN where the
        truth is constant; ``rmse``: in the truth's unit.
    """
    truth, guess = (predictions[name].to_numpy(np.float64) for name in ("truth", "prediction"))
    varied = np.ptp(truth) > 0
    return {
        "pearson": float(pearsonr(truth, guess)[0]) if varied and np.ptp(guess) > 0 else np.nan,
        "r2": float(r2_score(truth, guess)) if varied else np.nan,
        "rmse": float(root_mean_squared_error(truth, guess)),
    }


def calibration(predictions: pd.DataFrame, classes: tuple[str, ...]) -> pd.DataFrame:
    """Compare how sure predictions are with how often they are right.

    Parameters
    ----------
    predictions, classes
        As in `score_predictions`.

    Returns
    -------
    DataFrame
        One row per bin of confidence that holds windows: ``confidence`` and ``accuracy``, means of
        the predicted class's probability and of being right, and ``n_windows``.
    """
    scores = predictions[[f"score_{name}" for name in classes]].to_numpy(np.float64)
    sure = scores.max(1)
    table = pd.DataFrame(
        {
            "confidence": sure,
            "accuracy": (predictions["prediction"] == predictions["truth"]).to_numpy(np.float64),
        }
    )
    bins = np.minimum((sure * N_BINS).astype(int), N_BINS - 1)
    grouped = table.groupby(bins)
    return grouped.mean().assign(n_windows=grouped.size()).reset_index(drop=True)


def calibration_error(table: pd.DataFrame) -> float:
    """Mean distance of confidence and accuracy over the windows of a `calibration` table.

    The expected calibration error of Naeini et al. (AAAI 2015).
    """
    distance = (table["confidence"] - table["accuracy"]).abs()
    return float((distance * table["n_windows"]).sum() / table["n_windows"].sum())
