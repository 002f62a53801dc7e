"""What is said about a corpus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pandas as pd

from berger.reports import corpus_figures as figures
from berger.reports.blocks import (
    Block,
    Figure,
    Number,
    Section,
    Text,
    counted,
    enumeration,
    topic,
)
from berger.reports.corpus_signals import signals
from berger.reports.folders import Part
from berger.reports.recordings_tables import channels, recordings


def corpus_section(part: Part) -> Section:
    """Report a corpus.

    Raises
    ------
    BergerError
        If it cannot be opened, e.g. because it is unfinished.
    """
    corpus = part.corpus
    table = corpus.recordings
    ok = table[table["status"] == "ok"]
    kept, recorded = ok["seconds_kept"].sum(), ok["seconds"].sum()
    people = ok["subject"].nunique()
    rates = enumeration(f"{rate:g} Hz" for rate in sorted(set(ok["sfreq"])))
    montages = Counter(tuple(names) for names in ok["ch_names"])
    failed, rejected = ((table["status"] == status).sum() for status in ("failed", "rejected"))
    not_usable = enumeration(
        f"{number} {status}"
        for number, status in ((failed, "failed"), (rejected, "rejected"))
        if number
    )
    causes = _dropped(ok)
    lead = (
        f"{counted(len(ok), 'recording')} of {counted(people, 'person', 'people')} with "
        f"{kept / 3600:,.2f} usable hours at {rates}, in {counted(len(montages), 'montage')}."
        if len(ok)
        else "No recording could be used; the table says why."
    )
    numbers = [
        Number(
            f"{kept / 3600:,.2f} h",
            "usable EEG",
            f"of {counted(people, 'person', 'people')}, at {rates}" if people else "nothing usable",
        ),
        Number(f"{people:,}", "people", _how_known(ok)),
        Number(
            f"{len(ok):,} of {len(table):,}",
            "recordings usable",
            f"{not_usable}; the table says why" if not_usable else "none failed, none rejected",
        ),
        Number(
            f"{1 - kept / recorded:.1%}" if recorded else "–",
            "of the time dropped",
            f"most of it by: {max(causes, key=lambda cause: causes[cause])}"
            if causes
            else "nothing dropped",
        ),
    ]
    topics = [
        topic("Time recorded and used", lambda: _time(ok, causes)),
        topic("Recordings", lambda: recordings(table)),
        topic("Channels", lambda: channels(ok, montages)),
    ]
    if len(ok):
        topics.append(topic("Signals", lambda: signals(corpus, ok, montages)))
    return Section("Recordings and corpus", part.name, lead, numbers, topics)


def _how_known(ok: pd.DataFrame) -> str:
    """Say whether the recordings tell who was recorded."""
    unknown = int((ok["subject_source"] == "file name").sum())
    if not unknown:
        return "splits are made by person"
    return (
        f"{counted(unknown, 'recording')} without a known person, each taken as a person of its "
        "own; if one person has several, splits by person mean nothing: set subject_pattern"
    )


def _dropped(recordings: pd.DataFrame) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for entries in recordings["dropped"]:
        for entry in entries:
            cause = str(entry["cause"])
            seconds[cause] = seconds.get(cause, 0.0) + float(entry["seconds"])
    return {cause: total for cause, total in seconds.items() if total > 0}


def _time(ok: pd.DataFrame, causes: dict[str, float]) -> Iterator[Block]:
    if ok.empty:
        yield Text("Nothing could be used.")
        return
    seconds = ok.groupby("subject")[["seconds", "seconds_kept"]].sum() / 3600
    hours = pd.DataFrame(
        {"kept": seconds["seconds_kept"], "dropped": seconds["seconds"] - seconds["seconds_kept"]}
    )
    images = [figures.hours_by_subject(hours)]
    caption = (
        "How many people have how many usable hours."
        if len(hours) > figures.MOST_BARS
        else "Recorded time of each person: usable (blue) and dropped (sand)."
    )
    if causes:
        images.append(figures.dropped_by_cause(causes))
        caption += (
            " The other chart says what time was dropped for, over all recordings; in all "
            f"{sum(causes.values()):,.0f} s of {ok['seconds'].sum():,.0f} s."
        )
    yield Figure(tuple(images), caption)
