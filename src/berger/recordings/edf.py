"""Read EDF, EDF+ and BDF, after making sure that the file is whole.

B. Kemp et al., "A simple format for exchange of digitized polygraphic recordings",
Electroencephalography and Clinical Neurophysiology 82 (1992) 391–393; B. Kemp and J. Olivan,
"European data format 'plus' (EDF+)", Clinical Neurophysiology 114 (2003) 1755–1761. BDF is EDF
with samples of 24 bits (BioSemi).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import mne
import numpy as np
import numpy.typing as npt

from berger.errors import BergerError
from berger.recordings.recording import (
    MICROVOLTS,
    Annotation,
    Content,
    Gap,
    Unit,
    Wanted,
    choose_channels,
    gaps_between,
    recorded_annotations,
    unread,
)
from berger.recordings.triggers import trigger_annotations
from berger.recordings.wholeness import is_range, line_ends_converted

_BDF_MAGIC = b"\xffBIOSEMI"
_TEXTS = ("EDF Annotations", "BDF Annotations")

# Unit in the header → microvolts per unit of what MNE returns. MNE gives volts for those of the
# first line and the file's own numbers for all others. The odd spellings are µ in Shift-JIS and
# (twice) in UTF-8, read as Latin-1, in which the header is decoded.
_MICROVOLTS = dict.fromkeys(("uV", "µV", "μV", "\x83\xcaV", "mV", "V"), 1e6) | {
    "uv": 1.0,
    "UV": 1.0,
    "ÂµV": 1.0,
    "Î¼V": 1.0,
    "nV": 1e-3,
}

# What MNE multiplies by for the units of the first line; by 1 for all others.
_SCALED_BY_MNE = dict.fromkeys(("uV", "µV", "μV", "\x83\xcaV"), 1e-6) | {"mV": 1e-3}


@dataclass(frozen=True)
class _EdfHeader:
    """What the beginning of an EDF file says about the rest, held against its size."""

    labels: tuple[str, ...]
    units: tuple[str, ...]
    has_range: tuple[bool, ...]  # whether numbers in the file can be turned into units
    ranges: tuple[tuple[float, ...], ...]  # lowest and highest in units, and as stored
    n_samples: tuple[int, ...]  # per data record
    n_records: int
    record_seconds: float
    interrupted: bool  # EDF+D, BDF+D: time may be missing between records
    sample_bytes: int  # 2 in EDF, 3 in BDF
    patient_code: str | None

    @property
    def status(self) -> int | None:
        """Which channel is BioSemi's status, if any."""
        is_bdf = self.sample_bytes == 3
        return self.labels.index("Status") if is_bdf and "Status" in self.labels else None


def read_edf(path: Path, wanted: Wanted, unit: Unit | None) -> Content:
    """Read an EDF, EDF+ or BDF file.

    Parameters
    ----------
    path : Path
        The file.
    wanted : Wanted
        As in `choose_channels`.
    unit : Unit or None
        What the numbers in the file are, whatever the header declares.

    Raises
    ------
    BergerError
        For a file that is damaged or cut short, and as in `choose_channels`.
    """
    header = _read_edf_header(path)
    unusable = {}
    for index, declared in enumerate(header.units):
        if header.labels[index] in _TEXTS:
            unusable[index] = "annotations"
        elif index == header.status:
            unusable[index] = "trigger"
        elif declared not in _MICROVOLTS and not (unit and not declared):
            unusable[index] = (
                f"unit {declared!r} is no voltage" if declared else "no unit in the header"
            )
        elif not header.has_range[index]:
            unusable[index] = "no measuring range in the header"
    unusable |= _repeated(path, header, wanted)
    channels = choose_channels(path, header.labels, unusable, wanted)
    if len({header.n_samples[index] for index in channels.taken}) > 1:
        rates = ", ".join(
            f"{header.labels[index]} {header.n_samples[index] / header.record_seconds:g} Hz"
            for index in channels.taken
        )
        raise BergerError(
            f"{path}: the EEG channels differ in sampling rate ({rates}); name in `ch_names` "
            "those of one rate."
        )
    n_samples = header.n_samples[next(iter(channels.taken))]
    if wanted.samples:
        signal = _read_samples(path, header, list(channels.taken), unit)
    else:
        signal = unread(len(channels.taken), header.n_records * n_samples)
    gaps, annotations, notes = _read_times(path, header, n_samples)
    if triggers := _read_triggers(path, header):
        annotations = tuple(sorted((*annotations, *triggers), key=lambda mark: mark.onset))
    return Content(
        labels=header.labels,
        channels=channels,
        signal=signal,
        sfreq=n_samples / header.record_seconds,
        annotations=annotations,
        patient_code=header.patient_code,
        gaps=gaps,
        notes=notes,
        units=tuple(declared or None for declared in header.units),
    )


def _read_samples(
    path: Path, header: _EdfHeader, taken: Sequence[int], unit: Unit | None
) -> npt.NDArray[np.float64]:
    """Return the signal of the channels at some places in the file."""
    labels = [header.labels[index] for index in taken]
    try:
        raw = _open_edf(path, labels)
    except Exception as error:  # MNE raises no narrower one for this
        reason = " ".join(str(error).split())
        raise BergerError(f"{path}: MNE cannot read it ({reason}); export it again.") from error
    # By place: MNE gives channels of one name, of which one may be taken, names of their own.
    opened = [index for index, label in enumerate(header.labels) if label in labels]
    signal: npt.NDArray[np.float64] = raw.get_data(picks=[opened.index(index) for index in taken])
    n_times = header.n_records * header.n_samples[taken[0]]
    if signal.shape[1] != n_times:
        raise BergerError(
            f"{path}: MNE reads {signal.shape[1]} of its {n_times} samples; export it again."
        )
    signal *= np.array([[_factor(header.units[index], unit)] for index in taken])
    return signal


def _repeated(path: Path, header: _EdfHeader, wanted: Wanted) -> dict[int, str]:
    """Return the channels that have the name of one that is wanted and hold the same throughout.

    Where samples are not read, those of the same range are taken to.
    """
    found: dict[int, str] = {}
    for name in {*(wanted.ch_names or ())} - {*_TEXTS}:
        first, *others = [i for i, label in enumerate(header.labels) if label == name] or [-1]
        for index in others:
            same = all(
                column[index] == column[first]
                for column in (header.units, header.ranges, header.n_samples)
            )
            if same and (
                not wanted.samples
                or np.array_equal(_bytes_of(path, header, index), _bytes_of(path, header, first))
            ):
                found[index] = "the same as the first channel of its name"
    return found


def _factor(declared: str, unit: Unit | None) -> float:
    """Return µV per unit of what MNE returns, which has scaled some of the units declared."""
    if unit is None:
        return _MICROVOLTS[declared]
    scaled_by_mne = _SCALED_BY_MNE.get(declared, 1.0)
    return MICROVOLTS[unit] / scaled_by_mne


def _open_edf(path: Path, labels: list[str]) -> mne.io.BaseRaw:
    """Open the channels `labels` alone: beside faster ones MNE would upsample them."""
    read = mne.io.read_raw_bdf if path.suffix.lower() == ".bdf" else mne.io.read_raw_edf
    # verbose: MNE's warnings are about fields that are not used here (dates, filters).
    # Latin-1: MNE fails at annotations in any other encoding than the one given.
    options = {
        "include": labels,
        "stim_channel": None,
        "encoding": "latin1",
        "verbose": "ERROR",
    }
    if path.suffix.lower() != ".rec":
        return read(path, **options)
    with path.open("rb") as file:  # of files by another suffix MNE reads the content only
        return read(file, preload=True, **options)


def _read_edf_header(path: Path) -> _EdfHeader:
    """Read the header and compare it with the file's size."""
    suffix = path.suffix[1:].upper()
    kind = "EDF" if suffix == "REC" else suffix
    try:
        with path.open("rb") as file:
            fixed = file.read(256)
            version = {_BDF_MAGIC: "BDF", b"0       ": "EDF"}.get(fixed[:8])
            if len(fixed) < 256 or version is None:
                raise BergerError(f"{path}: is no {kind} file; fetch it again, or take it out.")
            if version != kind:
                raise BergerError(
                    f"{path}: is a {version} file; give it the suffix .{version.lower()}."
                )
            header = _parse_edf_header(fixed, file.read(256 * int(fixed[252:256])))
    except OSError as error:
        raise BergerError(f"{path}: cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise BergerError(
            f"{path}: the {kind} header is damaged ({error}); fetch or export the file again."
        ) from error
    return replace(header, n_records=_count_records(path, header))


def _parse_edf_header(fixed: bytes, rows: bytes) -> _EdfHeader:
    """Parse the header's fixed part and the part with 256 bytes a channel."""
    n_channels = int(fixed[252:256])
    if int(fixed[184:192]) != 256 * (n_channels + 1) or len(rows) != 256 * n_channels:
        raise ValueError(f"its length is not that of {n_channels} channels")

    def column(start: int, width: int) -> list[str]:
        cells = rows[start * n_channels : (start + width) * n_channels].decode("latin-1")
        return [cells[width * i : width * (i + 1)].strip() for i in range(n_channels)]

    low, high, digital_low, digital_high = (
        [float(number) for number in column(start, 8)] for start in (104, 112, 120, 128)
    )
    # In plain EDF the patient's field is free text, often a name: left unread.
    code = fixed[8:88].split(b" ")[0] if fixed[192:196] in (b"EDF+", b"BDF+") else b""
    header = _EdfHeader(
        labels=tuple(column(0, 16)),
        units=tuple(column(96, 8)),
        has_range=tuple(
            is_range(low[i], high[i]) and is_range(digital_low[i], digital_high[i])
            for i in range(n_channels)
        ),
        ranges=tuple(zip(low, high, digital_low, digital_high, strict=True)),
        n_samples=tuple(int(number) for number in column(216, 8)),
        n_records=int(fixed[236:244]),
        record_seconds=float(fixed[244:252]),
        interrupted=fixed[192:197] in (b"EDF+D", b"BDF+D"),
        sample_bytes=3 if fixed[:8] == _BDF_MAGIC else 2,
        patient_code=code.decode("latin-1") if code not in (b"", b"X") else None,
    )
    if (
        not 0 < header.record_seconds < math.inf
        or min(header.n_samples) < 0
        or not sum(header.n_samples)
    ):
        raise ValueError("its data records hold no signal")
    return header


def _count_records(path: Path, header: _EdfHeader) -> int:
    """Return how many data records the file holds; raise BergerError if it is not whole.

    MNE reads what the size allows: a file cut short would pass as a short recording, one with
    bytes put in or taken out would go on with every sample in another channel.
    """
    n_bytes = path.stat().st_size - 256 * (len(header.labels) + 1)
    whole, rest = divmod(n_bytes, header.sample_bytes * sum(header.n_samples))
    announced = header.n_records
    # -1 stands for a recording in progress; a count too low for one that crashed before its
    # header was brought up to date.
    if rest == 0 and whole > 0 and announced <= whole:
        return whole
    if line_ends_converted(path):
        raise BergerError(
            f"{path}: damaged by line-ending conversion (a carriage return stands before every "
            "line feed, as after a transfer in text mode); fetch it again in binary mode."
        )
    if whole == 0:
        raise BergerError(f"{path}: holds a header and no whole data record; fetch it again.")
    if whole < announced:
        raise BergerError(
            f"{path}: cut short: it holds {whole} of the {announced} data records its header "
            "announces; fetch or export it again."
        )
    raise BergerError(
        f"{path}: not whole: {rest} bytes are left over after {whole} data records; fetch or "
        "export it again."
    )


def _bytes_of(path: Path, header: _EdfHeader, index: int) -> npt.NDArray[np.uint8]:
    """Return a channel's bytes, one row a data record, without reading them yet."""
    records = np.memmap(path, np.uint8, "r", 256 * (len(header.labels) + 1))
    start, stop = (sum(header.n_samples[:end]) * header.sample_bytes for end in (index, index + 1))
    return records.reshape(header.n_records, -1)[:, start:stop]


def _read_triggers(path: Path, header: _EdfHeader) -> list[Annotation]:
    """Return the triggers in BioSemi's status channel."""
    index = header.status
    if index is None:
        return []
    # three bytes a sample, the lowest first
    samples = _bytes_of(path, header, index).reshape(-1, 3)[:, :2]
    values = np.ascontiguousarray(samples).view("<u2")[:, 0]
    return trigger_annotations(values, header.n_samples[index] / header.record_seconds, status=True)


# Onset, duration and texts of one annotation.
_ANNOTATION = re.compile(rb"([+-]\d+\.?\d*)(?:\x15(\d+\.?\d*))?\x14([^\0]*)\x14\0")


def _read_times(
    path: Path, header: _EdfHeader, n_samples: int
) -> tuple[tuple[Gap, ...], tuple[Annotation, ...], tuple[str, ...]]:
    """Return gaps, annotations and notes, by the times that EDF+ and BDF+ keep of their records.

    MNE reads the records as if they followed each other, but annotations by the clock, and leaves
    out those that lie outside. Files that call themselves continuous are looked at too.
    """
    texts = [index for index, label in enumerate(header.labels) if label in _TEXTS]
    if not texts:
        return (), (), ()
    contents = [_bytes_of(path, header, index) for index in texts]
    onsets, notes = _read_onsets(path, header, contents[0])
    clock = onsets - onsets[0]
    jumps = np.diff(clock) - header.record_seconds
    # Continuous files may have a rounded clock, or one that does not drift with the sampling.
    longest_step = 1e-3 if header.interrupted else 0.1
    if jumps.min(initial=0.0) < -longest_step:
        late = int(np.argmin(jumps)) + 1
        raise BergerError(
            f"{path}: after data record {late} the clock jumps back from {onsets[late - 1]:g} to "
            f"{onsets[late]:g} s; export it in continuous pieces."
        )
    first = np.concatenate([[0], np.flatnonzero(jumps > longest_step) + 1])  # record of each piece
    last = np.append(first[1:], header.n_records) - 1
    pieces = np.stack([clock[first], clock[last] + header.record_seconds], axis=1)
    if len(pieces) > 1 and not header.interrupted:
        notes.append(
            "The file says that it is continuous, but the times of its data records have gaps "
            f"({len(pieces) - 1}), which were kept."
        )
    annotations = [
        replace(mark, onset=mark.onset - onsets[0])
        for content in contents
        for mark in _read_texts(content, header.labels)
    ]
    outside = [mark for mark in annotations if not 0 <= mark.onset <= pieces[-1, 1] + 1e-9]
    if outside:
        listed = ", ".join(f"{mark.description!r} at {mark.onset:g} s" for mark in outside[:8])
        notes.append(
            f"Annotations lie before or after what was recorded ({listed}"
            f"{f' and {len(outside) - 8} more' * (len(outside) > 8)}); those after it were put at "
            "its end."
        )
    return (
        gaps_between(pieces, first.astype(np.int64) * n_samples),
        recorded_annotations(annotations, pieces),
        tuple(notes),
    )


def _read_onsets(
    path: Path, header: _EdfHeader, records: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.float64], list[str]]:
    """Return when each data record began, in seconds, and what is to be known of it."""
    found = [re.match(rb"[+-]\d+(\.\d*)?(?=\x14)", record.tobytes()) for record in records]
    onsets = np.array([float(onset[0]) if onset else np.nan for onset in found])
    unknown = np.isnan(onsets)
    if header.interrupted:
        if unknown.any():
            raise BergerError(f"{path}: a data record lacks its time; export the file again.")
        return onsets, []
    counted = np.arange(header.n_records) * header.record_seconds
    known = np.flatnonzero(~unknown)
    if len(known) > 1 and np.ptp(onsets[known]) == 0:
        return counted + onsets[known[0]], [
            "All data records state one time; they were taken as continuous, as the file says."
        ]
    if not unknown.any():
        return onsets, []
    # Each without a time follows the one before; those at the beginning precede the first with one.
    before = np.maximum.accumulate(np.where(unknown, -1, np.arange(header.n_records)))
    before[before < 0] = known[0] if len(known) else 0
    start = onsets[before] if len(known) else 0.0
    note = (
        f"{unknown.sum()} of {header.n_records} data records state no time; they were taken to "
        "follow the ones before, as the file says that it is continuous."
    )
    return start + counted - counted[before], [note]


def _read_texts(records: npt.NDArray[np.uint8], labels: Sequence[str]) -> Iterator[Annotation]:
    """Yield a channel's annotations, by the clock; those of single channels ("spike@@Cz") once."""
    seen = set()
    for record in records:
        for onset, duration, several in _ANNOTATION.findall(record.tobytes()):
            for text in filter(None, several.split(b"\x14")):
                description, at, channel = _decoded(text).partition("@@")
                of_channel = bool(at) and channel in labels
                if not of_channel:
                    description += at + channel
                mark = Annotation(float(onset), float(duration or 0), description)
                if not (of_channel and mark in seen):
                    yield mark
                seen.add(mark)


def _decoded(text: bytes) -> str:
    """Decode an annotation: UTF-8 by the standard, Latin-1 by many devices."""
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        return text.decode("latin-1")
