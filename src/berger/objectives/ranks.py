"""Values of all the processes that train together, through which gradients find their way back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed


class _Sum(torch.autograd.Function):
    """Every process gets the sum; what each makes of it comes back to all summands."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:
        total: Tensor = gradients[0].clone()
        distributed.all_reduce(total)
        return total


def summed(values: Tensor) -> Tensor:
    """Sum tensors of one shape over all processes."""
    total: Tensor = _Sum.apply(values)  # type: ignore[no-untyped-call]
    return total


def gathered(rows: Tensor) -> tuple[Tensor, int]:
    """Put the rows of all processes behind each other.

    Parameters
    ----------
    rows : Tensor, shape (n, dim)
        Processes may have different numbers.

    Returns
    -------
    rows : Tensor, shape (n of all, dim)
    first : int
        Where this process's begin.
    """
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    counts = torch.zeros(world_size, dtype=torch.long, device=rows.device)
    counts[rank] = len(rows)
    distributed.all_reduce(counts)
    first, total = int(counts[:rank].sum()), int(counts.sum())
    before, after = rows.new_zeros(first, rows.shape[1]), total - first - len(rows)
    return summed(torch.cat((before, rows, rows.new_zeros(after, rows.shape[1])))), first
