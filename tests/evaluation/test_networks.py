"""Networks through the protocol: what is fitted to whom; EEGNet and ShallowConvNet themselves.

The latter need braindecode, and that a torchaudio which cannot be loaded beside a torch for
processors: ``make test-braindecode`` runs these tests in an environment of their own.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from berger.adaptation.finetuning import FineTuningConfig, outputs
from berger.errors import BergerError
from berger.evaluation.baselines import check_installed, learn_baseline
from berger.evaluation.decoding import AdaptationConfig, adapt
from berger.evaluation.electrodes import with_electrodes
from berger.evaluation.networks import (
    NETWORKS,
    SHORTEST,
    Standardised,
    build_network,
    learn_network,
    require_braindecode,
)
from berger.evaluation.protocol import Array, Mask
from berger.evaluation.strategies import Question
from berger.tasks import load_task
from tests.evaluation.made import correlated

TRAINING = FineTuningConfig(epochs=6, batch_size=16, lr=0.02)


@pytest.fixture(scope="module")
def question(tmp_path_factory: pytest.TempPathFactory) -> Question:
    return correlated(tmp_path_factory.mktemp("correlated"))


def split(question: Question) -> tuple[Mask, Mask, Mask]:
    person = question.windows.of_block
    return person < 3, person == 3, person > 3


class Products(nn.Module):
    """A network that can learn how electrodes vary together: a linear layer on their products."""

    def __init__(self, n_chans: int, n_times: int, sfreq: float, n_outputs: int) -> None:
        super().__init__()
        self.shape = n_chans, n_times, sfreq, n_outputs
        self.linear = nn.Linear(n_chans**2, n_outputs)

    def forward(self, signal: Tensor) -> Tensor:
        answers: Tensor = self.linear((signal @ signal.mT / signal.shape[-1]).flatten(1))
        return answers


class Kept:
    """A way to build networks that keeps the last one."""

    def __init__(self) -> None:
        self.network: Any = None

    def __call__(self, *shape: Any) -> nn.Module:
        self.network = Products(*shape)
        return self.network  # type: ignore[no-any-return]


def learned(question: Question, seed: int = 0) -> tuple[Any, Array, float]:
    """The network, its answers about the test people, and its epoch."""
    kept = Kept()
    train, validation, test = split(question)
    answer, epoch = learn_network(kept, question, TRAINING, seed=seed)(train, validation)
    return kept.network, answer(test), epoch


# the standardisation


def test_training_people_are_standardised(question: Question) -> None:
    windows = with_electrodes(question.windows, ("Cz", "C3"))
    model = Standardised(nn.Identity(), windows)
    (batch,) = windows.batches(len(windows))
    seen = model(batch.signal())
    torch.testing.assert_close(seen.mean((0, 2)), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(seen.std((0, 2)), torch.ones(2), atol=1e-4, rtol=0)
    # one scale for all windows, which keeps what tells them apart
    assert model.mean.shape == model.deviation.shape == (2, 1)
    first = torch.from_numpy(windows[0].signal)
    torch.testing.assert_close(seen[0], (first - model.mean) / model.deviation)


def test_the_standardisation_is_saved_with_the_weights(question: Question) -> None:
    one, other = (
        Standardised(nn.Identity(), question.windows.take(np.arange(first, first + 3)))
        for first in (0, 6)
    )
    assert not torch.equal(one.deviation, other.deviation)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.deviation, other.deviation)
    assert torch.equal(one.mean, other.mean)


# learning


def test_a_network_is_told_what_the_task_is_and_learns_it(question: Question) -> None:
    network, answers, epoch = learned(question)
    assert network.shape == (3, 200, 100, 2)  # the electrodes that all people have
    truth = question.labels[split(question)[2]]
    assert (answers.argmax(1) == truth).mean() > 0.95
    np.testing.assert_allclose(answers.sum(1), 1)
    assert 0 <= epoch < TRAINING.epochs


def test_the_seed_decides_the_weights(question: Question) -> None:
    (_, one, _), (_, again, _), (_, other, _) = (learned(question, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def test_test_people_change_nothing_of_what_is_learned(question: Question) -> None:
    """Neither their labels nor their signals: here, windows of other times."""
    train, validation, test = split(question)
    windows = question.windows.take(np.arange(len(test)))
    windows.starts = np.where(test, windows.starts[::-1] // 2 + 7, windows.starts)
    labels = np.where(test, 1 - question.labels, question.labels)
    poisoned = Question(windows, labels, question.classes, question.contract)
    known, answers = [], []
    for asked in (question, poisoned):
        kept = Kept()
        answer, epoch = learn_network(kept, asked, TRAINING, seed=0)(train, validation)
        known.append((epoch, answer(train | validation)))
        answers.append(answer(test))
    assert known[0][0] == known[1][0]
    np.testing.assert_array_equal(known[0][1], known[1][1])
    assert not np.allclose(answers[0], answers[1])


def test_validation_people_decide_the_epoch_and_nothing_else(question: Question) -> None:
    """Of another question, whose validation people are scaled otherwise, the scale is the same."""
    train, validation, _ = split(question)
    found = []
    for some in (validation, split(question)[2]):
        kept = Kept()
        config = TRAINING.model_copy(update={"epochs": 1})
        answer, _ = learn_network(kept, question, config, seed=0)(train, some)
        found.append(answer(train))
    np.testing.assert_array_equal(found[0], found[1])


def test_values_of_any_size_are_learned(question: Question) -> None:
    values = 5000 + 100.0 * question.labels
    asked = replace(question, labels=values)
    network, answers, _ = learned(asked)
    assert network.shape[-1] == 1
    test = split(question)[2]
    assert answers.shape == (test.sum(), 1)
    assert np.corrcoef(answers[:, 0], values[test])[0, 1] > 0.95
    assert np.abs(answers[:, 0] - values[test]).mean() < 30


def test_recordings_of_several_rates_are_refused(question: Question) -> None:
    windows = question.windows.take(np.arange(len(question.windows)))
    windows.blocks = (*windows.blocks[:5], replace(windows.blocks[5], sfreq=128))
    with pytest.raises(BergerError, match="have 100 and 128 Hz, but a network needs one rate"):
        learn_network(Kept(), replace(question, windows=windows), TRAINING, seed=0)


def test_a_missing_braindecode_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "braindecode", None)
    for name in NETWORKS:
        with pytest.raises(BergerError, match=r"`pip install berger\[braindecode\]`") as caught:
            check_installed(("chance", name))
        assert str(caught.value).startswith(f"{name}: braindecode cannot be loaded (")
    check_installed(("chance", "band power + logistic regression"))


def test_it_is_said_before_anything_is_run(
    tiny_corpus: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "braindecode", None)
    config, task = AdaptationConfig(baselines=NETWORKS), load_task(tiny_corpus.parent / "task.yaml")
    with pytest.raises(BergerError, match="EEGNet: braindecode cannot be loaded"):
        adapt(config, tiny_checkpoint, task, tmp_path / "run", corpus_folder=tiny_corpus)
    assert not (tmp_path / "run").exists()


def test_every_epoch_is_told(question: Question) -> None:
    lines: list[dict[str, Any]] = []
    train, validation, _ = split(question)
    learn = learn_network(Kept(), question, TRAINING, seed=0, tell=lines.append)
    _, epoch = learn(train, validation)
    assert [line["epoch"] for line in lines] == [*range(TRAINING.epochs)]
    assert np.argmin([line["validation_loss"] for line in lines]) == epoch


# EEGNet and ShallowConvNet


@pytest.fixture(scope="module")
def models() -> Any:
    if importlib.util.find_spec("braindecode") is None:
        pytest.skip("braindecode is not installed here; `make test-braindecode` runs this test")
    return require_braindecode("EEGNet")


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("sfreq", [100.0, 128.0, 200.0, 500.0])
def test_any_rate_and_length(models: Any, name: str, sfreq: float) -> None:
    for seconds in (SHORTEST[name], 1, 5):
        n_times = int(np.ceil(seconds * sfreq))
        network = build_network(name, 19, n_times, sfreq, 3)
        assert network(torch.randn(2, 19, n_times)).shape == (2, 3)


def test_filters_are_as_long_in_seconds_as_in_the_papers(models: Any) -> None:
    def size(network: nn.Module, part: str) -> Any:
        return network.get_submodule(part).kernel_size

    eegnet = build_network("EEGNet", 8, 512, 128, 2)
    assert size(eegnet, "conv_temporal") == (1, 64)
    assert size(eegnet, "pool_1") == (1, 4)
    assert size(build_network("EEGNet", 8, 1024, 256, 2), "conv_temporal") == (1, 128)
    shallow = build_network("ShallowConvNet", 8, 1000, 250, 2)
    assert size(shallow, "conv_time_spat.conv_time") == (25, 1)
    assert size(shallow, "pool") == (75, 1)
    assert shallow.get_submodule("pool").stride == (15, 1)
    assert size(build_network("ShallowConvNet", 8, 2000, 500, 2), "pool") == (150, 1)


@pytest.mark.parametrize("name", NETWORKS)
def test_windows_that_are_too_short_are_refused(models: Any, name: str) -> None:
    n_times = int(SHORTEST[name] * 200) - 1
    with pytest.raises(
        BergerError, match=f"{name} needs windows of at least 0.[34]5 s, not 0.[34]"
    ):
        build_network(name, 19, n_times, 200, 2)


@pytest.mark.parametrize("name", NETWORKS)
def test_they_learn_what_only_electrodes_together_tell(
    models: Any, name: str, question: Question
) -> None:
    train, validation, test = split(question)
    training = FineTuningConfig(epochs=30, batch_size=16, lr=5e-3)
    learn = learn_baseline(name, question, penalties=(1.0,), training=training, seed=0)
    answer, epoch = learn(train, validation)
    assert (answer(test).argmax(1) == question.labels[test]).mean() > 0.8
    assert 0 <= epoch < 30


@pytest.mark.parametrize("name", NETWORKS)
def test_a_saved_network_answers_the_same(
    models: Any, name: str, question: Question, tmp_path: Path
) -> None:
    windows = with_electrodes(question.windows, ("C3", "C4"))
    networks = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        network = build_network(name, 2, 200, 100, 2)
        networks.append(Standardised(network, windows.take(np.arange(seed, 9))).eval())
    one, other = networks
    torch.save(one.state_dict(), tmp_path / "weights.pt")
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    torch.testing.assert_close(outputs(other, windows), outputs(one, windows), rtol=0, atol=0)


def test_beside_an_encoder(
    models: Any, tiny_corpus: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """On the same folds and in the same table, of recordings with several montages."""
    training = FineTuningConfig(epochs=2)
    config = AdaptationConfig(baselines=NETWORKS, network_training=training, penalties=(1.0,))
    task, out = load_task(tiny_corpus.parent / "task.yaml"), tmp_path / "run"
    results = adapt(
        config, tiny_checkpoint, task, out, corpus_folder=tiny_corpus, device="cpu", quiet=True
    )
    assert list(results["model"].unique()) == ["frozen probe", *NETWORKS]
    assert results.groupby("model")["n_windows"].sum().nunique() == 1
