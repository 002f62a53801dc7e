"""One protocol for every model: folds by person, choices on validation people, one test read.

A task may ask of each person alone instead, or of people who are also learned from; what is said
of people here then holds for recordings or trials (`Fold.unit`).

In each fold the people are split three ways. What a model leaves open is chosen by the validation
people: the strength of a penalty by their balanced accuracy, whereupon the model is fitted to
training and validation people together; the epoch of a fine-tuning by their loss. Then it is
applied to the test people once. Few shots are drawn before any model sees the windows, so that all
read the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from berger.errors import BergerError
from berger.evaluation.few_shot import draw_shots
from berger.evaluation.metrics import score_predictions, score_values
from berger.evaluation.statistics import intervals, on_whom, unit_of
from berger.tasks.splits import Fold as Fold

Array = npt.NDArray[np.float64]
Probabilities = Callable[[Array], Array]
"""Features (n_windows, n_features) → class probabilities (n_windows, n_outputs)."""
Fit = Callable[[Array, npt.NDArray[np.int64], float], Probabilities]
"""Features, labels, penalty → a fitted model."""
Mask = npt.NDArray[np.bool_]
Learn = Callable[[Mask, Mask], tuple[Callable[[Mask], Array], float]]
"""Windows of training and validation people → how a model answers windows, and what was chosen."""


@dataclass(frozen=True)
class Tested:
    """A model's predictions on all test people and what each fold chose, e.g. a penalty."""

    predictions: pd.DataFrame
    choices: tuple[float, ...]


def run_folds(
    name: str,
    windows: pd.DataFrame,
    classes: tuple[str, ...],
    folds: Sequence[Fold],
    learn: Learn,
    *,
    shots: int | None = None,
    seed: int = 0,
) -> Tested:
    """Run the protocol for one model; the windows of test people are shown to it once.

    Parameters
    ----------
    name : str
        Of the model, for the tables.
    windows : DataFrame
        ``recording, subject, start, label``, and ``trial`` where folds are of trials.
    classes : tuple of str
    folds : sequence of Fold
    learn : callable
        Gets which windows are of training and of validation people; returns a function that
        gives class probabilities of windows, or values (n_windows, 1) where there are no classes,
        and what was chosen by the validation people.
    shots : int, optional
        Only so many windows of each class, or of a regression in all, are shown of the training
        people, and as many of the validation people; see `berger.evaluation.few_shot`.
    seed : int
        Of their draw.

    Raises
    ------
    BergerError
        If there are fewer, or what is trained on lacks a class in a fold of recordings or trials.
    """
    tables, chosen = [], []
    for number, fold in enumerate(folds, start=1):
        train, validation, test = (
            np.isin(windows[fold.unit].to_numpy(), part)
            for part in (fold.train, fold.validation, fold.test)
        )
        if fold.unit != "subject" and classes:
            _check_classes(fold, windows[train], windows[train | validation | test])
        if shots is not None:
            rng = np.random.default_rng(seed)
            train, validation = (
                draw_shots(
                    windows, part, classes, shots, rng, f"the {who} {fold.of} of fold {number}"
                )
                for part, who in ((train, "training"), (validation, "validation"))
            )
        answer, choice = learn(train, validation)
        table = _predictions(windows[test], answer(test), classes)
        tables.append(table.assign(model=name, fold=number))
        chosen.append(choice)
    return Tested(pd.concat(tables, ignore_index=True), tuple(chosen))


def choose_penalty(
    features: Array,
    labels: npt.NDArray[np.int64],
    train: Mask,
    validation: Mask,
    fit: Fit,
    penalties: Sequence[float],
) -> tuple[Probabilities, float]:
    """Fit to the training people with each penalty, then to all known people with the best one.

    Returns
    -------
    callable, float
        The fitted model and its penalty, the best by balanced accuracy on the validation people.
    """

    def quality(penalty: float) -> float:
        model = fit(features[train], labels[train], penalty)
        return mean_recall(model(features[validation]), labels[validation])

    penalty = max(penalties, key=quality) if len(penalties) > 1 else penalties[0]
    known = train | validation
    return fit(features[known], labels[known], penalty), penalty


def mean_recall(probabilities: Array, truth: npt.NDArray[np.int64]) -> float:
    """Return the balanced accuracy of guessing the most probable class."""
    right = probabilities.argmax(1) == truth
    return float(np.mean([right[truth == label].mean() for label in np.unique(truth)]))


def class_numbers(windows: pd.DataFrame, classes: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """Return the class of each window as its place in `classes`."""
    numbers = windows["label"].map({name: index for index, name in enumerate(classes)})
    return np.asarray(numbers, np.int64)


def _check_classes(fold: Fold, train: pd.DataFrame, every: pd.DataFrame) -> None:
    """Raise BergerError unless the training recordings or trials hold all classes of the fold."""
    known = set(train["label"])
    lacking = sorted(set(every["label"]) - known)
    if lacking or len(known) < 2:
        what = f"no window of {lacking[0]}" if lacking else "windows of one class only"
        whose, more = fold.people[0], len(fold.people) - 1
        tested = fold.test[0] + (f" and {len(fold.test) - 1} others" if fold.test[1:] else "")
        raise BergerError(
            f"{whose}{f' and {more} others' if more else ''}: when {tested} is tested, the "
            f"{fold.of} to train on have {what}; every class must be in several {fold.of}, else "
            "split otherwise."
        )


def _predictions(windows: pd.DataFrame, answers: Array, classes: tuple[str, ...]) -> pd.DataFrame:
    table = windows[["subject", "recording", "start"]].assign(truth=windows["label"])
    if not classes:
        return table.assign(prediction=answers[:, 0])
    table["prediction"] = np.array(classes)[answers.argmax(1)]
    for index, label in enumerate(classes):
        table[f"score_{label}"] = answers[:, index]
    return table


def summarise(predictions: pd.DataFrame, classes: tuple[str, ...], seed: int) -> pd.DataFrame:
    """Score every model, over all folds together and fold by fold.

    Parameters
    ----------
    predictions : DataFrame
        Of `run_folds`, with the columns ``seen_in_pretraining`` and ``tested_on``
        (`berger.tasks.TaskConfig.tested_on`).

    Returns
    -------
    DataFrame
        One row per ``model``, ``people`` ("all" or "unseen in pretraining") and ``fold`` (0 = all
        folds together), with the bootstrap intervals: of the balanced accuracy and the area under
        the ROC curve, or, where there are no classes, of all scores of values. ``interval_over``
        says over what: "people", or "recordings" of one person who was also learned from.
    """
    groups = {"all": predictions}
    if predictions["seen_in_pretraining"].any() and not predictions["seen_in_pretraining"].all():
        groups["unseen in pretraining"] = predictions[~predictions["seen_in_pretraining"]]
    rows: list[dict[str, Any]] = []
    for people, table in groups.items():
        for model, own in table.groupby("model", sort=False):
            for fold, part in [(0, own), *own.groupby("fold")]:
                rows.append(
                    {
                        "model": model,
                        "people": people,
                        "fold": fold,
                        "n_subjects": part["subject"].nunique(),
                        "n_recordings": part["recording"].nunique(),
                        "n_windows": len(part),
                    }
                    | (score_predictions(part, classes) if classes else score_values(part))
                    | {
                        f"{score}_{end}": value
                        for score, interval in intervals(part, classes, seed).items()
                        for end, value in zip(("low", "high"), interval, strict=True)
                    }
                    | {"interval_over": unit_of(part)}
                )
    return pd.DataFrame(rows).assign(tested_on=on_whom(predictions))
