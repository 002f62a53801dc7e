"""Open a raw file of any kind and say what was recorded, in which unit, from whom.

::

    folder ──► files ──► header checked ──► EEG channels chosen ──► signal in µV, annotations
                         (damage, units)    (others kept out)       (through MNE)
                                                                            │
               subject and session, from path, BIDS root or header ─────► Recording

Only EEG leaves this room. What is kept out is listed with its reason, never silently dropped.

- `recording`: the value types, and how channels are chosen.
- `bids`: what a BIDS root says beside its recordings.
- `edf`: the reader of EDF, EDF+ and BDF.
- `triggers`: from trigger channels to annotations.
- `through_mne`: the reader of all other formats of EEG devices and programs.
- `wholeness`: is a file as long as it says; `fiff` and `matlab`: are its parts.
- `ant`: converts ANT Neuro files, run in a process of its own.
- `layout`: the reader of columns and arrays (CSV, MATLAB, NPZ) whose meaning is declared.
- `formats`: suffix → reader, and which files belong to another.
- `reading`: from paths to recordings.
"""

from berger.recordings.bids import species_name
from berger.recordings.formats import files_of, hash_of, size_of
from berger.recordings.layout import LayoutConfig, read_matlab
from berger.recordings.reading import (
    compile_subject_pattern,
    find_recordings,
    identify,
    read_recording,
)
from berger.recordings.recording import (
    MICROVOLTS,
    Annotation,
    Gap,
    KeptOut,
    Recording,
    RejectedError,
    Unit,
)

__all__ = [
    "MICROVOLTS",
    "Annotation",
    "Gap",
    "KeptOut",
    "LayoutConfig",
    "Recording",
    "RejectedError",
    "Unit",
    "compile_subject_pattern",
    "files_of",
    "find_recordings",
    "hash_of",
    "identify",
    "read_matlab",
    "read_recording",
    "size_of",
    "species_name",
]
