"""What a user may give of every task by mistake: one sentence, and nothing half done.

Beside this each task's own tests have the faults of its own files.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import edfio
import h5py
import numpy as np
import openpyxl
import pytest
import scipy.io

from berger.cli import main
from berger.recordings import Annotation
from berger.tasks import catalogue, find_data, load_task
from tests.recordings.writing import write_neuroscan
from tests.tasks.catalogue import test_bcic_iv, test_da_pharmaco
from tests.tasks.catalogue.made import write_hypnogram
from tests.tasks.catalogue.roads import ROADS

Refused = Callable[..., str]


@pytest.fixture
def refused(
    adapted_of: Callable[[str, str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Refused:
    """Give data to `berger adapt`, prepared already or not; return what it says as it refuses."""

    def give(name: str, data: Path, *, prepared: bool) -> str:
        folder = adapted_of(name, "specmoe")
        capsys.readouterr()
        out = tmp_path / "out"
        words = ["adapt", "probe", "--checkpoint", str(folder / "pretrained"), "--data", str(data)]
        words += ["--task", f"{name}{ROADS[name].split}", "--out", str(out), "--quiet"]
        words += ["--corpus", str(folder / "run" / "corpus")] if prepared else []
        with pytest.raises(SystemExit) as ended:
            main([*words, "--device", "cpu", "--workers", "1"])
        assert ended.value.code == 2
        said = capsys.readouterr().err
        *parts, said = said.splitlines(keepends=True)
        # a miniature is a part of the data set, which is told before any work
        assert [bool(re.search(r": has \d+ of the [\d,]+ recordings of ", p)) for p in parts] == (
            [True] * len(parts)
        )
        assert len(parts) <= 1
        assert said.startswith("berger: ")
        assert {path.name for path in out.glob("*")} <= {"corpus"}  # which is whole, or staged
        return said

    return give


@pytest.fixture
def copy_of(data_of: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """Copy a miniature by links: files are replaced, never written into."""

    def copy(name: str) -> Path:
        source = data_of(name)
        shutil.copytree(source, tmp_path / source.name, copy_function=os.link)
        return tmp_path / source.name

    return copy


def replace(pattern: str, old: str, new: str) -> Callable[[Path], None]:
    """Change the text of one file."""

    def change(data: Path) -> None:
        path = min(data.glob(pattern))
        text = path.read_text()
        assert old in text
        path.unlink()
        path.write_text(text.replace(old, new))

    return change


def a_ninth_word(data: Path) -> None:
    """Change the first word of the first person."""
    path = min(data.glob("Test set/*.xlsx"))
    book = openpyxl.load_workbook(path)
    word = book["Track3"]["C4"]
    assert word.value in range(1, 6)
    word.value = 9
    path.unlink()
    book.save(path)


@pytest.mark.parametrize("name", catalogue())
def test_a_folder_of_another_version(name: str, refused: Refused, tmp_path: Path) -> None:
    data = tmp_path / "converted"
    (data / "eeg_raw_data" / "1").mkdir(parents=True)
    for other in ("features.npy", "eeg_raw_data/1/1_20160518.fif", "A01T.gdf", "README.txt"):
        (data / other).write_bytes(b"0")
    said = refused(name, data, prepared=False)
    assert f"{data}: nothing there fits {load_task(name).recordings[0]}" in said
    assert f"give the folder that holds the recordings of {name} by --data" in said
    assert "nothing there fits" in refused(name, tmp_path / "nowhere", prepared=False)


LABEL_FILES = {
    "bcic2020-3": ("Test set/*.xlsx", r"is distributed with it; fetch .*Sheet_Test\.xlsx"),
    "chb-mit": ("chb02/*.txt", r"chb02-summary\.txt: cannot be read"),
    "hmc": ("recordings/SN002*.txt", r"SN002_sleepscoring\.txt: cannot be read"),
    "isruc": ("subgroupI/41/41_1.txt", r"41\.rec: no file \{stem\}_1\.txt lies beside it"),
    "kaggle-ern": ("TrainLabels.csv", r"TrainLabels\.csv, which has the labels, lies neither"),
    "maco": ("labels.csv", r"labels\.csv: cannot be read"),
    "mouse-sleep": ("sub-038/eeg/*events.tsv", r"no file \{stem\}_events\.tsv lies beside it"),
    "seed-vig": ("perclos_labels/4_20151105*", r"its labels, .*4_20151105_noon\.mat, are missing"),
    "siena": ("PN01/*.txt", r"Seizures-list-PN01\.txt: cannot be read"),
    "sleep-edfx": ("sleep-cassette/SC4191*Hyp*", r"no file SC4191\?\?-Hypnogram\.edf lies beside"),
    "tuev": ("edf/eval/099/*.rec", r"pled_099_a_1\.rec, which has its events, does not lie beside"),
}
WITHOUT_LABEL_FILES = {  # within recordings, by their names, or known for all
    *("bcic-iv-2a", "bcic-iv-2b", "da-pharmaco", "eegmat", "eegmmidb", "physionet-mi"),
    *("physionet-p300", "seed-iv", "seed-v", "tuab"),
}


@pytest.mark.parametrize("name", LABEL_FILES)
def test_a_label_file_that_is_missing(
    name: str, refused: Refused, copy_of: Callable[[str], Path]
) -> None:
    pattern, message = LABEL_FILES[name]
    data = copy_of(name)
    (path,) = data.glob(pattern)
    path.unlink()
    said = refused(name, data, prepared=True)
    assert re.search(message, said), said


def test_of_every_task_it_is_known_where_its_labels_are() -> None:
    assert {*LABEL_FILES, *WITHOUT_LABEL_FILES} == {*catalogue()}


def stages_of_others(data: Path) -> None:
    path = min(data.glob("**/*-Hypnogram.edf"))
    path.unlink()
    write_hypnogram(path, [Annotation(0, 30, "Sleep stage 7")], start="16:13:00")


def a_fifth_class(data: Path) -> None:
    path = min(data.glob("*.mat"))
    path.unlink()
    n_channels = 25 if path.name.startswith("A") else 6
    cell = test_bcic_iv.RUN | {"y": [1, 2, 2, 5]}
    test_bcic_iv.write_cells(path, [test_bcic_iv.NO_TRIALS, cell], n_channels, 30)


def half_a_share_too_much(data: Path) -> None:
    path = min((data / "perclos_labels").glob("10_*"))
    path.unlink()
    scipy.io.savemat(path, {"perclos": [[0.5], [1.5], [0.1]]})


WRONG_LABELS = {
    "bcic-iv-2a": (a_fifth_class, r"A01E\.mat at 56 s: '5' is not in labels\.classes"),
    "bcic-iv-2b": (a_fifth_class, r"B01T\.mat at \d+ s: '5' is not in labels\.classes"),
    "bcic2020-3": (a_ninth_word, r"line \d+ has '1' and '9' of"),
    "chb-mit": (
        replace("chb01/*.txt", "31 seconds", "11 seconds"),
        r"summary\.txt: line \d+ has a seizure from 12 to 11 s",
    ),
    "hmc": (replace("*/SN001*.txt", "stage N1", "stage 9"), r"at 30 s: 'Sleep stage 9' is not in"),
    "isruc": (
        replace("*I/1/1_1.txt", "5", "9"),
        r"1_1\.txt at 150 s: '9' is not in labels",
    ),
    "kaggle-ern": (
        replace("TrainLabels.csv", "_FB002,1", "_FB002,3"),
        r"Data_S02_Sess01\.csv at .* s: '3' is not in labels\.classes",
    ),
    "maco": (replace("labels.csv", ",4", ",7"), r"at 90\.5 s: '7' is not in labels\.classes"),
    "mouse-sleep": (
        replace("sub-001/*/*events.tsv", "\t3\n", "\t9\n"),
        r"events\.tsv at 24 s: '9' is not in labels\.classes",
    ),
    "seed-vig": (
        half_a_share_too_much,
        r"_noon\.mat: perclos 2 is 1\.5, no share",
    ),
    "siena": (
        replace("PN00/*.txt", "19.39.48", "25.39.48"),
        r"Seizures-list-PN00\.txt: line 11 has '25\.39\.48', which is no time of day",
    ),
    "sleep-edfx": (stages_of_others, r"at 0 s: 'Sleep stage 7' is not in labels\.classes"),
    "tuev": (replace("edf/eval/099/*.rec", ",2", ",9"), r"at 11 s: '9' is not in labels\.classes"),
}


@pytest.mark.parametrize("name", WRONG_LABELS)
def test_labels_out_of_range(name: str, refused: Refused, copy_of: Callable[[str], Path]) -> None:
    change, message = WRONG_LABELS[name]
    data = copy_of(name)
    change(data)
    said = refused(name, data, prepared=True)
    assert re.search(message, said), said


Array = np.ndarray[Any, Any]
NOISE = np.random.default_rng(0).normal(0, 20, (62, 50))


def edited(path: Path, name: str, change: Callable[[Array, str], Array]) -> None:
    """Write a MATLAB file again, with other signals; `change` is told in which field one stands."""
    if h5py.is_hdf5(path):
        whole = path.read_bytes()
        path.unlink()
        path.write_bytes(whole)
        with h5py.File(path, "r+") as file:
            group = file["epo_test"]
            new = change(group["x"][()].T, "x").T
            del group["x"]
            group["x"] = new
        return
    content = {key: value for key, value in scipy.io.loadmat(path).items() if key[:2] != "__"}
    for key, value in content.items():
        if name == "seed-iv":
            content[key] = change(value, key)
        elif name == "seed-vig" and key == "EEG":
            value["data"][0, 0] = change(value["data"][0, 0], "data")
        elif name == "bcic2020-3" and key.startswith("epo_"):
            value["x"][0, 0] = change(value["x"][0, 0], "x")
        elif name.startswith("bcic-iv"):
            for cell in value.flat:
                cell["X"][0, 0] = change(cell["X"][0, 0], "X")
    path.unlink()
    scipy.io.savemat(path, content)


def shortened(path: Path, name: str) -> None:
    """Write a recording again, with less than a window of it."""
    kind = path.suffix
    if kind in (".edf", ".rec"):
        edf = edfio.read_edf(path)
        edf.slice_between_seconds(0, 5 if load_task(name).window_seconds > 5 else 1)
        path.unlink()
        edf.write(path)
    elif kind == ".csv":
        lines = path.read_text().splitlines(keepends=True)
        path.unlink()
        path.write_text("".join(lines[:101]))
    elif kind == ".cnt":
        path.unlink()
        write_neuroscan(path, "<i2", load_task(name).facts.ch_names, NOISE, 100)
    elif name == "da-pharmaco":
        path.unlink()
        files = {path.stem: test_da_pharmaco.DEEP}
        test_da_pharmaco.miniature(path.parent, files, rate=256, minutes=1)
    else:
        in_last = name == "seed-iv"
        edited(path, name, lambda x, _: x[..., :100] if in_last else x[:100])


TOO_SHORT = (
    r"files could be prepared: [^:]+: (lasts \d\.\d s, less than|has no gap-free piece longer than"
    r"|nothing is left of 1\.2 s)|left out since (the recording is shorter than a window"
    r"|it reaches beyond the recording)|no usable stretch holds a window of \d+ s"
    r"|does not begin in chb|does not lie in PN00-1"
)


@pytest.mark.parametrize("name", catalogue())
def test_recordings_that_are_shorter_than_a_window(
    name: str, refused: Refused, copy_of: Callable[[str], Path]
) -> None:
    data = copy_of(name)
    for path in find_data(load_task(name), name, data):
        shortened(path, name)
    said = refused(name, data, prepared=False)
    assert re.search(TOO_SHORT, said), said


def relabelled(path: Path, name: str) -> None:
    """Write a recording again with other channels, or one less where they have no names."""
    kind = path.suffix
    if kind in (".edf", ".rec"):
        content = bytearray(path.read_bytes())
        n_signals = int(content[252:256])
        for place in range(n_signals):
            label = content[256 + 16 * place : 272 + 16 * place]
            if not label.startswith(b"EDF Annotations"):
                content[256 + 16 * place : 272 + 16 * place] = f"X{place}".ljust(16).encode()
        path.unlink()
        path.write_bytes(content)
    elif kind == ".csv":
        text = path.read_text()
        path.unlink()
        path.write_text(text.replace("Fp1", "X1", 1))
    elif kind == ".cnt":
        path.unlink()
        names = [f"X{place}" for place in range(62)]
        write_neuroscan(path, "<i2", names, NOISE, 100)
    elif name == "da-pharmaco":
        path.unlink()
        test_da_pharmaco.miniature(
            path.parent, {path.stem: ["MD", "PFCu", "REF"]}, rate=256, minutes=2
        )
    elif name == "seed-iv":
        edited(path, name, lambda x, _: x[:-1])
    else:
        edited(path, name, lambda x, _: x[:, :-1])


OTHER_CHANNELS = (
    r"files could be prepared: [^:]+: (lacks \w|the layout has \d+ names for \d+ channels"
    r"|has nothing called 'Fp1'|has no EEG channel, only X0|.* describes EEG1, EMG, which the file)"
)


@pytest.mark.parametrize("name", catalogue())
def test_other_channels(name: str, refused: Refused, copy_of: Callable[[str], Path]) -> None:
    data = copy_of(name)
    for path in find_data(load_task(name), name, data):
        relabelled(path, name)
    said = refused(name, data, prepared=False)
    assert re.search(OTHER_CHANNELS, said), said
