"""Other places for the log's numbers: the same points as in the log, each once."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from berger.corpus import Batch, open_corpus
from berger.errors import BergerError
from berger.training.log import read_log
from berger.training.loop import fit
from berger.training.run import TrainingConfig
from berger.training.sinks import IDENTITY_FILE, SinkName, make_sinks

NAMES: tuple[SinkName, ...] = ("tensorboard", "wandb")
Points = dict[str, dict[int, list[float]]]


class PowerCutError(Exception):
    """The power went out."""


class Falling(nn.Module):
    """A loss that falls; the power goes out, or it is no number, in given forward passes."""

    def __init__(self, cut: int | None = None, bad: int | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.calls, self.cut, self.bad = 0, cut, bad

    def forward(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        self.calls += 1
        if self.calls == self.cut:
            raise PowerCutError
        factor = float("nan") if self.calls == self.bad else 1.0
        return {"loss": self.weight.square().sum() * factor}


def train(corpus: Path, out: Path, objective: nn.Module, *names: SinkName, **how: Any) -> None:
    config = TrainingConfig(steps=8, batch_size=2, log_every=1, validate_every=3, save_every=3)
    fit(
        objective,
        open_corpus(corpus).windows(4).take(np.arange(6)),
        config,
        out,
        seed=0,
        device="cpu",
        quiet=True,
        sinks=make_sinks(names, {"steps": 8}),
        validate=lambda: {"loss": 0.5, "effective_rank": float("nan")},
        **how,
    )


class FakeTensorBoard:
    """Writes like the package and reads like its page, which hides what was purged."""

    def __init__(self) -> None:
        self.points: dict[str, Points] = {}
        self.texts: list[str] = []
        self.open = 0

    def module(self) -> ModuleType:
        made = ModuleType("torch.utils.tensorboard")
        made.SummaryWriter = self.writer  # type: ignore[attr-defined]
        return made

    def writer(self, folder: str, purge_step: int) -> FakeTensorBoard:
        self.shown = self.points.setdefault(folder, {})
        for name, curve in self.shown.items():
            kept = {step: values for step, values in curve.items() if step < purge_step}
            self.shown[name] = kept
        self.open += 1
        return self

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.shown.setdefault(name, {}).setdefault(step, []).append(value)

    def add_text(self, name: str, text: str, step: int) -> None:
        self.texts.append(text)

    def close(self) -> None:
        self.open -= 1


class FakeWandb:
    """Leaves out steps that lie before the last one, of earlier parts too, as the package does."""

    def __init__(self) -> None:
        self.runs: dict[str, Points] = {}
        self.asked: list[dict[str, Any]] = []
        self.refuses = False
        self.open = 0

    def module(self) -> ModuleType:
        made = ModuleType("wandb")
        made.init = self.init  # type: ignore[attr-defined]
        made.Error = RuntimeError  # type: ignore[attr-defined]
        return made

    def init(self, **asked: Any) -> FakeWandb:
        if self.refuses:
            raise RuntimeError("api_key not configured\n(no-tty)")
        assert asked["resume"] == "allow"
        self.asked.append(asked)
        self.shown = self.runs.setdefault(asked["id"], {})
        self.step = 1 + max((max(curve) for curve in self.shown.values()), default=-1)
        self.open += 1
        return self

    def log(self, values: Mapping[str, float], step: int) -> None:
        if step < self.step:
            return
        self.step = step
        for name, value in values.items():
            self.shown.setdefault(name, {}).setdefault(step, []).append(value)

    def finish(self) -> None:
        self.open -= 1


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> FakeTensorBoard:
    fake = FakeTensorBoard()
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake.module())
    return fake


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake.module())
    return fake


def points_of_log(out: Path) -> Points:
    """What the log has of finite numbers, by name and step."""
    found: Points = {}
    for line in read_log(out / "log.jsonl"):
        for name, value in line.items():
            if isinstance(value, int | float) and np.isfinite(value) and name != "step":
                curve = found.setdefault(f"{line['split']}/{name}", {})
                curve.setdefault(line["step"], []).append(value)
    return found


def without_timings(points: Points) -> Points:
    return {n: c for n, c in points.items() if not n.endswith(("seconds_per_step", "data_wait"))}


# law: a sink has the points of the log, and an interrupted run no point twice


@pytest.mark.parametrize("cut", [None, 6, 8])
def test_each_point_is_there_once(
    cut: int | None, tiny_corpus: Path, tmp_path: Path, board: FakeTensorBoard, wandb: FakeWandb
) -> None:
    if cut is None:
        train(tiny_corpus, tmp_path, Falling(), *NAMES)
    else:
        with pytest.raises(PowerCutError):  # with points behind the state of step 3 or 6
            train(tiny_corpus, tmp_path, Falling(cut=cut), *NAMES)
        train(tiny_corpus, tmp_path, Falling(), *NAMES, resume=True)
    wanted = points_of_log(tmp_path)
    assert sorted(wanted["train/loss"]) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert board.points == {str(tmp_path / "tensorboard"): wanted}
    (points,) = wandb.runs.values()
    assert without_timings(points) == without_timings(wanted)
    assert points.keys() == wanted.keys()
    assert (board.open, wandb.open) == (0, 0)
    assert json.loads(board.texts[0].strip("`\n")) == {"steps": 8}
    assert {asked["name"] for asked in wandb.asked} == {tmp_path.name}
    assert wandb.asked[0]["config"] == {"steps": 8}


def test_another_run_in_the_folder_is_another_run(
    tiny_corpus: Path, tmp_path: Path, wandb: FakeWandb
) -> None:
    """Where the first left no state to resume from."""
    with pytest.raises(PowerCutError):
        train(tiny_corpus, tmp_path, Falling(cut=2), "wandb")
    first = (tmp_path / IDENTITY_FILE).read_text()
    train(tiny_corpus, tmp_path, Falling(), "wandb")
    assert (tmp_path / IDENTITY_FILE).read_text() != first
    assert len(wandb.runs) == 2


def test_what_is_no_number_is_left_out(
    tiny_corpus: Path, tmp_path: Path, board: FakeTensorBoard, wandb: FakeWandb
) -> None:
    train(tiny_corpus, tmp_path, Falling(bad=4), *NAMES)
    (shown,), (sent,) = board.points.values(), wandb.runs.values()
    for points in (shown, sent):
        assert 4 not in points["train/loss"]
        assert "validation/effective_rank" not in points
        assert "skipped/loss" not in points
        values = [value for curve in points.values() for each in curve.values() for value in each]
        assert values
        assert np.isfinite(values).all()
    lines = read_log(tmp_path / "log.jsonl")
    assert [line["step"] for line in lines if line["split"] == "skipped"] == [4]


# what is missing is said


@pytest.mark.parametrize("name", NAMES)
def test_a_package_that_is_missing_is_said(name: SinkName, monkeypatch: pytest.MonkeyPatch) -> None:
    module = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}[name]
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BergerError) as caught:
        make_sinks([name], {})
    assert str(caught.value) == (
        f"{name} is not installed; `pip install 'berger[{name}]'`, or leave {name} out of --log-to."
    )


@pytest.mark.parametrize("experts", [1, 2])
def test_a_command_says_so_before_any_work(
    experts: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from berger.cli import main

    monkeypatch.setitem(sys.modules, "wandb", None)
    out = tmp_path / "run"
    given = f"pretrain spechinet-demo --corpus {tmp_path / 'none'} --out {out}"
    with pytest.raises(SystemExit) as ended:
        main([*given.split(), "--experts", str(experts), "--log-to", "wandb"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("berger: wandb is not installed; ")
    assert said.count("\n") == 1
    assert not out.exists()


def test_nobody_who_is_logged_in_is_said(
    tiny_corpus: Path, tmp_path: Path, wandb: FakeWandb
) -> None:
    wandb.refuses = True
    with pytest.raises(BergerError, match=r"does not begin \(api_key not configured \(no-tty\)\);"):
        train(tiny_corpus, tmp_path, Falling(), "wandb")


@pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None,
    reason="tensorboard is not installed; pip install 'berger[tensorboard]'",
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_shows_each_point_once(tiny_corpus: Path, tmp_path: Path) -> None:
    """Read back from its event files by the package itself."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with pytest.raises(PowerCutError):
        train(tiny_corpus, tmp_path, Falling(cut=6), "tensorboard")
    train(tiny_corpus, tmp_path, Falling(), "tensorboard", resume=True)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    shown = events.Scalars("train/loss")
    assert [each.step for each in shown] == [1, 2, 3, 4, 5, 6, 7, 8]
    losses = [values[0] for values in points_of_log(tmp_path)["train/loss"].values()]
    assert [each.value for each in shown] == pytest.approx(losses)
