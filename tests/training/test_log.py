"""The log keeps what a run that is resumed has done, and the record says how it was made."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from berger.training import log as log_module
from berger.training.log import JsonLinesLog, read_log, run_record


def write(path: Path, steps: list[int], keep_until: int = 0) -> None:
    log = JsonLinesLog(path, keep_until)
    for step in steps:
        log.write(step=step, split="train", loss=1 / step)
    log.close()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write(tmp_path / "log.jsonl", [1, 2])
    assert read_log(tmp_path / "log.jsonl") == [
        {"step": 1, "split": "train", "loss": 1.0},
        {"step": 2, "split": "train", "loss": 0.5},
    ]


def test_lines_can_be_read_while_the_run_goes_on(tmp_path: Path) -> None:
    log = JsonLinesLog(tmp_path / "log.jsonl")
    log.write(step=1)
    assert read_log(tmp_path / "log.jsonl") == [{"step": 1}]
    log.close()


@pytest.mark.parametrize("keep_until", [0, 3, 4, 9])
def test_a_resumed_run_drops_what_lies_behind_its_state(keep_until: int, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    write(path, [1, 3, 3, 5, 9])
    write(path, [10], keep_until)
    kept = [step for step in (1, 3, 3, 5, 9) if step <= keep_until]
    assert [line["step"] for line in read_log(path)] == [*kept, 10]


def test_a_line_cut_off_by_a_crash_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    write(path, [1, 2])
    path.write_bytes(path.read_bytes()[:-5])
    assert [line["step"] for line in read_log(path)] == [1]
    write(path, [3], keep_until=2)
    assert [line["step"] for line in read_log(path)] == [1, 3]


def test_no_log_has_no_lines(tmp_path: Path) -> None:
    assert read_log(tmp_path / "log.jsonl") == []


def test_the_record_says_how_a_run_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/berger", "prepare", "my files", "--out", "a"])
    record = run_record()
    assert record["command"] == "berger prepare 'my files' --out a"
    assert record["versions"]["torch"] == metadata.version("torch")
    assert {"python", "berger", "numpy", "scipy", "mne"} <= set(record["versions"])
    cores, *gpus = record["hardware"].partition(" cores")[1:]
    assert cores == " cores"
    assert bool(gpus[0]) == torch.cuda.is_available()
    assert record["started"].endswith("+00:00")
    assert json.loads(json.dumps(record)) == record


def test_the_record_names_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["Large", "Small", "Large"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(names))
    monkeypatch.setattr(torch.cuda, "get_device_name", names.__getitem__)
    assert run_record()["hardware"].endswith(" cores, 2 × Large, 1 × Small")


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    command = ["git", *identity, "-C", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_the_commit_is_that_of_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that of a repository in which the package happens to be installed."""
    installed = tmp_path / "venv" / "log.py"
    installed.parent.mkdir()
    installed.write_text("")
    monkeypatch.setattr(log_module, "__file__", str(installed))
    assert run_record()["git_commit"] is None
    git(tmp_path, "init")
    git(tmp_path, "commit", "--allow-empty", "-m", "theirs")
    assert run_record()["git_commit"] is None
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "ours")
    assert run_record()["git_commit"] == git(tmp_path, "rev-parse", "HEAD")
    monkeypatch.setenv("PATH", "")
    assert run_record()["git_commit"] is None
