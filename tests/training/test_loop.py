"""Training: a run that is interrupted and resumed ends where it would have ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from berger.corpus import Batch, WindowDataset, collate, open_corpus
from berger.errors import BergerError
from berger.models import SpecHiNet, SpecHiNetConfig
from berger.objectives.restoration import Restoration, RestorationConfig
from berger.training.devices import setup
from berger.training.log import read_log
from berger.training.loop import fit
from berger.training.run import Fitted, Run, TrainingConfig
from berger.training.state import STATE_FILE
from tests.conftest import TINY_MODEL

# Newer Pythons warn of the DataLoader's forking beside threads of numerical libraries.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
TIMINGS = {"seconds_per_step", "data_wait"}


class PowerCutError(Exception):
    """The power went out."""


def objective_of() -> Restoration:
    """A network with dropout, batch norm, random masks and random electrodes."""
    torch.manual_seed(7)
    model = SpecHiNet(SpecHiNetConfig.model_validate(TINY_MODEL))
    assert model.config.dropout == model.config.decoder_dropout == 0.2
    return Restoration(
        model,
        RestorationConfig.model_validate(
            {"mask": {"n_fft": 200, "hop": 100}, "n_fft": 128, "hop": 64, "n_chans": 3}
        ),
    )


def interrupt(objective: nn.Module, at: int | None, act: Callable[[], None]) -> None:
    """Let the objective act in place of its n-th forward pass."""
    forward, n_calls = objective.forward, 0

    def counted(*arguments: Any) -> Any:
        nonlocal n_calls
        n_calls += 1
        if n_calls == at:
            act()
        return forward(*arguments)

    objective.forward = counted  # type: ignore[method-assign]


def give_up() -> None:
    raise PowerCutError


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def train(
    corpus: Path,
    out: Path,
    *,
    at: int | None = None,
    act: Callable[[], None] = give_up,
    save_every: int = 2,
    workers: int = 0,
    resume: bool = False,
    accumulate: int = 2,
) -> Fitted:
    """Train for seven steps."""
    objective = objective_of()
    interrupt(objective, at, act)
    validation = iter(range(100))
    return fit(
        objective,
        open_corpus(corpus).windows(4),
        TrainingConfig(
            steps=7,
            batch_size=3,
            accumulate=accumulate,
            log_every=2,
            validate_every=3,
            save_every=save_every,
        ),
        out,
        seed=5,
        device="cpu",
        workers=workers,
        resume=resume,
        quiet=True,
        validate=lambda: {"evaluated": float(not objective.training and next(validation) >= 0)},
    )


def state_of(out: Path) -> Any:
    state = torch.load(out / STATE_FILE, weights_only=True)
    del state["time"]
    return state


def log_of(out: Path) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in line.items() if name not in TIMINGS}
        for line in read_log(out / "log.jsonl")
    ]


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Compare nested containers, tensors bit by bit."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            assert_same(left, right, f"{where}[{index}]")
    elif isinstance(one, Tensor):
        assert one.numpy().tobytes() == other.numpy().tobytes(), where
    else:
        assert one == other, where


@pytest.fixture(scope="module")
def uninterrupted(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that went through, its state written at the end only."""
    out = tmp_path_factory.mktemp("uninterrupted")
    assert train(tiny_corpus, out, save_every=100).steps == 7
    return out


def assert_ended_alike(out: Path, uninterrupted: Path) -> None:
    assert_same(state_of(out), state_of(uninterrupted))
    assert log_of(out) == log_of(uninterrupted)


# law: what is resumed ends as if nothing had happened


@pytest.mark.parametrize("case", range(4))
def test_an_interrupted_run_ends_alike(
    case: int, tiny_corpus: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    """Interrupted again and again, at any of its 14 forward passes, with 1 to 3 steps a save."""
    rng = np.random.default_rng(case)
    save_every = [1, 2, 3, 2][case]
    workers = [0, 0, 0, 2][case]
    position, resume, interruptions = 0, False, 0
    while True:
        at = int(rng.integers(2 * save_every + 1, 2 * save_every + 5))
        if 2 * position + at > 14:
            break
        with pytest.raises(PowerCutError):
            train(
                tiny_corpus, tmp_path, at=at, save_every=save_every, workers=workers, resume=resume
            )
        interruptions += 1
        resume = True
        position = state_of(tmp_path)["step"]
        assert position % save_every == 0
    assert interruptions >= 1
    last = train(tiny_corpus, tmp_path, save_every=save_every, workers=workers, resume=True)
    assert last.steps == 7
    assert_ended_alike(tmp_path, uninterrupted)


def test_the_number_of_workers_does_not_matter(
    tiny_corpus: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    train(tiny_corpus, tmp_path, workers=2)
    assert_ended_alike(tmp_path, uninterrupted)


def test_a_killed_run_ends_alike(tiny_corpus: Path, uninterrupted: Path, tmp_path: Path) -> None:
    """SIGKILL of the process, between two saves and with lines of the log behind the last one."""
    code = (
        "import sys; from pathlib import Path; from tests.training.test_loop import *\n"
        "train(Path(sys.argv[1]), Path(sys.argv[2]), at=11, act=die, save_every=3)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_corpus), str(tmp_path)],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert state_of(tmp_path)["step"] == 3
    assert log_of(tmp_path)[-1]["step"] == 4
    train(tiny_corpus, tmp_path, save_every=3, resume=True)
    assert_ended_alike(tmp_path, uninterrupted)


def test_a_state_that_is_cut_short_leaves_the_one_before(
    tiny_corpus: Path, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, n_saved = torch.save, 0

    def fail(state: dict[str, Any], file: BinaryIO) -> None:
        nonlocal n_saved
        n_saved += 1
        if n_saved == 2:
            file.write(b"half a state")
            raise PowerCutError
        save(state, file)

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(PowerCutError):
        train(tiny_corpus, tmp_path)
    assert state_of(tmp_path)["step"] == 2
    assert {path.name for path in tmp_path.iterdir()} == {STATE_FILE, "log.jsonl"}
    train(tiny_corpus, tmp_path, resume=True)
    assert_ended_alike(tmp_path, uninterrupted)


def test_resuming_a_finished_run_changes_nothing(
    tiny_corpus: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    train(tiny_corpus, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert train(tiny_corpus, tmp_path, resume=True).steps == 7
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_run_did_something(uninterrupted: Path, tiny_corpus: Path, tmp_path: Path) -> None:
    trained, fresh = state_of(uninterrupted)["objective"], objective_of().state_dict()
    moved = [name for name in fresh if not torch.equal(fresh[name], trained[name])]
    assert len(moved) > 0.9 * len(fresh)
    lines = log_of(uninterrupted)
    assert [(line["step"], line["split"]) for line in lines] == [
        (1, "train"),
        (2, "train"),
        (3, "validation"),
        (4, "train"),
        (6, "train"),
        (6, "validation"),
        (7, "train"),
        (7, "validation"),
    ]
    assert all(line["evaluated"] == 1 for line in lines if line["split"] == "validation")
    train_lines = [line for line in lines if line["split"] == "train"]
    assert train_lines[0]["lr"] == 1e-3
    for line in train_lines:
        parts = line["mse"] + line["spectral"] + line["auxiliary"]
        assert line["loss"] == pytest.approx(parts, rel=1e-5)
        assert line["grad_norm"] > 0
    for line in read_log(uninterrupted / "log.jsonl"):
        if line["split"] == "train":
            assert 0 <= line["data_wait"] <= 1
            assert line["seconds_per_step"] > 0


# law: what an objective does after each step is resumed too


class Trailing(nn.Module):
    """Weights that are learned, and weights that follow them after each step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.register_buffer("trail", torch.zeros(3))
        self.calls: list[tuple[int, int]] = []

    def forward(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        wanted = torch.randn(3, generator=generator) + self.get_buffer("trail")
        return {"loss": (self.weight - wanted).square().sum()}

    def after_step(self, step: int, total: int) -> None:
        self.calls.append((step, total))
        self.get_buffer("trail").lerp_(self.weight.detach(), step / total)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_what_happens_after_a_step_is_resumed(
    accumulate: int, tiny_corpus: Path, tmp_path: Path
) -> None:
    windows = open_corpus(tiny_corpus).windows(4)
    config = TrainingConfig(steps=6, batch_size=2, accumulate=accumulate, save_every=2)
    once, before, after = Trailing(), Trailing(), Trailing()
    fit(once, windows, config, tmp_path / "once", seed=3, device="cpu", quiet=True)
    assert once.calls == [(step, 6) for step in range(1, 7)]
    assert torch.equal(once.get_buffer("trail"), once.weight)  # the last step copies

    interrupt(before, 4 * accumulate + 1, give_up)
    with pytest.raises(PowerCutError):
        fit(before, windows, config, tmp_path / "cut", seed=3, device="cpu", quiet=True)
    fit(after, windows, config, tmp_path / "cut", seed=3, device="cpu", quiet=True, resume=True)
    assert after.calls == [(5, 6), (6, 6)]
    assert_same(state_of(tmp_path / "cut"), state_of(tmp_path / "once"))
    assert_same(log_of(tmp_path / "cut"), log_of(tmp_path / "once"))


# law: accumulating is the same as a larger batch


@pytest.mark.parametrize("accumulate", [2, 3])
def test_accumulated_batches_are_one_large_batch(accumulate: int, tiny_corpus: Path) -> None:
    """Without batch norm and dropout, whose view is the single batch."""
    dataset = open_corpus(tiny_corpus).windows(4)
    alike = np.flatnonzero(dataset.of_block == dataset.of_block[0])
    windows = [dataset[int(index)] for index in alike[: 2 * accumulate]]
    assert len(windows) == 2 * accumulate
    fabric = Fabric(accelerator="cpu", devices=1)

    def gradients(batches: list[Batch]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        objective = objective_of()
        objective = Restoration(
            objective.model, objective.config.model_copy(update={"n_chans": None})
        )
        config = TrainingConfig(steps=1, accumulate=len(batches))
        module, optimizer, bare = setup(fabric, objective, config.optimizer)
        module.eval()
        generator = torch.Generator().manual_seed(0)
        run = Run(fabric, objective, module, optimizer, bare, config, 1, generator)
        losses, _, _ = run.add_gradients((batch, 1.0) for batch in batches)
        found = {n: p.grad for n, p in objective.named_parameters() if p.grad is not None}
        return losses, found

    parts = [collate(windows[i : i + 2]) for i in range(0, len(windows), 2)]
    many, one = gradients(parts), gradients([collate(windows)])
    for left, right in zip(many, one, strict=True):
        assert left.keys() == right.keys()
        for name in left:
            torch.testing.assert_close(left[name], right[name], rtol=1e-3, atol=1e-7)


# laws: schedule and clipping count optimiser steps, not batches


class Steep(nn.Module):
    """A loss whose gradient is known: the mean of the batch's first starts, times the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        self.gradients: list[Tensor] = []
        self.before: list[Tensor] = []

    def forward(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        gradient = torch.tensor([1.0, len(self.gradients) % 3, -2.0], dtype=torch.float64) * 40
        self.gradients.append(gradient)
        self.before.append(self.weight.detach().clone())
        return {"loss": (self.weight * gradient).sum()}


def steps_of(corpus: Path, out: Path, accumulate: int, clip: float | None) -> Any:
    objective = Steep()
    config = TrainingConfig.model_validate(
        {
            "steps": 6,
            "batch_size": 2,
            "accumulate": accumulate,
            "log_every": 1,
            "optimizer": {"lr": 0.1, "final_lr": 0, "warmup": 0.34, "clip_norm": clip},
        }
    )
    fit(objective, open_corpus(corpus).windows(4), config, out, seed=0, device="cpu", quiet=True)
    return objective, read_log(out / "log.jsonl")


def test_the_schedule_counts_optimiser_steps(tiny_corpus: Path, tmp_path: Path) -> None:
    rates = []
    for accumulate in (1, 4):
        _, lines = steps_of(tiny_corpus, tmp_path / str(accumulate), accumulate, 5.0)
        assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
        rates.append([line["lr"] for line in lines])
    assert rates[0] == rates[1]
    # two steps of warm-up of six, then half a cosine over four
    expected = [1 / 3, 2 / 3, 1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2]
    assert rates[0] == pytest.approx([0.1 * share for share in expected])


@pytest.mark.parametrize("clip", [5.0, None])
def test_the_accumulated_gradient_is_clipped_once(
    clip: float | None, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AdamW is given the mean gradient of a step's batches, shortened to the norm allowed."""
    given: list[Tensor] = []
    step = torch.optim.AdamW.step

    def spy(self: torch.optim.AdamW, *arguments: Any) -> Any:
        given.extend(p.grad.clone() for g in self.param_groups for p in g["params"])
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    objective, lines = steps_of(tiny_corpus, tmp_path, 4, clip)
    assert len(objective.gradients) == 4 * 6
    assert len(given) == 6
    for number, (found, line) in enumerate(zip(given, lines, strict=True)):
        mean = torch.stack(objective.gradients[4 * number : 4 * number + 4]).mean(0)
        assert line["grad_norm"] == pytest.approx(mean.norm().item())
        assert mean.norm() > 5
        expected = mean if clip is None else mean * clip / mean.norm()
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
        # the weights stand still within a step
        weights = objective.before[4 * number : 4 * number + 4]
        assert all(torch.equal(weight, weights[0]) for weight in weights)
    assert len({tuple(weight.tolist()) for weight in objective.before}) == 6


# law: masks are new in every epoch, and the same for the same seed


class Watching(Restoration):
    """Notes the mask that every window gets."""

    def __init__(self, objective: Restoration) -> None:
        super().__init__(objective.model, objective.config)
        self.masks: dict[tuple[str, int], list[Tensor]] = {}
        self.batch: Batch

    def forward(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        self.batch = batch
        return super().forward(batch, generator)

    def mask(
        self, signal: Tensor, generator: torch.Generator, batch: Batch | None = None
    ) -> tuple[Tensor, Tensor]:
        masked, gain = super().mask(signal, generator, batch)
        for recording, start, one in zip(
            self.batch.recordings, self.batch.starts.tolist(), gain, strict=True
        ):
            self.masks.setdefault((recording, start), []).append(one)
        return masked, gain


def test_every_epoch_masks_a_window_anew(tiny_corpus: Path, tmp_path: Path) -> None:
    dataset = open_corpus(tiny_corpus).windows(4).take(np.arange(0, 48, 8))
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        objective = Watching(objective_of())
        config = TrainingConfig(epochs=3, batch_size=3)
        fit(objective, dataset, config, tmp_path / name, seed=seed, device="cpu", quiet=True)
        found.append(objective.masks)
    first, again, other = found
    assert len(first) == len(dataset)
    assert first.keys() == again.keys() == other.keys()
    for window, masks in first.items():
        assert len(masks) == 3
        assert not any(torch.equal(masks[i], masks[j]) for i, j in [(0, 1), (0, 2), (1, 2)])
        assert all(map(torch.equal, masks, again[window]))
        assert not any(map(torch.equal, masks, other[window]))
    different = {gain.numpy().tobytes() for masks in first.values() for gain in masks}
    assert len(different) == 3 * len(dataset)


# what goes wrong


class Diverging(nn.Module):
    """A loss that is no number from a given forward pass on."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.calls, self.at = 0, at

    def forward(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        self.calls += 1
        loss = self.weight.square().sum() * (float("nan") if self.calls >= self.at else 1.0)
        return {"loss": loss}


def diverge(dataset: WindowDataset, out: Path, at: int, **config: int) -> str:
    settings = TrainingConfig.model_validate(
        {"steps": 8, "batch_size": 2, "max_skipped": 0, **config}
    )
    with pytest.raises(BergerError) as caught:
        fit(Diverging(at), dataset, settings, out, seed=0, device="cpu", quiet=True)
    return str(caught.value)


@pytest.mark.parametrize(
    ("at", "save_every", "saved"), [(1, 4, None), (3, 2, 2), (3, 100, None), (7, 3, 6)]
)
def test_a_loss_that_is_no_number_ends_the_run(
    at: int, save_every: int, saved: int | None, tiny_corpus: Path, tmp_path: Path
) -> None:
    """Where no skipped step is allowed, and no state is written that was poisoned by it."""
    dataset = open_corpus(tiny_corpus).windows(4)
    text = diverge(dataset, tmp_path, at, log_every=4, save_every=save_every)
    assert text.startswith(f"{tmp_path}: 1 of the last {at} steps were skipped, the last, {at}, ")
    if saved is None:
        assert not (tmp_path / STATE_FILE).exists()
    else:
        assert state_of(tmp_path)["step"] == saved
        assert torch.isfinite(state_of(tmp_path)["objective"]["weight"]).all()
    *_, last = read_log(tmp_path / "log.jsonl")
    assert (last["split"], last["step"], last["loss"]) == ("skipped", at, None)
    assert last["reason"] == "the loss is no finite number"
    assert len(last["windows"]) == 2


def test_nothing_to_resume(tiny_corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(BergerError, match=r"nothing to resume, no state.ckpt; start without"):
        train(tiny_corpus, tmp_path, resume=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["short", "empty", "text", "other model"])
def test_a_damaged_state_is_refused(
    damage: str, tiny_corpus: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    content = (uninterrupted / STATE_FILE).read_bytes()
    if damage == "other model":
        torch.save({**state_of(uninterrupted), "objective": {}}, tmp_path / STATE_FILE)
    else:
        damaged = {"short": content[:-1000], "empty": b"", "text": b"hello, this is no state"}
        (tmp_path / STATE_FILE).write_bytes(damaged[damage])
    with pytest.raises(BergerError, match=r"state.ckpt: damaged or of another Berger; start"):
        train(tiny_corpus, tmp_path, resume=True)


def test_other_windows_are_refused(tiny_corpus: Path, uninterrupted: Path, tmp_path: Path) -> None:
    (tmp_path / STATE_FILE).write_bytes((uninterrupted / STATE_FILE).read_bytes())
    dataset = open_corpus(tiny_corpus).windows(4)
    config = TrainingConfig(steps=7, batch_size=3)
    with pytest.raises(BergerError, match="was started on other windows; resume with the same"):
        fit(
            objective_of(),
            dataset.take(np.arange(len(dataset) - 1)),
            config,
            tmp_path,
            seed=5,
            device="cpu",
            resume=True,
            quiet=True,
        )


# the configuration


@pytest.mark.parametrize("given", [{}, {"steps": 3, "epochs": 1.0}, {"steps": 0}, {"epochs": 0}])
def test_a_run_has_one_length(given: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"either steps or epochs|greater than"):
        TrainingConfig.model_validate(given)


def test_epochs_become_steps() -> None:
    assert TrainingConfig(steps=11).total_steps(5) == 11
    assert TrainingConfig(epochs=3).total_steps(10) == 30
    assert TrainingConfig(epochs=3, accumulate=4).total_steps(10) == 8
    assert TrainingConfig(epochs=0.001).total_steps(10) == 1


def test_quiet_is_quiet_and_else_there_is_a_bar(
    tiny_corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    dataset = open_corpus(tiny_corpus).windows(4)
    config = TrainingConfig(steps=2, batch_size=2)
    for quiet in (True, False):
        out = tmp_path / str(quiet)
        fit(Diverging(99), dataset, config, out, seed=0, device="cpu", quiet=quiet)
        printed = capfd.readouterr()
        assert printed.out == ""
        assert ("2/2" in printed.err) is not quiet
