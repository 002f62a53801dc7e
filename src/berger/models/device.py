"""Where models compute."""

from __future__ import annotations

from typing import Literal

import torch

from berger.errors import BergerError

Device = Literal["auto", "cpu", "cuda"]
"""What users ask for; "auto" is a GPU where there is one."""


def compute_device(device: Device) -> torch.device:
    """Return the device that is asked for.

    Raises
    ------
    BergerError
        If it is "cuda" and there is none.
    """
    found = torch.cuda.is_available()
    if device == "cuda" and not found:
        raise BergerError("device cuda: torch finds no GPU here; leave --device out, or use cpu.")
    return torch.device("cuda" if found and device != "cpu" else "cpu")
