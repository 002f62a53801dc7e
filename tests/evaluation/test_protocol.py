"""The protocol: nobody on two sides, choices by validation people, one look at the test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berger.errors import BergerError
from berger.evaluation.protocol import (
    Fit,
    Fold,
    Mask,
    choose_penalty,
    class_numbers,
    run_folds,
    summarise,
)
from berger.tasks.folds import make_folds

Array = npt.NDArray[np.float64]
CLASSES = ("a", "b", "c")
N_WINDOWS = 6  # a person
PEOPLE = [f"p{number}" for number in range(7)]


# folds


@settings(max_examples=100, deadline=None)
@given(
    n_people=st.integers(4, 30),
    n_folds=st.integers(2, 30),
    share=st.floats(0.05, 0.95),
    seed=st.integers(0, 2**32 - 1),
)
def test_folds_are_disjoint_and_test_everybody_once(
    n_people: int, n_folds: int, share: float, seed: int
) -> None:
    people = [f"sub-{number}" for number in range(n_people)]
    n_folds = min(n_folds, n_people)
    folds = make_folds(people, n_folds, share, seed)
    assert len(folds) == n_folds
    assert sorted(person for fold in folds for person in fold.test) == sorted(people)
    for fold in folds:
        parts = (fold.train, fold.validation, fold.test)
        assert all(parts)
        assert sorted(person for part in parts for person in part) == sorted(people)
    again = make_folds([*reversed(people), *people], n_folds, share, seed)
    assert again == folds  # order and repetition do not matter


def test_the_share_of_validation_people() -> None:
    people = [f"p{number:02}" for number in range(24)]
    for fold in make_folds(people, 6, 0.25, 0):
        assert (len(fold.train), len(fold.validation), len(fold.test)) == (15, 5, 4)
    assert make_folds(people, 6, 0.25, 0) != make_folds(people, 6, 0.25, 1)


@pytest.mark.parametrize("people", [["p"], ["p", "q"], ["p", "p", "q"]])
def test_too_few_people(people: list[str]) -> None:
    with pytest.raises(BergerError, match="only; folds by person need at least three people"):
        make_folds(people, 2, 0.25, 0)


def test_three_people_need_three_folds() -> None:
    with pytest.raises(BergerError, match=r"2 folds of 3 people leave \w alone .* take more folds"):
        make_folds(["p", "q", "r"], 2, 0.25, 0)
    for fold in make_folds(["p", "q", "r"], 3, 0.25, 0):
        assert len(fold.train) == len(fold.validation) == len(fold.test) == 1


# one look


def windows_of(people: list[str] = PEOPLE) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "recording": [f"{person}.edf" for person in people for _ in range(N_WINDOWS)],
            "subject": [person for person in people for _ in range(N_WINDOWS)],
            "start": [100 * window for _ in people for window in range(N_WINDOWS)],
            "label": [CLASSES[window % 3] for _ in people for window in range(N_WINDOWS)],
        }
    )


class Spy:
    """A model that notes what it is shown. A feature is the number of its window."""

    def __init__(self, right: Callable[[float, int], bool]) -> None:
        self.right = right  # penalty, window → whether it guesses this window right
        self.fitted: list[tuple[float, tuple[int, ...], tuple[int, ...]]] = []
        self.asked: list[tuple[float, int, tuple[int, ...]]] = []

    def __call__(self, features: Array, labels: npt.NDArray[Any], penalty: float) -> Any:
        rows = tuple(features[:, 0].astype(int).tolist())
        self.fitted.append((penalty, rows, tuple(labels.tolist())))

        def probabilities(new: Array) -> Array:
            asked = tuple(new[:, 0].astype(int).tolist())
            self.asked.append((penalty, len(rows), asked))
            guess = [(row + (not self.right(penalty, row))) % 3 for row in asked]
            return np.eye(3)[guess]

        return probabilities


def cross_validate(
    windows: pd.DataFrame,
    features: Array,
    classes: tuple[str, ...],
    folds: list[Fold],
    fit: Fit,
    penalties: tuple[float, ...],
) -> Any:
    """Run the protocol for a model that reads features and has a penalty to choose."""
    labels = class_numbers(windows, classes)

    def learn(train: Mask, validation: Mask) -> tuple[Callable[[Mask], Array], float]:
        model, penalty = choose_penalty(features, labels, train, validation, fit, penalties)
        return lambda some: model(features[some]), penalty

    return run_folds("spy", windows, classes, folds, learn)


def run(spy: Spy, folds: list[Fold], penalties: tuple[float, ...], **changes: Any) -> Any:
    windows = windows_of().assign(**changes)
    features = np.arange(len(windows), dtype=float)[:, None]
    return cross_validate(windows, features, CLASSES, folds, spy, penalties)


def rows_of(people: tuple[str, ...]) -> tuple[int, ...]:
    table = windows_of()
    return tuple(np.flatnonzero(table["subject"].isin(people)).tolist())


def test_the_test_people_are_looked_at_once() -> None:
    penalties = (0.1, 1.0, 10.0)
    folds = make_folds(PEOPLE, 3, 0.3, 0)
    spy = Spy(lambda penalty, row: True)
    run(spy, folds, penalties)
    fitted, asked = iter(spy.fitted), iter(spy.asked)
    for fold in folds:
        train, validation, test = map(rows_of, (fold.train, fold.validation, fold.test))
        for penalty in penalties:
            assert next(fitted) == (penalty, train, tuple(row % 3 for row in train))
            assert next(asked) == (penalty, len(train), validation)
        known = tuple(sorted(train + validation))
        assert next(fitted) == (0.1, known, tuple(row % 3 for row in known))
        assert next(asked) == (0.1, len(known), test)
    assert next(fitted, None) is None
    assert next(asked, None) is None


def test_the_choice_is_made_by_validation_people_alone() -> None:
    (fold,) = make_folds(PEOPLE, 7, 0.4, 1)[:1]
    train, validation, test = map(rows_of, (fold.train, fold.validation, fold.test))
    # each penalty is right about one part of the people only
    part = {0.1: train, 1.0: validation, 10.0: test}
    spy = Spy(lambda penalty, row: row in part[penalty])
    tested = run(spy, [fold], (0.1, 1.0, 10.0))
    assert tested.choices == (1.0,)
    assert (tested.predictions["prediction"] != tested.predictions["truth"]).all()


def test_labels_of_test_people_change_nothing_but_their_truth() -> None:
    (fold,) = make_folds(PEOPLE, 7, 0.4, 1)[:1]
    table = windows_of()
    poisoned = table["label"].where(~table["subject"].isin(fold.test), "c")
    spies = [Spy(lambda penalty, row: row % 4 != 0) for _ in range(2)]
    clean, other = (
        run(spies[0], [fold], (0.1, 1.0)),
        run(spies[1], [fold], (0.1, 1.0), label=poisoned),
    )
    assert spies[0].fitted == spies[1].fitted
    assert clean.choices == other.choices
    assert clean.predictions["prediction"].tolist() == other.predictions["prediction"].tolist()
    assert set(other.predictions["truth"]) == {"c"}


def test_the_best_penalty_is_chosen_and_the_first_of_equals() -> None:
    (fold,) = make_folds(PEOPLE, 7, 0.4, 1)[:1]
    for best in (0.1, 1.0, 10.0):
        spy = Spy(lambda penalty, row, best=best: penalty == best or row % 2 == 0)  # type: ignore[misc]
        assert run(spy, [fold], (0.1, 1.0, 10.0)).choices == (best,)
    spy = Spy(lambda penalty, row: penalty > 0.5)
    assert run(spy, [fold], (0.1, 1.0, 10.0)).choices == (1.0,)


def test_one_penalty_needs_no_choice() -> None:
    folds = make_folds(PEOPLE, 3, 0.3, 0)
    spy = Spy(lambda penalty, row: True)
    assert run(spy, folds, (0.5,)).choices == (0.5, 0.5, 0.5)
    assert len(spy.fitted) == 3


def test_choosing_is_by_balanced_accuracy() -> None:
    """The validation person has class a often and b once: being right about b counts for more."""
    windows = pd.DataFrame(
        {
            "recording": "r",
            "subject": ["t"] * 2 + ["v"] * 5 + ["x"] * 2,
            "start": range(9),
            "label": list("ab") + list("aaaab") + list("ab"),
        }
    )

    def fit(features: Array, labels: npt.NDArray[Any], penalty: float) -> Any:
        # 0.1 always says a (accuracy 4/5); 1.0 says b where the window's number is 4 or 6
        def probabilities(new: Array) -> Array:
            says_b = (penalty == 1.0) & np.isin(new[:, 0], (4, 5, 6))
            return np.eye(2)[says_b.astype(int)]

        return probabilities

    fold = Fold(("t",), ("v",), ("x",))
    features = np.arange(9.0)[:, None]
    # 0.1: (1 + 0) / 2; 1.0: (2/4 + 1) / 2, though it is right only 3 times of 5
    tested = cross_validate(windows, features, ("a", "b"), [fold], fit, (0.1, 1.0))
    assert tested.choices == (1.0,)


def test_the_predictions_table() -> None:
    folds = make_folds(PEOPLE, 3, 0.3, 0)
    table = run(Spy(lambda penalty, row: row % 2 == 0), folds, (1.0,)).predictions
    assert len(table) == len(PEOPLE) * N_WINDOWS
    assert not table.duplicated(["recording", "start"]).any()
    assert set(table["model"]) == {"spy"}
    assert sorted(table["fold"].unique()) == [1, 2, 3]
    for number, fold in enumerate(folds, start=1):
        assert set(table[table["fold"] == number]["subject"]) == set(fold.test)
    scores = table[[f"score_{name}" for name in CLASSES]].to_numpy()
    np.testing.assert_allclose(scores.sum(1), 1)
    assert [CLASSES[i] for i in scores.argmax(1)] == table["prediction"].tolist()
    truth = windows_of().set_index(["recording", "start"])["label"]
    for row in table.itertuples():
        assert row.truth == truth[row.recording, row.start]


# the table of results


def predictions(seen: list[str]) -> pd.DataFrame:
    folds = make_folds(PEOPLE, 3, 0.3, 0)
    models = [
        run(Spy(rule), folds, (1.0,)).predictions.assign(model=name)
        for name, rule in {
            "good": lambda penalty, row: True,
            "poor": lambda penalty, row: row % 2 == 0 or row < 12,
        }.items()
    ]
    table = pd.concat(models, ignore_index=True)
    return table.assign(seen_in_pretraining=table["subject"].isin(seen))


def test_a_row_for_each_model_and_fold() -> None:
    results = summarise(predictions([]), CLASSES, seed=0)
    assert results[["model", "people", "fold"]].to_numpy().tolist() == [
        [model, "all", fold] for model in ("good", "poor") for fold in range(4)
    ]
    together = results[results["fold"] == 0].set_index("model")
    assert together["n_subjects"].tolist() == [7, 7]
    assert together["n_windows"].tolist() == [42, 42]
    assert together.loc["good", "balanced_accuracy"] == 1
    assert together.loc["good", "balanced_accuracy_low"] == 1
    poor = together.loc["poor"]
    # windows 0 … 11 and 30 of the others' half are right: (12 + 15) of 42
    assert poor["balanced_accuracy"] == pytest.approx(27 / 42)
    assert poor["balanced_accuracy_low"] < 27 / 42 < poor["balanced_accuracy_high"]
    single = results[results["fold"] > 0]
    assert (single["balanced_accuracy_low"] <= single["balanced_accuracy"]).all()
    assert (single["balanced_accuracy"] <= single["balanced_accuracy_high"]).all()
    assert single[single["model"] == "good"]["n_windows"].sum() == 42
    assert {"auroc", "kappa", "f1_weighted"} <= set(results.columns)


def test_people_seen_in_pretraining_are_told_apart() -> None:
    table = predictions(["p0", "p1", "p5"])
    results = summarise(table, CLASSES, seed=0)
    assert results["people"].unique().tolist() == ["all", "unseen in pretraining"]
    unseen = results[(results["people"] == "unseen in pretraining") & (results["fold"] == 0)]
    assert unseen["n_subjects"].tolist() == [4, 4]
    # p0 and p1 are the ones that the poor model reads well
    assert unseen.set_index("model").loc["poor", "balanced_accuracy"] == pytest.approx(0.5)
    assert results.query("people == 'all' and fold == 0")["n_subjects"].tolist() == [7, 7]


@pytest.mark.parametrize("seen", [[], PEOPLE])
def test_where_all_or_none_were_seen_there_is_one_group(seen: list[str]) -> None:
    assert set(summarise(predictions(seen), CLASSES, seed=0)["people"]) == {"all"}
