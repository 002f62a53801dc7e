"""Tables of a corpus: its recordings, what was done to them, their channels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pandas as pd

from berger.reports.blocks import Block, Details, Note, Table, Text, counted, enumeration
from berger.reports.corpus_groups import (
    Montage,
    hours_text,
    listed,
    species_of,
    subjects_noun,
)

MOST_ROWS = 200
"""Rows of a table that is folded away."""

MOST_REASONS = 12
"""Rows of a table that is not folded away."""

MOST_VARIANTS = 4
"""Sentences alike but for their numbers that are listed each by itself."""

GIVEN = "name as given"
_NUMBER = re.compile(r"\d+(\.\d+)?")


def recordings(table: pd.DataFrame) -> Iterator[Block]:
    """List the files of a corpus (its ``recordings.parquet``), the unusable ones first."""
    bad = table[table["status"] != "ok"]
    if len(bad):
        yield from _unusable(bad)
    ok = table[table["status"] == "ok"]
    if len(ok):
        if (unknown := int((ok["subject_source"] == "file name").sum())) > 1:
            yield Note(_unknown_subjects(unknown, subjects_noun(ok)))
        listing = _usable(ok)
        summary = f"{counted(len(ok), 'usable recording')}, one by one"
        yield Details(summary, [listing]) if len(ok) > MOST_REASONS else listing
    if steps := _steps(ok):
        rarer = len(steps) > MOST_REASONS
        yield Details(
            "What was done to the recordings",
            [
                Table(
                    ("recordings", "step"),
                    [(f"{number:,}", step) for step, number in steps[:MOST_REASONS]],
                    frozenset({"recordings"}),
                    "Each step and to how many recordings it was applied, the most frequent first"
                    + (f"; all {len(steps):,} are in recordings.parquet." if rarer else "."),
                )
            ],
        )


def _unknown_subjects(number: int, nouns: tuple[str, str]) -> str:
    one, several = nouns
    return (
        f"{number:,} recordings do not tell who was recorded, and each is taken as one {one}. If "
        f"some {several} have several of them, splits by {one} mean nothing: set subject_pattern "
        "and prepare the recordings anew."
    )


def _steps(ok: pd.DataFrame) -> list[tuple[str, int]]:
    """Return steps with their number of recordings; many that differ in numbers only, as one."""
    done = Counter(str(sentence) for history in ok["history"] for sentence in history)
    alike: dict[str, list[str]] = {}
    for sentence in done:
        alike.setdefault(_NUMBER.sub("#", sentence), []).append(sentence)
    steps = []
    for sentences in alike.values():
        if len(sentences) > MOST_VARIANTS:
            steps.append((f"e.g. {sentences[0]}", sum(done[other] for other in sentences)))
        else:
            steps += [(sentence, done[sentence]) for sentence in sentences]
    return sorted(steps, key=lambda step: -step[1])


def _unusable(bad: pd.DataFrame) -> Iterator[Block]:
    """List files that could not be used; those whose reasons differ in numbers only together."""
    columns = ("recording", "status", "reason")
    rows = [
        (str(name), str(status), _without_path(str(name), str(reason)))
        for name, status, reason in zip(bad["recording"], bad["status"], bad["reason"], strict=True)
    ]
    same: dict[tuple[str, str], list[tuple[str, str, str]]] = {}
    for row in rows:
        same.setdefault((row[1], _NUMBER.sub("#", row[2])), []).append(row)
    grouped = []
    for alike in sorted(same.values(), key=len, reverse=True):
        name, status, reason = alike[0]
        more = f" and {len(alike) - 1:,} more" if len(alike) > 1 else ""
        varied = len({other for _, _, other in alike}) > 1
        grouped.append((name + more, status, f"e.g. {reason}" if varied else reason))
    caption = "Files that could not be used, and why"
    if len(grouped) > MOST_REASONS:
        caption += f"; the {MOST_REASONS} most frequent of {len(grouped):,} reasons"
    yield Table(columns, grouped[:MOST_REASONS], caption=f"{caption}.")
    if len(grouped) < len(rows) or len(grouped) > MOST_REASONS:
        listed_rows = rows[:MOST_ROWS]
        more = f"The first {MOST_ROWS} of {len(rows):,}." if len(rows) > MOST_ROWS else ""
        summary = f"{counted(len(rows), 'file')} that could not be used, one by one"
        yield Details(summary, [Table(columns, listed_rows, caption=more)])


def _usable(ok: pd.DataFrame) -> Table:
    shown = ok.iloc[:MOST_ROWS]
    columns = {
        "recording": [str(name) for name in shown["recording"]],
        "subject": [str(name) for name in shown["subject"]],
        "session": [str(name) for name in shown["session"].fillna("–")],
        "site": [str(name) for name in shown["site"].fillna("–")],
        "length (s)": [f"{seconds:,.1f}" for seconds in shown["seconds"]],
        "kept (s)": [f"{seconds:,.1f}" for seconds in shown["seconds_kept"]],
        "dropped (s)": [f"{seconds:,.1f}" for seconds in shown["seconds"] - shown["seconds_kept"]],
        "gaps": [f"{len(listed(gaps, dict))}" for gaps in shown["gaps"]],
        "dropped for": [
            "; ".join(f"{entry['cause']}: {_seconds(entry['seconds'])}" for entry in entries) or "–"
            for entries in shown["dropped"]
        ],
    }
    for name, empty in (("session", "–"), ("site", "–"), ("gaps", "0")):
        if set(columns[name]) == {empty}:
            del columns[name]
    return Table(
        tuple(columns),
        list(zip(*columns.values(), strict=True)),
        frozenset({"length (s)", "kept (s)", "dropped (s)", "gaps"}),
        "Usable recordings: their length, what is kept of it, and what the rest was dropped for."
        + (f" The first {MOST_ROWS} of {len(ok):,}." if len(ok) > MOST_ROWS else ""),
    )


def _seconds(seconds: float) -> str:
    return f"{seconds:,.1f} s" if seconds >= 0.95 else f"{seconds:.1g} s"


def _without_path(recording: str, reason: str) -> str:
    """Leave out the file's path at the beginning of a reason, as it stands beside it already."""
    return reason.partition(f"{recording.rpartition('/')[2]}: ")[2] or reason


def channels(ok: pd.DataFrame, montages: Sequence[Montage]) -> Iterator[Block]:
    """List montages, what was kept out, and what was renamed, of usable recordings."""
    if species := species_of(ok):
        if sum(species.values()) < len(ok):
            species["not known"] = len(ok) - sum(species.values())
        of_each = enumeration(
            f"{name} ({counted(number, 'recording')})" for name, number in species.items()
        )
        yield Text(f"Species: {of_each}.")
    if montages:
        first = _montages(montages[:MOST_REASONS])
        if len(montages) > MOST_REASONS:
            cut = f", the first {MOST_ROWS}" if len(montages) > MOST_ROWS else ""
            yield replace(
                first,
                caption=f"{first.caption} The {MOST_REASONS} with the most usable hours, of "
                f"{len(montages):,}.",
            )
            summary = f"{counted(len(montages), 'montage')}{cut}"
            yield Details(summary, [_montages(montages[:MOST_ROWS])])
        else:
            yield first
    kept_out = Counter(
        (str(entry["reason"]), str(entry["name"]))
        for entries in ok["kept_out"]
        for entry in entries
    )
    if kept_out:
        rows = [
            (name or "(no name)", reason, f"{number:,}")
            for (reason, name), number in sorted(
                kept_out.items(), key=lambda item: (-item[1], item[0])
            )
        ]
        yield from _folded(
            Table(
                ("channel in the file", "kept out because", "recordings"),
                rows,
                frozenset({"recordings"}),
                "Channels that are in the files but not in the corpus.",
            ),
            f"{counted(len(rows), 'channel')} kept out",
        )
    elif len(ok):
        yield Text("No channel was kept out.")
    renamed = Counter(
        (str(before), str(after))
        for befores, afters in zip(ok["original_ch_names"], ok["ch_names"], strict=True)
        for before, after in zip(befores, afters, strict=True)
        if before != after
    )
    if renamed:
        (before, after), _ = renamed.most_common(1)[0]
        yield Details(
            f"{counted(len(renamed), 'name')} written as the 10–20 system does, "
            f"e.g. {before} → {after}",
            [
                Table(
                    ("in the file", "in the corpus", "recordings"),
                    [
                        (b, a, f"{number:,}")
                        for (b, a), number in sorted(renamed.items())[:MOST_ROWS]
                    ],
                    frozenset({"recordings"}),
                )
            ],
        )


def _montages(montages: Sequence[Montage]) -> Table:
    """List montages; what kinds their channels are only where some are no scalp electrodes."""
    all_scalp = all(montage.is_scalp for montage in montages)
    size = "electrodes" if all_scalp else "channels"
    columns = {
        "montage": [str(montage.number) for montage in montages],
        "recordings": [f"{len(montage.recordings):,}" for montage in montages],
        "usable hours": [hours_text(montage.seconds_kept / 3600) for montage in montages],
        size: [str(len(montage.ch_names)) for montage in montages],
        "kinds": [_kinds(montage) for montage in montages],
        "names": [" ".join(montage.ch_names) for montage in montages],
    }
    caption = f"The sets of {size} that the corpus holds, in their order on disk."
    if all_scalp:
        del columns["kinds"]
    elif any(GIVEN in montage.kinds for montage in montages):
        caption += (
            f" “{GIVEN[0].upper()}{GIVEN[1:]}”: the name is no electrode of the 10–20 system or "
            "its extensions, and stands as in the file."
        )
    return Table(
        tuple(columns),
        list(zip(*columns.values(), strict=True)),
        frozenset({"montage", "recordings", "usable hours", size}),
        caption,
    )


def _kinds(montage: Montage) -> str:
    """Return "2 scalp, 1 EMG"."""
    kinds = Counter(montage.kinds).most_common()
    return ", ".join(f"{number} {kind}" for kind, number in kinds) or "not known"


def _folded(table: Table, summary: str) -> Iterator[Block]:
    """Yield a table, or a folded one where it is long."""
    if len(table.rows) <= MOST_REASONS:
        yield table
        return
    cut = replace(table, rows=table.rows[:MOST_ROWS])
    if len(table.rows) > MOST_ROWS:
        more = f"{table.caption} The first {MOST_ROWS} of {len(table.rows):,}."
        cut = replace(cut, caption=more)
    yield Details(summary, [cut])
