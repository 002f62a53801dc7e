"""The matrix: the numbers of `adapt`, whatever fails beside them; continued where it stopped."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from berger import create_model, load_checkpoint, open_corpus
from berger.adaptation.probe import embed_windows
from berger.cli import main
from berger.configuration import differences, load_config
from berger.errors import BergerError
from berger.evaluation import baselines
from berger.evaluation import cells as cells_module
from berger.evaluation.baselines import BAND_POWER, CHANCE
from berger.evaluation.decoding import AdaptationConfig, adapt, read_task
from berger.evaluation.matrix import evaluate, format_results, in_parallel
from berger.evaluation.metrics import score_predictions
from berger.evaluation.plan import Cell, EvaluationConfig
from berger.evaluation.statistics import balanced_accuracy_interval, compare_models
from berger.models import MODELS, Encoder, InputContract, SpecHiNetConfig, SpecMoEConfig
from berger.preprocessing import PreprocessingConfig
from berger.pretraining import PretrainingConfig
from berger.reports import build_report
from berger.tasks import load_task
from tests.conftest import TINY_MODEL, TINY_TASK
from tests.evaluation.test_networks import Products
from tests.reports.page import Page

CLASSES = ("open", "closed")
PREPARATION = {"sfreq": 100, "highpass": 1, "lowpass": 40}
SEEDS, FOLDS = (0, 1), (1, 2, 3)
TITLES = [
    *(CHANCE, BAND_POWER),
    *(
        f"{model}, {adaptation}"
        for model, adaptation in product(("one", "two"), ("weak", "strong"))
    ),
]


def fresh_checkpoint(folder: Path, seed: int) -> Path:
    """A tiny network that has seen nobody."""
    torch.manual_seed(seed)
    create_model(SpecHiNetConfig.model_validate(TINY_MODEL)).save_checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {name: fresh_checkpoint(folder / name, seed) for seed, name in enumerate(("one", "two"))}


@pytest.fixture(scope="module")
def configuration(
    tiny_corpus: Path, checkpoints: dict[str, Path]
) -> Callable[..., EvaluationConfig]:
    """Make the configuration of a small matrix; changes by field."""

    def make(**changes: object) -> EvaluationConfig:
        task = {"task": str(tiny_corpus.parent / "task.yaml"), "corpus": str(tiny_corpus)}
        fields: dict[str, Any] = {
            "models": {name: {"checkpoint": str(path)} for name, path in checkpoints.items()},
            "tasks": {"eyes": task},
            "adaptations": {"weak": {"penalties": [0.01]}, "strong": {"penalties": [0.01, 1.0]}},
            "baselines": [CHANCE, BAND_POWER],
            "penalties": [0.01, 1.0],
            "seeds": SEEDS,
            "n_folds": 3,
        }
        return EvaluationConfig.model_validate(fields | changes)

    return make


@pytest.fixture(scope="module")
def evaluation(
    configuration: Callable[..., EvaluationConfig], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("evaluation") / "out"
    evaluate(configuration(), out, device="cpu", quiet=True)
    return out


def cell_files(out: Path) -> dict[Path, dict[str, Any]]:
    return {path.parent: json.loads(path.read_text()) for path in out.glob("cells/**/cell.json")}


def numbers(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "predictions.parquet")


# laws


def test_every_cell_is_there_once_and_whole(evaluation: Path) -> None:
    cells = pd.read_parquet(evaluation / "cells.parquet")
    keys = [tuple(key) for key in cells[["title", "seed", "fold"]].to_numpy().tolist()]
    assert sorted(keys) == sorted(product(TITLES, SEEDS, FOLDS))
    assert set(cells["status"]) == {"ok"}
    files = cell_files(evaluation)
    assert len(files) == len(cells)
    for folder, facts in files.items():
        own = pd.read_parquet(folder / "predictions.parquet")
        assert sorted(set(own["subject"])) == sorted(facts["test_read"]["people"])
        assert facts["test_read"]["n_windows"] == len(own)
        assert facts["test_read"]["at"].startswith("20")


def test_folds_are_the_same_for_all_and_nobody_is_on_two_sides(evaluation: Path) -> None:
    plan = json.loads((evaluation / "plan.json").read_text())
    predictions = numbers(evaluation)
    for seed in SEEDS:
        folds = plan["folds"]["eyes"][str(seed)]
        assert sorted(who for fold in folds for who in fold["test"]) == plan["people"]["eyes"]
        for number, fold in enumerate(folds, start=1):
            parts = [set(fold[part]) for part in ("train", "validation", "test")]
            assert len(set.union(*parts)) == sum(map(len, parts)) == 6
            rows = predictions[(predictions["seed"] == seed) & (predictions["fold"] == number)]
            asked = rows.groupby("title")[["recording", "start"]].apply(
                lambda own: tuple(map(tuple, own.to_numpy().tolist()))
            )
            assert len(asked) == len(TITLES)
            assert asked.nunique() == 1  # the same windows, in the same order
            assert set(rows["subject"]) == parts[2]
    assert plan["folds"]["eyes"]["0"] != plan["folds"]["eyes"]["1"]


def test_the_numbers_are_those_of_adapt(
    evaluation: Path, checkpoints: dict[str, Path], tiny_corpus: Path, tmp_path: Path
) -> None:
    task = load_task(tiny_corpus.parent / "task.yaml")
    config = AdaptationConfig(
        penalties=(0.01, 1.0), n_folds=3, baselines=(CHANCE, BAND_POWER), seed=1
    )
    out = tmp_path / "adapted"
    adapt(
        config, checkpoints["two"], task, out, corpus_folder=tiny_corpus, device="cpu", quiet=True
    )
    expected = pd.read_parquet(out / "predictions.parquet")
    found = numbers(evaluation).query("seed == 1")
    columns = ["fold", "recording", "start", "truth", "prediction", "score_open", "score_closed"]
    for theirs, ours in (
        ("frozen probe", "two, strong"),
        (BAND_POWER, BAND_POWER),
        (CHANCE, CHANCE),
    ):
        pd.testing.assert_frame_equal(
            found.loc[found["title"] == ours, columns].reset_index(drop=True),
            expected.loc[expected["model"] == theirs, columns].reset_index(drop=True),
        )


def test_results_and_comparisons_follow_from_predictions(evaluation: Path) -> None:
    results = pd.read_parquet(evaluation / "results.parquet")
    predictions = numbers(evaluation)
    overall = results[results["seed"].isna()].set_index("title")
    assert list(overall.index) == TITLES
    assert set(overall["n_seeds"]) == {2}
    for title, own in predictions.groupby("title"):
        scores = [
            score_predictions(part, CLASSES)["balanced_accuracy"] for _, part in own.groupby("seed")
        ]
        assert overall.loc[title, "balanced_accuracy"] == pytest.approx(np.mean(scores))
        single = results[(results["title"] == title) & (results["seed"] == 1)].set_index("fold")
        assert single.loc[0, "balanced_accuracy"] == pytest.approx(scores[1])
        last = own[own["seed"] == 1]
        assert tuple(
            single.loc[0, ["balanced_accuracy_low", "balanced_accuracy_high"]]
        ) == pytest.approx(balanced_accuracy_interval(last, CLASSES, 0))
        for fold in FOLDS:
            part = last[last["fold"] == fold]
            expected = score_predictions(part, CLASSES)["auroc"]
            assert single.loc[fold, "auroc"] == pytest.approx(expected)
        low, value, high = (
            overall.loc[title, f"balanced_accuracy{end}"] for end in ("_low", "", "_high")
        )
        assert low <= value <= high
    comparisons = pd.read_parquet(evaluation / "comparisons.parquet")
    pairs = list(zip(comparisons["model"], comparisons["other"], strict=True))
    assert len(pairs) == len(set(pairs)) == 4 * 2 + 6
    expected = compare_models(
        predictions.assign(model=predictions["title"]), CLASSES, 0, pairs=pairs
    )
    pd.testing.assert_frame_equal(comparisons.drop(columns=["task", "tested_on"]), expected)
    assert all(title in format_results(evaluation) for title in TITLES)


# continuing


def test_it_continues_where_cells_are_lacking(
    evaluation: Path, configuration: Callable[..., EvaluationConfig], tmp_path: Path
) -> None:
    out = tmp_path / "again"
    shutil.copytree(evaluation, out)
    before, kept = numbers(out), cell_files(out)
    gone = out / "cells/eyes/one/weak/seed-1-fold-2"
    shutil.rmtree(gone)
    (out / "features/eyes/two/mean.npy").unlink()
    (gone.parent / ".seed-1-fold-2.abc.part").mkdir()  # as a kill leaves it
    (out / "results.parquet").unlink()
    evaluate(configuration(), out, device="cpu", quiet=True)
    pd.testing.assert_frame_equal(numbers(out), before)
    now = cell_files(out)
    for folder, facts in kept.items():
        assert (now[folder] == facts) == (folder != gone)
    with pytest.raises(BergerError, match=r"begun with another configuration \(n_folds: 3 → 2\)"):
        evaluate(configuration(n_folds=2), out, device="cpu", quiet=True)


def killed(piece: cells_module.Piece) -> tuple[cells_module.Piece, str]:
    """End this process while the second cell is under way."""
    piece.running.parent.mkdir(exist_ok=True)
    piece.running.touch()
    if piece.cell.fold == 2:
        raise KeyboardInterrupt
    piece.running.unlink()
    return piece, ""


def test_an_interrupt_leaves_what_was_finished(
    configuration: Callable[..., EvaluationConfig],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    config = configuration(seeds=[0], models={}, adaptations={}, baselines=[CHANCE])
    whole = cells_module.run_cell

    def interrupted(piece: cells_module.Piece) -> tuple[cells_module.Piece, str]:
        return whole(piece) if piece.cell.fold == 1 else killed(piece)

    monkeypatch.setattr("berger.evaluation.matrix.run_cell", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(config, tmp_path, device="cpu", quiet=True)
    (first,) = cell_files(tmp_path).values()
    assert not (tmp_path / "results.parquet").exists()
    monkeypatch.undo()
    table = evaluate(config, tmp_path, device="cpu", quiet=True)
    assert list(table["status"]) == ["ok"] * 3
    assert first in cell_files(tmp_path).values()


KILLED = """
import os, signal, sys
from pathlib import Path
from berger.cli import main
from berger.evaluation import matrix

cells = Path(sys.argv[3]) / "cells"
work = matrix.run_cell

def run_cell(piece):
    if len([*cells.glob("**/cell.json")]) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return work(piece)

matrix.run_cell = run_cell
main(["evaluate", *sys.argv[1:], "--workers", "1", "--quiet", "--device", "cpu"])
"""


def test_killed_for_real_it_continues_to_the_same_predictions(
    configuration: Callable[..., EvaluationConfig], tmp_path: Path
) -> None:
    config = configuration(seeds=[1], baselines=[CHANCE], adaptations={"weak": {}})
    content = yaml.safe_dump(config.model_dump(mode="json"))
    (tmp_path / "small.yaml").write_text(content)
    out = tmp_path / "killed"
    words = [str(tmp_path / "small.yaml"), "--out", str(out)]
    ended = subprocess.run([sys.executable, "-c", KILLED, *words], capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    before = cell_files(out)
    assert len(before) == 3
    assert not (out / "predictions.parquet").exists()
    main(["evaluate", *words, "--workers", "1", "--quiet", "--device", "cpu"])
    evaluate(config, tmp_path / "whole", device="cpu", quiet=True)
    pd.testing.assert_frame_equal(numbers(out), numbers(tmp_path / "whole"))
    after = cell_files(out)
    assert len(after) == 9
    assert all(after[folder] == facts for folder, facts in before.items())


# what fails


def test_a_bad_checkpoint_is_a_row_and_is_tried_again(
    configuration: Callable[..., EvaluationConfig], checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    models = {
        "bad": {"checkpoint": str(tmp_path / "bad")},
        "one": {"checkpoint": str(checkpoints["one"])},
    }
    config = configuration(
        models=models, adaptations={"weak": {"penalties": [0.01]}}, seeds=[0], baselines=[CHANCE]
    )
    out = tmp_path / "out"
    table = evaluate(config, out, device="cpu", quiet=True).set_index("title")
    assert set(table.loc["bad, weak", "status"]) == {"failed"}
    assert set(table.loc["bad, weak", "reason"]) == {
        f"{tmp_path / 'bad'}: no such folder; give the folder of a checkpoint."
    }
    assert set(table.drop("bad, weak")["status"]) == {"ok"}
    assert "bad, weak" not in set(pd.read_parquet(out / "results.parquet")["title"])
    page = Page(build_report(out))
    assert "no such folder; give the folder of a checkpoint" in page.text
    methods = page.text.partition("Written from the configuration")[2]
    assert "On eyes, one (checkpoint), adapted by weak, and the baselines chance were" in methods
    fresh_checkpoint(tmp_path / "bad", 3)
    assert set(evaluate(config, out, device="cpu", quiet=True)["status"]) == {"ok"}
    fresh_checkpoint(tmp_path / "bad", 4)
    with pytest.raises(BergerError, match="model bad is another than when this evaluation was"):
        evaluate(config, out, device="cpu", quiet=True)


def test_when_everything_fails_it_is_an_error(
    configuration: Callable[..., EvaluationConfig], tmp_path: Path
) -> None:
    config = configuration(
        tasks={"eegmat": {"corpus": str(tmp_path / "nowhere")}}, seeds=[0], baselines=[CHANCE]
    )
    with pytest.raises(BergerError, match=r"all 5 cells failed, the first because: .*nowhere"):
        evaluate(config, tmp_path / "out", device="cpu", quiet=True)


def test_people_seen_in_pretraining_are_refused_or_marked(
    configuration: Callable[..., EvaluationConfig], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    models = {"known": {"checkpoint": str(tiny_checkpoint)}}
    fields = {"models": models, "adaptations": {"weak": {"penalties": [0.01]}}, "seeds": [0]}
    config = configuration(**fields, baselines=[CHANCE])
    table = evaluate(config, tmp_path / "refused", device="cpu", quiet=True).set_index("title")
    assert set(table.loc["known, weak", "status"]) == {"failed"}
    assert all(
        "name it under allow_seen" in reason for reason in table.loc["known, weak", "reason"]
    )
    allowed = configuration(**fields, baselines=[CHANCE], allow_seen=["known"])
    evaluate(allowed, tmp_path / "allowed", device="cpu", quiet=True)
    seen = json.loads((tiny_checkpoint / "provenance.json").read_text())["subjects"]["train"]
    predictions = numbers(tmp_path / "allowed")
    marked = predictions[predictions["seen_in_pretraining"]]
    assert set(marked["title"]) == {"known, weak"}
    assert set(marked["subject"]) == set(seen)
    results = pd.read_parquet(tmp_path / "allowed" / "results.parquet")
    assert results.groupby("title")["seen_in_pretraining"].any().to_dict() == {
        CHANCE: False,
        "known, weak": True,
    }
    page = Page(build_report(tmp_path / "allowed"))
    assert "seen in pretraining" in page.text
    lines = format_results(tmp_path / "allowed").splitlines()
    (everybody,) = (line for line in lines if "(seen in pretraining)" in line)
    (unseen,) = (line for line in lines if "unseen in pretraining" in line)
    assert everybody != unseen


def ends(piece: cells_module.Piece) -> tuple[cells_module.Piece, str]:
    """End the process in another one; in this one, wait until that has happened."""
    ended = piece.out / "ended"
    piece.running.parent.mkdir(parents=True, exist_ok=True)
    piece.running.touch()
    if multiprocessing.parent_process() is not None:
        ended.touch()
        os._exit(9)
    deadline = time.monotonic() + 300
    while not ended.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    piece.running.unlink()
    return piece, ""


def test_a_process_that_ends_takes_only_its_own_cell(tmp_path: Path) -> None:
    pieces = [
        cells_module.Piece(tmp_path, Cell("t", "m", "a", "m, a", 0, fold), "cpu") for fold in (1, 2)
    ]
    failed = in_parallel(ends, pieces, 2, "cell", quiet=True)
    assert [cell.fold for cell in failed] == [2]
    assert "ended abruptly" in failed[pieces[1].cell]


# models that are made on the way


@pytest.mark.parametrize("experts", [1, 2])
def test_pretraining_on_the_folds_own_people(
    experts: int,
    configuration: Callable[..., EvaluationConfig],
    tiny_pretraining: Callable[..., Any],
    tiny_corpus: Path,
    tmp_path: Path,
) -> None:
    steps = {"training__steps": 2, "training__log_every": 1, "training__validate_every": 2}
    config = tiny_pretraining(**steps, experts=experts, max_validation_windows=2)
    pretraining = config.model_dump(mode="json")
    config = configuration(
        models={"made": {"pretraining": pretraining}},
        adaptations={"weak": {"penalties": [0.01]}, "strong": {"penalties": [1.0]}},
        baselines=[],
        seeds=[3],
    )
    table = evaluate(config, tmp_path, device="cpu", quiet=True)
    assert list(table["status"]) == ["ok"] * 6, table["reason"].iloc[0]
    folds = json.loads((tmp_path / "plan.json").read_text())["folds"]["eyes"]["3"]
    runs = sorted((tmp_path / "pretrained/eyes/made").iterdir())
    assert len(runs) == 3
    for run, fold in zip(runs, folds, strict=True):
        record = json.loads((run / "run.json").read_text())
        assert record["seed"] == 3
        assert {*record["subjects"]["train"], *record["subjects"]["validation"]} == {*fold["train"]}
        assert load_checkpoint(run / "checkpoint").provenance["subjects"] == record["subjects"]
        assert len(record.get("experts", [None])) == experts
    assert not numbers(tmp_path)["seen_in_pretraining"].any()


def test_values_are_read_by_fresh_weights_too(
    tiny_recordings: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A regression, and a model that is none yet: its weights are the seed's."""
    monkeypatch.setitem(MODELS, "tiny", SpecHiNetConfig.model_validate(TINY_MODEL))
    folder = tmp_path / "data"
    shutil.copytree(tiny_recordings, folder / "recordings")
    ages = [
        f"{path.name},{20 + 7 * number}"
        for number, path in enumerate(sorted(tiny_recordings.glob("*.edf")))
    ]
    (folder / "ages.csv").write_text("\n".join(["file,age", *ages]))
    (folder / "task.yaml").write_text(
        "name: age\nkind: regression\nrecordings: [recordings/*.edf]\nwindow_seconds: 4\n"
        "labels: {from: table, table: ages.csv, recording: file, column: age}\n"
        "target: {name: age, unit: years}\nn_folds: 3\n"
    )
    config = EvaluationConfig.model_validate(
        {
            "models": {
                "new": {
                    "model": "tiny",
                    "preparation": {"sfreq": 100, "highpass": 1, "lowpass": 40},
                }
            },
            "tasks": {"age": {"task": str(folder / "task.yaml")}},
            "adaptations": {"probe": {"penalties": [1.0]}},
            "baselines": [CHANCE, BAND_POWER],
            "seeds": [0, 1],
        }
    )
    out = tmp_path / "out"
    table = evaluate(config, out, device="cpu", quiet=True)
    assert list(table["status"]) == ["ok"] * 3 * 3 * 2, table["reason"].iloc[0]
    predictions = numbers(out)
    assert "truth" not in predictions
    assert set(predictions["true_value"]) == {20 + 7 * number for number in range(6)}
    overall = pd.read_parquet(out / "results.parquet").query("seed.isna()").set_index("title")
    assert list(overall.index) == [CHANCE, "band power + ridge regression", "new, probe"]
    assert overall["rmse"].notna().all()
    new = predictions[predictions["title"] == "new, probe"]
    first, second = (
        new[new["seed"] == seed].sort_values(["recording", "start"])["predicted_value"].to_numpy()
        for seed in (0, 1)
    )
    assert not np.allclose(first, second)
    features = [np.load(out / "features/age/new" / f"mean-seed-{seed}.npy") for seed in (0, 1)]
    assert not np.allclose(*features)
    torch.manual_seed(1)
    encoder = create_model(MODELS["tiny"])
    assert isinstance(encoder, Encoder)
    read = read_task(
        load_task(folder / "task.yaml"), open_corpus(next((out / "corpora").iterdir()))
    )
    np.testing.assert_array_equal(features[1], embed_windows(encoder, read.windows, "mean"))

    # labels beside the task's file belong to the evaluation as well
    (folder / "ages.csv").write_text("\n".join(["file,age", *ages]).replace(",27", ",28"))
    with pytest.raises(BergerError, match=r"the labels of age, or the windows .* are others"):
        evaluate(config, out, device="cpu", quiet=True)
    assert "RMSE" in format_results(out)
    assert "R²: 1 is perfect" in Page(build_report(out)).text


def test_sites_are_left_out(
    tiny_recordings: Path, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    sites = {"Bonn": (1, 2, 3), "Ulm": (4, 5), "Kiel": (6,)}
    for site, people in sites.items():
        for number in people:
            target = tmp_path / "recordings" / site / f"sub-0{number}_eyes.edf"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(tiny_recordings / target.name, target)
    (tmp_path / "task.yaml").write_text(
        TINY_TASK.replace("recordings/*.edf", "recordings/**/*.edf").replace("n_folds: 3\n", "")
        + "split: {by: site}\nsubject_pattern: '(?P<site>[A-Z][a-z]+)/(?P<subject>sub-\\d+)'\n"
    )
    model = load_checkpoint(checkpoints["one"])
    preparation = PreprocessingConfig.model_validate(PREPARATION)
    model.contract = InputContract(sfreq=100, preprocessing=preparation)
    model.save_checkpoint(tmp_path / "one")
    config = EvaluationConfig.model_validate(
        {
            "models": {"one": {"checkpoint": str(tmp_path / "one")}},
            "tasks": {"eyes": {"task": str(tmp_path / "task.yaml")}},
            "adaptations": {"probe": {"penalties": [0.01]}},
            "baselines": [CHANCE, BAND_POWER],
            "seeds": [0, 1],
        }
    )
    out = tmp_path / "out"
    table = evaluate(config, out, device="cpu", quiet=True)
    assert list(table["status"]) == ["ok"] * 3 * 3 * 2, table["reason"].iloc[0]
    results = pd.read_parquet(out / "results.parquet")
    single = results[results["fold"] > 0]
    assert single.groupby("fold")["site"].unique().map(list).to_dict() == {
        1: ["Bonn"],
        2: ["Kiel"],
        3: ["Ulm"],
    }
    assert results[results["fold"] == 0]["site"].isna().all()
    predictions = numbers(out)
    for fold, site in single[["fold", "site"]].drop_duplicates().itertuples(index=False):
        tested = set(predictions[predictions["fold"] == fold]["subject"])
        assert tested == {f"sub-0{number}" for number in sites[site]}
    page = Page(build_report(out))
    assert "Balanced accuracy at each site" in page.text
    assert all(words in page.text for words in ("Bonn (3 people)", "Kiel (1 person)"))


# configurations


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"models": {"a": {}}}, "give one of checkpoint, model and pretraining"),
        ({"models": {"a": {"model": "nobody"}}}, "no model is called 'nobody'"),
        ({"models": {"baseline": {"model": "dare-nano"}}}, "choose another name"),
        ({"models": {"a/b": {"model": "dare-nano"}}}, "pattern"),
        ({"adaptations": {}}, "models need adaptations"),
        ({"allow_seen": ["three"]}, "allow_seen names 'three'"),
        ({"baselines": ["same network, random weights"]}, "give the model itself"),
        ({"seeds": [1, 1]}, "seeds: one is given twice"),
    ],
)
def test_what_is_wrong_is_named(
    configuration: Callable[..., EvaluationConfig], changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        configuration(**changes)


def test_a_file_for_adapt_must_not_say_what_the_evaluation_says(
    configuration: Callable[..., EvaluationConfig], tmp_path: Path
) -> None:
    (tmp_path / "method.yaml").write_text("pooling: mean\nseed: 3\n")
    with pytest.raises(ValueError, match=r"method\.yaml sets seed, which the evaluation itself"):
        configuration(adaptations={"a": str(tmp_path / "method.yaml")})


def test_the_shipped_one() -> None:
    config = load_config(EvaluationConfig, "eegmat")
    assert list(config.models) == ["spechinet-small", "dare-nano"]
    assert config.adaptations["probe"].strategy == "frozen probe"
    preparation = config.models["dare-nano"].preparation
    assert preparation is not None
    assert preparation.sfreq == 256


def test_the_shipped_one_with_pretraining() -> None:
    config = load_config(EvaluationConfig, "eegmat-pretraining")
    for name, random, shorter in (
        ("specmoe-small", "specmoe-random", "specmoe-pretrained"),
        ("dare-nano", "dare-random", "dare-pretrained"),
    ):
        whole = load_config(PretrainingConfig, name)
        source = config.models[shorter]
        assert source.pretraining is not None
        changed = differences(whole, source.pretraining)
        assert {line.split(":")[0] for line in changed} == {
            "max_validation_windows",
            *(f"training.{key}" for key in ("steps", "validate_every", "save_every")),
            *({"training.batch_size"} if name == "dare-nano" else ()),
        }
        model = MODELS[config.models[random].model or ""]
        assert whole.model == (model.expert if isinstance(model, SpecMoEConfig) else model)
        assert config.models[random].preparation == source.preparation


def test_the_trainings_of_networks_are_logged_and_drawn(
    configuration: Callable[..., EvaluationConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those of one cell in its folder, with the epoch that it kept."""
    monkeypatch.setattr(baselines, "require_braindecode", lambda name: None)
    monkeypatch.setattr(baselines, "build_network", lambda name, *shape: Products(*shape))
    config = configuration(
        models={},
        adaptations={},
        baselines=[CHANCE, "EEGNet"],
        network_training={"epochs": 3},
        seeds=[0],
    )
    out = tmp_path / "out"
    evaluate(config, out, device="cpu", quiet=True)
    logs = sorted(out.glob("cells/**/log.jsonl"))
    assert [path.parent.name for path in logs] == [f"seed-0-fold-{fold}" for fold in FOLDS]
    for path in logs:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert [line["epoch"] for line in lines] == [0, 1, 2]
        choice = json.loads((path.parent / "cell.json").read_text())["choice"]
        assert np.argmin([line["validation_loss"] for line in lines]) == choice
    page = Page(build_report(out))
    assert "Training and validation loss of EEGNet (3 cells) by epoch." in {
        image["alt"] for image in page.all("img")
    }


def test_what_only_the_report_shows_may_change(
    configuration: Callable[..., EvaluationConfig], tiny_corpus: Path, tmp_path: Path
) -> None:
    """A published number that is added later does not make an evaluation another one."""
    task = tmp_path / "task.yaml"
    before = (tiny_corpus.parent / "task.yaml").read_text()
    task.write_text(before)
    tasks = {"eyes": {"task": str(task), "corpus": str(tiny_corpus)}}
    config = configuration(models={}, adaptations={}, baselines=[CHANCE], tasks=tasks, seeds=[0])
    evaluate(config, tmp_path / "out", device="cpu", quiet=True)
    published = "{model: theirs, metric: kappa, value: 0.5, split: by person, source: 'X, Table 1'}"
    task.write_text(f"{before}published: [{published}]\n")
    evaluate(config, tmp_path / "out", device="cpu", quiet=True)
    assert "published, not measured here" in Page(build_report(tmp_path / "out")).text
    task.write_text(before.replace("window_seconds: 4", "window_seconds: 2"))
    with pytest.raises(BergerError, match="task eyes is another"):
        evaluate(config, tmp_path / "out", device="cpu", quiet=True)


def test_the_command(tiny_corpus: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    task = tiny_corpus.parent / "task.yaml"
    (tmp_path / "small.yaml").write_text(
        f"tasks: {{eyes: {{task: {task}, corpus: {tiny_corpus}}}}}\n"
        f"models: {{gone: {{checkpoint: {tmp_path / 'gone'}}}}}\n"
        "adaptations: {probe: probe}\nbaselines: [chance]\n"
    )
    words = ["evaluate", str(tmp_path / "small.yaml"), "--out", str(tmp_path / "out")]
    main([*words, "--seed", "5", "--n_folds", "2", "--workers", "1", "--print-config"])
    shown = EvaluationConfig.model_validate(yaml.safe_load(capsys.readouterr().out))
    assert (shown.seeds, shown.n_folds) == ((5,), 2)
    assert shown.adaptations["probe"].pooling == "mean"  # what the shipped file holds
    main([*words, "--seed", "5", "--n_folds", "2", "--workers", "1", "--quiet"])
    said = capsys.readouterr()
    assert said.err.startswith("berger: 2 of 4 cells failed and are tried again")
    assert "no such folder" in said.err
    page = Page(tmp_path / "out" / "report.html")
    assert "Failed cells" in page.text
    assert any("sortable" in block.get("class", "") for block in page.all("div"))
