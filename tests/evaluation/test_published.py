"""Published networks: fed as they were trained, loaded whole or not at all, marked in every table.

Their architectures need braindecode; ``make test-braindecode`` runs these tests in an environment
of their own. Weights are random, written by the test from the very architecture.
"""

from __future__ import annotations

import importlib.util
import pickle
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor

from berger import open_corpus
from berger.adaptation.finetuning import FineTuningConfig, trained_groups
from berger.cli import main
from berger.corpus import WindowDataset, prepare
from berger.errors import BergerError
from berger.evaluation.baselines import CHANCE
from berger.evaluation.electrodes import with_electrodes
from berger.evaluation.networks import require_braindecode
from berger.evaluation.plan import EvaluationConfig
from berger.evaluation.published import (
    BANANA,
    PUBLISHED,
    TUEG_ORDER,
    PublishedClassifier,
    PublishedModel,
    Weights,
    channels_for,
    learn_published,
    published_title,
    read_weights,
)
from berger.evaluation.strategies import Question
from berger.models import InputContract
from berger.preprocessing import PreprocessingConfig
from berger.reports import build_report
from tests.evaluation.made import correlated, write_recording
from tests.reports.page import Page

CHAINS = tuple(dict.fromkeys(name for pair in BANANA for name in pair))
N_WINDOWS = 4  # of 1 s, a recording
TRAINING = FineTuningConfig(epochs=2, batch_size=8, lr=1e-3, unfreeze=1)
TASK = """\
name: alpha
title: Weak versus strong
recordings: ["*.edf"]
labels:
  from: file name
  pattern: 'p\\d_(?P<label>weak|strong)\\.edf$'
  classes: {weak: weak, strong: strong}
window_seconds: 1
subject_pattern: '(?P<subject>p\\d)_\\w+\\.edf$'
n_folds: 2
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four people at 200 Hz, whose noise is weak in one recording and strong in the other."""
    folder = tmp_path_factory.mktemp("published")
    rng = np.random.default_rng(0)
    (folder / "task.yaml").write_text(TASK)
    for person in range(4):
        for name, size in (("weak", 5.0), ("strong", 30.0)):
            signal = size * rng.standard_normal((len(CHAINS), N_WINDOWS * 200))
            write_recording(folder / "raw" / f"p{person}_{name}.edf", CHAINS, signal, 200)
    config = PreprocessingConfig(
        highpass=None,
        lowpass=None,
        max_amplitude=None,
        subject_pattern=r"(?P<subject>p\d)_\w+\.edf$",
    )
    prepare([folder / "raw"], folder / "corpus", config, progress=False)
    return folder / "corpus"


@pytest.fixture(scope="module")
def question(corpus: Path) -> Question:
    windows = open_corpus(corpus).windows(1)
    strong = np.array(["strong" in block.recording for block in windows.blocks])
    labels = strong[windows.of_block].astype(int)
    return Question(windows, labels, ("weak", "strong"), InputContract(sfreq=200))


@pytest.fixture(scope="module")
def models() -> Any:
    if importlib.util.find_spec("braindecode") is None:
        pytest.skip("braindecode is not installed here; `make test-braindecode` runs this test")
    return require_braindecode("Labram")


@pytest.fixture(scope="module")
def writers(models: Any) -> dict[str, Any]:
    """Networks of another task: other windows, and three classes."""
    torch.manual_seed(1)
    shape = {"sfreq": 200, "n_outputs": 3}
    return {
        "BIOT": models.BIOT(n_chans=18, n_times=2000, **shape).eval(),
        "CBraMod": models.CBraMod(n_chans=16, n_times=400, **shape).eval(),
        "Labram": models.Labram(n_chans=16, n_times=3000, **shape).eval(),
    }


@pytest.fixture(scope="module")
def files(writers: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    for name, network in writers.items():
        save_file(network.state_dict(), folder / f"{name}.safetensors")
    return {name: folder / f"{name}.safetensors" for name in writers}


def loaded(name: str, file: Path, question: Question, n_outputs: int = 2) -> Weights:
    ch_names = channels_for(name, question.windows)
    n_times = question.windows[0].signal.shape[1]
    return read_weights(name, PublishedModel(weights=file), ch_names, n_times, n_outputs)


def signal_of(windows: WindowDataset, ch_names: tuple[str, ...]) -> Tensor:
    (batch,) = with_electrodes(windows, ch_names).batches(len(windows))
    return batch.signal()


# configurations


def configuration(**published: Any) -> EvaluationConfig:
    tasks = {"alpha": {"task": "task.yaml", "corpus": "corpus"}}
    return EvaluationConfig.model_validate({"tasks": tasks, "published_models": published})


def test_each_adaptation_is_a_row_that_says_what_is_not_known() -> None:
    config = configuration(
        Labram={"weights": "a.safetensors"},
        six={"network": "BIOT", "weights": "b.safetensors", "adaptations": ["fine-tuning"]},
    )
    titles = [
        "Labram, published weights, frozen probe",
        "Labram, published weights, fine-tuning",
        "six, published weights, fine-tuning",
    ]
    assert list(config.published) == titles
    assert {*titles} & config.seeded == {titles[1], titles[2]}


@pytest.mark.parametrize(
    ("published", "complaint"),
    [
        ({"mine": {"weights": "a"}}, "no network is called mine; give network: one of BIOT, CBra"),
        ({"mine": {"network": "EEGNet", "weights": "a"}}, "'BIOT', 'CBraMod' or 'Labram'"),
        ({"Labram": {}}, "weights"),
        ({"Labram": {"weights": "a", "adaptations": []}}, "at least 1 item"),
        (
            {"Labram": {"weights": "a", "adaptations": ["fine-tuning", "fine-tuning"]}},
            "one is given twice",
        ),
        (
            {name: {"network": "BIOT", "weights": "a"} for name in ("a.b", "A-b")},
            "differ in case or marks only",
        ),
    ],
)
def test_configurations_that_make_no_sense_are_refused(
    published: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        configuration(**published)
    assert complaint in str(caught.value)


def test_a_missing_braindecode_is_said_before_anything_is_run(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setitem(sys.modules, "braindecode", None)
    config = evaluation_file(tmp_path, corpus, {"Labram": {"weights": "a"}})
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", str(config), "--out", str(tmp_path / "out")])
    assert "Labram: braindecode cannot be loaded" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# what they read


def test_biot_reads_the_differences_of_its_training(question: Question) -> None:
    assert channels_for("BIOT", question.windows) == CHAINS
    assert len(BANANA) == 16


def test_cbramod_reads_the_order_of_its_training_and_then_the_others(question: Question) -> None:
    shuffled = with_electrodes(question.windows, CHAINS[::-1])
    windows = question.windows.take(np.arange(len(question.windows)))
    windows.blocks = tuple(
        replace(block, ch_names=("Oz", *block.ch_names[1:])) for block in shuffled.blocks
    )
    names = channels_for("CBraMod", windows)
    assert names[-1] == "Oz"
    assert names[:-1] == tuple(name for name in TUEG_ORDER if name in names)


@pytest.mark.parametrize("name", PUBLISHED)
def test_other_rates_are_refused(
    name: str, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    asked = correlated(tmp_path, 2)
    with pytest.raises(
        BergerError, match=f"^{name} was trained on 200 Hz, but the .* 100 Hz; .* sfreq: 200"
    ):
        channels_for(name, asked.windows)


@pytest.mark.parametrize(
    ("name", "seconds", "lengths"),
    [
        ("BIOT", 0.5, "1, 1.5, 2, … s, but the task's have 0.5 s"),
        ("BIOT", 1.25, "1, 1.5, 2, … s, but the task's have 1.25 s"),
        ("CBraMod", 1.5, "1, 2, 3, … s, but the task's have 1.5 s"),
        ("Labram", 1.5, "1, 2, 3, … s, but the task's have 1.5 s"),
    ],
)
def test_other_lengths_are_refused(corpus: Path, name: str, seconds: float, lengths: str) -> None:
    with pytest.raises(BergerError) as caught:
        channels_for(name, open_corpus(corpus).windows(seconds))
    assert lengths in str(caught.value)
    assert "give the task such window_seconds" in str(caught.value)


def test_a_montage_that_lacks_an_electrode_is_refused(question: Question) -> None:
    windows = with_electrodes(question.windows, tuple(n for n in CHAINS if n != "T7"))
    with pytest.raises(BergerError, match=r"not all recordings have T7; prepare recordings that"):
        channels_for("BIOT", windows)


def renamed(question: Question, new: str) -> WindowDataset:
    windows = question.windows.take(np.arange(len(question.windows)))
    windows.blocks = tuple(
        replace(block, ch_names=(new, *block.ch_names[1:])) for block in windows.blocks
    )
    return windows


def test_what_is_no_electrode_is_refused(question: Question) -> None:
    with pytest.raises(BergerError, match=r"CBraMod knows no electrode ECG.*with ch_names"):
        channels_for("CBraMod", renamed(question, "ECG"))


def test_labram_knows_its_electrodes_by_name(models: Any, question: Question) -> None:
    assert channels_for("Labram", question.windows) == CHAINS
    with pytest.raises(BergerError, match=r"Labram knows no electrode ECG.*with ch_names"):
        channels_for("Labram", renamed(question, "ECG"))


def test_the_differences_are_those_that_braindecode_documents(models: Any) -> None:
    order = [name.upper() for name in models.biot.BIOT_CHANNEL_ORDER]
    assert [f"{a}-{b}".upper() for a, b in BANANA] == order[:16]


# what is loaded


def by_hand(name: str, signal: Tensor, ch_names: tuple[str, ...]) -> tuple[Tensor, dict[str, Any]]:
    """What a network is to be given for a signal in µV, written out."""
    if name == "CBraMod":
        return signal / 100, {}
    if name == "Labram":
        return signal / 100, {"ch_names": list(ch_names)}
    differences = torch.stack(
        [signal[:, ch_names.index(a)] - signal[:, ch_names.index(b)] for a, b in BANANA], 1
    )
    level = np.quantile(np.abs(differences.numpy()), 0.95, axis=-1, keepdims=True)
    return differences / torch.from_numpy(level).float(), {}


UNTAPERED = pytest.mark.filterwarnings("ignore:A window was not provided:UserWarning")


@UNTAPERED
@pytest.mark.parametrize("name", PUBLISHED)
def test_features_are_those_of_the_network_that_wrote_the_file(
    name: str, writers: dict[str, Any], files: dict[str, Path], question: Question
) -> None:
    weights = loaded(name, files[name], question)
    encoder, _ = weights.build()
    signal = signal_of(question.windows.take(np.arange(3)), weights.ch_names)
    given, more = by_hand(name, signal, weights.ch_names)
    writer = writers[name]
    if name == "Labram":  # which is made for windows of one length
        writer = type(writer)(n_chans=16, n_times=200, sfreq=200, n_outputs=3).eval()
        state = dict(writers[name].state_dict())
        state["temporal_embedding"] = state["temporal_embedding"][:, :2]
        writer.load_state_dict(state)
    with torch.inference_mode():
        expected = writer(given, return_features=True, **more)["features"]
        found = encoder.eval().forward_features(signal)
    n_tokens = 1 if name == "BIOT" else encoder.n_steps(200, 16) * 16
    assert found.tokens.shape == (3, n_tokens, encoder.embed_dim)
    torch.testing.assert_close(found.tokens, expected.reshape(found.tokens.shape))
    torch.testing.assert_close(found.summary, found.tokens.mean(1))
    assert found.tokens.std() > 0


@UNTAPERED
@pytest.mark.parametrize("name", PUBLISHED)
def test_logits_are_those_of_the_network_with_its_head(
    name: str, models: Any, question: Question, tmp_path: Path
) -> None:
    """Written for the same task, with the head put back."""
    torch.manual_seed(2)
    writer = getattr(models, name)(n_chans=16, n_times=200, sfreq=200, n_outputs=2).eval()
    torch.save(writer.state_dict(), tmp_path / "weights.pt")
    weights = loaded(name, tmp_path / "weights.pt", question)
    encoder, head = weights.build()
    signal = signal_of(question.windows.take(np.arange(3)), weights.ch_names)
    given, more = by_hand(name, signal, weights.ch_names)
    with torch.inference_mode():
        expected = writer(given, **more)
        model = PublishedClassifier(encoder, head).eval()
        assert not torch.allclose(model(signal), expected)  # a new head
        head.load_state_dict(writer.final_layer.state_dict())
        torch.testing.assert_close(model(signal), expected)


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_was_not_in_the_file_is_recorded(
    name: str, writers: dict[str, Any], files: dict[str, Path], question: Question
) -> None:
    record = loaded(name, files[name], question).record
    heads = {each for each in writers[name].state_dict() if each.startswith("final_layer.")}
    assert {*record["new"]} == {*record["left"]} == heads
    shortened = {"temporal_embedding": "the first 2 of 16 seconds"} if name == "Labram" else {}
    assert record["shortened"] == shortened
    assert record["people_seen"] == "unknown"
    assert record["network"] == name


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda state: state.pop(next(iter(state))), "1 weights are missing ("),
        (lambda state: state.update(stranger=torch.zeros(2)), "1 weights are unknown (stranger)"),
        (
            lambda state: state.update({list(state)[-3]: torch.zeros(3, 3, 3, 3, 3)}),
            "1 weights are of another size (",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    name: str,
    change: Callable[[dict[str, Tensor]], object],
    complaint: str,
    writers: dict[str, Any],
    question: Question,
    tmp_path: Path,
) -> None:
    state = {
        each: tensor
        for each, tensor in writers[name].state_dict().items()
        if not each.startswith("final_layer.")
    }
    change(state)
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(BergerError) as caught:
        loaded(name, tmp_path / "other.safetensors", question)
    message = str(caught.value)
    assert complaint in message
    assert f"other.safetensors: is not {name} as braindecode names it" in message
    assert message.endswith("as it stands on the Hugging Face Hub.")


def test_weights_of_another_network_are_refused(files: dict[str, Path], question: Question) -> None:
    with pytest.raises(BergerError, match=r"weights are missing .* and \d+ weights are unknown"):
        loaded("CBraMod", files["Labram"], question)


def test_labram_reads_no_window_longer_than_its_weights_know(
    models: Any, corpus: Path, tmp_path: Path
) -> None:
    writer = models.Labram(n_chans=16, n_times=400, sfreq=200, n_outputs=2)
    save_file(writer.state_dict(), tmp_path / "short.safetensors")
    windows = open_corpus(corpus).windows(3)
    asked = Question(windows, np.zeros(len(windows), int), ("a",), InputContract(sfreq=200))
    with pytest.raises(BergerError, match=r"for windows of up to 2 s, but the task's have 3 s"):
        loaded("Labram", tmp_path / "short.safetensors", asked)


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("write", [torch.save, lambda content, file: file.write_bytes(content)])
def test_a_file_that_wants_to_run_something_is_refused(
    write: Callable[[Any, Path], object], question: Question, tmp_path: Path
) -> None:
    payload = {"patch_embedding.mask_encoding": Payload(tmp_path / "it-ran")}
    content = payload if write is torch.save else pickle.dumps(payload)
    write(content, tmp_path / "evil.pt")
    with pytest.raises(BergerError, match=r"evil\.pt"):
        loaded("CBraMod", tmp_path / "evil.pt", question)
    assert not (tmp_path / "it-ran").exists()


def test_a_missing_file_is_said(question: Question, tmp_path: Path) -> None:
    with pytest.raises(BergerError, match=r"none\.pt: no such file"):
        loaded("BIOT", tmp_path / "none.pt", question)


# what is learned


@pytest.mark.parametrize("name", PUBLISHED)
def test_layers_are_unfrozen_and_decayed_like_those_of_any_encoder(
    name: str, files: dict[str, Path], question: Question
) -> None:
    encoder, head = loaded(name, files[name], question).build()
    model = PublishedClassifier(encoder, head)
    groups = trained_groups(model, TRAINING)
    assert len(groups) == 2 + (4 if name == "BIOT" else 12)
    every = [value for group in groups for value in group]
    assert len({*every}) == len(every)
    trainable = {n: p for n, p in model.named_parameters() if "mask_encoding" not in n}
    assert {*every} == {*trainable.values()}
    assert {*groups[-1]} == {*head.parameters()}
    model.eval()(signal_of(question.windows.take(np.arange(2)), CHAINS)).sum().backward()
    assert all(value.grad is not None for group in groups for value in group)


def learned(name: str, file: Path, how: str, question: Question, seed: int = 0) -> np.ndarray:
    person = question.windows.of_block // 2
    learn, _ = learn_published(
        name,
        PublishedModel(weights=file, training=TRAINING),
        how,
        question,
        penalties=(0.1,),
        training=FineTuningConfig(epochs=50),
        seed=seed,
    )
    answer, _ = learn(person < 2, person == 2)
    found: np.ndarray = answer(person == 3)
    return found


def test_a_seed_decides_and_only_where_something_is_random(
    files: dict[str, Path], question: Question
) -> None:
    one, again, other = (
        learned("Labram", files["Labram"], "fine-tuning", question, seed) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    np.testing.assert_allclose(one.sum(1), 1)
    one, other = (
        learned("Labram", files["Labram"], "frozen probe", question, seed) for seed in (0, 1)
    )
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ["CBraMod", "Labram"])  # BIOT takes the amplitude away
def test_a_probe_of_what_keeps_the_amplitude_finds_it(
    name: str, files: dict[str, Path], question: Question
) -> None:
    answers = learned(name, files[name], "frozen probe", question)
    truth = question.labels[question.windows.of_block // 2 == 3]
    assert (answers.argmax(1) == truth).mean() > 0.8


def test_values_are_learned_too(files: dict[str, Path], question: Question) -> None:
    values = replace(question, labels=5000 + 100.0 * question.labels, classes=())
    for how in ("frozen probe", "fine-tuning"):
        answers = learned("BIOT", files["BIOT"], how, values)
        assert answers.shape == (2 * N_WINDOWS, 1)
        assert 4000 < answers.mean() < 6000


# the table


def evaluation_file(folder: Path, corpus: Path, published: dict[str, Any]) -> Path:
    path = folder / "evaluation.yaml"
    content = {
        "tasks": {"alpha": {"task": str(corpus.parent / "task.yaml"), "corpus": str(corpus)}},
        "baselines": [CHANCE],
        "published_models": published,
        "penalties": [0.1],
        "network_training": {"epochs": 1, "batch_size": 8},
        "seeds": [0],
    }
    path.write_text(yaml.safe_dump(content))
    return path


def test_in_an_evaluation(
    files: dict[str, Path], corpus: Path, tmp_path: Path, capsys: Any
) -> None:
    """Each is a row with its mark; one that does not fit is a failed row with its reason."""
    published: dict[str, Any] = {name: {"weights": str(file)} for name, file in files.items()}
    published["wrong"] = {
        "network": "CBraMod",
        "weights": str(files["BIOT"]),
        "adaptations": ["frozen probe"],
    }
    config, out = evaluation_file(tmp_path, corpus, published), tmp_path / "out"
    command = ["evaluate", str(config), "--out", str(out), "--device", "cpu", "--quiet"]
    main(command)

    good = [published_title(name, how) for name in files for how in ("frozen probe", "fine-tuning")]
    bad = published_title("wrong", "frozen probe")
    cells = pd.read_parquet(out / "cells.parquet")
    assert {*cells["title"]} == {CHANCE, *good, bad}
    failed = cells[cells["status"] == "failed"]
    assert {*failed["title"]} == {bad}
    assert failed["reason"].str.contains("is not CBraMod as braindecode names it").all()

    results = pd.read_parquet(out / "results.parquet")
    people = results.groupby("title")["pretraining_people"].unique().map(list)
    assert list(people[good]) == [["unknown"]] * len(good)
    assert people[CHANCE] == ["nobody"]
    predictions = pd.read_parquet(out / "predictions.parquet")
    assert predictions.groupby("title")["start"].count().nunique() == 1

    (facts,) = {
        (cell / "cell.json").read_text()
        for cell in out.glob("cells/alpha/baseline/labram-*fine-tuning/seed-0-fold-1")
    }
    known = yaml.safe_load(facts)
    assert known["pretraining_people"] == "unknown"
    assert known["weights"]["new"] == ["final_layer.weight", "final_layer.bias"]

    page = Page(build_report(out))
    for title in good:
        assert title in page.text
    assert f"{good[0]} (pretrained on unknown people)" in page.text

    # other weights under the same name are another evaluation
    capsys.readouterr()
    files["BIOT"].rename(tmp_path / "kept")
    try:
        torch.manual_seed(5)
        save_file({"other": torch.zeros(1)}, files["BIOT"])
        with pytest.raises(SystemExit, match="2"):
            main(command)
    finally:
        (tmp_path / "kept").rename(files["BIOT"])
    assert (
        "weights of BIOT is another than when this evaluation was begun" in capsys.readouterr().err
    )
