"""Figures of decoding: forest plot, folds, people, confusion matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from berger.reports.blocks import Image
from berger.reports.corpus_figures import shortened
from berger.reports.style import HALF, INK, MUTED, THIRD, WIDE, Look, Style, axes, embed, head

Array = npt.NDArray[np.float64]

AXIS = "balanced accuracy"
CHANCE_LINE: Style = {"color": MUTED, "linewidth": 1, "linestyle": (0, (4, 3))}
VALUES = ("balanced_accuracy", "balanced_accuracy_low", "balanced_accuracy_high")


def forest(results: pd.DataFrame, models: Mapping[str, Look], chance: float) -> Image:
    """Draw balanced accuracy with its interval for each model, all people and unseen ones.

    Parameters
    ----------
    results : DataFrame
        Rows over all folds together: ``model, people, balanced_accuracy`` with ``_low`` and
        ``_high``.
    models : mapping of str to Look
        In the order of drawing.
    chance : float
        Balanced accuracy of guessing.
    """
    figure, ax = rows_of_models(len(models), AXIS)
    ax.axvline(chance, **CHANCE_LINE)
    shown = []
    for row, (model, look) in enumerate(models.items()):
        label = ""
        for people, shift, filled in (("all", 0.0, True), ("unseen in pretraining", 0.25, False)):
            found = results[(results["model"] == model) & (results["people"] == people)]
            if found.empty:
                continue
            value, low, high = found.iloc[0][list(VALUES)].astype(float)
            shown += [value, low, high]
            width, face = (2.2, look.colour) if filled else (1.2, "white")
            ax.plot([low, high], [row + shift] * 2, color=look.colour, linewidth=width)
            dot: Style = {
                "color": look.colour,
                "markerfacecolor": face,
                "markersize": 7 if filled else 5.5,
            }
            ax.plot(value, row + shift, look.marker, **dot)
            if filled:
                label = f"{value:.2f} ({low:.2f}–{high:.2f})" if low == low else f"{value:.2f}"
        name_row(ax, row, model, label)
    _limits(ax, [*shown, chance])
    return embed(figure, "Balanced accuracy of each model with its 95% interval.")


def people(accuracies: pd.DataFrame, models: Mapping[str, Look], chance: float) -> Image:
    """Draw each person's own balanced accuracy (rows ``model, subject, seen, accuracy``)."""
    figure, ax = rows_of_models(len(models), AXIS)
    ax.axvline(chance, **CHANCE_LINE)
    for row, (model, look) in enumerate(models.items()):
        own = accuracies[accuracies["model"] == model].sort_values(["accuracy", "subject"])
        mean = own["accuracy"].mean()
        name_row(ax, row, model, f"mean {mean:.2f}")
        ax.plot([mean, mean], [row - 0.26, row + 0.26], color=INK, linewidth=1.6)
        shift = stacked(own["accuracy"].to_numpy(dtype=float))
        for seen, face in ((True, look.colour), (False, "white")):
            which = own["seen"].to_numpy(dtype=bool) == seen
            at = own["accuracy"][which], row + shift[which]
            dots: Style = {"edgecolors": look.colour, "linewidths": 1, "marker": look.marker}
            ax.scatter(*at, 22, face, zorder=3, **dots)
    _limits(ax, [*accuracies["accuracy"], chance])
    return embed(figure, "Balanced accuracy of each person, for each model.")


def folds(results: pd.DataFrame, models: Mapping[str, Look], chance: float) -> Image:
    """Draw balanced accuracy on each fold with its interval (rows of results)."""
    figure, ax = axes(WIDE, 2.5)
    numbers = sorted(results["fold"].unique())
    place = {fold: position for position, fold in enumerate(numbers)}
    for column, (model, look) in enumerate(models.items()):
        rows = results[results["model"] == model].sort_values("fold")
        at = rows["fold"].map(place) + (column - (len(models) - 1) / 2) * 0.12
        dots: Style = {"color": look.colour, "markersize": 6.5, "label": model}
        ax.plot(at, rows["balanced_accuracy"], look.marker, **dots)
        low, high = rows["balanced_accuracy_low"], rows["balanced_accuracy_high"]
        ax.vlines(at, low, high, color=look.colour, linewidth=1.2)
    ax.axhline(chance, **CHANCE_LINE)
    ax.set_xticks(range(len(numbers)), [f"fold {fold}" for fold in numbers])
    ax.set(ylabel=AXIS, xlim=(-0.6, len(numbers) - 0.4))
    ax.tick_params(axis="x", length=0)
    ax.grid(axis="x", visible=False)
    _limits(ax, [*results[list(VALUES)].to_numpy(float).ravel(), chance], vertical=True)
    figure.legend(loc="outside upper left", ncols=3, handlelength=0.8)
    return embed(figure, "Balanced accuracy of each model on each fold, with intervals.")


def stacked(values: Array, width: float = 0.02) -> Array:
    """Return vertical shifts that keep dots of sorted values from hiding each other."""
    shifts = np.zeros(len(values))
    run = 0
    for index in range(1, len(values)):
        run = run + 1 if values[index] - values[index - 1] < width else 0
        shifts[index] = 0.085 * ((run + 1) // 2) * (-1) ** run
    return np.clip(shifts, -0.3, 0.3)


def confusion(counts: pd.DataFrame, model: str, look: Look) -> Image:
    """Draw how windows of each class (rows) were classified (columns), counts given."""
    n_classes = len(counts)
    size = max(THIRD, 0.62 * n_classes + 0.9)
    figure, ax = axes(size, size)
    totals = counts.sum(axis=1).to_numpy(dtype=float)[:, None]
    shares = np.divide(
        counts.to_numpy(dtype=float), totals, where=totals > 0, out=np.zeros(counts.shape)
    )
    scale = LinearSegmentedColormap.from_list(model, ["#f6f8f9", look.colour])
    ax.imshow(shares, cmap=scale, vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        number = counts.iat[row, column]
        ax.text(
            column, row, f"{share:.0%}\n{number:,}", ha="center", va="center",
            color=_readable_on(tuple(scale(share))), fontsize=9 if n_classes <= 4 else 7,
        )  # fmt: skip
    names = [shortened(str(name), 14) for name in counts.index]
    ax.set_xticks(
        range(n_classes),
        names,
        rotation=35 if n_classes > 3 else 0,
        ha="right" if n_classes > 3 else "center",
    )
    ax.set_yticks(range(n_classes), names, rotation=90 if n_classes <= 3 else 0, va="center")
    ax.set(xlabel="predicted class", ylabel="true class")
    head(figure, model)
    ax.tick_params(length=0)
    ax.grid(visible=False)
    for side in ax.spines.values():
        side.set_visible(False)
    right = ", ".join(
        f"{name} {share:.0%}" for name, share in zip(counts.index, np.diag(shares), strict=True)
    )
    return embed(figure, f"Confusion matrix of {model}; classified correctly: {right}.")


def _readable_on(background: Sequence[float]) -> str:
    """Return white or dark ink, whichever has the higher contrast (WCAG 2.2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in background[:3]]
    luminance = float(np.dot(linear, (0.2126, 0.7152, 0.0722)))
    return "white" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.062 else INK


def rows_of_models(n_rows: int, xlabel: str) -> tuple[Figure, Axes]:
    """Return axes with a row for each model, to be named by `name_row`."""
    figure, ax = axes(HALF, 0.75 + 0.68 * n_rows)
    ax.set(xlabel=xlabel, ylim=(n_rows - 0.5, -0.72))
    ax.set_yticks([])
    ax.grid(axis="y", visible=False)
    ax.spines["left"].set_visible(False)
    return figure, ax


def name_row(ax: Axes, row: int, model: str, value: str) -> None:
    """Write a model's name and number above its row."""
    for x, text, side in ((0, shortened(model, 36), "left"), (1, value, "right")):
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        style: Style = {"va": "bottom", "ha": side, "fontsize": 8.5, "bbox": box}
        ax.text(x, row - 0.3, text, transform=ax.get_yaxis_transform(), **style)


def _limits(ax: Axes, values: Sequence[float], *, vertical: bool = False) -> None:
    """Show all values on an axis that ends on whole tenths, within 0 and 1."""
    finite = np.array(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    low = max(0.0, np.floor(finite.min() * 10 - 0.3) / 10)
    high = min(1.02, np.ceil(finite.max() * 10 + 0.3) / 10)
    (ax.set_ylim if vertical else ax.set_xlim)(low, high)
    (ax.yaxis if vertical else ax.xaxis).set_major_locator(MaxNLocator(6, steps=[1, 2, 5]))
