"""Ridge regression of classes: closed form, classes alike, and what is told as probability."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import softmax

from berger.evaluation.ridge import choose_class_ridge, fit_class_ridges, fit_ridges

PENALTIES = (0.01, 0.3, 10.0)


@pytest.fixture(params=[2, 3], ids=["two classes", "three classes"])
def data(request: pytest.FixtureRequest) -> tuple[npt.NDArray[Any], npt.NDArray[Any], int]:
    """Features of 60 windows whose classes are of unlike frequency."""
    n_outputs = request.param
    rng = np.random.default_rng(0)
    labels = rng.choice(n_outputs, 60, p=(0.7, 0.3) if n_outputs == 2 else (0.6, 0.3, 0.1))
    return 3 + rng.standard_normal((60, 5)) + labels[:, None] * [1, 0, 0.5, 0, 0], labels, n_outputs


def scores(probe: Any, x: npt.NDArray[Any], n_outputs: int) -> npt.NDArray[Any]:
    """What the regression itself puts out."""
    found: npt.NDArray[Any] = (x @ probe.weight.T + probe.bias) / n_outputs
    return found


def test_every_penalty_solves_its_weighted_normal_equations(data: Any) -> None:
    x, labels, n_outputs = data
    share = (1 / np.bincount(labels))[labels] / n_outputs
    z = (x - x.mean(0)) / x.std(0)
    centred, truth = z - share @ z, np.eye(n_outputs)[labels]
    for penalty, probe in zip(
        PENALTIES, fit_class_ridges(x, labels, n_outputs, PENALTIES), strict=True
    ):
        left = centred.T @ (share[:, None] * centred) + penalty * np.eye(5)
        weight = np.linalg.solve(left, centred.T @ (share[:, None] * (truth - 1 / n_outputs)))
        expected = centred @ weight + 1 / n_outputs
        np.testing.assert_allclose(scores(probe, x, n_outputs), expected, atol=1e-10)


def test_several_penalties_at_once_are_each_alone() -> None:
    rng = np.random.default_rng(0)
    x, values = rng.standard_normal((12, 30)), rng.standard_normal((12, 2))  # more features
    together = fit_ridges(x, values, PENALTIES)
    for penalty, probe in zip(PENALTIES, together, strict=True):
        (alone,) = fit_ridges(x, values, [penalty])
        np.testing.assert_allclose(probe.weight, alone.weight, atol=1e-12)
        np.testing.assert_allclose(probe.bias, alone.bias, atol=1e-12)


def test_scores_add_up_to_one_and_probabilities_are_theirs_next_to_chance(data: Any) -> None:
    x, labels, n_outputs = data
    (probe,) = fit_class_ridges(x, labels, n_outputs, [0.01])
    raw, told = scores(probe, x, n_outputs), probe.probabilities(x)
    np.testing.assert_allclose(raw.sum(1), 1, atol=1e-10)
    np.testing.assert_allclose(told, softmax(n_outputs * raw, axis=1))
    np.testing.assert_array_equal(np.argsort(told, 1), np.argsort(raw, 1))
    (weak,) = fit_class_ridges(x, labels, n_outputs, [100.0])  # all scores near 1 / n_outputs
    raw, told = scores(weak, x, n_outputs), weak.probabilities(x)
    assert 0.001 < abs(raw - 1 / n_outputs).max() < 0.1
    assert abs(told - raw).max() < 0.1 * abs(raw - 1 / n_outputs).max()


def test_a_class_weighs_the_same_however_many_windows_it_has(data: Any) -> None:
    """With every window of class 0 there twice, nothing but the standardisation changes."""
    x, labels, n_outputs = data
    rows = np.concatenate((np.arange(60), np.flatnonzero(labels == 0)))
    deviation = x.std(0) / x[rows].std(0)
    # features of a deviation that doubling does not change
    alike = np.concatenate((x, -x + 2 * x.mean(0)))
    assert deviation.min() > 0
    first, _ = fit_class_ridges(x, labels, n_outputs, [1e-9, 1.0])
    second, _ = fit_class_ridges(x[rows], labels[rows], n_outputs, [1e-9, 1.0])
    np.testing.assert_allclose(
        first.probabilities(alike), second.probabilities(alike), rtol=1e-5, atol=1e-7
    )


def test_a_class_without_windows_is_never_guessed() -> None:
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((40, 3)), rng.integers(0, 2, 40)
    (probe,) = fit_class_ridges(x, labels, 3, [0.1])
    assert set(probe.probabilities(3 * x).argmax(1)) == {0, 1}


def test_the_penalty_is_chosen_by_the_balanced_accuracy_of_the_validation_people() -> None:
    """One feature holds in training only: the more is penalised, the less it misleads."""
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 2
    sign = 2.0 * labels - 1
    truth, trap = sign + rng.standard_normal(80), sign.copy()
    train, validation = np.arange(80) < 40, np.arange(80) >= 40
    trap[validation] *= -1
    x = np.column_stack((*[truth + 0.1 * rng.standard_normal(80) for _ in range(6)], trap))
    probe, penalty = choose_class_ridge(x, labels, 2, train, validation, (1e-4, 100.0))
    right = {
        value: (
            fit_class_ridges(x[train], labels[train], 2, [value])[0]
            .probabilities(x[validation])
            .argmax(1)
            == labels[validation]
        ).mean()
        for value in (1e-4, 100.0)
    }
    assert right[1e-4] < right[100.0]
    assert penalty == 100.0
    (expected,) = fit_class_ridges(x, labels, 2, [100.0])
    np.testing.assert_allclose(probe.weight, expected.weight)
