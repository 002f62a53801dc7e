"""Corpora on a server: read them through copies that are kept on this machine.

A copy is kept under the SHA-256 of its content. Corpora that hold the same shard share it, and one
that was made anew is never mistaken for the one before. The folder is ``$BERGER_CACHE``, by default
the system's place for caches; ``$BERGER_CACHE_GB`` limits it.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp
import filelock
import fsspec
import platformdirs
from tqdm import tqdm

from berger.corpus.format import MANIFEST, CorpusManifest, FileEntry, parse_manifest
from berger.errors import BergerError
from berger.files import written_whole

CACHE, CACHE_GB = "BERGER_CACHE", "BERGER_CACHE_GB"
PIECE = 2**24
"""Bytes that are asked for at once."""
PAUSES = (0.5, 1.0, 2.0)
"""Seconds before each further attempt when a connection fails."""


def is_remote(place: str | Path) -> bool:
    """Tell an address, e.g. ``https://…`` or ``s3://…``, from a path on this machine."""
    return isinstance(place, str) and "://" in place


def cache_folder() -> Path:
    """Return the folder in which copies are kept."""
    given = os.environ.get(CACHE)
    return (Path(given) if given else platformdirs.user_cache_path("berger")) / "corpora"


def fetch_manifest(url: str) -> CorpusManifest:
    """Read the manifest of a corpus on a server, of which no copy is kept.

    Raises
    ------
    BergerError
        If there is none, it cannot be fetched, or it is of another version.
    """
    if "?" in url:
        raise BergerError(
            f"{url.partition('?')[0]}: an address with a query (?…) cannot be that of a folder; "
            "give credentials in fsspec's configuration, e.g. FSSPEC_S3_KEY."
        )
    try:
        content = b"".join(stream(f"{url}/{MANIFEST}"))
    except FileNotFoundError as error:
        raise BergerError(
            f"{url}: is no corpus (no {MANIFEST} there); give the address of a corpus' folder."
        ) from error
    return parse_manifest(content, f"{url}/{MANIFEST}")


@contextmanager
def local_file(place: str, sha256: str, *, progress: bool = False) -> Iterator[Path]:
    """Yield where a file of a corpus lies on this machine, having fetched it if there is no copy.

    Of several processes that need the same file one fetches it, the others wait. Until the block
    ends the copy stays there; a file that was opened in it can be read after that, too.

    Parameters
    ----------
    place : str
        Path, which is yielded as it is, or address.
    sha256 : str
        Of the content. What arrives is compared with it before it becomes a copy.
    progress : bool
        Show a bar while the file is fetched.

    Raises
    ------
    BergerError
        If the file cannot be fetched or its content is another one.
    """
    if not is_remote(place):
        yield Path(place)
        return
    path = cache_folder() / sha256
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(path.with_suffix(".lock")):
        if not path.is_file():
            _fetch(place, sha256, path, progress)
            _make_room(path)
        os.utime(path)  # when it was last used
        yield path


def misfits_at(url: str, entries: Iterable[FileEntry], *, progress: bool = False) -> list[str]:
    """Say which files on a server are missing or not as they were written; keeps no copies.

    Raises
    ------
    BergerError
        If the server does not answer.
    """
    problems = []
    for entry in entries:
        place = f"{url}/{entry.file}"
        digest, size = hashlib.sha256(), 0
        try:
            for piece in stream(place, progress=progress):
                digest.update(piece)
                size += len(piece)
        except FileNotFoundError:
            problems.append(f"{place}: is missing")
            continue
        if size != entry.bytes:
            problems.append(f"{place}: has {size} bytes instead of {entry.bytes}")
        elif digest.hexdigest() != entry.sha256:
            problems.append(f"{place}: is not as it was written, bytes have changed")
    return problems


def stream(url: str, *, progress: bool = False) -> Iterator[bytes]:
    """Yield the content of a file on a server piece by piece.

    If the connection fails it is tried again, `PAUSES` apart; what was yielded is not yielded
    again.

    Raises
    ------
    FileNotFoundError
        If the server says that there is none.
    BergerError
        If it cannot be read for any other reason.
    """
    n_yielded = 0
    for pause in (*PAUSES, None):
        try:
            for piece in _pieces(url, n_yielded, progress):
                n_yielded += len(piece)
                yield piece
            return
        except ImportError as error:
            raise BergerError(
                f"{url}: {error}; `pip install 'berger[remote]'` brings what s3:// and gs:// need."
            ) from error
        # Each kind of server has a library with errors of its own.
        except Exception as error:
            cause = error.__cause__ or error
            if pause is not None and any(isinstance(x, _FAULTS) for x in (error, cause)):
                time.sleep(pause)
                continue
            # of HTTP, fsspec says so of every failure, e.g. when the server does not answer
            if isinstance(error, FileNotFoundError) and not (
                isinstance(cause, aiohttp.ClientError | TimeoutError)
                and getattr(cause, "status", None) != HTTPStatus.NOT_FOUND
            ):
                raise
            reason = " ".join(str(cause).split()) or type(cause).__name__
            raise BergerError(
                f"{url}: cannot be fetched ({reason}); see that the address is right and the "
                "server can be reached."
            ) from error


_FAULTS = (
    aiohttp.ClientConnectionError,
    aiohttp.ClientPayloadError,  # broken off
    ConnectionError,
    TimeoutError,
)
"""Of a connection."""


def _pieces(url: str, n_known: int, progress: bool) -> Iterator[bytes]:
    """Yield what a file on a server holds after its first `n_known` bytes, in one attempt."""
    protocol = url.partition("://")[0]
    web = protocol in ("http", "https")
    system, path = fsspec.core.url_to_fs(url, **(_web_options(protocol) if web else {}))
    # not every web server gives parts of a file; 0 asks for the whole in one answer
    with (
        system.open(path, "rb", block_size=0 if web else PIECE, cache_type="none") as file,
        tqdm(
            total=system.size(path) if progress else None,
            unit="B",
            unit_scale=True,
            desc=url.rpartition("/")[2],
            leave=False,
            disable=not progress,
            file=sys.stderr,
        ) as bar,
    ):
        while piece := file.read(PIECE):
            bar.update(len(piece))
            if new := piece[n_known:]:
                yield new
            n_known = max(n_known - len(piece), 0)


def _web_options(protocol: str) -> dict[str, Any]:
    """Lift aiohttp's limit of five minutes for a whole file, but not wait for ever for a piece."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
    configured = fsspec.config.conf.get(protocol, {}).get("client_kwargs", {})
    return {"client_kwargs": {"timeout": timeout, **configured}}


def _fetch(url: str, sha256: str, path: Path, progress: bool) -> None:
    """Write a copy to `path`, whole and as it should be or not at all; its lock is held."""
    for left in path.parent.glob(f".{sha256}.*"):
        left.unlink()  # of a process that was killed
    digest = hashlib.sha256()
    try:
        with written_whole(path) as temporary, temporary.open("wb") as file:
            for piece in stream(url, progress=progress):
                digest.update(piece)
                file.write(piece)
            if digest.hexdigest() != sha256:
                raise BergerError(
                    f"{url}: is not as the manifest says, bytes have changed; restore the file "
                    "there, or open the corpus anew if it was made anew."
                )
    except FileNotFoundError as error:
        raise BergerError(
            f"{url}: is missing; restore the file there, or open the corpus anew if it was made "
            "anew."
        ) from error


def _make_room(keep: Path) -> None:
    """Remove the copies that were not used for longest, until the others fit the limit."""
    limit = os.environ.get(CACHE_GB)
    if not limit:
        return
    try:
        room = float(limit) * 1e9
    except ValueError as error:
        raise BergerError(f"{CACHE_GB}={limit}: is not a number; give gigabytes.") from error
    folder = keep.parent
    with filelock.FileLock(folder / "room.lock"):
        copies = [(path.stat(), path) for path in folder.iterdir() if not path.suffix]
        room -= sum(status.st_size for status, _ in copies)
        for status, path in sorted(copies, key=lambda copy: copy[0].st_mtime_ns):
            if room >= 0:
                break
            # one whose lock is held is being opened
            with suppress(filelock.Timeout), filelock.FileLock(f"{path}.lock", timeout=0):
                if path != keep:
                    path.unlink()
                    room += status.st_size
