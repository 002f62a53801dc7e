"""Bring a freely downloadable data set here, as it is distributed.

::

    download: in the YAML ──► files there ──► kept | transferred ──► FOLDER, SHA256SUMS
                              (`listing`)          (`transfer`)      (fetch.jsonl: each outcome)
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Literal

from tqdm import tqdm

from berger.errors import BergerError
from berger.fetching.listing import files_at
from berger.fetching.transfer import Line, RemoteFile, digest_of
from berger.files import held, written_whole
from berger.tasks import TaskConfig
from berger.tasks.downloads import ByHand, Fetchable

__all__ = ["FetchSummary", "Row", "fetch", "place_of"]

SUMS = "SHA256SUMS"
LOG = "fetch.jsonl"
LOCK = ".fetch.lock"
AT_ONCE = 4
"""Files that are fetched at the same time; more is unkind to servers that give data away."""


@dataclass(frozen=True)
class Row:
    """What became of one file.

    Attributes
    ----------
    file : str
        Path from the folder.
    status : {"fetched", "kept", "failed"}
        Kept is what was here already.
    bytes : int
    sha256 : str
    compared : str
        With what the content was compared: the source's "sha256" or "md5", "length" where it has
        no hash, and then when fetched again the "sha256" noted here.
    reason : str
        Why it failed.
    """

    file: str
    status: Literal["fetched", "kept", "failed"]
    bytes: int = 0
    sha256: str = ""
    compared: str = ""
    reason: str = ""


@dataclass(frozen=True)
class FetchSummary:
    """What a fetch has come to; `str` of it is for the terminal."""

    folder: Path
    rows: tuple[Row, ...]
    then: str = ""

    @property
    def failed(self) -> tuple[Row, ...]:
        """Files that are not here."""
        return tuple(row for row in self.rows if row.status == "failed")

    def __str__(self) -> str:
        counts = {
            status: sum(row.status == status for row in self.rows)
            for status in ("fetched", "kept", "failed")
        }
        text = f"{self.folder}: " + ", ".join(f"{n} {status}" for status, n in counts.items()) + "."
        unsure = sum(row.compared == "length" for row in self.rows)
        if unsure:
            text += (
                f" Of {unsure} the source tells no hash; they were compared by length, and their "
                f"own is in {SUMS}."
            )
        return f"{text} {self.then}".strip()


def place_of(task: TaskConfig, out: Path | None) -> Path:
    """Return the folder of a data set: as given, or of the task's name below ``$BERGER_DATA``.

    Raises
    ------
    BergerError
        If neither is given.
    """
    if out is not None:
        return out
    if root := os.environ.get("BERGER_DATA"):
        return Path(root) / task.name
    raise BergerError(
        f"fetch {task.name}: where to? Give --out FOLDER, or set BERGER_DATA to the folder that "
        "holds all data sets."
    )


def fetch(
    task: TaskConfig,
    out: Path,
    *,
    subjects: Sequence[str] = (),
    mirror: str | None = None,
    at_once: int = AT_ONCE,
    dry_run: bool = False,
    progress: bool = True,
    tell: Callable[[str], None] = lambda _: None,
) -> FetchSummary:
    """Fetch the files that a task needs; run again, it continues.

    What is here with the content that the source tells is kept. A file here with another content
    is not touched, and is a failure. A file that cannot be fetched is a failure, too; the others
    go on.

    Parameters
    ----------
    task : TaskConfig
        Shipped; `facts.download` says where.
    out : Path
        The data set's folder, in which the files will lie as they are distributed.
    subjects : sequence of str
        Only these people's files, and those that belong to nobody. Default: everybody's.
    mirror : str, optional
        Address of a folder with the same content, in place of the source's; hashes are those that
        stand there.
    at_once : int
        Files that are fetched at the same time.
    dry_run : bool
        Only tell what would be fetched.
    progress : bool
        Whether to show a progress bar on stderr.
    tell : callable
        Is told, in sentences, what will be fetched, before it begins.

    Raises
    ------
    BergerError
        If the data set is not to be had freely, its source does not list it, nobody is called as
        one of `subjects`, the disk has too little room, or another fetch writes the folder.
    """
    download = _download_of(task)
    with closing(Line(at_once)) as line:
        files, remarks = files_at(download, line, mirror or download.address)
        files = _of(subjects, files, download, task)
        if dry_run:
            files = list(_with_lengths(files, line, at_once))
            tell(
                " ".join([f"{task.name}: {_amount(files)} would be fetched into {out}.", *remarks])
            )
            return FetchSummary(out, ())
        with held(out / LOCK, f"{out}: another fetch is writing this folder; wait for it."):
            rows, missing = _here(out, files, line, at_once, progress)
            _tell_before(task, out, rows, missing, tell)
            _check_room(out, missing)
            rows += _transferred(out, missing, line, at_once, progress)
            _write_sums(out, rows)
    return FetchSummary(
        out, tuple(sorted(rows, key=lambda row: row.file)), " ".join([*remarks, download.then])
    )


def _download_of(task: TaskConfig) -> Fetchable:
    """Return where to fetch a data set; raise with where to ask for it otherwise."""
    facts = task.facts
    if facts.access != "open":
        what = "is given by agreement only" if facts.access == "agreement" else "is private"
        where = f", at {facts.url}" if facts.url else ""
        raise BergerError(
            f"{task.name}: {what}{where}: {facts.apply or task.source}; give the folder by --data "
            "once you have it."
        )
    if isinstance(facts.download, ByHand):
        raise BergerError(f"{task.name}: cannot be fetched by Berger; {facts.download.how}")
    if facts.download is None:
        raise BergerError(
            f"{task.name}: nothing is known of how to fetch it; get it from "
            f"{facts.url or task.source or 'its source'}, and give the folder by --data."
        )
    return facts.download


def _of(
    subjects: Sequence[str], files: list[RemoteFile], download: Fetchable, task: TaskConfig
) -> list[RemoteFile]:
    """Return the files of some people, and those of nobody."""
    if not subjects:
        return files
    if download.subject is None:
        raise BergerError(f"{task.name}: its files cannot be told apart by people; fetch all.")
    found = {file.path: re.search(download.subject, file.path) for file in files}
    whose = {path: match["subject"] if match else None for path, match in found.items()}
    known = sorted({person for person in whose.values() if person})
    if unknown := sorted(set(subjects).difference(known)):
        raise BergerError(
            f"{task.name}: has nobody called {', '.join(unknown)}; people are called as "
            f"{', '.join(known[:3])} there."
        )
    return [file for file in files if whose[file.path] in {None, *subjects}]


def _here(
    out: Path, files: list[RemoteFile], line: Line, at_once: int, progress: bool
) -> tuple[list[Row], list[RemoteFile]]:
    """Return rows about the files that lie here, and the other files with their lengths."""
    there = [file for file in files if (out / file.path).exists()]
    sums = _read_sums(out)
    lengths = {
        file.path: file.bytes
        for file in _with_lengths([file for file in there if file.hash is None], line, at_once)
    }
    rows = []
    for file in tqdm(there, desc="compare", unit="file", disable=not (progress and there)):
        rows.append(_compared(out, file, sums.get(file.path), lengths.get(file.path)))
    _log(out, rows)
    missing = [file for file in files if not (out / file.path).exists()]
    return rows, list(_with_lengths(missing, line, at_once))


def _compared(out: Path, file: RemoteFile, noted: str | None, length: int | None) -> Row:
    """Say whether a file that lies here is the one there."""
    path = out / file.path
    row = Row(file.path, "kept", path.stat().st_size, digest_of(path))
    if file.hash is not None:
        found = row.sha256 if file.hash.kind == "sha256" else digest_of(path, file.hash.kind)
        row = replace(row, compared=file.hash.kind)
        same = found == file.hash.digest
    else:
        row = replace(row, compared="length" if noted is None else "sha256 noted here")
        same = length in (None, row.bytes) and noted in (None, row.sha256)
    if same:
        return row
    reason = f"{path}: has another content than its source tells; move it away, and run again."
    return replace(row, status="failed", reason=reason)


def _with_lengths(files: list[RemoteFile], line: Line, at_once: int) -> Iterator[RemoteFile]:
    """Ask for the lengths that the list does not tell."""
    with ThreadPoolExecutor(at_once) as pool:
        lengths = pool.map(
            lambda file: line.length(file.url) if file.bytes is None else file.bytes, files
        )
        for file, length in zip(files, lengths, strict=True):
            yield replace(file, bytes=length)


def _part_of(out: Path, file: RemoteFile) -> int:
    part = out / f"{file.path}.part"
    return part.stat().st_size if part.is_file() else 0


def _tell_before(
    task: TaskConfig,
    out: Path,
    rows: list[Row],
    missing: list[RemoteFile],
    tell: Callable[[str], None],
) -> None:
    here = f"; {len(rows)} files are here" if rows else ""
    begun = sum(_part_of(out, file) for file in missing)
    here += f"; {_size(begun)} of it had come before" if begun else ""
    tell(f"{task.name}: {_amount(missing)} to fetch into {out}{here}.")
    tell(f"licence: {task.licence}; to be cited: {task.paper}")


def _amount(files: list[RemoteFile]) -> str:
    known = sum(file.bytes or 0 for file in files)
    more = "more than " if any(file.bytes is None for file in files) else ""
    return f"{len(files)} files, {more}{_size(known)},"


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:,.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:,.1f} MB"


def _check_room(out: Path, missing: list[RemoteFile]) -> None:
    need = sum(max((file.bytes or 0) - _part_of(out, file), 0) for file in missing)
    free = shutil.disk_usage(out).free
    if need > free:
        raise BergerError(
            f"{out}: {_size(need)} are to come, but the disk has room for {_size(free)}; free "
            "space, choose another folder by --out, or fewer people by --subjects."
        )


def _transferred(
    out: Path, missing: list[RemoteFile], line: Line, at_once: int, progress: bool
) -> list[Row]:
    """Fetch files, several at once; rows in the order in which they end."""
    rows: list[Row] = []
    lock = Lock()
    with (
        ThreadPoolExecutor(at_once, "fetch") as pool,
        tqdm(
            total=sum(file.bytes or 0 for file in missing),
            initial=sum(_part_of(out, file) for file in missing),
            desc="fetch",
            unit="B",
            unit_scale=True,
            disable=not (progress and missing),
            file=sys.stderr,
        ) as bar,
    ):

        def came(n_bytes: int) -> None:
            with lock:
                bar.update(n_bytes)

        def one(file: RemoteFile) -> Row:
            target = out / file.path
            try:
                digest = line.fetch(file, target, came)
            except BergerError as error:
                return Row(file.path, "failed", reason=str(error))
            compared = file.hash.kind if file.hash else "length"
            return Row(file.path, "fetched", target.stat().st_size, digest, compared)

        coming = [pool.submit(one, file) for file in missing]
        try:
            for done in as_completed(coming):
                rows.append(done.result())
                _log(out, rows[-1:])
                failed = sum(row.status == "failed" for row in rows)
                bar.set_postfix_str(f"{len(rows)}/{len(missing)} files, {failed} failed")
        except BaseException:  # an interruption, a full disk
            line.stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return rows


def _log(out: Path, rows: list[Row]) -> None:
    """Note what became of files, also against an interruption."""
    at = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    with (out / LOG).open("a", encoding="utf-8") as log:
        log.writelines(json.dumps(asdict(row) | {"at": at}) + "\n" for row in rows)
    with (out / SUMS).open("a", encoding="utf-8") as sums:
        sums.writelines(f"{row.sha256}  {row.file}\n" for row in rows if row.status == "fetched")


def _read_sums(out: Path) -> dict[str, str]:
    """Return path → SHA-256 as noted here; of several, the last."""
    path = out / SUMS
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    noted = (re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line) for line in lines)
    return {match[2]: match[1] for match in noted if match}


def _write_sums(out: Path, rows: list[Row]) -> None:
    """Write the hashes of what is here, in the form of `sha256sum`."""
    noted = {path: digest for path, digest in _read_sums(out).items() if (out / path).is_file()}
    noted |= {row.file: row.sha256 for row in rows if row.status != "failed"}
    with written_whole(out / SUMS) as temporary:
        lines = (f"{digest}  {path}\n" for path, digest in sorted(noted.items()))
        temporary.write_text("".join(lines), encoding="utf-8")
