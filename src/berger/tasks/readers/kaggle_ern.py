"""BCI Challenge @ NER 2015: whether the letter that was fed back is the one that was meant."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from berger.errors import BergerError
from berger.recordings import Annotation
from berger.tasks.readers.told import Told
from berger.tasks.tables import read_table

TRAIN = "TrainLabels.csv"
TEST = "SampleSubmission.csv"
TRUE = "true_labels.csv"


def read(path: Path, annotations: Sequence[Annotation]) -> list[Told]:
    """Return the feedback of a session: "1" for the letter that was meant, "0" for another.

    Parameters
    ----------
    path : Path
        ``Data_S02_Sess01.csv``. The labels lie in its folder or the one above: ``TrainLabels.csv``;
        of other people ``true_labels.csv``, in the order of ``SampleSubmission.csv``.
    annotations : sequence of Annotation
        "1" where feedback was given, as the task's layout makes them.

    Returns
    -------
    list of Told
        Nothing for a person of the test set where there is no ``true_labels.csv``.

    Raises
    ------
    BergerError
        If a file of labels is missing, or does not fit the feedback in the signal.
    """
    session = path.stem.removeprefix("Data_")
    labels, where = _labels(path, session)
    if labels is None:
        return []
    shown = sorted(mark.onset for mark in annotations if mark.description == "1")
    if len(shown) != len(labels):
        raise BergerError(
            f"{path}: feedback was given {len(shown)} times, but {where} has {len(labels)} labels "
            "of it; fetch both again."
        )
    return [Told(onset, 0.0, label, False) for onset, label in zip(shown, labels, strict=True)]


def _labels(path: Path, session: str) -> tuple[list[str] | None, Path]:
    """Return the labels of a session in the order of its feedback, and their file."""
    train = _beside(path, TRAIN)
    if train is None:
        raise BergerError(
            f"{path}: {TRAIN}, which has the labels, lies neither beside it nor in the folder "
            "above; fetch that too."
        )
    found = _of_session(train, session, None)
    if found:
        return found, train
    test, true = _beside(path, TEST), _beside(path, TRUE)
    if true is None:
        return None, train
    if test is None:
        raise BergerError(
            f"{path}: {true} is in the order of {TEST}, which does not lie there; fetch that too."
        )
    column = read_table(true, ["label"])["label"].tolist()
    return _of_session(test, session, column), true


def _of_session(path: Path, session: str, column: list[str] | None) -> list[str]:
    table = read_table(path, ["IdFeedBack", "Prediction"])
    labels = table["Prediction"].tolist() if column is None else column
    if len(labels) != len(table):
        raise BergerError(
            f"{path}: names {len(table)} times of feedback, but {len(labels)} labels are known; "
            "fetch both again."
        )
    found = []
    for line, (name, label) in enumerate(zip(table["IdFeedBack"], labels, strict=True), start=2):
        match = re.fullmatch(r"(S\d\d_Sess\d\d)_FB(\d{3})", name)
        if match is None:
            raise BergerError(
                f"{path}: line {line} has {name!r}, which is no name like S02_Sess01_FB001; fetch "
                "it again."
            )
        if match[1] != session:
            continue
        found.append(label)
        if int(match[2]) != len(found):
            raise BergerError(
                f"{path}: line {line} has {name}, where FB{len(found):03d} is due; fetch it again."
            )
    return found


def _beside(path: Path, name: str) -> Path | None:
    places = [folder / name for folder in (path.parent, path.parent.parent)]
    return next((place for place in places if place.is_file()), None)
