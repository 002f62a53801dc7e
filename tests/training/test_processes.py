"""Which of several processes this one is, and who speaks."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from berger.cli import main
from berger.errors import BergerError
from berger.training import processes
from berger.training.devices import fabric
from berger.training.processes import in_turn, is_first, world

TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "RANK": "5"}
SRUN = {"SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "4", "SLURM_PROCID": "5"}
STEP = {"SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "2"}


@pytest.fixture(autouse=True)
def nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*TORCHRUN, *SRUN, *STEP, "LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)


def given(monkeypatch: pytest.MonkeyPatch, *variables: dict[str, str]) -> None:
    for some in variables:
        for name, value in some.items():
            monkeypatch.setenv(name, value)


def test_a_process_alone() -> None:
    assert (world(), is_first()) == ((1, 1), True)


@pytest.mark.parametrize("variables", [[TORCHRUN], [SRUN, STEP], [SRUN, STEP, TORCHRUN]])
def test_one_of_several(variables: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, *variables)
    assert (world(), is_first()) == ((8, 4), False)
    given(monkeypatch, {"RANK": "0", "SLURM_PROCID": "0"})
    assert is_first()


@pytest.mark.parametrize(
    "variables",
    [
        SRUN,  # of a batch script, which has its job's variables and starts srun itself
        {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": "1"},  # left by something else
        SRUN | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NUM_NODES": "1"},
    ],
)
def test_what_others_left_in_the_environment_starts_nothing(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does Fabric wait for processes that nobody started."""
    given(monkeypatch, variables)
    assert (world(), is_first()) == ((1, 1), True)
    assert fabric("cpu", "32-true").world_size == 1


@pytest.mark.parametrize("here", [{}, {"SLURM_NTASKS_PER_NODE": "8"}])
def test_srun_must_say_how_many_are_on_a_machine(
    here: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given(monkeypatch, STEP, here)
    with pytest.raises(BergerError, match=r"8 processes on 2 machines .* --ntasks-per-node"):
        world()


def test_processes_fail_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)

    def fail() -> None:
        with pytest.raises(BergerError, match="wrong"), in_turn():
            raise BergerError("wrong")

    fail()
    given(monkeypatch, TORCHRUN, {"LOCAL_RANK": "0", "RANK": "0"})
    fail()
    assert waited == []
    for rank in ("1", "2"):
        given(monkeypatch, {"LOCAL_RANK": rank, "RANK": rank})
        fail()
    monkeypatch.delenv(processes.ELASTIC)
    given(monkeypatch, SRUN, STEP, {"SLURM_LOCALID": "3"})
    fail()
    assert waited == [11, 12, 93]


def test_only_pretraining_is_done_by_several(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    given(monkeypatch, TORCHRUN, {"LOCAL_RANK": "0", "RANK": "0"})
    with pytest.raises(SystemExit) as caught:
        main(["prepare", str(tmp_path), "--out", str(tmp_path / "corpus")])
    assert caught.value.code == 2
    assert "only `berger pretrain` is done by several processes" in capsys.readouterr().err


@pytest.mark.parametrize("state", ["", "state.ckpt", "state-before.ckpt", "expert-1/state.ckpt"])
def test_the_script_for_slurm_resumes_what_has_a_state(state: str, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "many-devices.md").read_text()
    script = page.partition("#!/bin/bash\n")[2].partition("    srun ")[0]
    (tmp_path / "run" / "expert-1").mkdir(parents=True)
    if state:
        (tmp_path / "run" / state).touch()
    command = ["bash", "-c", f"{script}\necho $resume"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ("--resume" if state else "")
    assert done.stderr == ""
