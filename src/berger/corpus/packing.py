"""Put staged blocks into shards, write tables and manifest, and find again what stands."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from berger.corpus.exclusion import Exclusion
from berger.corpus.format import (
    MANIFEST,
    RECORDING_COLUMNS,
    RECORDINGS,
    SAMPLE,
    STAGING,
    WINDOW_COLUMNS,
    WINDOWS,
    CorpusManifest,
    Counts,
    FileEntry,
    Montage,
    misfits,
    read_table,
    shard_name,
    write_table,
)
from berger.corpus.staging import Entry, staged_path
from berger.errors import BergerError
from berger.files import write_json, written_whole
from berger.preprocessing import PreprocessingConfig

SHARD_BYTES = 2**30
"""A shard is closed before it grows larger; only a recording that is larger itself makes it so."""

_BYTES_AT_ONCE = 2**22  # large enough that other threads are seldom asked for the interpreter


def pack(out: Path, entries: Iterable[Entry], n_shards: int) -> list[FileEntry]:
    """Write staged blocks into new shards after `n_shards`, and where they are into the entries.

    A block is copied as soon as its entry comes; a shard is closed when one comes that has no room
    in it, or no more come.
    """
    shards: list[FileEntry] = []
    coming = iter(entries)
    first = next(coming, None)
    while first is not None:
        shard, first = _write_shard(out, shard_name(n_shards + len(shards)), first, coming)
        shards.append(shard)
    return shards


def _write_shard(
    out: Path, file: str, first: Entry, coming: Iterator[Entry]
) -> tuple[FileEntry, Entry | None]:
    """Write one shard, note who is in it, remove their staged blocks; return who has no room."""
    staging = out / STAGING
    members: list[Entry] = []
    n_elements = 0
    entry: Entry | None = first
    with written_whole(out / file) as temporary:
        with temporary.open("w+b") as shard:
            shard.write(_header(n_elements))  # as long as that which replaces it in the end
            while entry is not None:
                n_elements += entry.n_elements
                if members and n_elements * SAMPLE.itemsize > SHARD_BYTES:
                    n_elements -= entry.n_elements
                    break
                _append(shard, staged_path(staging, entry.row["recording"], ".npy"), entry)
                members.append(entry)
                entry = next(coming, None)
            n_bytes = shard.tell()
            shard.seek(0)
            shard.write(_header(n_elements))
            # Only now: a digest begins with the header, which tells how much there is.
            shard.seek(0)
            digest = hashlib.sha256()
            while part := shard.read(_BYTES_AT_ONCE):
                digest.update(part)
        done = FileEntry(file=file, bytes=n_bytes, sha256=digest.hexdigest())
        # The note goes before the shard: without the shard it counts for nothing.
        recordings = [member.row["recording"] for member in members]
        write_json(staging / f"{file}.json", {"entry": done.model_dump(), "recordings": recordings})
    _place(members, file)
    for recording in recordings:
        staged_path(staging, recording, ".npy").unlink()
    return done, entry


def _header(n_elements: int) -> bytes:
    """Return the header of a 1-D array; NumPy makes it equally long for every length."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": SAMPLE.str, "fortran_order": False, "shape": (n_elements,)}
    )
    return header.getvalue()


def _append(shard: BinaryIO, block: Path, entry: Entry) -> None:
    """Copy a staged block's samples; in parts, since others hold recordings in memory."""
    end = shard.tell() + entry.n_elements * SAMPLE.itemsize
    with block.open("rb") as staged:
        np.lib.format.read_magic(staged)
        np.lib.format.read_array_header_1_0(staged)
        shutil.copyfileobj(staged, shard, _BYTES_AT_ONCE)
    if shard.tell() != end:
        raise BergerError(f"{block}: is not as it was written; delete it and run again.")


def _place(members: list[Entry], file: str) -> None:
    """Put into the entries where their blocks are."""
    offset = 0
    for member in members:
        member.row.update(shard=file, offset=offset)
        offset += member.n_elements


def packed_shards(
    out: Path, manifest: CorpusManifest | None
) -> tuple[list[FileEntry], dict[str, Entry]]:
    """Return the shards that stand, and the entries in those that the manifest does not know."""
    shards = list(manifest.shards) if manifest else []
    entries: dict[str, Entry] = {}
    staging = out / STAGING
    while (note := staging / f"{shard_name(len(shards))}.json").is_file():
        content = json.loads(note.read_bytes())
        shard = FileEntry(**content["entry"])
        staged = [Entry.staged(staging, recording) for recording in content["recordings"]]
        members = [member for member in staged if member is not None]
        if misfits(out, [shard], content=False) or len(members) < len(staged):
            break
        _place(members, shard.file)
        shards.append(shard)
        entries |= {member.row["recording"]: member for member in members}
    return shards, entries


def entries_in_tables(out: Path, manifest: CorpusManifest | None) -> dict[str, Entry]:
    """Read what the tables say and the manifest vouches for.

    An extension that was killed between tables and manifest leaves new rows, whose shards the
    manifest does not know; they are found again among the packed.
    """
    if manifest is None:
        return {}
    shards = {None} | {shard.file for shard in manifest.shards}
    entries = {
        row["recording"]: Entry(row, [])
        for row in read_table(out / RECORDINGS).to_pylist()
        if row["shard"] in shards
    }
    for row in read_table(out / WINDOWS).to_pylist():
        if row["recording"] in entries:
            entries[row["recording"]].stretches.append([row["start"], row["stop"]])
    return entries


def write_tables_and_manifest(
    out: Path,
    entries: dict[str, Entry],
    shards: list[FileEntry],
    config: PreprocessingConfig,
    excluded: tuple[Exclusion, ...] = (),
) -> CorpusManifest:
    """Write the tables, then the manifest."""
    windows = [
        {"recording": recording, "start": start, "stop": stop}
        for recording, entry in entries.items()
        for start, stop in entry.stretches
    ]
    rows = [entry.row for entry in entries.values()]
    tables = (
        write_table(out / RECORDINGS, rows, RECORDING_COLUMNS),
        write_table(out / WINDOWS, windows, WINDOW_COLUMNS),
    )
    ok = [row for row in rows if row["status"] == "ok"]
    status = Counter(row["status"] for row in rows)
    montages = Counter(tuple(row["ch_names"]) for row in ok)
    manifest = CorpusManifest(
        preprocessing=config,
        excluded=excluded,
        counts=Counts(
            ok=status["ok"],
            failed=status["failed"],
            rejected=status["rejected"],
            subjects=len({row["subject"] for row in ok}),
            seconds_kept=sum(row["seconds_kept"] for row in ok),
            seconds_dropped=sum(cause["seconds"] for row in ok for cause in row["dropped"]),
        ),
        montages=tuple(
            Montage(ch_names=ch_names, recordings=n) for ch_names, n in montages.most_common()
        ),
        shards=tuple(shards),
        tables=tables,
    ).identified()
    write_json(out / MANIFEST, manifest.model_dump(mode="json"))
    return manifest
