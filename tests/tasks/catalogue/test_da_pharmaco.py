from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from berger.errors import BergerError
from berger.recordings import Annotation
from berger.tasks import cut_windows, load_task
from berger.tasks.readers.da_pharmaco import read
from tests.tasks.catalogue.matlab import prepared, write_hdf5

RATE = 20
DEEP = ["MD", "PFCu", "PFCd", "dHC", "vHCd", "CA3", "REF"]
UPPER = ["PFCu", "dHC", "vHCu", "MD", "CA3"]
FILES = {
    "303_xxx_Day1_Sal": DEEP,
    "303_xxx_Day2_Amph": DEEP,
    "305_xxx_Day1_SalT": DEEP,
    "336_xxx_Day1_CLZ1": DEEP,
    "340_xxx_Day1_CLZ3": UPPER,
    "340_xxx_Day2_SCH": UPPER,
    "591_xxx_Day1_Raclo": DEEP,
}
LATE = "591_xxx_Day1_Raclo"
INJECTED = 61.0


def miniature(
    folder: Path, files: Mapping[str, list[str]] = FILES, *, rate: int = RATE, minutes: int = 46
) -> Path:
    """A minute, the injection, and 46 minutes (of one only 40); each channel at its own place."""
    rng = np.random.default_rng(0)
    places = {name: 100 * place for place, name in enumerate(sorted({*DEEP, *UPPER}))}
    for name, channels in files.items():
        n_samples = rate * round(INJECTED + 60 * min(40 if name == LATE else 46, minutes))
        raw = rng.normal(0, 40, (n_samples, len(channels)))
        raw += [places[channel] for channel in channels]
        times = {"Pre_Inj_Start": 1, "Post_Inj_Start": round(INJECTED * rate) + 1}
        ephys = {"RawData": raw, "srate": rate, "ChnList": channels, "TimeStamps": times}
        write_hdf5(folder / f"{name}.mat", {"Ephys": ephys | {"MouseID": name[:3]}})
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniature(tmp_path_factory.mktemp("da"))


def test_forty_minutes_have_their_drug(folder: Path, tmp_path: Path) -> None:
    task = load_task("da-pharmaco", folder)
    corpus = prepared(task, tmp_path / "corpus", sfreq=RATE)
    assert set(corpus.recordings["species"]) == {"mouse"}
    windows = cut_windows(task, corpus)
    for name in FILES:
        own = windows.table[windows.table["recording"].str.endswith(f"{name}.mat")]
        n_windows = 35 if name == LATE else 40
        first = round((INJECTED + 300) * RATE)
        assert own["start"].tolist() == [first + 60 * RATE * k for k in range(n_windows)]
        drug = name.rpartition("_")[2]
        assert task.labels.classes is not None
        assert set(own["label"]) == {task.labels.classes[drug]}
    (left,) = windows.left_out.itertuples()
    assert (left.n_windows, left.reason) == (5, "it reaches beyond the recording")
    assert set(windows.table["label"]) == set(task.classes)


def test_regions_are_read_by_the_wire_that_is_there(folder: Path, tmp_path: Path) -> None:
    task = load_task("da-pharmaco", folder)
    corpus = prepared(task, tmp_path / "corpus", sfreq=RATE)
    original = corpus.recordings.set_index("subject")["original_ch_names"]
    assert set(map(tuple, corpus.recordings["ch_names"])) == {("PFC", "dHC", "vHC", "MD", "CA3")}
    assert list(original["336"]) == ["PFCd", "dHC", "vHCd", "MD", "CA3"]
    assert list(original["340"].iloc[0]) == ["PFCu", "dHC", "vHCu", "MD", "CA3"]
    for name, places in {"336": [2, 5, 6, 1, 0], "340": [3, 5, 7, 1, 0]}.items():
        table = cut_windows(task, corpus).table
        (window,) = corpus.windows_at(table[table["subject"] == name][:1], 60)
        np.testing.assert_allclose(window.signal.mean(axis=1), np.multiply(100, places), atol=10)


def test_the_published_split() -> None:
    task = load_task("da-pharmaco")
    animals = ["303", "304", "305", "336", "340", "518", "530", "574", "587", "591"]
    (fold,) = task.folds(animals, [None] * 10, validation_share=0.2, seed=0)
    assert [len(part) for part in (fold.train, fold.validation, fold.test)] == [6, 2, 2]


@pytest.mark.parametrize(
    ("name", "n_injections", "message"),
    [
        ("Amph", 1, "does not say the treatment"),
        ("303", 1, "does not say the treatment"),
        ("x_Day2_Amph", 1, r"does not say the treatment; call it ANIMAL_\.\.\._TREATMENT"),
        ("303_Day2_Amph", 0, "has 0 injections"),
        ("303_Day2_Amph", 2, "has 2 injections"),
    ],
)
def test_files_that_do_not_say_what_was_injected(
    name: str, n_injections: int, message: str
) -> None:
    with pytest.raises(BergerError, match=message):
        read(Path(f"{name}.mat"), [Annotation(1.0, 0.0, "event")] * n_injections)


def test_a_treatment_that_is_not_known_is_refused(folder: Path, tmp_path: Path) -> None:
    task = load_task("da-pharmaco", tmp_path)
    source = folder / "340_xxx_Day1_CLZ3.mat"
    (tmp_path / "340_xxx_Day3_Halo.mat").write_bytes(source.read_bytes())
    corpus = prepared(task, tmp_path / "corpus", sfreq=RATE)
    with pytest.raises(BergerError, match=r"Halo\.mat at .* 'Halo' is not in labels\.classes"):
        cut_windows(task, corpus)
