"""Follow the tags of a FIF file to its end before MNE does.

A FIF file is a chain of tags: kind, type, size and place of the next, four big-endian integers of
32 bits, then the content. Next is 0 for a tag that follows directly, -1 for the last, else a place
in the file. MNE follows the chain wherever it leads, for ever if it leads back, and passes over
tags that it does not know, a damaged data buffer among them.

MEGIN, "Functional Image File Format", release 1.3.
"""

from __future__ import annotations

import gzip
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

# Kinds of tags
_FILE_ID, _DIR_POINTER, _DIRECTORY = 100, 101, 102
_BLOCK_START, _BLOCK_END = 104, 105
_N_CHANNELS, _CHANNEL, _DATA_BUFFER = 200, 203, 300
# Kinds of blocks
_MEASUREMENT, _DATA_BLOCKS = 101, (102, 112, 119)  # of data: raw, continuous, internal shielding
_STRING = 10  # type
# Type of the samples → bytes.
_WIDTHS = {2: 2, 16: 2, 3: 4, 4: 4, 5: 8, 20: 8, 21: 16}


class _Tag(NamedTuple):
    at: int
    kind: int
    type: int
    size: int


def check_fiff(path: Path) -> None:
    """Raise ValueError unless the tags of a FIF file follow each other to its end.

    Parameters
    ----------
    path : Path
        The file; one whose name ends with ".gz" is decompressed, and its sum checked.

    Raises
    ------
    ValueError
        If the chain leads back, out of the file or ends before it, blocks are not closed, the
        directory at the end differs, or the data buffers do not hold whole samples of the
        channels described.
    OSError, EOFError, zlib.error
        If the file cannot be read or decompressed.
    """
    zipped = path.suffix.lower() == ".gz"
    with gzip.open(path, "rb") if zipped else path.open("rb") as file:
        size = sum(map(len, iter(lambda: file.read(1 << 20), b""))) if zipped else 0
        _check_tags(file, size or os.fstat(file.fileno()).st_size)  # type: ignore[arg-type]


def _check_tags(file: BinaryIO, size: int) -> None:
    tags = list(_tags(file, size))
    if len(tags) < 2 or (tags[0].kind, tags[1].kind) != (_FILE_ID, _DIR_POINTER):
        raise ValueError("it does not begin as FIF does")
    directory = _number(file, tags[1])
    if directory > 0:
        _check_directory(file, tags, directory)
    blocks: list[int] = []
    announced, described = 0, 0
    buffers = []
    for tag in tags:
        if tag.kind == _BLOCK_START:
            blocks.append(_number(file, tag))
        elif tag.kind == _BLOCK_END:
            if not blocks or blocks.pop() != _number(file, tag):
                raise ValueError("it closes a block that it did not open")
        elif blocks and blocks[-1] == _MEASUREMENT:
            announced = _number(file, tag) if tag.kind == _N_CHANNELS else announced
            described += tag.kind == _CHANNEL
        elif blocks and blocks[-1] in _DATA_BLOCKS:
            if tag.kind == _DATA_BUFFER:
                buffers.append(tag)
            elif tag.size > 16 and tag.type != _STRING:
                raise ValueError(f"an unknown tag stands at {tag.at} among the data")
    if blocks:
        raise ValueError("it does not close a block that it opens")
    if announced != described:
        raise ValueError(f"it describes {described} of {announced} channels")
    for tag in buffers:
        if tag.type not in _WIDTHS or tag.size % (_WIDTHS[tag.type] * max(announced, 1)):
            raise ValueError(f"the data at {tag.at} are no whole samples of {announced} channels")
    if len({tag.type for tag in buffers}) > 1:
        raise ValueError("its samples change their type")


def _tags(file: BinaryIO, size: int) -> Iterator[_Tag]:
    """Yield the tags along the chain, which must reach the end of the file."""
    at = 0
    while at < size:
        file.seek(at)
        kind, type_, length, following = struct.unpack(">iIii", file.read(16))
        end = at + 16 + length
        if length < 0 or end > size:
            raise ValueError(f"the tag at {at} reaches beyond the end of the file")
        yield _Tag(at, kind, type_, length)
        if following == -1:
            if end != size:
                raise ValueError(f"{size - end} bytes are left over behind its last tag")
            return
        if following and following < end:
            raise ValueError(f"the tag at {at} leads back")
        at = following or end
    if at != size:
        raise ValueError(f"it ends before the tag at {at}")


def _number(file: BinaryIO, tag: _Tag) -> int:
    file.seek(tag.at + 16)
    return int(struct.unpack(">i", file.read(4))[0])


def _check_directory(file: BinaryIO, tags: list[_Tag], at: int) -> None:
    """Compare the list of all tags that may stand at the end with the tags; MNE trusts it."""
    own = next((tag for tag in tags if tag.at == at and tag.kind == _DIRECTORY), None)
    if own is None or own.size % 16:
        raise ValueError(f"no directory stands at {at}")
    file.seek(at + 16)
    entries = {
        _Tag(place, kind, type_, length)
        for kind, type_, length, place in struct.iter_unpack(">iIii", file.read(own.size))
    }
    known = set(tags)
    if not entries <= known | {_Tag(-1, -1, 0, 0)} or any(
        tag not in entries for tag in tags if tag.kind not in (0, 108, _DIRECTORY, _DIR_POINTER)
    ):
        raise ValueError("its directory differs from its tags")
