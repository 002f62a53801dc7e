"""Few shots: exactly so many windows of each class are read, of people as evenly as they allow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from berger.errors import BergerError
from berger.evaluation import baselines, strategies
from berger.evaluation.decoding import AdaptationConfig, adapt
from berger.evaluation.few_shot import draw_shots
from berger.evaluation.matrix import evaluate
from berger.evaluation.plan import EvaluationConfig
from berger.evaluation.protocol import run_folds
from berger.reports import build_report
from berger.tasks import load_task
from berger.tasks.folds import make_folds
from berger.tasks.splits import Fold
from tests.evaluation.test_protocol import CLASSES, PEOPLE, windows_of
from tests.reports.page import Page


def table_of(counts: list[tuple[int, int]]) -> pd.DataFrame:
    """People with so many windows of classes a and b."""
    rows = [
        (f"p{number}", label)
        for number, of_person in enumerate(counts)
        for label, n in zip("ab", of_person, strict=True)
        for _ in range(n)
    ]
    return pd.DataFrame(rows, columns=["subject", "label"])


@settings(max_examples=100, deadline=None)
@given(
    counts=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=8),
    shots=st.integers(1, 8),
    seed=st.integers(0, 2**32 - 1),
)
def test_exactly_so_many_of_each_class_from_people_as_evenly_as_they_allow(
    counts: list[tuple[int, int]], shots: int, seed: int
) -> None:
    table = table_of([*counts, (9, 9)])
    part = (table["subject"] != "p0").to_numpy()
    drawn = draw_shots(table, part, ("a", "b"), shots, np.random.default_rng(seed), "they")
    assert not (drawn & ~part).any()
    for label in "ab":
        of_class = (table["label"] == label).to_numpy()
        assert (drawn & of_class).sum() == shots
        given_by = {
            who: ((drawn & own).sum(), own.sum())
            for who in set(table["subject"][part])
            if (own := of_class & (table["subject"] == who).to_numpy()).any()
        }
        most = max(n for n, _ in given_by.values())
        assert all(n >= most - 1 or n == had for n, had in given_by.values())
    again = draw_shots(table, part, ("a", "b"), shots, np.random.default_rng(seed), "they")
    np.testing.assert_array_equal(drawn, again)


def test_the_same_people_give_every_class_and_another_seed_draws_others() -> None:
    table = table_of([(6, 6)] * 10)
    everybody = np.ones(len(table), bool)
    draws = [
        draw_shots(table, everybody, ("a", "b"), 3, np.random.default_rng(seed), "they")
        for seed in range(6)
    ]
    for drawn in draws:
        gave = table[drawn].groupby("label")["subject"].agg(set)
        assert gave["a"] == gave["b"]
        assert len(gave["a"]) == 3
    assert len({drawn.tobytes() for drawn in draws}) == 6


def test_values_are_drawn_in_all() -> None:
    table = windows_of().assign(label=np.linspace(0, 1, len(windows_of())))
    everybody = np.ones(len(table), bool)
    drawn = draw_shots(table, everybody, (), len(PEOPLE), np.random.default_rng(0), "they")
    assert sorted(table["subject"][drawn]) == sorted(PEOPLE)
    with pytest.raises(BergerError, match="they have 42 windows, fewer than shots: 43; take fewer"):
        draw_shots(table, everybody, (), 43, np.random.default_rng(0), "they")


def shown(shots: int | None, seed: int = 0) -> list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """What a model is shown in the folds."""
    found = []

    def learn(train: Any, validation: Any) -> Any:
        found.append((train, validation))
        return lambda test: np.eye(3)[np.zeros(test.sum(), int)], 0.0

    folds = make_folds(PEOPLE, 3, 0.3, 0)
    tested = run_folds("spy", windows_of(), CLASSES, folds, learn, shots=shots, seed=seed)
    assert len(tested.predictions) == len(windows_of())  # everything is tested
    return found


def test_a_model_is_shown_no_more_and_the_test_stays_whole() -> None:
    table = windows_of()
    for fold, (train, validation) in zip(make_folds(PEOPLE, 3, 0.3, 0), shown(2), strict=True):
        for part, people in ((train, fold.train), (validation, fold.validation)):
            assert dict(table["label"][part].value_counts()) == dict.fromkeys(CLASSES, 2)
            assert set(table["subject"][part]) <= set(people)
    assert all(train.sum() > 6 for train, _ in shown(None))
    np.testing.assert_array_equal(shown(2), shown(2))
    assert not np.array_equal(shown(2), shown(2, seed=1))


def test_too_few_windows_are_told() -> None:
    fold = Fold(tuple(PEOPLE[:5]), tuple(PEOPLE[5:6]), tuple(PEOPLE[6:]))
    reason = r"the validation people of fold 1 have 2 windows of a, fewer than shots: 3; take"

    def learn(train: Any, validation: Any) -> Any:
        raise AssertionError("nothing is learned")

    with pytest.raises(BergerError, match=reason):
        run_folds("spy", windows_of(), CLASSES, [fold], learn, shots=3)


# through adapt and evaluate


@pytest.fixture(scope="module")
def fitted(tiny_corpus: Path, tiny_checkpoint: Path) -> dict[str, Any]:
    """Adapt with two shots; note the labels that each regression was fitted to."""
    notes: dict[str, list[npt.NDArray[Any]]] = {"model": [], "baseline": []}
    out = tiny_corpus.parent / "few-shot"
    with pytest.MonkeyPatch.context() as patch:
        for module, who in ((strategies, "model"), (baselines, "baseline")):
            fit = module.fit_probe

            def noting(x: Any, y: Any, *rest: Any, fit: Any = fit, who: str = who) -> Any:
                notes[who].append(np.bincount(y))
                return fit(x, y, *rest)

            patch.setattr(module, "fit_probe", noting)
        told: list[str] = []
        adapt(
            AdaptationConfig(
                penalties=(0.01, 1.0),
                shots=2,
                baselines=("band power + logistic regression",),
            ),
            *(tiny_checkpoint, load_task(tiny_corpus.parent / "task.yaml"), out),
            corpus_folder=tiny_corpus,
            device="cpu",
            quiet=True,
            tell=told.append,
        )
    return notes | {"out": out, "told": told}


def test_models_and_baselines_learn_from_the_shots_alone(fitted: dict[str, Any]) -> None:
    """Two penalties on 2 + 2 windows, the better one on these and on those of validation."""
    in_folds = [[2, 2], [2, 2], [4, 4]] * 3
    assert [counts.tolist() for counts in fitted["baseline"]] == in_folds
    assert [counts.tolist() for counts in fitted["model"]] == [*in_folds, [2, 2]]  # for everybody
    assert fitted["told"][0] == (
        "few-shot: every model and baseline reads 2 windows of each class of the training people, "
        "and chooses by as many of the validation people."
    )


def test_an_evaluation_draws_the_same_and_says_so(
    fitted: dict[str, Any], tiny_corpus: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    source = {"task": str(tiny_corpus.parent / "task.yaml"), "corpus": str(tiny_corpus)}
    config = EvaluationConfig.model_validate(
        {
            "models": {"one": {"checkpoint": str(tiny_checkpoint)}},
            "tasks": {"eyes": source, "eyes-2": source | {"shots": 2}},
            "adaptations": {"probe": {"penalties": [0.01, 1.0]}},
            "baselines": ["band power + logistic regression"],
            "penalties": [0.01, 1.0],
            "seeds": [0],
            "n_folds": 3,
            "allow_seen": ["one"],
        }
    )
    evaluate(config, tmp_path / "out", device="cpu", quiet=True)
    found = pd.read_parquet(tmp_path / "out" / "predictions.parquet")
    expected = pd.read_parquet(fitted["out"] / "predictions.parquet")
    for theirs, ours in (
        ("frozen probe", "one, probe"),
        (2 * ("band power + logistic regression",)),
    ):
        few, all_of_them = (
            found[(found["title"] == ours) & (found["task"] == task)]["score_open"].to_numpy()
            for task in ("eyes-2", "eyes")
        )
        np.testing.assert_array_equal(few, expected[expected["model"] == theirs]["score_open"])
        assert not np.allclose(few, all_of_them)
    files = (tmp_path / "out" / "cells" / "eyes-2").rglob("cell.json")
    read = [pd.read_json(path, typ="series")["n_windows"] for path in files]
    assert read == [{"train": 4, "validation": 4}] * 6
    text = Page(build_report(tmp_path / "out")).text
    assert text.count("fitted to 2 windows of each class of the training part of a fold") == 1


def test_a_file_for_adapt_with_shots_is_refused_in_a_matrix(tmp_path: Path) -> None:
    """There every row of a table reads the same windows."""
    (tmp_path / "few.yaml").write_text("shots: 3\n")
    with pytest.raises(ValueError, match="sets shots, which the evaluation itself says"):
        EvaluationConfig.model_validate(
            {
                "models": {"one": {"model": "dare-nano"}},
                "tasks": {"eegmat": {"corpus": "corpus"}},
                "adaptations": {"few": str(tmp_path / "few.yaml")},
            }
        )
