"""The published programs' weights under their own names, as a file of theirs would hold them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.golden.golden_weights import golden_tensor

GOLDEN = Path(__file__).parent


def published_weights(case: str) -> dict[str, Tensor]:
    """Parameters and buffers of a case, e.g. "specmoe_expert", by published name.

    Values that are fixed in the published program have the right shape here, and other values.
    """
    named = manifest(case)["parameters"]
    return {name: torch.tensor(golden_tensor(name, tuple(shape))) for name, shape, *_ in named}


def manifest(case: str) -> dict[str, Any]:
    """What a case says of its network."""
    described: dict[str, Any] = json.loads((GOLDEN / f"{case}.json").read_text())
    return described


def golden_arrays(case: str) -> dict[str, Tensor]:
    """Inputs and outputs of a case by name."""
    with np.load(GOLDEN / f"{case}.npz", allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def agree(result: Tensor, wanted: Tensor) -> None:
    """Assert agreement to 1e-4 of the largest value."""
    torch.testing.assert_close(result, wanted, rtol=1e-4, atol=1e-4 * wanted.abs().max().item())
