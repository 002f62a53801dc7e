"""What the first steps of a training spend their time on."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from berger.files import written_whole

SKIPPED, WARMED, TRACED = 2, 2, 5
"""Steps: the first are slower than the others, and so is the profiler's own beginning."""


@contextmanager
def profiled(path: Path | None, n_steps: int) -> Iterator[Callable[[], None]]:
    """Trace a few steps; what is yielded is called after each.

    Parameters
    ----------
    path : Path, optional
        Gets a trace as Chrome (``chrome://tracing``) and Perfetto read it; without one, nothing is
        traced.
    n_steps : int
        Steps that will be taken; of a short training the last are traced, at least one.
    """
    if path is None or n_steps < 1:
        yield lambda: None
        return
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)

    def write(tracer: profile) -> None:
        with written_whole(path) as temporary:
            tracer.export_chrome_trace(str(temporary))

    warmed = min(WARMED, n_steps - 1)
    skipped = min(SKIPPED, n_steps - 1 - warmed)
    with warnings.catch_warnings():
        # a training of one step has none to warm up in
        warnings.filterwarnings("ignore", ".*won't be using warmup", UserWarning)
        traced = min(TRACED, n_steps - skipped - warmed)
        steps = schedule(wait=skipped, warmup=warmed, active=traced, repeat=1)
    with profile(activities=activities, schedule=steps, on_trace_ready=write) as tracer:
        yield tracer.step
