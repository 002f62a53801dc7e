"""Metrics against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from berger.evaluation.metrics import (
    calibration,
    calibration_error,
    score_predictions,
    score_values,
)
from berger.evaluation.statistics import balanced_accuracy, confusion_by_subject


def table(
    truth: str, guess: str, classes: str = "ab", scores: dict[str, list[float]] | None = None
) -> pd.DataFrame:
    """One letter a window; without scores a guess has the score 1."""
    given = scores or {name: [float(letter == name) for letter in guess] for name in classes}
    columns = {f"score_{name}": given[name] for name in classes}
    return pd.DataFrame({"subject": "s", "truth": list(truth), "prediction": list(guess)} | columns)


def score(truth: str, guess: str, classes: str = "ab", **scores: list[float]) -> dict[str, float]:
    return score_predictions(table(truth, guess, classes, scores or None), tuple(classes))


def test_two_classes_by_hand() -> None:
    found = score("aaabb", "aabba")
    assert found["balanced_accuracy"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    # agreement 3/5; by chance 3/5 · 3/5 + 2/5 · 2/5 = 13/25
    assert found["kappa"] == pytest.approx((15 / 25 - 13 / 25) / (12 / 25))
    # F1 of a: 2·2 / (3 + 3), of b: 2·1 / (2 + 2); weighed by 3 and 2 of 5
    assert found["f1_weighted"] == pytest.approx(3 / 5 * 2 / 3 + 2 / 5 * 1 / 2)
    # of 6 pairs (b, a) 2 are ordered right and 3 tie: (b guessed, a guessed), …
    assert found["auroc"] == pytest.approx((2 + 0.5 * 3) / 6)


def test_auroc_with_ties_by_hand() -> None:
    high = [0.1, 0.5, 0.9, 0.5, 0.9]
    found = score("aaabb", "aabba", b=high, a=[1 - value for value in high])
    # b's 0.5 beats 0.1, ties with 0.5; b's 0.9 beats 0.1 and 0.5, ties with 0.9
    assert found["auroc"] == pytest.approx((1.5 + 2.5) / 6)
    assert score("ab", "ab", a=[0.5, 0.5], b=[0.5, 0.5])["auroc"] == 0.5
    assert score("ab", "ab", a=[0.4, 0.6], b=[0.6, 0.4])["auroc"] == 0.0


def test_three_classes_by_hand() -> None:
    scores = {
        "a": [0.6, 0.2, 0.5, 0.1],
        "b": [0.3, 0.7, 0.4, 0.3],
        "c": [0.1, 0.1, 0.1, 0.6],
    }
    found = score("abbc", "abac", "abc", **scores)
    assert found["balanced_accuracy"] == pytest.approx((1 + 1 / 2 + 1) / 3)
    # a against the rest: 3 of 3 pairs; b: of (0.7, 0.4) × (0.3, 0.3) all 4; c: 3 of 3
    assert found["auroc"] == pytest.approx(1.0)
    scores["b"] = [0.5, 0.7, 0.4, 0.3]  # 0.4 loses to 0.5: 3 of 4 pairs
    assert score("abbc", "abac", "abc", **scores)["auroc"] == pytest.approx((1 + 3 / 4 + 1) / 3)
    assert found["kappa"] == pytest.approx((12 / 16 - 5 / 16) / (11 / 16))


def test_a_class_that_does_not_occur() -> None:
    """A fold without class c: the mean is over a and b, and a guess of c is a miss."""
    found = score("aab", "acb", "abc")
    assert found["balanced_accuracy"] == pytest.approx((1 / 2 + 1) / 2)
    assert math.isnan(found["auroc"])
    assert found["kappa"] == pytest.approx((6 / 9 - 3 / 9) / (6 / 9))
    # F1 of a: 2/3, of b: 1
    assert found["f1_weighted"] == pytest.approx(2 / 3 * 2 / 3 + 1 / 3)
    # 2/3 where the mean over all three would be 4/9
    assert score("aab", "aca", "abc")["balanced_accuracy"] == pytest.approx(1 / 4)
    assert score("aaab", "aacb", "abc")["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)


@pytest.mark.parametrize(
    ("guess", "balanced", "kappa", "f1"),
    [("aaa", 1.0, math.nan, 1.0), ("aab", 2 / 3, 0.0, 4 / 5), ("bbb", 0.0, 0.0, 0.0)],
)
def test_one_class_only(guess: str, balanced: float, kappa: float, f1: float) -> None:
    found = score("aaa", guess)
    assert found["balanced_accuracy"] == pytest.approx(balanced)
    assert found["kappa"] == pytest.approx(kappa, nan_ok=True)
    assert found["f1_weighted"] == pytest.approx(f1)
    assert math.isnan(found["auroc"])


def test_always_the_same_guess_is_chance() -> None:
    for classes in ("ab", "abc", "abcd"):
        found = score(classes * 5, classes[0] * 5 * len(classes), classes)
        assert found["balanced_accuracy"] == pytest.approx(1 / len(classes))
        assert found["kappa"] == pytest.approx(0)
        assert found["auroc"] == pytest.approx(0.5)


@pytest.mark.parametrize("seed", range(5))
def test_rows_may_come_in_any_order_and_perfection_is_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, guess = ("".join(rng.choice(list("abc"), 30)) for _ in range(2))
    rows = table(truth, guess, "abc")
    shuffled = rows.sample(frac=1, random_state=seed)
    classes = ("a", "b", "c")
    one, other = score_predictions(rows, classes), score_predictions(shuffled, classes)
    assert one == pytest.approx(other)
    perfect = score(truth, truth, "abc")
    assert (perfect.pop("calibration_error"), perfect.pop("brier")) == (0, 0)
    assert set(perfect.values()) == {1.0}
    # the bootstrap's own balanced accuracy is the same number
    confusion = confusion_by_subject(rows, classes).sum(0)
    assert one["balanced_accuracy"] == pytest.approx(float(balanced_accuracy(confusion)))


def test_average_precision_with_ties_by_hand() -> None:
    high = [0.1, 0.5, 0.9, 0.5, 0.9]
    found = score("aaabb", "aabba", b=high, a=[1 - value for value in high])
    # above 0.9: 1 of 2 is b, half of the b; above 0.5: 2 of 4, the other half
    assert found["auprc"] == pytest.approx(1 / 2 * 1 / 2 + 1 / 2 * 2 / 4)
    # one answer for all: as many as there are of b
    assert score("aaab", "aaaa", a=[0.5] * 4, b=[0.5] * 4)["auprc"] == pytest.approx(1 / 4)
    assert math.isnan(score("aaa", "aab")["auprc"])


def test_calibration_by_hand() -> None:
    sure = [0.9, 0.9, 0.9, 0.9, 0.6, 0.6]
    rows = table(
        "aaabab", "aaaabb", scores={"a": [*sure[:4], 0.4, 0.4], "b": [0.1] * 4 + [0.6] * 2}
    )
    bins = calibration(rows, ("a", "b"))
    assert bins["confidence"].tolist() == pytest.approx([0.6, 0.9])
    assert bins["accuracy"].tolist() == pytest.approx([1 / 2, 3 / 4])
    assert bins["n_windows"].tolist() == [2, 4]
    assert calibration_error(bins) == pytest.approx((0.1 * 2 + 0.15 * 4) / 6)
    # (1 − 0.9)² + 0.1² thrice, 0.9² · 2 for the wrong one, 0.6² · 2 and 0.4² · 2
    brier = (3 * 2 * 0.01 + 2 * 0.81 + 2 * 0.36 + 2 * 0.16) / 6
    assert score_predictions(rows, ("a", "b"))["brier"] == pytest.approx(brier)


def test_certainty_falls_into_the_last_bin() -> None:
    bins = calibration(table("ab", "aa"), ("a", "b"))
    assert bins[["confidence", "accuracy", "n_windows"]].to_numpy().tolist() == [[1.0, 0.5, 2.0]]


def values(truth: list[float], guess: list[float]) -> dict[str, float]:
    return score_values(pd.DataFrame({"truth": truth, "prediction": guess}))


def test_values_by_hand() -> None:
    found = values([1, 2, 3, 4], [2, 2, 3, 5])
    # deviations −1.5 −0.5 0.5 1.5 and −1 −1 0 2: covariance 5, squares 5 and 6
    assert found["pearson"] == pytest.approx(5 / math.sqrt(5 * 6))
    assert found["r2"] == pytest.approx(1 - 2 / 5)
    assert found["rmse"] == pytest.approx(math.sqrt(2 / 4))
    worse = values([1, 2, 3], [3, 2, 1])
    assert worse["pearson"] == pytest.approx(-1)
    assert worse["r2"] == pytest.approx(1 - 8 / 2)


def test_values_that_do_not_vary() -> None:
    found = values([2, 2, 2], [1, 2, 3])
    assert math.isnan(found["pearson"])
    assert math.isnan(found["r2"])
    assert found["rmse"] == pytest.approx(math.sqrt(2 / 3))
    constant = values([1, 2, 3], [2, 2, 2])
    assert math.isnan(constant["pearson"])
    assert constant["r2"] == pytest.approx(0)
