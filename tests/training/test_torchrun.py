"""Pretraining on several devices as users start it: by torchrun, and by srun."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from berger.pretraining import pretrain
from berger.training.log import read_log
from berger.training.state import read_state
from tests.training.test_devices import ROOT, config_of

LINES = {"log_every": 1, "validate_every": 3}
TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "berger", "pretrain")


def start(words: tuple[str, ...], out: Path, **variables: str) -> subprocess.Popen[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    if TORCHRUN[1] in words:
        words = (*words[:4], "--master-port", port, *words[4:])
    files = [(out.parent / f"{out.name}-{name}.txt").open("w") for name in ("out", "err")]
    try:
        return subprocess.Popen(
            [sys.executable, *words],
            cwd=ROOT,
            env=environment | variables,
            stdout=files[0],
            stderr=files[1],
            text=True,
        )
    finally:
        for file in files:
            file.close()


def said(out: Path) -> tuple[str, list[str]]:
    """Return what went to stdout, and Berger's own sentences."""
    texts = [(out.parent / f"{out.name}-{name}.txt").read_text() for name in ("out", "err")]
    return texts[0], [line for line in texts[1].splitlines() if line.startswith("berger: ")]


def words_of(family: str, corpus: Path, out: Path, **changes: object) -> tuple[str, ...]:
    config = config_of(family, **LINES | changes)
    file = out.parent / f"{family}.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return (str(file), "--corpus", str(corpus), "--out", str(out), "--device", "cpu")


def alone(family: str, corpus: Path, out: Path, **changes: object) -> Path:
    """Pretrain the same in this process."""
    config = config_of(family, **LINES | changes)
    pretrain(config, corpus, out, device="cpu", quiet=True)
    return out


def files(out: Path) -> set[str]:
    return {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}


def assert_same(one: Path, other: Path) -> None:
    """Compare losses, weights as a whole, and what batch norms have seen.

    Biases before a batch norm move by rounding alone, and running means after them; losses of
    validation, for which a running mean stands in for the batch's, feel it.
    """
    for split, tolerance in (("train", 1e-5), ("validation", 1e-3)):
        losses = [
            {
                line["step"]: line["loss"]
                for line in read_log(out / "log.jsonl")
                if line["split"] == split
            }
            for out in (one, other)
        ]
        assert len(losses[0]) > 1
        assert losses[0] == pytest.approx(losses[1], rel=tolerance)
    states = [read_state(out)["objective"] for out in (one, other)]
    assert states[0].keys() == states[1].keys()
    before, after = (
        torch.cat([value.flatten().double() for value in each.values()]) for each in states
    )
    assert (before - after).norm() < 1e-4 * before.norm()
    for name, value in states[0].items():
        if name.endswith("running_var"):  # of every window once, also where all have the same
            torch.testing.assert_close(value, states[1][name], rtol=1e-4, atol=0)


def test_torchrun_trains_as_one_process(tiny_corpus: Path, tmp_path: Path) -> None:
    """Only the first process writes, prints and shows a bar."""
    out = tmp_path / "two"
    running = start((*TORCHRUN, *words_of("spechinet", tiny_corpus, out)), out)
    assert running.wait(300) == 0, (tmp_path / "two-err.txt").read_text()
    one = alone("spechinet", tiny_corpus, tmp_path / "one")
    assert_same(one, out)
    assert files(out) == files(one)
    record = json.loads((out / "run.json").read_text())
    assert (record["processes"], record["strategy"], record["steps"]) == (2, "ddp", 6)
    text, sentences = said(out)
    took, ready = text.splitlines()  # once, not by each process
    assert took.startswith("6 steps in ")
    assert ready == f"{out}/checkpoint: ready. See it with `berger report {out}`."
    assert sentences == []
    shown = (tmp_path / "two-err.txt").read_text()
    assert shown.count(" 0/6 ") == 1
    assert "rank" not in shown.lower()


def test_stopped_under_torchrun_and_continued_under_srun(tiny_corpus: Path, tmp_path: Path) -> None:
    """SIGTERM to torchrun ends all processes with the state saved; the strategy may change.

    Without mask alignment: its head has a ReLU, and in many steps rounding once puts a unit that
    is all but 0 onto the other side, where its gradient is another.
    """
    out = tmp_path / "two"
    changes: dict[str, Any] = {"steps": 30, "save_every": 1000, "validate_every": 15}
    changes["objective.mask_alignment"] = 0
    words = words_of("dare", tiny_corpus, out, **changes)
    running = start((*TORCHRUN, *words), out)
    until = time.monotonic() + 200
    while not read_log(out / "log.jsonl") and running.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.02)
    running.send_signal(signal.SIGTERM)
    assert running.wait(100) == 1  # torchrun's own; of the processes' status it says nothing
    (sentence,) = said(out)[1]
    step = len([line for line in read_log(out / "log.jsonl") if line["split"] == "train"])
    assert 0 < step < 30
    assert f"stopped by SIGTERM after step {step} of 30; continue it with --resume." in sentence

    common = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_STEP_NUM_TASKS": "2"}
    common |= {"SLURM_STEP_NUM_NODES": "1", "SLURM_NNODES": "1", "SLURM_NODEID": "0"}
    common |= {"SLURM_JOB_NAME": "pretraining", "MASTER_ADDR": "127.0.0.1"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        common["MASTER_PORT"] = str(free.getsockname()[1])
    ranks = [
        start(
            ("-m", "berger", "pretrain", *words, "--resume", "--strategy", "fsdp"),
            tmp_path / f"rank-{rank}",
            **common | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
        )
        for rank in range(2)
    ]
    assert [process.wait(300) for process in ranks] == [0, 0]
    assert said(tmp_path / "rank-0")[0].splitlines()[-1].startswith(f"{out}/checkpoint: ready.")
    assert (tmp_path / "rank-1-out.txt").read_text() == ""
    assert (tmp_path / "rank-1-err.txt").read_text() == ""
    assert_same(alone("dare", tiny_corpus, tmp_path / "one", **changes), out)


def test_what_is_wrong_is_said_once_and_ends_all(tiny_corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "two"
    words = words_of("spechinet", tiny_corpus, out, batch_size=1)
    running = start((*TORCHRUN, *words), out)
    assert running.wait(100) == 1
    assert said(out) == ("", ["berger: batch_size = 1: must be at least 2."])
