"""Every split of the catalogue: nobody, no recording or no trial is on two sides of it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from berger.files import sha256
from berger.tasks import TaskConfig, catalogue, load_task
from berger.tasks.splits import FixedSplit, Fold

PARTS = ("train", "validation", "test")

SPLITS = [
    f"{name}+{variant}@{split}" if variant else f"{name}@{split}"
    for name in catalogue()
    for task in [load_task(name)]
    for variant in ["", *(v for v in task.variants if "split" in task.variants[v])]
    for split in ([*task.splits] if not variant else [""])
]
"""Names of tasks with one of their splits, and of variants that have a split of their own."""

RECORDINGS: dict[str, dict[str, str]] = {
    "bcic-iv-2a": {f"A0{n}{part}.mat": f"A0{n}" for n in range(1, 10) for part in "TE"},
    "bcic-iv-2b": {f"B0{n}{part}.mat": f"B0{n}" for n in range(1, 10) for part in "TE"},
    "bcic2020-3": {
        f"{part} set/Data_Sample{n:02}.mat": f"{n:02}"
        for n in range(1, 16)
        for part in ("Training", "Validation", "Test")
    },
    "chb-mit": {
        f"chb{n:02}/chb{n:02}_01.edf": "1" if n in (1, 21) else f"chb{n:02}"
        for n in range(1, 25)
        if n not in (12, 13, 17)
    },
    "seed-iv": {
        f"eeg_raw_data/{session}/{n}_20150{session}01.mat": str(n)
        for n in range(1, 16)
        for session in (1, 2, 3)
    },
    "seed-v": {
        f"EEG_raw/{n}_{session}_20180101.cnt": str(n) for n in range(1, 17) for session in (1, 2, 3)
    },
    "seed-vig": {
        f"Raw_Data/{n}_20151{day}05_noon.mat": str(n)
        for n in range(1, 22)
        for day in ("01", "02")
        if day == "01" or n in (4, 5)
    },
    "tuab": {
        f"{part}/{label}/01_tcp_ar/{who}_s001_t000.edf": who
        for part, lists in {
            "train": {"normal": "abcdefghij", "abnormal": "hijklmnopq"},
            "eval": {"normal": "uvw", "abnormal": "xyz"},
        }.items()
        for label, people in lists.items()
        for who in people
    },
    "tuev": {
        f"{part}/{who}/{who}_00000001.edf": who
        for part, people in {"train": "abcdefghij", "eval": "xyz"}.items()
        for who in people
    },
}
"""Recordings, as they are distributed, and their people, of tasks whose splits go by them."""

N_TRIALS = {"seed-iv": 24, "seed-v": 15, "seed-vig": 885}


def people_of(task: TaskConfig) -> dict[str, str]:
    """Return a recording → person of everybody whom the task's splits know."""
    name = task.name
    if name in RECORDINGS:
        without = "chb24/" if task.split_name == "biot-paper" else "/nothing"  # as its variant
        return {path: who for path, who in RECORDINGS[name].items() if without not in path}
    named = {
        subject
        for split in (task.split, *task.splits.values())
        if isinstance(split, FixedSplit)
        for subject in (*in_lists(task, split),)
    }
    return {f"{who}.edf": who for who in named or {f"p{n}" for n in range(9)}}


def in_lists(task: TaskConfig, split: FixedSplit) -> list[str]:
    if split.table is None:
        return [*split.train, *split.validation, *split.test]
    return [*pd.read_csv(catalogue()[task.name].parent / split.table, dtype=str)["subject"]]


def folds_of(task: TaskConfig) -> list[Fold]:
    recordings = people_of(task)
    return task.folds(
        [*recordings.values()],
        [None] * len(recordings),
        recordings=[*recordings],
        trials=[
            f"{recording}#{number}"
            for recording in recordings
            for number in range(1, N_TRIALS.get(task.name, 8) + 1)
        ],
        validation_share=0.25,
        seed=0,
    )


@pytest.mark.parametrize("name", SPLITS)
def test_the_parts_of_every_split_are_disjoint(name: str) -> None:
    task = load_task(name.removesuffix("@"))
    people = people_of(task)
    for fold in folds_of(task):
        parts = [getattr(fold, part) for part in PARTS]
        assert all(parts)
        units = [one for part in parts for one in part]
        assert len(set(units)) == len(units)
        of = [{people.get(one.partition("#")[0], one) for one in part} for part in parts]
        assert of[2] == {*fold.tested_people}
        assert bool(of[2] & (of[0] | of[1])) == (task.tested_on != "strangers")
        if task.tested_on == "within subject":
            assert len(set().union(*of)) == 1


FIXED = [name for name in SPLITS if load_task(name.removesuffix("@")).split.by == "fixed"]


@pytest.mark.parametrize("name", FIXED)
def test_fixed_lists_name_nobody_twice_and_tables_have_their_hash(name: str) -> None:
    task = load_task(name.removesuffix("@"))
    assert isinstance(task.split, FixedSplit)
    if task.split.table is None:
        named = in_lists(task, task.split)
        assert len(set(named)) == len(named)
        return
    path = catalogue()[task.name].parent / task.split.table
    assert sha256(path) == task.split.sha256
    table = pd.read_csv(path, dtype=str)
    fold = table["fold"] if "fold" in table else pd.Series("1", table.index)
    assert not table.assign(fold=fold).duplicated(["fold", "subject"]).any()


def test_every_table_belongs_to_a_split() -> None:
    folder = Path(next(iter(catalogue().values()))).parent
    used = {
        split.table
        for name in catalogue()
        for split in load_task(name).splits.values()
        if isinstance(split, FixedSplit) and split.table
    }
    assert used == {f"splits/{file.name}" for file in (folder / "splits").iterdir()}


def parts_of(name: str) -> list[tuple[str, ...]]:
    (fold,) = folds_of(load_task(name))
    return [fold.train, fold.validation, fold.test]


def test_the_folders_of_imagined_speech_are_the_parts() -> None:
    for part, folder in zip(parts_of("bcic2020-3@given"), ("Train", "Valid", "Test"), strict=True):
        assert len(part) == 15
        assert all(recording.startswith(folder) for recording in part)
    assert len(folds_of(load_task("bcic2020-3@competition"))) == 15


@pytest.mark.parametrize("name", ["bcic-iv-2a@official", "bcic-iv-2b@official"])
def test_the_first_day_is_learned_from_and_chosen_by(name: str) -> None:
    found = folds_of(load_task(name))
    assert len(found) == 9
    for fold in found:
        assert {trial[3] for trial in (*fold.train, *fold.validation)} == {"T"}
        assert {trial[3] for trial in fold.test} == {"E"}
        assert (len(fold.train), len(fold.validation), len(fold.test)) == (6, 2, 8)


def test_films_5_5_5() -> None:
    for place, part in enumerate(parts_of("seed-v@trials-5-5-5")):
        numbers = [int(trial.rpartition("#")[2]) for trial in part]
        assert len(numbers) == 5 * 3 * 16
        assert {(number - 1) // 5 for number in numbers} == {place}
    assert len(folds_of(load_task("seed-v@threefold"))) == 3 * 16


def test_films_16_8_and_sessions() -> None:
    for fold in folds_of(load_task("seed-iv@trials-16-8")):
        assert {int(one.rpartition("#")[2]) for one in fold.test} == {*range(17, 25)}
        assert (len(fold.train), len(fold.validation)) == (36, 12)
    for fold in folds_of(load_task("seed-iv@cross-session")):
        assert [len(fold.train), len(fold.validation)] == [1, 1]
        assert [one.split("/")[1] for one in fold.test] == ["3"]


def test_fifths_of_a_drive() -> None:
    found = folds_of(load_task("seed-vig@fivefold"))
    assert len(found) == 5 * 21
    for fold in found:
        numbers = sorted(int(one.rpartition("#")[2]) for one in fold.test)
        twice = 2 if fold.people[0] in ("4", "5") else 1
        assert len(numbers) == 177 * twice
        assert numbers[-1] - numbers[0] == 176


def test_the_sorted_lists_of_tuab() -> None:
    """Of 2,130 entries, 714 and 989 to learn from: here 8 and 8 of 10 and 10."""
    train, validation, test = parts_of("tuab@cbramod")
    assert [len(train), len(validation), len(test)] == [16, 4, 6]
    assert [name.split("/")[1] + name.split("/")[3][0] for name in validation] == [
        "abnormalp",
        "abnormalq",
        "normali",
        "normalj",
    ]
    assert "train/abnormal/01_tcp_ar/i_s001_t000.edf" in train  # chosen by in the other list


def test_the_girl_of_two_cases_is_chosen_by_too() -> None:
    train, validation, test = parts_of("chb-mit@biot")
    assert "chb01/chb01_01.edf" in train
    assert validation == ("chb21/chb21_01.edf", "chb22/chb22_01.edf")
    assert test == ("chb23/chb23_01.edf", "chb24/chb24_01.edf")
    assert len(train) == 17
    train, validation, test = parts_of("chb-mit@biot-paper")
    assert "chb01/chb01_01.edf" in train
    assert validation == ("chb20/chb20_01.edf", "chb21/chb21_01.edf")
    assert test == ("chb22/chb22_01.edf", "chb23/chb23_01.edf")
