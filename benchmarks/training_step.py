"""What a step of `berger pretrain` costs in each family, and the ways in which it may be computed.

    python benchmarks/training_step.py [--device cpu|cuda] [--threads N] [--configs specmoe-tueg …]
                                       [--ways eager bf16 …] [--batch N] [--steps N] [--turns N]
                                       [--workers N] [--corpus CORPUS] [--operators N]

Takes the steps of `berger.training.loop.fit`, reading included, of shipped configurations, each in
a process of its own. Windows come from a corpus of simulated recordings of the 19 electrodes of the
10-20 system, or from CORPUS, which must then have the configurations' rate. Ways:

eager          as the configurations are without compile, in float32
compiled       `training.compile`
bf16           `training.precision bf16-mixed`
compiled-bf16  both
checkpointed   `training.checkpoint_activations`

The ways take turns, there and back; the first two steps of a process are not counted (the compiler
works in the first). Windows per second are those of the fastest step, and data wait is a share of
the time of all; a ratio to eager is the median over turns, of fastest steps of the same turn. On
the CPU with one thread (the default) processor time decides which other work disturbs little, else
time on the clock. Memory is the peak resident set of the process and what the steps added to it, on
a GPU the peak of what was allocated there. `--operators` lists where the time of eager steps goes.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from berger.configuration import load_config
from berger.corpus import open_corpus, prepare
from berger.preprocessing import PreprocessingConfig
from berger.pretraining import PretrainingConfig, fresh_objective
from berger.simulation import simulate_dataset
from berger.training.log import read_log
from berger.training.loop import fit

CONFIGS = ("specmoe-tueg", "dare-tueg")
WAYS: dict[str, dict[str, Any]] = {
    "eager": {},
    "compiled": {"training.compile": True},
    "bf16": {"training.precision": "bf16-mixed"},
    "compiled-bf16": {"training.compile": True, "training.precision": "bf16-mixed"},
    "checkpointed": {"training.checkpoint_activations": True},
}
PLAIN = {"training.compile": False, "training.precision": "32-true"}
BATCH = {
    "cpu": {"specmoe-tueg": 2, "dare-tueg": 8},
    "cuda": {"specmoe-tueg": 64, "dare-tueg": 216},
}
UNCOUNTED = 2


def simulate(sfreq: float, folder: Path, corpus: Path) -> None:
    """Prepare recordings of four people at a rate."""
    recordings = folder / "recordings"
    if not recordings.is_dir():
        simulate_dataset(recordings, 8)
        for path in recordings.glob("*.edf"):
            if int(path.name[4:6]) % 2 == 0:  # every other person wears 8 electrodes
                path.unlink()
    how = PreprocessingConfig(sfreq=sfreq, highpass=0.3, lowpass=75, max_amplitude=None)
    prepare([recordings], corpus, how, progress=False)


def child(given: argparse.Namespace) -> dict[str, Any]:
    """Take steps of one configuration in one way, and tell what they cost."""
    torch.set_num_threads(given.threads)
    (name,), (way,) = given.configs, given.ways
    fields = PLAIN | {
        "training.batch_size": given.batch,
        "training.accumulate": 1,
        "training.epochs": None,
        "training.steps": UNCOUNTED + given.steps,
        "training.log_every": 1,
        "training.save_every": 10**6,
    }
    config = load_config(PretrainingConfig, name, fields | WAYS[way])
    windows = open_corpus(given.corpus).windows(config.window_seconds, config.window_step)
    objective = fresh_objective(config, contract=None, seed=0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    clocked: list[float] = []  # processor time at the end of each step
    found: dict[str, Any] = {}
    settle = getattr(objective, "after_step", lambda step, total: None)

    def after_step(step: int, total: int) -> None:
        settle(step, total)
        clocked.append(time.process_time())

    objective.after_step = after_step
    with tempfile.TemporaryDirectory() as out:
        how: dict[str, Any] = {"seed": 0, "device": given.device, "workers": given.workers}
        if given.operators:
            activities = [ProfilerActivity.CPU]
            activities += [ProfilerActivity.CUDA] * (given.device == "cuda")
            with profile(activities=activities) as tracer:
                fit(objective, windows, config.training, Path(out), quiet=True, **how)
            by = f"self_{given.device}_time_total"
            found["operators"] = tracer.key_averages().table(
                sort_by=by, row_limit=given.operators, max_name_column_width=50
            )
        else:
            fit(objective, windows, config.training, Path(out), quiet=True, **how)
        lines = [line for line in read_log(Path(out) / "log.jsonl") if line["split"] == "train"]
    lines = lines[UNCOUNTED:]
    wall = [line["seconds_per_step"] for line in lines]
    ticks = clocked[UNCOUNTED - 1 :]
    alone = (given.device, given.threads, given.workers) == ("cpu", 1, 0)
    found["seconds"] = [b - a for a, b in pairwise(ticks)] if alone else wall
    waited = sum(line["data_wait"] * line["seconds_per_step"] for line in lines)
    found["data_wait"] = waited / sum(wall)
    found["loss"] = lines[-1]["loss"]
    if given.device == "cuda":
        found["memory"] = {"peak allocated": torch.cuda.max_memory_allocated() / 2**20}
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found["memory"] = {"peak": peak / 1024, "added by the steps": (peak - before) / 1024}
    return found


def measure(given: argparse.Namespace, name: str, way: str, operators: int = 0) -> dict[str, Any]:
    words = ["--child", "--configs", name, "--ways", way, "--operators", str(operators)]
    for option in ("device", "threads", "batch", "steps", "workers", "corpus"):
        words += [f"--{option}", str(getattr(given, option))]
    done = subprocess.run(
        [sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, check=True
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def compare(given: argparse.Namespace, name: str) -> None:
    """Let the ways of one configuration take turns."""
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in given.ways}
    for turn in range(given.turns):
        for way in given.ways[:: -1 if turn % 2 else 1]:
            found[way].append(measure(given, name, way))
    print(
        f"{name}, {given.batch} windows at once, {given.device}, {given.threads} threads:",
        flush=True,
    )
    for way, runs in found.items():
        best = [min(run["seconds"]) for run in runs]
        usual = [min(run["seconds"]) for run in found[given.ways[0]]]
        ratios = [one / other for one, other in zip(best, usual, strict=True)]
        memory = ", ".join(
            f"{what} {min(run['memory'][what] for run in runs):,.0f} MB"
            for what in runs[0]["memory"]
        )
        print(
            f"  {way:<14}{given.batch / min(best):8.2f} windows/s, time / {given.ways[0]} "
            f"{median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f}), data wait "
            f"{median(run['data_wait'] for run in runs):.2%}, {memory}, "
            f"loss {runs[0]['loss']:.4g}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--child", action="store_true")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--configs", nargs="+", default=CONFIGS)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--batch", type=int)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--corpus")
    parser.add_argument("--operators", type=int, default=0)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(child(given)))
        return
    batch, corpus = given.batch, given.corpus
    with tempfile.TemporaryDirectory() as folder:
        for name in given.configs:
            config = load_config(PretrainingConfig, name)
            given.batch = batch or BATCH[given.device].get(name, config.training.batch_size)
            given.corpus = corpus or Path(folder) / f"corpus-{config.model.sfreq:g}"
            if not Path(given.corpus).is_dir():  # apart: a process inherits the peak of its parent
                apart = get_context("spawn").Process(
                    target=simulate, args=(config.model.sfreq, Path(folder), given.corpus)
                )
                apart.start()
                apart.join()
            if given.operators:
                print(measure(given, name, "eager", given.operators)["operators"], flush=True)
            else:
                compare(given, name)


if __name__ == "__main__":
    main()
