"""Which files are recordings, by their suffix, and who reads them."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

from berger.errors import BergerError
from berger.files import sha256
from berger.recordings.bids import participant_bytes, tables_of
from berger.recordings.edf import read_edf
from berger.recordings.layout import LayoutConfig, read_layout
from berger.recordings.recording import Content, Unit, Wanted
from berger.recordings.through_mne import read_through_mne
from berger.recordings.wholeness import brainvision_header

# Of a file, the channels wanted, and the unit that its numbers have whatever it declares.
Reader = Callable[[Path, Wanted, Unit | None], Content]

FORMATS: Mapping[str, Reader] = MappingProxyType(
    {
        ".edf": read_edf,  # EDF, EDF+C, EDF+D
        ".rec": read_edf,  # EDF by the name that it had in the nineties
        ".bdf": read_edf,  # BioSemi, BDF+
        ".gdf": read_through_mne,
        ".vhdr": read_through_mne,  # BrainVision
        ".set": read_through_mne,  # EEGLAB
        ".fif": read_through_mne,
        ".fif.gz": read_through_mne,
        ".cnt": read_through_mne,  # Neuroscan, or ANT Neuro
        ".eeg": read_through_mne,  # Nihon Kohden
        ".lay": read_through_mne,  # Persyst
        ".mff": read_through_mne,  # EGI, a folder
        ".raw": read_through_mne,  # EGI simple binary
    }
)
"""Suffix → reader."""

_FOLDERS = frozenset([".mff"])


def format_of(path: Path, layout: LayoutConfig | None = None) -> str | None:
    """Return the suffix of `FORMATS` that a file's (or, for .mff, a folder's) name ends with.

    Files of the suffix that a layout is declared for are recordings as well.
    """
    name = path.name.lower()
    known = [*FORMATS, *([layout.suffix] if layout else [])]
    suffix = next((suffix for suffix in known if name.endswith(suffix) and name != suffix), None)
    if suffix is None or (path.is_dir() and suffix not in _FOLDERS):
        return None
    return suffix


def reader_of(suffix: str, layout: LayoutConfig | None) -> Reader:
    """Return the reader of a suffix that `format_of` returned."""
    if layout is not None and suffix == layout.suffix:
        return partial(_read, partial(read_layout, layout=layout))
    return partial(_read, FORMATS[suffix])


def _read(read: Reader, path: Path, wanted: Wanted, unit: Unit | None) -> Content:
    """Read a file; whatever a library raises for one that is damaged becomes a BergerError."""
    try:
        content = read(path, wanted, unit)
    except BergerError:
        raise
    except MemoryError as error:
        raise BergerError(
            f"{path}: does not fit into memory; read it on a machine with more, or cut it into "
            "parts."
        ) from error
    except Exception as error:  # no list of what parsers raise would be complete
        reason = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")
        raise BergerError(
            f"{path}: cannot be read ({reason}); fetch or export it again."
        ) from error
    if not content.signal.shape[1]:
        raise BergerError(f"{path}: holds no samples; fetch it again, or take it out.")
    if not 0 < content.sfreq < math.inf:
        raise BergerError(f"{path}: its sampling rate is {content.sfreq:g} Hz; export it again.")
    return content


def is_companion(path: Path) -> bool:
    """Return whether a file belongs to another one, which is the recording.

    So does the .eeg that a .vhdr beside it names as its data, and the later parts of a FIF file
    that was split by size ("x_raw-1.fif", or "split-02" in BIDS). A .rec that is no EDF holds notes
    on a recording, as in the TUH EEG Corpus.
    """
    suffix = format_of(path)
    if suffix == ".rec":
        return not _is_edf(path)
    if suffix == ".eeg":
        own = path.with_suffix(".vhdr").exists()
        return own or path.name in _brainvision_data(path.parent)
    if suffix in (".fif", ".fif.gz"):
        stem = path.name[: -len(suffix)]
        if later := re.fullmatch(r"(.+)-\d+", stem):
            return path.with_name(later[1] + path.name[-len(suffix) :]).exists()
        if (part := re.search(r"(?<=_split-)\d+(?=_|$)", stem)) and int(part[0]) > 1:
            first = f"{stem[: part.start()]}{1:0{len(part[0])}d}{stem[part.end() :]}"
            return path.with_name(first + path.name[-len(suffix) :]).exists()
    return False


def _is_edf(path: Path) -> bool:
    """Return whether a file begins like EDF; True if it cannot be read, which is said later."""
    try:
        with path.open("rb") as file:
            return file.read(8) == b"0       "
    except OSError:
        return True


def files_of(path: Path) -> list[Path]:
    """Return a recording's file and those that belong to it; all files of a folder, sorted.

    In a BIDS root the tables of its channels and events belong to it.

    Raises
    ------
    OSError
        If a file that leads to the others cannot be read.
    """
    if path.is_dir():
        inside = sorted(file for file in path.rglob("*") if file.is_file())
        return inside + tables_of(path)
    suffix = format_of(path) or ""
    named = [path.with_suffix(other) for other in _COMPANIONS.get(suffix, ())]
    named += [file.with_suffix(file.suffix.upper()) for file in named]  # as the devices write
    if suffix == ".vhdr" and path.is_file():
        header = brainvision_header(path)
        names = [header.get(key, "") for key in ("datafile", "markerfile")]
        named = [path.with_name(name) for name in names if name]
    return [path, *(file for file in named if file.is_file()), *tables_of(path)]


def size_of(path: Path) -> int:
    """Return the bytes of a recording: of its file and those that belong to it, or of its folder.

    What a BIDS root says about the recording counts too.

    Raises
    ------
    OSError
        If the file is not there.
    """
    return sum(file.stat().st_size for file in files_of(path)) + len(participant_bytes(path))


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a recording's bytes as hexadecimal digits.

    Of several files it is the SHA-256 of their hashes and names, as `sha256sum` would list them;
    in a BIDS root the subject's row of participants.tsv counts as one of them.

    Raises
    ------
    OSError
        If a file cannot be read.
    """
    files, row = files_of(path), participant_bytes(path)
    if files == [path] and not row:
        return sha256(path)
    folder = path if path.is_dir() else path.parent
    lines = [
        f"{sha256(file)}  {Path(os.path.relpath(file, folder)).as_posix()}\n" for file in files
    ]
    if row:
        lines.append(f"{hashlib.sha256(row).hexdigest()}  participants.tsv\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


_COMPANIONS = {
    ".set": (".fdt",),
    ".lay": (".dat",),
    ".eeg": (".pnt", ".21e", ".log"),
}


def _brainvision_data(folder: Path) -> set[str]:
    """Return the names that the .vhdr files in a folder give as their data."""
    headers = [file for file in folder.glob("*") if file.suffix.lower() == ".vhdr"]
    return {brainvision_header(file).get("datafile", "") for file in headers if file.is_file()}
