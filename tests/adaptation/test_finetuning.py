"""Fine-tuning: what is frozen stays, what is kept was the best, and classes weigh the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from berger import open_corpus
from berger.adaptation import finetuning
from berger.adaptation.finetuning import (
    FineTuningConfig,
    Labelled,
    build_optimizer,
    build_step_schedule,
    class_weights,
    count_trained,
    fine_tune,
    outputs,
    pretrained_parts,
    trained_groups,
)
from berger.configuration import load_config
from berger.corpus import collate
from berger.errors import BergerError
from berger.models import (
    Classifier,
    ClassifierConfig,
    DareConfig,
    DareEEG,
    SpecHiNet,
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


@pytest.mark.parametrize("make", [classifier, mixture])
@pytest.mark.parametrize("unfreeze", [None, 3])
def test_nothing_that_stays_frozen_is_in_the_optimiser(make: Any, unfreeze: int | None) -> None:
    """Although it would decay the weights."""
    model = make()
    config = FineTuningConfig(epochs=3, unfreeze=unfreeze, weight_decay=0.1, optimizer="adamw")
    inside = {
        value for group in build_optimizer(model, config).param_groups for value in group["params"]
    }
    if isinstance(model, SpecMoE):
        assert inside == {*model.head.parameters(), *model.gate.parameters()}
    else:
        assert inside == {*model.head.parameters()}
    assert count_trained(model, config) == sum(value.numel() for value in inside)


def test_encoders_are_trained_from_the_epoch_that_was_named(train: Labelled) -> None:
    after = {}
    for unfreeze in (0, 1, 2):
        model = mixture()
        before = weights(model.experts)
        config = FineTuningConfig(epochs=2, unfreeze=unfreeze, batch_size=8)
        fine_tune(model, train, None, config, seed=0)
        after[unfreeze] = equal(weights(model.experts), before)
    assert after == {0: False, 1: False, 2: True}


def test_a_mixtures_gates_are_told_by_epoch(train: Labelled) -> None:
    """Their mean over the training windows, which a rate of nearly nothing leaves as it was."""
    model = mixture(gate="softmax")
    config = FineTuningConfig(epochs=2, unfreeze=None, batch_size=5, lr=1e-12)
    with torch.no_grad():
        each = [collate([train.windows[i]]).signal() for i in range(len(train.targets))]
        wanted = torch.stack([model.gates(one).mean((0, 1, 3)) for one in each]).mean(0).tolist()
    history = fine_tune(model, train, None, config, seed=0).history
    for line in history:
        assert [line["gate_0"], line["gate_1"]] == pytest.approx(wanted, abs=1e-5)
        assert line["gate_0"] + line["gate_1"] == pytest.approx(1, abs=1e-5)
    alone = fine_tune(classifier(), train, None, config, seed=0).history
    assert not any(name.startswith("gate") for name in alone[0])


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


# one depth after another


def trained_in(make: Any, train: Labelled, config: FineTuningConfig) -> list[set[str]]:
    """Which parameters each epoch moves, as an epoch ends; checks what is in training mode."""
    model = make()
    moved: list[set[str]] = []
    before = weights(model)
    statistics = [name for name in before if "running" in name or "tracked" in name]
    depth = {
        value: place
        for encoder in pretrained_parts(model)
        for place, group in enumerate(encoder.depth_groups())
        for value in group
    }

    def after(line: dict[str, float]) -> None:
        nonlocal before
        now = weights(model)
        moved.append({name for name in now if not torch.equal(now[name], before[name])})
        before = now
        for name in statistics:  # of batch norms: theirs moves if and only if the norm does
            norm, _, _ = name.rpartition(".")
            assert (name in moved[-1]) == (f"{norm}.weight" in moved[-1]), name
        for module in model.modules():
            own = {value for value in module.parameters(recurse=False) if value in depth}
            if own:
                assert module.training == all(value.requires_grad for value in own)
        released = sum(v.numel() for v in model.parameters() if v.requires_grad and v in depth)
        new = sum(v.numel() for group in trained_groups(model, config)[-1:] for v in group)
        assert line["trained_parameters"] == released + new

    fine_tune(model, train, None, config, seed=0, tell=after)
    assert all(value.requires_grad for value in model.parameters())
    return moved


def dare_without_a_decoder() -> Classifier:
    return dare(parts="encoder")


@pytest.mark.parametrize(
    ("make", "n_depths"),
    [(classifier, 7), (mixture, 7), (dare_without_a_decoder, 4)],
)
def test_depths_are_released_from_the_last_to_the_first(
    make: Any, n_depths: int, train: Labelled
) -> None:
    model = make()
    names = {value: name for name, value in model.named_parameters()}
    depths = [
        {names[value] for encoder in pretrained_parts(model) for value in encoder.depth_groups()[k]}
        for k in range(n_depths)
    ]
    inside = set.union(*depths)
    config = FineTuningConfig(
        epochs=2 * n_depths, unfreeze=1, unfreeze_every=2, batch_size=16, optimizer="adamw", lr=1e-3
    )
    few = Labelled(train.windows.take(np.arange(4)), train.targets[:4])
    moved = trained_in(make, few, config)
    for epoch, found in enumerate(moved):
        n_released = min(n_depths, (epoch + 1) // 2)
        released = set().union(*depths[n_depths - n_released :])
        assert found & inside <= released, epoch
        if n_released:  # the newest depth, too
            assert found & depths[n_depths - n_released], epoch
    # a depth that no epoch reaches is not counted, and not in the optimiser
    short = config.model_copy(update={"epochs": 4})
    groups = trained_groups(model, short)
    assert len(groups) == 3
    listed = {names[value] for group in groups[:-1] for value in group}
    assert listed == set().union(*depths[-2:])
    built = build_optimizer(model, short).param_groups
    assert sum(v.numel() for group in built for v in group["params"]) == count_trained(model, short)


def test_without_steps_everything_is_released_at_once() -> None:
    config = FineTuningConfig(unfreeze=2)
    assert [config.n_released(7, epoch) for epoch in range(4)] == [0, 0, 7, 7]
    assert FineTuningConfig(unfreeze=None).n_released(7, 99) == 0
    steps = FineTuningConfig(unfreeze=2, unfreeze_every=3)
    assert [steps.n_released(3, epoch) for epoch in range(10)] == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3]
    with pytest.raises(ValidationError, match="unfreeze_every begins at unfreeze"):
        FineTuningConfig(unfreeze=None, unfreeze_every=1)


# what is trained, and how fast


def dare(**changes: Any) -> Classifier:
    torch.manual_seed(0)
    sizes = {"embed_dim": 8, "n_heads": 2, "patch_size": 50, "sfreq": 100, "encoder_depth": 3}
    encoder = DareConfig.model_validate(sizes | changes)
    return Classifier(ClassifierConfig(encoder=encoder, classes=("a", "b")))


NAMES = ("C3", "C4", "Cz")


def dare_with_spectrum() -> Classifier:
    return dare(spectrum=True)


@pytest.mark.parametrize("make", [classifier, mixture, dare, dare_with_spectrum])
def test_what_is_trained_is_what_the_answers_depend_on(make: Any) -> None:
    """No decoder, predictor or reconstructor, and everything once."""
    model = make()
    signal = 20 * torch.randn(2, 3, 400)
    answers = model(signal) if isinstance(model, SpecMoE) else model(signal, NAMES)
    answers.square().sum().backward()
    groups = trained_groups(model, FineTuningConfig(unfreeze=0))
    listed = [value for group in groups for value in group]
    assert len(listed) == len(set(listed))
    assert set(listed) == {value for value in model.parameters() if value.grad is not None}
    total = sum(value.numel() for value in listed)
    assert count_trained(model, FineTuningConfig(unfreeze=0)) == total
    assert (total < model.n_parameters) == isinstance(model, Classifier)


def test_the_order_of_depth_of_dare() -> None:
    model = dare(parts="encoder")
    encoder = model.encoder
    assert isinstance(encoder, DareEEG)
    names = dict(encoder.named_parameters())
    first, one, two, last = (
        {name for name, value in names.items() if any(value is x for x in group)}
        for group in encoder.depth_groups()
    )
    assert first == {f"encoder.{name}" for name in ("summary_tokens", "electrodes.weight")} | {
        f"encoder.embed.{name}" for name in ("weight", "bias")
    }
    assert {name.split(".")[2] for name in one} == {"0"}
    assert {name.split(".")[2] for name in two} == {"1"}
    assert {name for name in last if "layers.2" not in name} == {
        "encoder.norm.weight",
        "encoder.norm.bias",
    }


def test_the_order_of_depth_of_spechinet() -> None:
    """That in which its parts are run."""
    encoder = SpecHiNet(ENCODER).eval()
    heard: list[nn.Module] = []
    parts = {id(next(part.parameters())): part for part in encoder.children()}
    for part in parts.values():
        part.register_forward_hook(lambda module, *_: heard.append(module))
    encoder.forward_features(torch.randn(1, 2, 400))
    assert [id(group[0]) for group in encoder.depth_groups()] == [
        id(next(part.parameters())) for part in heard
    ]


@pytest.mark.parametrize(("make", "n_depths"), [(classifier, 7), (mixture, 7), (dare, 4)])
@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_learning_rates_fall_from_the_head_to_the_input(
    make: Any, n_depths: int, optimizer: str
) -> None:
    model = make()
    config = FineTuningConfig.model_validate(
        {
            "unfreeze": 0,
            "optimizer": optimizer,
            "lr": 0.1,
            "layer_decay": 0.65,
            "weight_decay": 0.02,
        }
    )
    groups = trained_groups(model, config)
    assert len(groups) == n_depths + 1
    rates = {
        value: (group["lr"], group["weight_decay"])
        for group in build_optimizer(model, config).param_groups
        for value in group["params"]
    }
    for depth, group in enumerate(groups):
        for value in group:
            expected = 0.1 * 0.65 ** (n_depths - depth), 0.02 if value.ndim > 1 else 0.0
            assert rates[value] == expected
    assert {*groups[-1]} >= {*model.head.parameters()}
    assert len(rates) == sum(map(len, groups))
    # and all of them follow the schedule
    built = build_optimizer(model, config.model_copy(update={"schedule": "cosine", "warmup": 0.0}))
    cosine = build_step_schedule(
        built, config.model_copy(update={"schedule": "cosine", "warmup": 0.0}), 2
    )
    assert cosine is not None
    for value in model.parameters():
        value.grad = torch.zeros_like(value)
    built.step()
    cosine.step()
    for group, value in ((group, group["params"][0]) for group in built.param_groups):
        assert group["lr"] == pytest.approx(rates[value][0] / 2)


def test_without_decay_of_layers_there_might_as_well_be_no_groups(
    train: Labelled, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = FineTuningConfig(epochs=2, unfreeze=0, batch_size=8, lr=0.01)
    ends = []
    for build in (
        build_optimizer,
        lambda model, config: torch.optim.Adam(model.parameters(), config.lr, amsgrad=True),
        lambda model, config: build_optimizer(
            model, config.model_copy(update={"layer_decay": 0.7})
        ),
    ):
        monkeypatch.setattr(finetuning, "build_optimizer", build)
        model = classifier()
        fine_tune(model, train, None, config, seed=0)
        ends.append(weights(model))
    assert equal(ends[0], ends[1])
    assert not equal(ends[0], ends[2])


def test_one_cycle_and_cosine_by_hand(train: Labelled) -> None:
    n_steps = len(train.batches(8, 0))
    ends = {"one-cycle": 0.08 / 16, "cosine": 0.0}
    for schedule, end in ends.items():
        config = FineTuningConfig.model_validate(
            {"epochs": 2, "batch_size": 8, "lr": 0.08, "schedule": schedule, "layer_decay": 0.5}
        )
        rates = [line["lr"] for line in fine_tune(mixture(), train, None, config, seed=0).history]
        assert rates[-1] == pytest.approx(end, abs=1e-12)
        # a run that is ended early was on the same way
        short = fine_tune(mixture(), train, None, config, seed=0, n_epochs=1).history
        assert [line["lr"] for line in short] == rates[:1]
        optimizer = build_optimizer(mixture(), config)
        built = build_step_schedule(optimizer, config, 2 * n_steps)
        assert built is not None
        first = 0.04 if schedule == "one-cycle" else 0.08 / (round(0.2 * 2 * n_steps) + 1)
        assert max(group["lr"] for group in optimizer.param_groups) == pytest.approx(first)


def test_a_cycle_needs_a_rise() -> None:
    with pytest.raises(BergerError, match="one-cycle needs a warmup in which to rise"):
        load_config(FineTuningConfig, None, {"schedule": "one-cycle", "warmup": 0.0})


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # 6 windows of one class, 2 of another, none of a third: ratios 3 and √3, mean weight 1
        ("balanced", [8 / 12, 8 / 4, 0]),
        ("sqrt", [8 / (6 + 2 * 3**0.5), 8 * 3**0.5 / (6 + 2 * 3**0.5), 0]),
        ("none", [1, 1, 1]),
        (True, [8 / 12, 8 / 4, 0]),
        (False, [1, 1, 1]),
    ],
)
def test_class_weights_by_hand(kind: str | bool, expected: list[float]) -> None:
    config = load_config(FineTuningConfig, None, {"class_weights": kind})
    assert not isinstance(config.class_weights, bool)
    targets = np.array([0, 0, 1, 0, 0, 1, 0, 0])
    np.testing.assert_allclose(class_weights(targets, 3, config), expected, rtol=1e-12)


def test_it_stops_early_and_keeps_the_best_epoch(train: Labelled, validation: Labelled) -> None:
    """Training on opposite labels makes the validation loss rise."""
    contrary = Labelled(train.windows, 1 - train.targets)
    settings = {"unfreeze": 0, "batch_size": 8, "lr": 0.01, "class_weights": "none"}
    whole = FineTuningConfig.model_validate(settings | {"epochs": 8})
    curve = [
        line["validation_loss"]
        for line in fine_tune(classifier(), contrary, train, whole, seed=0).history
    ]
    best = int(np.argmin(curve))
    assert best + 2 < 7, curve  # it rises
    model = classifier()
    config = whole.model_copy(update={"stop_after": 2})
    tuned = fine_tune(model, contrary, train, config, seed=0)
    stop = next(e for e in range(8) if e - int(np.argmin(curve[: e + 1])) >= 2)
    assert [line["validation_loss"] for line in tuned.history] == curve[: stop + 1]
    assert tuned.best_epoch == int(np.argmin(curve[: stop + 1]))
    again = F.cross_entropy(outputs(model, train.windows), torch.from_numpy(train.targets))
    assert float(again) == pytest.approx(curve[tuned.best_epoch], rel=1e-5)


def test_gradients_are_clipped(train: Labelled) -> None:
    largest: dict[float | None, list[float]] = {None: [], 1e-3: []}
    for clip_norm, norms in largest.items():

        def watch(optimizer: Any, *_: Any, norms: list[float] = norms) -> None:
            values = [value.grad for group in optimizer.param_groups for value in group["params"]]
            norms.append(float(torch.cat([x.flatten() for x in values if x is not None]).norm()))

        hook = register_optimizer_step_pre_hook(watch)
        config = FineTuningConfig(epochs=1, unfreeze=0, batch_size=8, clip_norm=clip_norm)
        fine_tune(classifier(), train, None, config, seed=0)
        hook.remove()
    assert max(largest[1e-3]) <= 1e-3 * (1 + 1e-4) < min(largest[None])


def test_the_history_tells_how_much_is_trained(train: Labelled) -> None:
    model = classifier()
    config = FineTuningConfig(epochs=2, unfreeze=1, batch_size=16)
    history = fine_tune(model, train, None, config, seed=0).history
    head = sum(value.numel() for value in model.head.parameters())
    told = [line["trained_parameters"] for line in history]
    assert told == [head, count_trained(model, config)]
    assert head < told[1] < model.n_parameters
