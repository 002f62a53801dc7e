"""Layers of low rank: the encoder's own weights stay, and in the end they are part of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from berger import load_checkpoint, open_corpus
from berger.adaptation.finetuning import (
    FineTuningConfig,
    Labelled,
    count_trained,
    fine_tune,
    pretrained_parts,
    trained_groups,
)
from berger.adaptation.low_rank import LowRankConfig, adaptable_layers, add_low_rank
from berger.errors import BergerError
from berger.models import (
    Classifier,
    ClassifierConfig,
    DareConfig,
    Encoder,
    SpecHiNetConfig,
    SpecHiNetPublishedConfig,
    SpecMoE,
    SpecMoEConfig,
)
from tests.conftest import TINY_MODEL

pytest.importorskip("peft", reason="peft is not installed: pip install berger[peft]")

NAMES = ("C3", "C4", "Cz")
SIZES = {key: TINY_MODEL[key] for key in ("sfreq", "stem_dim", "embed_dim", "bottleneck_dim")}
CONFIG = LowRankConfig(rank=2, alpha=6)
ENCODERS = {
    "spechinet": SpecHiNetConfig.model_validate(TINY_MODEL),
    "published": SpecHiNetPublishedConfig.model_validate(SIZES | {"n_heads": 2}),
    "dare": DareConfig(embed_dim=8, n_heads=2, patch_size=50, sfreq=100),
    "streams": DareConfig(
        embed_dim=8, n_heads=2, patch_size=50, sfreq=100, n_streams=2, spectrum=True
    ),
}
KINDS = [*ENCODERS, "mixture"]


def model_of(kind: str) -> Classifier | SpecMoE:
    torch.manual_seed(0)
    if kind == "mixture":
        expert = ENCODERS["spechinet"]
        settings: Any = {"expert": expert, "n_outputs": 2, "classes": ("a", "b")}
        return SpecMoE(SpecMoEConfig(n_experts=2, **settings))
    settings = {"encoder": ENCODERS[kind], "classes": ("a", "b")}
    return Classifier(ClassifierConfig.model_validate(settings))


def answers(model: Classifier | SpecMoE) -> Tensor:
    torch.manual_seed(1)
    signal = 20 * torch.randn(3, 3, 400)
    found: Tensor = model(signal) if isinstance(model, SpecMoE) else model(signal, NAMES)
    return found


def size(encoder: Encoder, rank: int) -> int:
    """Values of layers of a rank beside all that can be adapted, by their shapes."""
    total = 0
    for name in adaptable_layers(encoder):
        layer = encoder.get_submodule(name)
        assert isinstance(layer, nn.Linear | nn.Conv1d)
        n_out, n_in = layer.weight.flatten(1).shape
        total += rank * (n_in + n_out)
    return total


@pytest.mark.parametrize("kind", KINDS)
def test_at_first_they_change_nothing_and_in_the_end_they_are_part_of_the_weights(
    kind: str,
) -> None:
    model = model_of(kind).eval()
    names = {name: value.shape for name, value in model.state_dict().items()}
    before = answers(model)
    merge = add_low_rank(pretrained_parts(model), CONFIG)
    torch.testing.assert_close(answers(model), before)
    answers(model).square().sum().backward()
    for name, value in model.named_parameters():
        if value.requires_grad and "lora_A" not in name:  # A's slope is B, which is zero
            assert value.grad is not None, name
            assert value.grad.abs().max() > 0, name  # none of them is passed by
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora" in name:
                value.normal_(std=0.2)
        unmerged = answers(model)
        merge()
        merged = answers(model)
    assert (unmerged - before).abs().max() > 1e-3
    torch.testing.assert_close(merged, unmerged, rtol=1e-4, atol=1e-5)
    assert {name: value.shape for name, value in model.state_dict().items()} == names
    assert all(value.requires_grad for value in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_the_trained_values_are_counted(kind: str) -> None:
    model = model_of(kind)
    inside = sum(size(encoder, CONFIG.rank) for encoder in pretrained_parts(model))
    pretrained = {value for part in pretrained_parts(model) for value in part.parameters()}
    new = sum(value.numel() for value in model.parameters() if value not in pretrained)
    add_low_rank(pretrained_parts(model), CONFIG)
    assert count_trained(model, FineTuningConfig(unfreeze=0)) == inside + new
    assert count_trained(model, FineTuningConfig(unfreeze=None)) == new
    depths = trained_groups(model, FineTuningConfig(unfreeze=0, unfreeze_every=1))
    assert all(depths)  # every depth has some, so that rates and steps apply as elsewhere


@pytest.mark.parametrize(
    ("kind", "left_out"),
    [
        # convolutions with holes; norms are no layers of weights
        ("spechinet", {"down1.coarse.0", "down2.coarse.0", "down3.coarse.0"}),
        ("dare", set()),
    ],
)
def test_which_layers_are_adapted(kind: str, left_out: set[str]) -> None:
    (encoder,) = pretrained_parts(model_of(kind))
    needed = {value for group in encoder.depth_groups() for value in group}
    layers = {
        name
        for name, layer in encoder.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv1d) and layer.weight in needed
    }
    assert layers - set(adaptable_layers(encoder)) == left_out
    assert layers > left_out


@pytest.mark.parametrize("kind", ["spechinet", "dare", "mixture"])
def test_what_is_frozen_stays_bit_for_bit(kind: str, tiny_corpus: Path) -> None:
    """Weights, statistics of batch norms; and what is trained does move."""
    windows = open_corpus(tiny_corpus).windows(4.0)
    some = windows.take(np.arange(0, len(windows), 6))
    train = Labelled(some, np.arange(len(some)) % 2)
    model = model_of(kind)
    add_low_rank(pretrained_parts(model), CONFIG)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = FineTuningConfig(epochs=2, unfreeze=0, lr=0.01, batch_size=8, weight_decay=0.1)
    told: list[dict[str, float]] = []
    fine_tune(model, train, train, config, seed=0, tell=told.append)
    assert told[0]["trained_parameters"] == count_trained(model, config)
    own = ("encoder.", "experts.")
    for name, value in model.state_dict().items():
        frozen = name.startswith(own) and "lora" not in name
        assert torch.equal(value, before[name]) == frozen, name


def test_berger_does_not_load_peft() -> None:
    code = (
        "import sys, berger.evaluation.matrix;"
        "print(*sorted({'peft', 'transformers', 'accelerate'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_without_peft_a_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(BergerError, match=r"low_rank: peft cannot be loaded .*; install it by"):
        add_low_rank(pretrained_parts(model_of("dare")), CONFIG)


def test_an_adapted_checkpoint_is_an_ordinary_one(tmp_path: Path) -> None:
    model = model_of("dare").eval()
    merge = add_low_rank(pretrained_parts(model), CONFIG)
    merge()
    model.save_checkpoint(tmp_path / "checkpoint")
    again = load_checkpoint(tmp_path / "checkpoint")
    assert isinstance(again, Classifier)
    torch.testing.assert_close(answers(again), answers(model), rtol=0, atol=0)
