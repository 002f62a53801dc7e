"""Know every electrode's names, aliases and position.

Names and positions follow the 10–5 system, which contains the 10–10 and the 10–20 system:
R. Oostenveld and P. Praamstra, "The five percent electrode system for high-resolution EEG and
ERP measurements", Clinical Neurophysiology 112 (2001) 713–719. The head is a unit sphere and a
position is computed from the name's row and column by that system's rule; x points to the right
ear, y to the nose, z up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

# Rows from front to back: (name near the midline, name from column 7 on, distance from the
# nasion along the midline in steps of 5 %, whether the row is short). A short row lies on a
# ring around the head and has columns z, 1h/2h, 1/2; a full row has columns z to 9/10.
_ROWS = (
    ("Fp", "Fp", 2, True),
    ("AFp", "AFp", 3, False),
    ("AF", "AF", 4, False),
    ("AFF", "AFF", 5, False),
    ("F", "F", 6, False),
    ("FFC", "FFT", 7, False),
    ("FC", "FT", 8, False),
    ("FCC", "FTT", 9, False),
    ("C", "T", 10, False),
    ("CCP", "TTP", 11, False),
    ("CP", "TP", 12, False),
    ("CPP", "TPP", 13, False),
    ("P", "P", 14, False),
    ("PPO", "PPO", 15, False),
    ("PO", "PO", 16, False),
    ("POO", "POO", 17, False),
    ("O", "O", 18, True),
    ("OI", "OI", 19, True),
    ("I", "I", 20, True),
)

# The 10–20 system's older names. They name no electrode of the 10–10 system, so they are
# always the same place, whatever else the montage holds.
ALIASES = MappingProxyType({"T3": "T7", "T4": "T8", "T5": "P7", "T6": "P8"})

# What stands behind the hyphen when a channel is one electrode against a reference. Mastoids
# and ear lobes (A, M) count as references; any other electrode there makes a bipolar channel.
_REFERENCES = frozenset(
    "REF LE RE AR AVG AVE AV CAR A1 A2 M1 M2 A1A2 A1+A2 M1M2 M1+M2 A12 M12".casefold().split()
)
_EARS = frozenset(["a1", "a2", "m1", "m2"])

# First match wins; searched in the whole label without regard to case.
_OTHER_KINDS = (
    ("annotations", r"annotation"),
    ("depth electrode", r"\bs-?eeg\b"),
    ("electrode on the cortex", r"\becog\b"),
    ("deep brain stimulation electrode", r"\bdbs\b"),
    ("ECG", r"ecg|ekg|cardi"),
    ("EOG", r"eog|\b[lr]oc\b"),
    ("EMG", r"emg|\bchin|\bmasseter"),
    ("SpO2", r"s[pa]o2|oxygen|pleth"),
    ("respiration", r"resp|flow|thor|\babd|nasal|breath"),
    ("trigger", r"trig|\bstim|\bsti\b|\bstatus\b|\bmarkers?\b|\bevents?\b|photic"),
)

# Positions of lettered caps (BioSemi's A1–B32..., depth electrodes): the letter is not a row.
_LETTERED = re.compile(r"A([3-9]|[1-9]\d)|B\d{1,2}", re.IGNORECASE)


def canonical_name(name: str) -> str | None:
    """Return the electrode's name as the 10–5 system writes it.

    Parameters
    ----------
    name : str
        A channel's label, e.g. "EEG Fp1", "Fc5.", "EEG FP1-REF", "T3", in any case.

    Returns
    -------
    str or None
        E.g. "Fp1", "FC5", "Fp1", "T7"; None where the label is not one electrode of the
        system (another signal, an ear lobe, a difference of two electrodes).
    """
    electrode, *references = _parts(name)
    if any(reference not in _REFERENCES for reference in references):
        return None
    return _spellings().get(electrode)


def canonical_names(names: Sequence[str]) -> list[str | None]:
    """Return the canonical name of every label of one montage.

    Unlike `canonical_name` this sees the whole montage: beside "B7" or "A12", which only caps
    with lettered positions have, a label such as "C3" or "F1" is such a position as well and
    not the electrode of that name.
    """
    electrodes = [_parts(name)[0] for name in names]
    if any(_LETTERED.fullmatch(electrode) for electrode in electrodes):
        return [
            None if re.fullmatch(r"[a-z]\d+", electrode) else canonical_name(name)
            for name, electrode in zip(names, electrodes, strict=True)
        ]
    return [canonical_name(name) for name in names]


def electrodes_of(names: Sequence[str]) -> list[str | None]:
    """Return the one electrode that each label of a montage stands for, ears and mastoids too.

    As `canonical_names`, but "EEG A1-REF" is "A1" and "m2" is "M2". None for a difference of two
    electrodes and any other signal.
    """
    return [known or _ear(name) for known, name in zip(canonical_names(names), names, strict=True)]


def reference_of(name: str) -> str | None:
    """Return what a label says its electrode was measured against: "EEG F4-A1" → "A1".

    None where it says nothing, or only that there was a reference ("EEG FP1-REF").
    """
    references = [part for part in _parts(name)[1:] if part != "ref"]
    return "-".join(references).upper() or None


def kind_of(name: str) -> str:
    """Return what a channel of this label holds.

    Returns
    -------
    str
        "EEG" (one electrode of the 10–5 system), "bipolar" (a difference of two of them),
        "reference" (ear lobes, mastoids), "depth electrode", "electrode on the cortex", "deep
        brain stimulation electrode", "ECG", "EOG", "EMG", "respiration", "SpO2", "trigger",
        "annotations", or "unknown".
    """
    if canonical_name(name) is not None:
        return "EEG"
    for kind, pattern in _OTHER_KINDS:
        if re.search(pattern, name, re.IGNORECASE):
            return kind
    parts = _parts(name)
    if parts[0] in _EARS and all(part in _REFERENCES for part in parts):
        return "reference"
    if len(parts) == 2 and all(part in _spellings() or part in _EARS for part in parts):
        return "bipolar"
    return "unknown"


def electrode_names() -> tuple[str, ...]:
    """Return every canonical name, from front to back and in a row from left to right."""
    return tuple(_electrodes())


def positions(ch_names: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return where electrodes are on a unit sphere.

    Parameters
    ----------
    ch_names : sequence of str
        Names or labels that `canonical_name` understands.

    Returns
    -------
    ndarray, shape (n_chans, 3)
        x to the right ear, y to the nose, z up; a row of NaN for a name without a position.
    """
    nowhere = (np.nan, np.nan, np.nan)
    places = [_electrodes().get(canonical_name(name) or "", nowhere) for name in ch_names]
    return np.array(places, dtype=np.float64).reshape(-1, 3)


def _parts(name: str) -> list[str]:
    """Split a label into electrode and references: "EEG FP1-REF" → ["fp1", "ref"]."""
    label = re.sub(r"^\s*(EEG|POL)[\s:_.-]+", "", name, flags=re.IGNORECASE)
    return [re.sub(r"[\s.]", "", part).casefold() for part in re.split(r"[-–/_]", label)]


def _ear(name: str) -> str | None:
    """Return "A1", "A2", "M1" or "M2" where a label is one of them and no difference of two."""
    electrode, *references = _parts(name)
    known = electrode in _EARS and all(part in _REFERENCES - _EARS for part in references)
    return electrode.upper() if known else None


@cache
def _spellings() -> dict[str, str]:
    """Map every name and alias, without regard to case, to the canonical name."""
    canonical = {name.casefold(): name for name in _electrodes()}
    return canonical | {alias.casefold(): name for alias, name in ALIASES.items()}


@cache
def _electrodes() -> dict[str, tuple[float, float, float]]:
    """Map every canonical name to its position, front to back, left to right."""
    table: dict[str, tuple[float, float, float]] = {"Nz": (0.0, 1.0, 0.0)}
    for near, far, row, short in _ROWS:
        for label, column in _columns(1.0 if short else 5.0):
            prefix = far if abs(column) > 3 else near
            table[prefix + label] = _place_on_ring(row, column) if short else _place(row, column)
    return table


def _columns(last: float) -> Iterator[tuple[str, float]]:
    """Yield label and column from left (negative) to right: 9, 9h, 7, ... 1h, z, 2h, ... 10."""
    for half_steps in range(int(-2 * last), int(2 * last) + 1):
        number = abs(half_steps) + abs(half_steps) % 2  # 1h lies before 1, 3h before 3, ...
        if half_steps == 0:
            yield "z", 0.0
        else:
            digits = number - 1 if half_steps < 0 else number
            yield f"{digits}{'h' if half_steps % 2 else ''}", half_steps / 2


def _on_sphere(inclination: float, azimuth: float) -> npt.NDArray[np.float64]:
    """Place a point by its angles in degrees from the vertex and, leftwards, from the nose."""
    theta, phi = np.deg2rad(inclination), np.deg2rad(azimuth)
    return np.array([-np.sin(theta) * np.sin(phi), np.sin(theta) * np.cos(phi), np.cos(theta)])


def _place_on_ring(row: int, column: float) -> tuple[float, float, float]:
    """Place an electrode of the outermost rows, on a ring of its own inclination.

    A column is 10 % of the half ring, 18°.
    """
    inclination = 9.0 * abs(row - 10)
    azimuth = -18.0 * column if row < 10 else 180.0 + 18.0 * column
    x, y, z = _on_sphere(inclination, azimuth)
    return float(x), float(y), float(z)


def _place(row: int, column: float) -> tuple[float, float, float]:
    """Place an electrode of a full row.

    Columns 0 to 4 divide evenly the circle through the row's place on the midline and its two
    places on the ring Fpz–T7–Oz–T8, which lies 72° from the vertex; column 5 lies on the
    equator below the ring, and column 4.5 between.
    """
    on_ring = _on_sphere(72.0, 9.0 * row)  # left side
    if abs(column) > 4:
        point = _on_sphere(72.0 + 18.0 * (abs(column) - 4), 9.0 * row)
    else:
        midline = _on_sphere(9.0 * abs(row - 10), 0.0 if row < 10 else 180.0)
        normal = np.cross(on_ring - midline, [1.0, 0.0, 0.0])
        normal /= np.linalg.norm(normal)
        centre = normal * (normal @ midline)
        upward = midline - centre
        radius = np.linalg.norm(upward)
        whole = np.arctan2(-on_ring[0] * radius, (on_ring - centre) @ upward)
        angle = whole * abs(column) / 4
        point = centre + upward * np.cos(angle) - np.array([radius * np.sin(angle), 0.0, 0.0])
    x, y, z = point
    return float(x if column <= 0 else -x), float(y), float(z)
