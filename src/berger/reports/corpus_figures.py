"""Figures of a corpus: hours, what was dropped, traces, spectra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from berger.reports.blocks import Image, counted
from berger.reports.style import HALF, INK, MUTED, WIDE, Style, axes, embed, logarithmic

Array = npt.NDArray[np.float64]

KEPT, DROPPED = "#3b7ea1", "#e3c48d"
MOST_BARS = 30
"""People beyond which a histogram stands in for a bar for each."""


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
    """

    signal: Array
    sfreq: float
    start: float
    ch_names: Sequence[str]


def hours_by_subject(hours: pd.DataFrame) -> Image:
    """Draw hours ``kept`` and ``dropped`` of each subject (the index)."""
    if len(hours) > MOST_BARS:
        figure, ax = axes()
        ax.hist(hours["kept"], bins=min(40, len(hours) // 3), color=KEPT, edgecolor="white")
        ax.set(xlabel="usable time of a person (h)", ylabel="people")
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(axis="x", visible=False)
    else:
        figure, ax = axes(HALF, max(1.5, 0.9 + 0.185 * len(hours)))
        scale, unit = (60, "min") if hours.sum(axis=1).max() < 1 else (1, "h")
        y = np.arange(len(hours))
        ax.barh(y, hours["kept"] * scale, 0.68, color=KEPT, label="usable")
        ax.barh(
            y, hours["dropped"] * scale, 0.68, hours["kept"] * scale, color=DROPPED, label="dropped"
        )
        ax.set_yticks(y, [shortened(name) for name in hours.index], fontsize=8)
        ax.set(xlabel=f"recorded time ({unit})", ylim=(len(hours) - 0.4, -0.6))
        ax.grid(axis="y", visible=False)
        figure.legend(loc="outside upper left", ncols=2, handlelength=1)
    ax.tick_params(length=0)
    return embed(
        figure,
        f"Recorded time of {counted(len(hours), 'person', 'people')}: "
        f"{hours['kept'].sum():.2f} h usable, {hours['dropped'].sum():.2f} h dropped.",
    )


def dropped_by_cause(dropped: Mapping[str, float]) -> Image:
    """Draw dropped seconds by cause."""
    causes = sorted(dropped, key=lambda cause: -dropped[cause])
    figure, ax = axes(HALF, max(1.4, 0.75 + 0.42 * len(causes)))
    seconds = np.array([dropped[cause] for cause in causes])
    y = np.arange(len(causes))
    ax.barh(y, seconds, 0.42, color=DROPPED)
    for row, cause in enumerate(causes):
        ax.text(0, row - 0.29, shortened(cause, 44), va="bottom", fontsize=8.5)
        ax.annotate(
            f"{seconds[row]:,.0f} s",
            (seconds[row], row),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=MUTED,
        )
    ax.set(
        xlabel="dropped time (s)", ylim=(len(causes) - 0.6, -0.75), xlim=(0, seconds.max() * 1.2)
    )
    ax.set_yticks([])
    ax.grid(axis="y", visible=False)
    ax.spines["left"].set_visible(False)
    return embed(
        figure,
        "Dropped time by cause: "
        + ", ".join(f"{cause} {dropped[cause]:.0f} s" for cause in causes),
    )


def traces(trace: Trace) -> Image:
    """Draw one window, a line for each electrode, with a scale bar."""
    n_chans, n_times = trace.signal.shape
    figure, ax = axes(WIDE, 1.0 + 0.235 * n_chans)
    step = spacing(trace.signal)
    time = trace.start + np.arange(n_times) / trace.sfreq
    for row, channel in enumerate(trace.signal):
        ax.plot(time, channel - channel.mean() - row * step, color=INK, linewidth=0.6)
    label_rows(ax, trace.ch_names, step)
    first = trace.signal[0] - trace.signal[0].mean()
    top = float(np.clip(first.max(), 0.95 * step, 3 * step))
    ax.set(
        xlabel="time in the recording (s)", xlim=(time[0], time[-1]), ylim=(ax.get_ylim()[0], top)
    )
    scale_bar(ax, step)
    return embed(
        figure,
        f"EEG traces of {counted(n_chans, 'electrode')} over {n_times / trace.sfreq:g} seconds.",
    )


def spectrum(
    title: str, freqs: Array, power: Array, limits: tuple[float, float], *, wide: bool
) -> Image:
    """Draw the power spectrum of each electrode, power (n_chans, n_freqs) in µV²/Hz."""
    figure, ax = axes(WIDE if wide else HALF)
    for channel in power:
        ax.plot(freqs, channel, color="#9db8c9", linewidth=0.7)
    ax.plot(freqs, power.mean(0), color="#17506f", linewidth=2)
    logarithmic(ax)
    ax.set(xlabel="frequency (Hz)", ylabel="power density (µV²/Hz)", ylim=limits, title=title)
    ax.set_xlim(0, freqs[-1])
    peak = freqs[power.mean(0).argmax()]
    return embed(figure, f"Power spectrum, {title}; the mean is highest at {peak:.1f} Hz.")


def spacing(signal: Array) -> float:
    """Distance between the lines of neighbouring electrodes in µV, such that few overlap."""
    return float(5 * np.median(signal.std(axis=-1))) or 1.0


def label_rows(ax: Axes, ch_names: Sequence[str], step: float) -> None:
    """Write electrode names where their lines lie."""
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
