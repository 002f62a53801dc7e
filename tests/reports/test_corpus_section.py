from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from berger.corpus import open_corpus
from berger.reports.blocks import Details, Table
from berger.reports.corpus_figures import hours_by_subject, scale_bar
from berger.reports.corpus_section import corpus_section
from berger.reports.corpus_signals import _windows
from berger.reports.folders import Part
from berger.reports.recordings_tables import MOST_REASONS, MOST_ROWS, channels, recordings
from berger.reports.style import axes, report_style


def tables(blocks: object) -> list[Table]:
    found: list[Table] = []
    for block in blocks:  # type: ignore[attr-defined]
        if isinstance(block, Table):
            found.append(block)
        elif isinstance(block, Details):
            found += tables(block.blocks)
    return found


def test_numbers_are_those_of_the_manifest(demo: Path) -> None:
    counts = open_corpus(demo / "corpus").manifest.counts
    with report_style():
        section = corpus_section(Part("corpus", demo / "corpus"))
    values = [number.value for number in section.numbers]
    recorded = counts.seconds_kept + counts.seconds_dropped
    assert values == [
        f"{counts.seconds_kept / 3600:.2f} h",
        str(counts.subjects),
        f"{counts.ok} of {counts.ok + counts.failed + counts.rejected}",
        f"{counts.seconds_dropped / recorded:.1%}",
    ]


def test_names_are_shown_as_in_the_file_and_as_in_the_corpus(demo: Path) -> None:
    table = open_corpus(demo / "corpus").recordings
    ok = table[table["status"] == "ok"]
    montages = Counter(tuple(names) for names in ok["ch_names"])
    rows = [row for shown in tables(channels(ok, montages)) for row in shown.rows]
    assert ("EEG FP1-REF", "Fp1", "2") in rows
    assert ("EEG T3-REF", "T7", "2") in rows
    assert any(row[1] == "ECG" for row in rows)


def test_long_lists_are_cut_and_say_so() -> None:
    number = 3 * MOST_ROWS
    table = pd.DataFrame(
        {
            "recording": [f"raw/{i}.edf" for i in range(number)],
            "status": ["ok", "failed", "rejected"] * MOST_ROWS,
            "reason": ["", "raw/1.edf: cut short.", "too short"] * MOST_ROWS,
            "subject": "a",
            "session": None,
            "seconds": 10.0,
            "seconds_kept": 9.0,
            "dropped": [[{"cause": "amplitude", "seconds": 1.0}]] * number,
            "history": [[f"Step {i}."] for i in range(number)],
        }
    )
    shown = tables(recordings(table))
    assert max(len(t.rows) for t in shown) == MOST_ROWS
    assert any(f"The first {MOST_ROWS} of {2 * MOST_ROWS}" in t.caption for t in shown)
    assert ("raw/2.edf and 199 more", "rejected", "too short") in shown[0].rows
    assert ("raw/1.edf", "failed", "cut short.") in shown[0].rows
    assert len(shown[-1].rows) == MOST_REASONS
    assert f"all {MOST_ROWS} are in recordings.parquet" in shown[-1].caption


def test_many_people_are_drawn_as_a_histogram() -> None:
    hours = pd.DataFrame({"kept": np.linspace(1, 2, 500), "dropped": 0.1})
    with report_style():
        image = hours_by_subject(hours)
    assert "500 people" in image.alt


def test_windows_lie_in_the_longest_stretch(demo: Path) -> None:
    corpus = open_corpus(demo / "corpus")
    recording = corpus.recordings[corpus.recordings["status"] == "ok"].iloc[0]
    stretches = corpus.stretches[corpus.stretches["recording"] == recording["recording"]]
    longest = stretches.loc[(stretches["stop"] - stretches["start"]).idxmax()]
    for at_most in (1, 2, 3):
        windows = _windows(corpus, recording, 4.0, at_most)
        assert 1 <= len(windows) <= at_most
        ends = [longest["start"]]
        for start, n_times in windows:
            assert ends[-1] <= start
            ends.append(start + n_times)
        assert ends[-1] <= longest["stop"]


def test_the_scale_bar_has_a_round_height() -> None:
    for step in (0.4, 3.0, 77.0, 120.0, 999.0):
        with report_style():
            figure, ax = axes()
            scale_bar(ax, step)
        (bar,), (text,) = ax.get_lines(), ax.texts
        low, high = sorted(bar.get_ydata())
        assert np.isclose(float(text.get_text().removesuffix(" µV")), high - low)
        assert 0.3 * step < high - low <= 1.2 * step
        assert figure is not None
