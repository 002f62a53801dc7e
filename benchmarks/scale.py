"""What pretraining on a corpus of the size of TUEG takes: the tables of docs/scale.md.

    python benchmarks/scale.py [--measure] [--NAME VALUE …]

Every table follows from the numbers of `Inputs`, each of which is an option of its name. With
`--measure` the operations of a window are counted anew, by `torch.utils.flop_counter` over forward
and backward passes of the shipped configurations at their full size; they do not depend on the
machine. Hours of a GPU are those operations over what it does in a second at best and the share of
that which is reached: an estimate, no measurement.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from berger.configuration import load_config
from berger.corpus import Batch
from berger.preprocessing import PreprocessingConfig
from berger.pretraining import PretrainingConfig, fresh_objective

FAMILIES = {"specmoe": "specmoe-tueg", "dare": "dare-tueg"}
DEVICES = (1, 8, 64)
TEN_TWENTY = tuple(load_config(PreprocessingConfig, "tueg").ch_names or ())


@dataclass(frozen=True)
class Inputs:
    """What the tables are made from; docs/scale.md says where each number is from.

    Attributes
    ----------
    raw_hours : float
        Recordings as they are downloaded.
    hours : float
        Recordings that are left in the corpus.
    corpus_overhead : float
        Bytes of a corpus over two for each sample.
    prepare_seconds : float
        Processor seconds for an hour of recordings, one worker.
    specmoe_gflop, dare_gflop : float
        Operations of a window in training, forward and backward, in units of 10⁹.
    specmoe_cpu_seconds, dare_cpu_seconds : float
        Seconds of one processor thread for a window.
    peak_tflops : float
        What a GPU does in a second at best, in units of 10¹².
    specmoe_reached, dare_reached : float
        Share of it that training reaches. Not measured.
    link_gbytes : float
        What a device sends and receives in a second, in units of 10⁹ bytes. Not measured.
    """

    raw_hours: float = 21000
    hours: float = 1_109_545 * 30 / 3600
    corpus_overhead: float = 1.0007
    prepare_seconds: float = 3.01
    specmoe_gflop: float = 91.09
    dare_gflop: float = 24.41
    specmoe_cpu_seconds: float = 3.14
    dare_cpu_seconds: float = 0.37
    peak_tflops: float = 312
    specmoe_reached: float = 0.05
    dare_reached: float = 0.2
    link_gbytes: float = 25


def noise(config: PretrainingConfig, n_windows: int, ch_names: tuple[str, ...]) -> Batch:
    """Return windows of noise as a configuration reads them."""
    sfreq = config.model.sfreq
    n_times = round(config.window_seconds * sfreq)
    counts = np.random.default_rng(0).normal(0, 200, (n_windows, n_times, len(ch_names)))
    return Batch(
        samples=torch.from_numpy(counts.astype(np.int16)),
        scale=torch.full((n_windows, len(ch_names)), 0.1),
        ch_names=ch_names,
        sfreq=sfreq,
        recordings=("noise",) * n_windows,
        subjects=("nobody",) * n_windows,
        starts=torch.arange(n_windows) * n_times,
    )


def gflop(config: PretrainingConfig, n_windows: int = 2, draws: int = 8) -> float:
    """Count the operations of a window, mean over draws of masks, in units of 10⁹.

    Products of matrices, convolutions and attention, twice its forward pass for the backward one;
    what the fused kernels of attention compute anew there is no work of the model and not counted.
    """
    torch.manual_seed(0)
    objective = fresh_objective(config, contract=None, seed=0)
    batch = noise(config, n_windows, TEN_TWENTY)
    generator = torch.Generator().manual_seed(0)
    total = 0
    for _ in range(draws):
        # attention as two products, which the counter knows
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            objective(batch, generator)["loss"].backward()
        total += counter.get_total_flops()
        objective.zero_grad()
    return total / draws / n_windows / 1e9


def windows_in_all(family: str, inputs: Inputs) -> tuple[float, int]:
    """Return the windows that a whole pretraining reads, and those of one of its steps."""
    config = load_config(PretrainingConfig, FAMILIES[family])
    training = config.training
    step = config.window_step or config.window_seconds
    assert training.epochs is not None
    share = 1 - config.validation_share
    n_windows = share * inputs.hours * 3600 / step * training.epochs  # experts share them
    return n_windows, training.batch_size * training.accumulate


def corpus_rows(inputs: Inputs) -> Iterator[tuple[str, ...]]:
    """Yield what preparation takes."""
    yield "", "specmoe-tueg", "dare-tueg"
    rates = [load_config(PretrainingConfig, name).model.sfreq for name in FAMILIES.values()]
    per_hour = [len(TEN_TWENTY) * rate * 3600 * 2 * inputs.corpus_overhead for rate in rates]
    yield "bytes of an hour", *(f"{each / 1e6:.1f} MB" for each in per_hour)
    yield "corpus", *(f"{inputs.hours * each / 1e9:,.0f} GB" for each in per_hour)
    hours = inputs.raw_hours * inputs.prepare_seconds / 3600
    yield "preparation, one worker", *(f"{hours:,.1f} h" for _ in rates)
    yield "preparation, 16 workers", *(f"{hours / 16:,.1f} h" for _ in rates)


def training_rows(family: str, inputs: Inputs) -> Iterator[tuple[str, ...]]:
    """Yield what training takes on each number of devices."""
    config = load_config(PretrainingConfig, FAMILIES[family])
    n_windows, per_step = windows_in_all(family, inputs)
    speed = inputs.peak_tflops * 1e12 * getattr(inputs, f"{family}_reached")
    computing = per_step * getattr(inputs, f"{family}_gflop") * 1e9 / speed
    # each device sends and receives nearly all gradients twice, in float32, once a step
    n_bytes = 2 * 4 * count_trained(config)
    seconds = [computing / n + n_bytes * (n - 1) / n / (inputs.link_gbytes * 1e9) for n in DEVICES]
    rates = [per_step / one for one in seconds]
    window = len(TEN_TWENTY) * config.model.sfreq * config.window_seconds * 2
    wall = [n_windows / rate / 3600 for rate in rates]
    yield "devices", *(str(n) for n in DEVICES)
    yield "windows of a device at once", *(f"{config.training.batch_size / n:g}" for n in DEVICES)
    yield "seconds a step", *(f"{one:.3g}" for one in seconds)
    yield "windows per second", *(f"{rate:,.0f}" for rate in rates)
    yield "read per second", *(f"{rate * window / 1e6:,.0f} MB" for rate in rates)
    yield "hours", *(f"{hours:,.1f}" for hours in wall)
    yield "GPU-hours", *(f"{hours * n:,.0f}" for hours, n in zip(wall, DEVICES, strict=True))


def count_trained(config: PretrainingConfig) -> int:
    """Return the number of parameters that have gradients."""
    objective = fresh_objective(config, contract=None, seed=0)
    return sum(each.numel() for each in objective.parameters() if each.requires_grad)


def summary(family: str, inputs: Inputs) -> str:
    """Say in a line what a whole pretraining is."""
    n_windows, per_step = windows_in_all(family, inputs)
    each = getattr(inputs, f"{family}_gflop")
    seconds = getattr(inputs, f"{family}_cpu_seconds")
    return (
        f"{FAMILIES[family]}: {n_windows / 1e6:,.1f} million windows in "
        f"{n_windows / per_step:,.0f} steps of {per_step}; {each:,.1f} Gflop a "
        f"window, {n_windows * each * 1e9:.2g} operations "
        f"in all; {n_windows * seconds / 3600:,.0f} hours of one processor thread"
    )


def table(rows: Iterator[tuple[str, ...]]) -> str:
    """Return rows as Markdown."""
    head, *rest = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, f"|{' --- |' * (head.count('|') - 1)}", *rest])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--measure", action="store_true")
    for field in dataclasses.fields(Inputs):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=float, default=field.default)
    given = vars(parser.parse_args())
    if given.pop("measure"):
        for family, name in FAMILIES.items():
            given[f"{family}_gflop"] = gflop(load_config(PretrainingConfig, name))
            print(f"{name}: {given[f'{family}_gflop']:.2f} Gflop a window")
    inputs = Inputs(**given)
    print(f"\n{table(corpus_rows(inputs))}")
    for family in FAMILIES:
        print(f"\n{summary(family, inputs)}\n\n{table(training_rows(family, inputs))}")


if __name__ == "__main__":
    main()
