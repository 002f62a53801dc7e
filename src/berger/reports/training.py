"""What is said of how a network was trained: a pretraining by steps, an adaptation by epochs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from berger.errors import BergerError
from berger.reports import training_figures as figures
from berger.reports.blocks import (
    Block,
    Details,
    Figure,
    Note,
    Table,
    Text,
    counted,
    enumeration,
)
from berger.reports.folders import Run, mapping
from berger.reports.training_figures import MEASURES
from berger.training import LONGEST_WAIT

MOST_SKIPPED, MOST_WINDOWS = 50, 5
"""Skipped steps that are listed, and windows of each."""


def training_blocks(run: Run, watched: str) -> Iterator[Block]:
    """Show how a pretraining went.

    Parameters
    ----------
    run : Run
    watched : str
        What it was watched on, as "people not trained on".

    Raises
    ------
    BergerError
        If there is no log that can be read.
    """
    log = run.log()
    training = log[log["split"] == "train"]
    sentences = [_fell(log[log["split"] == "validation"], watched), _took(training)]
    if said := [sentence for sentence in sentences if sentence]:
        yield Text(" ".join(said))
    yield from _skipped(log)
    smooth = (
        " Long training curves are drawn as a running mean over a thirtieth of their length."
        if len(training) > 60
        else ""
    )
    model = mapping(run.config, "model")
    dropout = (
        " In training dropout is on, so the two losses need not meet."
        if model.get("dropout") or model.get("decoder_dropout")
        else ""
    )
    total, terms = figures.total_loss(log), figures.terms(log)
    shown = "; then the weighted terms of which it is the sum" if terms else ""
    yield Figure(
        (total, *terms),
        f"Loss in training and on {watched}{shown}. Good: both fall and level off. Bad: the loss "
        f"on {watched} turns upward while that of training still falls, or one term falls only "
        f"because another rises.{smooth}{dropout}",
    )
    optimizer = mapping(run.config, "training", "optimizer")
    clip = optimizer.get("clip_norm")
    if images := figures.course(log, clip):
        yield Figure(images, _reading(training, clip))


def _fell(validation: pd.DataFrame, watched: str) -> str:
    """Say where the validation loss began and ended."""
    if len(validation) < 2:
        return ""
    known = np.isfinite(validation["loss"].astype(float))
    if not known.all():
        return (
            f"The loss on {watched} was no finite number {(~known).sum()} times of {len(known)}, "
            f"first at step {validation['step'][~known].iloc[0]:,}: either the weights had gone "
            "wrong or a recording is bad."
        )
    first, last = validation.iloc[0], validation.iloc[-1]
    best = validation.loc[validation["loss"].idxmin()]
    went = "fell" if last["loss"] < first["loss"] else "did not fall: it went"
    return (
        f"The loss on {watched} {went} from {first['loss']:.3g} at step {first['step']:,} to "
        f"{last['loss']:.3g} at step {last['step']:,}; its lowest value is {best['loss']:.3g} at "
        f"step {best['step']:,}."
    )


def _took(training: pd.DataFrame) -> str:
    """Say how long a step took and waited."""
    if "seconds_per_step" not in training:
        return ""
    sentence = f"A step took {training['seconds_per_step'].median():.3g} s (median)"
    if "data_wait" in training:
        sentence += f", of which {training['data_wait'].median():.1%} waiting for data"
    return f"{sentence}."


def _reading(training: pd.DataFrame, clip: float | None) -> str:
    """Say how to read the course of a training, and what in it is bad."""
    sentences = ["Of the training steps that were logged."]
    if "grad_norm" in training:
        norms = training["grad_norm"].dropna().astype(float)
        clipped = (
            f"dashed is the clip, {clip:g}, to which {np.mean(norms > clip):.0%} of them were "
            "shortened; if nearly all are, the clip sets the step"
            if clip is not None and len(norms)
            else "nothing is clipped"
        )
        sentences.append(
            f"Gradient norm before clipping: {clipped}. One that grows to the end, or jumps by "
            "powers of ten, is bad: lower the learning rate."
        )
    if "loss_scale" in training:
        sentences.append(
            "Scale of the loss in half precision: it may halve now and then; one that only falls "
            "means gradients that overflow."
        )
    if "data_wait" in training:
        sentences.append(
            f"Waiting for data: below {LONGEST_WAIT:.0%} (dashed) is good; above it more --workers "
            "or a faster disk make training faster."
        )
    return " ".join(sentences)


def _skipped(log: pd.DataFrame) -> Iterator[Block]:
    """Say which steps were skipped, why and because of which windows."""
    skipped = log[log["split"] == "skipped"]
    steps = int(log["step"].max()) if len(log) else 0
    if skipped.empty:
        yield Text("No step was skipped.")
        return
    first, last = int(skipped["step"].min()), int(skipped["step"].max())
    which = (
        f"1 step of {steps:,} was skipped, {first:,}, and"
        if len(skipped) == 1
        else f"{len(skipped):,} steps of {steps:,} were skipped, from {first:,} to {last:,}, and"
    )
    yield Note(
        f"{which} changed nothing. A few in a long training do no harm; many, or the same windows "
        "again and again, mean bad recordings or too high a learning rate."
    )
    rows = []
    for _, row in skipped.head(MOST_SKIPPED).iterrows():
        named = row.get("windows")
        windows = [str(name) for name in named] if isinstance(named, list) else []
        more = f", and {len(windows) - MOST_WINDOWS} more" if len(windows) > MOST_WINDOWS else ""
        rows.append(
            (
                f"{int(row['step']):,}",
                str(row.get("reason", "–")),
                _number(row["loss"]),
                _number(row.get("grad_norm")),
                ", ".join(windows[:MOST_WINDOWS]) + more or "–",
            )
        )
    shown = f" The first {MOST_SKIPPED} of {len(skipped):,}." if len(rows) < len(skipped) else ""
    table = Table(
        ("step", "why", "loss", "gradient norm", "windows"),
        rows,
        frozenset({"step", "loss", "gradient norm"}),
        "Windows that are bad by themselves, or all of the step if none is; – where there is no "
        f"finite number.{shown}",
    )
    yield Details("Skipped steps", [table])


def _number(value: object) -> str:
    finite = isinstance(value, int | float) and np.isfinite(value)
    return f"{value:.3g}" if finite else "–"


def measures_features(run: Run) -> bool:
    """Tell whether a run's log says anything of features."""
    try:
        log = run.log()
    except BergerError:
        return False
    return any(name in log for name in MEASURES)


def feature_blocks(run: Run) -> Iterator[Block]:
    """Show what a pretraining's log says of the features.

    Raises
    ------
    BergerError
        If there is no log that can be read, or nothing of them in it yet.
    """
    log = run.log()
    images = figures.features(log)
    if not images:
        raise BergerError("The log says nothing of the features yet.")
    sentences = [
        "What the log says of the features besides the losses, which alone can fall while the "
        "features shrink to a point: then their rank goes to 1 and their spread to 0, which is "
        "bad. Good: both stay or rise."
    ]
    if "anchor_unseen" in log or "anchor_unexplained" in log:
        sentences.append(
            "Anchors are the target encoder's features of the clean signal, unseen ones those at "
            "time steps that the first view does not see; 1 is the best constant, 0 perfect."
        )
    if "retrieval" in log:
        sentences.append(
            "A window is found if its second view is the most similar one of its batch to the "
            "first; by chance that happens once in the size of the batch. Views that see the same "
            "time steps are found more easily, and where all electrodes share a reference even by "
            "an untrained network."
        )
    yield Figure(images, " ".join(sentences))


def was_trained(run: Run) -> bool:
    """Tell whether an adaptation has a log of epochs; that of a probe is empty."""
    path = run.folder / "log.jsonl"
    return path.is_file() and path.stat().st_size > 0


def epoch_blocks(run: Run) -> Iterator[Block]:
    """Show how the networks of an adaptation were fine-tuned, and how gates weighed experts.

    Raises
    ------
    BergerError
        If there is no log that can be read.
    """
    log = run.table_of_epochs()
    gates = {
        name: f"expert {name.removeprefix('gate_')}" for name in log if name.startswith("gate_")
    }
    losses, weights = [], []
    last: dict[str, list[str]] = {}
    for model, rows in log.groupby("model", sort=False):
        trainings = [part for _, part in rows.groupby((rows["epoch"] == 0).cumsum())]
        name = f"{model} ({counted(len(trainings), 'training')})"
        losses.append(figures.epoch_losses(trainings, name))
        if gates and not rows[[*gates]].isna().any().any():
            weights.append(figures.gates(trainings, gates, name))
            ends = pd.concat([part.iloc[[-1]] for part in trainings])[[*gates]].median()
            last[str(model)] = [f"{gates[key]} {value:.2f}" for key, value in ends.items()]
    yield Figure(
        tuple(losses),
        "Loss by epoch of each fold's training, and of the last one, on everybody, which has no "
        "validation people. Lines are medians over these, bands reach from the lowest to the "
        "highest. Good: both fall. Bad: validation rises from early on; the epoch kept is then an "
        "early one, and a lower learning rate or later unfreezing may help.",
    )
    if weights:
        ends = enumeration(f"{', '.join(found)} ({model})" for model, found in last.items())
        yield Figure(
            tuple(weights),
            "How much the gate lets through of each expert's features, the mean over windows, "
            f"electrodes and features of an epoch; after the last epoch: {ends}. Good: experts "
            "keep weights of their own. Bad: all but one go to 0, so that the others are of no "
            "use. The softmax gate begins near one over the number of experts. The others have a "
            "value for every feature and begin near 0.5; they may weigh single features while "
            "this mean stays.",
        )
