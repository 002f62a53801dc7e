"""The interval over people is as wide as it has to be."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from berger.evaluation.metrics import score_values
from berger.evaluation.statistics import (
    N_RESAMPLES,
    _auroc_draws,
    auroc_interval,
    balanced_accuracy,
    balanced_accuracy_interval,
    compare_models,
    concordance_by_subject,
    confusion_by_subject,
    holm,
    intervals,
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


def scored(n_people: int, seed: int, strength: float = 1.0) -> pd.DataFrame:
    """Windows with a score each that says something of their class."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(2, size=20 * n_people)
    score = (strength * truth + rng.normal(size=len(truth))).round(1)  # with ties
    subject = np.repeat([f"s{i:02}" for i in range(n_people)], 20)
    scores = {"score_a": -score, "score_b": score}
    return pd.DataFrame({"subject": subject, "truth": np.array(CLASSES)[truth]} | scores)


def test_concordance_is_the_area_under_the_curve() -> None:
    table = scored(6, 0)
    is_class = (table["truth"] == "b").to_numpy()
    _, subject = np.unique(table["subject"], return_inverse=True)
    won = concordance_by_subject(table["score_b"].to_numpy(), is_class, subject, 6)
    area = won.sum() / (is_class.sum() * (~is_class).sum())
    assert area == pytest.approx(roc_auc_score(is_class, table["score_b"]))


def test_the_interval_of_the_area_holds_it_and_knows_people() -> None:
    table = scored(12, 1)
    area = roc_auc_score(table["truth"] == "b", table["score_b"])
    low, high = auroc_interval(table, CLASSES, 0)
    assert 0.5 < low < area < high < 1
    fourfold = pd.concat([table] * 4)
    assert auroc_interval(fourfold, CLASSES, 0) == pytest.approx((low, high))
    # by going through the pairs of everybody who is drawn
    low, high = auroc_interval(table, CLASSES, 0, n_resamples=50)
    groups = [own for _, own in table.groupby("subject")]
    ins, outs = (
        [own["score_b"][own["truth"] == name].to_numpy() for own in groups] for name in "ba"
    )
    areas = []
    for drawn in np.random.default_rng(0).integers(12, size=(50, 12)):
        right, total = 0.0, 0.0
        for place, one in enumerate(drawn):
            for other_place, other in enumerate(drawn):
                if one == other and place != other_place:
                    continue  # a copy of the same person
                weight = 11 / 12 if place == other_place else 1
                gaps = ins[one][:, None] - outs[other]
                right += weight * ((gaps > 0).sum() + (gaps == 0).sum() / 2)
                total += weight * gaps.size
        areas.append(right / total)
    assert (low, high) == pytest.approx(tuple(np.percentile(areas, [2.5, 97.5])))


@pytest.mark.parametrize(("n_people", "far"), [(3, 0.03), (4, 0.01), (24, 0.01)])
def test_draws_of_the_area_lie_around_it_though_people_differ(n_people: int, far: float) -> None:
    rng = np.random.default_rng(n_people)
    table = scored(n_people, 4, strength=3.0)  # within people nearly always right,
    level = np.repeat(rng.normal(scale=4, size=n_people), 20)  # between them hardly
    table["score_b"] += level
    table["score_a"] = -table["score_b"]
    area = roc_auc_score(table["truth"] == "b", table["score_b"])
    draws = _auroc_draws(table, CLASSES, 0, 2000)
    assert np.nanmean(draws) == pytest.approx(area, abs=far)


def test_no_area_without_every_class_or_for_one_person() -> None:
    table = scored(3, 2)
    assert all(map(math.isnan, auroc_interval(table[table["truth"] == "a"], CLASSES, 0)))
    assert all(map(math.isnan, auroc_interval(table[table["subject"] == "s00"], CLASSES, 0)))


def test_intervals_of_values_are_those_of_people_drawn_anew() -> None:
    rng = np.random.default_rng(3)
    truth = rng.normal(40, 5, 80)
    subject = np.repeat([f"s{i}" for i in range(8)], 10)
    table = pd.DataFrame({"subject": subject, "truth": truth})
    table["prediction"] = truth + rng.normal(2, 4, 80)
    found = intervals(table, (), 5)
    groups = [own for _, own in table.groupby("subject")]
    drawn = np.random.default_rng(5).integers(8, size=(N_RESAMPLES, 8))
    scores = [score_values(pd.concat([groups[person] for person in who])) for who in drawn]
    for score, ends in found.items():
        wanted = np.percentile([one[score] for one in scores], [2.5, 97.5])
        assert ends == pytest.approx(tuple(wanted)), score
    alone = intervals(table[table["subject"] == "s0"], (), 5)
    assert np.isnan([*alone.values()]).all()


def answers(right: dict[str, str], seed: int = 0) -> pd.DataFrame:
    """For each model a letter a person: + right, - wrong, in one window of each class."""
    rows = [
        (model, seed, f"s{person}", truth, truth if letter == "+" else other)
        for model, letters in right.items()
        for person, letter in enumerate(letters)
        for truth, other in (("a", "b"), ("b", "a"))
    ]
    return pd.DataFrame(rows, columns=["model", "seed", "subject", "truth", "prediction"])


def test_a_comparison_by_hand() -> None:
    table = compare_models(answers({"one": "+++-", "two": "----"}), CLASSES, 0)
    (row,) = table.to_dict("records")
    assert (row["model"], row["other"], row["difference"]) == ("one", "two", 0.75)
    # of the 8 ways to swap three people who differ, 2 give ± 3/4; the fourth changes nothing
    assert row["p"] == pytest.approx(2 / 8)
    assert row["verdict"] == "no difference"
    assert row["low"] == pytest.approx(0.25)
    assert row["high"] == pytest.approx(1.0)


def test_enough_people_make_a_difference() -> None:
    table = compare_models(answers({"one": "+" * 7, "two": "-" * 7}), CLASSES, 0)
    assert table.loc[0, "p"] == pytest.approx(2 / 2**7)
    assert table.loc[0, "verdict"] == "better"
    back = compare_models(answers({"two": "-" * 7, "one": "+" * 7}), CLASSES, 0)
    assert back.loc[0, "verdict"] == "worse"


def test_more_seeds_of_the_same_people_prove_nothing_more() -> None:
    right = {"one": "+++++-+", "two": "---+---"}
    one_seed = compare_models(answers(right), CLASSES, 0)
    seeds = compare_models(pd.concat([answers(right, s) for s in range(5)]), CLASSES, 0)
    pd.testing.assert_frame_equal(one_seed, seeds)


def test_models_that_are_alike_are_rarely_told_apart() -> None:
    rng = np.random.default_rng(7)
    found = 0
    for trial in range(100):
        models = [simulate(10, rng).assign(model=name) for name in ("one", "two")]
        found += compare_models(pd.concat(models), CLASSES, trial)["p"].item() < 0.05
    # 5 expected, standard deviation 2.2
    assert 1 <= found <= 12


def test_of_many_people_some_swaps_are_drawn() -> None:
    right = {"one": "+" * 20, "two": "-" * 20}
    table = compare_models(answers(right), CLASSES, 0)
    assert 0 < table.loc[0, "p"] <= 2 / 10_000
    assert table.equals(compare_models(answers(right), CLASSES, 0))


def test_holm_by_hand() -> None:
    assert holm(np.array([0.01, 0.04, 0.03])) == pytest.approx([0.03, 0.06, 0.06])
    assert holm(np.array([0.5, 0.9])) == pytest.approx([1.0, 1.0])
    corrected = holm(np.array([0.01, np.nan, 0.04]))
    assert corrected[[0, 2]] == pytest.approx([0.02, 0.04])
    assert np.isnan(corrected[1])


def test_many_comparisons_ask_for_more() -> None:
    right = {"one": "+" * 6} | {f"other {i}": "-" * 6 for i in range(3)}
    everything = compare_models(answers(right), CLASSES, 0)
    assert len(everything) == 6
    assert (everything["verdict"] == "no difference").all()  # 2/64 · 6
    chosen = compare_models(answers(right), CLASSES, 0, pairs=[("one", "other 0")])
    assert chosen["verdict"].tolist() == ["better"]


def test_values_are_compared_by_their_error() -> None:
    truth = np.arange(14.0)
    people = [f"s{i // 2}" for i in range(14)]
    rows = [
        pd.DataFrame({"model": name, "subject": people, "truth": truth, "prediction": truth + by})
        for name, by in (("one", 1.0), ("two", 3.0))
    ]
    table = compare_models(pd.concat(rows), (), 0)
    assert table.loc[0, "difference"] == pytest.approx(-2.0)
    assert table.loc[0, "verdict"] == "better"


def test_one_person_tells_no_difference() -> None:
    table = compare_models(answers({"one": "+", "two": "-"}), CLASSES, 0)
    assert np.isnan(table.loc[0, ["low", "high", "p", "p_holm"]].astype(float)).all()
    assert table.loc[0, "verdict"] == "no difference"


def test_models_must_have_answered_for_the_same_people() -> None:
    table = answers({"one": "++", "two": "+-"})
    missing = table[(table["model"] == "one") | (table["subject"] == "s0")]
    with pytest.raises(ValueError, match="same people"):
        compare_models(missing, CLASSES, 0)
    other_seed = table.assign(seed=np.where(table["model"] == "one", 1, 0))
    with pytest.raises(ValueError, match="same seeds"):
        compare_models(other_seed, CLASSES, 0)
