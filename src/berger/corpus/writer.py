"""Prepare recordings: files → cleaned blocks → shards, tables, manifest.

::

    file ─► read ─► preprocess ─► quantise ─► .staging/<id>.npy, .json   (each file for itself)
                                                      │ in order of id
               manifest ◄─ tables ◄─ shards ◄─────────┘

Shards are filled while later files are staged. Every arrow ends with a rename, so a preparation
that is killed continues where it stood and ends with the same bytes. A staged block is removed when
the shard that holds it stands.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from tqdm import tqdm

from berger.corpus import packing
from berger.corpus.exclusion import Exclusion
from berger.corpus.executors import Executor, map_on_cluster, map_unordered
from berger.corpus.format import (
    LOCK,
    LOG,
    MANIFEST,
    STAGING,
    CorpusManifest,
    FileEntry,
    misfits,
    read_manifest,
)
from berger.corpus.packing import (
    entries_in_tables,
    pack,
    packed_shards,
    write_tables_and_manifest,
)
from berger.corpus.sources import Sources, size_and_time
from berger.corpus.staging import Entry, Task, as_text, stage, stage_elsewhere, staged_path
from berger.errors import BergerError
from berger.files import held, write_json
from berger.preprocessing import PreprocessingConfig
from berger.recordings import find_recordings


class Failure(NamedTuple):
    """A file without data in the corpus."""

    recording: str
    status: str
    reason: str


@dataclass(frozen=True)
class PreparationSummary:
    """What a preparation has come to; `str` of it is a sentence or two for the terminal.

    Attributes
    ----------
    folder : Path
        The corpus.
    prepared : int
        Files whose rows are new or have changed this time; 0 if there was nothing to do.
    ok, failed, rejected, subjects : int
        Recordings by status, and subjects, of the whole corpus.
    hours : float
        Usable hours of the whole corpus.
    seconds : float
        How long it took.
    rate : float
        Seconds of recording prepared per second.
    unknown_people : int
        Recordings that do not tell who was recorded; each counts as a subject.
    shared_subjects : tuple of (str, tuple of str)
        Subjects whose recordings come from several of the folders that were given, or from several
        BIDS roots, and these; empty if the configuration says by `subject_pattern` who is who.
    failures : tuple of Failure
        Every failed or rejected file of the corpus, but those of people who were to be left out.
    excluded : int
        Recordings of these.
    """

    folder: Path
    prepared: int
    ok: int
    failed: int
    rejected: int
    subjects: int
    hours: float
    seconds: float
    rate: float
    unknown_people: int
    shared_subjects: tuple[tuple[str, tuple[str, ...]], ...]
    failures: tuple[Failure, ...]
    excluded: int = 0

    def __str__(self) -> str:
        content = (
            f"{self.folder}: {self.ok} recordings of {self.subjects} subjects, {self.hours:.2f} "
            f"usable hours; {self.failed} failed, {self.rejected} rejected."
        )
        if self.excluded:
            content += f" {self.excluded} of these are of evaluation people."
        if not self.prepared:
            return f"{content} Nothing to do."
        work = f"{self.prepared} files in {self.seconds:.1f} s, {self.rate:,.0f} × real time."
        return f"{content} Prepared {work}"


def prepare(
    paths: Sequence[str | Path],
    out: str | Path,
    config: PreprocessingConfig,
    *,
    root: Path | None = None,
    exclude: Sequence[Exclusion] = (),
    workers: int = 1,
    executor: Executor = "processes",
    scheduler: str | None = None,
    progress: bool = True,
    check_sources: bool = False,
) -> PreparationSummary:
    """Prepare recordings into a corpus; run again, it continues.

    A finished corpus is extended by the files that are not in it yet: shards are added, those
    that stand are not touched. Files that failed are tried again. Recordings that are in the
    corpus but not among `paths` stay. Of files of equal content one is kept, the others are
    rejected.

    The same files and configuration, prepared at once, give the same bytes, but for the log
    ``prepare.jsonl``.

    Parameters
    ----------
    paths : sequence of path
        Files and folders, as for `berger.recordings.find_recordings`.
    out : path
        The corpus's folder: new, empty or a corpus.
    config : PreprocessingConfig
        Must be that of the corpus where one stands.
    root : Path, optional
        A folder above all files of `paths`; recordings are called by their path from it.
    exclude : sequence of Exclusion
        Whose recordings are rejected, as are those whose name does not tell the person; see
        `berger.tasks.exclusion`. Must be those of the corpus where one stands.
    workers : int
        Number of processes, this one included, each with one recording in memory at a time. A
        cluster has as many as it has.
    executor : {"processes", "dask"}
        "dask" prepares on the workers of a dask cluster (needs ``berger[cluster]``), which must
        see `paths` and `out` under the same absolute paths and take one task at a time
        (``dask worker --nthreads 1``). This process packs the shards.
    scheduler : str, optional
        Address of the cluster's scheduler, "tcp://HOST:PORT".
    progress : bool
        Whether to show a progress bar on stderr.
    check_sources : bool
        Whether to read every file that is in the corpus already and compare its hash. Without,
        those are read whose time of change is another than when they were prepared.

    Returns
    -------
    PreparationSummary

    Raises
    ------
    BergerError
        If `out` holds something else or a corpus of another configuration, another preparation is
        writing it, a file in it has changed since, or no recording at all is ok; if the cluster
        cannot be reached or used.
    """
    if (scheduler is None) == (executor == "dask"):
        raise BergerError(
            "executor 'dask' and the address of its scheduler (tcp://HOST:PORT) go together; give "
            "both or neither."
        )
    started = time.perf_counter()
    found = _with_ids_of_text(find_recordings(paths, root, layout=config.layout))
    out = Path(out)
    with _locked(out):
        excluded = tuple(exclude)
        manifest = _begin(out, config, excluded)
        before = entries_in_tables(out, manifest)
        shards, packed = packed_shards(out, manifest)
        settled = before | packed

        sources = Sources(out, check=check_sources)
        tasks = _tasks(out, found, settled, config, excluded, sources)
        if scheduler is None:
            results = map_unordered(stage, tasks, workers)
        else:
            results = map_on_cluster(stage_elsewhere, tasks, scheduler)
        coming: dict[str, Entry | None] = {**settled}
        coming |= {name: _latest(out, name, settled) for name, _ in found}
        coming |= {task.recording: None for task in tasks}
        coming = dict(sorted(coming.items()))
        arriving: SimpleQueue[Entry | None] = SimpleQueue()
        with ThreadPoolExecutor(1, "pack") as packer:
            packed_later = packer.submit(pack, out, _in_order(coming, arriving), len(shards))
            try:
                seconds_read = _process(out, tasks, results, progress, arriving, packed_later)
            finally:
                arriving.put(None)  # in case it still waits, in vain
            shards += packed_later.result()
        entries = {name: entry for name, entry in coming.items() if entry is not None}
        if not any(entry.is_ok for entry in entries.values()):
            shutil.rmtree(out / STAGING)
            raise _nothing_usable(out, entries)

        if manifest is None or entries != before or misfits(out, manifest.tables):
            manifest = write_tables_and_manifest(out, entries, shards, config, excluded)
        shutil.rmtree(out / STAGING)
    seconds = time.perf_counter() - started
    left_out = {
        name
        for name, entry in entries.items()
        if not entry.is_ok and any(entry.row["subject"] in exclusion for exclusion in excluded)
    }
    return PreparationSummary(
        folder=out,
        prepared=sum(entries[task.recording] != before.get(task.recording) for task in tasks),
        ok=manifest.counts.ok,
        failed=manifest.counts.failed,
        rejected=manifest.counts.rejected,
        subjects=manifest.counts.subjects,
        hours=manifest.counts.seconds_kept / 3600,
        seconds=seconds,
        rate=seconds_read / seconds,
        unknown_people=sum(
            entry.is_ok and entry.row["subject_source"] == "file name" for entry in entries.values()
        ),
        shared_subjects=() if config.subject_pattern else _shared_subjects(entries, dict(found)),
        failures=tuple(
            failure for failure in _failures(entries) if failure.recording not in left_out
        ),
        excluded=len(left_out),
    )


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Hold the corpus's folder alone, and say so when it cannot be written."""
    if file := next((path for path in (out, *out.parents) if path.is_file()), None):
        raise BergerError(f"{file}: is a file, but the corpus needs a folder; choose another name.")
    try:
        out.mkdir(parents=True, exist_ok=True)
        names = {path.name for path in out.iterdir()}
        if not names & {MANIFEST, STAGING} and names - {LOCK, LOG}:
            raise BergerError(f"{out}: is not empty and no corpus; choose another folder.")
        with held(
            out / LOCK,
            f"{out}: another preparation is writing this corpus; wait until it has ended.",
        ):
            yield
    except OSError as error:
        raise BergerError(
            f"{out}: cannot be written ({error}); free space or choose another folder. Run "
            "again, it continues."
        ) from error


def _with_ids_of_text(found: Sequence[tuple[str, Path]]) -> list[tuple[str, Path]]:
    """Write out in the ids what is not UTF-8, since no table could hold it."""
    texts: dict[str, Path] = {}
    for name, path in found:
        if texts.setdefault(recording := as_text(name), path) != path:
            raise BergerError(f"two files would be called {recording!r}; rename one of them.")
    return sorted(texts.items())


def _begin(
    out: Path, config: PreprocessingConfig, excluded: tuple[Exclusion, ...]
) -> CorpusManifest | None:
    """Make sure of configuration and exclusions, clear remnants, return the manifest if any."""
    manifest = read_manifest(out) if (out / MANIFEST).exists() else None
    begun = out / STAGING / "preprocessing.json"
    begun_without = out / STAGING / "excluded.json"
    standing, without = None, excluded
    if manifest is not None:
        if problems := misfits(out, manifest.shards, content=False):
            raise BergerError(f"{problems[0]}; restore it, or prepare into another folder.")
        standing, without = manifest.preprocessing, manifest.excluded
    elif begun.is_file() and set(begun.parent.glob("*.json")) - {begun, begun_without}:
        standing = PreprocessingConfig.model_validate_json(begun.read_bytes())
        noted = json.loads(begun_without.read_bytes()) if begun_without.is_file() else []
        without = tuple(Exclusion(**each) for each in noted)
    elif begun.parent.exists():
        shutil.rmtree(begun.parent)  # nothing is prepared yet: of whatever configuration
    if standing is not None and standing != config:
        differences = ", ".join(
            f"{name} is {there!r} there and {here!r} here"
            for name, here in config
            if (there := getattr(standing, name)) != here
        )
        raise BergerError(
            f"{out}: this corpus is of another configuration ({differences}); prepare into "
            "another folder."
        )
    if without != excluded:
        there, here = (
            ", ".join(f"{each.of} ({len(each.people)})" for each in some) or "nobody"
            for some in (without, excluded)
        )
        raise BergerError(
            f"{out}: this corpus leaves out the evaluation people of {there}, and is now to leave "
            f"out those of {here}; give the same lists by --exclude, or prepare into another "
            "folder."
        )
    for remnant in out.glob(".*.part"):
        remnant.unlink()
    write_json(begun_without, [each.model_dump(mode="json") for each in excluded])
    write_json(begun, config.model_dump(mode="json"))
    return manifest


def _tasks(
    out: Path,
    found: Sequence[tuple[str, Path]],
    settled: dict[str, Entry],
    config: PreprocessingConfig,
    excluded: tuple[Exclusion, ...],
    sources: Sources,
) -> list[Task]:
    """List the files that are still to be prepared."""
    tasks = []
    for recording, path in found:
        entry = _latest(out, recording, settled)
        same = entry is not None and sources.is_same(recording, path, entry.row)
        if recording in settled and settled[recording].is_ok and not same:
            raise BergerError(
                f"{path}: has changed since it was prepared into {out} (it, or a table or another "
                "file that belongs to it), or is another file of the same name; restore or rename "
                "it, or prepare into another folder."
            )
        if not same or entry is None or entry.row["status"] == "failed":
            staging = (out / STAGING).absolute()
            size, changed = size_and_time(path)
            tasks.append(Task(recording, path, size, changed, config, staging, excluded))
    return _in_turn(tasks)


def _in_turn(tasks: list[Task]) -> list[Task]:
    """Put tasks, given in order of id, into the order in which they are begun.

    About a shard's worth after another, so that one can be packed while the next is staged; of
    each the largest first, so that at the end no worker is left alone with a long one. What is
    larger than a shard comes before all.
    """
    turns: dict[str, int] = {}
    turn, room = 0, 0
    for task in tasks:
        if task.source_bytes > packing.SHARD_BYTES:
            turns[task.recording] = 0
            continue
        if task.source_bytes > room or not turn:
            turn, room = turn + 1, packing.SHARD_BYTES
        turns[task.recording] = turn
        room -= task.source_bytes
    return sorted(tasks, key=lambda task: (turns[task.recording], -task.source_bytes))


def _latest(out: Path, recording: str, settled: dict[str, Entry]) -> Entry | None:
    """Return the entry of a file: that with data in a shard, else the staged, else any."""
    entry = settled.get(recording)
    if entry is not None and entry.is_ok:
        return entry
    staging = out / STAGING
    staged = Entry.staged(staging, recording)
    if staged is None or (staged.is_ok and not staged_path(staging, recording, ".npy").is_file()):
        return entry
    return staged


def _process(
    out: Path,
    tasks: list[Task],
    results: Generator[Entry],
    progress: bool,
    arriving: SimpleQueue[Entry | None],
    packed_later: Future[list[FileEntry]],
) -> float:
    """Stage all files, hand them on, show and log how it goes; return seconds of recording read."""
    started = time.perf_counter()
    size = {task.recording: task.source_bytes for task in tasks}
    changed = {task.recording: task.source_time for task in tasks}
    seconds, n_unusable = 0.0, 0
    with (
        tqdm(
            total=sum(size.values()),
            desc="prepare",
            unit="B",
            unit_scale=True,
            disable=not progress or not tasks,
        ) as bar,
        closing(results) as entries,
    ):
        for n_done, entry in enumerate(entries, 1):
            row = entry.row
            if entry.is_ok and not staged_path(out / STAGING, row["recording"], ".npy").is_file():
                raise BergerError(
                    f"{out}: {row['recording']} was prepared into another folder of this name on "
                    "another machine; choose one that all machines share under the same path."
                )
            arriving.put(entry)
            if packed_later.done():  # before its time only by an error, as of a full disk
                packed_later.result()
            seconds += row["seconds"] or 0
            n_unusable += not entry.is_ok
            rate = seconds / (time.perf_counter() - started)
            bar.set_postfix_str(
                f"{n_done}/{len(tasks)} files, {rate:,.0f} × real time, {n_unusable} unusable",
                refresh=False,
            )
            bar.update(size[row["recording"]])
            line = {name: row[name] for name in ("recording", "status", "reason", "seconds")}
            line["source_time"] = changed[row["recording"]]
            line["at"] = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            with (out / LOG).open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
    return seconds


def _in_order(
    entries: dict[str, Entry | None], arriving: SimpleQueue[Entry | None]
) -> Iterator[Entry]:
    """Yield what is to be packed in order of id, each when all before it have arrived.

    A file that is in the corpus under another id, as after copying or giving it twice, is
    rejected. What is in a shard stays, else the first by id. The shards of a preparation that was
    killed hold the first ids, so that running again decides alike.

    Parameters
    ----------
    entries : dict
        Every file in order of id, None for those that are to arrive; updated.
    arriving : SimpleQueue
        Of entries; None if no more will come.
    """
    kept: dict[str, str] = {}
    for recording, entry in entries.items():
        if entry is not None and entry.is_ok and entry.row["shard"]:
            kept.setdefault(entry.row.get("source_sha256") or recording, recording)
    for recording in entries:
        while (entry := entries[recording]) is None:
            arrived = arriving.get()
            if arrived is None:
                raise CancelledError
            entries[arrived.row["recording"]] = arrived
        if not entry.is_ok or entry.row["shard"]:
            continue
        twin = kept.setdefault(entry.row.get("source_sha256") or recording, recording)
        if twin == recording:
            yield entry
        else:
            reason = f"{recording}: is the same file as {twin}; remove or correct one of them."
            none = {"status": "rejected", "reason": reason, "n_times": 0, "seconds_kept": 0.0}
            entries[recording] = Entry(entry.row | none | {"scale": None}, [])


def _shared_subjects(
    entries: dict[str, Entry], paths: dict[str, Path]
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Find the subjects that several folders have, each perhaps with another person in mind."""
    places: dict[str, set[str]] = {}
    for recording, entry in entries.items():
        folders, subject = recording.split("/")[:-1], entry.row["subject"]
        alone = not folders and recording in paths  # given by itself: the folder it is in
        above = [as_text(part) for part in paths[recording].parts[:-1]] if alone else folders
        if not entry.is_ok or not above:
            continue
        if entry.row["subject_source"] == "bids" and subject in above:
            above = above[: above.index(subject)]
            place = above[-1:] if alone else above
        else:
            place = above[-1:] if alone else above[:1]
        places.setdefault(subject, set()).add("/".join(place))
    several = {subject: sorted(roots) for subject, roots in places.items() if len(roots) > 1}
    return tuple((subject, tuple(several[subject])) for subject in sorted(several))


def _failures(entries: dict[str, Entry]) -> tuple[Failure, ...]:
    """List the files without data."""
    rows = (entry.row for entry in entries.values() if not entry.is_ok)
    return tuple(Failure(row["recording"], row["status"], row["reason"]) for row in rows)


def _nothing_usable(out: Path, entries: dict[str, Entry]) -> BergerError:
    """Say why no recording could be prepared."""
    failures = _failures(entries)
    reasons = " ".join(failure.reason for failure in failures[:3])
    more = f" All reasons are in {out / LOG}." if len(failures) > 3 else ""
    return BergerError(f"none of {len(failures)} files could be prepared: {reasons}{more}")
