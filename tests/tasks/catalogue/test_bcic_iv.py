"""BCIC-IV-2a and -2b, on miniatures of the files of BNCI Horizon 2020."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from berger.corpus import Corpus
from berger.errors import BergerError
from berger.recordings import Annotation
from berger.tasks import cut_windows, load_task
from berger.tasks.readers import READERS, Told
from tests.tasks.catalogue.made import corpus_of, folds_of

ABOUT = {"fs": 250, "classes": "left hand", "gender": "male", "age": 22}
RUN = {"trial": [1, 2001, 4001, 6001], "y": [1, 2, 3, 4], "artifacts": [0, 0, 1, 0]}
NO_TRIALS: dict[str, Any] = {"trial": [], "y": [], "artifacts": []}


def write_cells(path: Path, cells: list[dict[str, Any]], n_channels: int, seconds: int) -> None:
    """Write cells of structures in MATLAB 5, each with another noise."""
    rng = np.random.default_rng([*path.name.encode()])
    data = np.empty((1, len(cells)), object)
    for place, lists in enumerate(cells):
        columns = {key: np.array(values, float).reshape(-1, 1) for key, values in lists.items()}
        data[0, place] = {"X": rng.normal(0, 10, (seconds * 250, n_channels))} | columns | ABOUT
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"data": data})


def miniature(folder: Path) -> Path:
    folder = folder / "001-2014"
    for person in range(1, 10):
        blocks = 1 if person == 4 else 2  # as A04T has one block of eye movements, others three
        write_cells(folder / f"A0{person}T.mat", [NO_TRIALS] * blocks + [RUN] * 2, 25, 30)
    write_cells(folder / "A01E.mat", [NO_TRIALS, RUN | {"trial": [1, 2001, 4001, 5501]}], 25, 30)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniature(tmp_path_factory.mktemp("graz"))


@pytest.fixture(scope="module")
def corpus(folder: Path) -> Corpus:
    return corpus_of(load_task("bcic-iv-2a"), folder, folder.parent / "corpus")


def test_four_seconds_from_each_cue(folder: Path, corpus: Corpus) -> None:
    cut = cut_windows(load_task("bcic-iv-2a", folder), corpus)
    kinds = ("left hand", "right hand", "feet", "tongue")
    found = cut.table[cut.table["recording"] == "A01T.mat"]
    assert list(zip(found["start"], found["label"], strict=True)) == [
        (100 * (30 * cell + 8 * trial + 2), kind)  # at 100 Hz; cells of 30 s
        for cell in (2, 3)
        for trial, kind in enumerate(kinds)
    ]
    assert set(cut.table.loc[cut.table["recording"] == "A04T.mat", "start"]) == {
        100 * (30 * cell + 8 * trial + 2) for cell in (1, 2) for trial in range(4)
    }
    last = cut.table[cut.table["recording"] == "A01E.mat"]
    assert last["start"].tolist() == [3200, 4000, 4800, 5400]
    assert set(last["subject"]) == {"A01"}
    assert cut.left_out.empty
    assert len(corpus.recordings["ch_names"][0]) == 22


def test_without_artefacts(folder: Path, corpus: Corpus) -> None:
    with pytest.raises(BergerError, match="no window of class feet among"):  # all of the miniature
        cut_windows(load_task("bcic-iv-2a+artefact-free", folder), corpus)


def test_splits(folder: Path, corpus: Corpus) -> None:
    (fold,) = folds_of(load_task("bcic-iv-2a@cbramod", folder), corpus)
    assert fold.test == ("A08", "A09")
    assert len(folds_of(load_task("bcic-iv-2a@loso", folder), corpus)) == 9


def miniature_of_three_channels(folder: Path) -> Path:
    """Two sessions of two trials and of one."""
    for person in (1, 2, 3):
        session = {"trial": [1, 2501], "y": [2, 1], "artifacts": [0, person == 3]}
        path = folder / f"B0{person}T.mat"
        write_cells(path, [session, {key: values[:1] for key, values in session.items()}], 6, 20)
    (folder / "true_labels").mkdir()
    scipy.io.savemat(folder / "true_labels" / "B0101T.mat", {"classlabel": [[1], [2]]})
    return folder


def test_three_channels_and_sessions_of_several_lengths(tmp_path: Path) -> None:
    miniature_of_three_channels(tmp_path)
    task = load_task("bcic-iv-2b", tmp_path)
    table = cut_windows(task, corpus_of(task, tmp_path, tmp_path / "corpus")).table
    assert table["start"].tolist() == [300, 1300, 2300] * 3
    assert Counter(table["label"]) == {"right hand": 6, "left hand": 3}


CELLS = [Annotation(0.0, 4.0, "trial 1"), Annotation(3.96, 4.0, "trial 2")]


@pytest.mark.parametrize(
    ("reader", "cue", "last"), [("bcic-iv-2a", 2.0, 6.0), ("bcic-iv-2b", 3.0, 7.0)]
)
def test_trials_count_from_one(tmp_path: Path, reader: str, cue: float, last: float) -> None:
    lists = {"trial": [1, 251], "y": [1, 2], "artifacts": [1, 0]}
    write_cells(tmp_path / "x.mat", [NO_TRIALS, lists], 3, 4)
    assert READERS[reader](tmp_path / "x.mat", CELLS) == [
        Told(3.96 + cue, last - cue, "1 artefact", False),
        Told(4.96 + cue, last - cue, "2", False),
    ]
    write_cells(tmp_path / "x.mat", [lists], 3, 4)  # SciPy unpacks a cell that is alone
    assert [one.onset for one in READERS[reader](tmp_path / "x.mat", CELLS)] == [cue, cue + 1]


@pytest.mark.parametrize(
    ("lists", "words"),
    [
        ({"y": [1]}, "cell 1 of data has 2 trials, 1 classes and 2 artefacts"),
        ({"y": [1.5, 2]}, "cell 1 of data has no whole numbers called y"),
        ({"y": [np.nan, 2]}, "cell 1 of data has no whole numbers called y"),
        ({"trial": [0, 251]}, "cell 1 of data has trials that begin outside its signal"),
        ({"trial": [1, 1001]}, "cell 1 of data has trials that begin outside its signal"),
    ],
)
def test_lists_that_are_wrong(tmp_path: Path, lists: dict[str, Any], words: str) -> None:
    whole = {"trial": [1, 251], "y": [1, 2], "artifacts": [1, 0]}
    write_cells(tmp_path / "A01T.mat", [whole | lists], 3, 4)
    with pytest.raises(BergerError, match=rf"A01T\.mat: {words}"):
        READERS["bcic-iv-2a"](tmp_path / "A01T.mat", CELLS)


def test_files_of_the_same_name_and_unknown_classes(folder: Path, corpus: Corpus) -> None:
    path = folder / "A01E.mat"
    whole = path.read_bytes()
    scipy.io.savemat(path, {"classlabel": [[1], [2]]})
    with pytest.raises(BergerError, match=r"A01E\.mat: has no cells of structures called data"):
        cut_windows(load_task("bcic-iv-2a", folder), corpus)
    write_cells(path, [RUN | {"y": [1, 2, 3, 5]}, NO_TRIALS], 25, 30)
    with pytest.raises(BergerError, match=r"A01E\.mat at 26 s: '5' is not in labels\.classes"):
        cut_windows(load_task("bcic-iv-2a", folder), corpus)
    path.write_bytes(whole)
