"""TUAB, on a miniature of both of its trees."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest

from berger.corpus import Corpus
from berger.errors import BergerError
from berger.tasks import cut_windows, find_data, load_task
from tests.tasks.catalogue.made import corpus_of, folds_of, write_edf

TWENTY_THREE = "FP1 FP2 F3 F4 C3 C4 P3 P4 O1 O2 F7 F8 T3 T4 T5 T6 A1 A2 FZ CZ PZ T1 T2"
LABELS = [f"EEG {name}-REF" for name in TWENTY_THREE.split()] + ["EEG EKG1-REF", "PHOTIC-REF"]
BANANA = (
    "Fp1-F7 F7-T7 T7-P7 P7-O1 Fp2-F8 F8-T8 T8-P8 P8-O2 "
    "Fp1-F3 F3-C3 C3-P3 P3-O1 Fp2-F4 F4-C4 C4-P4 P4-O2"
)
# aaaaaaac is in both classes, as 54 people are
FILES = {
    "train/normal/01_tcp_ar/aaaaaaab_s001_t000.edf": 21,
    "train/normal/01_tcp_ar/aaaaaaac_s001_t000.edf": 20,
    "train/abnormal/01_tcp_ar/aaaaaaac_s002_t001.edf": 20,
    "train/abnormal/01_tcp_ar/aaaaaaad_s001_t000.edf": 30,
    "train/abnormal/01_tcp_ar/aaaaaaae_s001_t000.edf": 9,  # shorter than a window
    "eval/normal/01_tcp_ar/aaaaaaaf_s003_t000.edf": 10,
    "eval/abnormal/01_tcp_ar/aaaaaaag_s001_t000.edf": 20,
}


def miniature(folder: Path) -> Path:
    folder = folder / "v3.0.1"
    for name, seconds in FILES.items():
        rate = 256 if "aaaaaaad" in name else 250
        write_edf(folder / "edf" / name, dict.fromkeys(LABELS, rate), seconds)
    (folder / "AAREADME.txt").write_text("as distributed")
    (folder / "edf/train/normal/01_tcp_ar/._aaaaaaab_s001_t000.edf").write_bytes(b"AppleDouble")
    return folder


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniature(tmp_path_factory.mktemp("tuab"))


@pytest.fixture(scope="module")
def corpus(release: Path) -> Corpus:
    return corpus_of(load_task("tuab"), release, release.parent / "corpus")


def test_windows_of_10_s_have_the_label_of_the_folder(release: Path, corpus: Corpus) -> None:
    task = load_task("tuab", release)
    cut = cut_windows(task, corpus)
    found = [(row.recording, row.subject, row.start, row.label) for row in cut.table.itertuples()]
    assert found == [
        (name, name.rpartition("/")[2][:8], 1000 * number, name.split("/")[1])
        for name, seconds in sorted(FILES.items())
        for number in range(seconds // 10)  # what is left at the end is dropped
    ]
    assert cut.left_out.to_dict("records") == [
        {
            "recording": "train/abnormal/01_tcp_ar/aaaaaaae_s001_t000.edf",
            "n_windows": 1,
            "reason": "the recording is shorter than a window",
        }
    ]


def test_sixteen_bipolar_channels(corpus: Corpus) -> None:
    assert {tuple(names) for names in corpus.recordings["ch_names"]} == {tuple(BANANA.split())}


def test_the_folder_eval_is_the_test_and_nobody_is_on_two_sides(
    release: Path, corpus: Corpus
) -> None:
    task = load_task("tuab@given", release)
    (fold,) = folds_of(task, corpus)
    assert fold.test == ("aaaaaaaf", "aaaaaaag")
    assert sorted((*fold.train, *fold.validation)) == ["aaaaaaab", "aaaaaaac", "aaaaaaad"]
    assert len(fold.validation) == 1


@pytest.mark.parametrize("place", ["..", ".", "edf"])
def test_the_folder_may_be_given_at_three_places(release: Path, place: str) -> None:
    task = load_task("tuab")
    assert len(find_data(task, "tuab", (release / place).resolve())) == len(FILES)


def test_the_older_tree_and_the_variants(tmp_path: Path) -> None:
    files = [
        f"edf/{part}/{kind}/01_tcp_ar/101/000101{number}/s001_2013_01_09/000101{number}_s001_t001.edf"
        for number, (part, kind) in enumerate(
            itertools.product(["train", "eval"], ["normal", "abnormal"]), start=94
        )
    ]
    for name in files:
        write_edf(tmp_path / name, dict.fromkeys(LABELS, 250), 10)
    task = load_task("tuab+labram@given", tmp_path)
    corpus = corpus_of(task, tmp_path, tmp_path / "corpus")
    table = cut_windows(task, corpus).table
    assert dict(zip(table["subject"], table["label"], strict=True)) == {
        "00010194": "normal",
        "00010195": "abnormal",
        "00010196": "normal",
        "00010197": "abnormal",
    }
    assert len(corpus.recordings["ch_names"][0]) == 23
    with pytest.raises(BergerError, match="was not prepared with the bipolar channels that task"):
        cut_windows(load_task("tuab", tmp_path), corpus)
    assert load_task("tuab+electrodes").bipolar is None


def test_recordings_that_do_not_fit(release: Path, tmp_path: Path) -> None:
    folder = tmp_path / "edf"
    shutil.copytree(release / "edf" / "train", folder / "train")
    lacking = folder / "train/normal/01_tcp_ar/aaaaaaab_s001_t000.edf"
    write_edf(lacking, {name: 250 for name in LABELS if "T5" not in name}, 20)
    task = load_task("tuab@given", folder)
    corpus = corpus_of(task, folder, tmp_path / "corpus")
    (reason,) = corpus.recordings.loc[corpus.recordings["status"] != "ok", "reason"]
    assert reason.endswith("lacks T5") or "P7" in reason
    with pytest.raises(BergerError, match="name does not say in which part of the split"):
        folds_of(task, corpus)  # from the folder train alone, names do not say that it is that
