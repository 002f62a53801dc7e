"""What is said about a corpus."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
from berger.reports.corpus_groups import (
    Montage,
    hours_by,
    hours_text,
    listed,
    montages_of,
    most,
    seconds_text,
    species_of,
    subjects_noun,
)
from berger.reports.corpus_signals import page_of_traces, spectra_and_amplitudes
from berger.reports.folders import Part
from berger.reports.recordings_tables import channels, recordings

MOST_GROUPS = 12
"""Bars for montages or sites; the last stands for the rest where there are more."""

_CAUSES = {
    "amplitude": "a channel reached the largest amplitude allowed",
    "stretch under 1 s": "what was left between dropped pieces was shorter than a second",
    "first and last seconds": "cut at the ends, as the configuration asks",
    "less than a sample": "a rest at the end, or at a gap, shorter than one sample",
    "flat": "a channel stood still: disconnected or saturated",
    "not finite": "a channel held no number",
    "piece shorter than the filter": "the piece between two gaps is too short to be filtered",
    "out of range": "more than the corpus' 16 bits hold",
}

_HOW_TO_TELL_SITES = (
    "The recordings do not tell their site, so there are no hours by site. To have them, prepare "
    "the recordings with a subject_pattern that has a group named site; for files in folders "
    "SITE/SUBJECT/, for example, --subject_pattern '/(?P<site>[^/]+)/(?P<subject>[^/]+)/[^/]+$'."
)


def corpus_section(part: Part, seed: int = 0) -> Section:
    """Report a corpus.

    Parameters
    ----------
    part : Part
    seed : int
        Which windows the random page of traces shows.

    Raises
    ------
    BergerError
        If it cannot be opened, e.g. because it is unfinished.
    """
    corpus = part.corpus
    table = corpus.recordings
    ok = table[table["status"] == "ok"]
    montages = montages_of(ok)
    causes = _dropped(ok)
    topics = [
        topic("Time recorded and used", lambda: _time(ok, montages, causes)),
        topic("Recordings", lambda: recordings(table)),
        topic("Channels", lambda: channels(ok, montages)),
    ]
    if len(ok):
        topics += [
            topic("A random page of traces", lambda: page_of_traces(corpus, ok, seed)),
            topic("Spectra and amplitudes", lambda: spectra_and_amplitudes(corpus, ok, montages)),
        ]
    return Section(
        "Recordings and corpus",
        part.name,
        _lead(ok, montages),
        _numbers(table, ok, causes),
        topics,
    )


def _rates(ok: pd.DataFrame) -> str:
    return enumeration(f"{rate:g} Hz" for rate in sorted(set(ok["sfreq"])))


def _lead(ok: pd.DataFrame, montages: Sequence[Montage]) -> str:
    if ok.empty:
        return "No recording could be used; the table says why."
    species = [name for name in species_of(ok) if name != "human"]
    sites = ok["site"].nunique()
    return (
        f"{counted(len(ok), 'recording')} of "
        f"{counted(ok['subject'].nunique(), *subjects_noun(ok))}"
        + (f" ({enumeration(species_of(ok))})" if species else "")
        + (f" from {counted(sites, 'site')}" if sites > 1 else "")
        + f" with {hours_text(ok['seconds_kept'].sum() / 3600)} usable hours at {_rates(ok)}, in "
        f"{counted(len(montages), 'montage')}."
    )


def _numbers(table: pd.DataFrame, ok: pd.DataFrame, causes: dict[str, float]) -> list[Number]:
    kept, recorded = ok["seconds_kept"].sum(), ok["seconds"].sum()
    subjects = ok["subject"].nunique()
    nouns = subjects_noun(ok)
    not_usable = enumeration(
        f"{number:,} {status}"
        for status in ("failed", "rejected")
        if (number := (table["status"] == status).sum())
    )
    share = 1 - kept / recorded if recorded else 0.0
    return [
        Number(
            f"{hours_text(kept / 3600)} h",
            "usable EEG",
            f"of {counted(subjects, *nouns)}, at {_rates(ok)}" if subjects else "nothing usable",
        ),
        Number(f"{subjects:,}", nouns[subjects != 1], _how_known(ok, nouns)),
        Number(
            f"{len(ok):,} of {len(table):,}",
            "recordings usable",
            f"{not_usable}; the table says why" if not_usable else "none failed, none rejected",
        ),
        Number(
            ("< 0.1%" if 0 < share < 0.0005 else f"{share:.1%}") if recorded else "–",
            "of the time dropped",
            f"most of it by: {max(causes, key=lambda cause: causes[cause])}"
            if causes
            else "nothing dropped",
        ),
    ]


def _how_known(ok: pd.DataFrame, nouns: tuple[str, str]) -> str:
    """Say whether the recordings tell who was recorded."""
    unknown = int((ok["subject_source"] == "file name").sum())
    if not unknown:
        return f"splits are made by {nouns[0]}"
    if unknown == 1:
        return "1 recording does not tell whose it is"
    return f"{unknown:,} recordings do not tell whose they are, see Recordings"


def _dropped(recordings: pd.DataFrame) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for entries in recordings["dropped"]:
        for entry in entries:
            cause = str(entry["cause"])
            seconds[cause] = seconds.get(cause, 0.0) + float(entry["seconds"])
    return {cause: total for cause, total in seconds.items() if total > 0}


def _time(
    ok: pd.DataFrame, montages: Sequence[Montage], causes: dict[str, float]
) -> Iterator[Block]:
    if ok.empty:
        yield Text("Nothing could be used.")
        return
    yield _by_subject(ok, causes)
    yield from _by_montage_and_site(ok, montages)
    yield Text(_gaps(ok))


def _by_subject(ok: pd.DataFrame, causes: dict[str, float]) -> Figure:
    nouns = subjects_noun(ok)
    hours = hours_by(ok, ok["subject"])
    if len(hours) > figures.MOST_BARS:
        images = [figures.hours_histogram(hours["kept"], nouns)]
        ordered = hours["kept"].sort_values(ascending=False)
        top = ordered.iloc[: max(1, len(ordered) // 10)].sum() / ordered.sum()
        caption = (
            f"Histogram: how many {nouns[1]} have how much usable time. Half of them have at "
            f"least {seconds_text(3600 * ordered.median())}; the tenth with the most has {top:.0%} "
            "of all usable time."
        )
    else:
        images = [figures.hours_bars(hours, nouns[0])]
        caption = f"Recorded time of each {nouns[0]}: usable (blue) and dropped (sand)."
    if causes:
        images.append(figures.dropped_by_cause(causes))
        known = [
            f"“{cause}”: {_CAUSES[cause]}"
            for cause in sorted(causes, key=lambda cause: -causes[cause])
            if cause in _CAUSES
        ]
        caption += (
            " The other chart says what time was dropped for, over all usable recordings; in all "
            f"{seconds_text(sum(causes.values()))} of {seconds_text(ok['seconds'].sum())}."
            + (f" {'; '.join(known)}." if known else "")
        )
    else:
        caption += " Nothing was dropped."
    return Figure(tuple(images), caption)


def _by_montage_and_site(ok: pd.DataFrame, montages: Sequence[Montage]) -> Iterator[Block]:
    images, captions, sentences = [], [], []
    if len(montages) > 1:
        labels = pd.concat(
            pd.Series(f"{m.number}: {m.size}", index=m.recordings.index) for m in montages
        )
        hours = most(hours_by(ok, labels), MOST_GROUPS, "{} other montages")
        images.append(figures.hours_bars(hours, "montage"))
        captions.append(
            "Recorded time by montage, the set of channels of a recording; the table under "
            "Channels names them by the same numbers."
        )
    else:
        sentences.append(f"All recordings have the same montage of {montages[0].size}.")
    sites = ok["site"].dropna()
    if sites.empty:
        sentences.append(_HOW_TO_TELL_SITES)
    elif ok["site"].nunique(dropna=False) == 1:
        sentences.append(f"All recordings are from the site {sites.iloc[0]}.")
    else:
        hours = most(hours_by(ok, ok["site"].fillna("not known")), MOST_GROUPS, "{} other sites")
        images.append(figures.hours_bars(hours, "site"))
        captions.append("Recorded time by site.")
    if images:
        yield Figure(tuple(images), " ".join(captions))
    if sentences:
        yield Text(" ".join(sentences))


def _gaps(ok: pd.DataFrame) -> str:
    """Say how much time is missing within recordings."""
    gaps = [listed(entries, dict) for entries in ok["gaps"]]
    with_gaps = sum(1 for entries in gaps if entries)
    if not with_gaps:
        return "No recording has a gap in time."
    lengths = [gap["seconds"] for entries in gaps for gap in entries]
    known = [float(seconds) for seconds in lengths if seconds is not None]
    unknown = len(lengths) - len(known)
    text = (
        f"{counted(with_gaps, 'recording')} of {len(ok):,} {'has' if with_gaps == 1 else 'have'} "
        f"{counted(len(lengths), 'gap')} in time"
    )
    if known:
        text += f", in all {seconds_text(sum(known))} that were not recorded"
    if unknown:
        text += f"; {counted(unknown, 'gap')} of unknown length"
    return f"{text}. Windows never span a gap."
