from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from berger.corpus import Corpus
from berger.errors import BergerError
from berger.tasks import cut_windows, load_task
from berger.tasks.readers.seed_v import FILMS, read
from tests.recordings.writing import write_neuroscan
from tests.tasks.catalogue.matlab import prepared

FILES = {
    "1_1_20180804": 3360,
    "2_2_20180419": 2820,
    "7_1_20180411": 3360,
    "7_1_20180411_repaired": 3360,
    "16_3_20180813": 2900,  # ends within the last film, 2888-3066 s
}
RATE = 10
OTHERS = ("M1", "M2", "VEO", "HEO")
COUNTS = {"sad": 1917, "fear": 1505, "neutral": 1480, "disgust": 1238, "happy": 1219}


def miniature(folder: Path, files: Mapping[str, int] = FILES, rate: int = RATE) -> Path:
    folder = folder / "SEED-V"
    (folder / "EEG_raw").mkdir(parents=True)
    names = load_task("seed-v").facts.ch_names
    names = (*names[:20], *OTHERS, *names[20:])
    rng = np.random.default_rng(0)
    for name, seconds in files.items():
        noise = rng.normal(0, 20, (66, 60 * rate))
        waves = np.tile(noise, seconds // 60 + 1)[:, : seconds * rate]
        write_neuroscan(folder / "EEG_raw" / f"{name}.cnt", "<i2", names, waves, rate)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniature(tmp_path_factory.mktemp("seed"))


@pytest.fixture(scope="module")
def corpus(folder: Path) -> Corpus:
    return prepared(load_task("seed-v", folder), folder.parent / "corpus", sfreq=RATE)


def test_every_second_of_a_film_has_its_emotion(folder: Path, corpus: Corpus) -> None:
    task = load_task("seed-v", folder)
    windows = cut_windows(task, corpus)
    assert corpus.subjects == ("1", "16", "2", "7")
    assert corpus.recordings["ch_names"].iloc[0] == list(task.channels or ())
    seconds = windows.table.groupby("recording").size().to_dict()
    assert {name.rpartition("/")[2]: n for name, n in seconds.items()} == {
        "1_1_20180804.cnt": 2743,
        "2_2_20180419.cnt": 2191,
        "7_1_20180411_repaired.cnt": 2743,
        "16_3_20180813.cnt": 2425 - 178 + 12,
    }
    first = windows.table[windows.table["subject"] == "1"]
    assert first["start"].iloc[[0, 71, 72]].tolist() == [300, 1010, 1320]  # 30-102, 132-228 s
    assert first["label"].iloc[[0, 71, 72]].tolist() == ["happy", "happy", "fear"]
    left = {row.recording.rpartition("/")[2]: row for row in windows.left_out.itertuples()}
    assert left["7_1_20180411.cnt"].reason == "nothing is told of it"
    assert left["16_3_20180813.cnt"].n_windows == 178 - 12
    assert "beyond the recording" in left["16_3_20180813.cnt"].reason


def test_four_seconds(folder: Path, corpus: Corpus) -> None:
    table = cut_windows(load_task("seed-v+four-seconds", folder), corpus).table
    per_person = table.groupby("subject").size()
    assert (per_person["1"], per_person["2"]) == (681, 541)


def test_the_films_last_as_long_as_in_the_papers() -> None:
    task = load_task("seed-v")
    assert task.labels.classes is not None
    seconds = dict.fromkeys(task.classes, 0)
    for films in FILMS.values():
        assert len(films) == 15
        assert all(a[1] < b[0] for a, b in pairwise(films))
        for start, end, emotion in films:
            seconds[str(task.labels.classes[str(emotion)])] += end - start
    assert seconds == COUNTS
    assert 16 * sum(seconds.values()) == 117_744


def test_a_split_of_people(folder: Path) -> None:
    task = load_task("seed-v@subjects-5-5-5", folder)
    people = [str(number) for number in range(1, 17)]
    (fold,) = task.folds(people, [None] * 16, validation_share=0.2, seed=0)
    assert [len(part) for part in (fold.train, fold.validation, fold.test)] == [5, 5, 5]
    assert {*people} - {*fold.train, *fold.validation, *fold.test} == {"7"}


@pytest.mark.parametrize("name", ["1_4_20180804", "1_20180804", "1_1_20180804_old"])
def test_a_name_without_a_session_is_refused(name: str) -> None:
    with pytest.raises(BergerError, match=r"does not say the session; call it SUBJECT_SESSION"):
        read(Path(f"{name}.cnt"), [])
