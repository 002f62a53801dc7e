from __future__ import annotations

import base64
import re

import matplotlib
import numpy as np

from berger.reports.style import (
    LARGEST_SVG,
    LOOKS,
    SPARE,
    axes,
    embed,
    logarithmic,
    looks,
    report_style,
)


def test_a_name_has_one_look_whatever_stands_beside_it() -> None:
    assert looks(["restored", "new"])["restored"] == looks(["new", "restored"])["restored"]
    assert looks(["a", "b"]) == looks(["a", "b"])
    many = looks(f"model {number}" for number in range(3 * len(SPARE)))
    assert len(set(many.values())) == len(many)


def test_the_trained_network_has_one_colour_in_both_tasks() -> None:
    assert LOOKS["restored"].colour == LOOKS["frozen probe"].colour
    assert LOOKS["untrained network"].colour == LOOKS["same network, random weights"].colour


def test_drawing_leaves_no_trace_in_matplotlib() -> None:
    before = dict(matplotlib.rcParams)
    with report_style():
        embed(axes()[0], "nothing")
    assert dict(matplotlib.rcParams) == before


def test_powers_of_ten_are_written_plainly() -> None:
    with report_style():
        _, ax = axes()
        ax.plot([0, 1], [3e-6, 200.0])
        logarithmic(ax)
        written = [ax.yaxis.get_major_formatter()(value) for value in 10.0 ** np.arange(-5.0, 3.0)]
    assert written == ["0.00001", "0.0001", "0.001", "0.01", "0.1", "1", "10", "100"]


def test_small_figures_are_vector_graphics_and_large_ones_are_not() -> None:
    with report_style():
        figure, ax = axes()
        ax.plot([0, 1], [0.12345, 0.5])
        ax.set_title("0.12345 <Cz> & $x$")
        image = embed(figure, "a line")
        ax.scatter(*np.random.default_rng(0).random((2, 20_000)), s=1)
        large = embed(figure, "a cloud")
    kind, _, content = image.uri.partition(";base64,")
    svg = base64.b64decode(content).decode()
    assert kind == "data:image/svg+xml"
    assert "0.12345 &lt;Cz&gt; &amp; $x$" in svg  # numbers in text stay whole
    assert not re.search(r' d="[^"]*\.\d{3}', svg)
    assert large.uri.startswith("data:image/png;base64,")
    assert image.width == round(96 * figure.get_size_inches()[0])
    assert LARGEST_SVG > 100_000
