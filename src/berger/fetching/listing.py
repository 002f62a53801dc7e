"""What there is to fetch: each file's path, address, length and hash, as its source tells them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote, urlencode
from xml.etree import ElementTree

from berger.errors import BergerError
from berger.fetching.transfer import Hash, Line, RemoteFile
from berger.tasks.downloads import Fetchable, Files, OpenNeuro, Osf, PhysioNet

_S3 = "{http://s3.amazonaws.com/doc/2006-03-01/}"


def files_at(
    download: Fetchable, line: Line, address: str
) -> tuple[list[RemoteFile], tuple[str, ...]]:
    """Return the files of a data set that its task needs, and remarks about them.

    Parameters
    ----------
    download : PhysioNet, OpenNeuro, Osf or Files
    line : Line
    address : str
        Of the source: `download.address`, or that of a mirror.

    Raises
    ------
    BergerError
        If the source cannot be reached, does not answer as it should, has none of the files, or
        names one outside of the folder.
    """
    address = address.rstrip("/")
    remarks: tuple[str, ...] = ()
    if isinstance(download, Files):
        found = [RemoteFile(name, f"{address}/{quote(name)}") for name in download.files]
    else:
        try:
            if isinstance(download, PhysioNet):
                found = list(_of_physionet(line, address))
            elif isinstance(download, OpenNeuro):
                found = list(_of_openneuro(download.name, line, address))
                remarks = _other_version(download, found, line)
            else:
                found = list(_of_osf(download, line, f"{address}/"))
        except (ValueError, KeyError, TypeError, ElementTree.ParseError) as error:
            raise BergerError(
                f"{address}: did not answer with a list of files ({type(error).__name__}); try "
                "again later, or fetch the data set by hand."
            ) from error
        found = [
            file for file in found if any(fnmatchcase(file.path, name) for name in download.files)
        ]
    if not found:
        raise BergerError(
            f"{address}: has no files such as {download.files[0]}; the data set may have moved, "
            "see where it is by `berger tasks NAME`."
        )
    for file in found:
        _check_path(file.path, address)
    return sorted(found, key=lambda file: file.path), remarks


def _check_path(path: str, address: str) -> None:
    """Refuse what would lie outside of the folder, on any system."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or re.search(r"[\\:\x00-\x1f]", path):
        raise BergerError(f"{address}: lists a file as {path!r}, which is no path in a folder.")


def _of_physionet(line: Line, address: str) -> Iterator[RemoteFile]:
    for entry in line.text(f"{address}/SHA256SUMS.txt").splitlines():
        if entry.strip():
            digest, _, path = entry.partition(" ")
            path = path.lstrip(" *").removeprefix("./")
            if not re.fullmatch("[0-9a-f]{64}", digest):
                raise ValueError(entry)
            yield RemoteFile(path, f"{address}/{quote(path)}", Hash("sha256", digest))


def _of_openneuro(name: str, line: Line, address: str) -> Iterator[RemoteFile]:
    token: str | None = None
    while True:
        query = {"list-type": "2", "prefix": f"{name}/"}
        query |= {"continuation-token": token} if token else {}
        answer = ElementTree.fromstring(line.text(f"{address}?{urlencode(query)}"))
        for content in answer.iter(f"{_S3}Contents"):
            told = {child.tag.removeprefix(_S3): child.text or "" for child in content}
            path = told["Key"].removeprefix(f"{name}/")
            # of a file that was sent in parts it is no hash of the content
            etag = told.get("ETag", "").strip('"')
            whole = re.fullmatch("[0-9a-f]{32}", etag) is not None
            if path and not path.endswith("/"):
                yield RemoteFile(
                    path,
                    f"{address}/{quote(told['Key'])}",
                    Hash("md5", etag) if whole else None,
                    int(told["Size"]),
                )
        token = answer.findtext(f"{_S3}NextContinuationToken")
        if token is None:
            return


def _other_version(download: OpenNeuro, found: list[RemoteFile], line: Line) -> tuple[str, ...]:
    """Say so if the bucket has moved on."""
    (url,) = [file.url for file in found if file.path == "dataset_description.json"] or [""]
    doi = str(json.loads(line.text(url)).get("DatasetDOI", "")) if url else ""
    if doi.endswith(f".v{download.version}"):
        return ()
    return (
        f"{download.name}: the bucket of OpenNeuro calls its version {doi or 'nothing'}, and the "
        f"facts are of {download.version}; compare the folder with them by `berger tasks`.",
    )


def _of_osf(
    download: Osf, line: Line, address: str, above: str | None = None
) -> Iterator[RemoteFile]:
    """Walk through the folder that is meant; `above` is the path in it, None outside."""
    page: str | None = address
    while page:
        answer: dict[str, Any] = json.loads(line.text(page))
        for entry in answer["data"]:
            told = entry["attributes"]
            name = str(told["name"])
            path = name if not above else f"{above}/{name}"
            if told["kind"] == "folder":
                if above is not None or fnmatchcase(name, download.folder):
                    inside = entry["relationships"]["files"]["links"]["related"]["href"]
                    yield from _of_osf(download, line, inside, path if above is not None else "")
            elif above is not None:
                hashes = told.get("extra", {}).get("hashes", {})
                known = [Hash(kind, hashes[kind]) for kind in ("sha256", "md5") if hashes.get(kind)]
                size = told.get("size")
                yield RemoteFile(
                    path,
                    entry["links"]["download"],
                    known[0] if known else None,
                    None if size is None else int(size),
                )
        page = answer["links"].get("next")
