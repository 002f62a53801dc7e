"""Baselines: power and covariances that are known, and classes that only one of them can tell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from berger import open_corpus
from berger.adaptation.finetuning import FineTuningConfig
from berger.corpus import Corpus, prepare
from berger.evaluation.baselines import (
    BAND_POWER,
    CHANCE,
    RIEMANN,
    BandCovariances,
    Baseline,
    band_covariances,
    band_power_features,
    learn_baseline,
    learn_linear,
    tangent_features,
)
from berger.evaluation.decoding import AdaptationConfig, adapt
from berger.evaluation.protocol import Array, Mask
from berger.evaluation.ridge import fit_ridge
from berger.evaluation.strategies import Question
from berger.models import InputContract
from berger.preprocessing import PreprocessingConfig
from berger.reports.scores import BASELINES
from berger.spectral import BANDS
from berger.tasks import load_task
from tests.evaluation.made import correlated, write_recording

HERTZ = {"Fz": 2.5, "C3": 6, "C4": 10, "O1": 20, "O2": 35}
AMPLITUDE = {"Fz": 30, "C3": 20, "C4": 10, "O1": 5, "O2": 2}


def record(path: Path, ch_names: tuple[str, ...], sfreq: float) -> None:
    """Write a sine at every electrode, and 50 µV of direct current."""
    times = np.arange(12 * int(sfreq)) / sfreq
    signal = np.stack(
        [50 + AMPLITUDE[name] * np.sin(2 * np.pi * HERTZ[name] * times) for name in ch_names]
    )
    write_recording(path, ch_names, signal, sfreq)


def corpus_of(folder: Path, sfreq: float) -> Corpus:
    record(folder / "raw" / "p1.edf", ("Fz", "C3", "C4", "O1", "O2"), sfreq)
    record(folder / "raw" / "p2.edf", ("O2", "O1", "C4", "C3", "Fz"), sfreq)
    record(folder / "raw" / "p3.edf", ("C4", "Fz"), sfreq)
    config = PreprocessingConfig(sfreq=sfreq, highpass=None, lowpass=None, max_amplitude=None)
    prepare([folder / "raw"], folder / "corpus", config, progress=False)
    return open_corpus(folder / "corpus")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return corpus_of(tmp_path_factory.mktemp("sines"), 200)


def test_a_sine_has_half_its_squared_amplitude_in_its_band(corpus: Corpus) -> None:
    windows = corpus.windows(4, subjects=["p1"])
    names = ("Fz", "C3", "C4", "O1", "O2")
    power = np.exp(band_power_features(windows, names)).reshape(3, 5, len(BANDS))
    for chan, name in enumerate(names):
        own = [low <= HERTZ[name] < high for low, high in BANDS.values()].index(True)
        np.testing.assert_allclose(power[:, chan, own], AMPLITUDE[name] ** 2 / 2, rtol=0.02)
        others = np.delete(power[:, chan], own, axis=1)
        assert others.max() < 0.02 * AMPLITUDE[name] ** 2 / 2 + 0.01, name


def test_electrodes_are_found_by_name_in_any_montage(corpus: Corpus) -> None:
    windows = corpus.windows(4)
    features = band_power_features(windows, ("Fz", "C4"))
    assert features.shape == (9, 2 * len(BANDS))
    # the sines are the same, wherever the electrode stands in the file
    np.testing.assert_allclose(features[:3], features[3:6], atol=0.5)
    own = [0, len(BANDS) + 2]  # Fz's delta and C4's alpha
    np.testing.assert_allclose(features[:, own], np.log([[450, 50]] * 9), atol=0.05)


def test_windows_of_one_person_at_a_time_give_the_same(corpus: Corpus) -> None:
    together = band_power_features(corpus.windows(2), ("C4",))
    alone = [
        band_power_features(corpus.windows(2, subjects=[person]), ("C4",))
        for person in ("p1", "p2", "p3")
    ]
    np.testing.assert_array_equal(together, np.concatenate(alone))


def test_windows_shorter_than_a_segment(corpus: Corpus) -> None:
    features = band_power_features(corpus.windows(1, subjects=["p3"]), ("C4",))
    assert np.isfinite(features).all()
    assert features[:, 2].mean() == pytest.approx(np.log(50), abs=0.1)


def test_a_band_beyond_the_nyquist_frequency_is_left_out(tmp_path: Path) -> None:
    features = band_power_features(corpus_of(tmp_path, 50).windows(4), ("C4",))
    assert features.shape == (9, 4)


# covariances


def test_a_sine_gives_its_power_to_the_covariance_of_its_band(corpus: Corpus) -> None:
    names = ("Fz", "C3", "C4", "O1", "O2")
    matrices = band_covariances(corpus.windows(4, subjects=["p1"]), names)
    assert matrices.shrunk.shape == (3, 5, 5, 5)
    power = np.array([AMPLITUDE[name] ** 2 / 2 for name in names])
    # sines of different frequencies do not vary together
    for plain in matrices.plain:
        np.testing.assert_allclose(np.diag(plain), power, rtol=0.02)
        correlation = plain / np.sqrt(np.outer(np.diag(plain), np.diag(plain)))
        np.testing.assert_allclose(correlation, np.eye(5), atol=0.02)
    # shrinking moves power between electrodes, and none into another band
    traces = np.trace(matrices.shrunk, axis1=2, axis2=3)
    np.testing.assert_allclose(traces, np.tile(power, (3, 1)), rtol=0.02)
    assert (np.linalg.eigvalsh(matrices.shrunk) > 0).all()


def test_covariances_go_by_name_in_any_montage(corpus: Corpus) -> None:
    matrices = band_covariances(corpus.windows(4), ("Fz", "C4"))
    np.testing.assert_allclose(matrices.plain[:3], matrices.plain[3:6], atol=2)
    assert matrices.plain.shape == (9, 2, 2)
    one = band_covariances(corpus.windows(4), ("C4",))
    np.testing.assert_allclose(one.plain[:, 0, 0], 50, rtol=0.02)


def covariances_of(signals: Array) -> BandCovariances:
    """Covariances of signals (n_windows, n_bands, n_chans, n_times), not shrunk."""
    bands = signals @ signals.mT / signals.shape[-1]
    return BandCovariances(bands, bands.sum(1), np.full(len(signals), 1e-8))


@pytest.fixture
def signals() -> Array:
    rng = np.random.default_rng(0)
    mixing = np.eye(4) + 0.3 * rng.standard_normal((12, 2, 4, 4))
    return mixing @ rng.standard_normal((12, 2, 4, 40))


TRAIN = np.arange(12) < 8


def gram(matrices: BandCovariances) -> Array:
    features = tangent_features(matrices, TRAIN)
    return features @ features.T


def test_mixing_the_electrodes_changes_no_distance(signals: Array) -> None:
    """The affine invariance for which the tangent space is used."""
    mixing = np.random.default_rng(1).standard_normal((4, 4))
    before, after = covariances_of(signals), covariances_of(mixing @ signals)
    np.testing.assert_allclose(gram(after), gram(before), rtol=1e-6, atol=1e-6)


def test_electrodes_that_follow_from_others_change_no_distance(signals: Array) -> None:
    """As the sum of all, which an average reference makes zero, and an electrode that is silent."""
    dependent = np.concatenate(
        (signals, -signals.sum(2, keepdims=True), 0 * signals[:, :, :1]), axis=2
    )
    features = tangent_features(covariances_of(dependent), TRAIN)
    assert features.shape == (12, 2 * 4 * 5 // 2)
    np.testing.assert_allclose(features @ features.T, gram(covariances_of(signals)), atol=1e-6)


def test_the_training_people_lie_around_the_origin(signals: Array) -> None:
    features = tangent_features(covariances_of(signals), TRAIN)
    np.testing.assert_allclose(features[TRAIN].mean(0), 0, atol=1e-6)
    assert np.abs(features[~TRAIN].mean(0)).max() > 0.05


def test_other_people_change_no_feature_of_the_training_people(signals: Array) -> None:
    """Neither the reference point nor the directions that are left out."""
    other = signals.copy()
    other[~TRAIN, :, 0] *= 1000
    other[~TRAIN, :, 3] = 0.01 * other[~TRAIN, :, 3] + other[~TRAIN, :, 2]
    clean, changed = (tangent_features(covariances_of(x), TRAIN) for x in (signals, other))
    np.testing.assert_array_equal(changed[TRAIN], clean[TRAIN])
    assert not np.isclose(changed[~TRAIN], clean[~TRAIN]).any(1).all()


def test_an_average_reference_costs_one_direction(tmp_path: Path) -> None:
    """Of recordings that went through a corpus, which rounds them."""
    rng = np.random.default_rng(0)
    for person in "pqr":
        signal = 20 * rng.standard_normal((4, 1200))
        names = ("C3", "C4", "O1", "O2")
        write_recording(tmp_path / "raw" / f"{person}.edf", names, signal)
    features = {}
    for reference in ("as recorded", "average"):
        config = PreprocessingConfig(
            sfreq=100, highpass=None, lowpass=None, max_amplitude=None, reference=reference
        )
        prepare([tmp_path / "raw"], tmp_path / reference, config, progress=False)
        windows = open_corpus(tmp_path / reference).windows(2)
        matrices = band_covariances(windows, ("C3", "C4", "O1", "O2"))
        features[reference] = tangent_features(matrices, np.arange(18) < 12)
    assert features["as recorded"].shape == (18, 5 * 4 * 5 // 2)
    assert features["average"].shape == (18, 5 * 3 * 4 // 2)
    assert np.isfinite(features["average"]).all()


def test_silence_has_features_too(tmp_path: Path) -> None:
    signal = 20 * np.random.default_rng(0).standard_normal((2, 1200))
    signal[:, 400:800] = 0
    write_recording(tmp_path / "raw" / "p.edf", ("C3", "C4"), signal)
    config = PreprocessingConfig(sfreq=100, highpass=None, lowpass=None, max_amplitude=None)
    prepare([tmp_path / "raw"], tmp_path / "corpus", config, progress=False)
    windows = open_corpus(tmp_path / "corpus").windows(2)
    matrices = band_covariances(windows, ("C3", "C4"))
    assert np.isfinite(tangent_features(matrices, np.ones(6, bool))).all()


# through the protocol


@pytest.fixture(scope="module")
def question(tmp_path_factory: pytest.TempPathFactory) -> Question:
    return correlated(tmp_path_factory.mktemp("correlated"))


def split(question: Question) -> tuple[Mask, Mask, Mask]:
    person = question.windows.of_block
    return person < 3, person == 3, person > 3


def learned(name: str, question: Question) -> tuple[Array, float]:
    """Answers about the test people, and what was chosen."""
    learn = learn_baseline(
        name, question, penalties=(0.01, 0.1, 1.0), training=FineTuningConfig(), seed=0
    )
    train, validation, test = split(question)
    answer, choice = learn(train, validation)
    return answer(test), choice


def accuracy(answers: Array, question: Question) -> float:
    return float((answers.argmax(1) == question.labels[split(question)[2]]).mean())


def test_the_tangent_space_knows_what_band_power_does_not(question: Question) -> None:
    """Electrodes that go together or against one another, at the same power."""
    assert accuracy(learned(RIEMANN, question)[0], question) > 0.95
    assert 0.25 < accuracy(learned(BAND_POWER, question)[0], question) < 0.75


def test_shuffled_labels_cannot_be_learned(question: Question) -> None:
    labels = np.random.default_rng(0).permutation(question.labels)
    shuffled = replace(question, labels=labels)
    for name in (RIEMANN, BAND_POWER):
        assert 0.25 < accuracy(learned(name, shuffled)[0], shuffled) < 0.75


def test_chance_gives_every_class_the_same(question: Question) -> None:
    answers, _ = learned(CHANCE, question)
    np.testing.assert_allclose(answers, 0.5, atol=1e-6)


def test_it_stands_in_the_table_beside_an_encoder(
    tiny_corpus: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    config = AdaptationConfig(baselines=(RIEMANN, CHANCE), penalties=(0.01, 1.0))
    task, out = load_task(tiny_corpus.parent / "task.yaml"), tmp_path / "run"
    results = adapt(
        config, tiny_checkpoint, task, out, corpus_folder=tiny_corpus, device="cpu", quiet=True
    )
    together = results.query("people == 'all' and fold == 0").set_index("model")
    assert list(together.index) == ["frozen probe", RIEMANN, CHANCE]
    assert together["n_windows"].nunique() == 1
    # eyes closed is told from eyes open by its alpha
    assert together.loc[RIEMANN, "balanced_accuracy"] > 0.6


# values


def test_values_are_read_by_ridge_regression(question: Question) -> None:
    """How strong C3 and C4 vary together, as a number; power alone does not tell it."""
    rng = np.random.default_rng(0)
    values = 30 + 5 * question.labels + 0.1 * rng.standard_normal(len(question.labels))
    asked = replace(question, labels=values)
    train, validation, test = split(question)
    answers, choice = learned(RIEMANN, asked)
    assert answers.shape == (test.sum(), 1)
    assert choice in (0.01, 0.1, 1.0)
    assert np.corrcoef(answers[:, 0], values[test])[0, 1] > 0.9
    assert abs(np.corrcoef(learned(BAND_POWER, asked)[0][:, 0], values[test])[0, 1]) < 0.5
    chance, _ = learned(CHANCE, asked)
    np.testing.assert_allclose(chance, values[train | validation].mean())


def test_ridge_solves_the_normal_equations() -> None:
    rng = np.random.default_rng(0)
    x, y = 3 + 5 * rng.standard_normal((30, 4)), rng.standard_normal(30)
    z = (x - x.mean(0)) / x.std(0)
    weight = np.linalg.solve(z.T @ z / 30 + 0.3 * np.eye(4), z.T @ (y - y.mean()) / 30)
    np.testing.assert_allclose(fit_ridge(x, y, 0.3).values(x)[:, 0], z @ weight + y.mean())


def test_the_penalty_of_a_ridge_is_chosen_by_squared_error() -> None:
    """Validation people in whom the feature means nothing want the strongest."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((90, 1))
    values = np.where(np.arange(90) < 60, x[:, 0], 0.0)
    train, validation = np.arange(90) < 30, (np.arange(90) >= 30) & (np.arange(90) < 60)
    windows: Any = None
    asked = Question(windows, values, (), InputContract(sfreq=100))
    learn = learn_linear(asked, lambda known: x, (1e-4, 1.0, 100.0))
    assert learn(train, validation)[1] == 1e-4
    assert learn(train, np.arange(90) >= 60)[1] == 100.0


# names


def test_the_report_knows_every_baseline() -> None:
    names = set(get_args(Baseline))
    assert set(BASELINES) == names | {name.replace("logistic", "ridge") for name in names}


def test_random_weights_are_those_of_the_model_under_test(question: Question) -> None:
    with pytest.raises(ValueError, match="is no baseline of its own"):
        learned("same network, random weights", question)
