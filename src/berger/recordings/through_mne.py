"""Read every other format of EEG devices and programs through MNE.

MNE says what kind each channel is and scales voltages to volts. What a format leaves unsaid, or
MNE passes on without a word, is made sure of here: the units of GDF and ANT files, the length of
BrainVision's and EEGLAB's data files, and names that MNE had to change because they occur twice.
"""

from __future__ import annotations

import importlib.util
import math
import re
import struct
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mne
import numpy as np
import numpy.typing as npt
from mne.io.constants import FIFF

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
)
from berger.recordings.triggers import trigger_annotations

# MNE's types of channel → the kinds of `berger.channels.kind_of`; "eeg" is decided by its name.
_KINDS = {
    "eog": "EOG",
    "ecg": "ECG",
    "emg": "EMG",
    "resp": "respiration",
    "bio": "another signal of the body",
    "misc": "not declared as EEG",
    "seeg": "depth electrode",
    "ecog": "electrode on the cortex",
    "dbs": "deep brain stimulation electrode",
    "ref_meg": "MEG",
    "mag": "MEG",
    "grad": "MEG",
}
_SMALL = 1e-9  # seconds


def read_through_mne(path: Path, wanted: Wanted, unit: Unit | None) -> Content:
    """Read a file of a format that MNE knows by its suffix.

    Parameters
    ----------
    path : Path
        The file (for EGI's .mff, the folder).
    wanted : Wanted
        As in `choose_channels`.
    unit : Unit or None
        What the numbers in the file are, whatever it declares.

    Raises
    ------
    BergerError
        For a file that MNE cannot read, that lacks a companion or is not whole, and as in
        `choose_channels`.
    """
    raw, repeated = _open(path)
    labels = tuple(_as_in_the_file(name, repeated) for name in raw.ch_names)
    kinds = raw.get_channel_types()
    units = _odd_units(path, raw)
    bads = [index for index, name in enumerate(raw.ch_names) if name in raw.info["bads"]]
    unusable, declared = {}, {}
    for index, (channel, kind) in enumerate(zip(raw.info["chs"], kinds, strict=True)):
        if kind == "stim":
            unusable[index] = "trigger"
        elif index in units:
            unusable[index] = units[index]
        elif channel["unit"] != FIFF.FIFF_UNIT_V:
            stated = (raw._orig_units or {}).get(raw.ch_names[index], "")
            unusable[index] = f"unit {stated!r} is no voltage" if stated else "is no voltage"
        elif kind != "eeg":
            declared[index] = _KINDS.get(kind, kind)
    channels = choose_channels(path, labels, unusable, wanted, declared, bads)
    if path.suffix.lower() == ".gdf":
        _check_one_rate(path, labels, list(channels.taken))
    # EGI's triggers are annotations already, by their names.
    triggers = [] if path.suffix.lower() in (".mff", ".raw") else _trigger_channels(raw)
    try:
        signal = raw.get_data(picks=[*channels.taken, *triggers])
    except Exception as error:  # whatever the reader of this format raises
        raise BergerError(
            f"{path}: MNE cannot read its samples ({_one_line(error)}); fetch or export it again."
        ) from error
    sfreq = float(raw.info["sfreq"])
    if path.suffix.lower() == ".lay":
        _check_uninterrupted(path, sfreq)
    marks = [*_annotations(raw)]
    for row, index in zip(signal[len(channels.taken) :], triggers, strict=True):
        name = labels[index] if len(triggers) > 1 else ""
        marks += trigger_annotations(row, sfreq, name, status=labels[index] == "Status")
    annotations = tuple(sorted(marks, key=lambda mark: mark.onset))
    factors = [[_factor(path, raw, index, unit)] for index in channels.taken]
    signal = signal[: len(factors)] * np.array(factors)
    signal, gaps, annotations = _without_skips(signal, sfreq, annotations)
    return Content(
        labels=labels,
        channels=channels,
        signal=signal,
        sfreq=sfreq,
        annotations=annotations,
        patient_code=_patient_code(raw),
        units=tuple(_stated_unit(path, raw, index) for index in range(len(labels))),
        gaps=tuple(sorted(gaps + _seams(annotations, sfreq, gaps, signal.shape[1]), key=_start)),
    )


def _trigger_channels(raw: mne.io.BaseRaw) -> list[int]:
    """Return the trigger channels: that which holds all others' events, else every one."""
    triggers = mne.pick_types(raw.info, meg=False, stim=True)
    whole = [index for index in triggers if raw.ch_names[index] in ("STI101", "STI 014")]
    return [int(index) for index in whole[:1] or triggers]


def _check_uninterrupted(path: Path, sfreq: float) -> None:
    """Refuse a Persyst recording whose clock jumps, which MNE does not say."""
    text = path.read_text(encoding="latin-1")
    section = re.search(r"^\[SampleTimes\]([^\[]*)", text, re.MULTILINE | re.IGNORECASE)
    marks = re.findall(r"^(\d+)\s*=\s*([\d.]+)", section[1], re.MULTILINE) if section else []
    sample, clock = np.array(marks, dtype=np.float64).reshape(-1, 2).T
    # the clock starts anew at midnight; half a second is more than clocks drift between marks
    missing = (np.diff(clock) - np.diff(sample) / sfreq + 43_200) % 86_400 - 43_200
    jumps = int((np.abs(missing) > 0.5).sum())
    if jumps:
        raise BergerError(
            f"{path}: its clock jumps {jumps} times ([SampleTimes]), and windows must not span "
            "an interruption; export it as EDF+D, whose interruptions are read."
        )


def _factor(path: Path, raw: mne.io.BaseRaw, index: int, unit: Unit | None) -> float:
    """Return µV per unit of what MNE returns, volts by what the file declares."""
    if unit is None:
        return 1e6
    declared = _stated_unit(path, raw, index)
    if declared is None and path.name.lower().endswith((".set", ".lay", ".raw")):
        declared = "µV"  # always
    if declared is None:
        raise BergerError(
            f"{path}: the unit of this format is not open to doubt; leave out `unit`, or export "
            "the file in another format."
        )
    return 1e6 * MICROVOLTS[unit] / MICROVOLTS[declared]


def _stated_unit(path: Path, raw: mne.io.BaseRaw, index: int) -> str | None:
    """Return the unit that the file states for a channel, None if its format states none."""
    name = path.name.lower()
    if name.endswith((".fif", ".fif.gz")):
        return "V"
    if name.endswith(".gdf"):
        return _gdf_units(path)[index][0].replace("uV", "µV")
    if name.endswith(".vhdr"):
        return (raw._orig_units or {}).get(raw.ch_names[index])
    return None


def _without_skips(
    signal: npt.NDArray[np.float64], sfreq: float, annotations: tuple[Annotation, ...]
) -> tuple[npt.NDArray[np.float64], tuple[Gap, ...], tuple[Annotation, ...]]:
    """Take out what was not recorded, which MNE fills with zeros."""
    recorded = np.ones(signal.shape[1], bool)
    skips = [mark for mark in annotations if mark.description == "BAD_ACQ_SKIP"]
    for skip in skips:
        first = round(skip.onset * sfreq)
        recorded[max(first, 0) : first + round(skip.duration * sfreq)] = False
    if not skips or not recorded.any():
        return signal, (), annotations
    pieces = np.flatnonzero(np.diff(recorded, prepend=False, append=False)).reshape(-1, 2)
    lengths = np.diff(pieces, axis=1)[:, 0]
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    kept = [mark for mark in annotations if mark.description != "BAD_ACQ_SKIP"]
    return (
        signal[:, recorded],
        gaps_between(pieces / sfreq, starts),
        recorded_annotations(kept, pieces / sfreq),
    )


def _seams(
    annotations: tuple[Annotation, ...], sfreq: float, gaps: tuple[Gap, ...], n_times: int
) -> tuple[Gap, ...]:
    """Return where pieces were joined, as EEGLAB, BrainVision and MNE mark it in the annotations.

    EEGLAB puts a boundary between two samples: the piece begins at the next.
    """
    joined = {
        math.ceil(mark.onset * sfreq - 1e-3)
        for mark in annotations
        if re.search(r"\bboundary$", mark.description)
        or mark.description.startswith("New Segment/")
    }
    known = {gap.start for gap in gaps}
    return tuple(Gap(start, None) for start in joined - known if 0 < start < n_times)


def _start(gap: Gap) -> int:
    return gap.start


def _open(path: Path) -> tuple[mne.io.BaseRaw, list[str]]:
    """Open a file; also return the names that occur in it more than once."""
    open_raw = _opener(path)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            raw = open_raw(path, preload=False, verbose="WARNING")
    except FileNotFoundError as error:
        raise BergerError(
            f"{path}: a file that belongs to it is missing ({_one_line(error)}); put it beside."
        ) from error
    except ImportError as error:
        raise BergerError(
            f"{path}: reading it needs another package ({_one_line(error)}); install "
            "`berger[formats]`."
        ) from error
    except Exception as error:  # whatever the reader of this format raises
        raise BergerError(
            f"{path}: MNE cannot read it ({_one_line(error)}); fetch or export it again."
        ) from error
    repeated: list[str] = []
    for warning in caught:
        found = re.search(r"duplicates for: \{(.*)\}\. Applying", str(warning.message))
        if found:
            repeated += re.findall(r"'([^']*)'|\"([^\"]*)\"", found[1])
    return raw, ["".join(name) for name in repeated]


def _opener(path: Path) -> Callable[..., mne.io.BaseRaw]:
    """Return MNE's function for this file, after what can be checked without it."""
    suffix = path.suffix.lower()
    if suffix == ".cnt":
        return _cnt_opener(path)
    if suffix == ".eeg":
        _check_nihon_kohden(path)
    if suffix == ".vhdr":
        _check_brainvision(path)
    if suffix == ".set":
        return _read_eeglab
    if suffix == ".gz":
        suffix = ".fif"
    return _OPENERS[suffix]


def _read_eeglab(path: Path, **options: Any) -> mne.io.BaseRaw:
    """Read an EEGLAB file whose data file is whole."""
    raw = mne.io.read_raw_eeglab(path, **options)
    for data in {Path(name) for name in raw.filenames} - {path}:
        expected = 4 * raw.n_times * len(raw.ch_names)
        if data.suffix.lower() == ".fdt" and data.stat().st_size != expected:
            raise BergerError(
                f"{path}: its data file {data.name} has {data.stat().st_size} bytes instead of "
                f"{expected}; fetch both files again."
            )
    return raw


_OPENERS: Mapping[str, Callable[..., mne.io.BaseRaw]] = {
    ".gdf": mne.io.read_raw_gdf,
    ".vhdr": mne.io.read_raw_brainvision,
    ".fif": mne.io.read_raw_fif,
    ".eeg": mne.io.read_raw_nihon,
    ".lay": mne.io.read_raw_persyst,
    ".mff": mne.io.read_raw_egi,
    ".raw": mne.io.read_raw_egi,
}


def _cnt_opener(path: Path) -> Callable[..., mne.io.BaseRaw]:
    """Tell the two formats apart that are called .cnt."""
    beginning = _beginning(path, 16)
    if beginning[:4] in (b"RIFF", b"RF64"):
        if importlib.util.find_spec("antio") is None:
            raise BergerError(
                f"{path}: is an ANT Neuro file, which the package antio reads; install "
                "`berger[formats]`."
            )
        return mne.io.read_raw_ant  # type: ignore[no-any-return]
    if beginning.startswith(b"Version"):
        return mne.io.read_raw_cnt  # type: ignore[no-any-return]
    raise BergerError(
        f"{path}: is neither a Neuroscan nor an ANT Neuro file; export it in another format."
    )


def _check_nihon_kohden(path: Path) -> None:
    """Raise BergerError for a .eeg that is no recording of its own."""
    if not _beginning(path, 16).startswith(b"EEG-"):
        raise BergerError(
            f"{path}: is no Nihon Kohden file; if it is BrainVision's, give its .vhdr file."
        )


def _check_brainvision(path: Path) -> None:
    """Raise BergerError if the data file is not as long as the header demands.

    MNE counts the samples by the size of the file: one cut short would pass as short.
    """
    header = brainvision_header(path)
    data = path.with_name(header.get("datafile", ""))
    widths = {"int_16": 2, "uint_16": 2, "int_32": 4, "ieee_float_32": 4}
    width = widths.get(header.get("binaryformat", "").lower(), 0)
    n_channels = int(header.get("numberofchannels", 0)) if width else 0
    if not n_channels or not data.is_file():
        return  # text, or a fault that MNE names
    n_bytes = data.stat().st_size
    n_points = header.get("datapoints", "")
    if n_bytes % (width * n_channels) or (
        n_points.isdigit() and 0 < int(n_points) != n_bytes // (width * n_channels)
    ):
        expected = f"{n_points or 'whole'} samples of {n_channels} channels"
        raise BergerError(
            f"{path}: its data file {data.name} has {n_bytes} bytes, not {expected}; fetch or "
            "export both again."
        )


def brainvision_header(path: Path) -> dict[str, str]:
    """Return the `key=value` lines of a .vhdr, keys in lower case."""
    try:
        text = path.read_bytes().decode("latin-1")
    except OSError as error:
        raise BergerError(f"{path}: cannot be read ({error.strerror}).") from error
    return {
        key.casefold(): value.strip()
        for key, value in re.findall(r"^(\w+)\s*=(.*)$", text, re.MULTILINE)
    }


def _odd_units(path: Path, raw: mne.io.BaseRaw) -> dict[int, str]:
    """Return the channels whose unit MNE does not turn into volts, and why."""
    suffix = path.suffix.lower()
    if suffix == ".gdf":
        scaled = _gdf_units(path)
    elif suffix == ".cnt" and "orig_ch_units" in raw._raw_extras[0]:  # ANT
        units = raw._raw_extras[0]["orig_ch_units"]
        scaled = [(unit, unit.casefold() in ("uv", "µv", "μv")) for unit in units]
    else:
        return {}
    if len(scaled) < len(raw.ch_names):
        raise BergerError(f"{path}: names fewer units than channels; export it again.")
    return {
        index: f"unit {unit!r} is no voltage that is understood" if unit else "no unit in the file"
        for index, (unit, known) in enumerate(scaled[: len(raw.ch_names)])
        if not known
    }


def _gdf_units(path: Path) -> list[tuple[str, bool]]:
    """Return every channel's unit in a GDF header, and whether MNE scales it to volts.

    A. Schlögl, "GDF – A general dataformat for biosignals", arXiv cs/0608052, sections 2 and 3.
    """
    header, version, n_channels = _gdf_header(path)
    start = 256 + 96 * n_channels
    if version < 1.9:
        texts = [header[start + 8 * i : start + 8 * (i + 1)] for i in range(n_channels)]
        units = [text.decode("latin-1").strip(" \0") for text in texts]
        return [(unit, unit[:2] == "uV") for unit in units]
    codes = struct.unpack_from(f"<{n_channels}H", header, start + 6 * n_channels)
    # ISO/IEEE 11073-10101: 4256 is the volt, the last five bits a decimal factor.
    names = {4275: "µV", 4274: "mV", 512: "", 0: ""}
    return [(names.get(code, f"code {code}"), code in (4274, 4275)) for code in codes]


def _gdf_header(path: Path) -> tuple[bytes, float, int]:
    """Return a GDF file's header, its version and the number of channels; MNE has read it."""
    header = _beginning(path, 256)
    (n_channels,) = struct.unpack_from("<H", header, 252)
    return _beginning(path, 256 * (n_channels + 1)), float(header[4:8]), n_channels


def _check_one_rate(path: Path, labels: Sequence[str], taken: Sequence[int]) -> None:
    """Raise BergerError where MNE has brought slower channels of a GDF file to the fastest rate."""
    header, _, n_channels = _gdf_header(path)
    n_samples = struct.unpack_from(f"<{n_channels}i", header, 256 + 216 * n_channels)
    slow = [labels[index] for index in taken if n_samples[index] != max(n_samples)]
    if slow:
        raise BergerError(
            f"{path}: the channels differ in sampling rate ({', '.join(slow[:8])} slower than "
            "others); name in `ch_names` those of the fastest, or export the file at one rate."
        )


def _beginning(path: Path, n_bytes: int) -> bytes:
    """Return the first bytes of a file."""
    try:
        with path.open("rb") as file:
            return file.read(n_bytes)
    except OSError as error:
        raise BergerError(f"{path}: cannot be read ({error.strerror}).") from error


def _as_in_the_file(name: str, repeated: Sequence[str]) -> str:
    """Undo the running number that MNE gives to a name that occurs more than once."""
    base, dash, number = name.rpartition("-")
    return base if dash and number.isdigit() and base in repeated else name


def _annotations(raw: mne.io.BaseRaw) -> tuple[Annotation, ...]:
    """Return the annotations; MNE counts their onsets from before the first sample kept."""
    marks = raw.annotations
    onsets = marks.onset - raw.first_time
    return tuple(
        Annotation(float(onset) if abs(onset) > _SMALL else 0.0, float(duration), str(text))
        for onset, duration, text in zip(onsets, marks.duration, marks.description, strict=True)
    )


def _patient_code(raw: mne.io.BaseRaw) -> str | None:
    """Return the subject's code, never the name."""
    code = str((raw.info["subject_info"] or {}).get("his_id") or "").strip()
    return code if code not in ("", "X") else None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
