"""How figures look: one colour for each model or signal, one style, and the way into the file."""

from __future__ import annotations

import base64
import io
import re
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from types import MappingProxyType
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from berger.reports.blocks import Image

INK, MUTED, FAINT = "#1f2933", "#5b6672", "#d5dbe1"
WIDE, HALF, THIRD = 8.7, 4.3, 2.8
"""Widths of a figure in inches: the column of text, two or three beside each other."""

Style = dict[str, Any]
"""Keyword arguments of matplotlib."""

LARGEST_SVG = 350_000
"""Bytes beyond which a PNG stands in for an SVG, if it is the smaller one."""

FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True)
class Look:
    """Colour and marker of one model or signal in every figure."""

    colour: str
    marker: str = "o"


# From the palettes of M. Okabe and K. Ito ("Color universal design", 2008) and P. Tol ("Colour
# schemes", SRON/EPS/TN/09-002), which readers with a colour vision deficiency can tell apart.
# The trained network is blue and the untrained one purple, whether it restores or decodes.
LOOKS: Mapping[str, Look] = MappingProxyType(
    {
        "clean": Look("#8a939c"),
        "masked input": Look("#d98c00", "s"),
        "untrained network": Look("#b5538f", "^"),
        "restored": Look("#0066a8", "o"),
        "trained network": Look("#0066a8", "o"),
        "fine branch": Look("#4da6d9", "v"),
        "coarse branch": Look("#332288", "D"),
        "frozen probe": Look("#0066a8", "o"),
        "ridge probe": Look("#0066a8", "o"),
        "low-rank": Look("#0066a8", "o"),
        "fine-tuned": Look("#0066a8", "o"),
        "conv-linear probe": Look("#0066a8", "o"),
        "frozen encoder": Look("#0066a8", "o"),
        "same network, random weights": Look("#b5538f", "^"),
        "band power + logistic regression": Look("#00805e", "s"),
        "chance": Look("#6b7280", "D"),
        "training": Look("#0066a8", "o"),
        "validation": Look("#c8500a", "s"),
    }
)
SPARE = ("#c8500a", "#882255", "#7a7a1a", "#44aa99", "#332288", "#aa4499", "#4da6d9", "#1f2933")
SPARE_MARKERS = "PXv<>hDp"

STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": FAINT,
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlepad": 8,
    "figure.facecolor": "white",
    "figure.constrained_layout.w_pad": 0.03,
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "grid.color": "#e9edf0",
    "grid.linewidth": 0.8,
    "image.cmap": "viridis",
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.4,
    "path.simplify_threshold": 0.3,
    "svg.fonttype": "none",
    "svg.hashsalt": "berger",  # the same tables make the same bytes
    "text.color": INK,
    "text.parse_math": False,  # names come from users' files; "$" is no formula there
    "xtick.color": FAINT,
    "xtick.labelcolor": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.color": FAINT,
    "ytick.labelcolor": MUTED,
    "ytick.labelsize": 8.5,
}


@contextmanager
def report_style() -> Iterator[None]:
    """Draw in the report's style inside the block."""
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE}), warnings.catch_warnings():
        # Figures carry text as text, so the browser's fonts draw what matplotlib's font lacks.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
        yield


def looks(names: Iterable[str]) -> dict[str, Look]:
    """Return the look of each name; unknown ones get spare colours in the order given."""
    found: dict[str, Look] = {}
    # with every round through the colours the markers move on by one
    spare = (Look(SPARE[i % 8], SPARE_MARKERS[(i + i // 8) % 8]) for i in count())
    for name in names:
        found[name] = LOOKS[name] if name in LOOKS else next(spare)
    return found


def axes(width: float = HALF, height: float = 2.9) -> tuple[Figure, Axes]:
    """Return a figure of that size in inches with one pair of axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def head(figure: Figure, title: str) -> None:
    """Write a title over a figure, in as many lines as it needs; long names break at hyphens."""
    n_letters = int(11 * figure.get_size_inches()[0])
    lines = textwrap.fill(title, n_letters)
    figure.suptitle(lines, x=0.02, ha="left", fontsize=9.5, fontweight="bold")


def logarithmic(ax: Axes) -> None:
    """Make the vertical axis logarithmic, with plain numbers at it."""
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(lambda value, _: _plain(value))
    low, high = ax.get_ylim()
    if high < 30 * low:  # too few powers of ten to read values from
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.tick_params(axis="y", which="minor", length=0)
    ax.grid(which="minor", visible=False)


def _plain(value: float) -> str:
    """Write a number without an exponent, as long as it stays short."""
    rounded = float(f"{value:.6g}")  # a power of ten may miss itself by a rounding error
    return np.format_float_positional(rounded, trim="-") if 1e-6 < value < 1e6 else f"{value:g}"


def embed(figure: Figure, alt: str) -> Image:
    """Turn a figure into an image inside the file: SVG, or PNG where an SVG is too large."""
    svg = _svg(figure)
    kind, content = "svg+xml", svg
    if len(svg) > LARGEST_SVG:
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=190, metadata={"Software": None})
        if png.tell() < len(svg):
            kind, content = "png", png.getvalue()
    width = round(figure.get_size_inches()[0] * 96)
    return Image(f"data:image/{kind};base64,{base64.b64encode(content).decode()}", alt, width)


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue().decode()
    svg = re.sub(r"<!DOCTYPE[^>]*>|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # a hundredth of a point is fine enough; only within tags, so that no number shown is cut
    svg = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag[0]), svg)
    # every text carries the whole list of fonts; one rule for all is shorter, and the page's own
    svg = re.sub(r" font-family: [^;\"]*;", "", svg)
    return svg.replace(
        '<style type="text/css">', f'<style type="text/css">text{{font-family:{FONTS}}}', 1
    ).encode()
