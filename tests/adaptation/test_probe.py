"""Laws of the linear probe, and scikit-learn's logistic regression as the judge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from berger import load_checkpoint, open_corpus
from berger.adaptation.probe import LinearProbe, embed_windows, fit_probe
from berger.errors import BergerError
from berger.models import SpecHiNet, SpecHiNetConfig
from berger.models.heads import Pooling, pooled_features
from tests.conftest import TINY_MODEL

Array = npt.NDArray[np.float64]


def overlapping_classes(
    n_windows: int, n_outputs: int, seed: int = 0
) -> tuple[Array, npt.NDArray[np.int64]]:
    """Features of very different scales that tell classes of different size apart, a little."""
    rng = np.random.default_rng(seed)
    shares = np.arange(1, n_outputs + 1) / np.arange(1, n_outputs + 1).sum()
    labels = rng.choice(n_outputs, n_windows, p=shares)
    labels[:n_outputs] = np.arange(n_outputs)
    centres = rng.normal(size=(n_outputs, 6))
    features = centres[labels] + 1.5 * rng.normal(size=(n_windows, 6))
    return features * 10.0 ** np.arange(-3, 3) + 10.0 ** np.arange(2, -4, -1), labels


# the judge


@pytest.mark.parametrize("n_outputs", [2, 3, 5])
@pytest.mark.parametrize("penalty", [1e-4, 1e-2, 1.0, 30.0])
def test_it_agrees_with_scikit_learn(n_outputs: int, penalty: float) -> None:
    features, labels = overlapping_classes(300, n_outputs)
    # with two classes scikit-learn keeps one row of weights, w for the second and −w for the
    # first halved: ‖W‖² is ‖w‖² / 2
    strength = penalty / 2 if n_outputs == 2 else penalty
    judge = LogisticRegression(
        C=1 / (strength * len(labels)), class_weight="balanced", tol=1e-10, max_iter=100_000
    )
    scaler = StandardScaler().fit(features)
    judge.fit(scaler.transform(features), labels)
    probe = fit_probe(features, labels, n_outputs, penalty)
    new, _ = overlapping_classes(100, n_outputs, seed=1)
    np.testing.assert_allclose(
        probe.probabilities(new), judge.predict_proba(scaler.transform(new)), atol=1e-3
    )
    if n_outputs > 2:
        size = max(1, abs(judge.coef_).max())
        np.testing.assert_allclose(probe.weight * scaler.scale_, judge.coef_, atol=1e-3 * size)


# laws


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    scale=st.lists(st.floats(1e-4, 1e4), min_size=6, max_size=6),
    shift=st.lists(st.floats(-1e3, 1e3), min_size=6, max_size=6),
)
def test_scale_and_shift_of_features_do_not_matter(
    seed: int, scale: list[float], shift: list[float]
) -> None:
    rng = np.random.default_rng(seed)
    features, labels = rng.normal(size=(60, 6)), rng.integers(0, 3, 60)
    changed = features * scale + np.array(shift) * scale
    one, other = (fit_probe(x, labels, 3, 0.05).probabilities(x) for x in (features, changed))
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_the_order_of_windows_does_not_matter() -> None:
    features, labels = overlapping_classes(200, 3)
    order = np.random.default_rng(0).permutation(200)
    one, other = (
        fit_probe(features, labels, 3, 0.01),
        fit_probe(features[order], labels[order], 3, 0.01),
    )
    np.testing.assert_allclose(
        one.probabilities(features), other.probabilities(features), atol=1e-4
    )


def test_every_class_weighs_the_same() -> None:
    """Without anything to go by, every class is as probable, however rare."""
    labels = np.repeat([0, 1, 2], [90, 9, 1])
    probe = fit_probe(np.ones((100, 2)), labels, 3, 1e-3)
    np.testing.assert_allclose(probe.probabilities(np.ones((4, 2))), 1 / 3, atol=1e-6)


def test_more_windows_of_the_same_change_nothing() -> None:
    features, labels = overlapping_classes(50, 3)
    one = fit_probe(features, labels, 3, 0.01)
    other = fit_probe(np.tile(features, (4, 1)), np.tile(labels, 4), 3, 0.01)
    np.testing.assert_allclose(
        one.probabilities(features), other.probabilities(features), atol=1e-4
    )


def test_a_stronger_penalty_makes_smaller_weights() -> None:
    features, labels = overlapping_classes(100, 2)
    norms = [
        np.linalg.norm(fit_probe(features, labels, 2, penalty).weight * features.std(0))
        for penalty in (1e-4, 1e-2, 1, 100)
    ]
    assert norms == sorted(norms, reverse=True)
    assert norms[-1] < 0.05 < norms[0]


def test_a_feature_that_is_constant_has_no_say() -> None:
    features, labels = overlapping_classes(100, 2)
    constant = np.column_stack((features, np.full(100, 0.1)))
    probe, without = (fit_probe(x, labels, 2, 0.01) for x in (constant, features))
    assert np.isfinite(probe.weight).all()
    np.testing.assert_allclose(
        probe.probabilities(constant), without.probabilities(features), atol=1e-4
    )


def test_a_class_without_windows_is_never_guessed() -> None:
    features, labels = overlapping_classes(100, 2)
    probe = fit_probe(features, 2 * labels, 3, 0.01)
    probabilities = probe.probabilities(features)
    assert probabilities.shape == (100, 3)
    assert set(probabilities.argmax(1)) == {0, 2}


def test_probabilities_are_probabilities() -> None:
    probe = LinearProbe(weight=1e3 * np.eye(2), bias=np.zeros(2))
    probabilities = probe.probabilities(np.array([[50.0, -50.0], [0.0, 0.0]]))
    np.testing.assert_allclose(probabilities, [[1, 0], [0.5, 0.5]])


# features


@pytest.fixture(scope="module")
def encoder(tiny_checkpoint: Path) -> SpecHiNet:
    model = load_checkpoint(tiny_checkpoint)
    assert isinstance(model, SpecHiNet)
    return model


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_features_come_in_the_order_of_the_windows(
    batch_size: int, encoder: SpecHiNet, tiny_corpus: Path
) -> None:
    windows = open_corpus(tiny_corpus).windows(4)
    order = np.random.default_rng(0).permutation(len(windows))[:12]
    features = embed_windows(encoder, windows.take(order), "mean", batch_size=batch_size)
    assert features.shape == (12, 8)
    assert features.dtype == np.float64
    with torch.inference_mode():
        for row, index in zip(features, order, strict=True):
            signal = torch.from_numpy(windows[int(index)].signal)[None]
            expected = pooled_features(encoder, signal, "mean")[0]
            np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "electrodes"])
def test_the_encoder_stays_as_it_is(
    pooling: Pooling, encoder: SpecHiNet, tiny_corpus: Path
) -> None:
    """Also its batch statistics, and also if it was in training mode."""
    windows = open_corpus(tiny_corpus).windows(4).take(np.arange(4))
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    first = embed_windows(encoder.train(), windows, pooling)
    assert not encoder.training
    np.testing.assert_array_equal(first, embed_windows(encoder, windows, pooling))
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_another_rate_is_refused(tiny_corpus: Path) -> None:
    model = SpecHiNet(SpecHiNetConfig.model_validate(TINY_MODEL | {"sfreq": 200}))
    with pytest.raises(BergerError, match=r"sub-01_eyes.edf: sampled at 100 Hz, but .* 200 Hz"):
        embed_windows(model, open_corpus(tiny_corpus).windows(4), "mean")
