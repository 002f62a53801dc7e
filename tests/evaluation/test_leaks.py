"""Every way in which a test could know too much, planted and seen refused or impossible.

`ELSEWHERE` names the tests that stand in the files of what they are about; a test here makes sure
that they are there. docs/decisions/0026-transfer.md has the list in words.
"""

from __future__ import annotations

import ast
import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from berger import create_model, load_checkpoint, open_corpus
from berger.adaptation.finetuning import FineTuningConfig
from berger.assembling import pretrain_experts
from berger.corpus import prepare
from berger.corpus.windows import Block, Window
from berger.errors import BergerError
from berger.evaluation import strategies
from berger.evaluation.baselines import BAND_POWER, CHANCE, RIEMANN, learn_baseline
from berger.evaluation.decoding import (
    AdaptationConfig,
    AdaptationMethod,
    adapt,
    build_strategy,
    format_results,
    read_task,
)
from berger.evaluation.matrix import evaluate
from berger.evaluation.matrix import format_results as format_evaluation
from berger.evaluation.plan import EvaluationConfig
from berger.evaluation.protocol import Learn, Mask, run_folds
from berger.evaluation.seen import knows_people, people_seen
from berger.evaluation.strategies import Question
from berger.models import Encoder, SpecHiNetConfig
from berger.preprocessing import PreprocessingConfig
from berger.reports import build_report
from berger.simulation import simulate_dataset
from berger.tasks import load_task
from berger.tasks.folds import folds
from berger.tasks.splits import FixedSplit, Fold
from tests.conftest import TINY_MODEL, TINY_TASK
from tests.evaluation.made import correlated
from tests.reports.page import Page

TESTS = Path(__file__).parents[1]
ELSEWHERE = {
    "a subject in two parts of a split's table": "tasks/test_splits.py::test_a_split_in_a_table",
    "a subject at two sites": "tasks/test_splits.py::test_sites_must_tell_people_apart",
    "a subject in two folds, whatever the split": (
        "tasks/test_splits.py::test_people_never_cross_and_everybody_is_tested_once"
    ),
    "one file under two names": (
        "corpus/test_writer.py::test_of_equal_files_one_is_kept_whatever_ends_first"
    ),
    "one file in the two data sets of a transfer": (
        "evaluation/test_transfer.py::test_one_file_in_both_data_sets_is_refused"
    ),
    "an alignment that knows other recordings": (
        "adaptation/test_alignment.py::test_another_recording_has_no_say"
    ),
    "an alignment that knows labels": (
        "adaptation/test_alignment.py::"
        "test_neither_labels_nor_which_windows_are_asked_for_have_a_say"
    ),
    "a tangent space at other people's mean": (
        "evaluation/test_baselines.py::test_other_people_change_no_feature_of_the_training_people"
    ),
    "a network standardised by test people": (
        "evaluation/test_networks.py::test_test_people_change_nothing_of_what_is_learned"
    ),
    "a penalty chosen by test people": (
        "evaluation/test_protocol.py::test_the_choice_is_made_by_validation_people_alone"
    ),
    "a model tested on people of its pretraining": (
        "evaluation/test_matrix.py::test_people_seen_in_pretraining_are_refused_or_marked"
    ),
    "people of the pretraining under other names": (
        "evaluation/test_decoding.py::test_people_are_known_by_their_files_too"
    ),
    "people of the pretraining in another data set": (
        "evaluation/test_transfer.py::test_who_is_seen_is_told_by_what_both_data_sets_hold"
    ),
    "a pretraining in the fold that sees tested people": (
        "evaluation/test_matrix.py::test_pretraining_on_the_folds_own_people"
    ),
}
PEOPLE = [f"p{number}" for number in range(6)]
TRAINING = FineTuningConfig(epochs=2, unfreeze=0, batch_size=16, lr=1e-3)


@pytest.mark.parametrize("leak", ELSEWHERE)
def test_the_list_is_whole(leak: str) -> None:
    file, _, name = ELSEWHERE[leak].partition("::")
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


# a subject in two splits


@pytest.mark.parametrize(
    "parts", [("train", "test"), ("train", "validation"), ("validation", "test")]
)
def test_a_subject_in_two_lists_of_a_split(parts: tuple[str, str], tmp_path: Path) -> None:
    lists = {"train": ["p0", "p1"], "validation": ["p2"], "test": ["p3"]}
    for part in parts:
        lists[part] = [*lists[part], "p4"]
    with pytest.raises(
        ValidationError, match="p4 is named 2 times, but nobody may be on two sides"
    ):
        FixedSplit.model_validate({"by": "fixed", **lists})
    text = f"{TINY_TASK}split: {json.dumps({'by': 'fixed', **lists})}\n".replace("n_folds: 3\n", "")
    (tmp_path / "task.yaml").write_text(text)
    with pytest.raises(BergerError, match="p4 is named 2 times"):
        load_task(tmp_path / "task.yaml")


def test_a_name_that_is_written_otherwise_is_nobody() -> None:
    """It must not stand for somebody who is tested; it is said to have no data."""
    split = FixedSplit(by="fixed", train=("p0", "p1", "p3 "), validation=("p2",), test=("p3",))
    with pytest.raises(BergerError, match="p3  has no recording that is used"):
        folds(split, ["p0", "p1", "p2", "p3"], [None] * 4, n_folds=2, validation_share=0.2, seed=0)


# overlapping windows


def test_windows_that_overlap_are_of_one_side(tiny_corpus: Path) -> None:
    """No sample of a recording is on two sides, although every window shares half with the next."""
    task = load_task(tiny_corpus.parent / "task.yaml")
    task = task.model_copy(update={"step_seconds": 2.0})
    read = read_task(task, open_corpus(tiny_corpus))
    rows = read.table.sort_values(["recording", "start"])
    steps = rows.groupby("recording")["start"].diff().dropna()
    assert steps.min() == 200  # of 400 samples: they do overlap
    for fold in read.folds(3, 0.3, 0):
        samples = [
            {
                (row.recording, sample)
                for row in read.table[read.table["subject"].isin(part)].itertuples()
                for sample in range(row.start, row.start + 400, 50)
            }
            for part in (fold.train, fold.validation, fold.test)
        ]
        assert all(samples)
        assert len(set.union(*samples)) == sum(map(len, samples))


# one recording under two names


def test_a_recording_under_two_names_is_of_one_person(
    tiny_recordings: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "recordings"
    shutil.copytree(tiny_recordings, folder)
    shutil.copy(folder / "sub-02_eyes.edf", folder / "sub-77_eyes.edf")
    config = PreprocessingConfig(sfreq=100, highpass=1, lowpass=40, max_amplitude=None)
    summary = prepare([folder], tmp_path / "corpus", config, progress=False)
    assert [failure.recording for failure in summary.failures] == ["recordings/sub-77_eyes.edf"]
    task = load_task(tiny_recordings.parent / "task.yaml")
    read = read_task(task, open_corpus(tmp_path / "corpus"))
    assert read.subjects == tuple(f"sub-0{number}" for number in range(1, 7))
    left = read.left_out.set_index("recording")["reason"]
    assert "is the same file as" in left["recordings/sub-77_eyes.edf"]


# what is fitted


@pytest.fixture(scope="module")
def question(tmp_path_factory: pytest.TempPathFactory) -> Question:
    return correlated(tmp_path_factory.mktemp("made"))


def sides(question: Question) -> tuple[Mask, Mask, Mask]:
    """Windows of training, validation and test people."""
    who = question.windows.table["subject"].to_numpy()
    return np.isin(who, PEOPLE[:3]), np.isin(who, PEOPLE[3:4]), np.isin(who, PEOPLE[4:])


def poisoned(question: Question) -> Question:
    """The same, but for windows and labels of the test people: other times, louder, other labels.

    As loud as that, they would move any mean, scale or covariance to which they belonged.
    """
    _, _, test = sides(question)
    windows = question.windows.take(np.arange(len(test)))
    windows.starts = np.where(test, windows.starts[::-1] // 2 + 7, windows.starts)
    windows.blocks = tuple(
        replace(block, scale=100 * block.scale) if block.subject in PEOPLE[4:] else block
        for block in windows.blocks
    )
    other = 1 - question.labels if question.classes else 1e4 + 50 * question.labels
    labels = np.where(test, other, question.labels).astype(question.labels.dtype)
    return replace(question, windows=windows, labels=labels)


def as_values(question: Question) -> Question:
    """A regression on numbers far from 0."""
    return replace(question, labels=20.0 + 3 * question.labels, classes=(), target="age")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    model = create_model(SpecHiNetConfig.model_validate(TINY_MODEL))
    assert isinstance(model, Encoder)
    return model


def baseline(name: str) -> Callable[[Question, Encoder], Learn]:
    return lambda question, _: learn_baseline(
        name, question, penalties=(0.01, 1.0), training=TRAINING, seed=0
    )


def adapted(**fields: Any) -> Callable[[Question, Encoder], Learn]:
    method = AdaptationMethod.model_validate({"penalties": [0.01, 1.0], **fields})

    def made(question: Question, encoder: Encoder) -> Learn:
        return build_strategy(
            encoder, question, method, seed=0, tell=lambda line: None, quiet=True
        ).learn

    return made


TUNED = {"strategy": "fine-tuning", "fine_tuning": TRAINING.model_dump()}
LEARNERS = {
    BAND_POWER: baseline(BAND_POWER),
    RIEMANN: baseline(RIEMANN),
    CHANCE: baseline(CHANCE),
    "frozen probe": adapted(),
    "fine-tuning": adapted(**TUNED),
}


@pytest.mark.parametrize("asks_for", ["classes", "values"])
@pytest.mark.parametrize("name", LEARNERS)
def test_nothing_that_is_learned_depends_on_test_people(
    name: str,
    asks_for: str,
    question: Question,
    encoder: Encoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Scales, means, class weights, penalties, epochs and weights are the same to the last bit."""
    asked = question if asks_for == "classes" else as_values(question)
    train, validation, test = sides(asked)
    networks: list[dict[str, Tensor]] = []
    tune = strategies.fine_tune

    def kept(model: nn.Module, *args: Any, **named: Any) -> Any:
        tuned = tune(model, *args, **named)
        networks.append({key: value.clone() for key, value in model.state_dict().items()})
        return tuned

    monkeypatch.setattr(strategies, "fine_tune", kept)
    found = []
    for one in (asked, poisoned(asked)):
        answer, choice = LEARNERS[name](one, encoder)(train, validation)
        found.append((choice, answer(train), answer(validation), answer(test)))
    clean, other = found
    assert clean[0] == other[0]
    for ours, theirs in zip(clean[1:3], other[1:3], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    if name != CHANCE:
        assert not np.array_equal(clean[3], other[3])  # the poison is there
    if networks:
        first, second = networks
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_poison_would_be_noticed(question: Question, encoder: Encoder) -> None:
    """The same check fails for a model that is fitted to everybody."""
    train, validation, test = sides(question)
    answers = []
    for one in (question, poisoned(question)):
        answer, _ = LEARNERS["frozen probe"](one, encoder)(train | test, validation)
        answers.append(answer(train))
    assert not np.array_equal(*answers)


# choices by the test people


def test_test_windows_are_read_once_and_last(
    question: Question, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that is fine-tuned reads the known windows every epoch; those are at the end."""
    read: list[str] = []
    window = Block.window

    def noted(block: Block, start: int, n_times: int) -> Window:
        read.append(f"{block.subject} {start}")
        return window(block, start, n_times)

    monkeypatch.setattr(Block, "window", noted)
    table = question.windows.table.assign(label=np.array(question.classes)[question.labels])
    fold = Fold(tuple(PEOPLE[:3]), tuple(PEOPLE[3:4]), tuple(PEOPLE[4:]))
    learn = LEARNERS["fine-tuning"](question, encoder)
    run_folds("tuned", table, question.classes, [fold], learn)
    tested = [key for key in read if key.split()[0] in fold.test]
    assert set(Counter(tested).values()) == {1}
    assert len(tested) == int(sides(question)[2].sum())
    assert read[-len(tested) :] == tested
    assert min(Counter(key for key in read if key.split()[0] in fold.train).values()) > 1


def test_other_labels_of_tested_people_change_no_prediction_and_no_choice(
    tiny_corpus: Path, tmp_path: Path
) -> None:
    """Through `berger evaluate`: a data set, and the same one with its two classes exchanged."""
    simulate_dataset(tmp_path / "recordings", 3, seed=1, n_blocks=4, block_seconds=8.0)
    config = PreprocessingConfig(sfreq=100, highpass=1, lowpass=40, max_amplitude=None)
    prepare([tmp_path / "recordings"], tmp_path / "corpus", config, progress=False)
    classes = '{"eyes open": open, "eyes closed": closed}'
    for name, words in (
        ("right", classes),
        ("wrong", '{"eyes open": closed, "eyes closed": open}'),
    ):
        (tmp_path / f"{name}.yaml").write_text(TINY_TASK.replace(classes, words))
    tasks = {
        "known": {"task": str(tiny_corpus.parent / "task.yaml"), "corpus": str(tiny_corpus)},
        **{
            name: {"task": str(tmp_path / f"{name}.yaml"), "corpus": str(tmp_path / "corpus")}
            for name in ("right", "wrong")
        },
    }
    settings = {
        "models": {"one": {"checkpoint": str(tmp_path / "one")}},
        "tasks": {name: own | {"only_transfers": True} for name, own in tasks.items()},
        "transfers": [{"train": "known", "test": name} for name in ("right", "wrong")],
        "adaptations": {"probe": {"penalties": [0.01, 1.0]}},
        "baselines": [BAND_POWER, RIEMANN],
        "seeds": [0],
    }
    torch.manual_seed(0)
    create_model(SpecHiNetConfig.model_validate(TINY_MODEL)).save_checkpoint(tmp_path / "one")
    out = tmp_path / "out"
    cells = evaluate(EvaluationConfig.model_validate(settings), out, device="cpu", quiet=True)
    assert set(cells["status"]) == {"ok"}
    predictions = pd.read_parquet(out / "predictions.parquet")
    right, wrong = (
        predictions[predictions["task"] == f"known → {name}"].reset_index(drop=True)
        for name in ("right", "wrong")
    )
    same = ["title", "subject", "recording", "start", "prediction", "score_open", "score_closed"]
    pd.testing.assert_frame_equal(right[same], wrong[same])
    assert (right["truth"] != wrong["truth"]).all()
    choices = [
        cells[cells["task"] == f"known → {name}"]["choice"].tolist() for name in ("right", "wrong")
    ]
    assert choices[0] == choices[1]


# people of the pretraining


def test_a_corpus_without_its_people_counts_as_seen_whole(
    tiny_checkpoint: Path, tiny_corpus: Path, tmp_path: Path
) -> None:
    corpus = open_corpus(tiny_corpus)
    provenance = dict(load_checkpoint(tiny_checkpoint).provenance)
    assert (
        people_seen(provenance, corpus) == {*provenance["subjects"]["train"]} < {*corpus.subjects}
    )
    del provenance["subjects"]
    assert people_seen(provenance, corpus) == {*corpus.subjects}
    copied = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, copied)
    (copied / "provenance.json").write_text(json.dumps(provenance))
    config = EvaluationConfig.model_validate(
        {
            "models": {"known": {"checkpoint": str(copied)}},
            "tasks": {
                "eyes": {
                    "task": str(tiny_corpus.parent / "task.yaml"),
                    "corpus": str(tiny_corpus),
                }
            },
            "adaptations": {"probe": {}},
            "baselines": [CHANCE],
            "seeds": [0],
        }
    )
    cells = evaluate(config, tmp_path / "out", device="cpu", quiet=True).set_index("title")
    reasons = cells.loc["known, probe", "reason"]
    assert all("has seen sub-01 and 5 others of the people" in reason for reason in reasons)


def test_experts_that_were_assembled_have_seen_whom_they_saw(
    tiny_corpus: Path, tiny_pretraining: Callable[..., Any], tmp_path: Path
) -> None:
    steps = {"training__steps": 1, "training__log_every": 1, "training__validate_every": 1}
    config = tiny_pretraining(**steps, experts=2, max_validation_windows=2)
    checkpoint = pretrain_experts(config, tiny_corpus, tmp_path / "run", device="cpu", quiet=True)
    provenance = load_checkpoint(checkpoint).provenance
    seen = {*provenance["experts"][0]["subjects"]["train"]}
    assert people_seen(provenance, open_corpus(tiny_corpus)) == seen != set()
    again = PreprocessingConfig(sfreq=100, highpass=1, lowpass=45, max_amplitude=None)
    renamed = again.model_copy(update={"subject_pattern": r"sub-0(?P<subject>\d)_"})
    prepare([tiny_corpus.parent / "recordings"], tmp_path / "again", renamed, progress=False)
    found = people_seen(provenance, open_corpus(tmp_path / "again"))
    assert found == {name.removeprefix("sub-0") for name in seen}


@pytest.mark.parametrize("provenance", [{}, {"kind": "import", "imported": [{"file": "a.pth"}]}])
def test_weights_of_unknown_people_are_said_to_be_that(
    provenance: dict[str, Any], tiny_corpus: Path, tmp_path: Path
) -> None:
    """As of weights that others published: nobody can say that the tested people are new."""
    torch.manual_seed(0)
    folder = tmp_path / "published"
    create_model(SpecHiNetConfig.model_validate(TINY_MODEL)).save_checkpoint(folder, provenance)
    assert not knows_people(load_checkpoint(folder).provenance)
    task = tiny_corpus.parent / "task.yaml"
    settings = {
        "models": {"published": {"checkpoint": str(folder)}},
        "tasks": {"eyes": {"task": str(task), "corpus": str(tiny_corpus)}},
        "adaptations": {"probe": {"penalties": [1.0]}},
        "baselines": [CHANCE],
        "seeds": [0],
    }
    out = tmp_path / "out"
    evaluate(EvaluationConfig.model_validate(settings), out, device="cpu", quiet=True)
    results = pd.read_parquet(out / "results.parquet").set_index("title")["pretraining_people"]
    assert set(results[CHANCE]) == {"nobody"}
    assert set(results["published, probe"]) == {"unknown"}
    words = "published, probe (pretrained on unknown people)"
    assert words in format_evaluation(out)
    assert words in Page(build_report(out)).text

    said: list[str] = []
    found = adapt(
        AdaptationConfig(penalties=(1.0,), baselines=(CHANCE,)),
        folder,
        load_task(task),
        tmp_path / "adapted",
        corpus_folder=tiny_corpus,
        device="cpu",
        quiet=True,
        tell=said.append,
    )
    assert any("does not say whose recordings it was pretrained on" in line for line in said)
    assert "frozen probe (pretrained on unknown people)" in format_results(found)
    assert "does not say whose recordings" in Page(build_report(tmp_path / "adapted")).text


def test_weights_that_know_their_people_say_nothing_of_the_kind(
    tiny_adaptation: Path, tmp_path: Path
) -> None:
    results = pd.read_parquet(tiny_adaptation / "results.parquet")
    people = results.set_index("model")["pretraining_people"]
    assert set(people["frozen probe"]) == {"known"}
    assert set(people.drop("frozen probe")) == {"nobody"}
    assert (
        "whose recordings"
        not in Page(build_report(tiny_adaptation, out=tmp_path / "report.html")).text
    )
