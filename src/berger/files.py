"""Write a file or a folder whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import filelock

from berger.errors import BergerError

_OF_WRITTEN_WHOLE = re.compile(r"\..+\.[0-9a-f]{32}\.(part|old)")


@contextmanager
def named(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Let an error of the system name a file where it names none, or only a temporary one."""
    try:
        yield
    except OSError as error:
        if not error.filename or str(error.filename).startswith(str(temporary or path)):
            error.filename = str(path)
        raise


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` and rename it to `path` when the block succeeds.

    The block may create a file or a folder there. When it raises, the temporary path is removed
    and whatever stood at `path` before is untouched; a folder that stands at `path` is replaced.

    Parameters
    ----------
    path : Path
        Where the finished file or folder shall stand. Missing parents are created.
    """
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not the process's number: on a shared disk, other machines have processes of the same.
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.part")
    old = temporary.with_suffix(".old")
    try:
        with named(path, temporary):
            yield temporary
        if temporary.is_dir() and path.is_dir():
            _remove(old)
            path.rename(old)
            try:
                temporary.rename(path)
            except BaseException:
                old.rename(path)
                raise
            _remove(old)
        else:
            temporary.replace(path)
    finally:
        _remove(temporary)


@contextmanager
def held(lock: Path, otherwise: str) -> Iterator[None]:
    """Let no other process hold the same lock meanwhile; it ends with the process.

    Where the file system has no locks, a warning says so.

    Raises
    ------
    BergerError
        With the sentence `otherwise`, if another process holds it.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(filelock.FileLock(lock, timeout=0))
        except filelock.Timeout as error:
            raise BergerError(otherwise) from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
                raise
            warnings.warn(
                f"{lock.parent}: its file system has no locks; see that no other command writes "
                "there.",
                stacklevel=3,
            )
        yield


def remove_unfinished(folder: Path) -> None:
    """Remove what `written_whole` left in a folder when a process was killed.

    No process may be writing there.
    """
    for path in folder.glob(".*"):
        if _OF_WRITTEN_WHOLE.fullmatch(path.name):
            _remove(path)


def _remove(path: Path) -> None:
    """Remove a file or a folder, if there is one."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON with sorted keys, whole or not at all."""
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
