"""Make sure that a file is as long as it says, before a library reads it.

Most readers take what the size of the file allows. A file cut short then passes as a short
recording; one with bytes put in or taken out goes on with every sample in another channel. What a
header announces is held against the file here, before anything of the announced size is reserved.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from berger.errors import BergerError
from berger.recordings.fiff import check_fiff
from berger.recordings.matlab import check_matlab


def check_whole(path: Path) -> None:
    """Hold what a file's header announces against its size.

    Parameters
    ----------
    path : Path
        A file of one of the formats that MNE reads (for .mff, the folder).

    Raises
    ------
    BergerError
        If the file is cut short, holds more than it announces, or has a damaged header.
    """
    suffix = ".fif" if path.name.lower().endswith(".fif.gz") else path.suffix.lower()
    try:
        _CHECKS[suffix](path)
    except BergerError:
        raise
    except OSError as error:
        reason = error.strerror or error
        raise BergerError(f"{path}: cannot be read ({reason}); fetch it again.") from error
    except (struct.error, ValueError, EOFError, zlib.error) as error:
        raise BergerError(
            f"{path}: its header is damaged ({error}); fetch or export it again."
        ) from error


def beginning(path: Path, n_bytes: int) -> bytes:
    """Return the first bytes of a file.

    Raises
    ------
    BergerError
        If the file cannot be opened.
    """
    try:
        with path.open("rb") as file:
            return file.read(n_bytes)
    except OSError as error:
        raise BergerError(f"{path}: cannot be read ({error.strerror}).") from error


def _check_size(path: Path, n_bytes: int, announced: int, what: str = "it") -> None:
    """Compare the bytes that are there with those that are announced."""
    if n_bytes < announced:
        raise BergerError(
            f"{path}: cut short: {what} has {n_bytes} of the {announced} bytes that the header "
            "announces; fetch or export it again."
        )
    if n_bytes > announced:
        raise BergerError(
            f"{path}: not whole: {what} has {n_bytes - announced} bytes more than the header "
            "announces; fetch or export it again."
        )


def line_ends_converted(path: Path) -> bool:
    """Return whether every line feed follows a carriage return, which samples never do."""
    content = beginning(path, 1 << 24)
    return content.count(b"\n") == content.count(b"\r\n") > 3


# --- GDF ---------------------------------------------------------------------------------


class GdfHeader(NamedTuple):
    """What the beginning of a GDF file says.

    A. Schlögl, "GDF – A general dataformat for biosignals", arXiv cs/0608052, sections 2 and 3.
    """

    content: bytes
    version: float
    n_channels: int
    n_samples: tuple[int, ...]  # per data record
    has_range: tuple[bool, ...]  # whether numbers in the file can be turned into units


# Type of the samples → bytes.
_GDF_WIDTHS = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 8, 8: 8, 16: 4, 17: 8}


def gdf_header(path: Path) -> GdfHeader:
    """Return a GDF file's header.

    Raises
    ------
    ValueError, struct.error
        If it is none, or not whole.
    """
    fixed = beginning(path, 256)
    if not re.match(rb"GDF [12]\.\d\d", fixed):
        raise ValueError("it does not begin as GDF does")
    version = float(fixed[4:8])
    (n_channels,) = struct.unpack_from("<I" if version < 1.9 else "<H", fixed, 252)
    length = 256 * (n_channels + 1)
    (announced,) = struct.unpack_from("<q" if version < 1.9 else "<H", fixed, 184)
    if announced * (1 if version < 1.9 else 256) != length or path.stat().st_size < length:
        raise ValueError(f"its length is not that of {n_channels} channels")
    content = beginning(path, length)

    def column(kind: str, offset: int) -> tuple[float, ...]:
        return struct.unpack_from(f"<{n_channels}{kind}", content, 256 + offset * n_channels)

    digital = "q" if version < 1.9 else "d"
    low, high = column("d", 104), column("d", 112)
    digital_low, digital_high = column(digital, 120), column(digital, 128)
    return GdfHeader(
        content,
        version,
        n_channels,
        tuple(int(number) for number in column("i", 216)),
        tuple(
            is_range(low[i], high[i]) and is_range(digital_low[i], digital_high[i])
            for i in range(n_channels)
        ),
    )


def is_range(low: float, high: float) -> bool:
    """Return whether two numbers are the finite ends of a range."""
    return low != high and abs(high - low) < float("inf")


def _check_gdf(path: Path) -> None:
    header = gdf_header(path)
    n_records, numerator, denominator = struct.unpack_from("<qII", header.content, 236)
    kinds = struct.unpack_from(
        f"<{header.n_channels}i", header.content, 256 + 220 * header.n_channels
    )
    if not set(kinds) <= set(_GDF_WIDTHS):
        raise ValueError("its samples are of an unknown type")
    if n_records <= 0 or not numerator or not denominator or min(header.n_samples) < 0:
        raise ValueError("it does not say how much was recorded")
    record = sum(n * _GDF_WIDTHS[kind] for n, kind in zip(header.n_samples, kinds, strict=True))
    end = len(header.content) + n_records * record
    size = path.stat().st_size
    if size > end:  # a table of events
        with path.open("rb") as file:
            file.seek(end)
            table = file.read(8)
        if header.version < 1.94:
            mode, _, _, _, n_events = struct.unpack("<BBBBI", table)
        else:
            mode, low, middle, high, _ = struct.unpack("<BBBBf", table)
            n_events = low | middle << 8 | high << 16
        if mode & ~7:
            raise BergerError(
                f"{path}: not whole: no table of events follows its {n_records} data records; "
                "fetch or export it again."
            )
        end += 8 + n_events * (6 + 6 * bool(mode & 2) + 8 * bool(mode & 4))
    _check_size(path, size, end)


# --- Neuroscan and ANT -------------------------------------------------------------------

# The SETUP structure, of which http://paulbourke.net/dataformats/eeg/ has the offsets.
_CNT_SETUP, _CNT_CHANNEL = 900, 75
_CNT_EVENT_BYTES = {1: 8, 2: 19, 3: 19}


def _check_cnt(path: Path) -> None:
    start = beginning(path, _CNT_SETUP)
    if start[:4] in (b"RIFF", b"RF64"):
        _check_riff(path)
        return
    if not start.startswith(b"Version"):
        raise BergerError(
            f"{path}: is neither a Neuroscan nor an ANT Neuro file; export it in another format."
        )
    n_channels, _, _, sfreq = struct.unpack_from("<HHHH", start, 370)
    n_samples, events, block = (struct.unpack_from("<i", start, at)[0] for at in (864, 886, 894))
    if not n_channels or not sfreq or n_samples <= 0:
        raise ValueError("it names no channels, no sampling rate or no samples")
    size = path.stat().st_size
    if size >= 2**31:
        return  # the table's place does not fit into the header
    if events + 9 > size:
        _check_size(path, size, events + 9)
    width, rest = divmod(events - _CNT_SETUP - _CNT_CHANNEL * n_channels, n_samples * n_channels)
    if rest or width not in (2, 4) or (block > 1 and (block % width or n_samples * width % block)):
        raise ValueError(f"{n_samples} samples of {n_channels} channels do not end at its events")
    with path.open("rb") as file:
        file.seek(events)
        kind, n_bytes, offset = struct.unpack("<Bii", file.read(9))
    if kind not in _CNT_EVENT_BYTES or n_bytes < 0 or n_bytes % _CNT_EVENT_BYTES[kind] or offset:
        raise BergerError(
            f"{path}: not whole: no table of events follows its {n_samples} samples; fetch or "
            "export it again."
        )
    # What some programs write behind the events is not read.
    if events + 9 + n_bytes > size:
        _check_size(path, size, events + 9 + n_bytes)


def _check_riff(path: Path) -> None:
    """Walk the chunks of an ANT Neuro file; in the long form their sizes have 8 bytes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        wide = file.read(4) == b"RF64"
        width, kind = (8, "<Q") if wide else (4, "<I")
        file.seek(4)
        (announced,) = struct.unpack(kind, file.read(width))
        head = 4 + width
        _check_size(path, size, head + announced)
        pieces = [(head + 4, size)]  # behind the name of the file's form
        while pieces:
            at, stop = pieces.pop()
            while at < stop:
                file.seek(at)
                name = file.read(4)
                (length,) = struct.unpack(kind, file.read(width))
                if at + head + length > stop:
                    raise ValueError(f"its chunk {name!r} reaches beyond its end")
                if name == b"LIST":
                    pieces.append((at + head + 4, at + head + length))
                at += head + length + length % 2


# --- Nihon Kohden ------------------------------------------------------------------------


def _check_nihon_kohden(path: Path) -> None:
    """Follow the blocks of an EEG-1100 file to its end."""
    start = beginning(path, 0x400)
    if re.match(rb"(EEG|QI|DAE)-", start) is None:
        raise BergerError(
            f"{path}: is no Nihon Kohden file; if it is BrainVision's, give its .vhdr file."
        )
    for suffix in (".21e", ".log"):  # MNE looks for names in capitals and says nothing
        small, large = path.with_suffix(suffix), path.with_suffix(suffix.upper())
        if small.exists() and not large.exists():
            raise BergerError(f"{path}: {small.name} beside it is not found; call it {large.name}.")
    size = path.stat().st_size
    n_controls, control = struct.unpack_from("<BI", start, 0x91)
    if n_controls != 1:
        raise ValueError(f"it has {n_controls} control blocks, and one alone can be read")
    end = 0
    with path.open("rb") as file:

        def number(kind: str, at: int) -> int:
            file.seek(at)
            return int(struct.unpack(kind, file.read(struct.calcsize(kind)))[0])

        n_blocks = number("<B", control + 17)
        for block in range(n_blocks):
            address = number("<I", control + 18 + 20 * block)
            if address < end:
                raise ValueError("its data blocks lie in each other")
            n_channels = number("<B", address + 0x26)
            sfreq = number("<H", address + 0x1A) & 0x3FFF
            tenths = number("<I", address + 0x1C)
            if not n_channels or not sfreq or not tenths:
                raise ValueError("a data block holds no signal")
            n_samples = tenths * sfreq // 10
            end = address + 0x27 + 10 * n_channels + 2 * n_samples * (n_channels + 1)
            if end > size:
                _check_size(path, size, end)
    if not n_blocks:
        raise ValueError("it has no data block")
    # Newer devices put blocks of another kind behind, whose address stands here.
    if not struct.unpack_from("<I", start, 0x3EE)[0]:
        _check_size(path, size, end)


# --- Persyst -----------------------------------------------------------------------------


def persyst_sections(path: Path) -> dict[str, list[tuple[str, str]]]:
    """Return the `key=value` lines of a .lay by section, sections in lower case."""
    sections: dict[str, list[tuple[str, str]]] = {}
    section = ""
    for line in path.read_text(encoding="latin-1").splitlines():
        if heading := re.match(r"\[(.*)\]", line.strip()):
            section = heading[1].casefold()
        elif "=" in line:
            key, _, value = line.partition("=")
            sections.setdefault(section, []).append((key.strip(), value.strip()))
    return sections


def _check_persyst(path: Path) -> None:
    sections = persyst_sections(path)
    info = {key.casefold(): value for key, value in sections.get("fileinfo", [])}
    if info.get("filetype", "Interleaved").casefold() != "interleaved":
        raise ValueError(f"its FileType is {info['filetype']}, and Interleaved alone can be read")
    if int(info.get("headerlength") or 0):
        raise ValueError("its data file begins with a header, which cannot be read")
    width = {0: 2, 7: 4}[kind] if (kind := int(info.get("datatype", 0))) in (0, 7) else 0
    n_channels = int(info.get("waveformcount", 0))
    data = path.with_name(info.get("file", "").replace("\\", "/").rpartition("/")[2] or "?")
    if not width or n_channels < 1:
        raise ValueError("it has no DataType or WaveformCount that is known")
    if not data.is_file():
        return  # which MNE says
    n_bytes = data.stat().st_size
    n_samples, rest = divmod(n_bytes, width * n_channels)
    marks = [int(sample) for sample, _ in sections.get("sampletimes", []) if sample.isdigit()]
    if rest or not n_samples or max(marks, default=0) >= n_samples or line_ends_converted(data):
        raise BergerError(
            f"{path}: its data file {data.name} has {n_bytes} bytes, which are no whole samples "
            f"of {n_channels} channels or end before the last of [SampleTimes]; fetch both again."
        )


# --- EGI ---------------------------------------------------------------------------------


class EgiHeader(NamedTuple):
    """The fixed part of an EGI simple binary file."""

    version: int
    sfreq: int
    n_channels: int
    bits: int
    value_range: int
    n_samples: int
    n_events: int


def egi_header(path: Path) -> EgiHeader:
    """Return the header of an EGI simple binary file that holds one continuous recording."""
    fields = struct.unpack(">i6hi5hih", beginning(path, 36))
    version, sfreq, n_channels, _, bits, value_range, n_samples, n_events = (
        fields[0],
        *fields[8:],
    )
    if version not in range(2, 8):
        raise ValueError("it does not begin as a simple binary file does")
    if version % 2:
        raise ValueError("it is cut into segments; export it without them")
    return EgiHeader(version, sfreq, n_channels, bits, value_range, n_samples, n_events)


def _check_egi(path: Path) -> None:
    header = egi_header(path)
    if min(header.sfreq, header.n_channels, header.n_samples) <= 0 or header.n_events < 0:
        raise ValueError("it holds no signal")
    rows = header.n_channels + header.n_events
    announced = 36 + 4 * header.n_events + header.n_samples * rows * {2: 2, 4: 4, 6: 8}[
        header.version
    ]  # fmt: skip
    _check_size(path, path.stat().st_size, announced)


def _check_mff(path: Path) -> None:
    """Walk the blocks of the signals in EGI's folder.

    A block begins with 1 and a header (its length, that of the data, number of channels), or with
    0 where it is like the block before.
    """
    for signal in sorted(path.glob("signal*.bin")):
        size, at, length = signal.stat().st_size, 0, 0
        with signal.open("rb") as file:
            while at < size:
                file.seek(at)
                (flag,) = struct.unpack("<i", file.read(4))
                at += 4
                if flag:
                    head, length, n_channels = struct.unpack("<iii", file.read(12))
                    if flag != 1 or head < 16 + 8 * n_channels or length < 0 or n_channels < 1:
                        raise ValueError(f"{signal.name} has no block where one is due")
                    if length % (4 * n_channels):
                        raise ValueError(f"a block of {signal.name} holds no whole samples")
                    at += head - 4
                at += length
        _check_size(path, size, at, signal.name)


# --- BrainVision -------------------------------------------------------------------------


def brainvision_header(path: Path) -> dict[str, str]:
    """Return the `key=value` lines of a .vhdr, keys in lower case."""
    text = beginning(path, -1).decode("latin-1")
    return {
        key.casefold(): value.strip()
        for key, value in re.findall(r"^(\w+)\s*=(.*)$", text, re.MULTILINE)
    }


def _check_brainvision(path: Path) -> None:
    """Hold the data file against the header, and where that says no length, the markers."""
    header = brainvision_header(path)
    data = path.with_name(header.get("datafile") or "?")
    widths = {"int_16": 2, "uint_16": 2, "int_32": 4, "ieee_float_32": 4}
    width = widths.get(header.get("binaryformat", "").casefold(), 0)
    if not width or not data.is_file():
        return  # text, or a fault that MNE names
    n_channels = int(header.get("numberofchannels", 0))
    described = [key for key in header if re.fullmatch(r"ch\d+", key)]
    if len(described) != n_channels or n_channels < 1:
        raise ValueError(f"it does not describe {n_channels} channels")
    n_bytes = data.stat().st_size
    n_points, rest = divmod(n_bytes, width * n_channels)
    announced = header.get("datapoints", "")
    wrong = rest or not n_points or (not announced and line_ends_converted(data))
    if wrong or (announced and int(announced) not in (0, n_points)):
        expected = f"{announced or 'whole'} samples of {n_channels} channels"
        raise BergerError(
            f"{path}: its data file {data.name} has {n_bytes} bytes, not {expected}; fetch or "
            "export both again."
        )
    markers = path.with_name(header.get("markerfile") or "?")
    if not announced and markers.is_file():
        places = [
            int(fields[2])
            for key, value in brainvision_header(markers).items()
            if re.fullmatch(r"mk\d+", key) and len(fields := value.split(",")) > 2
        ]
        if max(places, default=0) > n_points + 1:  # one marks the end
            raise BergerError(
                f"{path}: its data file {data.name} ends at sample {n_points}, but there is a "
                f"marker at {max(places)} in {markers.name}; fetch or export them again."
            )


# --- FIF ---------------------------------------------------------------------------------


def _check_fif(path: Path) -> None:
    """Check a file and its later parts, where it was split by size."""
    suffix = ".fif.gz" if path.name.lower().endswith(".gz") else ".fif"
    stem = path.name[: -len(suffix)]
    later = re.compile(
        re.escape(stem) + r"-\d+" + "|" + re.sub(r"(?<=_split-)\d+", r"\\d+", re.escape(stem))
    )
    check_fiff(path)
    for part in sorted(path.parent.glob("*" + path.name[-len(suffix) :])):
        if part != path and later.fullmatch(part.name[: -len(suffix)]):
            check_fiff(part)


_CHECKS: Mapping[str, Callable[[Path], None]] = MappingProxyType(
    {
        ".gdf": _check_gdf,
        ".vhdr": _check_brainvision,
        ".set": check_matlab,
        ".fif": _check_fif,
        ".cnt": _check_cnt,
        ".eeg": _check_nihon_kohden,
        ".lay": _check_persyst,
        ".mff": _check_mff,
        ".raw": _check_egi,
    }
)
