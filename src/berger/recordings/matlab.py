"""Check how a MATLAB file is built before SciPy reads it, which damage can crash.

The MathWorks, "MAT-File Format", version 5. Version 7.3 is HDF5.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

# Types of elements
_INT8, _UINT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 2, 5, 6, 14, 15
_WIDTHS = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8}
_TEXTS = {1: 1, 2: 1, 4: 2, 16: 1, 17: 2, 18: 4}  # bytes of a character, at least
# Classes of arrays
_CELL, _STRUCT, _OBJECT, _CHAR, _SPARSE, _NUMBERS, _FUNCTION, _OPAQUE = (
    1, 2, 3, 4, 5, range(6, 16), 16, 17,
)  # fmt: skip
_COMPLEX = 0x800
_DEEPEST = 50


class _Element(NamedTuple):
    type: int
    content: memoryview


def check_matlab(path: Path) -> None:
    """Raise ValueError if a MATLAB file is not whole.

    Parameters
    ----------
    path : Path
        Of version 5 to 7, or 7.3; of earlier ones nothing is checked.

    Raises
    ------
    ValueError
        If the file does not end where it says, a part reaches beyond the one that holds it or
        holds something else than it says, or a sum is wrong.
    """
    content = np.memmap(path, np.uint8, "r").data
    start = bytes(content[:640])
    if start[512:516] == b"\x89HDF":
        _check_hdf5(start[512:], 512, len(content))
        return
    if 0 in start[:4]:  # version 4 begins with a number, later ones with text
        return
    order = {b"IM": "<", b"MI": ">"}.get(start[126:128])
    if order is None:
        raise ValueError("it is no MATLAB file")
    try:
        _check_file(content[128:], order)
    except (struct.error, zlib.error) as error:
        raise ValueError(f"it is not whole: {error}") from error


def _check_file(content: memoryview, order: str) -> None:
    for element in _elements(content, order, padded=False):
        if element.type == _COMPRESSED:
            (inside,) = _elements(memoryview(_inflated(element.content, order)), order)
            _check_array(inside, order, 0)
        else:
            _check_array(element, order, 0)


def _inflated(content: memoryview, order: str) -> bytes:
    """Decompress an element, no further than the length that it announces."""
    inflate = zlib.decompressobj()
    head = inflate.decompress(content, 8)
    (length,) = struct.unpack(f"{order}4xI", head)
    rest = inflate.decompress(inflate.unconsumed_tail, length + 1)
    # The sum is checked when the end is seen.
    rest += inflate.decompress(inflate.unconsumed_tail, 1)
    if not inflate.eof or inflate.unused_data or len(rest) != length:
        raise ValueError("a compressed array is not as long as it says")
    return head + rest


def _elements(content: memoryview, order: str, padded: bool = True) -> Iterator[_Element]:
    """Yield the elements that fill a stretch of bytes."""
    at = 0
    while at < len(content):
        kind, length = struct.unpack_from(f"{order}II", content, at)
        if kind >> 16:  # up to four bytes, within the tag
            kind, length, start, stop = kind & 0xFFFF, kind >> 16, at + 4, at + 8
            if length > 4:
                raise ValueError("a short element is long")
        else:
            start = at + 8
            fills = padded and kind != _COMPRESSED
            stop = start + length + (-length % 8 if fills else 0)
        # Some programs leave out the last element's filling.
        if start + length > len(content):
            raise ValueError("an element reaches beyond the end")
        yield _Element(kind, content[start : start + length])
        at = stop


def _check_array(element: _Element, order: str, depth: int) -> None:
    if element.type != _MATRIX:
        raise ValueError("an array is missing where one is due")
    if depth > _DEEPEST:
        raise ValueError("its arrays lie too deep in each other")
    if not len(element.content):
        return  # an empty array
    parts = _elements(element.content, order)

    def part(types: object) -> memoryview:
        following = next(parts, None)
        if following is None or following.type not in types:  # type: ignore[operator]
            raise ValueError("an array lacks a part")
        return following.content

    flags = part((_UINT32,))
    (first,) = struct.unpack_from(f"{order}I", flags)
    kind = first & 0xFF
    if kind == _OPAQUE:
        for following in parts:
            if following.type == _MATRIX:
                _check_array(following, order, depth + 1)
            elif following.type != _INT8:
                raise ValueError("an object is damaged")
        return
    dims = part((_INT32, _UINT32))
    if len(dims) < 8 or len(dims) % 4 or len(flags) != 8:
        raise ValueError("an array has no size")
    shape = struct.unpack(f"{order}{len(dims) // 4}i", dims)
    if min(shape) < 0:
        raise ValueError("an array has a negative size")
    n = math.prod(shape)
    part((_INT8, _UINT8, 16))  # its name
    if kind in (_STRUCT, _OBJECT):
        if kind == _OBJECT:
            part((_INT8, _UINT8, 16))
        longest = part((_INT32,))
        names = part((_INT8, _UINT8, 16))
        (width,) = struct.unpack(f"{order}i", longest)
        if width <= 0 or len(names) % width:
            raise ValueError("a structure has no names")
        n *= len(names) // width
    if kind in (_STRUCT, _OBJECT, _CELL, _FUNCTION):
        n_inside = 0
        for inside in parts:
            _check_array(inside, order, depth + 1)
            n_inside += 1
        if n_inside != (1 if kind == _FUNCTION else n):
            raise ValueError(f"an array holds {n_inside} instead of {n} others")
    elif kind == _CHAR:
        _check_text(next(parts, None), n)
    elif kind in _NUMBERS:
        for _ in range(2 if first & _COMPLEX else 1):
            _check_numbers(next(parts, None), n)
    elif kind == _SPARSE:
        rows, columns = part((_INT32, _UINT32)), part((_INT32, _UINT32))
        ends = struct.unpack(f"{order}{len(columns) // 4}i", columns)
        within = struct.unpack(f"{order}{len(rows) // 4}i", rows)
        if len(shape) != 2 or len(ends) != shape[1] + 1 or list(ends) != sorted(ends) or ends[0]:
            raise ValueError("a sparse array is damaged")
        if ends[-1] > len(within) or any(not 0 <= row < shape[0] for row in within[: ends[-1]]):
            raise ValueError("a sparse array is damaged")
        parts = iter(())  # of logical arrays no numbers need be there
    else:
        raise ValueError(f"an array is of unknown class {kind}")
    if next(parts, None) is not None:
        raise ValueError("an array holds more than it says")


def _check_numbers(element: _Element | None, n: int) -> None:
    if element is None or element.type not in _WIDTHS:
        raise ValueError("an array lacks its numbers")
    there, rest = divmod(len(element.content), _WIDTHS[element.type])
    if rest or there != n:
        raise ValueError(f"an array holds {there} instead of {n} numbers")


def _check_text(element: _Element | None, n: int) -> None:
    if element is None and n == 0:
        return
    if element is None or element.type not in _TEXTS:
        raise ValueError("a text is missing")
    length, width = len(element.content), _TEXTS[element.type]
    # Characters of UTF-8 and UTF-16 differ in length.
    if length and (length % width or length // width < n or length > 4 * max(n, 1)):
        raise ValueError(f"a text of {n} characters has {length} bytes")


def _check_hdf5(block: bytes, base: int, size: int) -> None:
    """Compare an HDF5 file's size with what its superblock says.

    HDF5 File Format Specification 3.0, section II.A; `base` bytes stand before it.
    """
    version = block[8]
    width = block[13 if version < 2 else 9]
    if width != 8 or version > 3:
        raise ValueError("its head is none of HDF5")
    # Versions 0 and 1: base address, free space, end of file. 2 and 3: base, extension, end.
    start = {0: 24, 1: 28}.get(version, 12)
    own_base, _, end = struct.unpack_from("<QQQ", block, start)
    if own_base not in (0, base) or size != end:
        raise ValueError(f"it has {size} bytes instead of {end}")
