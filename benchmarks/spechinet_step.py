"""What one optimiser step of SpecHi-Net costs, and what attention without its scores saves.

    python benchmarks/spechinet_step.py [--threads N] [--batch N] [--repeats N] [--n-chans 4 8 16]

A step is forward, loss, backward and update at the paper's widths and windows of 30 s at 200 Hz,
on this processor. Three ways, each in a process of its own so that its peak memory is its own:

fused           as shipped: `scaled_dot_product_attention` never holds the (L, L) scores
materialised    the same network, softmax(q kᵀ / √d) v written out
without         attention returns its values: what everything else costs

Ratios of one run on one machine are what counts. With one thread (the default) its processor time
is taken, user and system, so that other processes on the machine disturb little; with several, wall
time, for which the machine must be quiet. The ways take turns, and the fastest step of each is
compared. Memory is the peak resident set of the process and what the steps added to it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from berger.corpus import Batch
from berger.masking.gaussian import GaussianMaskConfig, draw_gain
from berger.models import SpecHiNet, SpecHiNetConfig
from berger.objectives.restoration import Restoration, RestorationConfig
from berger.training.optim import OptimizerConfig, build_optimizer

SFREQ, SECONDS = 200, 30
WAYS = ("fused", "materialised", "without")


def materialised(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention with the (batch, heads, L, L) scores held in memory."""
    return torch.softmax(q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5, dim=-1) @ v


def without(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """No mixing of tokens; q and k keep their gradients."""
    return v + 0 * (q + k)


def noise(n_windows: int, n_chans: int) -> Batch:
    rng = np.random.default_rng(0)
    counts = rng.normal(0, 200, (n_windows, SECONDS * SFREQ, n_chans)).astype(np.int16)
    return Batch(
        samples=torch.from_numpy(counts),
        scale=torch.full((n_windows, n_chans), 0.1),
        ch_names=tuple(f"E{number}" for number in range(n_chans)),
        sfreq=SFREQ,
        recordings=("noise",) * n_windows,
        subjects=("nobody",) * n_windows,
        starts=torch.arange(n_windows) * SECONDS * SFREQ,
    )


def child(way: str, n_chans: int, n_windows: int, repeats: int, n_threads: int) -> dict[str, Any]:
    """Take steps and tell their seconds, the peak memory and the loss of the first."""
    torch.set_num_threads(n_threads)
    clock = time.process_time if n_threads == 1 else time.perf_counter
    if way != "fused":
        F.scaled_dot_product_attention = {"materialised": materialised, "without": without}[way]
    torch.manual_seed(0)
    objective = Restoration(
        SpecHiNet(SpecHiNetConfig(dropout=0, decoder_dropout=0)), RestorationConfig()
    )
    optimizer = build_optimizer(objective, OptimizerConfig())
    generator = torch.Generator().manual_seed(0)
    batch = noise(n_windows, n_chans)
    first_loss = None
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(repeats + 1):  # the first warms up
        started = clock()
        loss = objective(batch, generator)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(clock() - started)
        first_loss = loss.item() if first_loss is None else first_loss
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": seconds[1:],
        "peak_mb": peak / 1024,
        "step_mb": (peak - before) / 1024,
        "first_loss": first_loss,
    }


def measure(way: str, *numbers: int) -> dict[str, Any]:
    words = [way, *map(str, numbers)]
    done = subprocess.run(
        [sys.executable, __file__, "--child", *words], capture_output=True, text=True, check=True
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def compare(n_windows: int, repeats: int, n_threads: int) -> None:
    """19 electrodes × 30 s, fused against materialised, taking turns."""
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for _ in range(2):
        for way in WAYS:
            found[way].append(measure(way, 19, n_windows, repeats, n_threads))
    best = {way: min(s for run in runs for s in run["seconds"]) for way, runs in found.items()}
    peak, step = (
        {way: min(run[key] for run in runs) for way, runs in found.items()}
        for key in ("peak_mb", "step_mb")
    )
    print(f"19 electrodes × {SECONDS} s, {n_windows} windows a step:")
    for way in WAYS:
        print(f"  {way:<13}{best[way]:6.2f} s, peak {peak[way]:5.0f} MB, steps {step[way]:5.0f} MB")
    inside = {way: best[way] - best["without"] for way in WAYS}
    for what, value in (
        ("time", best["materialised"] / best["fused"]),
        ("time of attention alone", inside["materialised"] / inside["fused"]),
        ("peak memory", peak["materialised"] / peak["fused"]),
        ("memory of the steps", step["materialised"] / step["fused"]),
    ):
        print(f"  materialised / fused, {what}: {value:.2f}")
    losses = {way: found[way][0]["first_loss"] for way in ("fused", "materialised")}
    print(f"  loss of the first step: {losses}")


def scale(chans: list[int], repeats: int, n_threads: int) -> None:
    """Fit the cost of a step against channels × time on a log-log line."""
    times: dict[str, list[float]] = {"fused": [], "without": []}
    for n_chans in chans:
        for way, found in times.items():
            found.append(min(measure(way, n_chans, 1, repeats, n_threads)["seconds"]))
        whole, rest = times["fused"][-1], times["without"][-1]
        print(f"{n_chans:>3} electrodes: {whole:6.2f} s a step, {rest:5.2f} s outside attention")
    for way, found in times.items():
        slope = np.polyfit(np.log(chans), np.log(found), 1)[0]
        what = "whole step" if way == "fused" else "outside attention"
        print(f"slope against channels × time, {what}: {slope:.2f}")


def masks_per_second(n_samples: int = 64, repeats: int = 20) -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    times = []
    for _ in range(repeats):
        started = time.process_time()
        draw_gain(n_samples, SECONDS * SFREQ, SFREQ, GaussianMaskConfig(), generator)
        times.append(time.process_time() - started)
    print(f"{n_samples / min(times):,.0f} masks of {SECONDS} s a second, {n_samples} at once")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--child", nargs=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--n-chans", type=int, nargs="*", default=[4, 8, 16, 32, 64])
    given = parser.parse_args()
    if given.child:
        way, *numbers = given.child
        print(json.dumps(child(way, *map(int, numbers))))
        return
    masks_per_second()
    compare(given.batch, given.repeats, given.threads)
    scale(given.n_chans, given.repeats, given.threads)


if __name__ == "__main__":
    main()
