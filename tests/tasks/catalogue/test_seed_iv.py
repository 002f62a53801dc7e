from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.io

from berger.errors import BergerError
from berger.recordings import Annotation
from berger.tasks import cut_windows, load_task
from berger.tasks.readers.seed_iv import EMOTIONS, read
from tests.tasks.catalogue.matlab import prepared

FILES = {"1/1_20160518": "cz", "2/1_20161125": "cz", "3/1_20161126": "c", "1/2_20150915": "ha"}
FILES |= {"3/15_20150527": "zjy"}
TRIALS = [Annotation(5.0 * k, 5.0, f"trial {k + 1}") for k in range(24)]


def seconds_of(trial: int) -> int:
    return 4 + (trial % 3 == 0) * 5  # 4, 4, 9, 4, 4, 9, ...


def miniature(folder: Path) -> Path:
    """The value of every sample is about 10 µV times its trial's number."""
    folder = folder / "SEED-IV"
    rng = np.random.default_rng(0)
    for name, initials in FILES.items():
        trials = {
            f"{initials}_eeg{n}": (rng.normal(10 * n, 10, (62, 200 * seconds_of(n) + 1))).astype(
                "i2"
            )
            for n in sorted(range(1, 25), key=str)  # 1, 10, 11, ..., 2
        }
        file = folder / "eeg_raw_data" / f"{name}.mat"
        file.parent.mkdir(parents=True, exist_ok=True)
        scipy.io.savemat(file, trials)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniature(tmp_path_factory.mktemp("seed"))


def test_every_4_s_of_a_film_have_its_emotion(folder: Path, tmp_path: Path) -> None:
    task = load_task("seed-iv", folder)
    corpus = prepared(task, tmp_path / "corpus")
    assert corpus.subjects == ("1", "15", "2")
    windows = cut_windows(task, corpus)
    assert windows.left_out.empty
    names = {"0": "neutral", "1": "sad", "2": "fear", "3": "happy"}
    starts, numbers, begin = [], [], 0
    for trial in range(1, 25):
        n = seconds_of(trial) // 4
        starts += [begin + 800 * k for k in range(n)]
        numbers += [trial] * n
        begin += 200 * seconds_of(trial) + 1
    for name in FILES:
        own = windows.table[windows.table["recording"].str.endswith(f"{name}.mat")]
        assert own["start"].tolist() == starts
        emotions = EMOTIONS[name[0]]
        assert own["label"].tolist() == [names[emotions[number - 1]] for number in numbers]
    own = windows.table[windows.table["recording"].str.endswith("3/15_20150527.mat")]
    found = corpus.windows_at(own, 4)
    levels = [round(float(found[i].signal.mean()) / 10) for i in range(len(own))]
    assert levels == numbers
    assert len(cut_windows(load_task("seed-iv+one-second", folder), corpus).table) == 5 * 136


def test_each_session_has_six_films_of_each_emotion() -> None:
    for emotions in EMOTIONS.values():
        assert [emotions.count(emotion) for emotion in "0123"] == [6, 6, 6, 6]


@pytest.mark.parametrize("folder", ["1", "session1", "Session_1"])
def test_a_session_is_told_by_its_folder(folder: str) -> None:
    told = read(Path(folder) / "1_20160518.mat", TRIALS)
    assert "".join(one.value for one in told) == EMOTIONS["1"]
    assert (told[3].onset, told[3].duration, told[3].by_clock) == (15.0, 5.0, False)


@pytest.mark.parametrize(
    ("folder", "trials", "message"),
    [
        ("eeg_raw_data", TRIALS, "lies in 'eeg_raw_data', but only its folder says which films"),
        ("4", TRIALS, "lies in '4'"),
        ("1", TRIALS[:4] + TRIALS[5:], "lacks trial 5, but a session has 24"),
        ("1", [], "lacks trial 1, but"),
        ("1", [*TRIALS, Annotation(120.0, 5.0, "trial 25")], "has 25 trials, but"),
    ],
)
def test_what_is_no_session_is_refused(folder: str, trials: list[Annotation], message: str) -> None:
    with pytest.raises(BergerError, match=message):
        read(Path(folder) / "1_20160518.mat", trials)
