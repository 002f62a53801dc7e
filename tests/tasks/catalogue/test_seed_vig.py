from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.io

from berger.errors import BergerError
from berger.tasks import cut_windows, load_task
from berger.tasks.readers.seed_vig import read
from tests.tasks.catalogue.matlab import prepared

FILES = ("1_20151124_noon_2", "4_20151105_noon", "4_20151107_noon", "10_20151125_noon")


def shares_of(name: str) -> list[float]:
    return [round(0.05 * FILES.index(name) + 0.3 * i, 3) for i in range(3)]


def miniature(folder: Path) -> Path:
    """Three labels each, and 2 s more of signal; every channel lies about a place of its own."""
    task = load_task("seed-vig")
    for sub in ("Raw_Data", "perclos_labels", "EEG_Feature_5Bands"):
        (folder / sub).mkdir()
    rng = np.random.default_rng(0)
    for name in FILES:
        data = rng.normal(0, 10, (200 * 26, 17))
        data += 10 * np.arange(17)
        eeg = {"data": data, "chn": np.array(task.facts.ch_names, object), "sample_rate": 200}
        scipy.io.savemat(folder / "Raw_Data" / f"{name}.mat", {"EEG": eeg, "EOG": {"x": 1}})
        perclos = {"perclos": np.array([shares_of(name)]).T}
        scipy.io.savemat(folder / "perclos_labels" / f"{name}.mat", perclos)
        scipy.io.savemat(folder / "EEG_Feature_5Bands" / f"{name}.mat", {"de_LDS": [1.0]})
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniature(tmp_path_factory.mktemp("vig"))


def test_every_8_s_have_their_number(folder: Path, tmp_path: Path) -> None:
    task = load_task("seed-vig", folder)
    corpus = prepared(task, tmp_path / "corpus")
    windows = cut_windows(task, corpus)
    assert windows.left_out.empty
    assert sorted(corpus.subjects) == ["1", "10", "4"]
    sessions = {name.partition("_")[2] for name in FILES}
    assert set(corpus.recordings["session"]) == sessions
    for name in FILES:
        own = windows.table[windows.table["recording"].str.endswith(f"{name}.mat")]
        assert own["label"].tolist() == shares_of(name)
        assert own["start"].tolist() == [0, 1600, 3200]
    (first,) = corpus.windows_at(windows.table[:1], 8)
    np.testing.assert_allclose(first.signal.mean(axis=1), 10 * np.arange(17), atol=1)


def test_the_numbers_of_people_make_two_splits(folder: Path) -> None:
    people = [str(number) for number in range(1, 22)]
    sizes = {"cbramod": (15, 4, 4), "numeric": (15, 4, 4)}
    for name, expected in sizes.items():
        task = load_task(f"seed-vig@{name}", folder)
        (fold,) = task.folds(people, [None] * 21, validation_share=0.2, seed=0)
        parts = (fold.train, fold.validation, fold.test)
        assert sorted(person for part in parts for person in part) == sorted(people)
        # 4 and 5 came twice
        sessions = tuple(sum(1 + (person in "45") for person in part) for part in parts)
        assert sessions == expected
    with pytest.raises(BergerError, match=r"several splits.*seed-vig@cbramod, seed-vig@numeric"):
        load_task("seed-vig", folder).folds(people, [None] * 21, validation_share=0.2, seed=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"perclos": [0.1, 1.2]}, "perclos 2 is 1.2, no share from 0 to 1"),
        ({"perclos": [np.nan, 0.2]}, "perclos 1 is nan, no share"),
        ({"perclos": [-0.1, 0.2]}, "perclos 1 is -0.1"),
        ({"perclos": np.zeros((2, 2))}, "has no list of numbers called perclos"),
        ({"perclos": "none"}, "has no list of numbers"),
        ({"labels": [0.1]}, "has no list of numbers called perclos"),
        (None, "its labels, .*perclos_labels/1_20151124_noon_2.mat, are missing"),
    ],
)
def test_labels_that_cannot_be_are_refused(
    tmp_path: Path, content: dict[str, object] | None, message: str
) -> None:
    (tmp_path / "perclos_labels").mkdir()
    if content is not None:
        scipy.io.savemat(tmp_path / "perclos_labels" / f"{FILES[0]}.mat", content)
    with pytest.raises(BergerError, match=message) as caught:
        read(tmp_path / "Raw_Data" / f"{FILES[0]}.mat", [])
    assert "\n" not in str(caught.value)
