"""What DARE-EEG's encoder and a training step of dual alignment cost, and which part costs it.

    python benchmarks/dare_step.py [--device cpu|cuda] [--threads N] [--sizes nano base]
                                   [--batch N] [--repeats N] [--ways picked gathered …]

Windows of 58 electrodes × 4 s at 256 Hz, the paper's settings, one fixed draw of views that sees
half of the time steps. A training step is masks, forward, losses, backward, clip, AdamW and the
momentum update. Ways, which take turns in one process, forwards and backwards:

picked      as shipped: visible patches are picked, then embedded
gathered    every patch is embedded, then the visible ones are picked
mapped      as picked, but the encoder's last layer maps every token, not only the summary tokens
bf16        as picked, forward passes under autocast to bfloat16
compiled    as bf16, every part through `torch.compile`

The latter two are left out on the CPU unless asked for. The first three are checked to give the
same features and the same loss of the first step.

Rates are those of the fastest of the repeats; a ratio is the median over pairs that ran one after
the other, so that what else runs on the machine disturbs it little. On the CPU with one thread (the
default) processor time is taken, user and system, else wall time, for which the machine must be
quiet. Memory is that of a process of its own that takes two steps: on the CPU the peak resident
set and what the steps added to it, on a GPU the peak of what was allocated there.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from berger.corpus import Batch
from berger.masking.views import Views, ViewsConfig, draw_views
from berger.models.dare import DARE_SIZES, ELECTRODES, DareEEG, DareEncoder
from berger.models.layers import PreNormAttentionLayer
from berger.objectives.dual_alignment import DualAlignment, DualAlignmentConfig
from berger.training.optim import OptimizerConfig, build_optimizer

SFREQ, SECONDS, N_CHANS = 256, 4, 58
N_TIMES = SFREQ * SECONDS
CH_NAMES = ELECTRODES[:N_CHANS]
BATCH = {"cpu": {"nano": 32, "base": 4}, "cuda": {"nano": 72, "base": 72}}
WAYS = ("picked", "gathered", "mapped", "bf16", "compiled")
EXACT = WAYS[:3]
PARTS = ("encoder", "predictor", "reconstructor")


class GatheringEncoder(DareEncoder):
    """Embeds every patch and picks the visible ones afterwards."""

    def embed_visible(self, signal: Tensor, electrodes: Tensor, visible: Tensor) -> Tensor:
        """Return the tokens of visible patches."""
        cut = rearrange(
            signal, "batch chans (steps size) -> batch steps chans size", size=self.patch_size
        )
        tokens = self.embed(cut) + self.electrodes(electrodes)
        return tokens.flatten(1, 2)[:, visible]


class MappingLayer(PreNormAttentionLayer):
    """Maps every token and drops what is not wanted afterwards."""

    def forward(
        self, tokens: Tensor, times: Tensor | None = None, n_last: int | None = None
    ) -> Tensor:
        """Return the last tokens."""
        return super().forward(tokens, times)[:, -(n_last or 0) :]


class Bench:
    """One way of one size, and the seconds that it took."""

    def __init__(self, way: str, size: str, n_windows: int, device: str, n_threads: int) -> None:
        torch.manual_seed(0)
        model = DareEEG(DARE_SIZES[size])
        if way == "gathered":
            model.encoder.__class__ = GatheringEncoder
        if way == "mapped":
            model.encoder.layers[-1].__class__ = MappingLayer
        self.objective = DualAlignment(model, DualAlignmentConfig()).to(device)
        self.parts = {part: getattr(model, part) for part in PARTS}
        self.parts["target encoder"] = self.objective.target_encoder
        self.optimizer = build_optimizer(self.objective, OptimizerConfig())
        self.batch = noise(n_windows)
        self.generator, (self.seed, self.views) = torch.Generator(), half_seen()
        self.device, self.half = torch.device(device), way in ("bf16", "compiled")
        self.clock = time.process_time if (device, n_threads) == ("cpu", 1) else time.perf_counter
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.losses: list[float] = []
        if way == "compiled":
            for part in self.parts.values():
                part.compile()

    def now(self) -> float:
        """Seconds, once all that was asked of the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return self.clock()

    def autocast(self) -> Any:
        """Context of the forward passes."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.half else nullcontext()

    @torch.no_grad()
    def encode(self, what: str) -> Tensor:
        """Features of the whole signal or of one view."""
        visible = None if what == "whole" else self.views.visible1
        started = self.now()
        with self.autocast():
            features = self.objective.model.forward_features(
                self.batch.signal(self.device), CH_NAMES, visible=visible
            )
        self.seconds[what].append(self.now() - started)
        return features.tokens

    def step(self) -> None:
        """Take a training step; how long its stages take together is ``step``."""
        laps = [self.now()]
        with self.autocast():
            loss = self.objective(self.batch, self.generator.manual_seed(self.seed))["loss"]
        laps.append(self.now())
        loss.backward()
        laps.append(self.now())
        nn.utils.clip_grad_norm_(self.objective.parameters(), 5.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        laps.append(self.now())
        self.objective.after_step(len(self.losses) + 1, 1000)
        laps.append(self.now())
        for stage, seconds in zip(
            ("forward", "backward", "optimiser", "momentum update"), np.diff(laps), strict=True
        ):
            self.seconds[stage].append(seconds)
        self.seconds["step"].append(laps[-1] - laps[0])
        self.losses.append(loss.item())

    def shares(self, repeats: int) -> dict[str, float]:
        """Take steps in which hooks time the parts' forward passes; return shares of a step."""
        self.seconds.clear()
        handles = []
        for name, part in self.parts.items():
            started: list[float] = []
            before = partial(lambda started, *_: started.append(self.now()), started)
            after = partial(
                lambda name, started, *_: self.seconds[name].append(self.now() - started[-1]),
                name,
                started,
            )
            handles.append(part.register_forward_pre_hook(before))
            handles.append(part.register_forward_hook(after))
        for _ in range(repeats):
            self.step()
        for handle in handles:
            handle.remove()
        views = self.seconds.pop("encoder")
        self.seconds |= {"encoder, view 1": views[::2], "encoder, view 2": views[1::2]}
        found = {name: median(seconds) for name, seconds in self.seconds.items()}
        whole, forward = found.pop("step"), found.pop("forward")
        inside = [name for name in found if name in self.parts or name.startswith("encoder")]
        found["masks, targets, losses"] = forward - sum(found[name] for name in inside)
        return {name: seconds / whole for name, seconds in sorted(found.items())}

    def outside_kernels(self) -> float:
        """Share of a step's time in which the GPU runs no kernel."""
        unwatched = median(self.seconds["step"])
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            self.step()
        kernels = [e for e in seen.key_averages() if e.device_type == DeviceType.CUDA]
        return 1 - sum(event.self_device_time_total for event in kernels) / 1e6 / unwatched


def noise(n_windows: int) -> Batch:
    rng = np.random.default_rng(0)
    counts = rng.normal(0, 200, (n_windows, N_TIMES, N_CHANS)).astype(np.int16)
    return Batch(
        samples=torch.from_numpy(counts),
        scale=torch.full((n_windows, N_CHANS), 0.1),
        ch_names=CH_NAMES,
        sfreq=SFREQ,
        recordings=("noise",) * n_windows,
        subjects=("nobody",) * n_windows,
        starts=torch.arange(n_windows) * N_TIMES,
    )


def half_seen() -> tuple[int, Views]:
    """Return the first seed whose views see half of the time steps, and these views."""
    n_steps = N_TIMES // DARE_SIZES["nano"].patch_size
    for seed in range(1000):
        generator = torch.Generator().manual_seed(seed)
        views = draw_views(n_steps, N_CHANS, ViewsConfig(), generator)
        if len(views.steps) == n_steps // 2:
            return seed, views
    raise RuntimeError("no seed sees half of the steps")


def take_turns(benches: dict[str, Bench], repeats: int, act: Callable[[Bench], Any]) -> None:
    """Let every way act in turn, there and back; what the first turn took is forgotten."""
    for turn in range(repeats + 1):
        for bench in list(benches.values())[:: -1 if turn % 2 else 1]:
            act(bench)
            if turn == 0:
                bench.seconds.clear()


def compare(benches: dict[str, Bench], what: str, n_windows: int) -> None:
    unit, count = ("steps", 1) if what == "step" else ("windows", n_windows)
    label = {"whole": "whole signal encoded", "view": "one view encoded", "step": "training"}[what]
    for way, bench in benches.items():
        pairs = np.divide(bench.seconds[what], benches["picked"].seconds[what])
        print(
            f"  {label:<21}{way:<9}{count / min(bench.seconds[what]):9.2f} {unit + '/s':<10} "
            f"time / picked {median(pairs):.3f} ({pairs.min():.3f}–{pairs.max():.3f})"
        )


def measure(size: str, n_windows: int, given: argparse.Namespace) -> None:
    print(f"dare-{size}, {N_CHANS} electrodes × {SECONDS} s, {n_windows} windows at once")
    benches = {way: Bench(way, size, n_windows, given.device, given.threads) for way in given.ways}
    picked = benches["picked"]
    print(f"  a view sees {list(picked.views.visible1.shape)} (steps, electrodes),", end=" ")
    print(f"{len(picked.views.targets)} patches are restored")
    exact = [way for way in benches if way in EXACT]
    for what in ("whole", "view"):
        expected = picked.encode(what)
        for way in exact:
            torch.testing.assert_close(benches[way].encode(what), expected)
    for what in ("whole", "view"):
        take_turns(benches, 4 * given.repeats, partial(Bench.encode, what=what))
        compare(benches, what, n_windows)
    take_turns(benches, given.repeats, Bench.step)
    compare(benches, "step", n_windows)
    np.testing.assert_allclose([benches[way].losses[0] for way in exact], picked.losses[0], 1e-5)
    print(f"  same features and loss: {', '.join(exact)}")
    if given.device == "cuda":
        for way, bench in benches.items():
            print(f"  {way}: {bench.outside_kernels():.0%} of a step outside kernels")
    shares = picked.shares(given.repeats)
    print("  share of a step:", ", ".join(f"{part} {share:.1%}" for part, share in shares.items()))


def remember(size: str, n_windows: int, given: argparse.Namespace) -> None:
    """Print the memory of each way, from a process of its own."""
    for way in given.ways:
        words = ["--child", way, size, str(n_windows), given.device, str(given.threads)]
        done = subprocess.run(
            [sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, check=True
        )
        found = ", ".join(f"{what} {mb:,.0f} MB" for what, mb in json.loads(done.stdout).items())
        print(f"memory of dare-{size}, {n_windows} windows a step, {way}: {found}", flush=True)


def memory(way: str, size: str, n_windows: int, device: str, n_threads: int) -> dict[str, float]:
    """Take two steps and return megabytes at their peak."""
    torch.set_num_threads(n_threads)
    bench = Bench(way, size, n_windows, device, n_threads)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(2):
        bench.step()
    if device == "cuda":
        return {"peak allocated": torch.cuda.max_memory_allocated() / 2**20}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"peak of the process": peak / 1024, "added by the steps": (peak - before) / 1024}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--child", nargs=5)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sizes", nargs="+", choices=["nano", "base"], default=["nano", "base"])
    parser.add_argument("--batch", type=int)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--ways", nargs="+", choices=WAYS)
    given = parser.parse_args()
    if given.child:
        way, size, n_windows, device, n_threads = given.child
        print(json.dumps(memory(way, size, int(n_windows), device, int(n_threads))))
        return
    asked = given.ways or (EXACT if given.device == "cpu" else WAYS)
    given.ways = ["picked", *(way for way in asked if way != "picked")]
    torch.set_num_threads(given.threads)
    batch = {size: given.batch or BATCH[given.device][size] for size in given.sizes}
    for size in given.sizes:  # first: a process inherits the peak of the one that starts it
        remember(size, batch[size], given)
    for size in given.sizes:
        measure(size, batch[size], given)


if __name__ == "__main__":
    main()
