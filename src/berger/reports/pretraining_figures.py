"""Figures of a pretraining run: the pretext task, features under masks, the error per band."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from berger.reports.blocks import Image, counted
from berger.reports.corpus_figures import label_rows, scale_bar, spacing
from berger.reports.style import (
    HALF,
    LOOKS,
    MUTED,
    WIDE,
    Style,
    axes,
    embed,
    logarithmic,
    looks,
)

Array = npt.NDArray[np.float64]

INVARIANCE = {
    "retrieval": ("windows found under another mask", "share of windows"),
    "alignment": ("distance of a window's two features", "squared distance"),
}
"""What is drawn of features under other masks: title and quantity."""

SILENCE = 1.0
"""Error power relative to the clean power of a restoration that is zero everywhere."""


def overlay(
    clean: Array, other: Array, signal: str, sfreq: float, start: float, ch_names: Sequence[str]
) -> Image:
    """Draw a signal (n_chans, n_times) in µV over the clean one, electrode below electrode."""
    figure, ax = axes(HALF, 0.95 + 0.5 * len(clean))
    step = spacing(clean)
    time = start + np.arange(clean.shape[-1]) / sfreq
    for row, (before, after) in enumerate(zip(clean, other, strict=True)):
        centre = before.mean() + row * step
        clean_line = ax.plot(
            time, before - centre, color=LOOKS["clean"].colour, linewidth=1.3, alpha=0.55
        )
        line = ax.plot(time, after - centre, color=LOOKS[signal].colour, linewidth=0.8)
    label_rows(ax, ch_names, step)
    scale_bar(ax, step)
    ax.set(xlabel="time in the recording (s)", xlim=(time[0], time[-1]))
    figure.legend([*clean_line, *line], ["clean", signal], loc="outside upper left", ncols=2)
    return embed(
        figure, f"Traces of {counted(len(clean), 'electrode')}: clean, and {signal} over it."
    )


def maps(
    signals: Mapping[str, Array], gain: Array, sfreq: float, n_fft: int, hop: int, electrode: str
) -> tuple[Image, ...]:
    """Draw STFT maps of one electrode's signals, and the gain of the mask.

    Parameters
    ----------
    signals : mapping of str to ndarray, shape (n_times,)
        Title → signal in µV; the first one is the clean signal and sets the colour scale.
    gain : ndarray, shape (n_bins, n_frames)
        What the STFT map was multiplied by, 0 to 1; drawn second.
    sfreq : float
    n_fft, hop : int
        STFT window and step in samples of the mask.
    electrode : str
    """
    power = {title: _decibels(signal, sfreq, n_fft) for title, signal in signals.items()}
    clean, *others = power
    seconds = len(signals[clean]) / sfreq
    highest = min(sfreq / 2, 75.0)
    shown = power[clean][: round(len(power[clean]) * highest / (sfreq / 2))]
    low, top = np.quantile(shown, [0.03, 0.999])
    shared = {"vmin": 5 * np.floor(low / 5), "vmax": 5 * np.ceil(top / 5)}
    images = [_map(clean, power[clean], seconds, sfreq, highest, "power (dB µV²/Hz)", **shared)]
    # centred frames: the first lies around time 0, the last around the end
    width = hop / sfreq / 2
    extent = (-width, (gain.shape[1] - 1) * hop / sfreq + width)
    images.append(
        _map(
            "mask",
            gain,
            seconds,
            sfreq,
            highest,
            "share let through",
            extent,
            vmin=0,
            vmax=1,
            cmap="gray",
        )
    )
    images += [
        _map(t, power[t], seconds, sfreq, highest, "power (dB µV²/Hz)", **shared) for t in others
    ]
    return tuple(
        embed(figure, f"Time-frequency map of electrode {electrode}: {title}.")
        for title, figure in zip([clean, "mask", *others], images, strict=True)
    )


def _map(
    title: str,
    values: Array,
    seconds: float,
    sfreq: float,
    highest: float,
    unit: str,
    extent: tuple[float, float] | None = None,
    **scale: Any,
) -> Figure:
    figure, ax = axes(HALF, 2.5)
    half_bin = sfreq / 2 / (len(values) - 1) / 2
    left, right = extent or (0.0, seconds)
    image = ax.imshow(
        values,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        extent=(left, right, -half_bin, sfreq / 2 + half_bin),
        **scale,
    )
    ax.set(xlabel="time in the window (s)", ylabel="frequency (Hz)", title=title)
    ax.set(xlim=(0, seconds), ylim=(0, highest))
    ax.grid(visible=False)
    bar = figure.colorbar(image, ax=ax, label=unit, pad=0.02, aspect=18)
    bar.outline.set_visible(False)
    return figure


def _decibels(signal: Array, sfreq: float, n_fft: int) -> Array:
    """Log power density (n_bins, n_frames) through the mask's window, at a finer step."""
    step = max(1, len(signal) // 240)
    window = np.hanning(n_fft + 1)[:-1]
    padded = np.pad(signal, n_fft // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::step] * window
    power = np.abs(np.fft.rfft(frames, axis=-1)) ** 2 * 2 / (sfreq * np.sum(window**2))
    decibels: Array = 10 * np.log10(np.maximum(power.T, 1e-12))
    return decibels


def invariance(table: pd.DataFrame) -> tuple[Image, ...]:
    """Draw how alike features under two masks are, over the masks' overlap.

    Parameters
    ----------
    table : DataFrame
        Columns ``network, masks, wanted, chance`` and those of `INVARIANCE`.
    """
    images = []
    kinds = list(dict.fromkeys(table["masks"]))
    lines: Sequence[Any] = ("-", (0, (4, 2)), ":")
    for column, (title, quantity) in INVARIANCE.items():
        figure, ax = axes(HALF, 3.1)
        ends, alts = [], []
        for network, look in looks(dict.fromkeys(table["network"])).items():
            for kind, line in zip(kinds, lines, strict=False):
                own = table[(table["network"] == network) & (table["masks"] == kind)]
                own = own.sort_values("wanted", ascending=False)
                if own.empty:
                    continue
                style: Style = {"linestyle": line, "marker": look.marker, "markersize": 3.5}
                ax.plot(own["wanted"], own[column], color=look.colour, **style)
                label = f"{network.removesuffix(' network')}, {kind}"
                last = own.iloc[-1]
                ends.append((last["wanted"], last[column], label, look.colour))
                alts.append(f"{label} {own[column].iloc[0]:.2f} to {last[column]:.2f}")
        high = 1.05 if column == "retrieval" else 1.05 * table[column].max() or 1.0
        if column == "retrieval":
            chance = table["chance"].mean()
            ax.axhline(chance, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
            ends.append((table["wanted"].min(), chance, "chance", MUTED))
        ax.set(xlabel="overlap wanted of the electrodes seen", ylabel=f"{quantity} (no unit)")
        ax.set(xlim=(1.03, -0.03), ylim=(0, high), title=title)
        label_ends(ax, ends, 0.075 * high)
        alt = f"{title.capitalize()}, from the largest to the smallest overlap: {'; '.join(alts)}."
        images.append(embed(figure, alt))
    return tuple(images)


def label_ends(ax: Axes, ends: Sequence[tuple[float, float, str, str]], gap: float) -> None:
    """Write names beside the ends (x, y, name, colour) of lines, at least `gap` apart."""
    ordered = sorted(ends, key=lambda end: end[1])
    heights = [end[1] for end in ordered]
    for index in range(1, len(heights)):
        heights[index] = max(heights[index], heights[index - 1] + gap)
    ceiling = ax.get_ylim()[1]
    for index in reversed(range(len(heights))):  # what went beyond the axes pushes the rest down
        heights[index] = min(heights[index], ceiling)
        ceiling = heights[index] - gap
    for (x, _, name, colour), height in zip(ordered, heights, strict=True):
        ax.annotate(
            name,
            (x, height),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=colour,
            annotation_clip=False,
        )


def errors_by_band(
    restoration: pd.DataFrame, bands: Mapping[str, str], signals: Sequence[str]
) -> Image:
    """Draw each person's error, and the mean over people, for each band and signal.

    Parameters
    ----------
    restoration : DataFrame
        Columns ``subject, band, signal, error``.
    bands : mapping of str to str
        Band → its label below the axis, in the order of drawing.
    signals : sequence of str
        Those that are drawn, from left to right.
    """
    figure, ax = axes(WIDE, 3.5)
    width = 0.8 / len(signals)
    drawn = restoration[np.isfinite(restoration["error"])]
    for column, (signal, look) in enumerate(looks(signals).items()):
        for row, band in enumerate(bands):
            at = row + (column - (len(signals) - 1) / 2) * width
            errors = drawn.loc[(drawn["band"] == band) & (drawn["signal"] == signal), "error"]
            if errors.empty:
                continue
            spread = np.linspace(-0.28, 0.28, len(errors)) * width if len(errors) > 1 else 0
            ax.scatter(
                at + spread, errors, 15, look.colour, marker=look.marker, alpha=0.55, linewidths=0
            )
            mean = errors.mean()
            bar = [at - 0.4 * width, at + 0.4 * width]
            for colour, thick in (("white", 4.2), (look.colour, 2.6)):
                ax.plot(bar, [mean, mean], color=colour, linewidth=thick)
            ax.annotate(
                f"{mean:.2f}",
                (at, max(mean, errors.max())),
                xytext=(0, 5),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=look.colour,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
            )
        key: Style = {"marker": look.marker, "markersize": 4, "linewidth": 2.6, "label": signal}
        ax.plot([], [], color=look.colour, **key)
    ax.axhline(SILENCE, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    ax.text(len(bands) - 0.5, SILENCE, " silence", color=MUTED, fontsize=8.5, va="center")
    if len(drawn) and drawn["error"].max() > 4 and drawn["error"].min() > 0:
        logarithmic(ax)
    else:
        ax.set_ylim(0, max(1.12, 1.12 * drawn["error"].max()) if len(drawn) else 1.12)
    ax.set_xticks(range(len(bands)), list(bands.values()))
    ax.set(ylabel="error power / clean power", xlim=(-0.5, len(bands) - 0.5))
    ax.tick_params(axis="x", length=0)
    ax.grid(axis="x", visible=False)
    figure.legend(loc="outside upper left", ncols=len(signals))
    return embed(
        figure,
        "Restoration error in each EEG band: "
        + "; ".join(
            f"{signal} {', '.join(f'{band} {error:.2f}' for band, error in errors.items())}"
            for signal, errors in _means(drawn, signals).items()
        ),
    )


def _means(errors: pd.DataFrame, signals: Sequence[str]) -> dict[str, dict[str, float]]:
    means = errors.groupby(["signal", "band"], sort=False)["error"].mean()
    return {signal: means[signal].to_dict() for signal in signals if signal in means.index}
