"""The interval over people is as wide as it has to be."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from berger.evaluation.statistics import (
    balanced_accuracy,
    balanced_accuracy_interval,
    confusion_by_subject,
)

CLASSES = ("a", "b")


def simulate(
    n_people: int, rng: np.random.Generator, n_windows: int = 20, mean: float = 0.7
) -> pd.DataFrame:
    """People who differ: whoever is read well is read well in every window."""
    skill = rng.beta(8 * mean, 8 * (1 - mean), n_people)
    right = rng.random((n_people, n_windows)) < skill[:, None]
    truth = np.tile(np.arange(n_windows) % 2, (n_people, 1))
    names = np.array(CLASSES)
    return pd.DataFrame(
        {
            "subject": np.repeat([f"s{i:03}" for i in range(n_people)], n_windows),
            "truth": names[truth].ravel(),
            "prediction": names[np.where(right, truth, 1 - truth)].ravel(),
        }
    )


def test_confusion_by_hand() -> None:
    table = pd.DataFrame(
        {
            "subject": ["t", "s", "s", "s"],
            "truth": ["a", "b", "b", "a"],
            "prediction": ["b", "b", "a", "a"],
        }
    )
    counts = confusion_by_subject(table, ("a", "b", "c"))
    assert counts.tolist() == [
        [[1, 0, 0], [1, 1, 0], [0, 0, 0]],  # s
        [[0, 1, 0], [0, 0, 0], [0, 0, 0]],  # t
    ]
    # s: (1 + 1/2) / 2; t: class a only, never right; together: a 1/2, b 1/2
    assert balanced_accuracy(counts).tolist() == [0.75, 0.0]
    assert balanced_accuracy(counts.sum(0)) == 0.5


def test_the_interval_covers_the_truth_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    n_trials, inside = 300, 0
    for trial in range(n_trials):
        low, high = balanced_accuracy_interval(
            simulate(40, rng), CLASSES, seed=trial, n_resamples=400
        )
        inside += low <= 0.7 <= high
    # 95 % of 300 is 285, with a standard deviation of 3.8; 40 people cost a percent or so
    assert 0.90 <= inside / n_trials <= 0.98


def test_fewer_people_make_it_wider() -> None:
    rng = np.random.default_rng(1)

    def width(n_people: int) -> float:
        widths = []
        for seed in range(10):
            low, high = balanced_accuracy_interval(
                simulate(n_people, rng), CLASSES, seed, n_resamples=300
            )
            widths.append(high - low)
        return float(np.mean(widths))

    widths = [width(n_people) for n_people in (5, 20, 80, 320)]
    assert widths == sorted(widths, reverse=True)
    # as one over the square root
    assert widths[1] / widths[3] == pytest.approx(4, rel=0.2)


def test_more_windows_of_the_same_people_do_not_make_it_narrower() -> None:
    table = simulate(12, np.random.default_rng(2))
    fourfold = pd.concat([table] * 4)
    assert balanced_accuracy_interval(table, CLASSES, 0) == balanced_accuracy_interval(
        fourfold, CLASSES, 0
    )


def test_people_who_are_alike_make_it_a_point() -> None:
    one = simulate(1, np.random.default_rng(3))
    alike = pd.concat([one.assign(subject=name) for name in "pqrs"])
    (value,) = balanced_accuracy(confusion_by_subject(one, CLASSES))
    assert balanced_accuracy_interval(alike, CLASSES, 0) == pytest.approx((value, value))


def test_a_seed_an_interval() -> None:
    table = simulate(10, np.random.default_rng(4))
    assert balanced_accuracy_interval(table, CLASSES, 1) == balanced_accuracy_interval(
        table.sample(frac=1, random_state=0), CLASSES, 1
    )
    narrow = balanced_accuracy_interval(table, CLASSES, 1, level=0.5)
    wide = balanced_accuracy_interval(table, CLASSES, 1, level=0.99)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_one_person_says_nothing_about_others() -> None:
    table = simulate(1, np.random.default_rng(5))
    assert all(map(math.isnan, balanced_accuracy_interval(table, CLASSES, 0)))


def test_people_with_one_class_each() -> None:
    """Some resamples hold one class only: recall is then averaged over that one."""
    table = pd.DataFrame({"subject": ["p", "q"], "truth": ["a", "b"], "prediction": ["a", "a"]})
    assert balanced_accuracy_interval(table, CLASSES, 0) == (0.0, 1.0)
