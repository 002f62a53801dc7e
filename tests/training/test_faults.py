"""What goes wrong while a model is trained: nothing that was learned is lost."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from berger.corpus import Batch, WindowDataset, open_corpus
from berger.errors import BergerError, StoppedError
from berger.training.log import read_log
from berger.training.loop import fit
from berger.training.run import Fitted, TrainingConfig
from berger.training.state import BEFORE_FILE, STATE_FILE, has_state, read_state, write_state
from tests.training.test_loop import (
    assert_same,
    interrupt,
    log_of,
    objective_of,
    state_of,
    train,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
ROOT = Path(__file__).parents[2]


class Moody(nn.Module):
    """A loss that some windows spoil.

    Parameters
    ----------
    bad : mapping of tuple of (str, int) to float
        Recording and first sample of a window → what its loss is multiplied by.
    """

    def __init__(self, bad: dict[tuple[str, int], float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.bad = bad
        self.seen: list[tuple[str, int]] = []

    def forward(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        windows = [*zip(batch.recordings, batch.starts.tolist(), strict=True)]
        if self.training:
            self.seen += windows
        factors = torch.tensor([self.bad.get(window, 1.0) for window in windows])
        return {"loss": (self.weight.square().sum() * factors).mean()}


def windows_of(corpus: Path) -> WindowDataset:
    return open_corpus(corpus).windows(4)


def moody(corpus: Path, out: Path, objective: Moody, resume: bool = False, **config: Any) -> Fitted:
    settings = {"steps": 24, "batch_size": 2, "log_every": 1, "save_every": 4, **config}
    settings.setdefault("optimizer", {"lr": 1e-3, "clip_norm": None})
    return fit(
        objective,
        windows_of(corpus),
        TrainingConfig.model_validate(settings),
        out,
        seed=0,
        device="cpu",
        quiet=True,
        resume=resume,
    )


def window_number(corpus: Path, number: int) -> tuple[str, int]:
    row = windows_of(corpus).table.iloc[number]
    return str(row["recording"]), int(row["start"])


# steps that would do harm


@pytest.mark.parametrize(("factor", "why"), [(float("nan"), "no finite"), (float("inf"), "no fin")])
def test_a_bad_window_is_skipped_counted_and_named(
    factor: float, why: str, tiny_corpus: Path, tmp_path: Path
) -> None:
    recording, start = window_number(tiny_corpus, 5)
    objective = Moody({(recording, start): factor})
    fitted = moody(tiny_corpus, tmp_path, objective)  # 24 steps of 2: an epoch of 48 windows
    assert objective.seen.count((recording, start)) == 1
    assert fitted.skipped == 1
    (skipped,) = [line for line in read_log(tmp_path / "log.jsonl") if line["split"] == "skipped"]
    assert why in skipped["reason"]
    assert skipped["windows"] == [f"{recording} at {start / 100:g} s"]
    assert skipped["loss"] is None
    assert torch.isfinite(objective.weight).all()
    others = [line for line in read_log(tmp_path / "log.jsonl") if line["split"] == "train"]
    assert len(others) == 23


def test_a_skipped_step_changes_nothing(tiny_corpus: Path, tmp_path: Path) -> None:
    """Weights and moments stay, the schedule and the windows go on."""
    recording, start = window_number(tiny_corpus, 5)
    objective = Moody({(recording, start): float("nan")})
    values: list[Tensor] = []

    class Following(Moody):
        def after_step(self, step: int, total: int) -> None:
            values.append(self.weight.detach().clone())

    objective = Following(objective.bad)
    moody(tiny_corpus, tmp_path, objective)
    lines = read_log(tmp_path / "log.jsonl")
    (at,) = [place for place, line in enumerate(lines) if line["split"] == "skipped"]
    assert len(values) == 23  # nothing follows what was not learned
    assert [line["step"] for line in lines] == [*range(1, 25)]
    before, after = lines[at - 1]["lr"], lines[at + 1]["lr"]
    assert before - after > 1.5 * (lines[at + 1]["lr"] - lines[at + 2]["lr"]) > 0
    assert state_of(tmp_path)["optimizer"]["state"]["weight"]["step"] == 23


class Normed(Moody):
    """Spoilt by a bad window's numbers, and not by its loss alone."""

    def __init__(self, bad: dict[tuple[str, int], float]) -> None:
        super().__init__(bad)
        self.norm = nn.BatchNorm1d(1)

    def forward(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        windows = zip(batch.recordings, batch.starts.tolist(), strict=True)
        factors = [[self.bad.get(window, window[1] / 1000)] for window in windows]
        return {"loss": (self.norm(torch.tensor(factors)) * self.weight).square().mean()}


def test_no_state_is_saved_of_a_skipped_step(tiny_corpus: Path, tmp_path: Path) -> None:
    """It may have been skipped because the weights are bad."""
    everything = {window_number(tiny_corpus, number): float("nan") for number in range(48)}
    with pytest.raises(BergerError, match="4 of the last 4 steps"):
        moody(tiny_corpus, tmp_path, Moody(everything), max_skipped=3, save_every=1)
    assert not has_state(tmp_path)


def test_batch_norms_forget_a_step_that_was_skipped(tiny_corpus: Path, tmp_path: Path) -> None:
    """Else one bad window would spoil every later validation, and all would be named as bad."""
    recording, start = window_number(tiny_corpus, 5)
    objective = Normed({(recording, start): float("nan")})
    moody(tiny_corpus, tmp_path, objective, explosion=None)
    (skipped,) = [line for line in read_log(tmp_path / "log.jsonl") if line["split"] == "skipped"]
    assert skipped["windows"] == [f"{recording} at {start / 100:g} s"]
    assert all(torch.isfinite(value).all() for value in objective.state_dict().values())
    assert objective.norm.num_batches_tracked == 23


def test_a_loss_far_beyond_the_usual_is_skipped(tiny_corpus: Path, tmp_path: Path) -> None:
    steps = 24 + 24  # two epochs: by the second, what is usual is known
    found = []
    for explosion in (1000.0, None):
        objective = Moody({window_number(tiny_corpus, 5): 1e5})
        out = tmp_path / str(explosion)
        moody(tiny_corpus, out, objective, steps=steps, explosion=explosion)
        found.append([line for line in read_log(out / "log.jsonl") if line["split"] == "skipped"])
    reasons = [line["reason"] for line in found[0]]
    assert reasons
    assert all("times the usual" in reason for reason in reasons)
    assert found[1] == []


def test_too_many_bad_steps_end_the_run(tiny_corpus: Path, tmp_path: Path) -> None:
    """The last state is good, and the sentence names the windows; resumed, it goes on."""
    bad = {window_number(tiny_corpus, number): float("nan") for number in range(0, 48, 3)}
    with pytest.raises(BergerError) as caught:
        moody(tiny_corpus, tmp_path, Moody(bad), max_skipped=3, save_every=1)
    text = str(caught.value)
    assert "4 of the last" in text
    assert any(f"{recording} at {start / 100:g} s" in text for recording, start in bad)
    state = read_state(tmp_path)
    assert state["step"] not in state["skipped"]
    assert all(torch.isfinite(value).all() for value in state["objective"].values())
    skipped_before = len(state["skipped"])
    fitted = moody(tiny_corpus, tmp_path, Moody(bad), resume=True, max_skipped=30)
    assert fitted.steps == 24
    assert fitted.skipped > skipped_before


def test_a_run_whose_first_step_was_skipped_can_be_told_to_stop_there(
    tiny_corpus: Path, tmp_path: Path
) -> None:
    """An optimiser that has taken no step has nothing to save, and starts from nothing."""
    objective = Moody({})
    moody(tiny_corpus, tmp_path / "probe", objective, steps=1)
    bad = dict.fromkeys(objective.seen, float("nan"))
    moody(tiny_corpus, tmp_path / "once", Moody(bad))
    cut = Moody(bad)
    interrupt(cut, 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(StoppedError, match="after step 1 of 24"):
        moody(tiny_corpus, tmp_path / "cut", cut)
    moody(tiny_corpus, tmp_path / "cut", Moody(bad), resume=True)
    assert_same(state_of(tmp_path / "cut"), state_of(tmp_path / "once"))


def test_steps_that_were_skipped_are_resumed(tiny_corpus: Path, tmp_path: Path) -> None:
    bad = {window_number(tiny_corpus, number): float("nan") for number in (3, 20, 40)}
    moody(tiny_corpus, tmp_path / "once", Moody(bad))

    def give_up() -> None:
        raise KeyboardInterrupt

    cut = Moody(bad)
    interrupt(cut, 19, give_up)
    with pytest.raises(KeyboardInterrupt):
        moody(tiny_corpus, tmp_path / "cut", cut)
    moody(tiny_corpus, tmp_path / "cut", Moody(bad), resume=True)
    assert_same(state_of(tmp_path / "cut"), state_of(tmp_path / "once"))
    assert log_of(tmp_path / "cut") == log_of(tmp_path / "once")


# half precision


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_half_precision_learns_and_is_resumed(
    precision: str, tiny_corpus: Path, tmp_path: Path
) -> None:
    """The scale of the loss is part of the state."""
    config = TrainingConfig.model_validate(
        {"steps": 6, "batch_size": 3, "precision": precision, "log_every": 1, "save_every": 2}
    )
    for name, at in (("once", None), ("cut", 4)):
        objective = objective_of()
        interrupt(objective, at, _give_up)
        try:
            fit(
                *(objective, windows_of(tiny_corpus), config, tmp_path / name),
                **{"seed": 5, "device": "cpu", "quiet": True},
            )
        except InterruptedError:
            fit(
                *(objective_of(), windows_of(tiny_corpus), config, tmp_path / name),
                **{"seed": 5, "device": "cpu", "quiet": True, "resume": True},
            )
    assert_same(state_of(tmp_path / "cut"), state_of(tmp_path / "once"))
    assert log_of(tmp_path / "cut") == log_of(tmp_path / "once")
    state = state_of(tmp_path / "once")
    assert bool(state["scaler"]) == (precision == "16-mixed")
    weights = [value for value in state["objective"].values() if value.is_floating_point()]
    assert {value.dtype for value in weights} == {torch.float32}


def _give_up() -> None:
    raise InterruptedError


class Overflowing(nn.Module):
    """Gradients that half precision has no numbers for at first."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        half = (self.weight * 1.0).half() * 3e2
        return {"loss": half.float().mean()}


def test_a_scale_that_is_too_large_is_no_fault(tiny_corpus: Path, tmp_path: Path) -> None:
    """It is halved until gradients fit, and the steps until then are no skipped ones."""
    config = TrainingConfig(steps=12, batch_size=2, precision="16-mixed", log_every=1)
    fitted = fit(
        *(Overflowing(), windows_of(tiny_corpus), config, tmp_path),
        **{"seed": 0, "device": "cpu", "quiet": True},
    )
    scales = [line["loss_scale"] for line in read_log(tmp_path / "log.jsonl")]
    assert scales[0] > scales[-1] >= 1
    assert fitted.skipped == 0


# memory, disk, workers, shards


class Greedy(nn.Module):
    """Wants 8 GiB for every window beyond the second."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        torch.empty(max(0, batch.n_windows - 2) * 2**31)
        return {"loss": self.weight.square().sum()}


IN_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from berger.errors import BergerError
from tests.training.test_faults import *
resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))
try:
    config = TrainingConfig(steps=2, batch_size=6)
    fit(Greedy(), windows_of(Path(sys.argv[1])), config, Path(sys.argv[2]), seed=0, device="cpu",
        quiet=True)
except BergerError as error:
    print(error)
"""


def test_too_little_memory_says_which_batch_size_to_try(tiny_corpus: Path, tmp_path: Path) -> None:
    done = _run(IN_LITTLE_MEMORY, tiny_corpus, tmp_path)
    assert done.stdout == (
        f"{tmp_path}: memory did not suffice for 6 windows at once; try --training.batch_size 3 "
        "--training.accumulate 2, or --training.checkpoint_activations true.\n"
    ), done.stderr


ON_A_FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from tests.training.test_faults import *
out = Path(sys.argv[2])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
objective = objective_of()
calls = 0
forward = objective.forward
def counted(*arguments):
    global calls
    calls += 1
    if calls == 9:  # step 5: the second state is the first that finds no room
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    return forward(*arguments)
objective.forward = counted
config = TrainingConfig(steps=8, batch_size=3, accumulate=2, save_every=4)
fit(objective, windows_of(Path(sys.argv[1])), config, out, seed=5, device="cpu", quiet=True)
"""


def test_a_full_disk_leaves_the_last_state(tiny_corpus: Path, tmp_path: Path) -> None:
    """As a quota does: a file may not become larger than 10 kB."""
    done = _run(ON_A_FULL_DISK, tiny_corpus, tmp_path)
    assert (
        f"{tmp_path / STATE_FILE}: cannot be written (File too large), the last state is good; free"
    ) in done.stderr
    assert read_state(tmp_path)["step"] == 4
    assert {path.name for path in tmp_path.iterdir()} == {STATE_FILE, "log.jsonl"}


def test_a_state_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_state(tmp_path, {"step": 1})

    def denied(*arguments: Any, **how: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(BergerError) as caught:
        write_state(tmp_path, {"step": 2})
    assert str(caught.value) == (
        f"{tmp_path / STATE_FILE}: cannot be written (Permission denied), the last state is good; "
        "see to that and continue with --resume."
    )


def test_a_killed_worker_is_told(tiny_corpus: Path, tmp_path: Path) -> None:
    """With a state from before, from which the run goes on as if nothing had happened."""
    train(tiny_corpus, tmp_path / "once", save_every=2)
    others = {*_children(os.getpid())}  # of tests before this one

    def kill() -> None:
        (worker,) = {*_children(os.getpid())} - others
        os.kill(worker, signal.SIGKILL)
        while worker in _children(os.getpid()):
            pass

    with pytest.raises(BergerError, match=r"a process that reads windows was killed, .*--resume"):
        train(tiny_corpus, tmp_path / "cut", at=9, act=kill, workers=1)
    assert state_of(tmp_path / "cut")["step"] >= 2
    train(tiny_corpus, tmp_path / "cut", resume=True)
    assert_same(state_of(tmp_path / "cut"), state_of(tmp_path / "once"))


def _children(process: int) -> list[int]:
    """Living children of a process."""
    found = []
    for task in Path(f"/proc/{process}/task").iterdir():
        for child in (task / "children").read_text().split():
            state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
            if state != "Z":
                found.append(int(child))
    return found


# states


def test_a_damaged_state_gives_way_to_the_one_before(tiny_corpus: Path, tmp_path: Path) -> None:
    """A flipped byte is noticed, and so is a file that is cut short."""
    for damage in ("flipped", "short", "missing"):
        out = tmp_path / damage
        train(tiny_corpus, out, save_every=2)  # states of step 6 and, last, 7
        path = out / STATE_FILE
        content = bytearray(path.read_bytes())
        with zipfile.ZipFile(path) as file:
            largest = max(file.infolist(), key=lambda entry: entry.file_size)
        content[largest.header_offset + 200] ^= 1
        if damage == "flipped":
            path.write_bytes(bytes(content))
        elif damage == "short":
            path.write_bytes(bytes(content[:-1000]))
        else:
            path.unlink()
        assert has_state(out)
        if damage == "missing":
            assert read_state(out)["step"] == 6
            train(tiny_corpus, out, resume=True)
        else:
            with pytest.warns(UserWarning, match=r"state.ckpt is damaged; state-before.ckpt, of s"):
                assert read_state(out)["step"] == 6
            with pytest.warns(UserWarning, match="is damaged"):
                train(tiny_corpus, out, resume=True)
        train(tiny_corpus, tmp_path / f"{damage} once")
        assert_same(state_of(out), state_of(tmp_path / f"{damage} once"))
        assert log_of(out) == log_of(tmp_path / f"{damage} once")


def test_two_damaged_states_are_refused(tiny_corpus: Path, tmp_path: Path) -> None:
    train(tiny_corpus, tmp_path)
    for name in (STATE_FILE, BEFORE_FILE):
        (tmp_path / name).write_bytes(b"no state")
    with pytest.raises(BergerError, match=r"state.ckpt: damaged or of another Berger"):
        read_state(tmp_path)


def test_a_state_that_lacks_something_is_refused(tiny_corpus: Path, tmp_path: Path) -> None:
    """As one that was written before Berger kept it."""
    moody(tiny_corpus, tmp_path, Moody({}), steps=2)
    state = read_state(tmp_path)
    del state["losses"]
    torch.save(state, tmp_path / STATE_FILE)
    with pytest.raises(BergerError, match=r"state.ckpt: damaged or of another Berger"):
        moody(tiny_corpus, tmp_path, Moody({}), steps=2, resume=True)


# told to stop


@pytest.mark.parametrize(
    ("number", "at", "step"), [(signal.SIGTERM, 5, 3), (signal.SIGUSR1, 13, 7)]
)
def test_a_run_that_is_told_to_stop_saves_and_goes_on(
    number: signal.Signals, at: int, step: int, tiny_corpus: Path, tmp_path: Path
) -> None:
    """After the step under way, whenever states are saved otherwise."""
    train(tiny_corpus, tmp_path / "once", save_every=100)
    before = signal.getsignal(number)
    with pytest.raises(StoppedError) as caught:
        train(
            tiny_corpus,
            tmp_path / "cut",
            at=at,
            act=lambda: os.kill(os.getpid(), number),
            save_every=100,
        )
    assert caught.value.message == (
        f"{tmp_path / 'cut'}: stopped by {number.name} after step {step} of 7; continue it with "
        "--resume."
    )
    assert signal.getsignal(number) is before
    assert state_of(tmp_path / "cut")["step"] == step
    train(tiny_corpus, tmp_path / "cut", resume=True, save_every=100)
    assert_same(state_of(tmp_path / "cut"), state_of(tmp_path / "once"))
    assert log_of(tmp_path / "cut") == log_of(tmp_path / "once")


def _run(code: str, *arguments: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
