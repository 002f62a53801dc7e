"""Notice when shards are written to while windows are read from them.

A window has no check sum of its own, its shard has. To read whole shards before every run would
take hours of a large corpus, so that the system is asked whether somebody has written to one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from berger.corpus.remote import is_remote
from berger.corpus.windows import WindowDataset
from berger.errors import BergerError
from berger.files import sha256

Stamp = tuple[int, int, int, int]


class UnchangedShards:
    """The shards of some windows, as they are now.

    Copies of a corpus on a server are left out: they were compared with its manifest when they
    came, and nobody else writes to them.

    Parameters
    ----------
    windows : WindowDataset
    """

    def __init__(self, windows: WindowDataset) -> None:
        blocks = [windows.blocks[number] for number in np.unique(windows.of_block)]
        self._content = {
            Path(block.shard): block.content for block in blocks if not is_remote(block.shard)
        }
        self._stamps = {path: _stamp(path) for path in self._content}

    def check(self) -> None:
        """Compare those that were written to since they were last seen with their check sums.

        One that is gone is no matter as long as nobody wants to read it.

        Raises
        ------
        BergerError
            If the content of one is another.
        """
        for path, before in self._stamps.items():
            now = _stamp(path)
            if now is not None and now != before:
                self._compare(path)
                self._stamps[path] = now

    def check_since(self, moment: float) -> None:
        """Compare those that were written to since a moment, in seconds since 1970.

        Raises
        ------
        BergerError
            If the content of one is another.
        """
        for path, stamp in self._stamps.items():
            if stamp is not None and stamp[1] > moment * 1e9:
                self._compare(path)

    def _compare(self, path: Path) -> None:
        if sha256(path) != self._content[path]:
            raise BergerError(
                f"{path}: has changed while it was in use and is not as the manifest says; restore "
                "it, see that it is right with `berger corpus verify`, and continue with --resume "
                "from the last state, which is of before."
            )


def _stamp(path: Path) -> Stamp | None:
    """Return what changes when somebody writes to a file; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
