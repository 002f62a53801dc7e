"""How sure a number is, and a difference: by people, whose windows are not independent.

Intervals are bootstraps over people. Models are compared on the same people: if they are alike, it
does not matter which of the two answered for a person, so that swapping them person by person says
how large a difference chance makes. All seeds of a person go together.

Of one person who was also learned from, recordings take the place of people: what is said then
holds for more recordings of this person, and not for others. docs/decisions/0028-within-subject.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

N_RESAMPLES = 2000
N_SWAPS = 10_000
"""Random swaps of a comparison; with so few people that all swaps are fewer, all are made."""

Floats = npt.NDArray[np.float64]


def unit_of(predictions: pd.DataFrame) -> Literal["people", "recordings"]:
    """Return what is drawn by a bootstrap, and swapped: people, or one person's recordings.

    Parameters
    ----------
    predictions : DataFrame
        ``subject`` and, unless strangers were tested, ``tested_on``.
    """
    known = on_whom(predictions) != "strangers"
    return "recordings" if known and predictions["subject"].nunique() == 1 else "people"


def on_whom(predictions: pd.DataFrame) -> str:
    """Return what a table of one task's predictions has under ``tested_on``."""
    return str(predictions["tested_on"].iloc[0]) if "tested_on" in predictions else "strangers"


def _by_unit(predictions: pd.DataFrame) -> pd.DataFrame:
    """Put what is drawn into the column of people."""
    if unit_of(predictions) == "people":
        return predictions
    return predictions.assign(subject=predictions["recording"])


def intervals(
    predictions: pd.DataFrame, classes: tuple[str, ...], seed: int
) -> dict[str, tuple[float, float]]:
    """Return the bootstrap intervals that a table of results has, by score.

    With a column ``seed`` they are those of the scores' means over seeds: a person who is drawn is
    drawn with the predictions of every seed.
    """
    predictions = _by_unit(predictions)
    tables = [predictions]
    if "seed" in predictions:
        tables = [own for _, own in predictions.groupby("seed")]
    draws = [_draws(table, classes, seed) for table in tables]
    return {
        score: _middle(np.mean([one[score] for one in draws], axis=0), 0.95) for score in draws[0]
    }


def _draws(predictions: pd.DataFrame, classes: tuple[str, ...], seed: int) -> dict[str, Floats]:
    """Each score in every resample of people (N_RESAMPLES,)."""
    if not classes:
        return _value_draws(predictions, seed, N_RESAMPLES)
    return {
        "balanced_accuracy": _accuracy_draws(predictions, classes, seed, N_RESAMPLES),
        "auroc": _auroc_draws(predictions, classes, seed, N_RESAMPLES),
    }


def _value_draws(predictions: pd.DataFrame, seed: int, n_resamples: int) -> dict[str, Floats]:
    """Return ``pearson``, ``r2`` and ``rmse`` of each draw; NaN where one is not defined."""
    truth, guess = (predictions[name].to_numpy(np.float64) for name in ("truth", "prediction"))
    people, subject = np.unique(predictions["subject"], return_inverse=True)
    if len(people) < 2:
        return dict.fromkeys(("pearson", "r2", "rmse"), np.full(n_resamples, np.nan))
    middle = truth.mean()  # sums of squares of large numbers would cancel
    t, g = truth - middle, guess - middle
    products = np.stack([np.ones_like(t), t, g, t * t, g * g, t * g, (t - g) ** 2], axis=1)
    sums = np.zeros((len(people), products.shape[1]))
    np.add.at(sums, subject, products)
    drawn = sums[_draw_people(len(people), n_resamples, seed)].sum(1)
    n, st, sg, stt, sgg, stg, error = drawn.T
    var_t, var_g = stt - st * st / n, sgg - sg * sg / n
    least = 1e-12 * stt.mean()
    with np.errstate(invalid="ignore", divide="ignore"):
        pearson = np.where(
            (var_t > least) & (var_g > least), (stg - st * sg / n) / np.sqrt(var_t * var_g), np.nan
        )
        r2 = np.where(var_t > least, 1 - error / var_t, np.nan)
    return {"pearson": pearson, "r2": r2, "rmse": np.sqrt(error / n)}


def interval_text(low: float, high: float, over: str) -> str:
    """Return what a printed table says of an interval over people, or over recordings of one."""
    if np.isnan(low):
        return "one person" if over == "people" else "one recording"
    return f"{low:.3f} to {high:.3f}{', over recordings' * (over == 'recordings')}"


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
    return _middle(_accuracy_draws(_by_unit(predictions), classes, seed, n_resamples), level)


def _accuracy_draws(
    predictions: pd.DataFrame, classes: tuple[str, ...], seed: int, n_resamples: int
) -> Floats:
    counts = confusion_by_subject(predictions, classes)
    if len(counts) < 2:
        return np.full(n_resamples, np.nan)
    return balanced_accuracy(counts[_draw_people(len(counts), n_resamples, seed)].sum(1))


def auroc_interval(
    predictions: pd.DataFrame,
    classes: tuple[str, ...],
    seed: int,
    level: float = 0.95,
    n_resamples: int = N_RESAMPLES,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the area under the ROC curve, resampling people.

    Parameters
    ----------
    predictions : DataFrame
        Columns ``subject``, ``truth`` and ``score_<class>`` for each class.
    classes, seed, level, n_resamples
        As in `balanced_accuracy_interval`.

    Returns
    -------
    tuple of float
        Of the second class of two, else of the mean over classes against the rest; NaN with fewer
        than two people, or where some class does not occur. Draws without every class count for
        nothing. Nobody's windows are compared with those of a copy of the same person.
    """
    return _middle(_auroc_draws(_by_unit(predictions), classes, seed, n_resamples), level)


def _auroc_draws(
    predictions: pd.DataFrame, classes: tuple[str, ...], seed: int, n_resamples: int
) -> Floats:
    people, subject = np.unique(predictions["subject"], return_inverse=True)
    truth = predictions["truth"].to_numpy()
    if len(people) < 2 or len(set(truth)) < len(classes):
        return np.full(n_resamples, np.nan)
    weights = _times_drawn(_draw_people(len(people), n_resamples, seed), len(people))
    asked = classes[1:] if len(classes) == 2 else classes
    areas = []
    for name in asked:
        is_class, scores = truth == name, predictions[f"score_{name}"].to_numpy(np.float64)
        won = concordance_by_subject(scores, is_class, subject, len(people))
        pairs = np.outer(
            *(np.bincount(subject[own], minlength=len(people)) for own in (is_class, ~is_class))
        )
        right, total = (_in_draws(some.astype(float), weights) for some in (won, pairs))
        areas.append(np.divide(right, total, out=np.full(n_resamples, np.nan), where=total > 0))
    mean: Floats = np.mean(areas, axis=0)
    return mean


def _in_draws(pairs: Floats, weights: Floats) -> Floats:
    """Sum what is given for pairs of people (n_people, n_people) over draws (n_draws, n_people).

    Who is drawn several times is not paired with the copies: within a person order is more often
    right than between people, so that such pairs would raise the area. The factor makes the pairs
    within people count, in the mean over draws, as those between them.
    """
    within = np.diagonal(pairs)
    between = pairs - np.diag(within)
    own: Floats = weights @ within * (1 - 1 / len(within))
    summed: Floats = np.einsum("di,ij,dj->d", weights, between, weights) + own
    return summed


def concordance_by_subject(
    scores: Floats, is_class: npt.NDArray[np.bool_], subject: npt.NDArray[np.int64], n_people: int
) -> Floats:
    """Count pairs of windows whose order by score is right, for each pair of people.

    Parameters
    ----------
    scores : ndarray, shape (n_windows,)
    is_class : ndarray of bool, shape (n_windows,)
    subject : ndarray of int, shape (n_windows,)
        Whose window it is, from 0 to `n_people` − 1.
    n_people : int

    Returns
    -------
    ndarray, shape (n_people, n_people)
        At [i, j] the pairs of a window of person i in the class and a window of person j outside it
        where the first has the higher score; ties count half. Their sum over the number of all
        such pairs is the area under the ROC curve.
    """
    won = np.zeros((n_people, n_people))
    inside = [scores[is_class & (subject == person)] for person in range(n_people)]
    for person in range(n_people):
        outside = np.sort(scores[~is_class & (subject == person)])
        for other, own in enumerate(inside):
            below = np.searchsorted(outside, own, "left")
            up_to = np.searchsorted(outside, own, "right")
            won[other, person] = (below + up_to).sum() / 2
    return won


def compare_models(
    predictions: pd.DataFrame,
    classes: tuple[str, ...],
    seed: int,
    *,
    pairs: Sequence[tuple[str, str]] | None = None,
    level: float = 0.95,
) -> pd.DataFrame:
    """Compare models by their balanced accuracy, or values by their root mean squared error.

    Parameters
    ----------
    predictions : DataFrame
        Columns ``model``, ``subject``, ``truth``, ``prediction`` and, with several seeds,
        ``seed``. Every model has answered for every person, with every seed of its own.
    classes : tuple of str
        Empty: ``truth`` and ``prediction`` are values.
    seed : int
        Of draws and swaps.
    pairs : sequence of (str, str), optional
        What is compared, as one family of comparisons; default: all pairs.
    level : float
        Of the intervals, and 1 − the error of calling anything a difference.

    Returns
    -------
    DataFrame
        One row per pair ``model, other``: ``difference`` of balanced accuracies, or of root mean
        squared errors, means over seeds; ``low, high`` from a bootstrap over people; ``p`` from
        swapping; ``p_holm``, corrected after Holm (1979) for the number of pairs; ``verdict``:
        "better", "worse" or "no difference", by `p_holm`; ``interval_over``, which is "people", or
        "recordings" of one person who was also learned from.

    Raises
    ------
    ValueError
        If the models did not answer for the same people, with the same seeds.
    """
    unit, predictions = unit_of(predictions), _by_unit(predictions)
    if "seed" not in predictions:
        predictions = predictions.assign(seed=0)
    names = list(dict.fromkeys(predictions["model"]))
    asked = predictions.groupby(["model", "seed"])["subject"].agg(lambda who: tuple(sorted({*who})))
    if asked.unstack("seed").isna().any(axis=None) or asked.nunique() > 1:
        raise ValueError("the models did not answer for the same people, with the same seeds")
    tallies = {name: _tally(predictions[predictions["model"] == name], classes) for name in names}
    value = balanced_accuracy if classes else _root_mean_square
    rows = []
    for model, other in combinations(names, 2) if pairs is None else pairs:
        one, two = tallies[model], tallies[other]
        n_people = one.shape[1]

        def difference(one: Floats, two: Floats) -> Floats:
            """Of sums over people (n_draws, n_seeds, ...), for every draw."""
            result: Floats = value(one).mean(1) - value(two).mean(1)
            return result

        found = float(difference(one.sum(1)[None], two.sum(1)[None])[0])
        low = high = p = float("nan")
        if n_people > 1:
            drawn = _draw_people(n_people, N_RESAMPLES, seed)
            times = _times_drawn(drawn, n_people)
            low, high = _middle(difference(_weighed(times, one), _weighed(times, two)), level)
            swapped = _swaps(n_people, seed)
            chance = difference(
                _weighed(1 - swapped, one) + _weighed(swapped, two),
                _weighed(1 - swapped, two) + _weighed(swapped, one),
            )
            as_large = np.abs(chance) >= abs(found) - 1e-12
            every_swap = len(swapped) == 2**n_people  # holds what was found itself
            p = float(as_large.mean() if every_swap else (as_large.sum() + 1) / (len(swapped) + 1))
        rows.append((model, other, found, low, high, p))
    table = pd.DataFrame(rows, columns=["model", "other", "difference", "low", "high", "p"])
    table["p_holm"] = holm(table["p"].to_numpy())
    ahead = table["difference"] > 0 if classes else table["difference"] < 0
    sure = table["p_holm"] < 1 - level
    table["verdict"] = np.where(~sure, "no difference", np.where(ahead, "better", "worse"))
    return table.assign(interval_over=unit)


def holm(p: Floats) -> Floats:
    """Correct p values for their number (Holm, Scandinavian Journal of Statistics 1979).

    NaNs stay and do not count.
    """
    corrected = np.full(len(p), np.nan)
    order = np.argsort(p)[: np.isfinite(p).sum()]  # NaN come last
    steps = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected


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


def balanced_accuracy(confusion: npt.NDArray[np.int64] | Floats) -> Floats:
    """Mean recall of the classes that occur, from confusion counts (..., n_true, n_predicted)."""
    true_total = confusion.sum(-1)
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    recall = np.where(true_total > 0, hits / np.maximum(true_total, 1), np.nan)
    result: Floats = np.nanmean(recall, axis=-1)
    return result


def _tally(predictions: pd.DataFrame, classes: tuple[str, ...]) -> Floats:
    """Return what is summed over people: confusion counts, or squared error and number of windows.

    Its shape begins with (n_seeds, n_people).
    """
    tallies = []
    for _, own in predictions.groupby("seed"):
        if classes:
            tallies.append(confusion_by_subject(own, classes).astype(np.float64))
        else:
            error = (own["prediction"] - own["truth"]) ** 2
            sums = error.groupby(own["subject"]).agg(["sum", "size"])
            tallies.append(sums.to_numpy(np.float64))
    return np.stack(tallies)


def _root_mean_square(sums: Floats) -> Floats:
    """Of sums (..., 2) of squares and of their number."""
    result: Floats = np.sqrt(sums[..., 0] / sums[..., 1])
    return result


def _weighed(weights: Floats, tally: Floats) -> Floats:
    """Sum over people (n_seeds, n_people, ...) with weights (n_draws, n_people)."""
    result: Floats = np.einsum("dp,sp...->ds...", weights, tally)
    return result


def _draw_people(n_people: int, n_draws: int, seed: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(seed).integers(n_people, size=(n_draws, n_people))


def _times_drawn(drawn: npt.NDArray[np.int64], n_people: int) -> Floats:
    """How often each person is in each draw (n_draws, n_people)."""
    times: Floats = (drawn[:, :, None] == np.arange(n_people)).sum(1).astype(np.float64)
    return times


def _swaps(n_people: int, seed: int) -> Floats:
    """Who is swapped (n_swaps, n_people): all ways if they are few, else random ones."""
    if 2**n_people <= N_SWAPS:
        every = np.arange(2**n_people)[:, None] >> np.arange(n_people)
        return (every & 1).astype(np.float64)
    rng = np.random.default_rng([seed, n_people])
    return rng.integers(2, size=(N_SWAPS, n_people)).astype(np.float64)


def _middle(values: Floats, level: float) -> tuple[float, float]:
    """Ends of the middle part of the values."""
    tail = 50 * (1 - level)
    if np.isnan(values).all():
        return float("nan"), float("nan")
    low, high = np.nanpercentile(values, [tail, 100 - tail])
    return float(low), float(high)
