"""The record of a run that was interrupted counts all its parts, and the command tells of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from berger import pretraining
from berger.objectives.restoration import Restoration
from berger.pretraining import pretrain
from berger.telling import tell_training
from berger.training.energy import Meter


class PowerCutError(Exception):
    """The power went out."""


def counter(folder: Path, used: int) -> None:
    package = folder / "intel-rapl:0"
    package.mkdir(parents=True, exist_ok=True)
    for name, value in (("name", "package-0"), ("energy_uj", used), ("max_energy_range_uj", 10**9)):
        (package / name).write_text(f"{value}\n")


def test_a_resumed_run_has_the_time_and_energy_of_all_its_parts(
    tiny_corpus: Path,
    tiny_pretraining: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pretraining, "Meter", partial(Meter, tmp_path / "powercap"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = tiny_pretraining(training__steps=6, training__save_every=2, training__log_every=1)
    out, n_calls = tmp_path / "run", 0
    forward = Restoration.forward

    def cut(self: Restoration, *arguments: Any) -> Any:
        nonlocal n_calls
        n_calls += self.training
        if self.training and n_calls == 4:
            time.sleep(0.3)
            counter(tmp_path / "powercap", 5_000_000)
        if self.training and n_calls == 5:
            raise PowerCutError
        return forward(self, *arguments)

    monkeypatch.setattr(Restoration, "forward", cut)
    counter(tmp_path / "powercap", 0)
    how = {"device": "cpu", "quiet": True}
    began = time.monotonic()
    with pytest.raises(PowerCutError):
        pretrain(config, tiny_corpus, out, **how)
    first = time.monotonic() - began
    state = torch.load(out / "state.ckpt", weights_only=True)
    assert state["step"] == 4
    spent = state["time"]["meter"]
    assert 0.3 < spent["seconds"] < first
    counter(tmp_path / "powercap", 900_000_000)  # by others, in between
    pretrain(config, tiny_corpus, out, resume=True, **how)
    record = json.loads((out / "run.json").read_text())
    assert record["resumed"] == 1
    assert record["started"] == spent["started"]
    assert spent["seconds"] < record["wall_seconds"] < time.monotonic() - began + 0.1
    assert record["training_seconds"] >= 0.3
    assert record["energy"]["processors"]["joules"] == 5.0
    assert 0.3 < record["energy"]["processors"]["seconds"] < record["wall_seconds"] + 0.1
    assert (record["steps"], record["skipped_steps"]) == (6, 0)
    assert 0 <= record["data_wait"] < 1


def write_record(folder: Path, wait: float, skipped: int = 0, seconds: float = 100.0) -> None:
    folder.mkdir(parents=True)
    record = {"steps": 50, "skipped_steps": skipped, "training_seconds": seconds, "data_wait": wait}
    (folder / "run.json").write_text(json.dumps(record))


def test_the_command_tells_how_long_it_waited(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    write_record(tmp_path / "run", 0.004)
    tell_training(tmp_path / "run", 0, said.append)
    assert said == ["50 steps in 100 s; waited for data 0.4 % of the time."]
    assert capsys.readouterr().err == ""

    write_record(tmp_path / "slow", 0.2, skipped=2)
    tell_training(tmp_path / "slow", 1, said.append)
    assert said[1].endswith(
        "waited for data 20.0 % of the time; 2 steps skipped, log.jsonl tells why."
    )
    assert capsys.readouterr().err == (
        "berger: training waited for data 20.0 % of the time; give more --workers than 1, as long "
        "as there are cores for them, or put the corpus on a faster disk.\n"
    )


def test_the_start_of_a_short_training_is_no_reason_to_warn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_record(tmp_path / "run", 0.5, seconds=3.0)
    tell_training(tmp_path / "run", 2, lambda sentence: None)
    assert capsys.readouterr().err == ""


def test_of_experts_the_command_tells_all_together(tmp_path: Path) -> None:
    said: list[str] = []
    for expert, wait in enumerate((0.01, 0.03)):
        write_record(tmp_path / f"expert-{expert}", wait)
    (tmp_path / "run.json").write_text("{}")
    tell_training(tmp_path, 0, said.append)
    assert said == ["100 steps in 200 s; waited for data 2.0 % of the time."]
