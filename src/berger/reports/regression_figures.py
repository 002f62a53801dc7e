"""Figures of predicted values: forest plot, predictions against the truth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from berger.reports.blocks import Image
from berger.reports.decoding_figures import CHANCE_LINE, name_row, rows_of_models
from berger.reports.scores import in_order
from berger.reports.style import THIRD, Look, Style, axes, embed, head, looks

SCORES = {"pearson": "Pearson r", "r2": "R²", "rmse": "root mean squared error"}
"""Columns of results → what they are called."""

MOST_MARKS = 3000
"""Windows drawn; of more, evenly spaced ones."""


def looks_with_chance(models: Iterable[str]) -> dict[str, Look]:
    """Return the look of every model, chance too: its error is a number like any other."""
    return looks(in_order(models))


def forest(results: pd.DataFrame, models: Mapping[str, Look], score: str) -> Image:
    """Draw a score with its interval for each model.

    Parameters
    ----------
    results : DataFrame
        By model, over all folds together: `score` with ``_low`` and ``_high``.
    models : mapping of str to Look
        In the order of drawing.
    score : {"pearson", "rmse"}
    """
    columns = [score, f"{score}_low", f"{score}_high"]
    shown = {
        model: row
        for model in models
        if np.isfinite((row := results.loc[model, columns].astype(float)).iloc[0])
    }
    figure, ax = rows_of_models(len(shown), SCORES[score])
    if score == "pearson":
        ax.axvline(0, **CHANCE_LINE)
    for place, (model, (value, low, high)) in enumerate(shown.items()):
        look = models[model]
        ax.plot([low, high], [place, place], color=look.colour, linewidth=2.2)
        ax.plot(value, place, look.marker, color=look.colour, markersize=7)
        digits = ".2f" if score == "pearson" else ".3g"
        label = f"{value:{digits}} ({low:{digits}} to {high:{digits}})"
        label = label if low == low else f"{value:{digits}}"
        name_row(ax, place, model, label.replace("-", "−"))
    ax.margins(x=0.1)
    return embed(figure, f"{SCORES[score]} of each model with its 95% interval.")


def scatter(predictions: pd.DataFrame, model: str, look: Look, target: str) -> Image:
    """Draw a model's predictions (rows ``truth, prediction``) against the truth."""
    every = max(1, -(-len(predictions) // MOST_MARKS))
    truth, guess = (predictions[name].to_numpy(float)[::every] for name in ("truth", "prediction"))
    figure, ax = axes(THIRD, THIRD)
    ends = [min(truth.min(), guess.min()), max(truth.max(), guess.max())]
    ax.plot(ends, ends, **CHANCE_LINE)
    marks: Style = {"linewidths": 0, "marker": look.marker, "alpha": 0.45}
    ax.scatter(truth, guess, 12, look.colour, **marks)
    ax.set(xlabel=f"true {target}", ylabel="predicted")
    head(figure, model)
    return embed(figure, f"Predictions of the {model} against true values of {target}.")
