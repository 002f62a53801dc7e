from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure as MatplotlibFigure

from berger.corpus import Corpus, open_corpus
from berger.corpus.format import RECORDING_COLUMNS
from berger.reports import build_report, corpus_figures
from berger.reports.blocks import Block, Details, Figure, Note, Section, Table, Text
from berger.reports.corpus_figures import MOST_BARS, hours_bars, hours_histogram, scale_bar
from berger.reports.corpus_groups import hours_by, montages_of, most, seconds_text, subjects_noun
from berger.reports.corpus_section import MOST_GROUPS, corpus_section
from berger.reports.corpus_signals import (
    MOST_LINES,
    MOST_PANELS,
    _drawn,
    _edges,
    _lines,
    _shares,
    _stretches,
    _windows,
    page_of_traces,
)
from berger.reports.folders import Part
from berger.reports.recordings_tables import MOST_REASONS, MOST_ROWS, channels, recordings
from berger.reports.style import axes, report_style
from tests.reports.large import write_large_corpus
from tests.reports.page import Page


def flat(blocks: Any) -> list[Block]:
    found: list[Block] = []
    for block in blocks:
        found += flat(block.blocks) if isinstance(block, Details) else [block]
    return found


def tables(blocks: Any) -> list[Table]:
    return [block for block in flat(blocks) if isinstance(block, Table)]


def said(section: Section, title: str) -> str:
    """All sentences and captions of a topic."""
    (topic,) = (topic for topic in section.topics if topic.title == title)
    return " ".join(
        block.text if isinstance(block, Text | Note) else block.caption
        for block in flat(topic.blocks)
        if isinstance(block, Text | Note | Table | Figure)
    )


def made(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """A table of usable recordings as a corpus gives it; what a row leaves out is ordinary."""
    ordinary = {
        "status": "ok",
        "subject": "a",
        "subject_source": "pattern",
        "sfreq": 200.0,
        "ch_names": ["Fp1", "Cz"],
        "original_ch_names": ["Fp1", "Cz"],
        "kinds": ["scalp", "scalp"],
        "kept_out": [],
        "seconds": 3600.0,
        "seconds_kept": 3600.0,
        "dropped": [],
        "history": [],
        "gaps": [],
        "species": None,
    }
    return pd.DataFrame(
        [
            dict.fromkeys(RECORDING_COLUMNS.names) | ordinary | {"recording": f"raw/{i}.edf"} | row
            for i, row in enumerate(rows)
        ]
    )


class Told:
    """A corpus of which only the table is asked for."""

    def __init__(self, recordings: pd.DataFrame) -> None:
        self.recordings = recordings


def report_of(monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]]) -> Section:
    monkeypatch.setattr("berger.reports.style._svg", lambda figure: b"<svg/>")
    monkeypatch.setattr("berger.reports.corpus_section.page_of_traces", lambda *_: [])
    monkeypatch.setattr("berger.reports.corpus_section.spectra_and_amplitudes", lambda *_: [])
    part = Part("corpus", Path("corpus"))
    part.__dict__["corpus"] = Told(made(rows))
    with report_style():
        return corpus_section(part)


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
    rows = [row for shown in tables(channels(ok, montages_of(ok))) for row in shown.rows]
    assert ("EEG FP1-REF", "Fp1", "2") in rows
    assert ("EEG T3-REF", "T7", "2") in rows
    assert any(row[1] == "ECG" for row in rows)


def test_long_lists_are_cut_and_say_so() -> None:
    number = 3 * MOST_ROWS
    table = made([{"dropped": [{"cause": "amplitude", "seconds": 1.0}]}] * number)
    table["status"] = ["ok", "failed", "rejected"] * MOST_ROWS
    table["reason"] = ["", "cut short.", "too short"] * MOST_ROWS
    table["history"] = [["Filtered.", f"Kept {i} s."] for i in range(number)]
    shown = tables(recordings(table))
    assert max(len(t.rows) for t in shown) == MOST_ROWS
    assert any(f"The first {MOST_ROWS} of {2 * MOST_ROWS}" in t.caption for t in shown)
    assert ("raw/2.edf and 199 more", "rejected", "too short") in shown[0].rows
    assert ("raw/1.edf and 199 more", "failed", "cut short.") in shown[0].rows
    steps = [(str(MOST_ROWS), "Filtered."), (str(MOST_ROWS), "e.g. Kept 0 s.")]
    assert list(shown[-1].rows) == steps


def test_reasons_that_differ_in_numbers_only_are_one() -> None:
    table = made([{}] * 30)
    table["status"] = "rejected"
    table["reason"] = [f"raw/{i}.edf: lasts {i}.5 s, too short." for i in range(29)] + ["empty"]
    first, one_by_one = tables(recordings(table))
    assert list(first.rows) == [
        ("raw/0.edf and 28 more", "rejected", "e.g. lasts 0.5 s, too short."),
        ("raw/29.edf", "rejected", "empty"),
    ]
    assert len(one_by_one.rows) == 30


def test_many_reasons_are_cut_and_say_so() -> None:
    table = made([{}] * 40)
    table["status"] = "failed"
    table["reason"] = ["reason " + "x" * i for i in range(40)]
    first, _ = tables(recordings(table))
    assert len(first.rows) == MOST_REASONS
    assert f"the {MOST_REASONS} most frequent of 40 reasons" in first.caption


def test_what_is_not_known_is_a_dash_or_left_out() -> None:
    """Pandas gives NaN for a missing text beside others, and None where all are missing."""
    (one,) = tables(recordings(made([{"session": "s1"}, {}])))
    assert [row[one.columns.index("session")] for row in one.rows] == ["s1", "–"]
    assert "site" not in one.columns
    assert "gaps" not in one.columns
    gap = {"start": 9, "seconds": None}
    (one,) = tables(recordings(made([{"site": "x", "gaps": [gap]}, {}])))
    assert [row[one.columns.index("site")] for row in one.rows] == ["x", "–"]
    assert [row[one.columns.index("gaps")] for row in one.rows] == ["1", "0"]


def test_many_people_are_drawn_as_a_histogram(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (MOST_BARS, MOST_BARS + 1):
        section = report_of(monkeypatch, [{"subject": f"s{i}"} for i in range(number)])
        assert ("Histogram" in said(section, "Time recorded and used")) == (number > MOST_BARS)


@pytest.mark.parametrize(
    "kept",
    [np.linspace(1, 2, 500), np.full(500, 2.0), np.geomspace(1e-3, 1e3, 500), np.full(31, 1e-3)],
)
def test_every_spread_of_hours_can_be_drawn(kept: np.ndarray) -> None:
    with report_style():
        image = hours_histogram(pd.Series(kept), ("person", "people"))
    assert f"{len(kept)} people" in image.alt
    assert f"at least {seconds_text(3600 * float(np.median(kept)))}" in image.alt


def test_no_hour_is_lost_in_the_groups() -> None:
    table = made([{"seconds_kept": 10.0 * i, "site": f"x{i}"} for i in range(1, 40)])
    hours = hours_by(table, table["site"])
    shown = most(hours, MOST_GROUPS, "{} other sites")
    assert len(shown) == MOST_GROUPS
    assert shown.index[0] == "x39"
    assert shown.index[-1] == f"{39 - MOST_GROUPS + 1} other sites"
    assert np.allclose(shown.sum(), hours.sum())
    assert most(hours, 39, "").index.tolist() == [f"x{i}" for i in range(39, 0, -1)]


def test_sites_are_shown_or_it_is_said_how_to_have_them(monkeypatch: pytest.MonkeyPatch) -> None:
    title = "Time recorded and used"
    none = said(report_of(monkeypatch, [{}, {}]), title)
    assert "do not tell their site" in none
    assert "by site." not in none.replace("no hours by site.", "")
    pattern = re.search(r"--subject_pattern '(.*)'", none)
    assert pattern is not None
    match = re.search(pattern[1], "/data/study/ward 5/p07/night.edf")
    assert match is not None
    assert match.groupdict() == {"site": "ward 5", "subject": "p07"}
    one = said(report_of(monkeypatch, [{"site": "ward 5"}] * 2), title)
    assert "All recordings are from the site ward 5." in one
    section = report_of(monkeypatch, [{"site": "ward 5"}, {"site": None}, {"site": "ward 6"}])
    assert "Recorded time by site." in said(section, title)
    alts = " ".join(
        image.alt
        for block in section.topics[0].blocks
        if isinstance(block, Figure)
        for image in block.images
    )
    assert "not known 1.00 h" in alts
    assert "ward 6 1.00 h" in alts
    assert "from 2 sites" in section.lead


def test_montages_are_numbered_by_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    short = {"ch_names": ["Cz"], "original_ch_names": ["Cz"], "kinds": ["scalp"]}
    rows = [short | {"seconds_kept": 10.0}] * 3 + [{}]
    first, second = montages_of(made(rows))
    assert (first.number, first.ch_names, len(first.recordings)) == (1, ("Fp1", "Cz"), 1)
    assert (second.number, second.size, second.seconds_kept) == (2, "1 electrode", 30.0)
    section = report_of(monkeypatch, rows)
    assert "Recorded time by montage" in said(section, "Time recorded and used")
    section = report_of(monkeypatch, rows[:2])
    assert "the same montage of 1 electrode" in said(section, "Time recorded and used")


def test_animals_are_not_called_people(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"kinds": ["name as given", "EMG"], "ch_names": ["EEG_P", "EMG_DIFF"]}
    mouse = given | {"original_ch_names": given["ch_names"], "species": "mouse"}
    section = report_of(monkeypatch, [mouse | {"subject": "m1"}, mouse | {"subject": "m2"}])
    assert "2 recordings of 2 animals (mouse)" in section.lead
    assert section.numbers[1].label == "animals"
    text = said(section, "Channels")
    assert "Species: mouse (2 recordings)." in text
    assert "“Name as given”" in text
    (shown,) = (t for t in tables(section.topics[2].blocks) if "names" in t.columns)
    assert shown.columns == ("montage", "recordings", "usable hours", "channels", "kinds", "names")
    assert shown.rows[0][4:] == ("1 name as given, 1 EMG", "EEG_P EMG_DIFF")


@pytest.mark.parametrize(
    ("species", "noun"),
    [
        ([None, None], "people"),
        (["human", "human"], "people"),
        (["mouse", "rat"], "animals"),
        (["mouse", "human"], "subjects"),
        (["mouse", None], "subjects"),
    ],
)
def test_subjects_are_called_what_they_are(species: list[str | None], noun: str) -> None:
    assert subjects_noun(made([{"species": name} for name in species]))[1] == noun


def test_scalp_electrodes_need_no_column_of_kinds() -> None:
    table = made([{}])
    (shown,) = tables(channels(table, montages_of(table)))
    assert "kinds" not in shown.columns
    assert "electrodes" in shown.columns


def test_gaps_are_summed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    known, unknown = {"start": 9, "seconds": 30.0}, {"start": 99, "seconds": None}
    section = report_of(monkeypatch, [{"gaps": [known, unknown]}, {"gaps": [known]}, {}])
    assert (
        "2 recordings of 3 have 3 gaps in time, in all 60 s that were not recorded; 1 gap of "
        "unknown length. Windows never span a gap." in said(section, "Time recorded and used")
    )
    section = report_of(monkeypatch, [{}])
    assert "No recording has a gap in time." in said(section, "Time recorded and used")


def test_recordings_of_unknown_people_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"subject": f"s{i}", "subject_source": "file name"} for i in range(3)]
    section = report_of(monkeypatch, rows)
    assert "3 recordings do not tell who was recorded" in said(section, "Recordings")
    assert "subject_pattern" in said(section, "Recordings")
    section = report_of(monkeypatch, rows[:1])
    assert "do not tell who" not in said(section, "Recordings")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0042, "0.004 s"), (9.27, "9.3 s"), (61, "61 s"), (150, "2.5 min"), (7200, "2.00 h")],
)
def test_times_are_short(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


def test_a_page_shows_different_subjects_first(demo: Path) -> None:
    corpus = open_corpus(demo / "corpus")
    ok = corpus.recordings[corpus.recordings["status"] == "ok"]
    n_subjects = ok["subject"].nunique()
    for seed in range(4):
        shown = list(_drawn(corpus, ok, np.random.default_rng(seed)))[:MOST_PANELS]
        assert len(shown) == MOST_PANELS
        first = {recording["subject"] for recording, _ in shown[:n_subjects]}
        assert len(first) == n_subjects == 4
        places = {(recording["recording"], start) for recording, (start, _) in shown}
        assert len(places) == MOST_PANELS
        for recording, (start, n_times) in shown:
            own = corpus.stretches[corpus.stretches["recording"] == recording["recording"]]
            assert ((own["start"] <= start) & (start + n_times <= own["stop"])).any()


def test_the_page_follows_its_seed(demo: Path) -> None:
    corpus = open_corpus(demo / "corpus")
    ok = corpus.recordings[corpus.recordings["status"] == "ok"]
    shown = []
    for seed in (0, 0, 7):
        with report_style():
            (figure,) = page_of_traces(corpus, ok, seed)
        assert isinstance(figure, Figure)
        assert f"drawn at random (seed {seed})" in figure.caption
        shown.append(figure.images)
    assert shown[0] == shown[1] != shown[2]


@pytest.mark.usefixtures("undrawn")
def test_a_report_takes_the_seed(demo: Path) -> None:
    page = Page(build_report(demo / "corpus", seed=7))
    assert "drawn at random (seed 7)" in page.text


def test_windows_lie_in_the_longest_stretch(demo: Path) -> None:
    corpus = open_corpus(demo / "corpus")
    recording = corpus.recordings[corpus.recordings["status"] == "ok"].iloc[:1]
    (stretches,) = _stretches(corpus, recording).values()
    longest = stretches.loc[(stretches["stop"] - stretches["start"]).idxmax()]
    for at_most in (1, 2, 3):
        windows = _windows(stretches, float(recording["sfreq"].iloc[0]), 4.0, at_most)
        assert 1 <= len(windows) <= at_most
        ends = [longest["start"]]
        for start, n_times in windows:
            assert ends[-1] <= start
            ends.append(start + n_times)
        assert ends[-1] <= longest["stop"]


def test_an_amplitude_histogram_counts_every_sample() -> None:
    values = np.random.default_rng(0).normal(0, 20, (3, 5000)).astype(np.float32)
    values[2] = 0.0
    for limit in (None, 100.0, 1e6):
        edges = _edges(values, limit)
        share = _shares(values, edges)
        assert np.allclose((share * np.diff(edges)).sum(axis=1), 100)
        assert np.allclose(edges, -edges[::-1])
    assert _edges(values, 100.0)[-1] > 100  # so that the limit can be seen
    assert _edges(values, 1e6)[-1] < 200  # a limit far away does not squeeze the curves


def drawn(monkeypatch: pytest.MonkeyPatch) -> list[MatplotlibFigure]:
    """Figures that are embedded from now on."""
    kept: list[MatplotlibFigure] = []

    def keep(figure: MatplotlibFigure) -> bytes:
        kept.append(figure)
        return b"<svg/>"

    monkeypatch.setattr("berger.reports.style._svg", keep)
    return kept


@pytest.mark.parametrize(("limit", "lines"), [(100.0, 2), (None, 0), (1e6, 0)])
def test_the_limit_is_marked(
    monkeypatch: pytest.MonkeyPatch, limit: float | None, lines: int
) -> None:
    figures = drawn(monkeypatch)
    values = np.random.default_rng(0).normal(0, 20, (2, 5000)).astype(np.float32)
    edges = _edges(values, limit)
    both = [corpus_figures.Lines("", (0, 1))]
    with report_style():
        corpus_figures.amplitudes("Montage 1", edges, _shares(values, edges), both, limit)
    ax = figures[0].axes[0]
    marks = {line.get_xdata()[0] for line in ax.get_lines() if len(line.get_xdata()) == 2}
    assert marks == ({-100.0, 100.0} if lines else set())
    assert len(ax.get_lines()) == 3 + lines  # two electrodes and their mean
    assert ax.get_yscale() == "log"


def test_few_channels_have_lines_of_their_own_and_many_one_for_each_kind() -> None:
    names = [f"x{i}" for i in range(MOST_LINES + 1)]
    row = {"ch_names": names, "original_ch_names": names, "kinds": ["scalp"] * MOST_LINES + ["EMG"]}
    (montage,) = montages_of(made([row]))
    assert [(c.label, c.channels) for c in _lines(montage)] == [
        ("scalp", tuple(range(MOST_LINES))),
        ("EMG", (MOST_LINES,)),
    ]
    (montage,) = montages_of(made([{}]))
    assert [(c.label, c.channels) for c in _lines(montage)] == [("Fp1", (0,)), ("Cz", (1,))]
    (montage,) = montages_of(made([row | {"kinds": None}]))
    assert [(c.label, c.channels) for c in _lines(montage)] == [("", tuple(range(len(names))))]


def test_bars_name_every_group_and_its_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = drawn(monkeypatch)
    hours = pd.DataFrame({"kept": [2.0, 1.0], "dropped": [0.5, 0.0]}, index=["a" * 60, "b"])
    with report_style():
        image = hours_bars(hours, "site")
    assert f"{'a' * 60} 2.00 h and 0.50 h; b 1.00 h and 0.00 h" in image.alt
    labels = [label.get_text() for label in figures[0].axes[0].get_yticklabels()]
    assert labels == ["aaaaaaaaaa…aaaaaaaaaa", "b"]
    assert figures[0].axes[0].get_xlabel() == "recorded time (h)"


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


@pytest.mark.usefixtures("undrawn")
def test_a_large_corpus_has_a_small_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read, drawn and listed does not grow with the corpus."""
    read = []
    whole = Corpus.read

    def counting(corpus: Corpus, *place: Any) -> Any:
        read.append(place)
        return whole(corpus, *place)

    monkeypatch.setattr(Corpus, "read", counting)
    folder = write_large_corpus(tmp_path / "large", 2000, 700, 300)
    page = Page(build_report(folder))
    assert len(page.all("img")) < 20
    assert max(table.count("<tr") for table in page.html.split("<table")[1:]) <= MOST_ROWS + 1
    assert len(read) <= MOST_PANELS + 4 * 48
    for words in (
        "Histogram: how many people",
        "The 4 montages with the most hours, of",
        "of all usable time",
        "that were not recorded",
        "files that could not be used, one by one",
    ):
        assert words in page.text
    alts = " ".join(image["alt"] for image in page.all("img"))
    assert re.search(r"\d+ other montages", alts)
    assert re.search(r"\d+ other sites", alts)
