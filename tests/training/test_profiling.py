"""A trace says what steps spent their time on, and changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from berger.corpus import open_corpus
from berger.models import SpecHiNet, SpecHiNetConfig
from berger.objectives.restoration import Restoration, RestorationConfig
from berger.training.loop import fit
from berger.training.profiling import TRACED
from berger.training.run import TrainingConfig
from berger.training.state import read_state
from tests.conftest import TINY_MODEL


def train(corpus: Path, out: Path, steps: int, **how: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    objective = Restoration(
        SpecHiNet(SpecHiNetConfig.model_validate(TINY_MODEL)),
        RestorationConfig.model_validate(
            {"mask": {"n_fft": 200, "hop": 100}, "n_fft": 128, "hop": 64, "n_chans": 2}
        ),
    )
    fit(
        objective,
        open_corpus(corpus).windows(4),
        TrainingConfig(steps=steps, batch_size=2),
        out,
        seed=0,
        device="cpu",
        quiet=True,
        **how,
    )
    state = read_state(out)
    del state["time"]
    return state


def events(out: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((out / "trace.json").read_text())["traceEvents"]
    return found


def test_a_trace_has_the_model_in_it_and_changes_nothing(tiny_corpus: Path, tmp_path: Path) -> None:
    steps = 11
    plain, traced = (
        train(tiny_corpus, tmp_path / name, steps, profile=name == "traced")
        for name in ("plain", "traced")
    )
    assert not (tmp_path / "plain" / "trace.json").exists()
    for part in ("objective", "generators"):
        one, other = (json.dumps(state[part], default=bytes_of) for state in (plain, traced))
        assert one == other
    found = events(tmp_path / "traced")
    names = [event.get("name", "") for event in found]
    for part in ("wait for data", "forward", "backward", "optimiser"):
        assert names.count(part) == TRACED
    assert any(name.startswith("aten::convolution") for name in names)
    (first, *_) = (event for event in found if event.get("name") == "backward")
    inside = [
        event["name"]
        for event in found
        if "ConvolutionBackward" in event.get("name", "")
        and first["ts"] <= event["ts"] <= first["ts"] + first["dur"]
    ]
    assert inside


def bytes_of(value: torch.Tensor) -> str:
    return value.numpy().tobytes().hex()


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_short_training_is_traced_too(steps: int, tiny_corpus: Path, tmp_path: Path) -> None:
    train(tiny_corpus, tmp_path, steps, profile=True)
    names = [event.get("name") for event in events(tmp_path)]
    assert names.count("forward") == 1
    train(tiny_corpus, tmp_path, steps, profile=True, resume=True)  # has nothing left to trace
    assert [event.get("name") for event in events(tmp_path)] == names
