"""What aligning objectives share: laws of each loss, of the momentum copy and of the measures."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from berger.objectives.alignment import (
    AlignmentConfig,
    anchor_loss,
    follow,
    info_nce,
    measures,
    momentum_copy,
    normalized,
    projection_head,
    retrieval,
    unexplained,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


# laws of mask alignment


@pytest.mark.parametrize("n_windows", [2, 5, 64])
def test_identical_views_are_the_best_pairing(n_windows: int) -> None:
    rows = random_rows(n_windows, 32)
    least = info_nce(rows, rows)
    for seed in range(20):
        order = torch.randperm(n_windows, generator=seeded(seed))
        if (order == torch.arange(n_windows)).all():
            continue
        assert info_nce(rows, rows[order]) > least


def test_identical_orthogonal_views_by_hand() -> None:
    """Each row's similarity is 1 to its own and 0 to the others."""
    rows = torch.eye(7)
    expected = math.log(1 + 6 * math.exp(-10))
    assert info_nce(rows, 3 * rows, temperature=0.1).item() == pytest.approx(expected, rel=1e-3)
    # windows that cannot be told apart
    alike = torch.ones(7, 5)
    assert info_nce(alike, alike).item() == pytest.approx(math.log(7))


def test_identical_views_have_no_better_neighbour() -> None:
    """Around windows that are told apart, any change of one view costs."""
    rows = torch.eye(6, 8)
    for seed in range(50):
        moved = rows + 0.3 * random_rows(6, 8, seed=seed)
        assert info_nce(rows, moved) > info_nce(rows, rows)


@pytest.mark.parametrize("seed", range(5))
def test_mask_alignment_is_symmetric(seed: int) -> None:
    one, other = random_rows(9, 16, seed=seed), random_rows(9, 16, seed=seed + 100)
    torch.testing.assert_close(info_nce(one, other), info_nce(other, one))
    order = torch.randperm(9, generator=seeded(seed))
    torch.testing.assert_close(info_nce(one[order], other[order]), info_nce(one, other))
    torch.testing.assert_close(info_nce(2 * one, 5 * other), info_nce(one, other))


RANK = """
import sys, torch
from torch import distributed
from berger.objectives.alignment import info_nce
rank, address, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
rows = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(3))
one, other = (view[rank * 3 : 3 + rank * 2].clone().requires_grad_() for view in rows)
loss = info_nce(one, other, shared=True)
(loss * len(one)).backward()  # ranks count by their windows
torch.save({"loss": loss.detach(), "one": one.grad, "other": other.grad}, out)
distributed.destroy_process_group()
"""


def test_negatives_come_from_all_ranks(tmp_path: Path) -> None:
    """Two processes with three and two windows agree with one that has all five."""
    address = f"file://{tmp_path}/meeting"
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), address, str(tmp_path / str(rank))],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in ranks:
        _, complaints = process.communicate(timeout=120)
        assert process.returncode == 0, complaints
    found = [torch.load(tmp_path / str(rank), weights_only=True) for rank in range(2)]

    one, other = random_rows(2, 5, 16, seed=3)
    one.requires_grad_()
    other.requires_grad_()
    loss = info_nce(one, other)
    (5 * loss).backward()
    torch.testing.assert_close((3 * found[0]["loss"] + 2 * found[1]["loss"]) / 5, loss.detach())
    for name, gradient in (("one", one.grad), ("other", other.grad)):
        torch.testing.assert_close(torch.cat([rank[name] for rank in found]), gradient)


# laws of anchor alignment


def test_anchor_alignment_by_hand() -> None:
    anchors = 5 * random_rows(3, 6, 2, 16) + 2
    normalized = (anchors - anchors.mean(-1, keepdim=True)) / anchors.std(
        -1, correction=0, keepdim=True
    )
    assert anchor_loss(normalized, anchors) < 1e-8
    assert anchor_loss(torch.zeros_like(anchors), anchors).item() == pytest.approx(1, rel=1e-4)


def test_unexplained_is_one_for_the_mean() -> None:
    anchors = random_rows(30, 6, 1, 16)
    normal = normalized(anchors)
    assert unexplained(normal.mean((0, 1)).expand_as(anchors), anchors).item() == pytest.approx(
        1, rel=1e-4
    )
    assert unexplained(normal, anchors) < 1e-6


# laws of the momentum copy


def encoders() -> tuple[nn.Module, nn.Module]:
    """One with batch norm and dropout, and its copy, before it has moved on."""
    torch.manual_seed(0)
    trained = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    target = momentum_copy(trained)
    with torch.no_grad():
        for weight in trained.parameters():
            weight += 1
    trained(random_rows(8, 4))
    return target, trained


def test_a_copy_is_never_trained() -> None:
    target, trained = encoders()
    assert trained.training
    assert not any(module.training for module in target.modules())
    assert not any(weight.requires_grad for weight in target.parameters())


@pytest.mark.parametrize(("momentum", "follows"), [(1.0, False), (0.0, True)])
def test_momentum_1_freezes_and_0_copies(momentum: float, follows: bool) -> None:
    target, trained = encoders()
    before = {name: weight.clone() for name, weight in target.named_parameters()}
    follow(target, trained, (momentum, momentum), 1, 10)
    for name, weight in target.named_parameters():
        assert torch.equal(weight, trained.get_parameter(name) if follows else before[name])
        assert not torch.equal(before[name], trained.get_parameter(name))
    # statistics are averages of their own
    for name, buffer in target.named_buffers():
        assert torch.equal(buffer, trained.get_buffer(name))
    assert target.get_buffer("1.num_batches_tracked") == 1


def test_a_copy_may_be_of_a_part() -> None:
    target, trained = encoders()
    more = nn.Sequential(*trained, nn.Linear(4, 1))
    follow(target, more, (0.0, 0.0), 1, 1)
    assert all(torch.equal(w, more.get_parameter(name)) for name, w in target.named_parameters())


# measures of collapse


def test_retrieval_finds_its_own() -> None:
    rows = random_rows(50, 16)
    assert retrieval(rows, 3 * rows) == 1
    assert retrieval(rows, rows.roll(1, 0)) == 0
    assert retrieval(rows, random_rows(50, 16, seed=1)) < 0.2


def test_measures_of_what_has_collapsed() -> None:
    tokens = random_rows(5, 7, 16)
    healthy = measures(tokens, tokens.mean(1), tokens.mean(1))
    assert healthy["feature_std"].item() == pytest.approx(1, rel=0.3)
    assert healthy["effective_rank"] > 5
    assert healthy["retrieval"] == 1
    flat = torch.ones(5, 7, 16)
    assert measures(flat, tokens[:, 0], tokens[:, 1])["feature_std"] == 0


# the head


@pytest.mark.parametrize("weight", [0.0, 0.1])
def test_the_head_is_idle_without_mask_alignment(weight: float) -> None:
    config = AlignmentConfig(name="x", mask_alignment=weight, hidden_dim=8, projection_dim=3)
    head = projection_head(5, config)
    assert head(random_rows(2, 5)).shape == (2, 3)
    assert all(p.requires_grad == (weight > 0) for p in head.parameters())


def test_momentum_is_two_shares() -> None:
    with pytest.raises(ValidationError, match="momentum must be two numbers from 0 to 1"):
        AlignmentConfig(name="x", momentum=(0.5, 1.5))
