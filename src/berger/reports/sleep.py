"""What is said of sleep staging: hypnograms beside the true ones, and the time in each stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from berger.evaluation.metrics import cohen_kappa
from berger.reports.blocks import Block, Details, Figure, Note, Table, Text, counted
from berger.reports.evaluation_figures import hypnogram
from berger.reports.scores import number
from berger.reports.style import Look


def sleep_blocks(
    predictions: pd.DataFrame,
    models: Mapping[str, Look],
    stages: Sequence[str],
    window_seconds: float,
    seed: int,
) -> Iterator[Block]:
    """Show some nights of each model, and how long every stage lasts.

    Parameters
    ----------
    predictions : DataFrame
        A row per window: ``model, seed, fold, subject, recording, start, truth, prediction``.
    models : mapping of str to Look
        From the highest κ on; the nights of the first are open, those of others folded away.
    stages : sequence of str
        As rows of a hypnogram, from the top.
    window_seconds : float
    seed : int
        Whose predictions are drawn, as far as a model has them.
    """
    predictions = with_seconds(predictions, window_seconds)
    yield Text(
        "Hypnograms: for each model the best, the median and the worst night by Cohen's κ. Those "
        "of the model with the highest κ are open, those of the others folded away."
    )
    for place, (model, look) in enumerate(models.items()):
        own = predictions[predictions["model"] == model]
        seeds = sorted(set(own["seed"]))
        if not seeds:
            continue
        drawn = seed if seed in seeds else seeds[0]
        blocks = [*_nights(own[own["seed"] == drawn], model, look, stages, drawn)]
        if place == 0:
            yield from blocks
        else:
            yield Details(f"Hypnograms of {model}", blocks)
    yield _totals(predictions, models, stages)


def with_seconds(predictions: pd.DataFrame, window_seconds: float) -> pd.DataFrame:
    """Say for how long each window's stage stands: until it ends, or until the next one begins."""
    keys = ["model", "seed", "fold", "recording"]
    table = predictions.sort_values([*keys, "start"], ignore_index=True)
    until = table.groupby(keys)["start"].shift(-1) - table["start"]
    return table.assign(seconds=until.fillna(window_seconds).clip(upper=window_seconds))


def ranked_nights(predictions: pd.DataFrame, stages: Sequence[str]) -> pd.DataFrame:
    """Return a row per night: ``recording, fold, subject, kappa, agreement``, the best first.

    Nights without a κ, whose true and predicted stages are one and the same, are last.
    """
    rows = [
        {
            "recording": recording,
            "fold": fold,
            "subject": night["subject"].iloc[0],
            "kappa": cohen_kappa(night["truth"], night["prediction"], tuple(stages)),
            "agreement": float((night["truth"] == night["prediction"]).mean()),
        }
        for (recording, fold), night in predictions.groupby(["recording", "fold"])
    ]
    return pd.DataFrame(rows).sort_values("kappa", ascending=False, kind="stable")


def chosen_nights(nights: pd.DataFrame) -> dict[str, int]:
    """Return what is shown → its row: the best, the median and the worst night by κ.

    The median of an even number of nights is the better of the two in the middle.
    """
    known = [*nights.index[nights["kappa"].notna()]]
    if len(known) < 2:
        return dict.fromkeys(["the only night"][: len(known)], (known or [0])[0])
    chosen = {"best": known[0], "median": known[(len(known) - 1) // 2], "worst": known[-1]}
    if len(known) == 2:
        del chosen["median"]
    return chosen


def _nights(
    predictions: pd.DataFrame, model: str, look: Look, stages: Sequence[str], seed: int
) -> Iterator[Block]:
    nights = ranked_nights(predictions, stages)
    known = int(nights["kappa"].notna().sum())
    images = []
    for what, place in chosen_nights(nights).items():
        row = nights.loc[place]
        night = predictions[
            (predictions["recording"] == row["recording"]) & (predictions["fold"] == row["fold"])
        ]
        title = (
            f"{what}: {row['subject']}, {row['recording']} · agreement {row['agreement']:.1%}, "
            f"κ {number(row['kappa'])}"
        )
        images.append(hypnogram(night, stages, look, title))
    if images:
        yield Figure(
            tuple(images),
            f"Nights of {model}, seed {seed}: of {counted(known, 'night')}, by Cohen's κ. "
            "Agreement: the share of windows with the true stage; minutes: time in each stage. "
            "Red marks below: where the prediction differs. Nothing is drawn where there is no "
            "window with a label that could be used.",
        )
    if known < len(nights):
        yield Note(
            f"{counted(len(nights) - known, 'night')} of {model} had one stage only, true and "
            "predicted, so that κ is not defined; they are not among these."
        )


def _totals(predictions: pd.DataFrame, models: Mapping[str, Look], stages: Sequence[str]) -> Table:
    rows: list[tuple[str, ...]] = []
    before: tuple[str, ...] = ()
    for model in models:
        own = predictions[predictions["model"] == model]
        n_nights = len(own[["seed", "fold", "recording"]].drop_duplicates())
        if not n_nights:
            continue
        truth, guess = (
            tuple(
                f"{minutes:.1f}"
                for minutes in own.groupby(column)["seconds"]
                .sum()
                .reindex([*stages], fill_value=0.0)
                .to_numpy(np.float64)
                / 60
                / n_nights
            )
            for column in ("truth", "prediction")
        )
        if truth != before:
            rows.append(("true" if not before else f"true, in the windows of {model}", *truth))
            before = truth
        rows.append((model, *guess))
    return Table(
        ("stages of", *stages),
        rows,
        frozenset(stages),
        "Minutes of a night in each stage: means over nights and seeds.",
    )
