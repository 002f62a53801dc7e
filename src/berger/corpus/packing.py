"""Put staged blocks into shards, write tables and manifest, and find again what stands."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

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
from berger.files import write_json, written_whole
from berger.preprocessing import PreprocessingConfig

SHARD_BYTES = 2**30
"""A shard is closed before it grows larger; only a recording that is larger itself makes it so."""


def pack(out: Path, entries: list[Entry], n_shards: int) -> list[FileEntry]:
    """Write staged blocks into new shards after `n_shards`, and where they are into `entries`."""
    groups: list[list[Entry]] = []
    room = 0
    for entry in entries:
        n_bytes = entry.n_elements * SAMPLE.itemsize
        if n_bytes > room:
            groups.append([])
            room = SHARD_BYTES
        groups[-1].append(entry)
        room -= n_bytes
    return [
        _write_shard(out, shard_name(n_shards + index), members)
        for index, members in enumerate(groups)
    ]


def _write_shard(out: Path, file: str, members: list[Entry]) -> FileEntry:
    """Write one shard, note who is in it, remove their staged blocks."""
    staging = out / STAGING
    blocks = [staged_path(staging, member.row["recording"], ".npy") for member in members]
    digest = hashlib.sha256()
    with written_whole(out / file) as temporary:
        with temporary.open("wb") as shard:
            for part in _shard_parts(blocks, _place(members, file)):
                digest.update(part)
                shard.write(part)
            entry = FileEntry(file=file, bytes=shard.tell(), sha256=digest.hexdigest())
        # The note goes before the shard: without the shard it counts for nothing.
        recordings = [member.row["recording"] for member in members]
        write_json(
            staging / f"{file}.json", {"entry": entry.model_dump(), "recordings": recordings}
        )
    for block in blocks:
        block.unlink()
    return entry


def _shard_parts(blocks: list[Path], n_elements: int) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a shard: the header of a 1-D array, then block after block."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": SAMPLE.str, "fortran_order": False, "shape": (n_elements,)}
    )
    yield header.getvalue()
    for block in blocks:
        yield np.load(block, allow_pickle=False).data.cast("B")


def _place(members: list[Entry], file: str) -> int:
    """Put into the entries where their blocks are; return the number of elements of all."""
    offset = 0
    for member in members:
        member.row.update(shard=file, offset=offset)
        offset += member.n_elements
    return offset


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
