"""Prepare one file: read, preprocess, quantise, stage; runs in a worker."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from berger.corpus.exclusion import Exclusion, refuse_excluded
from berger.corpus.format import (
    LARGEST_STEP,
    LARGEST_VALUE,
    RECORDING_COLUMNS,
    quantise,
)
from berger.errors import BergerError
from berger.files import write_json, written_whole
from berger.preprocessing import PreprocessingConfig, preprocess
from berger.preprocessing.stretches import SHORTEST_STRETCH
from berger.recordings import RejectedError, hash_of, read_recording, species_name


@dataclass(frozen=True)
class Task:
    """One file to prepare."""

    recording: str
    path: Path
    source_bytes: int
    source_time: int | None  # when it was last changed, ns; goes into the log alone
    config: PreprocessingConfig
    staging: Path
    excluded: tuple[Exclusion, ...] = ()

    def __str__(self) -> str:
        return self.recording


@dataclass(frozen=True)
class Entry:
    """All that the tables say about one file."""

    row: dict[str, Any]
    stretches: list[list[int]]

    @property
    def is_ok(self) -> bool:
        """Whether it has data in the corpus."""
        return bool(self.row["status"] == "ok")

    @property
    def n_elements(self) -> int:
        """Size of its block in the shard."""
        return int(self.row["n_times"] * len(self.row["ch_names"]))

    @classmethod
    def staged(cls, staging: Path, recording: str) -> Self | None:
        """Return what is staged of a file, if anything."""
        path = staged_path(staging, recording, ".json")
        return cls(**json.loads(path.read_bytes())) if path.is_file() else None


def stage(task: Task) -> Entry:
    """Prepare one file into a staged block; a file that cannot be prepared is an entry too."""
    row: dict[str, Any] = dict.fromkeys(RECORDING_COLUMNS.names)
    row |= {"recording": task.recording, "source_bytes": task.source_bytes, "status": "ok"}
    row |= {"n_times": 0, "offset": 0, "seconds_kept": 0.0}
    stretches: list[tuple[int, int]] = []
    try:
        _check_name(task.path)
        samples, stretches = _prepare_signal(task, row)
    except Exception as error:  # whatever is wrong with one file, the others go on
        row["status"] = "rejected" if isinstance(error, RejectedError) else "failed"
        kind = "" if isinstance(error, BergerError) else f"{type(error).__name__}: "
        reason = _without_place(f"{kind}{error}", task)
        row["reason"] = " ".join(reason.encode("utf-8", "backslashreplace").decode().split())
    else:  # a full disk is no fault of the file: outside of `try`
        block = staged_path(task.staging, task.recording, ".npy")
        with written_whole(block) as temporary, temporary.open("wb") as file:
            np.save(file, samples, allow_pickle=False)
    # What cannot be read, or belongs to a file whose name is no text, has failed above.
    with suppress(OSError, UnicodeError, BergerError):
        row["source_sha256"] = hash_of(task.path)
    # After the block: where this stands, the block stands.
    content = {"row": row, "stretches": stretches}
    write_json(staged_path(task.staging, task.recording, ".json"), content)
    return Entry(row, [list(stretch) for stretch in stretches])


def stage_elsewhere(task: Task) -> Entry:
    """`stage` on a worker that may be another machine.

    Raises
    ------
    BergerError
        If it does not see the corpus's folder or the file, which this machine's are no fault of.
    """
    host = socket.gethostname()
    if not task.staging.is_dir():
        raise BergerError(
            f"{task.staging.parent}: the worker on {host} does not see this folder; choose one "
            "that all machines share under the same path."
        )
    if task.source_bytes and not task.path.exists():
        raise BergerError(
            f"{task.path}: the worker on {host} does not see this file; put the recordings where "
            "all machines see them under the same path."
        )
    return stage(task)


def _without_place(text: str, task: Task) -> str:
    """Name files by the ids' way, not by this machine's: equal contents are equal bytes."""
    above = task.recording.split("/")[:-1]
    for path in (task.path, task.path.resolve()):  # as given, and with links followed
        text = text.replace(str(path), task.recording)
        for depth, folder in enumerate(path.parents[: max(len(above), 1)]):
            called = "".join(f"{name}/" for name in above[: len(above) - depth])
            text = text.replace(f"{folder}{os.sep}", called)
    return text


def as_text(name: str) -> str:
    r"""Return a name of the system as text: bytes that are not UTF-8 are written out, ``\xe9``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _check_name(path: Path) -> None:
    """Refuse what neither a table nor a log can hold."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        cure = "rename it"
        if (system := sys.getfilesystemencoding()) != "utf-8":
            cure += f", or where names are UTF-8, not {system} (LC_ALL=C.UTF-8), run again"
        raise BergerError(f"{path}: its path is not UTF-8; {cure}.") from error


def _prepare_signal(
    task: Task, row: dict[str, Any]
) -> tuple[npt.NDArray[np.int16], list[tuple[int, int]]]:
    """Return a file's block and usable stretches; put into `row` what is learned on the way."""
    config = task.config
    source = read_recording(
        task.path,
        subject_pattern=config.subject_pattern,
        ch_names=config.ch_names,
        besides=config.besides,
        layout=config.layout,
        unit=config.unit,
    )
    row |= {
        "subject": source.subject,
        "subject_source": source.subject_source,
        "session": source.session,
        "site": source.site,
        "source_sfreq": source.sfreq,
        "seconds": source.duration,
        "ch_names": list(source.ch_names),
        "original_ch_names": list(source.original_ch_names),
        "kept_out": [asdict(channel) for channel in source.kept_out],
        "kinds": list(source.kinds),
        "species": source.species or config.species,
        "run": source.run,
        "task": source.task,
        "participant": [{"name": name, "value": value} for name, value in source.participant],
    }
    refuse_excluded(task.path, source.subject, source.subject_source, task.excluded)
    if source.species and config.species and source.species != species_name(config.species):
        raise RejectedError(
            f"{task.path}: is of species {source.species!r} by participants.tsv, but the "
            f"configuration says {config.species!r}; leave out `species`, or correct one of them."
        )
    prepared, notes = preprocess(source, config), source.notes
    del source  # with the raw signal, the largest thing in memory
    cleaned = prepared.recording
    samples, scale, stretches, n_dropped = quantise(
        cleaned.signal, prepared.stretches, SHORTEST_STRETCH * cleaned.sfreq
    )
    dropped = {cause: seconds for cause, seconds in prepared.dropped.items() if seconds > 0}
    history = [*notes, *prepared.history]
    if n_dropped:
        dropped["out of range"] = n_dropped / cleaned.sfreq
        history.append(
            f"Dropped {n_dropped} samples beyond ±{LARGEST_VALUE:.0f} µV, which 16 bits in steps "
            f"of {LARGEST_STEP:g} µV do not hold."
        )
    n_kept = sum(stop - start for start, stop in stretches)
    n_usable = sum(stop - start for start, stop in prepared.stretches)
    if n_short := n_usable - n_dropped - n_kept:
        cause, seconds = "stretch under 1 s", n_short / cleaned.sfreq
        dropped[cause] = dropped.get(cause, 0.0) + seconds
        history.append(f"Dropped the stretches under 1 s that these left, {seconds:.1f} s.")
    row |= {
        "sfreq": cleaned.sfreq,
        "ch_names": list(cleaned.ch_names),
        "original_ch_names": list(cleaned.original_ch_names),
        "kept_out": [asdict(channel) for channel in cleaned.kept_out],
        "interpolated": list(prepared.interpolated),
        "kinds": list(cleaned.kinds),
        "offset_seconds": prepared.offset,
        "dropped": [{"cause": cause, "seconds": seconds} for cause, seconds in dropped.items()],
        "annotations": [asdict(annotation) for annotation in cleaned.annotations],
        "history": history,
        "gaps": [asdict(gap) for gap in cleaned.gaps],
    }
    if not stretches:
        causes = ", ".join(f"{cause} {seconds:.1f} s" for cause, seconds in dropped.items())
        raise RejectedError(f"{task.path}: nothing usable is left ({causes}).")
    row |= {
        "n_times": len(samples),
        "scale": scale.tolist(),
        "seconds_kept": n_kept / cleaned.sfreq,
    }
    return samples, stretches


def staged_path(staging: Path, recording: str, suffix: str) -> Path:
    """Where a file's block or entry is staged; an id may be no file name."""
    return staging / (hashlib.sha1(recording.encode(), usedforsecurity=False).hexdigest() + suffix)
