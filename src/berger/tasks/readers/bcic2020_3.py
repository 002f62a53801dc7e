"""Imagined words of track 3 of the 2020 International BCI Competition.

Training and validation files have the word of every trial in ``y``, a row of 0 and 1 for each word;
that of the test files means nothing, their words came later as a sheet of a spreadsheet.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from berger.errors import BergerError
from berger.recordings import Annotation, read_matlab
from berger.tasks.readers.told import Told

SHEET, TRACK = "Track3_Answer Sheet_Test.xlsx", "Track3"
WORDS = ("1", "2", "3", "4", "5")


def read(path: Path, annotations: Sequence[Annotation]) -> list[Told]:
    """Tell the word of every trial: 1 hello, 2 help me, 3 stop, 4 thank you, 5 yes.

    Parameters
    ----------
    path : Path
        ``… set/Data_SampleNN.mat``; the folder says of which part it is.
    annotations : sequence of Annotation
        One per trial, as the task's layout makes them.

    Raises
    ------
    BergerError
        If trials and words differ in number, a word is none, or the sheet is missing.
    """
    trials = [mark for mark in annotations if mark.description.startswith("trial ")]
    folder = path.parent.name
    if folder not in ("Training set", "Validation set", "Test set"):
        raise BergerError(
            f"{path}: lies in {folder!r}, but whether its words are known is said by the folder; "
            "name it 'Training set', 'Validation set' or 'Test set' as distributed."
        )
    words = _in_sheet(path) if folder == "Test set" else _in_file(path)
    if len(words) != len(trials):
        raise BergerError(
            f"{path}: has {len(trials)} trials, but {len(words)} words are known; fetch it again."
        )
    return [
        Told(mark.onset, mark.duration, word, by_clock=False)
        for mark, word in zip(trials, words, strict=True)
    ]


def _in_file(path: Path) -> list[str]:
    content = read_matlab(path)
    epochs = [value for name, value in content.items() if name.startswith("epo_")]
    shown = epochs[0].get("y") if len(epochs) == 1 and isinstance(epochs[0], Mapping) else None
    one_hot = np.asarray(shown)
    if one_hot.dtype.kind not in "iufb" or one_hot.ndim != 2 or len(one_hot) != len(WORDS):
        raise BergerError(
            f"{path}: has no table y of {len(WORDS)} words × trials in one structure epo_…; fetch "
            "it again."
        )
    if not (np.isin(one_hot, (0, 1)).all() and (one_hot.sum(axis=0) == 1).all()):
        trial = int(np.argmin((one_hot == 1).sum(axis=0) == 1)) + 1
        raise BergerError(f"{path}: y does not give trial {trial} one word; fetch it again.")
    return [WORDS[word] for word in one_hot.argmax(axis=0)]


def _in_sheet(path: Path) -> list[str]:
    """Return the words of a person: two columns, below the name and a line of headings."""
    sheets = [folder / SHEET for folder in (path.parent, path.parent.parent)]
    sheet = next((file for file in sheets if file.is_file()), None)
    if sheet is None:
        raise BergerError(
            f"{path}: the words of its trials lie in a spreadsheet that is distributed with it; "
            f"fetch {sheets[0]}."
        )
    try:
        table = pd.read_excel(sheet, sheet_name=TRACK, header=None, dtype=str, engine="openpyxl")
    except ImportError as error:
        raise BergerError(
            f"{sheet}: spreadsheets are read by openpyxl; `pip install 'berger[formats]'`."
        ) from error
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, SyntaxError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise BergerError(f"{sheet}: cannot be read ({reason}); fetch it again.") from error
    rows: list[list[str]] = table.fillna("").to_numpy().tolist()
    places = [
        (line, column)
        for line, row in enumerate(rows)
        for column, cell in enumerate(row)
        if cell.strip() == path.stem
    ]
    if len(places) != 1:
        raise BergerError(
            f"{sheet}: names {path.stem} {len(places)} times instead of once; fetch it again."
        )
    ((above, column),) = places
    words: list[str] = []
    for line, row in enumerate(rows[above + 2 :], start=above + 3):
        trial, word = (cell.strip() for cell in [*row, "", ""][column : column + 2])
        if not trial and not word:
            break
        if trial != str(len(words) + 1) or word not in WORDS:
            raise BergerError(
                f"{sheet}: line {line} has {trial!r} and {word!r} of {path.stem}, but trial "
                f"{len(words) + 1} and a word from 1 to {len(WORDS)} are due; fetch it again."
            )
        words.append(word)
    return words
