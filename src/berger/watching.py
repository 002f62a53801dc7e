"""What a pretrained model makes of windows that training never saw: losses, errors, an example.

Masks come from a generator apart from the training's, so that looking changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from berger.corpus import WindowDataset
from berger.files import written_whole
from berger.objectives.dual_alignment import DualAlignment
from berger.objectives.invariance import invariance
from berger.objectives.restoration import Restoration
from berger.spectral import band_powers

Objective = Restoration | DualAlignment
RESTORATION_FILE, EXAMPLE_FILE = "restoration.parquet", "example.npz"
INVARIANCE_FILE = "invariance.parquet"


@torch.inference_mode()
def validation_losses(
    objective: Objective, windows: WindowDataset, *, batch_size: int, seed: int
) -> dict[str, float]:
    """Return the mean of each loss over windows, with the same masks at every call.

    What a batch has no value of does not count for that batch.
    """
    generator = _mask_generator(seed)
    totals: dict[str, float] = {}
    counts: dict[str, int] = {}
    for batch in windows.batches(batch_size):
        for name, value in objective(batch, generator).items():
            totals[name] = totals.get(name, 0.0) + batch.n_windows * value.item()
            counts[name] = counts.get(name, 0) + batch.n_windows
    return {name: total / counts[name] for name, total in totals.items()}


def look(
    objective: Restoration,
    untrained: Restoration,
    watched: WindowDataset,
    offsets: Mapping[str, float],
    out: Path,
    *,
    batch_size: int,
    seed: int,
) -> None:
    """Write how well windows are restored, and one of them."""
    errors = window_errors(objective, watched, batch_size=batch_size, seed=seed)
    before = window_errors(untrained, watched, batch_size=batch_size, seed=seed)
    before = before[before["signal"] == "restored"].assign(signal="untrained network")
    with written_whole(out / RESTORATION_FILE) as temporary:
        restoration_errors(pd.concat([errors, before])).to_parquet(temporary, index=False)
    example = _example(objective, watched, errors, offsets, batch_size=batch_size, seed=seed)
    with written_whole(out / EXAMPLE_FILE) as temporary, temporary.open("wb") as file:
        np.savez(file, **example)  # type: ignore[arg-type]


def look_at_invariance(
    objective: DualAlignment,
    untrained: DualAlignment,
    watched: WindowDataset,
    out: Path,
    *,
    batch_size: int,
    seed: int,
) -> None:
    """Write how far features stay the same under masks of falling overlap, before and after."""
    tables = []
    for name, network in {"untrained network": untrained, "trained network": objective}.items():
        encoder = network.pretrained().to(objective.device)
        table = invariance(encoder, watched, objective.config.views, seed=seed + 1)
        tables.append(table.assign(network=name))
    with written_whole(out / INVARIANCE_FILE) as temporary:
        pd.concat(tables).to_parquet(temporary, index=False)


@torch.inference_mode()
def window_errors(
    objective: Restoration, windows: WindowDataset, *, batch_size: int, seed: int
) -> pd.DataFrame:
    """Compare restored windows with the clean ones, band by band.

    Returns
    -------
    DataFrame
        ``window, subject, band, signal, error, power``: squared error and clean power in the band,
        summed over electrodes. ``signal`` is the masked input as it is, the restored signal (mean
        of all branches), or one of several branches.
    """
    generator = _mask_generator(seed)
    rows: list[tuple[int, str, str, str, float, float]] = []
    first = 0
    for batch in windows.batches(batch_size):
        clean = batch.signal(objective.device)
        masked, _ = objective.mask(clean, generator, batch)
        restored = objective.restore(masked, batch.starts, batch.ch_names)
        guesses = {"masked input": masked, "restored": restored.mean}
        if len(restored.branches) > 1:
            guesses |= {f"{name} branch": guess for name, guess in restored.branches.items()}
        power = band_powers(clean, batch.sfreq)
        number = range(first, first + batch.n_windows)
        for signal, guess in guesses.items():
            for band, error in band_powers(guess - clean, batch.sfreq).items():
                sums = (error.sum(1).tolist(), power[band].sum(1).tolist())
                per_window = zip(number, batch.subjects, *sums, strict=True)
                rows += [(window, who, band, signal, e, p) for window, who, e, p in per_window]
        first += batch.n_windows
    return pd.DataFrame(rows, columns=["window", "subject", "band", "signal", "error", "power"])


def restoration_errors(errors: pd.DataFrame) -> pd.DataFrame:
    """Sum `window_errors` over each person's windows.

    Returns
    -------
    DataFrame
        ``subject, band, signal, error``: error over clean power; silence has 1.
    """
    keys = ["subject", "band", "signal"]
    sums = errors.groupby(keys, sort=False, as_index=False)[["error", "power"]].sum()
    return sums.assign(error=sums["error"] / sums["power"]).drop(columns="power")


@torch.inference_mode()
def _example(
    objective: Restoration,
    windows: WindowDataset,
    errors: pd.DataFrame,
    offsets: Mapping[str, float],
    *,
    batch_size: int,
    seed: int,
) -> dict[str, np.ndarray[Any, Any]]:
    """Return the window with the median error: clean, masked, restored; neither best nor worst."""
    sums = errors[errors["signal"] == "restored"].groupby("window")[["error", "power"]].sum()
    by_error = (sums["error"] / sums["power"]).sort_values().index
    index = int(by_error[len(by_error) // 2])
    generator = _mask_generator(seed)
    for batch in windows.batches(batch_size):
        clean = batch.signal(objective.device)
        masked, gain = objective.mask(clean, generator, batch)
        if index < batch.n_windows:
            break
        index -= batch.n_windows
    restored = objective.restore(masked, batch.starts, batch.ch_names).mean
    signals = {"clean": clean, "masked": masked, "restored": restored, "gain": gain}
    facts = {
        "sfreq": batch.sfreq,
        "n_fft": objective.config.mask.n_fft,
        "hop": objective.config.mask.hop,
        "ch_names": batch.ch_names,
        "subject": batch.subjects[index],
        "recording": batch.recordings[index],
        "start": batch.starts[index].item() / batch.sfreq + offsets[batch.recordings[index]],
    }
    arrays = {name: tensor[index].cpu().numpy() for name, tensor in signals.items()}
    return arrays | {name: np.array(value) for name, value in facts.items()}


def _mask_generator(seed: int) -> torch.Generator:
    """A generator apart from the training's, so that looking does not change what is learned."""
    return torch.Generator().manual_seed(seed + 1)
