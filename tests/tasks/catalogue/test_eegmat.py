from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from berger import open_corpus
from berger.cli import main
from berger.corpus import prepare
from berger.errors import BergerError
from berger.preprocessing import PreprocessingConfig
from berger.tasks import cut_windows, load_task, preparation
from tests.tasks.catalogue.made import counts, write_edf

PEOPLE = [f"Subject{number:02d}" for number in range(36)]


def miniature(folder: Path) -> Path:
    """Six people; 20 s of rest and 15 of arithmetic each."""
    channels = dict.fromkeys(load_task("eegmat").facts.ch_names, 500)
    for person in PEOPLE[:6]:
        write_edf(folder / f"{person}_1.edf", channels, 20)
        write_edf(folder / f"{person}_2.edf", channels, 15)
    (folder / "subject-info.csv").write_text("Subject,Age,Gender\nSubject00,21,F\n")
    return folder


def test_the_people_of_cbramod() -> None:
    task = load_task("eegmat@cbramod")
    (fold,) = task.folds(PEOPLE, [None] * 36, validation_share=0.2, seed=0)
    assert fold.train == tuple(PEOPLE[:28])
    assert fold.validation == tuple(PEOPLE[28:32])
    assert fold.test == tuple(PEOPLE[32:])
    with pytest.raises(BergerError, match=r"Subject24 .* has no recording .*set split\.incomplete"):
        task.folds(PEOPLE[:24], [None] * 24, validation_share=0.2, seed=0)


def test_folds_by_person() -> None:
    task = load_task("eegmat@k-fold")
    folds = task.folds(PEOPLE[:24], [None] * 24, validation_share=0.2, seed=0)
    assert len(folds) == 6
    assert sorted(person for fold in folds for person in fold.test) == PEOPLE[:24]


def test_the_difference_of_the_ear_lobes_is_a_channel(real_data: Path, tmp_path: Path) -> None:
    for variant, n_channels in (("+cbramod", 20), ("+scalp", 19)):
        task = load_task(f"eegmat{variant}")
        config = preparation(task, PreprocessingConfig())
        file = real_data / "eegmat" / "Subject00_2.edf"
        prepare([file], tmp_path / variant, config, progress=False)
        corpus = open_corpus(tmp_path / variant)
        (names,) = corpus.recordings["ch_names"]
        assert len(names) == n_channels
        assert names[:2] == ["Fp1", "Fp2"]
        assert (names[-1] == "EEG A2-A1") == (n_channels == 20)
        if n_channels == 20:
            with pytest.raises(BergerError, match="no window of class rest"):
                cut_windows(task, corpus)


def test_the_24_people_that_are_here(
    real_data: Path, tmp_path: Path, adapted_of: Callable[[str, str], Path]
) -> None:
    """Rest and arithmetic as the description has them, and everybody tested once."""
    out = tmp_path / "adapted"
    words = ["adapt", "probe", "--checkpoint", str(adapted_of("eegmat", "dare") / "pretrained")]
    words += ["--task", "eegmat@k-fold", "--data", str(real_data / "eegmat"), "--out", str(out)]
    main([*words, "--baselines", "[]", "--quiet", "--device", "cpu", "--workers", "1"])
    corpus = open_corpus(out / "corpus")
    assert (len(corpus.recordings), {*corpus.recordings["status"]}) == (48, {"ok"})
    assert corpus.subjects == tuple(PEOPLE[:24])
    table = cut_windows(load_task("eegmat", real_data / "eegmat"), corpus).table
    # 182 s of rest are 36 windows of 5 s, but for Subject04 (170 s) and Subject10 (188 s); 62 s 12
    rest = dict.fromkeys(PEOPLE[:24], 36) | {"Subject04": 34, "Subject10": 37}
    assert counts(table) == {name: {"rest": n, "arithmetic": 12} for name, n in rest.items()}
    predictions = pd.read_parquet(out / "predictions.parquet")
    assert len(predictions) == len(table) == 24 * 48 - 1
    assert predictions.groupby("subject")["fold"].nunique().tolist() == [1] * 24
    (whole,) = pd.read_parquet(out / "results.parquet").query("fold == 0").to_dict("records")
    assert (whole["n_subjects"], whole["n_windows"]) == (24, 1151)
    assert 0 < whole["balanced_accuracy"] < 1
