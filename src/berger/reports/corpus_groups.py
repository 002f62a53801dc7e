"""Whose, from where and of which montage the recordings of a corpus are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from berger.reports.blocks import counted

SCALP = "scalp"


@dataclass(frozen=True, eq=False)
class Montage:
    """Channels in one order, and the recordings that have them.

    Attributes
    ----------
    number : int
        From 1; the first has the most usable hours.
    ch_names, kinds : tuple of str
        Names, and what each channel is (empty where nobody has said).
    recordings : DataFrame
        Rows of the corpus' table.
    """

    number: int
    ch_names: tuple[str, ...]
    kinds: tuple[str, ...]
    recordings: pd.DataFrame

    @property
    def seconds_kept(self) -> float:
        """Usable time."""
        return float(self.recordings["seconds_kept"].sum())

    @property
    def is_scalp(self) -> bool:
        """Whether all channels are electrodes on the scalp, as far as known."""
        return set(self.kinds) <= {SCALP}

    @property
    def size(self) -> str:
        """Number of channels, in words: "19 electrodes", "2 channels"."""
        return counted(len(self.ch_names), "electrode" if self.is_scalp else "channel")


def montages_of(ok: pd.DataFrame) -> list[Montage]:
    """Return the montages of usable recordings, the one with the most usable hours first."""
    keys = ok["ch_names"].map("\n".join)
    groups = [group for _, group in ok.groupby(keys, sort=False)]
    groups.sort(key=lambda group: (-group["seconds_kept"].sum(), -len(group)))
    return [
        Montage(
            number, tuple(group["ch_names"].iloc[0]), listed(group["kinds"].iloc[0], str), group
        )
        for number, group in enumerate(groups, 1)
    ]


def hours_by(ok: pd.DataFrame, labels: pd.Series) -> pd.DataFrame:
    """Return hours ``kept`` and ``dropped`` of usable recordings by label, in the labels' order."""
    seconds = ok.groupby(labels)[["seconds", "seconds_kept"]].sum() / 3600
    return pd.DataFrame(
        {"kept": seconds["seconds_kept"], "dropped": seconds["seconds"] - seconds["seconds_kept"]}
    )


def most(hours: pd.DataFrame, number: int, others: str) -> pd.DataFrame:
    """Return the rows with the most hours kept; where there are more, the last sums up the rest.

    Parameters
    ----------
    hours : DataFrame
        As `hours_by` returns it.
    number : int
        Rows to return at most.
    others : str
        Label of the last row; ``{}`` stands for how many it sums up.
    """
    hours = hours.sort_values("kept", ascending=False, kind="stable")
    if len(hours) <= number:
        return hours
    rest = hours.iloc[number - 1 :]
    label = others.format(f"{len(rest):,}")
    return pd.concat([hours.iloc[: number - 1], rest.sum().to_frame(label).T])


def species_of(ok: pd.DataFrame) -> dict[str, int]:
    """Return recordings by species, where it is known."""
    return {str(name): int(n) for name, n in ok["species"].dropna().value_counts().items()}


def subjects_noun(ok: pd.DataFrame) -> tuple[str, str]:
    """Return what subjects are called, one and several: people, animals, or subjects if mixed."""
    species = species_of(ok)
    human = [name.casefold() in ("human", "homo sapiens") for name in species]
    if all(human):
        return "person", "people"
    if any(human) or sum(species.values()) < len(ok):
        return "subject", "subjects"
    return "animal", "animals"


def listed(value: Any, kind: type) -> tuple[Any, ...]:
    """Return a cell that holds a list, or nothing at all, as a tuple."""
    return tuple(kind(entry) for entry in value) if isinstance(value, Iterable) else ()


def hours_text(hours: float) -> str:
    """Return hours with as many digits as a reader needs: "0.17", "27.4", "27,312"."""
    digits = 2 if hours < 10 else 1 if hours < 100 else 0
    return f"{hours:,.{digits}f}"


def seconds_text(seconds: float) -> str:
    """Return a time in the unit that suits it: "0.2 s", "11 min", "3.4 h"."""
    if seconds < 0.95:
        return f"{seconds:.1g} s"
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60)):
        if seconds < limit:
            return f"{seconds / size:,.{1 if seconds / size < 10 else 0}f} {unit}"
    return f"{hours_text(seconds / 3600)} h"
