"""From one data set to another: who is learned from and tested, and what cannot be transferred."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from berger import create_model, load_checkpoint, open_corpus
from berger.adaptation.probe import fit_probe
from berger.corpus import prepare
from berger.errors import BergerError
from berger.evaluation.baselines import BAND_POWER, CHANCE, RIEMANN, band_power_features
from berger.evaluation.matrix import evaluate, format_results
from berger.evaluation.plan import EvaluationConfig, load_tasks
from berger.evaluation.protocol import choose_penalty
from berger.evaluation.seen import people_seen
from berger.evaluation.transfer import TransferWindows, read_windows
from berger.models import InputContract, SpecHiNetConfig
from berger.preprocessing import PreprocessingConfig
from berger.reports import build_report
from berger.simulation import (
    EIGHT,
    alternating_blocks,
    simulate_dataset,
    simulate_recording,
    write_edf,
)
from tests.conftest import TINY_MODEL, TINY_TASK
from tests.reports.page import Page

PREPARATION = PreprocessingConfig(
    sfreq=100, highpass=1, lowpass=40, max_amplitude=None, species="human"
)
SWAPPED = '{"eyes closed": closed, "eyes open": open}'
"""The classes of the other data set, in another order."""


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four other people, whose files have the names and the sizes of those of `tiny_recordings`."""
    folder = tmp_path_factory.mktemp("other")
    simulate_dataset(folder / "recordings", 4, seed=1, n_blocks=4, block_seconds=8.0)
    text = TINY_TASK.replace('{"eyes open": open, "eyes closed": closed}', SWAPPED)
    assert SWAPPED in text
    (folder / "task.yaml").write_text(text)
    without = PREPARATION.model_copy(update={"species": None})
    prepare([folder / "recordings"], folder / "corpus", without, progress=False)
    return folder


@pytest.fixture(scope="module")
def mice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three mice with two electrodes, another rate, another unit of size, other words for both."""
    folder = tmp_path_factory.mktemp("mice")
    words = {"eyes open": "light", "eyes closed": "dark"}
    for number in range(3):
        blocks = alternating_blocks(4, 8.0)
        recording, _ = simulate_recording(
            f"sub-0{number + 1}", blocks, ch_names=("P3", "P4"), sfreq=500, seed=[5, number]
        )
        marks = tuple(replace(mark, description=words[mark.description]) for mark in blocks)
        loud = replace(recording, signal=4 * recording.signal, annotations=marks)
        write_edf(loud, folder / "recordings" / f"mouse-sub-0{number + 1}.edf")
    text = TINY_TASK.replace('eyes open": open', 'light": open').replace('eyes closed":', 'dark":')
    (folder / "task.yaml").write_text(
        text + "species: Mus musculus\nsubject_pattern: 'mouse-(?P<subject>sub-\\d+)'\n"
    )
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network that reads recordings of people, and has seen nobody that it knows of."""
    torch.manual_seed(0)
    contract = InputContract(sfreq=100, preprocessing=PREPARATION)
    folder = tmp_path_factory.mktemp("checkpoint") / "one"
    create_model(SpecHiNetConfig.model_validate(TINY_MODEL), contract).save_checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def configuration(
    tiny_corpus: Path, other: Path, checkpoint: Path
) -> Callable[..., EvaluationConfig]:
    """Make the configuration of a transfer from `tiny_corpus` to `other`; changes by field."""

    def make(**changes: object) -> EvaluationConfig:
        fields: dict[str, Any] = {
            "models": {"one": {"checkpoint": str(checkpoint)}},
            "tasks": {
                name: {
                    "task": str(folder / "task.yaml"),
                    "corpus": str(folder / "corpus"),
                    "only_transfers": True,
                }
                for name, folder in (("first", tiny_corpus.parent), ("second", other))
            },
            "transfers": [{"train": "first", "test": "second"}],
            "adaptations": {"probe": {"penalties": [0.01, 1.0]}},
            "baselines": [CHANCE, BAND_POWER],
            "penalties": [0.01, 1.0],
            "seeds": [0, 1],
            "validation_share": 0.4,
        }
        return EvaluationConfig.model_validate(fields | changes)

    return make


@pytest.fixture(scope="module")
def evaluation(
    configuration: Callable[..., EvaluationConfig], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("transfer") / "out"
    evaluate(configuration(), out, device="cpu", quiet=True)
    return out


def windows(config: EvaluationConfig) -> TransferWindows:
    corpora = [str(config.tasks[name].corpus) for name in ("first", "second")]
    read = read_windows(config, load_tasks(config), "first → second", corpora)
    assert isinstance(read, TransferWindows)
    return read


# who is learned from, and who is tested


def test_one_task_is_learned_and_the_other_tested_once_a_seed(
    evaluation: Path, configuration: Callable[..., EvaluationConfig]
) -> None:
    cells = pd.read_parquet(evaluation / "cells.parquet")
    assert set(cells["status"]) == {"ok"}, cells["reason"].iloc[0]
    assert set(cells["task"]) == {"first → second"}
    assert set(cells["fold"]) == {1}
    assert len(cells) == 2 * 3
    expected = windows(configuration()).tested
    wanted = expected.in_seconds(expected.table)
    predictions = pd.read_parquet(evaluation / "predictions.parquet")
    for _, own in predictions.groupby(["title", "seed"]):
        for column, truth in (("recording", "recording"), ("start", "start"), ("truth", "label")):
            assert own[column].tolist() == wanted[truth].tolist()
        assert set(own["subject"]) == set(expected.subjects) == {f"sub-0{n}" for n in range(1, 5)}
    plan = json.loads((evaluation / "plan.json").read_text())["folds"]["first → second"]
    for (fold,) in plan.values():
        assert sorted(fold["train"] + fold["validation"]) == [
            f"first: sub-0{n}" for n in range(1, 7)
        ]
        assert len(fold["validation"]) == 2
        assert fold["test"] == [f"second: sub-0{n}" for n in range(1, 5)]
    assert plan["0"][0]["validation"] != plan["1"][0]["validation"]
    facts = json.loads(
        (evaluation / "cells/first+second/one/probe/seed-1-fold-1/cell.json").read_text()
    )
    assert facts["test_read"]["people"] == [f"sub-0{n}" for n in range(1, 5)]


def test_the_numbers_are_those_of_a_fit_to_one_and_a_look_at_the_other(
    evaluation: Path, configuration: Callable[..., EvaluationConfig]
) -> None:
    """By hand, from each data set alone."""
    read = windows(configuration())
    common = tuple(name for name in EIGHT)
    one, other = (band_power_features(part.windows, common) for part in (read.trained, read.tested))
    fold = json.loads((evaluation / "plan.json").read_text())["folds"]["first → second"]["1"][0]
    who = "first: " + read.trained.table["subject"]
    train, validation = (who.isin(fold[part]).to_numpy() for part in ("train", "validation"))
    model, penalty = choose_penalty(
        one,
        read.trained.labels,
        train,
        validation,
        lambda x, y, penalty: fit_probe(x, y, 2, penalty).probabilities,
        (0.01, 1.0),
    )
    predictions = pd.read_parquet(evaluation / "predictions.parquet")
    own = predictions[(predictions["title"] == BAND_POWER) & (predictions["seed"] == 1)]
    # electrodes stand in another order there
    np.testing.assert_allclose(
        own[["score_open", "score_closed"]].to_numpy(), model(other), rtol=1e-4, atol=1e-6
    )
    cells = pd.read_parquet(evaluation / "cells.parquet")
    assert cells.set_index(["title", "seed"]).loc[(BAND_POWER, 1), "choice"] == penalty


def test_the_tables_say_so(evaluation: Path) -> None:
    results = pd.read_parquet(evaluation / "results.parquet")
    assert set(results["task"]) == {"first → second"}
    overall = results[results["seed"].isna()].set_index("title")
    assert overall["n_seeds"].tolist() == [2, 2, 2]
    assert overall["n_subjects"].tolist() == [4, 4, 4]
    assert set(pd.read_parquet(evaluation / "comparisons.parquet")["task"]) == {"first → second"}
    assert "first → second" in format_results(evaluation)
    text = Page(build_report(evaluation)).text
    assert "first → second" in text
    assert "Learned on first, tested on second" in text


def test_it_continues_and_tasks_may_stand_beside_it(
    configuration: Callable[..., EvaluationConfig], evaluation: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(evaluation, out)
    before = pd.read_parquet(out / "predictions.parquet")
    shutil.rmtree(out / "cells/first+second/one/probe/seed-0-fold-1")
    shutil.rmtree(out / "features")
    evaluate(configuration(), out, device="cpu", quiet=True)
    pd.testing.assert_frame_equal(pd.read_parquet(out / "predictions.parquet"), before)
    tasks = configuration().model_dump(mode="json")["tasks"]
    tasks["second"]["only_transfers"] = False
    beside = configuration(tasks=tasks, models={}, adaptations={}, baselines=[CHANCE], seeds=[0])
    table = evaluate(beside, tmp_path / "beside", device="cpu", quiet=True)
    assert table.groupby("task", sort=False).size().to_dict() == {"second": 3, "first → second": 1}
    assert set(table["status"]) == {"ok"}


def test_people_of_one_name_are_two_unless_the_user_says_otherwise(
    configuration: Callable[..., EvaluationConfig],
) -> None:
    apart = windows(configuration())
    assert len(apart.subjects) == 6 + 4
    (fold,) = apart.folds(None, 0.5, 0)
    assert len(fold.train) == len(fold.validation) == 3
    same = [{"train": "first", "test": "second", "same_people": True}]
    together = windows(configuration(transfers=same))
    (fold,) = together.folds(None, 0.5, 0)
    assert sorted((*fold.train, *fold.validation)) == ["first: sub-05", "first: sub-06"]
    assert len(fold.test) == 4
    question = together.ask(InputContract(sfreq=100))
    assert len(question.windows) == len(question.labels) == len(together.table)


# whom pretraining has seen


def test_pretraining_in_the_fold_sees_one_task_and_marks_nobody_of_the_other(
    configuration: Callable[..., EvaluationConfig],
    tiny_pretraining: Callable[..., Any],
    tiny_corpus: Path,
    other: Path,
    tmp_path: Path,
) -> None:
    """Although names, and names and sizes of files, are the same."""
    sizes = [
        {path.name: path.stat().st_size for path in (folder / "recordings").glob("sub-0[1-4]*")}
        for folder in (tiny_corpus.parent, other)
    ]
    assert sizes[0] == sizes[1]
    steps = {"training__steps": 2, "training__log_every": 1, "training__validate_every": 2}
    pretraining = tiny_pretraining(**steps, max_validation_windows=2).model_dump(mode="json")
    config = configuration(models={"made": {"pretraining": pretraining}}, baselines=[], seeds=[1])
    table = evaluate(config, tmp_path, device="cpu", quiet=True)
    assert table["status"].tolist() == ["ok"], table["reason"].iloc[0]
    assert not pd.read_parquet(tmp_path / "predictions.parquet")["seen_in_pretraining"].any()
    run = tmp_path / "pretrained/first+second/made/seed-1-fold-1"
    record = json.loads((run / "run.json").read_text())
    fold = json.loads((tmp_path / "plan.json").read_text())["folds"]["first → second"]["1"][0]
    seen = {*record["subjects"]["train"], *record["subjects"]["validation"]}
    assert {f"first: {who}" for who in seen} == {*fold["train"]}
    assert record["corpus"]["id"] == open_corpus(tiny_corpus).manifest.id


def test_who_is_seen_is_told_by_what_both_data_sets_hold(
    tiny_checkpoint: Path, tiny_recordings: Path, tiny_corpus: Path, other: Path, tmp_path: Path
) -> None:
    provenance = dict(load_checkpoint(tiny_checkpoint).provenance)
    train = set(provenance["subjects"]["train"])
    first, second = open_corpus(tiny_corpus), open_corpus(other / "corpus")
    assert people_seen(provenance, first) == train
    # alone, a name counts: the careful side
    assert people_seen(provenance, second) == train & set(second.subjects) != set()
    # the pretraining's own corpus beside it explains the names
    assert people_seen(provenance, second, [first]) == set()
    # so does another corpus of the same files …
    again = PREPARATION.model_copy(update={"lowpass": 45})
    prepare([tiny_recordings], tmp_path / "again", again, progress=False)
    assert people_seen(provenance, second, [open_corpus(tmp_path / "again")]) == set()
    # … but an older checkpoint, which does not know what was in the files, is read with care
    older = {key: value for key, value in provenance.items() if key != "training_contents"}
    assert people_seen(older, second, [open_corpus(tmp_path / "again")]) == train & set(
        second.subjects
    )
    # a person of the other data set who was seen is found by the file, whatever its name
    one = sorted(train)[0]
    shutil.copytree(other / "recordings", tmp_path / "mixed" / "recordings")
    shutil.copy(
        tiny_recordings / f"{one}_eyes.edf", tmp_path / "mixed" / "recordings" / "sub-77_eyes.edf"
    )
    prepare([tmp_path / "mixed"], tmp_path / "both", PREPARATION, progress=False)
    both = open_corpus(tmp_path / "both")
    assert people_seen(provenance, both, [first]) == {"sub-77"}
    assert people_seen(provenance, both, [open_corpus(tmp_path / "again")]) == {"sub-77"}


# another species


def test_from_people_to_mice(
    tiny_recordings: Path, mice: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """Other electrodes, rate, size of the signals, words of the labels; the same preparation."""
    (tmp_path / "people.yaml").write_text(f"{TINY_TASK}species: human\n")
    sources: dict[str, dict[str, Any]] = {
        "people": {"task": str(tmp_path / "people.yaml"), "data": str(tiny_recordings.parent)},
        "mice": {"task": str(mice / "task.yaml")},
    }
    config = EvaluationConfig.model_validate(
        {
            "models": {
                "one": {"checkpoint": str(checkpoint)},
                "fast": {"model": "dare-nano", "preparation": {"sfreq": 256, "lowpass": 100}},
            },
            "tasks": {name: own | {"only_transfers": True} for name, own in sources.items()},
            "transfers": [{"train": "people", "test": "mice"}],
            "adaptations": {"probe": {}, "each": {"pooling": "electrodes"}},
            "baselines": [CHANCE, RIEMANN],
            "seeds": [0],
        }
    )
    out = tmp_path / "out"
    reasons = evaluate(config, out, device="cpu", quiet=True).set_index("title")["reason"]
    assert (reasons[CHANCE], reasons["one, probe"]) == ("", "")
    assert "share no electrode" in reasons[RIEMANN]
    assert "pooling: electrodes needs one montage" in reasons["one, each"]
    # people recorded at 250 Hz cannot be prepared for it
    assert "lacks windows of people: sub-02" in reasons["fast, probe"]
    predictions = pd.read_parquet(out / "predictions.parquet")
    assert set(predictions["subject"]) == {"sub-01", "sub-02", "sub-03"}
    plan = json.loads((out / "plan.json").read_text())
    for name, species, rate in (("people", "human", {256.0, 250.0}), ("mice", "mouse", {500.0})):
        corpus = open_corpus(plan["corpora"][f"{name}/one/probe"])
        assert set(corpus.recordings["species"]) == {species}
        assert set(corpus.recordings["source_sfreq"]) == rate
        assert corpus.manifest.preprocessing.sfreq == 100
    described = json.loads((out / "run.json").read_text())["tasks"]["people → mice"]
    assert described["species"] == "human → Mus musculus"


# what is wrong


def test_one_file_in_both_data_sets_is_refused(
    configuration: Callable[..., EvaluationConfig],
    tiny_recordings: Path,
    other: Path,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "third"
    shutil.copytree(other / "recordings", folder / "recordings")
    shutil.copy(tiny_recordings / "sub-05_eyes.edf", folder / "recordings" / "sub-88_eyes.edf")
    prepare([folder / "recordings"], folder / "corpus", PREPARATION, progress=False)
    tasks = configuration().model_dump(mode="json")["tasks"]
    tasks["second"]["corpus"] = str(folder / "corpus")
    out = tmp_path / "out"
    with pytest.raises(BergerError, match=r"sub-05_eyes.edf of first and .*sub-88_eyes.edf of sec"):
        evaluate(configuration(tasks=tasks), out, device="cpu", quiet=True)


def test_corpora_that_were_prepared_otherwise_are_refused(
    configuration: Callable[..., EvaluationConfig], other: Path, tmp_path: Path
) -> None:
    otherwise = PREPARATION.model_copy(update={"highpass": 0.5})
    prepare([other / "recordings"], tmp_path / "corpus", otherwise, progress=False)
    tasks = configuration().model_dump(mode="json")["tasks"]
    tasks["second"]["corpus"] = str(tmp_path / "corpus")
    with pytest.raises(BergerError, match=r"was prepared with highpass: 0\.5"):
        windows(configuration(tasks=tasks))


def test_too_few_people_to_learn_from(configuration: Callable[..., EvaluationConfig]) -> None:
    back = [{"train": "second", "test": "first", "same_people": True}]
    config = configuration(transfers=back)
    read = read_windows(
        config,
        load_tasks(config),
        "second → first",
        [str(config.tasks[name].corpus) for name in ("second", "first")],
    )
    with pytest.raises(BergerError, match="second has recordings of nobody who is not tested"):
        read.folds(None, 0.5, 0)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"transfers": [{"train": "first", "test": "first"}]}, "from one task to another"),
        ({"transfers": [{"train": "first", "test": "third"}]}, "'third', which is no task here"),
        ({"transfers": [{"train": "first", "test": "second"}] * 2}, "one is given twice"),
        ({"transfers": []}, "task first is only for transfers, but is in none"),
    ],
)
def test_what_is_wrong_is_named(
    configuration: Callable[..., EvaluationConfig], changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        configuration(**changes)


REGRESSION = """\
name: age
kind: regression
labels: {from: participants, column: age}
window_seconds: 4
"""


@pytest.mark.parametrize(
    ("learned", "tested", "complaint"),
    [
        (TINY_TASK, TINY_TASK.replace(": closed", ": shut"), r"other classes \(open, closed; open"),
        (TINY_TASK, TINY_TASK.replace("seconds: 4", "seconds: 2"), r"other windows \(4 s; 2 s\)"),
        (TINY_TASK, REGRESSION, "other kinds"),
        (REGRESSION, REGRESSION, "neither task says what its numbers are"),
        (REGRESSION + "target: {name: age}\n", REGRESSION, "other targets"),
    ],
)
def test_tasks_must_ask_the_same(
    configuration: Callable[..., EvaluationConfig],
    learned: str,
    tested: str,
    complaint: str,
    tmp_path: Path,
) -> None:
    tasks = configuration().model_dump(mode="json")["tasks"]
    for name, text in (("first", learned), ("second", tested)):
        (tmp_path / f"{name}.yaml").write_text(text)
        tasks[name]["task"] = str(tmp_path / f"{name}.yaml")
    with pytest.raises(BergerError, match=complaint):
        load_tasks(configuration(tasks=tasks))
