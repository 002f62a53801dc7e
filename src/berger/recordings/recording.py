"""What a recording is, and which of a file's channels belong to it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
import numpy.typing as npt

from berger.channels import canonical_name, canonical_names, electrodes_of, kind_of
from berger.errors import BergerError

Unit = Literal["V", "mV", "µV", "uV", "nV"]
MICROVOLTS: Mapping[str, float] = MappingProxyType(
    {"V": 1e6, "mV": 1e3, "µV": 1.0, "uV": 1.0, "nV": 1e-3}
)
"""µV per unit."""


class RejectedError(BergerError):
    """A sound recording that is not admitted, e.g. for want of a channel asked for.

    Parameters
    ----------
    reason : str
    there : sequence of str
        Channels that it could be read with, by their names in the file.
    """

    def __init__(self, reason: str, there: Sequence[str] = ()) -> None:
        super().__init__(reason)
        self.there = tuple(there)


@dataclass(frozen=True)
class Annotation:
    """Something marked in time: seconds from the recording's first sample."""

    onset: float
    duration: float
    description: str


@dataclass(frozen=True)
class KeptOut:
    """A channel of the file that is not among the recording's, by its name there, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Gap:
    """Time that was not recorded: `seconds` (None if unknown) right before sample `start`."""

    start: int
    seconds: float | None


@dataclass(frozen=True, eq=False)
class Recording:
    """What was recorded from one subject in one sitting.

    Attributes
    ----------
    signal : ndarray of float64, shape (n_chans, n_times)
        Microvolts.
    ch_names : tuple of str
        Canonical names of the 10–20 system and its extensions where the file's names are such,
        else the names as in the file.
    sfreq : float
        Samples per second.
    subject : str
        Who was recorded.
    subject_source : str
        How `subject` is known: "pattern" (found in the path), "bids" (the file lies in a BIDS
        root), "header" (the file's patient code), "file name" (nothing better; two files are then
        two subjects) or "simulation".
    session : str or None
        Which of the subject's recordings, where the path says so.
    path : Path
        The file.
    original_ch_names : tuple of str
        The names as in the file, in the order of `ch_names`.
    kept_out : tuple of KeptOut
        The file's other channels.
    annotations : tuple of Annotation
        In order of onset. Seconds count what was recorded; time missing in `gaps` does not count.
    gaps : tuple of Gap
        Where the recording was interrupted, or one trial ends and the next begins.
    kinds : tuple of str
        What each channel is, in the order of `ch_names`: "scalp" (an electrode of the 10–5
        system), what the file declares ("depth electrode", "EMG", ...) or the name says ("EOG",
        "bipolar", ...), else "name as given". Empty where nobody has said.
    site : str or None
        Where it was recorded, where the path or a BIDS root says so.
    run, task : str or None
        Which run of which task, where a BIDS root says so.
    species : str or None
        Who was recorded, where a BIDS root says so; "human", "mouse" or "rat" for these.
    participant : tuple of (str, str)
        All that a BIDS root says of the subject, column and value as they stand there.
    notes : tuple of str
        What was taken from elsewhere than the file or left out, and what is odd about the file,
        in sentences.
    bads : tuple of str
        Those of `ch_names` that the file or a BIDS root marks as bad.
    """

    signal: npt.NDArray[np.float64]
    ch_names: tuple[str, ...]
    sfreq: float
    subject: str
    subject_source: str
    session: str | None
    path: Path
    original_ch_names: tuple[str, ...]
    kept_out: tuple[KeptOut, ...] = ()
    annotations: tuple[Annotation, ...] = ()
    gaps: tuple[Gap, ...] = ()
    kinds: tuple[str, ...] = ()
    site: str | None = None
    run: str | None = None
    task: str | None = None
    species: str | None = None
    participant: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    bads: tuple[str, ...] = ()

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return float(self.signal.shape[1] / self.sfreq)


@dataclass(frozen=True)
class Wanted:
    """Which channels to take from a file.

    Attributes
    ----------
    ch_names : tuple of str or None
        By label or canonical name; None for those named as electrodes of the 10–5 system.
    besides : tuple of str
        Electrodes to take as well where they are there, ears and mastoids included, since other
        channels are to be referenced to them.
    table : ChannelTable or None
        What stands beside the file about its channels. Its kinds go before the file's own.
    samples : bool
        Whether the signal is read; else it is `unread`.
    """

    ch_names: tuple[str, ...] | None = None
    besides: tuple[str, ...] = ()
    table: ChannelTable | None = None
    samples: bool = True


def unread(n_chans: int, n_times: int) -> npt.NDArray[np.float64]:
    """Return NaN in the place of a signal that is not read, whose size it has but not in memory."""
    return np.broadcast_to(np.nan, (n_chans, n_times))


@dataclass(frozen=True)
class Channels:
    """Which of a file's channels are taken as EEG."""

    taken: dict[int, str]  # index in the file → canonical name, or the label
    kept_out: tuple[KeptOut, ...]
    kinds: tuple[str, ...]  # of those taken, as in `Recording`
    bads: tuple[str, ...] = ()  # of those taken, which the file marks as bad


@dataclass(frozen=True, eq=False)
class Content:
    """What a reader finds in a file of its format."""

    labels: tuple[str, ...]  # of all channels
    channels: Channels
    signal: npt.NDArray[np.float64]  # (channels taken, n_times), µV
    sfreq: float
    annotations: tuple[Annotation, ...]
    patient_code: str | None
    gaps: tuple[Gap, ...] = ()
    units: tuple[str | None, ...] = ()  # of all channels as the file states them, if it does
    notes: tuple[str, ...] = ()  # what is to be known, in sentences


@dataclass(frozen=True)
class DescribedChannel:
    """What a table beside the file says of one channel; None where it says nothing."""

    name: str
    kind: str | None = None  # as in `Recording.kinds`; "EEG" is decided by the name
    unit: str | None = None
    bad: bool = False


@dataclass(frozen=True)
class ChannelTable:
    """A table beside the file that describes its channels, and what to call it in messages."""

    source: str
    rows: tuple[DescribedChannel, ...]

    def match(self, path: Path, labels: Sequence[str]) -> dict[int, DescribedChannel]:
        """Return index in the file → row, by name; of equal names the first is the first.

        Programs that rename channels in memory write tables of the new names beside files of the
        old ones: what is left over is matched by electrode, where that leaves no choice.

        Raises
        ------
        BergerError
            If a row names a channel that the file `path` lacks.
        """
        places: dict[str, list[int]] = {}
        for index, label in enumerate(labels):
            places.setdefault(label.strip(), []).append(index)
        matched: dict[int, DescribedChannel] = {}
        renamed: dict[str, list[DescribedChannel]] = {}
        for row in self.rows:
            if places.get(row.name):
                matched[places[row.name].pop(0)] = row
            else:
                renamed.setdefault(_electrode(row.name), []).append(row)
        left: dict[str, list[int]] = {}
        for index in sorted(set(range(len(labels))) - set(matched)):
            left.setdefault(_electrode(labels[index]), []).append(index)
        unknown = []
        for electrode, rows in renamed.items():
            if len(rows) == len(left.get(electrode, [])) == 1:
                matched[left.pop(electrode)[0]] = rows[0]
            else:
                unknown += [row.name for row in rows]
        if unknown:
            places_left = sorted(at for indices in left.values() for at in indices)
            undescribed = [labels[index] for index in places_left]
            raise BergerError(
                f"{path}: {self.source} describes {_listed(unknown)}, which the file lacks; "
                f"correct the names there to the file's"
                + (f", of which {_listed(undescribed)} are not described." if left else ".")
            )
        return matched


def _electrode(name: str) -> str:
    """Return what names of one channel have in common: "EEG FP1-Ref" and "Fp1" are "Fp1"."""
    bare = re.sub(r"^(eeg|pol)[\s:_.-]+", "", name.strip().casefold())
    return electrodes_of([name])[0] or bare


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def gaps_between(clock: npt.NDArray[np.float64], starts: npt.NDArray[np.int64]) -> tuple[Gap, ...]:
    """Return the gaps between pieces.

    Parameters
    ----------
    clock : ndarray, shape (n_pieces, 2)
        When each piece began and ended, in seconds.
    starts : ndarray, shape (n_pieces,)
        First sample of each piece.
    """
    missing = clock[1:, 0] - clock[:-1, 1]
    return tuple(
        Gap(int(start), float(seconds)) for start, seconds in zip(starts[1:], missing, strict=True)
    )


def recorded_annotations(
    annotations: Iterable[Annotation], clock: npt.NDArray[np.float64]
) -> tuple[Annotation, ...]:
    """Turn annotations by the clock into annotations by seconds recorded.

    What lies in a gap is put at it; a duration loses the time that was not recorded.

    Parameters
    ----------
    annotations : iterable of Annotation
        With onsets by the clock.
    clock : ndarray, shape (n_pieces, 2)
        When each piece began and ended, in seconds by the clock.
    """
    begins, ends = clock.T
    recorded = np.concatenate([[0.0], np.cumsum(ends - begins)])

    def seconds_at(time: float) -> float:
        piece = max(int(np.searchsorted(begins, time + 1e-9, side="right")) - 1, 0)
        return float(recorded[piece] + min(time - begins[piece], ends[piece] - begins[piece]))

    moved = []
    for mark in annotations:
        onset = seconds_at(mark.onset)
        duration = seconds_at(mark.onset + mark.duration) - onset
        if abs(duration - mark.duration) < 1e-9:  # as it was stated, without rounding errors
            duration = mark.duration
        moved.append(Annotation(onset, duration, mark.description))
    return tuple(sorted(moved, key=lambda mark: mark.onset))


_REASONS = {
    "unknown": "not an electrode name",
    "bipolar": "difference of two electrodes",
    "reference": "reference electrode",
}


def choose_channels(
    path: Path,
    labels: Sequence[str],
    unusable: Mapping[int, str],
    wanted: Wanted,
    declared: Mapping[int, str] = MappingProxyType({}),
    bads: Collection[int] = (),
) -> Channels:
    """Choose a file's EEG channels.

    Parameters
    ----------
    path : Path
        The file, for messages.
    labels : sequence of str
        The names of all its channels.
    unusable : mapping of int to str
        Index of a channel that cannot be EEG whatever its name → why.
    wanted : Wanted
        The channels to take.
    declared : mapping of int to str
        Index of a channel that the file itself calls something else than EEG → what. Such a
        channel is taken only where it is wanted.
    bads : collection of int
        Indices of the channels that the file marks as bad. They are taken like others, and so are
        those that ``wanted.table`` marks, unless there is a good one of the same electrode.

    Raises
    ------
    RejectedError
        If a channel wanted is not there.
    BergerError
        If no channel is left, two of one name, or the table does not fit.
    """
    names = canonical_names(labels)
    described = wanted.table.match(path, labels) if wanted.table else {}
    bads = {*bads, *(index for index, row in described.items() if row.bad)}
    told = {index: row.kind for index, row in described.items() if row.kind}
    declared = {i: kind for i, kind in {**declared, **told}.items() if kind != "EEG"}
    reasons = dict(unusable)
    if wanted.ch_names is None:
        reasons = {**declared, **unusable}
    missing = []
    if wanted.ch_names is None:
        for index, label in enumerate(labels):
            if names[index] is None:
                kind = kind_of(label)
                # A lettered cap's "C3" has no canonical name, though alone it would be EEG.
                kind = "unknown" if kind == "EEG" else kind
                reasons.setdefault(index, _REASONS.get(kind, kind))
    else:
        asked: set[int] = set()
        for name in wanted.ch_names:
            hits = {index for index, label in enumerate(labels) if label == name}
            canonical = canonical_name(name)
            if not hits and canonical is not None:
                hits = {index for index, known in enumerate(names) if known == canonical}
            asked |= hits
            if hits <= set(unusable):
                missing.append(name)
        for index in set(range(len(labels))) - asked:
            reasons.setdefault(index, "not asked for")
    besides = {name for asked in wanted.besides for name in (asked, *electrodes_of([asked]))}
    for index, (label, electrode) in enumerate(zip(labels, electrodes_of(labels), strict=True)):
        if index not in unusable and {label, electrode} & (besides - {None}):
            reasons.pop(index, None)
    well = {names[index] for index in range(len(labels)) if index not in {*reasons, *bads}}
    for index in set(bads) - set(reasons):
        if names[index] in well - {None}:
            reasons[index] = "marked as bad"

    kept_out = tuple(KeptOut(labels[index], reasons[index]) for index in sorted(reasons))
    taken = {i: names[i] or label for i, label in enumerate(labels) if i not in reasons}
    if missing:
        raise RejectedError(
            f"{path}: lacks {', '.join(missing)}; correct `ch_names` to channels that are there: "
            f"{_by_reason([*(KeptOut(labels[i], 'usable') for i in taken), *kept_out])}.",
            [
                name
                for i, name in enumerate(labels)
                if i not in unusable and labels.count(name) == 1
            ],
        )
    if not taken:
        raise BergerError(
            f"{path}: has no EEG channel, only {_by_reason(kept_out)}; name the channels to take "
            "in `ch_names`, or correct the names and units in the file's header."
        )
    for index, name in taken.items():
        same = [
            i
            for i, label in enumerate(labels)
            if taken.get(i) == name or (label == labels[index] and i not in unusable)
        ]
        if len(same) > 1:
            raise BergerError(
                f"{path}: has the electrode {name} more than once "
                f"({' and '.join(repr(labels[i]) for i in same)}); name the channels to take in "
                "`ch_names`, or give each a name of its own in the file's header."
            )
    kinds = tuple(
        declared.get(index) or ("scalp" if names[index] else _kind_as_named(labels[index]))
        for index in taken
    )
    return Channels(taken, kept_out, kinds, tuple(taken[i] for i in sorted(bads) if i in taken))


def _kind_as_named(label: str) -> str:
    """Return what a channel that is no electrode of the 10–5 system holds, by its name."""
    kind = kind_of(label)
    # A lettered cap's "C3" is a place on the cap, though alone it would be an electrode.
    return "name as given" if kind in ("unknown", "EEG") else kind


def _by_reason(channels: Iterable[KeptOut]) -> str:
    """List channels by reason: "ECG1, ECG2 (ECG); X, Y (not an electrode name)"."""
    groups: dict[str, list[str]] = {}
    for channel in channels:
        groups.setdefault(channel.reason, []).append(channel.name or "''")
    return "; ".join(
        ", ".join(names[:8]) + (f" and {len(names) - 8} more" * (len(names) > 8)) + f" ({reason})"
        for reason, names in groups.items()
    )
