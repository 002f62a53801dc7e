"""Each person alone: no recording on two sides, and nothing that does not say so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
import yaml

from berger import create_model, open_corpus
from berger.cli import main
from berger.corpus import prepare
from berger.errors import BergerError
from berger.evaluation.baselines import BAND_POWER, CHANCE
from berger.evaluation.decoding import AdaptationConfig, adapt
from berger.evaluation.decoding import format_results as adapted_table
from berger.evaluation.matrix import evaluate, format_results
from berger.evaluation.plan import EvaluationConfig
from berger.evaluation.protocol import run_folds
from berger.evaluation.statistics import balanced_accuracy_interval, compare_models, unit_of
from berger.models import SpecHiNetConfig
from berger.preprocessing import PreprocessingConfig
from berger.recordings import Annotation, Recording
from berger.reports import build_report
from berger.simulation import write_edf
from berger.tasks import TaskConfig, load_task
from berger.tasks.splits import Fold
from tests.conftest import TINY_MODEL
from tests.reports.page import Page

SFREQ, N_CUES = 100, 8
SPLIT = "recording within subject"


def write_days(folder: Path, person: str, n_days: int = 3) -> None:
    """Noise in which the second cue of two is followed by alpha waves."""
    folder.mkdir(exist_ok=True)
    for day in range(n_days):
        rng = np.random.default_rng([ord(person[-1]), day])
        times = np.arange(N_CUES * 3 * SFREQ) / SFREQ
        wave = 10 * np.sin(2 * np.pi * 10 * times) * (times // 3 % 2)
        signal = rng.normal(0, 5, (2, len(times))) + wave
        cues = tuple(Annotation(3 * i, 2, "ab"[i % 2]) for i in range(N_CUES))
        path = folder / f"{person}_{day}.edf"
        names = ("C3", "C4")
        recording = Recording(
            signal=signal,
            ch_names=names,
            sfreq=SFREQ,
            subject=person,
            subject_source="simulation",
            session=None,
            path=path,
            original_ch_names=names,
            annotations=cues,
        )
        write_edf(recording, path)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One person on three days, the corpus of them, and a task of each person alone."""
    folder = tmp_path_factory.mktemp("within")
    write_days(folder / "raw", "p1")
    task = {
        "name": "cues",
        "recordings": ["raw/*.edf"],
        "subject_pattern": r"(?P<subject>p\d)_",
        "labels": {"from": "annotations", "classes": {"a": "a", "b": "b"}},
        "window_seconds": 2,
        "split": {"by": SPLIT},
    }
    (folder / "cues.yaml").write_text(yaml.safe_dump(task))
    config = PreprocessingConfig(
        sfreq=SFREQ,
        highpass=1,
        lowpass=40,
        max_amplitude=None,
        subject_pattern=r"(?P<subject>p\d)_",
    )
    prepare([folder / "raw"], folder / "corpus", config, progress=False)
    torch.manual_seed(0)
    create_model(SpecHiNetConfig.model_validate(TINY_MODEL)).save_checkpoint(folder / "stranger")
    return folder


def configuration(study: Path, **changes: object) -> EvaluationConfig:
    fields: dict[str, Any] = {
        "models": {"stranger": {"checkpoint": str(study / "stranger")}},
        "tasks": {"cues": {"task": str(study / "cues.yaml"), "corpus": str(study / "corpus")}},
        "adaptations": {"probe": {"penalties": [0.01]}},
        "baselines": [CHANCE, BAND_POWER],
        "penalties": [0.01],
        "seeds": [0, 1],
    }
    return EvaluationConfig.model_validate(fields | changes)


@pytest.fixture(scope="module")
def evaluation(study: Path) -> Path:
    out = study / "evaluation"
    evaluate(configuration(study), out, device="cpu", quiet=True)
    return out


def test_every_recording_is_tested_once_by_what_the_others_taught(
    evaluation: Path, study: Path
) -> None:
    plan = json.loads((evaluation / "plan.json").read_text())
    recordings = sorted(open_corpus(study / "corpus").recordings["recording"])
    predictions = pd.read_parquet(evaluation / "predictions.parquet")
    for seed in ("0", "1"):
        folds = plan["folds"]["cues"][seed]
        assert sorted(name for fold in folds for name in fold["test"]) == recordings
        for number, fold in enumerate(folds, start=1):
            assert (fold["unit"], fold["people"]) == ("recording", ["p1"])
            parts = [name for part in ("train", "validation", "test") for name in fold[part]]
            assert sorted(parts) == recordings
            own = predictions[(predictions["seed"] == int(seed)) & (predictions["fold"] == number)]
            assert set(own["recording"]) == set(fold["test"])
    (cell,) = evaluation.glob(f"cells/cues/baseline/{CHANCE}/seed-0-fold-1/cell.json")
    read = json.loads(cell.read_text())["test_read"]
    assert read["people"] == ["p1"]
    assert read["recordings"] == plan["folds"]["cues"]["0"][0]["test"]
    assert read["n_windows"] == N_CUES


def test_every_table_says_so(evaluation: Path) -> None:
    for name in ("cells", "predictions", "results", "comparisons"):
        table = pd.read_parquet(evaluation / f"{name}.parquet")
        assert set(table["tested_on"]) == {"within subject"}, name
    results = pd.read_parquet(evaluation / "results.parquet")
    overall = results[results["seed"].isna()].set_index("title")
    assert set(overall["interval_over"]) == {"recordings"}
    assert set(overall["n_subjects"]) == {1}
    assert set(overall["n_recordings"]) == {3}
    assert overall.loc[BAND_POWER, "balanced_accuracy"] == 1
    assert overall.loc[CHANCE, "balanced_accuracy"] == 0.5
    assert results.loc[results["fold"] > 0, "balanced_accuracy_low"].isna().all()
    comparisons = pd.read_parquet(evaluation / "comparisons.parquet")
    assert set(comparisons["verdict"]) == {"no difference"}  # of three recordings
    assert comparisons["p"].min() >= 0.25
    shown = format_results(evaluation)
    assert shown.count("cues (within subject)") == 3
    assert shown.count("over recordings") == 3


def test_every_report_says_so(evaluation: Path, study: Path) -> None:
    page = Page(build_report(evaluation))
    assert "all, within subject" in page.text
    assert "says nothing of people whom a model does not know" in page.text
    assert "cues, within subject" in page.text
    assert "bootstrap over the recordings of the one person" in page.text
    assert "Within subject, a fold of cues is a recording, tested by" in page.text
    assert "by person: nobody" not in page.text
    assert "with 3 recordings and" in page.text
    assert "n_recordings" not in page.text
    out = study / "adapted"
    config = AdaptationConfig(penalties=(0.01,), baselines=(CHANCE, BAND_POWER))
    task = load_task(study / "cues.yaml")
    with pytest.raises(BergerError, match="cues: its split is by recording within subject, which"):
        adapt(
            AdaptationConfig(n_folds=3),
            study / "stranger",
            task,
            out,
            corpus_folder=study / "corpus",
            quiet=True,
        )
    results = adapt(
        config,
        study / "stranger",
        task,
        out,
        corpus_folder=study / "corpus",
        device="cpu",
        quiet=True,
    )
    assert set(results["tested_on"]) == {"within subject"}
    assert adapted_table(results).count(", within subject") == 3
    assert set(pd.read_parquet(out / "predictions.parquet")["tested_on"]) == {"within subject"}
    page = Page(build_report(out))
    assert "Within subject: each person was tested by a model" in page.text
    assert "all, within subject" in page.text
    assert "1 person each alone, in 3 folds by recording" in page.text
    assert "bootstrap over the recordings of the one person" in page.text
    assert "folds by person" not in page.text
    assert "without labels of that person" not in page.text


def test_several_people_are_drawn_as_people(study: Path, tmp_path: Path) -> None:
    write_days(tmp_path / "raw", "p1")
    write_days(tmp_path / "raw", "p2", 4)
    corpus = open_corpus(study / "corpus").manifest.preprocessing
    prepare([tmp_path / "raw"], tmp_path / "corpus", corpus, progress=False)
    task = {"task": str(study / "cues.yaml"), "corpus": str(tmp_path / "corpus")}
    config = configuration(
        study, tasks={"cues": task}, models={}, adaptations={}, baselines=[BAND_POWER], seeds=[0]
    )
    cells = evaluate(config, tmp_path / "out", device="cpu", quiet=True)
    assert len(cells) == 7
    results = pd.read_parquet(tmp_path / "out" / "results.parquet")
    (overall,) = results[results["seed"].isna()].to_dict("records")
    assert (overall["n_subjects"], overall["n_recordings"]) == (2, 7)
    assert overall["interval_over"] == "people"


# what is refused


def test_who_was_seen_in_pretraining_is_refused_or_marked(study: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model(SpecHiNetConfig.model_validate(TINY_MODEL))
    model.save_checkpoint(tmp_path / "known", {"subjects": {"train": ["p1"], "validation": []}})
    models = {"known": {"checkpoint": str(tmp_path / "known")}}
    fields: dict[str, Any] = {"models": models, "seeds": [0], "baselines": [CHANCE]}
    cells = evaluate(configuration(study, **fields), tmp_path / "no", device="cpu", quiet=True)
    reasons = cells.loc[cells["title"] == "known, probe", "reason"]
    assert all("has seen p1 of the people that cues tests on" in reason for reason in reasons)
    allowed = configuration(study, **fields, allow_seen=["known"])
    evaluate(allowed, tmp_path / "out", device="cpu", quiet=True)
    predictions = pd.read_parquet(tmp_path / "out" / "predictions.parquet")
    assert set(predictions.loc[predictions["seen_in_pretraining"], "title"]) == {"known, probe"}
    assert "(seen in pretraining)" in format_results(tmp_path / "out")


def test_there_are_no_other_people_to_pretrain_on(study: Path, tmp_path: Path) -> None:
    models = {"made": {"pretraining": "spechinet-demo"}}
    config = configuration(study, models=models, seeds=[0], baselines=[CHANCE])
    cells = evaluate(config, tmp_path / "out", device="cpu", quiet=True)
    reasons = set(cells.loc[cells["status"] == "failed", "reason"])
    assert reasons == {
        "made is pretrained on other people in each fold, but the folds of cues are of recordings, "
        "whose people are in several parts; give a checkpoint or fresh weights."
    }


def test_a_class_that_is_in_one_recording_alone_cannot_be_learned() -> None:
    windows = pd.DataFrame(
        {
            "recording": ["r1", "r1", "r2", "r2", "r3", "r3"],
            "subject": "p",
            "start": 0,
            "label": ["a", "b", "a", "b", "a", "c"],
        }
    )

    def learn(train: npt.NDArray[np.bool_], validation: npt.NDArray[np.bool_]) -> Any:
        raise AssertionError("is not reached")

    fold = Fold(("r1",), ("r2",), ("r3",), "recording", ("p",))
    with pytest.raises(BergerError, match=r"^p: when r3 is tested, .* have no window of c; every"):
        run_folds("m", windows, ("a", "b", "c"), [fold], learn)
    one = windows.assign(label=["a"] * 6)
    with pytest.raises(BergerError, match="windows of one class only"):
        run_folds("m", one, ("a", "b"), [fold], learn)


def test_corpora_of_other_recordings_are_refused(study: Path, tmp_path: Path) -> None:
    write_days(tmp_path / "raw", "p1", 4)
    corpus = open_corpus(study / "corpus").manifest.preprocessing
    prepare([tmp_path / "raw"], tmp_path / "corpus", corpus, progress=False)
    out = tmp_path / "out"
    config = configuration(study, seeds=[0], baselines=[CHANCE])
    evaluate(config, out, device="cpu", quiet=True)
    plan = json.loads((out / "plan.json").read_text())
    plan["corpora"] = dict.fromkeys(plan["corpora"], str(tmp_path / "corpus"))
    (out / "plan.json").write_text(json.dumps(plan))
    from berger.evaluation.cells import Piece, forget, run_cell, task_windows
    from berger.evaluation.plan import Cell

    forget()
    cell = Cell("cues", CHANCE, "", CHANCE, 0, 1)
    (out / cell.folder / "cell.json").unlink()
    _, reason = run_cell(Piece(out, cell, "cpu"))
    assert f"{tmp_path / 'corpus'}: also has windows of raw/p1_3.edf, unlike" in reason
    assert task_windows(out, "cues", (str(tmp_path / "corpus"),)).subjects == ("p1",)


# statistics


def one_person(n_recordings: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "subject": "p",
            "recording": np.repeat([f"r{n}" for n in range(n_recordings)], 10),
            "truth": ["a", "b"] * 5 * n_recordings,
        }
    )
    right = rng.random((2, len(table))) < [[0.6], [0.9]]
    other = table["truth"].map({"a": "b", "b": "a"})
    return pd.concat(
        [
            table.assign(prediction=table["truth"].where(own, other), model=name)
            for own, name in zip(right, ("one", "two"), strict=True)
        ]
    ).assign(tested_on="within subject")


def test_recordings_take_the_place_of_people_for_one_person_alone() -> None:
    table = one_person(6)
    as_people = table.assign(subject=table["recording"], tested_on="strangers")
    assert (unit_of(table), unit_of(as_people)) == ("recordings", "people")
    two = pd.concat([table, table.assign(subject="q")])
    assert unit_of(two) == "people"
    assert unit_of(table.drop(columns="tested_on")) == "people"
    classes = ("a", "b")
    one = table[table["model"] == "one"]
    expected = as_people[as_people["model"] == "one"]
    assert balanced_accuracy_interval(one, classes, 0) == balanced_accuracy_interval(
        expected, classes, 0
    )
    found = compare_models(table, classes, 0).drop(columns="interval_over")
    pd.testing.assert_frame_equal(
        found, compare_models(as_people, classes, 0).drop(columns="interval_over")
    )
    lone = balanced_accuracy_interval(one.assign(tested_on="strangers"), classes, 0)
    assert np.isnan(lone).all()  # between people, of one


# real recordings


def test_the_shipped_task_on_a_real_person(
    real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not (real_data / "eegmmidb").is_dir():
        pytest.skip(f"no eegmmidb in {real_data}; set BERGER_DATA to the folder that has it")
    task: TaskConfig = load_task("eegmmidb", real_data / "eegmmidb")
    assert task.tested_on == "within subject"
    (tmp_path / "small.yaml").write_text(
        f"tasks: {{eegmmidb: {{data: {real_data / 'eegmmidb'}}}}}\n"
        "models: {spechinet: {model: spechinet-small, preparation: specmoe}}\n"
        "adaptations: {probe: {penalties: [0.01]}}\nseeds: [0]\n"
        f"baselines: [chance, {BAND_POWER}]\n"
    )
    words = ["evaluate", str(tmp_path / "small.yaml"), "--out", str(tmp_path / "out")]
    main([*words, "--quiet", "--device", "cpu", "--workers", "1"])
    results = pd.read_parquet(tmp_path / "out" / "results.parquet")
    overall = results[results["seed"].isna()]
    assert set(overall["n_windows"]) == {45}
    assert set(overall["n_recordings"]) == {3}
    assert set(overall["interval_over"]) == {"recordings"}
    assert overall["balanced_accuracy"].between(0.2, 1).all()
