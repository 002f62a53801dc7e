"""Figures of a corpus: hours, what was dropped, traces, spectra, amplitudes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.ticker import MaxNLocator

from berger.reports.blocks import Image, counted
from berger.reports.corpus_groups import hours_text, seconds_text
from berger.reports.style import HALF, INK, MUTED, Style, axes, embed, logarithmic

Array = npt.NDArray[np.float64]

KEPT, DROPPED = "#3b7ea1", "#e3c48d"
MOST_BARS = 30
"""Subjects beyond which a histogram stands in for a bar for each."""

ROUND = [1, 2, 5, 10]
"""Steps between the numbers at an axis, times a power of ten."""

# Lines that stand for one channel or one kind of channels; light for the channels of a kind.
LINES = ("#17506f", "#c8500a", "#00805e", "#882255", "#7a7a1a", "#332288")
LIGHT_LINES = ("#9db8c9", "#eebb99", "#99ccbd", "#d0a9bb", "#cacaa3", "#ada7cf")


@dataclass(frozen=True, eq=False)
class Trace:
    """A stretch of signal to be drawn.

    Attributes
    ----------
    signal : ndarray, shape (n_chans, n_times)
        Microvolts.
    sfreq, start : float
        Samples per second; seconds from the recording's beginning.
    ch_names : sequence of str
    title : str
    """

    signal: Array
    sfreq: float
    start: float
    ch_names: Sequence[str]
    title: str


@dataclass(frozen=True)
class Lines:
    """Channels of a curve that belong together.

    Attributes
    ----------
    label : str
        Name in the legend; empty where there is nothing to be told apart.
    channels : tuple of int
        Their places in the montage.
    """

    label: str
    channels: tuple[int, ...]


def hours_bars(hours: pd.DataFrame, what: str) -> Image:
    """Draw hours ``kept`` and ``dropped`` as a bar for each row; `what` the rows are, in plural."""
    figure, ax = axes(HALF, max(1.5, 0.9 + 0.185 * len(hours)))
    scale, unit = (60, "min") if hours.sum(axis=1).max() < 1 else (1, "h")
    y = np.arange(len(hours))
    ax.barh(y, hours["kept"] * scale, 0.68, color=KEPT, label="usable")
    ax.barh(
        y, hours["dropped"] * scale, 0.68, hours["kept"] * scale, color=DROPPED, label="dropped"
    )
    ax.set_yticks(y, [shortened(str(name)) for name in hours.index], fontsize=8)
    ax.set(xlabel=f"recorded time ({unit})", ylim=(len(hours) - 0.4, -0.6))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=ROUND))
    ax.grid(axis="y", visible=False)
    ax.tick_params(length=0)
    figure.legend(loc="outside upper left", ncols=2, handlelength=1)
    return embed(
        figure,
        f"Recorded time by {what}, usable and dropped: "
        + "; ".join(
            f"{name} {hours_text(kept)} h and {hours_text(dropped)} h"
            for name, kept, dropped in hours.itertuples()
        ),
    )


def hours_histogram(kept: pd.Series, subjects: tuple[str, str]) -> Image:
    """Draw how many subjects (called so, in singular and plural) have how many usable hours."""
    one, several = subjects
    hours = kept[kept > 0].to_numpy(np.float64)
    low, middle, high = np.quantile(hours, [0, 0.5, 1])
    scale, unit = (60, "min") if middle < 1 else (1, "h")
    number = min(40, max(8, len(hours) // 10))
    wide = low < middle / 10 or high > 10 * middle  # then equal ratios, not differences, are seen
    steps = np.geomspace if wide else np.linspace
    spread = low * scale, high * scale * (1 + 1e-9)
    bins = steps(*spread, number).tolist() if high > low else 1
    figure, ax = axes(HALF, 2.6)
    ax.hist(hours * scale, bins=bins, color=KEPT, edgecolor="white", linewidth=0.5)
    if wide:
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    ax.set(xlabel=f"usable time of one {one} ({unit})", ylabel=f"number of {several}")
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=ROUND, integer=True))
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    ax.grid(axis="x", visible=False)
    ax.tick_params(which="both", length=0)
    return embed(
        figure,
        f"Histogram of the usable time of {counted(len(kept), *subjects)}: from "
        f"{seconds_text(low * 3600)} to {seconds_text(high * 3600)}, half of them have at least "
        f"{seconds_text(middle * 3600)}.",
    )


def dropped_by_cause(dropped: Mapping[str, float]) -> Image:
    """Draw dropped seconds by cause."""
    causes = sorted(dropped, key=lambda cause: -dropped[cause])
    figure, ax = axes(HALF, max(1.4, 0.75 + 0.42 * len(causes)))
    seconds = np.array([dropped[cause] for cause in causes])
    size, unit = next(
        (size, unit)
        for limit, size, unit in ((600, 1, "s"), (36_000, 60, "min"), (np.inf, 3600, "h"))
        if seconds.max() < limit
    )
    y = np.arange(len(causes))
    ax.barh(y, seconds / size, 0.42, color=DROPPED)
    for row, cause in enumerate(causes):
        ax.text(0, row - 0.29, shortened(cause, 44), va="bottom", fontsize=8.5)
        ax.annotate(
            seconds_text(seconds[row]),
            (seconds[row] / size, row),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=MUTED,
        )
    ax.set(
        xlabel=f"dropped time ({unit})",
        ylim=(len(causes) - 0.6, -0.75),
        xlim=(0, seconds.max() / size * 1.2),
    )
    ax.set_yticks([])
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=ROUND))
    ax.tick_params(length=0)
    ax.grid(axis="y", visible=False)
    ax.spines["left"].set_visible(False)
    return embed(
        figure,
        "Dropped time by cause: "
        + ", ".join(f"{cause} {seconds_text(dropped[cause])}" for cause in causes),
    )


def traces(trace: Trace) -> Image:
    """Draw one window, a line for each channel, with a scale bar."""
    n_chans, n_times = trace.signal.shape
    figure, ax = axes(HALF, 1.0 + n_chans * min(0.4, max(0.16, 1.3 / n_chans)))
    step = spacing(trace.signal)
    time = trace.start + np.arange(n_times) / trace.sfreq
    for row, channel in enumerate(trace.signal):
        ax.plot(time, channel - channel.mean() - row * step, color=INK, linewidth=0.6)
    label_rows(ax, trace.ch_names, step)
    first, last = trace.signal[0], trace.signal[-1]
    top = float(np.clip((first - first.mean()).max(), 0.95 * step, 3 * step))
    below = float(np.clip((last.mean() - last).max(), 0.9 * step, 3 * step))
    ax.set(
        title=shortened(trace.title, 44),
        xlabel="time in the recording (s)",
        xlim=(time[0], time[-1]),
        ylim=(-step * (n_chans - 1) - below, top),
    )
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=ROUND, integer=True))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    scale_bar(ax, step)
    return embed(
        figure,
        f"Traces of {counted(n_chans, 'channel')} of {trace.title} over "
        f"{n_times / trace.sfreq:g} seconds from second {trace.start:,.0f} on.",
    )


def spectrum(
    name: str, freqs: Array, power: Array, lines: Sequence[Lines], limits: tuple[float, float]
) -> Image:
    """Draw the power spectrum of each channel, power (n_chans, n_freqs) in µV²/Hz."""
    figure, ax = axes(HALF, _height(lines))
    curves(figure, ax, freqs, power, lines)
    logarithmic(ax)
    ax.set(xlabel="frequency (Hz)", ylabel="power density (µV²/Hz)", ylim=limits)
    ax.set(title=f"{name}: spectrum", xlim=(0, freqs[-1]))
    peaks = "; ".join(
        f"{curve.label or 'the mean'} is highest at "
        f"{freqs[power[list(curve.channels)].mean(0).argmax()]:.1f} Hz"
        for curve in lines
    )
    return embed(figure, f"Power spectrum, {name}: {peaks}.")


def amplitudes(
    name: str, edges: Array, share: Array, lines: Sequence[Lines], limit: float | None
) -> Image:
    """Draw how often each voltage occurs.

    Parameters
    ----------
    name : str
    edges : ndarray, shape (n_bins + 1,)
        Microvolts.
    share : ndarray, shape (n_chans, n_bins)
        Percent of a channel's samples per µV.
    lines : sequence of Lines
    limit : float or None
        Amplitude (µV) from which on samples were dropped; drawn where it lies within `edges`.
    """
    figure, ax = axes(HALF, _height(lines))
    centres = (edges[1:] + edges[:-1]) / 2
    curves(figure, ax, centres, share, lines)
    logarithmic(ax)
    smallest = share[share > 0].min()  # one sample of one channel
    ax.set(
        xlabel="amplitude (µV)",
        ylabel="share of samples (% per µV)",
        title=f"{name}: amplitudes",
        xlim=(edges[0], edges[-1]),
        ylim=(smallest * 0.7, 4 * share.max()),
    )
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=ROUND))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,g}".replace("-", "−"))
    if limit is not None and limit <= edges[-1]:
        for side in (-limit, limit):
            ax.axvline(side, color="#8a4b00", linewidth=1, linestyle=(0, (4, 3)))
        ax.annotate(
            f"limit {limit:,g} µV",
            (limit, 0.98),
            xycoords=ax.get_xaxis_transform(),
            xytext=(-4, 0),
            textcoords="offset points",
            ha="right",
            va="top",
            fontsize=8.5,
            color="#8a4b00",
        )
    return embed(
        figure,
        f"Amplitude histogram, {name}: share of samples on a logarithmic scale from "
        f"{edges[0]:,.0f} to {edges[-1]:,.0f} µV.",
    )


def curves(
    figure: MatplotlibFigure, ax: Axes, x: Array, values: Array, lines: Sequence[Lines]
) -> None:
    """Draw a thin line for each channel and a thick one for the mean of each group."""
    # the axis is logarithmic: what is 0 goes to below it
    floor = values[values > 0].min(initial=1.0) * 1e-6
    for place, curve in enumerate(lines):
        colour = place % len(LINES)
        if len(curve.channels) > 1:
            for channel in curve.channels:
                ax.plot(
                    x,
                    np.maximum(values[channel], floor),
                    color=LIGHT_LINES[colour],
                    linewidth=0.7,
                    zorder=1.5,
                )
        mean = values[list(curve.channels)].mean(0)
        ax.plot(
            x,
            np.maximum(mean, floor),
            color=LINES[colour],
            linewidth=1.8,
            linestyle=("-", (0, (5, 1.5)), (0, (2, 1)))[place // len(LINES) % 3],
            label=shortened(curve.label, 16),
        )
    if len(lines) > 1:
        figure.legend(
            loc="outside lower center", ncols=2 if len(lines) in (2, 4) else 3, handlelength=1.4
        )


def _height(lines: Sequence[Lines]) -> float:
    """Return a figure's height in inches with room for the legend."""
    return 2.9 + (0.2 * -(-len(lines) // 3) if len(lines) > 1 else 0)


def spacing(signal: Array) -> float:
    """Distance between the lines of neighbouring channels in µV, such that few overlap."""
    return float(5 * np.median(signal.std(axis=-1))) or 1.0


def label_rows(ax: Axes, ch_names: Sequence[str], step: float) -> None:
    """Write channel names where their lines lie."""
    ax.set_yticks(-step * np.arange(len(ch_names)), [shortened(name, 12) for name in ch_names])
    ax.set_ylim(-step * (len(ch_names) - 0.1), step * 0.95)
    ax.tick_params(axis="y", length=0, labelsize=8)
    ax.grid(axis="y", visible=False)
    ax.spines["left"].set_visible(False)


def scale_bar(ax: Axes, step: float) -> None:
    """Draw a bar of a round number of µV at the right edge."""
    magnitude = 10.0 ** np.floor(np.log10(step))
    height = magnitude * max(n for n in (1, 2, 5) if n * magnitude <= 1.2 * step)
    top = 0.45 * step
    bar: Style = {"transform": ax.get_yaxis_transform(), "clip_on": False, "color": INK}
    ax.plot([1.012, 1.012], [top - height, top], linewidth=1.6, solid_capstyle="butt", **bar)
    ax.text(1.02, top - height / 2, f"{height:g} µV", va="center", fontsize=8.5, **bar)


def shortened(name: str, longest: int = 22) -> str:
    """Return a name that fits beside an axis; the middle of a long one is left out."""
    half = (longest - 1) // 2
    return name if len(name) <= longest else f"{name[:half]}…{name[-half:]}"
