"""Emotions of SEED-V: which film was shown when, the same for everybody.

Its documentation gives seconds from the recording's beginning for each of the three sessions, which
are numbered by the films that were shown, not by date.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from berger.errors import BergerError
from berger.recordings import Annotation
from berger.tasks.readers.told import Told

FILMS: Final = {
    "1": (
        (30, 102, 4), (132, 228, 1), (287, 524, 3), (555, 742, 2), (773, 920, 0),
        (982, 1240, 4), (1271, 1568, 1), (1628, 1697, 3), (1730, 1994, 2), (2025, 2166, 0),
        (2227, 2401, 4), (2435, 2607, 1), (2667, 2901, 3), (2932, 3172, 2), (3204, 3359, 0),
    ),
    "2": (
        (30, 267, 2), (299, 488, 1), (548, 614, 3), (646, 773, 0), (836, 967, 4),
        (1000, 1059, 4), (1091, 1331, 0), (1392, 1622, 3), (1657, 1777, 2), (1809, 1908, 1),
        (1966, 2153, 3), (2186, 2302, 4), (2333, 2428, 1), (2490, 2709, 2), (2741, 2817, 0),
    ),
    "3": (
        (30, 321, 2), (353, 418, 1), (478, 643, 3), (674, 764, 0), (825, 877, 4),
        (908, 1147, 4), (1200, 1284, 0), (1346, 1418, 3), (1451, 1679, 2), (1711, 1996, 1),
        (2055, 2275, 3), (2307, 2425, 4), (2457, 2664, 1), (2726, 2857, 2), (2888, 3066, 0),
    ),
}  # fmt: skip
"""Session → first and last second of each film, and its emotion: disgust 0, fear 1, sad 2, neutral
3, happy 4."""


def read(path: Path, annotations: Sequence[Annotation]) -> list[Told]:
    """Tell the emotion of every film.

    Parameters
    ----------
    path : Path
        ``SUBJECT_SESSION_DATE.cnt``. Of one whose header is broken, beside which the same lies as
        ``…_repaired.cnt``, nothing is told.
    annotations : sequence of Annotation
        Not used.

    Raises
    ------
    BergerError
        If the name does not say the session.
    """
    named = re.fullmatch(r"\d+_([123])_\d{8}(_repaired)?", path.stem)
    if named is None:
        raise BergerError(
            f"{path}: its name does not say the session; call it SUBJECT_SESSION_DATE.cnt as "
            "distributed."
        )
    if not named[2] and path.with_stem(f"{path.stem}_repaired").exists():
        return []
    return [Told(start, end - start, str(emotion)) for start, end, emotion in FILMS[named[1]]]
