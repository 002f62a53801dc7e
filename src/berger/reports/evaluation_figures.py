"""Figures of an evaluation: learning curves, and a night's hypnogram beside the true one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from berger.reports.blocks import Image
from berger.reports.style import INK, LOOKS, MUTED, THIRD, WIDE, Look, Style, axes, embed, head

REM = ("r", "rem")
"""Names, in small letters, of the stage whose row is drawn thick, as is usual."""
WRONG = "#a3271b"
"""Colour of what differs from the truth; no model's."""


def learning_curves(logs: Sequence[pd.DataFrame], kept: Sequence[int], title: str) -> Image:
    """Draw the losses of a model's trainings by epoch.

    Parameters
    ----------
    logs : sequence of DataFrame
        Of each training, a row per epoch: ``epoch`` from 0, ``train_loss``, ``validation_loss``.
    kept : sequence of int
        Of each training, the epoch whose weights were kept.
    title : str
    """
    figure, ax = axes(THIRD, 2.75)
    for column, name in (("train_loss", "training"), ("validation_loss", "validation")):
        losses = pd.concat([log.set_index("epoch")[column] for log in logs], axis=1)
        losses = losses.sort_index()
        epochs, colour = losses.index.to_numpy() + 1, LOOKS[name].colour
        marker = "." if len(epochs) == 1 else ""
        ax.plot(epochs, losses.median(axis=1), marker=marker, color=colour, label=name)
        ax.fill_between(
            epochs, losses.min(axis=1), losses.max(axis=1), color=colour, alpha=0.16, linewidth=0
        )
    at = [log.loc[log["epoch"] == epoch].iloc[0] for log, epoch in zip(logs, kept, strict=True)]
    dots: Style = {"edgecolors": LOOKS["validation"].colour, "linewidths": 1, "zorder": 3}
    x, y = ([row[name] for row in at] for name in ("epoch", "validation_loss"))
    ax.scatter(np.add(x, 1), y, 14, "white", label="kept", **dots)
    ax.set(xlabel="epoch", ylabel="loss")
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    figure.legend(loc="outside lower left", ncols=3, handlelength=1, columnspacing=1)
    head(figure, title)
    return embed(figure, f"Training and validation loss of {title} by epoch.")


def hypnogram(night: pd.DataFrame, stages: Sequence[str], look: Look, title: str) -> Image:
    """Draw the true stages of a night above the predicted ones.

    Parameters
    ----------
    night : DataFrame
        A row per window: ``start`` and ``seconds``, ``truth``, ``prediction``.
    stages : sequence of str
        Rows, from the top.
    look : Look
        Of the model.
    title : str
    """
    night = night.sort_values("start")
    figure = Figure(figsize=(WIDE, 1.35 + 0.42 * len(stages)), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for ax, column, colour in ((upper, "truth", INK), (lower, "prediction", look.colour)):
        _stages(ax, night, column, stages, colour)
    upper.set_ylabel("true")
    lower.set_ylabel("predicted")
    lower.set_xlabel("hours from the beginning of the recording")
    wrong = night[night["truth"] != night["prediction"]]
    spans = wrong[["start", "seconds"]].to_numpy(float) / 3600
    lower.broken_barh([*map(tuple, spans)], (len(stages) - 0.35, 0.3), color=WRONG, linewidth=0)
    lower.set_ylim(len(stages), -0.6)
    end = night["start"].iloc[-1] + night["seconds"].iloc[-1]
    lower.set_xlim(night["start"].iloc[0] / 3600, end / 3600)
    lower.tick_params(axis="x", color=MUTED)
    head(figure, title)
    return embed(figure, f"True and predicted hypnogram, {title}.")


def _stages(ax: Axes, night: pd.DataFrame, column: str, stages: Sequence[str], colour: str) -> None:
    """Draw stages as steps, nothing where no window is, and the time in each at the right."""
    row = night[column].map({name: place for place, name in enumerate(stages)}).to_numpy(float)
    start, seconds = (night[name].to_numpy(float) for name in ("start", "seconds"))
    ends = start + seconds
    gap = np.append(start[1:] - ends[:-1] > 1e-6, True)
    ax.plot(*_steps(start, ends, row, gap), color=colour, linewidth=1)
    for name, place in zip(stages, range(len(stages)), strict=True):
        inside = row == place
        if name.casefold() in REM:
            line = np.where(inside, row, np.nan)
            thick: Style = {"linewidth": 3.2, "solid_capstyle": "butt"}
            ax.plot(*_steps(start, ends, line, ~inside | gap), color=colour, **thick)
        minutes = seconds[inside].sum() / 60
        text = f"{minutes:.0f} min" if minutes >= 10 or minutes == 0 else f"{minutes:.1f} min"
        style: Style = {"va": "center", "fontsize": 8, "color": MUTED}
        ax.text(1.01, place, text, transform=ax.get_yaxis_transform(), **style)
    ax.set_yticks(range(len(stages)), stages)
    ax.set_ylim(len(stages) - 0.4, -0.6)
    ax.tick_params(length=0)


def _steps(
    starts: npt.NDArray[np.float64],
    ends: npt.NDArray[np.float64],
    rows: npt.NDArray[np.float64],
    breaks: npt.NDArray[np.bool_],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the line through windows in hours, which is interrupted behind some of them."""
    after = np.where(breaks, np.nan, rows)
    x = np.stack([starts, ends, ends], axis=1).ravel() / 3600
    return x, np.stack([rows, rows, after], axis=1).ravel()
