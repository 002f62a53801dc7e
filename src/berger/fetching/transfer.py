"""One file from a web server: continued where it broke off, compared, and named when whole.

::

    NAME.part, NAME.part.json ──► length and hash ──► NAME
    (what has come, of which version of the file)

The second file holds what the server said of the first part. A later attempt asks for the rest on
the condition that the file is still that one (``If-Range``), and begins anew if it is not.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import InvalidHeader
from urllib3.util import Retry

from berger import __version__
from berger.errors import BergerError
from berger.files import write_json

T = TypeVar("T")

PIECE = 2**20
"""Bytes that are written at once."""
PAUSES = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each further attempt; what has brought bytes does not count as one."""
LONGEST_PAUSE = 120.0
"""Seconds; a server that asks for more (Retry-After) is asked by a later run."""
TIMEOUT = (30.0, 30.0)
"""Seconds to connect, and between two bytes."""
PASSING = (408, 425, 429, 500, 502, 503, 504)
"""Answers that may be other ones soon."""


class Hash(NamedTuple):
    """A hash of a file's content."""

    kind: Literal["sha256", "md5"]
    digest: str

    def __str__(self) -> str:
        return f"{'SHA-256' if self.kind == 'sha256' else 'MD5'} {self.digest}"


@dataclass(frozen=True)
class RemoteFile:
    """A file of a data set.

    Attributes
    ----------
    path : str
        Where it belongs, from the data set's folder.
    url : str
    hash : Hash, optional
        Of its content, if the source tells it.
    bytes : int, optional
        Its length, if the source tells it in its list.
    """

    path: str
    url: str
    hash: Hash | None = None
    bytes: int | None = None


class Stopped(Exception):  # noqa: N818 - no fault
    """The run is being ended."""


class _Passing(Exception):  # noqa: N818
    """It may work at another attempt, perhaps after some seconds."""

    def __init__(self, reason: str, seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.seconds = seconds


class _WrongContent(Exception):  # noqa: N818
    """What has come is not what it should be."""


@dataclass(frozen=True)
class _Begun:
    """What the server said of a file of which a part has come."""

    url: str
    validator: str | None = None  # an entity tag, or the time of change
    bytes: int | None = None

    @classmethod
    def of(cls, answer: requests.Response, url: str, n_before: int) -> _Begun:
        tag = answer.headers.get("ETag")
        if tag is None or tag.startswith("W/"):  # of equal meaning is not of equal bytes
            tag = answer.headers.get("Last-Modified")
        length = answer.headers.get("Content-Length", "")
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            length, tag = "", None  # both are of what is sent, not of the file
        return cls(url, tag, n_before + int(length) if length.isdigit() else None)

    @classmethod
    def before(cls, path: Path, url: str) -> _Begun | None:
        """Return what was noted when the part was begun, if that can be read."""
        with suppress(OSError, ValueError, TypeError):
            noted = cls(**json.loads(path.read_bytes()))
            return noted if noted.url == url else None
        return None


class Line:
    """A line to servers.

    Parameters
    ----------
    at_once : int
        Files that are fetched at the same time.
    """

    def __init__(self, at_once: int = 1) -> None:
        self.stop = threading.Event()
        self._session = requests.Session()
        self._session.headers.update(
            {"User-Agent": f"berger/{__version__}", "Accept-Encoding": "identity"}
        )
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=at_once))

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def text(self, url: str) -> str:
        """Return what stands at an address, e.g. a list.

        Raises
        ------
        BergerError
            If it cannot be fetched.
        """

        def attempt() -> str:
            with self._asked("GET", url) as answer:
                return answer.content.decode()

        return self._patiently(attempt, url)

    def length(self, url: str) -> int | None:
        """Return how long a file is, None if the server does not say."""
        try:
            with self._asked("HEAD", url) as answer:
                return _Begun.of(answer, url, 0).bytes
        except (_Passing, BergerError):  # fetching it will say what is wrong
            return None

    def fetch(self, file: RemoteFile, target: Path, came: Callable[[int], None]) -> str:
        """Fetch a file to `target`, which stands when it is whole and not before.

        Parameters
        ----------
        file : RemoteFile
        target : Path
        came : callable
            Told how many bytes more lie here; less than 0 when some were of no use.

        Returns
        -------
        str
            SHA-256 of the content.

        Raises
        ------
        BergerError
            If it cannot be fetched, or is not as long or has another hash than its source says.
        Stopped
            When `stop` is set; what has come stays.
        """
        part = target.with_name(f"{target.name}.part")
        target.parent.mkdir(parents=True, exist_ok=True)
        wrong = 0

        def attempt() -> str:
            nonlocal wrong
            self._receive(file, part, came)
            try:
                return _compared(file, part)
            except _WrongContent as error:
                came(-part.stat().st_size)
                _forget(part)
                wrong += 1
                if wrong > 1:
                    raise BergerError(f"{file.url}: {error}; the source may be faulty.") from error
                raise _Passing(str(error)) from error

        digest = self._patiently(attempt, file.url, lambda: _size(part))
        part.replace(target)
        _note(part).unlink(missing_ok=True)
        return digest

    def _patiently(
        self, attempt: Callable[[], T], url: str, progress: Callable[[], int] = lambda: 0
    ) -> T:
        """Return what an attempt returns, made again after passing faults."""
        left, reached = list(PAUSES), progress()
        while True:
            if self.stop.is_set():
                raise Stopped
            try:
                return attempt()
            except _Passing as error:
                if (now := progress()) > reached:
                    left, reached = list(PAUSES), now
                seconds = max(error.seconds, left.pop(0)) if left else None
                if seconds is None or seconds > LONGEST_PAUSE:
                    raise BergerError(f"{url}: {error}; try again later.") from error
                self.stop.wait(seconds)

    def _asked(
        self, method: str, url: str, headers: dict[str, str] | None = None
    ) -> requests.Response:
        """Return a good answer, whose content is still to come."""
        try:
            answer = self._session.request(
                method, url, headers=headers, stream=True, timeout=TIMEOUT, allow_redirects=True
            )
        except requests.RequestException as error:
            raise _Passing(f"cannot be reached ({_reason(error)})") from error
        if answer.ok or answer.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return answer
        answer.close()
        said = f"the server answers {answer.status_code} {answer.reason}"
        if answer.status_code in PASSING:
            seconds = 0.0
            with suppress(InvalidHeader):
                seconds = Retry().parse_retry_after(answer.headers.get("Retry-After", "0"))
            raise _Passing(said, seconds)
        raise BergerError(f"{url}: {said}; see that it is still there.")

    def _receive(self, file: RemoteFile, part: Path, came: Callable[[int], None]) -> None:
        """Let `part` become as long as the file, in one attempt."""
        begun, have = _Begun.before(_note(part), file.url), _size(part)
        # Without a mark of the version only the hash could tell that the rest is another file's.
        if have and (begun is None or not (begun.validator or (file.hash and begun.bytes))):
            came(-have)
            _forget(part)
            begun, have = None, 0
        if begun is not None and have and have == begun.bytes:
            return
        headers = {}
        if begun is not None and have:
            headers["Range"] = f"bytes={have}-"
            if begun.validator:
                headers["If-Range"] = begun.validator
        with self._asked("GET", file.url, headers) as answer:
            continues = answer.status_code == HTTPStatus.PARTIAL_CONTENT
            now = _Begun.of(answer, file.url, have if continues else 0)
            if have and not (
                continues and begun is not None and _is_rest(answer, now, begun, have)
            ):
                came(-have)
                _forget(part)
                have = 0
                if answer.status_code != HTTPStatus.OK:
                    raise _Passing("does not continue where it broke off")
            elif not have and answer.status_code != HTTPStatus.OK:
                raise _Passing(f"the server answers {answer.status_code} to a plain request")
            _check_can_be_told(answer, now, file)
            if not have:
                part.unlink(missing_ok=True)  # the note must not stand for other bytes
                write_json(_note(part), now.__dict__)
            with part.open("ab") as lying:
                try:
                    for piece in answer.iter_content(PIECE):
                        lying.write(piece)
                        came(len(piece))
                        if self.stop.is_set():
                            raise Stopped
                except requests.RequestException as error:  # also if fewer bytes come than told
                    raise _Passing(f"broke off ({_reason(error)})") from error


def digest_of(path: Path, kind: Literal["sha256", "md5"] = "sha256") -> str:
    """Return the hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(
            file, lambda: hashlib.new(kind, usedforsecurity=False)
        ).hexdigest()


def _compared(file: RemoteFile, part: Path) -> str:
    """Return the SHA-256 of what has come, if it is as the source says."""
    if file.bytes is not None and _size(part) != file.bytes:
        raise _WrongContent(f"has {_size(part):,} bytes, but its source says {file.bytes:,}")
    digest = digest_of(part)
    if file.hash is not None:
        found = Hash(
            file.hash.kind, digest if file.hash.kind == "sha256" else digest_of(part, "md5")
        )
        if found != file.hash:
            raise _WrongContent(f"has the {found}, but its source says {file.hash.digest}")
    return digest


def _is_rest(answer: requests.Response, now: _Begun, begun: _Begun, have: int) -> bool:
    """Whether an answer goes on exactly where the part ends, of the same file."""
    place = f"bytes {have}-"
    told = answer.headers.get("Content-Range", "")
    total = told.rpartition("/")[2]
    return (
        told.startswith(place)
        and (now.validator is None or begun.validator is None or now.validator == begun.validator)
        and (begun.bytes is None or total in ("*", str(begun.bytes)))
    )


def _check_can_be_told(answer: requests.Response, now: _Begun, file: RemoteFile) -> None:
    """Refuse what no hash tells, where it could be another thing or a part unnoticed."""
    if file.hash is not None:
        return
    kind = answer.headers.get("Content-Type", "")
    if kind.startswith("text/html") and not file.url.endswith("html"):
        raise BergerError(
            f"{file.url}: is a web page and not the file; see that it is still there."
        )
    ends = answer.headers.get("Transfer-Encoding") == "chunked"
    if now.bytes is None and file.bytes is None and not ends:
        raise BergerError(
            f"{file.url}: neither its hash nor its length is known, so that nobody could tell "
            "whether all of it has come; fetch it by hand."
        )


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    """Return the inmost cause in few words."""
    while isinstance(inner := error.__cause__ or error.__context__, Exception):
        error = inner
    return " ".join(str(error).split())[:200] or type(error).__name__
