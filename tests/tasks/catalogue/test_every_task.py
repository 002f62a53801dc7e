"""Every task of the catalogue on its whole road: prepared, adapted to, evaluated, by both families.

What is made by script is noise, so that scores mean nothing here; what is asked is whether all who
should be tested are, of which classes, and with finite numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from berger import load_checkpoint, open_corpus
from berger.tasks import catalogue, load_task
from tests.tasks.catalogue.roads import FAMILIES, RATES, ROADS, adaptation_for, run


def test_every_task_has_a_road() -> None:
    assert {*ROADS} == {*catalogue()}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", catalogue())
def test_a_task_is_prepared_adapted_to_and_evaluated(
    name: str,
    family: str,
    data_of: Callable[[str], Path],
    adapted_of: Callable[[str, str], Path],
    tmp_path: Path,
) -> None:
    road, data = ROADS[name], data_of(name)
    spelled = f"{name}{road.split}"
    task = load_task(spelled, data)
    folder = adapted_of(name, family)
    checkpoint, adapted = folder / "pretrained", folder / "run"
    method = adaptation_for(road, family)

    corpus = open_corpus(adapted / "corpus")
    ok = corpus.recordings[corpus.recordings["status"] == "ok"]
    assert {*ok["species"].dropna()} == ({"mouse"} if task.species == "mouse" else set())
    assert {*ok["sfreq"]} == {road.sfreq or RATES[family]}
    model = load_checkpoint(adapted / "checkpoint")
    assert (model.classes, model.target) == (
        (task.classes, None) if task.kind == "classification" else ((), str(task.target))
    )

    probe = {"penalties": [0.1]}
    unknown = family == "dare" and road.projected is not None
    content = {
        "models": {family: {"checkpoint": str(checkpoint)}},
        "tasks": {name: {"task": spelled, "data": str(data), "corpus": str(adapted / "corpus")}},
        "adaptations": {"ours": method} | ({"probe": probe} if unknown else {}),
        "baselines": ["chance"],
        "seeds": [0],
    }
    out = tmp_path / "evaluation"
    run("evaluate", content, tmp_path, "--out", str(out))
    cells = pd.read_parquet(out / "cells.parquet")
    reasons = {title: {*rows["reason"]} for title, rows in cells.groupby("title")}
    if unknown:  # what is to be done is said, and doing it works
        (reason,) = reasons.pop(f"{family}, probe")
        assert "the model has no embedding" in reason
        assert "prepare the recordings with ch_names that keep them out" in reason
    assert reasons == {f"{family}, ours": {""}, "chance": {""}}
    told = json.loads((out / "run.json").read_text())["tasks"][name]
    assert (told["species"], told["kind"]) == (task.species, task.kind)
    assert (out / "report.html").is_file()

    predictions = pd.read_parquet(out / "predictions.parquet")
    results = pd.read_parquet(out / "results.parquet")
    for title in reasons:
        own = predictions[predictions["title"] == title]
        assert {*own["subject"]} == {*road.tested}
        (whole,) = results[
            (results["title"] == title) & (results["fold"] == 0) & results["seed"].isna()
        ].to_dict("records")
        assert (whole["n_windows"], whole["n_subjects"]) == (len(own), len(road.tested))
        if task.kind == "regression":
            assert np.isfinite(own[["true_value", "predicted_value"]].to_numpy()).all()
            scores = ["rmse", "r2", "pearson"]
        else:
            columns = [f"score_{label}" for label in task.classes]
            assert [column for column in own if column.startswith("score_")] == columns
            np.testing.assert_allclose(own[columns].sum(axis=1), 1, rtol=1e-5)
            assert {*own["truth"], *own["prediction"]} <= {*task.classes}
            scores = ["balanced_accuracy", "kappa", "brier"]
            if {*own["truth"]} == {*task.classes}:
                scores += ["auroc", "auprc"]
        assert np.isfinite([whole[score] for score in scores]).all()
