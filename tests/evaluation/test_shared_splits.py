"""People who are learned from and tested: told everywhere, and no trial on two sides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

from berger import create_model, open_corpus
from berger.corpus import prepare
from berger.errors import BergerError
from berger.evaluation.baselines import BAND_POWER, CHANCE
from berger.evaluation.decoding import AdaptationConfig, adapt
from berger.evaluation.decoding import format_results as adapted_table
from berger.evaluation.matrix import evaluate, format_results
from berger.evaluation.plan import EvaluationConfig
from berger.models import SpecHiNetConfig
from berger.preprocessing import PreprocessingConfig
from berger.reports import build_report
from berger.tasks import cut_windows, load_task
from tests.conftest import TINY_MODEL
from tests.evaluation.test_within_subject import N_CUES, write_days
from tests.reports.page import Page

SPLITS: dict[str, dict[str, Any]] = {
    "days": {"people": "shared"},
    "alone": {"people": "each alone"},
    "halves": {"by": "trial", "train": ["1-4"], "test": ["5-8"]},
    "strangers": {"by": "k-fold"},
}
BY_DAY = {
    "by": "file name",
    "pattern": r"_(?P<part>\d)\.edf$",
    "parts": {"0": "train", "1": "test"},
}
TESTED_ON = {
    "days": "people also learned from",
    "alone": "within subject",
    "halves": "people also learned from",
    "strangers": "strangers",
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three people on two days, the corpus of them, and tasks by day, by trial and by person."""
    folder = tmp_path_factory.mktemp("shared")
    for person in ("p1", "p2", "p3"):
        write_days(folder / "raw", person, 2)
    pattern = r"(?P<subject>p\d)_"
    for name, split in SPLITS.items():
        task = {
            "name": name,
            "recordings": ["raw/*.edf"],
            "subject_pattern": pattern,
            "labels": {"from": "annotations", "classes": {"a": "a", "b": "b"}},
            "window_seconds": 2,
            "split": split if "by" in split else BY_DAY | split,
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(task))
    config = PreprocessingConfig(
        sfreq=100, highpass=1, lowpass=40, max_amplitude=None, subject_pattern=pattern
    )
    prepare([folder / "raw"], folder / "corpus", config, progress=False)
    torch.manual_seed(0)
    model = create_model(SpecHiNetConfig.model_validate(TINY_MODEL))
    model.save_checkpoint(folder / "stranger")
    model.save_checkpoint(folder / "known", {"subjects": {"train": ["p1"], "validation": []}})
    return folder


@pytest.fixture(scope="module")
def evaluation(study: Path) -> Path:
    tasks = {
        name: {"task": str(study / f"{name}.yaml"), "corpus": str(study / "corpus")}
        for name in SPLITS
    }
    config = {
        "models": {
            "known": {"checkpoint": str(study / "known")},
            "made": {"pretraining": "spechinet-demo"},
        },
        "adaptations": {"probe": {"penalties": [0.01]}},
        "tasks": tasks,
        "baselines": [CHANCE, BAND_POWER],
        "penalties": [0.01],
        "seeds": [0],
        "n_folds": 3,
    }
    out = study / "evaluation"
    # of people of the folds nobody is left to pretrain on, and "strangers" has no second person
    evaluate(EvaluationConfig.model_validate(config), out, device="cpu", quiet=True)
    return out


def test_no_trial_is_on_two_sides(evaluation: Path, study: Path) -> None:
    plan = json.loads((evaluation / "plan.json").read_text())
    assert [len(plan["folds"][name]["0"]) for name in SPLITS] == [1, 3, 1, 3]
    predictions = pd.read_parquet(evaluation / "predictions.parquet")
    for name in ("days", "alone", "halves"):
        task = load_task(study / f"{name}.yaml")
        table = cut_windows(task, open_corpus(study / "corpus")).table
        assert table["trial"].nunique() == len(table) == 6 * N_CUES
        tested: set[tuple[str, float]] = set()
        for fold in plan["folds"][name]["0"]:
            assert fold["unit"] == "trial"
            parts = [set(fold[part]) for part in ("train", "validation", "test")]
            assert sum(map(len, parts)) == len(set().union(*parts))
            own = table[table["trial"].isin(parts[2])]
            tested |= {*zip(own["recording"], own["start"] / 100, strict=True)}
        found = predictions[(predictions["task"] == name) & (predictions["title"] == CHANCE)]
        assert {*zip(found["recording"], found["start"], strict=True)} == tested
        assert len(tested) == 3 * N_CUES


def test_every_table_says_whom_it_tests(evaluation: Path) -> None:
    for name in ("cells", "predictions", "results", "comparisons"):
        table = pd.read_parquet(evaluation / f"{name}.parquet")
        told = table.groupby("task")["tested_on"].agg(lambda all_of: "; ".join(sorted({*all_of})))
        assert {*told.items()} <= {*TESTED_ON.items()}, name
    results = pd.read_parquet(evaluation / "results.parquet")
    overall = results[results["seed"].isna() & (results["title"] == BAND_POWER)]
    assert set(overall["task"]) == {*SPLITS}
    assert set(overall["interval_over"]) == {"people"}
    assert set(overall["n_subjects"]) == {3}
    shown = format_results(evaluation)
    assert shown.count("days (people also learned from)") == 2
    assert shown.count("alone (within subject)") == 2
    assert "strangers (" not in shown


def test_who_was_seen_or_would_be_pretrained_on_is_refused(evaluation: Path) -> None:
    cells = pd.read_parquet(evaluation / "cells.parquet")
    reasons = cells[cells["fold"] == 1].set_index(["task", "model"])["reason"]
    for name in ("days", "alone", "halves"):
        assert f"has seen p1 of the people that {name} tests on" in reasons[name, "known"]
        assert reasons[name, "made"] == (
            f"made is pretrained on other people in each fold, but the folds of {name} are of "
            "trials, whose people are in several parts; give a checkpoint or fresh weights."
        )


def test_every_report_says_so(evaluation: Path) -> None:
    page = Page(build_report(evaluation))
    assert "The people tested were also learned from, by other recordings or trials" in page.text
    assert "all, people also learned from" in page.text
    assert "all, within subject" in page.text
    assert "The people of days who were tested were also learned from, by other" in page.text
    assert (
        "The people of halves who were tested were also learned from, by other trials" in page.text
    )
    assert "each person of alone was tested by what was learned from other recordings" in page.text
    assert "Folds of strangers are by person" in page.text


@pytest.mark.parametrize("name", ["halves", "alone"])
def test_an_adaptation_says_so(study: Path, tmp_path: Path, name: str) -> None:
    results = adapt(
        AdaptationConfig(penalties=(0.01,), baselines=(CHANCE,)),
        study / "stranger",
        load_task(study / f"{name}.yaml"),
        tmp_path / "out",
        corpus_folder=study / "corpus",
        device="cpu",
        quiet=True,
    )
    assert set(results["tested_on"]) == {TESTED_ON[name]}
    assert adapted_table(results).count(f", {TESTED_ON[name]}") == 2
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["task"]["tested_on"] == TESTED_ON[name]
    page = Page(build_report(tmp_path / "out"))
    assert f"all, {TESTED_ON[name]}" in page.text
    assert "bootstrap over people" in page.text
    assert "without labels of that person" not in page.text
    words = {
        "halves": "was tested on people who were also learned from (3 people), in 1 fold by trial",
        "alone": "was tested within subject, 3 people each alone, in 3 folds by trial",
    }[name]
    assert words in page.text
    assert "chosen by the validation trials" in page.text


def test_a_class_that_no_training_trial_has(study: Path, tmp_path: Path) -> None:
    content = yaml.safe_load((study / "halves.yaml").read_text())
    content["split"] = {"by": "trial", "train": [1, 3, 5], "test": [2, 4, 6, 7, 8]}
    (tmp_path / "odd.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(BergerError, match=r"^p1 and 2 others: when .* the trials to train on have"):
        adapt(
            AdaptationConfig(penalties=(0.01,), baselines=()),
            study / "stranger",
            load_task(tmp_path / "odd.yaml"),
            tmp_path / "out",
            corpus_folder=study / "corpus",
            device="cpu",
            quiet=True,
        )


def test_windows_of_two_trials_may_not_overlap(study: Path, tmp_path: Path) -> None:
    content = yaml.safe_load((study / "halves.yaml").read_text())
    del content["window_seconds"]
    content["window"] = {"from": "event", "tmin": 0, "tmax": 3.5}  # cues are 3 s apart
    corpus = open_corpus(study / "corpus")
    (tmp_path / "wide.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(
        BergerError, match=r"windows of the trials raw/p1_0\.edf#1 and .*#2 overlap"
    ):
        cut_windows(load_task(tmp_path / "wide.yaml"), corpus)
    content["split"] = BY_DAY | {"people": "shared"}
    (tmp_path / "wide.yaml").write_text(yaml.safe_dump(content))
    assert "trial" not in cut_windows(load_task(tmp_path / "wide.yaml"), corpus).table
    content["window"]["tmax"] = 3
    content["split"] = SPLITS["halves"]
    (tmp_path / "wide.yaml").write_text(yaml.safe_dump(content))
    assert len(cut_windows(load_task(tmp_path / "wide.yaml"), corpus).table) == 6 * N_CUES
