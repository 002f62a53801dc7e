from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import openpyxl
import pytest
import scipy.io

from berger.corpus import Corpus
from berger.errors import BergerError
from berger.recordings import Annotation
from berger.tasks import cut_windows, load_task
from berger.tasks.readers.bcic2020_3 import SHEET, read
from tests.tasks.catalogue.matlab import prepared, write_hdf5

PEOPLE = ("01", "02", "03", "15")
WORDS = {"Training": [1, 2, 3], "Validation": [5, 4], "Test": [2, 1, 3]}
CLASSES = ("hello", "help me", "stop", "thank you", "yes")
NAMES = load_task("bcic2020-3").facts.ch_names
TRIALS = [Annotation(3 * k, 3.0, f"trial {k + 1}") for k in range(3)]


def words_of(person: str, part: str) -> list[int]:
    """Another order for each person."""
    return list(np.roll(WORDS[part], PEOPLE.index(person)))


def write_person(folder: Path, person: str) -> None:
    """Each trial is an offset of its number in the first channel, on noise."""
    for part, words in WORDS.items():
        rng = np.random.default_rng(int(person))
        x = rng.normal(0, 10, (795, 64, len(words)))
        x[:, 0] += 100 * np.arange(len(words))
        epochs = {"fs": 256, "t": np.arange(795), "clab": list(NAMES), "className": list(CLASSES)}
        file = folder / f"{part} set" / f"Data_Sample{person}.mat"
        file.parent.mkdir(exist_ok=True)
        if part == "Test":
            write_hdf5(file, {"epo_test": epochs | {"x": x, "y": np.zeros((1, len(words)))}})
            continue
        name = {"Training": "epo_train", "Validation": "epo_validation"}[part]
        epochs |= {"clab": np.array(NAMES, object), "className": np.array(CLASSES, object)}
        y = np.eye(5)[np.array(words_of(person, part)) - 1].T.astype(np.uint8)
        scipy.io.savemat(file, {name: epochs | {"x": x, "y": y}, "mnt": {"clab": "x"}})


def write_sheet(file: Path) -> None:
    columns = [words_of(person, "Test") for person in PEOPLE]
    rows: list[list[str | int | None]] = [
        ["Track 3"],
        [cell for person in PEOPLE for cell in (f"Data_Sample{person}", None)],
        ["Trial #", "True Label"] * len(PEOPLE),
        *(
            [cell for word in row for cell in (k, word)]
            for k, row in enumerate(zip(*columns, strict=True), 1)
        ),
    ]
    write_rows(file, [[None, *row] for row in rows])


def write_rows(file: Path, rows: Sequence[Sequence[str | int | None]]) -> None:
    book = openpyxl.Workbook()
    book.active.title = "Track2"  # another track's sheet comes first
    sheet = book.create_sheet("Track3")
    for row in rows:
        sheet.append(row)
    book.save(file)


def miniature(folder: Path) -> Path:
    folder = folder / "Track#3 Imagined speech classification"
    folder.mkdir()
    for person in PEOPLE:
        write_person(folder, person)
    write_sheet(folder / "Test set" / SHEET)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniature(tmp_path_factory.mktemp("track"))


@pytest.fixture(scope="module")
def corpus(folder: Path) -> Iterator[Corpus]:
    return prepared(load_task("bcic2020-3", folder), folder.parent / "corpus")


def test_every_trial_is_a_window_of_its_word(folder: Path, corpus: Corpus) -> None:
    task = load_task("bcic2020-3", folder)
    windows = cut_windows(task, corpus)
    assert windows.left_out.empty
    assert set(windows.table["subject"]) == set(PEOPLE)
    for person in PEOPLE:
        for part in WORDS:
            own = windows.table[windows.table["recording"] == f"{part} set/Data_Sample{person}.mat"]
            expected = [CLASSES[word - 1] for word in words_of(person, part)]
            assert own["label"].tolist() == expected
            # 795 samples at 256 Hz become 621 at 200; a window is the last 600 of them
            assert own["start"].tolist() == [621 * k + 21 for k in range(len(expected))]
    read_back = corpus.windows_at(windows.table, 3)
    offsets = np.array([read_back[i].signal[0].mean() for i in range(len(windows.table))])
    assert corpus.recordings["ch_names"].iloc[0] == list(task.channels or ())
    trial = (windows.table["start"] - 21) / 621
    np.testing.assert_allclose(offsets, 100 * trial, atol=8)


def test_the_imagination_alone(folder: Path, corpus: Corpus) -> None:
    table = cut_windows(load_task("bcic2020-3+imagination", folder), corpus).table
    assert len(table) == 4 * 8
    assert set(table["start"] % 621) == {100}


def test_all_three_files_of_a_person_are_one_person(folder: Path, corpus: Corpus) -> None:
    task = load_task("bcic2020-3@k-fold", folder)
    rows = corpus.recordings
    folds = task.folds(
        rows["subject"].tolist(), rows["site"].tolist(), validation_share=0.3, seed=0, n_folds=4
    )
    assert sorted(person for fold in folds for person in fold.test) == list(PEOPLE)


def test_a_sheet_may_lie_a_folder_above(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "Test set" / "Data_Sample02.mat"
    with pytest.raises(
        BergerError, match=r"lie in a spreadsheet that is distributed with it; fetch .*/Track3_A"
    ):
        read(place, TRIALS)
    place.parent.mkdir()
    write_sheet(tmp_path / SHEET)
    told = read(place, [Annotation(k, 1.0, f"trial {k + 1}") for k in range(3)])
    assert [one.value for one in told] == [str(word) for word in words_of("02", "Test")]
    assert [(one.onset, one.by_clock) for one in told[:2]] == [(0, False), (1, False)]


@pytest.mark.parametrize(
    ("sheet", "message"),
    [
        ([["Data_Sample01"], ["T", "L"], [1, 4], [2, 3]], "has 3 trials, but 2 words"),
        (
            [["Data_Sample01"], ["T", "L"], [1, 4], [3, 3]],
            "line 4 has '3' and '3' of Data_Sample01, but trial 2",
        ),
        ([["Data_Sample01"], ["T", "L"], [1, 0]], "line 3 has '1' and '0'"),
        ([["Data_Sample01"], ["T", "L"], [1]], "line 3 has '1' and ''"),
        ([["Data_Sample02"], ["T", "L"], [1, 4]], "names Data_Sample01 0 times"),
        ([["Data_Sample01", "Data_Sample01"]], "names Data_Sample01 2 times"),
        (b"\xff\xfe\x00", "cannot be read .*; fetch it again"),
    ],
)
def test_a_wrong_sheet_is_refused(
    tmp_path: Path, sheet: list[list[str | int | None]] | bytes, message: str
) -> None:
    (tmp_path / "Test set").mkdir()
    if isinstance(sheet, bytes):
        (tmp_path / "Test set" / SHEET).write_bytes(sheet)
    else:
        write_rows(tmp_path / "Test set" / SHEET, sheet)
    with pytest.raises(BergerError, match=message) as caught:
        read(tmp_path / "Test set" / "Data_Sample01.mat", TRIALS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epo_train": {"y": np.eye(5)[:, :2]}}, "has 3 trials, but 2 words are known"),
        ({"epo_train": {"y": np.eye(5)[:, [0, 1, 1]] * [1, 1, 0]}}, "y does not give trial 3 one"),
        ({"epo_train": {"y": np.eye(4)[:, :3]}}, "no table y of 5 words"),
        ({"epo_train": {"x": [1, 2]}}, "no table y of 5 words"),
        ({"other": {"y": np.eye(5)[:, :3]}}, "no table y of 5 words"),
    ],
)
def test_wrong_words_in_a_file_are_refused(
    tmp_path: Path, content: dict[str, object], message: str
) -> None:
    (tmp_path / "Training set").mkdir()
    file = tmp_path / "Training set" / "Data_Sample01.mat"
    scipy.io.savemat(file, content)
    with pytest.raises(BergerError, match=rf"Data_Sample01\.mat.*{message}"):
        read(file, TRIALS)


def test_the_folder_says_where_the_words_are(tmp_path: Path) -> None:
    with pytest.raises(BergerError, match=r"lies in 'Train', but .* name it 'Training set'"):
        read(tmp_path / "Train" / "Data_Sample01.mat", TRIALS)
