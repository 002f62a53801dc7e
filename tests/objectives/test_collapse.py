"""Measures of features that have collapsed, and of those that have not."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from berger.objectives.collapse import effective_rank, spread


def random_rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_effective_rank_counts_dimensions() -> None:
    for n_dims in (1, 3, 8):
        rows = torch.zeros(4000, 8)
        rows[:, :n_dims] = random_rows(4000, n_dims)
        assert effective_rank(rows).item() == pytest.approx(n_dims, rel=0.01)
    uneven = random_rows(4000, 8)
    uneven[:, 4:] *= 0.3
    assert 4 < effective_rank(uneven).item() < 7
    turned = uneven @ torch.linalg.qr(random_rows(8, 8, seed=1)).Q
    assert effective_rank(turned).item() == pytest.approx(effective_rank(uneven).item(), rel=1e-4)
    assert effective_rank(torch.ones(5, 8)) == 1


def test_what_is_no_number_has_no_rank() -> None:
    rows = random_rows(20, 4)
    rows[3, 1] = torch.nan
    assert math.isnan(effective_rank(rows))


def test_features_that_collapse() -> None:
    tokens = random_rows(5, 7, 16).requires_grad_()
    healthy = spread(tokens)
    assert healthy["feature_std"].item() == pytest.approx(1, rel=0.3)
    assert healthy["effective_rank"] > 5
    assert not any(value.requires_grad for value in healthy.values())
    near = spread(1 + 1e-3 * tokens)
    assert near["feature_std"].item() == pytest.approx(
        1e-3 * healthy["feature_std"].item(), rel=1e-4
    )
    on_a_line = spread(tokens[..., :1] * torch.ones(16))
    assert on_a_line["effective_rank"].item() == pytest.approx(1, abs=1e-3)
