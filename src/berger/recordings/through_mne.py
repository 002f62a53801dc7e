"""Read every other format of EEG devices and programs through MNE.

MNE says what kind each channel is and scales voltages to volts. What a format leaves unsaid, or
MNE passes on without a word, is made sure of here: the units of GDF, ANT and EGI files, and names
that MNE had to change because they occur twice. That a file is as long as it says, `wholeness` sees
to.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import struct
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
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
    unread,
)
from berger.recordings.triggers import trigger_annotations
from berger.recordings.wholeness import beginning, check_whole, egi_header, gdf_header

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
    sfreq = float(raw.info["sfreq"])
    if path.suffix.lower() == ".lay":
        _check_uninterrupted(path, sfreq)
    marks = _annotations(raw)
    pieces = _recorded(marks, sfreq, raw.n_times)
    # EGI's triggers are annotations already, by their names.
    triggers = [] if path.suffix.lower() in (".mff", ".raw") else _trigger_channels(raw)
    try:
        read = list(channels.taken) if wanted.samples else []
        picks = [*read, *triggers]
        parts = [raw.get_data(picks, *piece) for piece in pieces.tolist()] if picks else []
    except (BergerError, MemoryError):
        raise
    except Exception as error:  # whatever the reader of this format raises
        raise BergerError(
            f"{path}: MNE cannot read its samples ({_one_line(error)}); fetch or export it again."
        ) from error
    for row, index in enumerate(triggers, len(read)):
        name = labels[index] if len(triggers) > 1 else ""
        for part, (first, _) in zip(parts, pieces.tolist(), strict=True):
            found = trigger_annotations(part[row], sfreq, name, status=labels[index] == "Status")
            marks += tuple(replace(mark, onset=mark.onset + first / sfreq) for mark in found)
    marks = tuple(sorted(marks, key=lambda mark: mark.onset))
    factors = np.array([[_factor(path, raw, index, unit)] for index in channels.taken])
    if wanted.samples:
        signal = parts[0] if len(parts) == 1 else np.hstack(parts)
        signal = signal[: len(read)]
        signal *= factors
    else:
        signal = unread(len(factors), int(np.diff(pieces).sum()))
    gaps, annotations = _without_skips(marks, pieces, sfreq)
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
    name = path.name.lower()
    if name.endswith(".raw"):
        header = egi_header(path)
        if header.bits and header.value_range:  # a range in µV, which MNE takes for volts
            return MICROVOLTS[unit or "µV"]
    if unit is None:
        return 1e6
    declared = _stated_unit(path, raw, index)
    if declared is None and name.endswith((".set", ".lay", ".raw")):
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


def _recorded(
    annotations: tuple[Annotation, ...], sfreq: float, n_times: int
) -> npt.NDArray[np.int64]:
    """Return first and last sample (exclusive) of what was recorded; MNE fills the rest with zeros.

    EGI's skips begin half a sample early.
    """
    pieces, at = [], 0
    for skip in sorted(annotations, key=lambda mark: mark.onset):
        if skip.description == "BAD_ACQ_SKIP":
            first = math.ceil(skip.onset * sfreq - 1e-3)
            pieces.append((at, min(first, n_times)))
            at = max(at, first + round(skip.duration * sfreq))
    pieces.append((at, n_times))
    kept = [piece for piece in pieces if piece[0] < piece[1]]
    return np.array(kept or [(0, 0)], dtype=np.int64)


def _without_skips(
    annotations: tuple[Annotation, ...], pieces: npt.NDArray[np.int64], sfreq: float
) -> tuple[tuple[Gap, ...], tuple[Annotation, ...]]:
    """Return gaps between pieces, and annotations by seconds recorded."""
    kept = [mark for mark in annotations if mark.description != "BAD_ACQ_SKIP"]
    if len(kept) == len(annotations):
        return (), annotations
    starts = np.cumsum(pieces[:, 1] - pieces[:, 0])[:-1]
    clock = pieces / sfreq
    return gaps_between(clock, np.append(0, starts)), recorded_annotations(kept, clock)


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
    except (BergerError, MemoryError):
        raise
    except Exception as error:  # whatever the reader of this format raises
        raise BergerError(
            f"{path}: MNE cannot read it ({_one_line(error)}); fetch or export it again."
        ) from error
    repeated: list[str] = []
    for warning in caught:
        if re.match(_LOSSES, str(warning.message)):
            raise BergerError(
                f"{path}: its events cannot be read ({_one_line(warning.message)}); fetch or "
                "export it again."
            )
        found = re.search(r"duplicates for: \{(.*)\}\. Applying", str(warning.message))
        if found:
            repeated += re.findall(r"'([^']*)'|\"([^\"]*)\"", found[1])
    return raw, ["".join(name) for name in repeated]


# How warnings of MNE begin that speak of events left out
_LOSSES = r"Could not parse the XML file|Could not decode log|Event log version mismatch"


def _opener(path: Path) -> Callable[..., mne.io.BaseRaw]:
    """Return MNE's function for this file, after what can be checked without it."""
    check_whole(path)
    suffix = path.suffix.lower()
    if suffix == ".cnt":
        return _cnt_opener(path)
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
    if beginning(path, 7) == b"Version":
        return mne.io.read_raw_cnt  # type: ignore[no-any-return]
    if importlib.util.find_spec("antio") is None:
        raise BergerError(
            f"{path}: is an ANT Neuro file, which the package antio reads; install "
            "`berger[formats]`."
        )
    return _read_ant


# How lines begin in which libeep complains; it goes on all the same.
_COMPLAINTS = ("cnt:", "raw3:", "libeep:", "eep")


def _read_ant(path: Path, **_: Any) -> mne.io.BaseRaw:
    """Read an ANT Neuro file by way of FIF, converted in a process of its own."""
    program = Path(__file__).with_name("ant.py")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "converted_raw.fif"
        # -P: what lies beside the program is not to be imported by its bare name
        done = subprocess.run(
            [sys.executable, "-P", str(program), str(path.absolute()), str(out)],
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
        )
        said = done.stderr.strip().splitlines()
        complaint = next((line for line in said if line.startswith(_COMPLAINTS)), None)
        if done.returncode < 0:
            complaint = "it crashes libeep"
        if done.returncode or complaint:
            reason = complaint or (said or ["no reason given"])[-1]
            raise BergerError(
                f"{path}: libeep cannot read it ({' '.join(reason.split())}); fetch or export it "
                "again."
            )
        raw = mne.io.read_raw_fif(out, preload=True, verbose="ERROR")
    raw._raw_extras[0]["orig_ch_units"] = json.loads(done.stdout)
    return raw


def _odd_units(path: Path, raw: mne.io.BaseRaw) -> dict[int, str]:
    """Return the channels whose unit MNE does not turn into volts, and why."""
    suffix = path.suffix.lower()
    if suffix == ".gdf":
        scaled = _gdf_units(path)
        if not all(gdf_header(path).has_range):
            names = [raw.ch_names[i] for i, has in enumerate(gdf_header(path).has_range) if not has]
            raise BergerError(
                f"{path}: has no measuring range for {', '.join(names[:8])}; export it again."
            )
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
    """Return every channel's unit in a GDF header, and whether MNE scales it to volts."""
    header, version, n_channels, *_ = gdf_header(path)
    start = 256 + 96 * n_channels
    if version < 1.9:
        texts = [header[start + 8 * i : start + 8 * (i + 1)] for i in range(n_channels)]
        units = [text.decode("latin-1").strip(" \0") for text in texts]
        return [(unit, unit[:2] == "uV") for unit in units]
    codes = struct.unpack_from(f"<{n_channels}H", header, start + 6 * n_channels)
    # ISO/IEEE 11073-10101: 4256 is the volt, the last five bits a decimal factor.
    names = {4275: "µV", 4274: "mV", 512: "", 0: ""}
    return [(names.get(code, f"code {code}"), code in (4274, 4275)) for code in codes]


def _check_one_rate(path: Path, labels: Sequence[str], taken: Sequence[int]) -> None:
    """Raise BergerError where MNE has brought slower channels of a GDF file to the fastest rate."""
    n_samples = gdf_header(path).n_samples
    slow = [labels[index] for index in taken if n_samples[index] != max(n_samples)]
    if slow:
        raise BergerError(
            f"{path}: the channels differ in sampling rate ({', '.join(slow[:8])} slower than "
            "others); name in `ch_names` those of the fastest, or export the file at one rate."
        )


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


def _one_line(error: Exception | Warning | str) -> str:
    return " ".join(str(error).split()).rstrip(".")
