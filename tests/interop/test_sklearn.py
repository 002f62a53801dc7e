"""A checkpoint among scikit-learn's estimators."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC

from berger import BergerClassifier, open_corpus
from berger.adaptation.probe import embed_windows, fit_probe
from berger.errors import BergerError
from berger.models import SpecHiNet, load_checkpoint
from berger.tasks import labelled_windows, load_task

Array = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def data(tiny_corpus: Path) -> tuple[Array, npt.NDArray[np.str_], npt.NDArray[np.str_]]:
    """Windows of the people with 8 electrodes, labels and people."""
    corpus = open_corpus(tiny_corpus)
    table = labelled_windows(load_task(tiny_corpus.parent / "task.yaml"), corpus)
    table = table[table["subject"].isin(["sub-02", "sub-04", "sub-06"])]
    windows = corpus.windows_at(table, 4)
    signal = np.stack([windows[index].signal for index in range(len(windows))])
    return signal, table["label"].to_numpy(str), table["subject"].to_numpy(str)


def test_fit_and_predict(tiny_checkpoint: Path, data: tuple[Array, ...]) -> None:
    X, y, _ = data
    classifier = BergerClassifier(tiny_checkpoint, penalty=0.1)
    assert classifier.fit(X, y) is classifier
    assert classifier.classes_.tolist() == ["closed", "open"]
    probabilities = classifier.predict_proba(X)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    guess = classifier.predict(X)
    assert guess.tolist() == classifier.classes_[probabilities.argmax(1)].tolist()
    assert classifier.score(X, y) == (guess == y).mean() > 0.5


def test_it_is_the_frozen_probe(
    tiny_checkpoint: Path, tiny_corpus: Path, data: tuple[Array, ...]
) -> None:
    X, y, _ = data
    encoder = load_checkpoint(tiny_checkpoint)
    assert isinstance(encoder, SpecHiNet)
    corpus = open_corpus(tiny_corpus)
    table = labelled_windows(load_task(tiny_corpus.parent / "task.yaml"), corpus)
    table = table[table["subject"].isin(["sub-02", "sub-04", "sub-06"])]
    features = embed_windows(encoder, corpus.windows_at(table, 4), "mean")
    classifier = BergerClassifier(tiny_checkpoint, penalty=0.1, batch_size=5).fit(X, y)
    np.testing.assert_allclose(classifier.transform(X), features, rtol=1e-4, atol=1e-4)
    probe = fit_probe(features, (y == "open").astype(int), 2, 0.1)
    np.testing.assert_allclose(
        classifier.predict_proba(X), probe.probabilities(features), atol=1e-3
    )


@pytest.mark.parametrize(("pooling", "width"), [("mean", 8), ("electrodes", 64)])
def test_features_for_other_estimators(
    pooling: str, width: int, tiny_checkpoint: Path, data: tuple[Array, ...]
) -> None:
    X, y, _ = data
    features = BergerClassifier(tiny_checkpoint, pooling=pooling)
    assert features.transform(X[:5]).shape == (5, width)
    pipeline = make_pipeline(features, StandardScaler(), SVC()).fit(X, y)
    assert pipeline.predict(X[:3]).shape == (3,)
    np.testing.assert_array_equal(features.fit_transform(X, y), features.transform(X))


def test_clone_and_parameters(tiny_checkpoint: Path) -> None:
    classifier = BergerClassifier(tiny_checkpoint, pooling="electrodes", penalty=0.5, batch_size=3)
    copy = clone(classifier)
    assert copy is not classifier
    assert copy.get_params() == classifier.get_params()
    assert copy.set_params(penalty=2.0).penalty == 2.0
    with pytest.raises(NotFittedError):
        copy.predict(np.zeros((1, 2, 400)))


def test_across_people(tiny_checkpoint: Path, data: tuple[Array, ...]) -> None:
    X, y, people = data
    volts = make_pipeline(
        FunctionTransformer(lambda signal: 1e6 * signal), BergerClassifier(tiny_checkpoint)
    )
    for estimator, signal in ((BergerClassifier(tiny_checkpoint), X), (volts, X / 1e6)):
        scores = cross_val_score(estimator, signal, y, groups=people, cv=GroupKFold(3))
        assert scores.shape == (3,)
        assert ((scores >= 0) & (scores <= 1)).all()


def test_a_fitted_one_can_be_kept(tiny_checkpoint: Path, data: tuple[Array, ...]) -> None:
    X, y, _ = data
    classifier = BergerClassifier(str(tiny_checkpoint)).fit(X, y)
    kept = pickle.loads(pickle.dumps(classifier))  # noqa: S301 - our own
    np.testing.assert_array_equal(kept.predict_proba(X), classifier.predict_proba(X))


def test_labels_of_any_kind(
    tiny_checkpoint: Path, tiny_adaptation: Path, data: tuple[Array, ...]
) -> None:
    X, y, people = data
    for checkpoint in (tiny_checkpoint, tiny_adaptation / "checkpoint"):
        classifier = BergerClassifier(checkpoint).fit(X, np.where(y == "open", 7, -1))
        assert set(classifier.predict(X)) <= {-1, 7}
    three = BergerClassifier(tiny_checkpoint).fit(X.astype(np.float64), people)
    assert three.predict_proba(X).shape == (len(X), 3)


def test_what_does_not_fit_is_explained(tiny_checkpoint: Path, data: tuple[Array, ...]) -> None:
    X, y, _ = data
    with pytest.raises(BergerError, match=r"X has the shape \(8, 400\); give \(n_windows, n_chans"):
        BergerClassifier(tiny_checkpoint).transform(X[0])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        BergerClassifier(tiny_checkpoint).fit(X, y[:-1])
    with pytest.raises(ValueError, match="Unknown label type"):
        BergerClassifier(tiny_checkpoint).fit(X, np.linspace(0, 1, len(X)))
    with pytest.raises(BergerError, match="give microvolts, not volts"):
        BergerClassifier(tiny_checkpoint).fit(X / 1e6, y)
    with pytest.raises(BergerError, match="values that are not finite; leave these windows out"):
        BergerClassifier(tiny_checkpoint).fit(np.full_like(X, np.nan), y)
    with pytest.raises(BergerError, match="no such folder"):
        BergerClassifier("nowhere").fit(X, y)
