"""What a user is told of a fault: one sentence, and exit status 2."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from berger import cli, load_checkpoint
from berger.configuration import load_config
from berger.corpus.windows import _opened
from berger.files import held
from berger.objectives.restoration import Restoration
from berger.pretraining import PretrainingConfig, pretrain
from berger.training.state import read_state

ROOT = Path(__file__).parents[2]
Told = Callable[..., str]


@pytest.fixture
def told(
    tiny_corpus: Path,
    tiny_pretraining: Callable[..., PretrainingConfig],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> Told:
    """Pretrain by the command on a copy of a corpus; return the sentence that ends it."""
    _opened.cache_clear()
    corpus = shutil.copytree(tiny_corpus, tmp_path / "corpus")
    steps = {"steps": 6, "save_every": 2, "validate_every": 6, "max_skipped": 0}
    config = tiny_pretraining(**{f"training__{name}": value for name, value in steps.items()})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))

    def pretrain(*words: str) -> str:
        arguments = ["pretrain", tmp_path / "config.yaml", "--corpus", corpus]
        arguments += ["--out", tmp_path / "run", "--quiet", "--device", "cpu", *words]
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        assert ended.value.code == 2
        printed = capfd.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("berger: ")
        assert printed.err.count("\n") == 1
        return printed.err.removeprefix("berger: ").strip()

    return pretrain


@pytest.fixture
def at_step_4(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any], Any]], None]:
    """Let something happen to the losses of the fourth step."""

    def happens(act: Callable[[Any], Any]) -> None:
        forward, calls = Restoration.forward, iter(range(1, 100))

        def counted(self: Restoration, *arguments: Any) -> Any:
            losses = forward(self, *arguments)
            return act(losses) if self.training and next(calls) == 4 else losses

        monkeypatch.setattr(Restoration, "forward", counted)

    return happens


def no_number(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    return losses | {"loss": losses["loss"] * float("nan")}


def raising(error: Exception) -> Callable[[Any], Any]:
    def fail(losses: Any) -> Any:
        raise error

    return fail


def test_of_a_loss_that_is_no_number(told: Told, at_step_4: Any, tmp_path: Path) -> None:
    at_step_4(no_number)
    text = told()
    assert text.startswith(f"{tmp_path / 'run'}: 1 of the last 4 steps were skipped, the last, 4, ")
    good = tmp_path / "run" / "checkpoint-last-good"
    assert text.endswith(
        "without them or with a lower training.optimizer.lr. The last good weights, of step 2, are "
        f"in {good}, from which --start_from begins."
    )
    state = read_state(tmp_path / "run")
    assert state["step"] == 2
    weights = load_checkpoint(good).state_dict()
    assert all(torch.equal(state["objective"][f"model.{n}"], w) for n, w in weights.items())
    assert not (tmp_path / "run" / "checkpoint").exists()

    again = load_config(PretrainingConfig, tmp_path / "config.yaml", {"start_from": str(good)})
    checkpoint = pretrain(again, tmp_path / "corpus", tmp_path / "again", device="cpu", quiet=True)
    earlier = load_checkpoint(checkpoint).provenance["earlier"]
    assert (earlier["steps"], earlier["kind"]) == (2, "pretraining")
    assert earlier["training_files"]


@pytest.mark.parametrize(("max_skipped", "last"), [(0, 5), (10, 6)])
def test_weights_that_went_wrong_are_not_the_last_good(
    max_skipped: int, last: int, told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither if they were saved before that was known, nor if the run ends soon after."""

    @torch.no_grad()
    def spoil(objective: Restoration, step: int, total: int) -> None:
        for weight in objective.parameters() if step == 4 else ():
            weight.mul_(1e30)

    monkeypatch.setattr(Restoration, "after_step", spoil, raising=False)
    text = told("--training.max_skipped", str(max_skipped))
    assert f"{last - 4} of the last {last} steps were skipped, the last, {last}, because" in text
    assert "The last good weights, of step 2, are in " in text
    assert not (tmp_path / "run" / "checkpoint").exists()
    assert read_state(tmp_path / "run")["step"] == 4
    assert "NaN" not in (tmp_path / "run" / "log.jsonl").read_text()  # which is no JSON
    weights = load_checkpoint(tmp_path / "run" / "checkpoint-last-good").state_dict()
    assert all(weight.abs().max() < 1e20 for weight in weights.values())


def test_too_little_memory_to_look_at_what_is_trained(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is trained a second time."""
    with monkeypatch.context() as patch:
        patch.setattr("berger.pretraining.look", lambda *given, **how: raising(MemoryError())(0))
        text = told()
    run = tmp_path / "run"
    assert text == (
        f"{run}: is trained, but memory did not suffice to look at what came of it; continue with "
        "--resume where there is more, or with --device cpu."
    )
    log = (run / "log.jsonl").read_bytes()
    config = load_config(PretrainingConfig, run / "config.yaml")
    pretrain(config, tmp_path / "corpus", run, resume=True, device="cpu", quiet=True)
    assert (run / "restoration.parquet").is_file()
    assert (run / "run.json").is_file()
    assert (run / "log.jsonl").read_bytes() == log


def test_two_commands_in_one_folder(told: Told, at_step_4: Any, tmp_path: Path) -> None:
    at_step_4(raising(MemoryError()))
    told()
    with held(tmp_path / "run" / ".lock", "cannot be had"):
        text = told("--resume")
    run = tmp_path / "run"
    assert text == (
        f"{run}: another command trains there; wait until it has ended or, if there is none, "
        f"remove {run / '.lock'}."
    )


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
    ids=["gpu", "cublas", "cpu"],
)
def test_of_too_little_memory(error: Exception, told: Told, at_step_4: Any, tmp_path: Path) -> None:
    at_step_4(raising(error))
    assert told() == (
        f"{tmp_path / 'run'}: memory did not suffice for 4 windows at once; try "
        "--training.batch_size 2 --training.accumulate 2, or --training.checkpoint_activations "
        "true in another folder."  # --resume would refuse another configuration
    )


def test_of_too_little_memory_to_validate(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "berger.pretraining.validation_losses", lambda *_, **__: raising(MemoryError())(None)
    )
    assert ": memory did not suffice for 4 windows at once; try --training.batch_size 2" in told()


@pytest.mark.parametrize(
    ("batch_size", "again", "advice"),
    [
        (1, "false", "1 window at once; try --training.checkpoint_activations true."),
        (3, "true", "3 windows at once; try --training.batch_size 1 --training.accumulate 3."),
        (1, "true", "1 window at once; choose a smaller model or shorter windows."),
    ],
)
def test_nothing_is_advised_that_is_so_already(
    batch_size: int, again: str, advice: str, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Restoration, "forward", lambda *_: raising(MemoryError())(None))
    words = ("--training.batch_size", str(batch_size), "--training.checkpoint_activations", again)
    assert told(*words).endswith(f": memory did not suffice for {advice}")


@pytest.mark.parametrize("fault", ["gone", "short", "changed"])
def test_of_a_shard(fault: str, told: Told, at_step_4: Any, tmp_path: Path) -> None:
    (shard,) = (tmp_path / "corpus").glob("shard-*.npy")

    def harm(losses: Any) -> Any:
        if fault == "gone":
            shard.unlink()
            _opened.cache_clear()
        elif fault == "short":
            os.truncate(shard, 2000)
        else:
            with shard.open("r+b") as file:
                file.seek(shard.stat().st_size // 2)
                file.write(b"changed")
        return losses

    at_step_4(harm)
    changed = f"{shard}: has changed while it was in use"
    expected = {
        "gone": (f"{shard}: cannot be read (No such file or directory)",),
        "short": (f"{shard}: ends early", changed),  # whichever comes first
        "changed": (changed,),
    }
    assert told().startswith(expected[fault])
    # of a shard that is gone all was right that had been read
    assert read_state(tmp_path / "run")["step"] in ((2, 4) if fault == "gone" else (2,))


IN_LITTLE_ROOM = """
import resource, signal, sys
from berger.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
main(sys.argv[1:])
"""


@pytest.mark.parametrize("command", ["prepare", "pretrain"])
def test_of_a_full_disk(command: str, told: Told, tiny_recordings: Path, tmp_path: Path) -> None:
    """As a quota does: no file may become larger than 40 kB."""
    out = tmp_path / "out"
    words = {
        "prepare": ["prepare", tiny_recordings, "--workers", 1],
        "pretrain": ["pretrain", tmp_path / "config.yaml", "--corpus", tmp_path / "corpus"],
    }[command]
    done = subprocess.run(
        [sys.executable, "-c", IN_LITTLE_ROOM, *map(str, words), "--out", str(out), "--quiet"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"berger: {out}")
    assert "cannot be written (" in done.stderr
    assert "free space" in done.stderr
    assert done.stderr.count("\n") == 1
    left = {path.name for path in out.rglob("*.part")}
    assert left == set()


IN_NO_ROOM = """
import resource, sys
from berger import cli, pretraining
from berger.models import EEGModel
from berger.training.log import JsonLinesLog
owner, name = {
    "config.yaml": (pretraining, "remove_unfinished"),  # done just before
    "log.jsonl": (JsonLinesLog, "write"),
    "checkpoint": (EEGModel, "save_checkpoint"),
}[sys.argv.pop()]
act = getattr(owner, name)
def without_room(*arguments, **how):
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
    return act(*arguments, **how)
setattr(owner, name, without_room)
cli.main(sys.argv[1:])
"""


@pytest.mark.parametrize("file", ["config.yaml", "log.jsonl", "checkpoint"])
def test_of_a_disk_without_room_for(file: str, told: Told, tmp_path: Path) -> None:
    """Not only states: whatever a run writes may be what finds no room."""
    out = tmp_path / "out"
    words = ["pretrain", tmp_path / "config.yaml", "--corpus", tmp_path / "corpus", "--out", out]
    done = subprocess.run(
        [sys.executable, "-c", IN_NO_ROOM, *map(str, words), "--quiet", file],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    said = f"berger: {out / file}: File too large; free space, or choose another place.\n"
    assert (done.returncode, done.stderr) == (2, said)
    assert not list(out.rglob("*.part"))
