"""KaggleERN, on a miniature of its tree."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from berger.corpus import Corpus
from berger.errors import BergerError
from berger.recordings import Annotation
from berger.tasks import check_folder, cut_windows, load_task
from berger.tasks.readers import READERS, Told
from tests.tasks.catalogue.made import corpus_of, folds_of

TRAIN, TEST = ("S02", "S06", "S07"), ("S01",)
SESSIONS = ("Sess01", "Sess05")
SHOWN = (1.0, 3.0, 5.0, 7.5)  # the last with half a second behind it


def write_session(path: Path, names: Sequence[str]) -> None:
    rng = np.random.default_rng([*path.name.encode()])
    table = pd.DataFrame(rng.normal(0, 10, (1600, len(names))).round(2), columns=list(names))
    table.insert(0, "Time", np.arange(1600) / 200)
    table["EOG"] = 3.0
    table["FeedBackEvent"] = np.isin(np.arange(1600), [round(200 * time) for time in SHOWN]) * 1
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False)


def names_of(people: Sequence[str], sessions: Sequence[str]) -> list[str]:
    return [f"{who}_{what}_FB{n:03d}" for who in people for what in sessions for n in (1, 2, 3, 4)]


def write_labels(path: Path, names: Sequence[str], labels: Sequence[int]) -> None:
    lines = [f"{name},{label}" for name, label in zip(names, labels, strict=True)]
    path.write_text("\n".join(["IdFeedBack,Prediction", *lines]) + "\n")


def miniature(
    folder: Path,
    train: Sequence[str] = TRAIN,
    test: Sequence[str] = TEST,
    sessions: Sequence[str] = SESSIONS,
) -> Path:
    folder = folder / "inria-bci-challenge"
    layout = load_task("kaggle-ern").layout
    assert layout is not None
    for part, people in (("train", train), ("test", test)):
        for person in people:
            for session in sessions:
                write_session(folder / part / f"Data_{person}_{session}.csv", layout.signal)
    shown = [names_of(people, sessions) for people in (train, test)]
    write_labels(folder / "TrainLabels.csv", shown[0], [0, 1, 1, 0] * (len(shown[0]) // 4))
    write_labels(folder / "SampleSubmission.csv", shown[1], [0] * len(shown[1]))
    true = "\n".join("10010011"[place % 8] for place in range(len(shown[1])))
    (folder / "true_labels.csv").write_text(f"label\n{true}\n")
    (folder / "ChannelsLocation.csv").write_text("Labels,Radius,Phi\nFp1,1,2\n")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniature(tmp_path_factory.mktemp("ern"))


@pytest.fixture(scope="module")
def corpus(folder: Path) -> Corpus:
    return corpus_of(load_task("kaggle-ern"), folder, folder.parent / "corpus")


def test_two_seconds_around_each_feedback(folder: Path, corpus: Corpus) -> None:
    cut = cut_windows(load_task("kaggle-ern", folder), corpus)
    found = [(row.recording, row.subject, row.start, row.label) for row in cut.table.itertuples()]
    kinds = {
        **{(person, session): "ecc" for person in TRAIN for session in SESSIONS},
        ("S01", "Sess01"): "cee",
        ("S01", "Sess05"): "eec",
    }
    assert sorted(found) == sorted(
        (
            f"{'test' if person == 'S01' else 'train'}/Data_{person}_{session}.csv",
            person,
            round(100 * (time - 0.7)),
            {"e": "error", "c": "correct"}[kind],
        )
        for (person, session), three in kinds.items()
        for time, kind in zip(SHOWN[:3], three, strict=True)
    )
    assert set(cut.left_out["reason"]) == {"it reaches beyond the recording"}
    assert len(cut.left_out) == 8
    names = corpus.recordings["ch_names"][0]
    assert len(names) == 56
    assert "PO8" in names


def test_the_channels_are_as_the_facts_say(folder: Path) -> None:
    table = check_folder("kaggle-ern", folder).table.set_index("fact")
    assert table.loc["channels", ["found", "ok"]].tolist() == ["all of them", True]


def test_without_the_labels_of_the_test_people(folder: Path, corpus: Corpus) -> None:
    true = folder / "true_labels.csv"
    whole = true.read_text()
    true.unlink()
    cut = cut_windows(load_task("kaggle-ern", folder), corpus)
    true.write_text(whole)
    assert set(cut.table["subject"]) == {*TRAIN}
    told = cut.left_out[cut.left_out["reason"] == "nothing is told of it"]
    assert sorted(told["recording"]) == [f"test/Data_S01_{session}.csv" for session in SESSIONS]


def test_splits(folder: Path, corpus: Corpus) -> None:
    with pytest.raises(BergerError, match=r"the split: S03 .* has no recording that is used"):
        folds_of(load_task("kaggle-ern@kaggle", folder), corpus)  # a folder that is not whole
    people = [f"S{number:02d}" for number in range(1, 27)]
    made = load_task("kaggle-ern@bendr").folds(people, [None] * 26, validation_share=0.2, seed=0)
    assert [fold.validation for fold in made] == [
        ("S02", "S06", "S07", "S11"),
        ("S12", "S13", "S14", "S16"),
        ("S17", "S18", "S20", "S21"),
        ("S22", "S23", "S24", "S26"),
    ]
    assert {len(fold.train) for fold in made} == {12}
    (kaggle,) = load_task("kaggle-ern@kaggle").folds(
        people, [None] * 26, validation_share=0.2, seed=0
    )
    assert {kaggle.test, *(fold.test for fold in made)} == {kaggle.test}
    assert len(kaggle.test) == 10


MARKS = [Annotation(3.0, 0.0, "1"), Annotation(1.0, 0.0, "1"), Annotation(2.0, 0.0, "other")]
NAMES = ["S02_Sess01_FB001", "S02_Sess01_FB002", "S02_Sess02_FB001"]


@pytest.mark.parametrize("place", ["train", "."])
def test_labels_beside_or_above(tmp_path: Path, place: str) -> None:
    write_labels(tmp_path / "TrainLabels.csv", NAMES, [0, 1, 1])
    found = READERS["kaggle-ern"](tmp_path / place / "Data_S02_Sess01.csv", MARKS)
    assert found == [Told(1, 0, "0", False), Told(3, 0, "1", False)]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "TrainLabels.csv, which has the labels, lies neither beside it nor"),
        ({"TrainLabels.csv": NAMES[:1]}, "given 2 times, but .*TrainLabels.csv has 1 labels"),
        (
            {"TrainLabels.csv": [NAMES[0], "S02_Sess01_FB003"]},
            "line 3 has S02_Sess01_FB003, where FB002 is due",
        ),
        ({"TrainLabels.csv": ["S2_1"]}, "line 2 has 'S2_1', which is no name like"),
        (
            {"TrainLabels.csv": NAMES[2:], "true_labels.csv": None},
            "is in the order of SampleSubmission.csv, which does not lie there",
        ),
        (
            {
                "TrainLabels.csv": NAMES[2:],
                "SampleSubmission.csv": NAMES[:2],
                "true_labels.csv": None,
            },
            "names 2 times of feedback, but 3 labels are known",
        ),
    ],
)
def test_labels_that_are_wrong(
    tmp_path: Path, files: dict[str, list[str] | None], words: str
) -> None:
    for name, rows in files.items():
        if rows is None:
            (tmp_path / name).write_text("label\n1\n0\n1\n")
        else:
            write_labels(tmp_path / name, rows, [1] * len(rows))
    with pytest.raises(BergerError, match=words):
        READERS["kaggle-ern"](tmp_path / "Data_S02_Sess01.csv", MARKS)
