"""Figures of how a training went: losses, what was done, the features, the gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from berger.reports.blocks import Image
from berger.reports.style import (
    INK,
    LOOKS,
    MUTED,
    THIRD,
    WIDE,
    Style,
    axes,
    embed,
    head,
    logarithmic,
    looks,
)
from berger.training import LONGEST_WAIT

MEASURES = {
    "anchor_unseen": ("unseen anchors", "error / variance"),
    "anchor_unexplained": ("anchors", "error / variance"),
    "retrieval": ("windows found again", "share of windows"),
    "effective_rank": ("rank of the features", "effective rank"),
    "feature_std": ("spread of the features", "standard deviation"),
}
"""What a log says of features beside the losses: title and quantity, in the order of drawing."""

COURSE = {
    "lr": "learning rate",
    "grad_norm": "gradient norm",
    "loss_scale": "scale of the loss",
    "data_wait": "waiting for data",
    "seconds_per_step": "time of a step",
}
"""What a log says of the training beside the losses, in the order of drawing."""

LIMIT: Style = {"color": MUTED, "linewidth": 1, "linestyle": (0, (4, 3)), "zorder": 1}


def terms_of(log: pd.DataFrame) -> list[str]:
    """Return the names of the terms of the loss in a log; not their sum, nor one switched off."""
    rows = log[log["split"].isin(("train", "validation"))].dropna(axis=1, how="all")
    others = {"step", "split", "loss", *COURSE, *MEASURES}
    return [name for name in rows if name not in others and (rows[name].dropna() != 0).any()]


def total_loss(log: pd.DataFrame) -> Image:
    """Draw the loss over the steps, in training and validation, and where a step was skipped."""
    figure, ax = axes(WIDE, 2.9)
    _losses(ax, log, "loss")
    for place, step in enumerate(log.loc[log["split"] == "skipped", "step"]):
        label = "skipped step" if place == 0 else ""
        ax.axvline(step, color="#a3271b", linewidth=0.8, alpha=0.6, zorder=1, label=label)
    ax.set(xlabel="step", ylabel="loss (no unit)")
    figure.legend(loc="outside upper left", ncols=3)
    return embed(figure, "Total loss over the steps, in training and validation.")


def terms(log: pd.DataFrame) -> tuple[Image, ...]:
    """Draw each term of the loss by itself, in training and validation."""
    images = []
    for name in terms_of(log):
        figure, ax = _small(name)
        ends = _losses(ax, log, name)
        images.append(embed(figure, f"The term {name} of the loss over the steps{ends}."))
    return tuple(images)


def course(log: pd.DataFrame, clip: float | None) -> tuple[Image, ...]:
    """Draw learning rate, gradient norm, scale of the loss, wait and time of the training steps.

    Parameters
    ----------
    log : DataFrame
    clip : float, optional
        Norm to which longer gradients are shortened; drawn as a line.
    """
    rows = log[log["split"] == "train"].dropna(axis=1, how="all")
    images = []
    for column, title in COURSE.items():
        if column not in rows:
            continue
        percent = 100 if column == "data_wait" else 1
        values = percent * rows[column].astype(float)
        figure, ax = _small(title)
        _curve(ax, rows["step"], values, INK)
        limit = {"grad_norm": clip, "data_wait": 100 * LONGEST_WAIT}.get(column)
        if limit is not None:
            ax.axhline(limit, **LIMIT)
        unit = {"data_wait": "% of the step", "seconds_per_step": "seconds"}.get(column, "no unit")
        ax.set(ylabel=unit)
        finite = values[np.isfinite(values)]
        if column == "grad_norm" and len(finite) and finite.min() > 0:
            logarithmic(ax)
        elif column == "loss_scale":
            _positive_axis(ax, values)
        elif column != "lr" and len(finite):
            ax.set_ylim(0, 1.05 * max(finite.max(), limit or 0) or 1.0)
        alt = f"{title.capitalize()} over the steps; the last is {values.iloc[-1]:.3g}."
        images.append(embed(figure, alt))
    return tuple(images)


def features(log: pd.DataFrame) -> tuple[Image, ...]:
    """Draw what the log says of the features of what was not trained on."""
    rows = log[log["split"] == "validation"].dropna(axis=1, how="all")
    images = []
    for column in [name for name in MEASURES if name in rows]:
        values = rows[column].dropna()
        title, quantity = MEASURES[column]
        figure, ax = _small(title)
        look = LOOKS["validation"]
        small: Style = {"color": look.colour, "markersize": 3.5}
        ax.plot(rows["step"][values.index], values, look.marker + "-", **small)
        ax.set(ylabel=quantity)
        ax.set(xlim=(0, None), ylim=(0, 1.05 * values.max() or 1.0))
        alt = f"{title.capitalize()} over the steps; the last is {values.iloc[-1]:.3g}."
        images.append(embed(figure, alt))
    return tuple(images)


def epoch_losses(trainings: Sequence[pd.DataFrame], title: str) -> Image:
    """Draw the losses of a model's fine-tunings by epoch.

    Parameters
    ----------
    trainings : sequence of DataFrame
        A row per epoch: ``epoch`` from 0, ``train_loss`` and perhaps ``validation_loss``.
    title : str
    """
    figure, ax = axes(THIRD, 2.75)
    for column, name in (("train_loss", "training"), ("validation_loss", "validation")):
        lines = [one.set_index("epoch")[column].dropna() for one in trainings if column in one]
        _band(ax, [line for line in lines if len(line)], LOOKS[name].colour, name)
    ax.set(xlabel="epoch", ylabel="loss")
    figure.legend(loc="outside lower left", ncols=2, handlelength=1, columnspacing=1)
    head(figure, title)
    return embed(figure, f"Training and validation loss of {title} by epoch.")


def gates(trainings: Sequence[pd.DataFrame], experts: Mapping[str, str], title: str) -> Image:
    """Draw how much the gate of a mixture let through of each expert, by epoch.

    Parameters
    ----------
    trainings : sequence of DataFrame
        A row per epoch: ``epoch`` from 0, and a column for each expert.
    experts : mapping of str to str
        Column of each expert → its name.
    title : str
    """
    figure, ax = axes(THIRD, 2.75)
    last = []
    for name, look in looks(experts.values()).items():
        column = next(key for key, value in experts.items() if value == name)
        middle = _band(ax, [t.set_index("epoch")[column] for t in trainings], look.colour, name)
        last.append(f"{name} {middle.iloc[-1]:.2f}")
    low, high = ax.get_ylim()
    if high - low < 0.1:  # what hardly moves is to look like it
        middle_of = (low + high) / 2
        ax.set_ylim(max(0.0, middle_of - 0.05), middle_of + 0.05)
    ax.set(xlabel="epoch", ylabel="mean gate (0 to 1)")
    figure.legend(loc="outside lower left", ncols=2, handlelength=1, columnspacing=1)
    head(figure, title)
    return embed(figure, f"Mean gate of each expert by epoch; in the last, {', '.join(last)}.")


def _band(ax: Axes, lines: Sequence[pd.Series[float]], colour: str, name: str) -> pd.Series[float]:
    """Draw the median of several lines over epochs and the range of all; return the median."""
    if not lines:
        return pd.Series(dtype=float)
    table = pd.concat(lines, axis=1).sort_index()
    epochs, middle = table.index.to_numpy() + 1, table.median(axis=1)
    ax.plot(epochs, middle, marker="." if len(epochs) == 1 else "", color=colour, label=name)
    low, high = table.min(axis=1), table.max(axis=1)
    ax.fill_between(epochs, low, high, color=colour, alpha=0.16, linewidth=0)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    return middle


def _small(title: str) -> tuple[Figure, Axes]:
    figure, ax = axes(THIRD, 2.0)
    ax.set(xlabel="step", title=title)
    ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    return figure, ax


def _losses(ax: Axes, log: pd.DataFrame, column: str) -> str:
    """Draw a loss in training and validation; say where each ends."""
    ends, seen = [], []
    for split, name in (("train", "training"), ("validation", "validation")):
        rows = log[log["split"] == split].dropna(axis=1, how="all")
        if column not in rows:
            continue
        rows = rows.dropna(subset=column)
        values, look = rows[column].astype(float), LOOKS[name]
        if split == "train":
            _curve(ax, rows["step"], values, look.colour, name)
        else:
            dots: Style = {"marker": look.marker, "markersize": 3.5, "label": name}
            ax.plot(rows["step"], values, color=look.colour, **dots)
        seen.append(values)
        ends.append(f"{name} {values.iloc[-1]:.3g}")
    if seen:
        _positive_axis(ax, pd.concat(seen))
    return f", at the end {', '.join(ends)}" if ends else ""


def _curve(
    ax: Axes, steps: pd.Series[int], values: pd.Series[float], colour: str, label: str = ""
) -> None:
    """Draw a curve; a long one smoothed, with its own values faintly behind."""
    if 60 < len(values) < 5000:
        ax.plot(steps, values, color=colour, linewidth=0.6, alpha=0.35)
    marker = "." if len(values) == 1 else ""
    ax.plot(steps, smoothed(values), marker=marker, color=colour, label=label)


def smoothed(values: pd.Series[float]) -> pd.Series[float]:
    """Return a centred running mean over a thirtieth of a long curve; short ones as they are."""
    if len(values) <= 60:
        return values
    return values.rolling(len(values) // 30, center=True, min_periods=1).mean()


def _positive_axis(ax: Axes, values: pd.Series[float]) -> None:
    """Show values from zero, or on a logarithmic axis where they span more than a decade."""
    values = values[np.isfinite(values)]
    if len(values) and values.min() > 0 and values.max() > 10 * values.min():
        logarithmic(ax)
    elif len(values):
        ax.set_ylim(min(0.0, values.min()), values.max() * 1.05 or 1.0)
