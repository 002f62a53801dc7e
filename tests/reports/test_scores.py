from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from berger.reports.scores import comparison, in_order, looks_of, own_accuracies


def results(**intervals: tuple[float, float, float]) -> pd.DataFrame:
    columns = ["balanced_accuracy", "balanced_accuracy_low", "balanced_accuracy_high"]
    table = pd.DataFrame(intervals, index=columns).T.rename_axis("model").reset_index()
    table["model"] = table["model"].str.replace("_", " ")
    return table.assign(people="all", fold=0)


def test_overlapping_intervals_are_no_difference() -> None:
    said = comparison(results(frozen_probe=(0.7, 0.6, 0.8), other=(0.6, 0.5, 0.61)), 0.5)
    assert "above chance (0.50)" in said
    assert "No difference is shown from other (0.60, 0.50–0.61): the intervals overlap." in said


@pytest.mark.parametrize(
    ("other", "relation"),
    [
        ((0.5, 0.4, 0.59), "It is better than other"),
        ((0.9, 0.81, 0.95), "It is worse than other"),
        ((0.5, 0.4, 0.6), "No difference is shown from other"),  # touching is overlapping
    ],
)
def test_separate_intervals_are_a_difference(
    other: tuple[float, float, float], relation: str
) -> None:
    assert relation in comparison(results(frozen_probe=(0.7, 0.6, 0.8), other=other), 0.5)


@pytest.mark.parametrize(
    ("interval", "level"),
    [
        ((0.5, 0.45, 0.55), "no difference from chance"),
        ((0.4, 0.3, 0.49), "below chance"),
        ((0.6, 0.51, 0.7), "above chance"),
    ],
)
def test_chance_counts_as_a_line(interval: tuple[float, float, float], level: str) -> None:
    said = comparison(results(frozen_probe=interval, chance=(0.5, 0.5, 0.5)), 0.5)
    assert level in said
    assert "from chance (0.50, " not in said


def test_without_an_interval_nothing_is_claimed() -> None:
    said = comparison(results(frozen_probe=(0.7, np.nan, np.nan), chance=(0.5, 0.5, 0.5)), 0.5)
    assert said == "The frozen probe reaches a balanced accuracy of 0.70, without an interval."


def test_baselines_stand_behind_and_chance_is_not_drawn() -> None:
    models = ["chance", "band power + logistic regression", "new idea", "frozen probe", "new idea"]
    ordered = ["new idea", "frozen probe", "band power + logistic regression", "chance"]
    assert in_order(models) == ordered
    assert list(looks_of(models)) == ordered[:-1]


def test_own_accuracy_is_the_mean_recall() -> None:
    table = pd.DataFrame(
        [
            ("m", "a", "x", "x"),
            ("m", "a", "x", "x"),
            ("m", "a", "x", "y"),
            ("m", "a", "y", "x"),
            ("m", "b", "x", "x"),
            ("chance", "b", "x", "x"),
        ],
        columns=["model", "subject", "truth", "prediction"],
    )
    own = own_accuracies(table).set_index("subject")
    assert own.loc["a", "accuracy"] == pytest.approx((2 / 3 + 0) / 2)
    assert own.loc["b", "accuracy"] == 1
    assert own["n_classes"].to_dict() == {"a": 2, "b": 1}
    assert not own["seen"].any()
