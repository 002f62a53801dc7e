"""Where models compute is what was asked for."""

from __future__ import annotations

import pytest
import torch

from berger.errors import BergerError
from berger.models.device import compute_device


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert compute_device("auto") == compute_device("cpu") == torch.device("cpu")
    with pytest.raises(BergerError, match="no GPU"):
        compute_device("cuda")


def test_a_gpu_is_used_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert compute_device("auto") == compute_device("cuda") == torch.device("cuda")
    assert compute_device("cpu") == torch.device("cpu")
