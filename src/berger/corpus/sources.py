"""Tell whether a source file is still the one that a corpus was prepared from.

Size and time of change tell it without reading: a file of the same size that was changed at
another time, as after copying or in another folder of the same name, is read and its hash compared.
The times stand in the log, since equal contents shall be equal bytes whenever they were written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from berger.corpus.format import LOG
from berger.errors import BergerError
from berger.recordings import files_of, hash_of, size_of


class Sources:
    """What a corpus knows of its sources.

    Parameters
    ----------
    folder : Path
        The corpus.
    check : bool
        Whether to compare every hash, whatever the times say.
    """

    def __init__(self, folder: Path, *, check: bool = False) -> None:
        self._check = check
        self._log = folder / LOG
        self._times: dict[str, int] = {}
        if self._log.is_file():
            for line in self._log.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                    self._times[entry["recording"]] = entry["source_time"]
                except (ValueError, TypeError, KeyError):
                    continue  # a line cut short when it was written, or of an earlier Berger

    def is_same(self, recording: str, path: Path, row: Mapping[str, Any]) -> bool:
        """Return whether a file is the one that a row of the recordings table is about.

        Raises
        ------
        BergerError
            If its hash is to be compared and the corpus does not hold one.
        """
        size, time = size_and_time(path)
        if row["source_bytes"] != size:
            return False
        if time is None or (self._times.get(recording) == time and not self._check):
            return True
        known = row.get("source_sha256")
        if known is None:
            if self._check and row["status"] == "ok":
                raise BergerError(
                    f"{self._log.parent}: an earlier Berger prepared it and kept no hashes of the "
                    "sources; leave out --check-sources, or prepare into another folder."
                )
            return True
        if hash_of(path) != known:
            return False
        self._times[recording] = time
        with self._log.open("a", encoding="utf-8") as log:
            log.write(json.dumps({"recording": recording, "source_time": time}) + "\n")
        return True


def size_and_time(path: Path) -> tuple[int, int | None]:
    """Return a recording's bytes and when it was last changed (ns); 0, None if it is not there."""
    try:
        return size_of(path), max(file.stat().st_mtime_ns for file in files_of(path))
    except (OSError, ValueError, BergerError):  # reading it will fail and say why
        return 0, None
