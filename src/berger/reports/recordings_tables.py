"""Tables of a corpus: its recordings, what was done to them, their channels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pandas as pd

from berger.reports.blocks import Block, Details, Table, Text, counted

MOST_ROWS = 200
"""Rows of a table that is folded away."""

MOST_REASONS = 12
"""Rows of a table that is not folded away."""


def recordings(table: pd.DataFrame) -> Iterator[Block]:
    """List the files of a corpus (its ``recordings.parquet``), the unusable ones first."""
    bad = table[table["status"] != "ok"]
    if len(bad):
        yield from _unusable(bad)
    ok = table[table["status"] == "ok"]
    if len(ok):
        listing = _usable(ok)
        summary = f"{counted(len(ok), 'usable recording')}, one by one"
        yield Details(summary, [listing]) if len(ok) > MOST_REASONS else listing
    done = Counter(str(sentence) for history in ok["history"] for sentence in history)
    if done:
        rarer = len(done) > MOST_REASONS
        yield Details(
            "What was done to the recordings",
            [
                Table(
                    ("recordings", "step"),
                    [(f"{number:,}", step) for step, number in done.most_common(MOST_REASONS)],
                    frozenset({"recordings"}),
                    "Each step and to how many recordings it was applied, the most frequent first"
                    + (f"; all {len(done):,} are in recordings.parquet." if rarer else "."),
                )
            ],
        )


def _unusable(bad: pd.DataFrame) -> Iterator[Block]:
    """List files that could not be used; those with the same reason together."""
    columns = ("recording", "status", "reason")
    rows = [
        (str(row.recording), str(row.status), _without_path(str(row.recording), str(row.reason)))
        for row in bad.itertuples()
    ]
    same: dict[tuple[str, str], list[str]] = {}
    for recording, *why in rows:
        same.setdefault((why[0], why[1]), []).append(recording)
    grouped = [
        (names[0] + (f" and {len(names) - 1:,} more" if len(names) > 1 else ""), *why)
        for why, names in same.items()
    ]
    caption = "Files that could not be used, and why"
    if len(grouped) > MOST_REASONS:
        caption += f"; the first {MOST_REASONS} of {len(grouped):,} reasons"
    yield Table(columns, grouped[:MOST_REASONS], caption=f"{caption}.")
    if len(grouped) < len(rows) or len(grouped) > MOST_REASONS:
        listed = rows[:MOST_ROWS]
        more = f"The first {MOST_ROWS} of {len(rows):,}." if len(rows) > MOST_ROWS else ""
        summary = f"{counted(len(rows), 'file')} that could not be used, one by one"
        yield Details(summary, [Table(columns, listed, caption=more)])


def _usable(ok: pd.DataFrame) -> Table:
    columns = {
        "recording": [str(name) for name in ok["recording"]],
        "subject": [str(name) for name in ok["subject"]],
        "session": [str(name or "–") for name in ok["session"]],
        "length (s)": [f"{seconds:,.1f}" for seconds in ok["seconds"]],
        "kept (s)": [f"{seconds:,.1f}" for seconds in ok["seconds_kept"]],
        "dropped (s)": [f"{seconds:,.1f}" for seconds in ok["seconds"] - ok["seconds_kept"]],
        "dropped for": [
            "; ".join(f"{entry['cause']}: {_seconds(entry['seconds'])}" for entry in entries) or "–"
            for entries in ok["dropped"]
        ],
    }
    if ok["session"].isna().all():
        del columns["session"]
    return Table(
        tuple(columns),
        list(zip(*columns.values(), strict=True))[:MOST_ROWS],
        frozenset({"length (s)", "kept (s)", "dropped (s)"}),
        "Usable recordings: their length, what is kept of it, and what the rest was dropped for."
        + (f" The first {MOST_ROWS} of {len(ok):,}." if len(ok) > MOST_ROWS else ""),
    )


def _seconds(seconds: float) -> str:
    return f"{seconds:,.1f} s" if seconds >= 0.95 else f"{seconds:.1g} s"


def _without_path(recording: str, reason: str) -> str:
    """Leave out the file's path at the beginning of a reason, as it stands beside it already."""
    return reason.partition(f"{recording.rpartition('/')[2]}: ")[2] or reason


def channels(ok: pd.DataFrame, montages: Counter[tuple[str, ...]]) -> Iterator[Block]:
    """List montages, what was kept out, and what was renamed, of usable recordings."""
    yield Table(
        ("montage", "recordings", "electrodes", "names"),
        [
            (str(number), f"{recordings:,}", str(len(names)), " ".join(names))
            for number, (names, recordings) in enumerate(montages.most_common(MOST_ROWS), 1)
        ],
        frozenset({"montage", "recordings", "electrodes"}),
        "The sets of electrodes that the corpus holds, in their order on disk.",
    )
    kept_out = Counter(
        (str(entry["reason"]), str(entry["name"]))
        for entries in ok["kept_out"]
        for entry in entries
    )
    if kept_out:
        yield Table(
            ("channel in the file", "kept out because", "recordings"),
            [
                (name or "(no name)", reason, f"{number:,}")
                for (reason, name), number in sorted(kept_out.items())[:MOST_ROWS]
            ],
            frozenset({"recordings"}),
            "Channels that are in the files but not in the corpus.",
        )
    else:
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
