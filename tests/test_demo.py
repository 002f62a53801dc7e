"""The demo, with fewer and shorter recordings and a smaller network than a user sees."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from berger import cli, demo, load_checkpoint, open_corpus, pretraining, watching
from berger.configuration import load_config
from berger.errors import BergerError
from berger.evaluation import decoding
from berger.evaluation.decoding import AdaptationConfig
from berger.pretraining import PretrainingConfig
from berger.simulation import simulate_dataset
from berger.spectral import BANDS

SMALLER = {
    "spechinet-demo": {
        "model.stem_dim": 4,
        "model.embed_dim": 8,
        "model.bottleneck_dim": 8,
        "model.n_heads": 2,
        "max_validation_windows": 4,
        "training.steps": 6,
        "training.batch_size": 2,
        "training.log_every": 2,
        "training.validate_every": 3,
        "training.save_every": 3,
    },
    "probe": {"penalties": (0.01, 1.0)},
}


@pytest.fixture(scope="module")
def smaller() -> Any:
    """Make the demo small; everything else is as shipped."""

    def simulate(out: Path, seed: int) -> pd.DataFrame:
        return simulate_dataset(out, 4, seed, n_blocks=4, block_seconds=15.0)

    def load(schema: Any, source: str | Path, overrides: Any = None) -> Any:
        return load_config(schema, source, {**(overrides or {}), **SMALLER.get(str(source), {})})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "simulate_dataset", simulate)
        patch.setattr(demo, "load_config", load)
        yield patch


def walk(out: Path, *words: str) -> None:
    cli.main(["demo", "--out", str(out), "--workers", "1", "--device", "cpu", *words])


@pytest.fixture(scope="module")
def walked(smaller: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "demo"
    walk(out, "--quiet")
    return out


def test_every_file_of_the_road(walked: Path) -> None:
    assert {path.name for path in walked.iterdir()} == {
        *("recordings", "corpus", "pretrain", "task.yaml", "adapt", "report.html")
    }
    for inside in (
        *("recordings/truth.csv", "recordings/sub-01_eyes.edf", "corpus/manifest.json"),
        *("corpus/recordings.parquet", "corpus/windows.parquet", "corpus/shard-00000.npy"),
        *("pretrain/config.yaml", "pretrain/run.json", "pretrain/log.jsonl"),
        *("pretrain/restoration.parquet", "pretrain/example.npz"),
        *("adapt/config.yaml", "adapt/run.json", "adapt/predictions.parquet"),
        "adapt/results.parquet",
    ):
        assert (walked / inside).stat().st_size > 0, inside
    for stage in ("pretrain", "adapt"):
        assert load_checkpoint(walked / stage / "checkpoint").n_parameters > 1000


def test_the_numbers_make_sense(walked: Path) -> None:
    corpus = open_corpus(walked / "corpus")
    assert corpus.subjects == ("sub-01", "sub-02", "sub-03", "sub-04")
    assert {len(montage.ch_names) for montage in corpus.manifest.montages} == {19, 8}
    assert 0.5 * 4 / 60 < corpus.hours <= 4 / 60
    errors = pd.read_parquet(walked / "pretrain" / "restoration.parquet")
    assert set(errors["band"]) == set(BANDS)
    assert errors["error"].between(0, 3).all()
    results = pd.read_parquet(walked / "adapt" / "results.parquet")
    together = results[(results["fold"] == 0) & (results["people"] == "all")].set_index("model")
    assert len(together) == 4
    assert together.loc["chance", "balanced_accuracy"] == 0.5
    assert (together["balanced_accuracy_low"] <= together["balanced_accuracy_high"]).all()
    # alpha is what tells the states apart, and band power sees it
    assert together.loc["band power + logistic regression", "balanced_accuracy"] > 0.6
    predictions = pd.read_parquet(walked / "adapt" / "predictions.parquet")
    assert set(predictions["truth"]) == {"open", "closed"}
    seen = predictions[predictions["seen_in_pretraining"]]["subject"].unique()
    record = json.loads((walked / "pretrain" / "run.json").read_text())
    assert sorted(seen) == record["subjects"]["train"]


def test_the_report_stands_alone(walked: Path) -> None:
    html = (walked / "report.html").read_text(encoding="utf-8")
    assert html.lstrip().lower().startswith("<!doctype html>")
    for outside in ('src="http', "src='http", 'link rel="stylesheet"', "@import", "cdn."):
        assert outside not in html
    for word in ("balanced accuracy", "band power", "alpha", "sub-01", "spechinet"):
        assert word.lower() in html.lower(), word
    assert "nan" not in html.lower().replace("nano", "").split()


def test_walking_again_does_nothing_again(walked: Path, smaller: Any) -> None:
    def stamps() -> dict[str, int]:
        return {
            path.relative_to(walked).as_posix(): path.stat().st_mtime_ns
            for path in walked.rglob("*")
            if path.is_file() and path.name != ".lock"
        }

    before = stamps()
    with smaller.context() as patch:
        patch.setattr(demo, "build_report", lambda folder: folder / "report.html")
        walk(walked, "--quiet")
    assert stamps() == before


def test_another_seed_needs_another_folder(
    walked: Path, smaller: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        walk(walked, "--quiet", "--seed", "1")
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert "holds a demo that was made otherwise (seed: 0 → 1); choose another folder." in printed


def test_an_interrupted_demo_is_continued(walked: Path, smaller: Any, tmp_path: Path) -> None:
    """In the middle of pretraining, at its end, and while adapting, one after the other."""
    out = tmp_path / "demo"
    for room, stage, at in (
        (pretraining, "validation_losses", 1),
        (watching, "restoration_errors", 0),
        (decoding, "summarise", 0),
    ):
        with smaller.context() as patch:
            patch.setattr(room, stage, interrupted(getattr(room, stage), at))
            with pytest.raises(SystemExit) as ended:
                walk(out, "--quiet")
        assert ended.value.code == 130, stage
    assert (out / "pretrain" / "run.json").exists()
    assert not (out / "adapt" / "run.json").exists()
    with smaller.context() as patch:
        patch.setattr(demo, "build_report", lambda folder: folder / "report.html")
        walk(out, "--quiet")
    for name in (
        "pretrain/checkpoint/model.safetensors",
        "pretrain/restoration.parquet",
        "adapt/predictions.parquet",
        "adapt/results.parquet",
    ):
        assert (out / name).read_bytes() == (walked / name).read_bytes(), name


def interrupted(function: Callable[..., Any], at: int) -> Callable[..., Any]:
    """Press Ctrl-C in place of a function's call number `at`."""
    calls = iter(range(100))

    def counted(*arguments: Any, **how: Any) -> Any:
        if next(calls) == at:
            raise KeyboardInterrupt
        return function(*arguments, **how)

    return counted


def test_a_folder_with_something_else_is_left_alone(smaller: Any, tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "thesis.txt").write_text("mine")
    with pytest.raises(BergerError, match="corpus: is not empty and no corpus"):
        demo.run_demo(tmp_path, quiet=True)
    assert (tmp_path / "corpus" / "thesis.txt").read_text() == "mine"


def test_the_demo_as_shipped_fits_together() -> None:
    config = load_config(PretrainingConfig, "spechinet-demo")
    assert config.model.sfreq == 200
    assert load_config(AdaptationConfig, "probe") == AdaptationConfig()
    assert np.isclose(config.window_seconds * config.model.sfreq % 1, 0)
