"""Learning rates by hand, and what is decayed."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from berger.models import SpecHiNet, SpecHiNetConfig
from berger.training.optim import OptimizerConfig, build_optimizer, build_schedule
from tests.conftest import TINY_MODEL


def learning_rates(steps: int, **config: float) -> list[float]:
    """The learning rate of every step, and the one after the last."""
    settings = OptimizerConfig.model_validate(config)
    optimizer = build_optimizer(nn.Linear(2, 1), settings)
    schedule = build_schedule(optimizer, settings, steps)
    rates = []
    for _ in range(steps + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def test_cosine_by_hand() -> None:
    # 2 + 8 · (1 + cos(π · step / 4)) / 2
    expected = [10, 2 + 4 * (1 + 0.5**0.5), 6, 2 + 4 * (1 - 0.5**0.5), 2]
    assert learning_rates(4, lr=10, final_lr=2) == pytest.approx(expected)


def test_warm_up_by_hand() -> None:
    rates = learning_rates(8, lr=3, final_lr=1, warmup=0.25)
    # two steps of warm-up, 1/3 and 2/3 of the way; six of the cosine from 3 to 1
    assert rates[:3] == pytest.approx([1, 2, 3])
    assert rates[5] == pytest.approx(2)
    assert rates[8] == pytest.approx(1)
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_a_run_may_end_at_zero_or_have_one_step() -> None:
    assert learning_rates(2, lr=1, final_lr=0) == pytest.approx([1, 0.5, 0])
    assert learning_rates(1, lr=1, final_lr=0.1) == pytest.approx([1, 0.1])
    assert learning_rates(1, lr=1, final_lr=0.1, warmup=0.9) == pytest.approx([0.5, 1])


def test_one_cycle_by_hand() -> None:
    """From half of the highest up to it in a fifth of the run, then down to a sixteenth."""
    rates = learning_rates(20, lr=16, start_lr=8, final_lr=1, warmup=0.2)
    rise = [12 - 4 * math.cos(math.pi * share) for share in (0, 0.25, 0.5, 0.75)]
    assert rates[:5] == pytest.approx([*rise, 16])
    assert rates[12] == pytest.approx((16 + 1) / 2)
    assert rates[20] == pytest.approx(1)


def test_one_cycle_is_torchs() -> None:
    """PyTorch reaches its highest and its last learning rate one step earlier."""
    steps = 1000
    optimizer = build_optimizer(nn.Linear(2, 1), OptimizerConfig())
    theirs = OneCycleLR(
        optimizer,
        5e-4,
        total_steps=steps,
        pct_start=0.2,
        div_factor=2,
        final_div_factor=8,
        cycle_momentum=False,
    )
    expected = []
    for _ in range(steps):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    ours = learning_rates(steps, lr=5e-4, start_lr=2.5e-4, final_lr=5e-4 / 16, warmup=0.2)
    assert ours[:steps] == pytest.approx(expected, abs=5e-4 / 100)


@pytest.mark.parametrize("fields", [{"start_lr": 2, "warmup": 0.1}, {"start_lr": 0.5}])
def test_a_rise_must_rise(fields: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="start_lr must not exceed lr, and needs a warmup"):
        OptimizerConfig.model_validate({"lr": 1.0, **fields})


def test_all_groups_follow_the_schedule() -> None:
    settings = OptimizerConfig(lr=1, final_lr=0)
    optimizer = build_optimizer(nn.Linear(2, 1), settings)
    schedule = build_schedule(optimizer, settings, 2)
    optimizer.step()
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.5, 0.5])


def test_matrices_are_decayed_and_nothing_else() -> None:
    model = SpecHiNet(SpecHiNetConfig.model_validate(TINY_MODEL))
    optimizer = build_optimizer(model, OptimizerConfig(weight_decay=0.07, betas=(0.8, 0.95)))
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert (
        len(decay)
        == len(list(model.parameters()))
        == sum(len(group["params"]) for group in optimizer.param_groups)
    )
    for module in model.modules():
        kernel = isinstance(module, nn.Linear | nn.Conv1d | nn.ConvTranspose1d)
        for name, parameter in module.named_parameters(recurse=False):
            wanted = 0.07 if kernel and name == "weight" else 0.0
            assert decay[id(parameter)] == wanted, (module, name)
    assert all(group["betas"] == (0.8, 0.95) for group in optimizer.param_groups)


def test_decay_shrinks_without_a_gradient() -> None:
    layer = nn.Linear(2, 1)
    before = [parameter.detach().clone() for parameter in (layer.weight, layer.bias)]
    optimizer = build_optimizer(layer, OptimizerConfig(lr=0.1, weight_decay=0.5))
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(layer.weight, (1 - 0.1 * 0.5) * before[0])
    torch.testing.assert_close(layer.bias, before[1])


def test_what_is_frozen_is_left_out() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    model[0].requires_grad_(False)
    (matrix,), (bias,) = (
        group["params"] for group in build_optimizer(model, OptimizerConfig()).param_groups
    )
    assert matrix is model[1].weight
    assert bias is model[1].bias
    model[1].weight.requires_grad_(False)
    assert len(build_optimizer(model, OptimizerConfig()).param_groups) == 1
