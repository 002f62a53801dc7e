"""Fine-tuning: what is frozen stays, what is kept was the best, and classes weigh the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from berger import open_corpus
from berger.adaptation.finetuning import FineTuningConfig, Labelled, fine_tune, outputs
from berger.errors import BergerError
from berger.models import (
    Classifier,
    ClassifierConfig,
    DareConfig,
    SpecHiNetConfig,
    SpecMoE,
    SpecMoEConfig,
)
from tests.conftest import TINY_MODEL

ENCODER = SpecHiNetConfig.model_validate(TINY_MODEL)


@pytest.fixture(scope="module")
def windows(tiny_corpus: Path) -> Any:
    return open_corpus(tiny_corpus).windows(4.0)


@pytest.fixture(scope="module")
def train(windows: Any) -> Labelled:
    some = windows.take(np.arange(0, len(windows), 4))
    return Labelled(some, np.arange(len(some)) % 3 // 2)  # two of three are class 0


@pytest.fixture(scope="module")
def validation(windows: Any) -> Labelled:
    some = windows.take(np.arange(1, len(windows), 6))
    return Labelled(some, np.arange(len(some)) % 2)


def classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier(ClassifierConfig(encoder=ENCODER, classes=("a", "b")))


def mixture(**changes: Any) -> SpecMoE:
    torch.manual_seed(0)
    settings = {"expert": ENCODER, "n_experts": 2, "n_outputs": 2, "classes": ("a", "b")} | changes
    return SpecMoE(SpecMoEConfig(**settings))


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("make", [classifier, mixture])
def test_frozen_encoders_stay_bit_for_bit_with_their_batch_norms(
    make: Any, train: Labelled, validation: Labelled
) -> None:
    model = make()
    part = model.encoder if isinstance(model, Classifier) else model.experts
    before, head = weights(part), weights(model.head)
    config = FineTuningConfig(epochs=2, unfreeze=None, batch_size=8)
    fine_tune(model, train, None, config, seed=0)
    assert equal(weights(part), before)
    assert not equal(weights(model.head), head)
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_encoders_are_trained_from_the_epoch_that_was_named(train: Labelled) -> None:
    after = {}
    for unfreeze in (0, 1, 2):
        model = mixture()
        before = weights(model.experts)
        config = FineTuningConfig(epochs=2, unfreeze=unfreeze, batch_size=8)
        fine_tune(model, train, None, config, seed=0)
        after[unfreeze] = equal(weights(model.experts), before)
    assert after == {0: False, 1: False, 2: True}


def test_the_best_epoch_of_the_validation_windows_is_kept(
    train: Labelled, validation: Labelled
) -> None:
    model = classifier()
    config = FineTuningConfig(epochs=4, unfreeze=0, batch_size=8, lr=0.02, patience=0)
    lines: list[dict[str, float]] = []
    tuned = fine_tune(model, train, validation, config, seed=0, tell=lines.append)
    assert tuned.history == lines
    losses = [line["validation_loss"] for line in lines]
    assert tuned.best_epoch == int(np.argmin(losses))
    share = np.bincount(train.targets) / len(train.targets)
    weight = torch.tensor(1 / share, dtype=torch.float32)
    targets = torch.from_numpy(validation.targets)
    again = F.cross_entropy(outputs(model, validation.windows), targets, weight=weight)
    assert float(again) == pytest.approx(min(losses), rel=1e-5)
    # a rise halves the learning rate of the epochs after it
    worse = np.flatnonzero(np.diff(losses) > 0)
    if len(worse) and worse[0] + 2 < len(lines):
        assert lines[worse[0] + 2]["lr"] == lines[worse[0] + 1]["lr"] / 2


def test_a_class_weighs_the_same_however_rare_it_is(train: Labelled) -> None:
    """At logits that do not depend on the window, the gradient of two balanced classes is zero."""

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = nn.Parameter(torch.zeros(2))

        def forward(self, signal: Tensor) -> Tensor:
            return self.logits.expand(len(signal), 2)

    moved = {}
    n_windows = len(train.targets)
    for weighted in (True, False):
        model = Constant()
        config = FineTuningConfig(epochs=3, batch_size=n_windows, class_weights=weighted)
        # one montage only, so that a batch holds all windows
        whole = train.batches(n_windows, 0)[0]
        alike = Labelled(train.windows.take(np.array(whole)), train.targets[whole])
        fine_tune(model, alike, None, config, seed=0)
        moved[weighted] = float(model.logits.detach().diff().abs())
    assert moved[True] < 1e-5 < moved[False]


def test_an_encoder_that_knows_electrodes_by_name_is_told_them(windows: Any) -> None:
    torch.manual_seed(0)
    sizes = {"embed_dim": 8, "n_heads": 2, "patch_size": 50, "sfreq": 100}
    encoder = DareConfig.model_validate({"parts": "encoder", **sizes})
    model = Classifier(ClassifierConfig(encoder=encoder, classes=("a", "b")))
    some = windows.take(np.arange(0, len(windows), 5))  # of two montages
    labelled = Labelled(some, np.arange(len(some)) % 2)
    tuned = fine_tune(model, labelled, None, FineTuningConfig(epochs=1, unfreeze=0), seed=0)
    assert np.isfinite(tuned.history[0]["train_loss"])


def test_values_are_learned_by_squared_error(train: Labelled) -> None:
    values = np.array([np.log(window.signal.std()) for window in iter_windows(train)])
    values = (values - values.mean()) / values.std()
    numbers = Labelled(train.windows, values)
    torch.manual_seed(0)
    model = SpecMoE(SpecMoEConfig(expert=ENCODER, n_experts=1, n_outputs=1, dropout=0))
    config = FineTuningConfig(epochs=12, unfreeze=0, batch_size=8, lr=0.005)
    tuned = fine_tune(model, numbers, numbers, config, seed=0)
    found = outputs(model, numbers.windows).squeeze(1).numpy()
    least = min(line["validation_loss"] for line in tuned.history)
    assert np.mean((found - values) ** 2) == pytest.approx(least, rel=1e-4)
    assert tuned.history[-1]["train_loss"] < 0.7 * values.var()


def iter_windows(labelled: Labelled) -> Any:
    return (labelled.windows[index] for index in range(len(labelled.windows)))


def test_the_same_seed_gives_the_same_weights(train: Labelled, validation: Labelled) -> None:
    config = FineTuningConfig(epochs=2, batch_size=8)
    runs = []
    for seed in (1, 1, 2):
        model = mixture(gate="softmax")
        fine_tune(model, train, validation, config, seed=seed)
        runs.append(weights(model))
    assert equal(runs[0], runs[1])
    assert not equal(runs[0], runs[2])


def test_a_class_that_training_lacks_is_no_fault(train: Labelled) -> None:
    torch.manual_seed(0)
    model = Classifier(ClassifierConfig(encoder=ENCODER, classes=("a", "b", "c")))
    config = FineTuningConfig(epochs=1, batch_size=8)
    tuned = fine_tune(model, train, None, config, seed=0)
    assert np.isfinite(tuned.history[0]["train_loss"])


def test_a_loss_that_explodes_ends_it(train: Labelled) -> None:
    model = classifier()
    with torch.no_grad():
        model.head.weight.fill_(float("nan"))
    with pytest.raises(BergerError, match="no longer a finite number in epoch 0; lower"):
        fine_tune(model, train, None, FineTuningConfig(epochs=2), seed=0)
