"""Numbers that say how good predictions are, from the table of predictions alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.metrics import cohen_kappa_score, f1_score, recall_score, roc_auc_score


def score_predictions(predictions: pd.DataFrame, classes: tuple[str, ...]) -> dict[str, float]:
    """Score one model's predictions.

    Parameters
    ----------
    predictions : DataFrame
        Columns ``truth``, ``prediction`` and ``score_<class>`` for each class; one row a window.
    classes : tuple of str

    Returns
    -------
    dict of str to float
        ``balanced_accuracy``: mean recall of the classes that occur; ``auroc``: of the second
        class, with more than two classes of each one against the rest, averaged, and NaN unless
        every class occurs; ``kappa``: Cohen's, NaN where undefined; ``f1_weighted``.
    """
    truth, guess = predictions["truth"], predictions["prediction"]
    present = sorted(set(truth))
    auroc = kappa = float("nan")
    if len(present) == len(classes):
        columns = [f"score_{name}" for name in classes]
        scores = predictions[columns].to_numpy()
        is_class = np.stack([truth == name for name in classes], axis=1)
        if len(classes) == 2:
            auroc = float(roc_auc_score(is_class[:, 1], scores[:, 1]))
        else:
            auroc = float(roc_auc_score(is_class, scores, average="macro"))
    if len(present) > 1 or set(guess) != set(truth):
        kappa = float(cohen_kappa_score(truth, guess, labels=list(classes)))
    return {
        # scikit-learn's balanced_accuracy_score warns about a class that was guessed but never
        # occurs; recall over the classes that occur is the same number
        "balanced_accuracy": float(
            recall_score(truth, guess, labels=present, average="macro", zero_division=0)
        ),
        "auroc": auroc,
        "kappa": kappa,
        "f1_weighted": float(f1_score(truth, guess, average="weighted", zero_division=0)),
    }
