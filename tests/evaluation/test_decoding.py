"""Adapting a checkpoint: what a run leaves, and that its numbers hang together."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pandas as pd
import pytest
import torch

from berger import load_checkpoint, open_corpus
from berger.adaptation.alignment import align
from berger.adaptation.finetuning import FineTuningConfig
from berger.adaptation.probe import embed_windows, fit_probe
from berger.configuration import load_config
from berger.corpus import prepare
from berger.errors import BergerError
from berger.evaluation.decoding import AdaptationConfig, adapt, format_results
from berger.evaluation.metrics import score_predictions
from berger.evaluation.protocol import summarise
from berger.inference import embed, predict
from berger.models import (
    ARCHITECTURES,
    Classifier,
    EuclideanAlignment,
    InputContract,
    SpecHiNet,
    SpecHiNetConfig,
    SpecMoE,
    create_model,
)
from berger.preprocessing import PreprocessingConfig
from berger.recordings import read_recording
from berger.reports import build_report
from berger.simulation import write_edf
from berger.tasks import TaskConfig, find_data, labelled_windows, load_task
from tests.conftest import TINY_MODEL

MODELS = [
    "frozen probe",
    "same network, random weights",
    "band power + logistic regression",
    "chance",
]
CLASSES = ("open", "closed")


@pytest.fixture(scope="module")
def task(tiny_corpus: Path) -> TaskConfig:
    return load_task(tiny_corpus.parent / "task.yaml")


@pytest.fixture(scope="module")
def predictions(tiny_adaptation: Path) -> pd.DataFrame:
    return pd.read_parquet(tiny_adaptation / "predictions.parquet")


@pytest.fixture(scope="module")
def record(tiny_adaptation: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((tiny_adaptation / "run.json").read_text())
    return content


def test_the_files_of_a_run(tiny_adaptation: Path) -> None:
    assert {path.name for path in tiny_adaptation.iterdir()} == {
        *("config.yaml", "run.json", "predictions.parquet", "results.parquet", "checkpoint"),
        "log.jsonl",
    }
    config = load_config(AdaptationConfig, tiny_adaptation / "config.yaml")
    assert config == AdaptationConfig(penalties=(0.01, 1.0))


def test_every_window_is_tested_once_by_every_model(
    predictions: pd.DataFrame, task: TaskConfig, tiny_corpus: Path
) -> None:
    table = labelled_windows(task, open_corpus(tiny_corpus))
    expected = {
        (row.recording, row.start / 100, row.label, row.subject) for row in table.itertuples()
    }
    assert list(predictions["model"].unique()) == MODELS
    for _, own in predictions.groupby("model"):
        assert len(own) == len(expected)
        rows = own[["recording", "start", "truth", "subject"]].itertuples(index=False)
        assert {tuple(row) for row in rows} == expected
    scores = predictions[["score_open", "score_closed"]].to_numpy()
    np.testing.assert_allclose(scores.sum(1), 1, atol=1e-9)
    assert np.array(CLASSES)[scores.argmax(1)].tolist() == predictions["prediction"].tolist()


def test_who_is_tested_in_which_fold(predictions: pd.DataFrame, record: dict[str, Any]) -> None:
    assert len(record["folds"]) == 3
    for number, fold in enumerate(record["folds"], start=1):
        parts = [set(fold[name]) for name in ("train", "validation", "test")]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 6
        assert set(predictions[predictions["fold"] == number]["subject"]) == parts[2]


def test_people_seen_in_pretraining_are_marked(
    predictions: pd.DataFrame, record: dict[str, Any], tiny_run: Path
) -> None:
    train = json.loads((tiny_run / "run.json").read_text())["subjects"]["train"]
    assert set(predictions[predictions["seen_in_pretraining"]]["subject"]) == set(train)
    assert record["seen_in_pretraining"] == sorted(train)
    assert record["checkpoint"]["pretraining_subjects"] == train


def test_people_are_known_by_their_files_too(
    tiny_recordings: Path,
    tiny_checkpoint: Path,
    task: TaskConfig,
    tiny_run: Path,
    tmp_path: Path,
) -> None:
    """In a corpus that calls them by other names."""
    known = load_checkpoint(tiny_checkpoint).contract.preprocessing
    assert known is not None
    renamed = known.model_copy(update={"subject_pattern": r"sub-0(?P<subject>\d)_"})
    prepare([tiny_recordings], tmp_path / "corpus", renamed, progress=False)
    out, config = tmp_path / "run", AdaptationConfig(penalties=(1.0,), baselines=())
    adapt(
        *(config, tiny_checkpoint, task, out),
        corpus_folder=tmp_path / "corpus",
        device="cpu",
        quiet=True,
    )
    train = json.loads((tiny_run / "run.json").read_text())["subjects"]["train"]
    predictions = pd.read_parquet(out / "predictions.parquet")
    seen = predictions[predictions["seen_in_pretraining"]]["subject"].unique()
    assert sorted(seen) == [name.removeprefix("sub-0") for name in train]


def test_results_follow_from_predictions(tiny_adaptation: Path, predictions: pd.DataFrame) -> None:
    results = pd.read_parquet(tiny_adaptation / "results.parquet")
    known = results.pop("pretraining_people")
    assert known.tolist() == [
        "known" if m == "frozen probe" else "nobody" for m in results["model"]
    ]
    pd.testing.assert_frame_equal(results, summarise(predictions, CLASSES, seed=0))
    assert set(results["people"]) == {"all", "unseen in pretraining"}
    together = results.query("people == 'all' and fold == 0").set_index("model")
    assert list(together.index) == MODELS
    for model, own in predictions.groupby("model"):
        expected = score_predictions(own, CLASSES)
        assert together.loc[model, list(expected)].to_dict() == pytest.approx(expected)
    chance = together.loc["chance"]
    assert chance["balanced_accuracy"] == chance["auroc"] == 0.5
    assert chance["balanced_accuracy_low"] == chance["balanced_accuracy_high"] == 0.5
    # eyes closed is told from eyes open by its alpha
    assert together.loc["band power + logistic regression", "balanced_accuracy"] > 0.6
    text = format_results(results)
    assert all(model in text for model in MODELS)
    assert len(text.splitlines()) == 9
    assert len({len(line) for line in text.splitlines()}) == 1
    alone = results.assign(balanced_accuracy_low=np.nan, balanced_accuracy_high=np.nan)
    assert "nan" not in format_results(alone)


def test_the_record_of_a_run(
    record: dict[str, Any], tiny_corpus: Path, tiny_checkpoint: Path
) -> None:
    encoder, corpus = load_checkpoint(tiny_checkpoint), open_corpus(tiny_corpus)
    assert record["kind"] == "adaptation"
    assert record["device"] == "cpu"
    assert record["task"]["name"] == "eyes"
    assert record["task"]["classes"] == list(CLASSES)
    assert {"title", "description", "window_seconds", "licence", "paper", "source"} <= set(
        record["task"]
    )
    assert record["checkpoint"]["n_parameters"] == encoder.n_parameters
    assert record["checkpoint"]["trained_parameters"] == 2 * (8 + 1)
    assert record["checkpoint"]["corpus_id"] == corpus.manifest.id
    assert record["corpus"]["id"] == corpus.manifest.id
    assert {"versions", "command", "hardware", "git_commit", "started", "wall_seconds"} <= set(
        record
    )
    assert record["left_out"] == []
    assert set(record["choices"]) == set(MODELS)
    assert set(record["choices"]["frozen probe"]) <= {0.01, 1.0}


def test_the_checkpoint_is_the_encoder_and_a_probe(
    tiny_adaptation: Path, tiny_checkpoint: Path, tiny_corpus: Path, task: TaskConfig
) -> None:
    model, encoder = (
        load_checkpoint(folder) for folder in (tiny_adaptation / "checkpoint", tiny_checkpoint)
    )
    assert isinstance(model, Classifier)
    assert isinstance(encoder, SpecHiNet)
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, model.encoder.state_dict()[name]), name
    assert model.config.classes == CLASSES
    assert model.contract.window_seconds == 4
    assert model.contract.preprocessing == encoder.contract.preprocessing
    assert model.provenance["kind"] == "adaptation"
    # the head reads the features as the probe that was fitted to everybody
    corpus = open_corpus(tiny_corpus)
    table = labelled_windows(task, corpus)
    windows = corpus.windows_at(table, 4)
    features = embed_windows(encoder, windows, "mean")
    record = json.loads((tiny_adaptation / "run.json").read_text())
    penalty = sorted(record["choices"]["frozen probe"])[1]  # the median of three
    labels = (table["label"] == "closed").to_numpy(int)
    expected = fit_probe(features, labels, 2, penalty).probabilities(features)
    with torch.inference_mode():
        found = torch.cat([model(batch.signal()).softmax(-1) for batch in windows.batches(8)])
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert (found.argmax(1).numpy() == labels).mean() > 0.5  # it has seen these


def test_the_same_again(
    tiny_adaptation: Path,
    tiny_checkpoint: Path,
    tiny_corpus: Path,
    task: TaskConfig,
    tmp_path: Path,
) -> None:
    config = load_config(AdaptationConfig, tiny_adaptation / "config.yaml")
    adapt(
        *(config, tiny_checkpoint, task, tmp_path / "again"),
        corpus_folder=tiny_corpus,
        device="cpu",
        quiet=True,
    )
    for name in ("predictions.parquet", "results.parquet", "checkpoint/model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tiny_adaptation / name).read_bytes()


def test_from_recordings(
    tiny_recordings: Path, tiny_checkpoint: Path, task: TaskConfig, tmp_path: Path
) -> None:
    """They are prepared as the checkpoint expects; what gives no window is listed."""
    files = sorted(tiny_recordings.glob("*.edf"))
    broken = tmp_path / "sub-99_eyes.edf"
    broken.write_bytes(files[0].read_bytes()[:3000])
    out, config = tmp_path / "run", AdaptationConfig(penalties=(1.0,), baselines=())
    results = adapt(
        *(config, tiny_checkpoint, task, out),
        data=[*files, broken],
        device="cpu",
        quiet=True,
    )
    assert set(results["model"]) == {"frozen probe"}
    corpus = open_corpus(out / "corpus")
    expected = load_checkpoint(tiny_checkpoint).contract.preprocessing
    assert expected is not None
    assert corpus.manifest.preprocessing == expected.model_copy(update={"max_amplitude": None})
    left_out = json.loads((out / "run.json").read_text())["left_out"]
    (row,) = left_out
    assert row["recording"].endswith("sub-99_eyes.edf")
    assert row["n_windows"] == 0
    assert "header is damaged" in row["reason"]


def test_from_files_of_one_name_in_folders_that_are_written_in_any_way(
    tiny_recordings: Path,
    tiny_checkpoint: Path,
    task: TaskConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As BIDS-like data lie: the folder tells the person, and all files are called the same."""
    for number, file in enumerate(sorted(tiny_recordings.glob("*.edf"))[1::2]):
        (tmp_path / "data" / f"s{number}").mkdir(parents=True)
        shutil.copy(file, tmp_path / "data" / f"s{number}" / "eyes.edf")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    pattern = r"(?P<subject>s\d)/eyes"
    asked = task.model_copy(update={"recordings": ("*/*.edf",), "subject_pattern": pattern})
    data = find_data(asked, "task.yaml", Path("..") / "data")
    assert str(data[0]).startswith("..")
    data[0] = data[0].absolute()
    config = AdaptationConfig(penalties=(1.0,), baselines=())
    adapt(config, tiny_checkpoint, asked, Path("run"), data=data, device="cpu", quiet=True)
    predictions = pd.read_parquet("run/predictions.parquet")
    assert set(predictions["recording"]) == {"s0/eyes.edf", "s1/eyes.edf", "s2/eyes.edf"}
    assert set(predictions["subject"]) == {"s0", "s1", "s2"}


def test_each_electrode_on_its_own_needs_one_montage(
    tiny_recordings: Path,
    tiny_checkpoint: Path,
    tiny_corpus: Path,
    task: TaskConfig,
    tmp_path: Path,
) -> None:
    config = AdaptationConfig(pooling="electrodes", penalties=(1.0,), baselines=())
    with pytest.raises(BergerError, match="pooling: electrodes needs one montage, but the record"):
        adapt(config, tiny_checkpoint, task, tmp_path / "a", corpus_folder=tiny_corpus, quiet=True)
    out = tmp_path / "b"
    files = sorted(tiny_recordings.glob("*.edf"))[1::2]
    adapt(config, tiny_checkpoint, task, out, data=files, device="cpu", quiet=True)
    model = load_checkpoint(out / "checkpoint")
    assert isinstance(model, Classifier)
    assert model.contract.ch_names == ("Fp1", "Fp2", "C3", "C4", "P7", "P8", "O1", "O2")
    assert model.config.n_chans == 8
    assert model.head.in_features == 8 * 8


# Euclidean alignment

ALIGNED = AdaptationConfig.model_validate(
    {
        "euclidean_alignment": {"amplitude": 12},
        "penalties": [0.01, 1.0],
        "baselines": ["band power + logistic regression"],
    }
)


@pytest.fixture(scope="module")
def aligned_run(tiny_corpus: Path, tiny_checkpoint: Path, task: TaskConfig) -> Path:
    out = tiny_corpus.parent / "aligned"
    adapt(ALIGNED, tiny_checkpoint, task, out, corpus_folder=tiny_corpus, device="cpu", quiet=True)
    return out


def test_a_run_on_aligned_recordings_says_so(aligned_run: Path, tiny_adaptation: Path) -> None:
    record = json.loads((aligned_run / "run.json").read_text())
    assert record["euclidean_alignment"] == {
        "amplitude": 12.0,
        "tolerance": 1e-6,
        "min_seconds": 10.0,
        "empty_directions": {},
    }
    assert load_config(AdaptationConfig, aligned_run / "config.yaml") == ALIGNED
    model = load_checkpoint(aligned_run / "checkpoint")
    assert model.contract.euclidean_alignment == EuclideanAlignment(amplitude=12)
    plain = load_checkpoint(tiny_adaptation / "checkpoint")
    assert plain.contract.euclidean_alignment is None
    assert json.loads((tiny_adaptation / "run.json").read_text())["euclidean_alignment"] is None
    # the encoder saw other signals, the baseline the same
    scores = [
        pd.read_parquet(run / "predictions.parquet") for run in (aligned_run, tiny_adaptation)
    ]
    for name, same in (("frozen probe", False), ("band power + logistic regression", True)):
        one, other = (table[table["model"] == name]["score_open"].to_numpy() for table in scores)
        assert np.allclose(one, other, atol=1e-3) == same


def test_a_new_recording_is_aligned_by_its_own_windows(
    aligned_run: Path, tiny_corpus: Path, tiny_recordings: Path, tmp_path: Path
) -> None:
    """In prediction as in training, alone as beside others; a short one is refused."""
    model = load_checkpoint(aligned_run / "checkpoint")
    recording = read_recording(tiny_recordings / "sub-02_eyes.edf")
    (tmp_path / "new").mkdir()
    write_edf(replace(recording, signal=recording.signal[:, :2250]), tmp_path / "new" / "short.edf")
    shutil.copy(recording.path, tmp_path / "new")
    failures = predict(aligned_run / "checkpoint", [tmp_path / "new"], tmp_path / "out", quiet=True)
    assert failures["recording"].tolist() == ["new/short.edf"]
    assert "short.edf: its usable windows last 8 s, too short for a" in failures["reason"].item()
    scores = pd.read_csv(tmp_path / "out" / "new" / "sub-02_eyes.edf.csv")["score_open"]

    windows = open_corpus(tiny_corpus).windows(4)
    own = windows.take(np.flatnonzero((windows.table["subject"] == "sub-02").to_numpy()))
    for aligns in (True, False):
        seen = align(own, own, EuclideanAlignment(amplitude=12))[0] if aligns else own
        with torch.inference_mode():
            found = torch.cat([model(batch.signal()).softmax(-1) for batch in seen.batches(8)])
        assert np.allclose(found[:, 0], scores, atol=0.02) == aligns  # the corpus rounds to counts

    embed(aligned_run / "checkpoint", [tiny_recordings], tmp_path / "all.parquet", quiet=True)
    embed(aligned_run / "checkpoint", [recording.path], tmp_path / "one.parquet", quiet=True)
    every, one = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("all", "one"))
    beside = every[every["recording"].str.endswith("sub-02_eyes.edf")]
    np.testing.assert_array_equal(beside.filter(like="feat"), one.filter(like="feat"))


def test_what_classes_mean_does_not_change_the_alignment(
    aligned_run: Path, tiny_checkpoint: Path, tiny_corpus: Path, task: TaskConfig, tmp_path: Path
) -> None:
    """With the labels swapped, every score is that of the other class."""
    swapped = task.model_copy(
        update={
            "labels": task.labels.model_copy(
                update={"classes": {"eyes closed": "open", "eyes open": "closed"}}
            )
        }
    )
    out, config = tmp_path / "run", ALIGNED.model_copy(update={"baselines": ()})
    adapt(
        config, tiny_checkpoint, swapped, out, corpus_folder=tiny_corpus, device="cpu", quiet=True
    )
    one, other = (pd.read_parquet(run / "predictions.parquet") for run in (aligned_run, out))
    one = one[one["model"] == "frozen probe"]
    np.testing.assert_allclose(one["score_open"], other["score_closed"], atol=1e-4)


def test_a_recording_too_short_to_be_aligned_is_refused(
    tiny_checkpoint: Path, tiny_corpus: Path, task: TaskConfig, tmp_path: Path
) -> None:
    config = AdaptationConfig.model_validate({"euclidean_alignment": {"min_seconds": 33}})
    with pytest.raises(
        BergerError, match=r"sub-01_eyes.edf: its usable windows last 32 s, too sho"
    ):
        adapt(
            config, tiny_checkpoint, task, tmp_path / "run", corpus_folder=tiny_corpus, quiet=True
        )
    assert not (tmp_path / "run").exists()


# what is refused


def test_folders_that_hold_a_run_are_refused(
    tiny_run: Path,
    tiny_adaptation: Path,
    tiny_checkpoint: Path,
    tiny_corpus: Path,
    task: TaskConfig,
) -> None:
    """Also that of the pretraining, whose files would be written over."""
    for folder in (tiny_run, tiny_adaptation):
        before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        with pytest.raises(BergerError, match="holds a run already; choose another folder"):
            adapt(
                *(AdaptationConfig(), tiny_checkpoint, task, folder),
                corpus_folder=tiny_corpus,
                quiet=True,
            )
        assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_an_adapted_checkpoint_is_refused(
    tiny_adaptation: Path, tiny_corpus: Path, task: TaskConfig, tmp_path: Path
) -> None:
    with pytest.raises(BergerError, match="is adapted already; give a pretrained checkpoint"):
        adapt(
            *(AdaptationConfig(), tiny_adaptation / "checkpoint", task, tmp_path / "run"),
            corpus_folder=tiny_corpus,
            quiet=True,
        )


def test_a_corpus_that_was_filtered_otherwise_is_refused(
    tiny_recordings: Path, tiny_checkpoint: Path, task: TaskConfig, tmp_path: Path
) -> None:
    other = PreprocessingConfig(sfreq=100, highpass=2, lowpass=40, max_amplitude=None)
    prepare([tiny_recordings], tmp_path / "corpus", other, progress=False)
    with pytest.raises(BergerError, match=r"prepared with highpass: 2\.0, but the model was train"):
        adapt(
            *(AdaptationConfig(), tiny_checkpoint, task, tmp_path / "run"),
            corpus_folder=tmp_path / "corpus",
            quiet=True,
        )


def test_no_recordings_are_refused(tiny_checkpoint: Path, task: TaskConfig, tmp_path: Path) -> None:
    with pytest.raises(BergerError, match="task eyes: give its recordings by --data, or a --corp"):
        adapt(AdaptationConfig(), tiny_checkpoint, task, tmp_path / "run", quiet=True)


def test_two_people_are_too_few(
    tiny_recordings: Path, tiny_checkpoint: Path, task: TaskConfig, tmp_path: Path
) -> None:
    files = sorted(tiny_recordings.glob("*.edf"))[:2]
    with pytest.raises(BergerError, match="recordings of sub-01 and sub-02 only; folds by person"):
        adapt(AdaptationConfig(), tiny_checkpoint, task, tmp_path, data=files, quiet=True)


def test_a_checkpoint_without_preparation_needs_a_corpus(
    tiny_checkpoint: Path, tiny_recordings: Path, task: TaskConfig, tmp_path: Path
) -> None:
    copy = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    config["contract"]["preprocessing"] = None
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(BergerError, match="give its recordings by --data, or a --corpus"):
        adapt(
            *(AdaptationConfig(), copy, task, tmp_path / "run"),
            data=sorted(tiny_recordings.glob("*.edf")),
            quiet=True,
        )


@pytest.mark.parametrize("name", ["spechinet-published", "specmoe"])
def test_any_encoder_can_be_adapted(
    name: str, tiny_corpus: Path, task: TaskConfig, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    sizes = {"sfreq": 100, "stem_dim": 4, "embed_dim": 8, "bottleneck_dim": 8, "n_heads": 2}
    described = {"name": "spechinet-published", **sizes}
    schema, _ = ARCHITECTURES[name]
    config = schema.model_validate({"expert": described} if name == "specmoe" else described)
    contract = InputContract(
        sfreq=100, preprocessing=open_corpus(tiny_corpus).manifest.preprocessing
    )
    create_model(config, contract).eval().save_checkpoint(tmp_path / "checkpoint", {})
    settings = AdaptationConfig(penalties=(0.01,), baselines=("same network, random weights",))
    results = adapt(
        settings,
        tmp_path / "checkpoint",
        task,
        tmp_path / "run",
        corpus_folder=tiny_corpus,
        device="cpu",
        quiet=True,
    )
    assert set(results["model"]) == {"frozen probe", "same network, random weights"}
    adapted = load_checkpoint(tmp_path / "run" / "checkpoint")
    assert isinstance(adapted, Classifier)
    assert adapted.config.encoder == config


# fine-tuning

FINE_TUNING = {"epochs": 2, "unfreeze": 1, "batch_size": 16}


@pytest.fixture(scope="module")
def mixture_checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two times the same expert, joined."""
    folder = tmp_path_factory.mktemp("mixture") / "checkpoint"
    expert = load_checkpoint(tiny_checkpoint)
    assert isinstance(expert, SpecHiNet)
    SpecMoE.from_experts([expert, expert]).save_checkpoint(folder, expert.provenance)
    return folder


@pytest.mark.parametrize("gate", ["spectral", "none"])
def test_a_mixture_is_fine_tuned_and_predicts(
    gate: str,
    mixture_checkpoint: Path,
    tiny_corpus: Path,
    tiny_recordings: Path,
    task: TaskConfig,
    tmp_path: Path,
) -> None:
    config = AdaptationConfig.model_validate(
        {
            "strategy": "fine-tuning",
            "fine_tuning": FINE_TUNING,
            "mixture": {"gate": gate, "segment_seconds": 1, "pool_chans": "max"},
            "baselines": ["chance"],
        }
    )
    out = tmp_path / "run"
    results = adapt(
        config, mixture_checkpoint, task, out, corpus_folder=tiny_corpus, device="cpu", quiet=True
    )
    assert set(results["model"]) == {"fine-tuned", "chance"}
    predictions = pd.read_parquet(out / "predictions.parquet")
    own = predictions[predictions["model"] == "fine-tuned"]
    assert not own.duplicated(["recording", "start"]).any()
    assert len(own) == len(labelled_windows(task, open_corpus(tiny_corpus)))
    np.testing.assert_allclose(own[["score_open", "score_closed"]].sum(axis=1), 1, atol=1e-6)

    record = json.loads((out / "run.json").read_text())
    assert set(record["choices"]["fine-tuned"]) <= {0.0, 1.0}
    adapted = load_checkpoint(out / "checkpoint")
    assert isinstance(adapted, SpecMoE)
    assert (adapted.classes, adapted.config.gate) == (CLASSES, gate)
    assert record["checkpoint"]["trained_parameters"] == adapted.n_parameters
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    with_validation = [line for line in lines if "validation_loss" in line]
    assert len(with_validation) == 2 * len(record["folds"])
    assert len(lines) > len(with_validation)  # the network for everybody
    assert {line["model"] for line in lines} == {"fine-tuned"}
    for line in lines:
        weights = [line[f"gate_{expert}"] for expert in range(2) if f"gate_{expert}" in line]
        assert len(weights) == (0 if gate == "none" else 2)
        assert all(0 < weight < 1 for weight in weights)

    first = sorted(tiny_recordings.glob("*.edf"))[0]
    failures = predict(out / "checkpoint", [first], tmp_path / "scores", quiet=True)
    assert failures.empty
    scores = pd.read_csv(tmp_path / "scores" / f"{first.name}.csv")
    assert set(scores["prediction"]) <= set(CLASSES)
    with pytest.raises(BergerError, match="is adapted already"):
        adapt(config, out / "checkpoint", task, tmp_path / "again", corpus_folder=tiny_corpus)


def test_a_single_encoder_is_fine_tuned_and_so_is_its_untrained_twin(
    tiny_checkpoint: Path, tiny_corpus: Path, task: TaskConfig, tmp_path: Path
) -> None:
    config = AdaptationConfig.model_validate(
        {
            "strategy": "fine-tuning",
            "fine_tuning": FINE_TUNING | {"unfreeze": None},
            "baselines": ["same network, random weights"],
            "n_folds": 2,
        }
    )
    out = tmp_path / "run"
    said: list[str] = []
    results = adapt(
        *(config, tiny_checkpoint, task, out),
        corpus_folder=tiny_corpus,
        device="cpu",
        quiet=True,
        tell=said.append,
    )
    total = load_checkpoint(tiny_checkpoint).n_parameters
    assert said == [  # 2 · (8 + 1)
        f"frozen encoder: trains 18 parameters; the pretrained encoder has {total:,}."
    ]
    assert set(results["model"]) == {"frozen encoder", "same network, random weights"}
    before, after = load_checkpoint(tiny_checkpoint), load_checkpoint(out / "checkpoint")
    assert isinstance(after, Classifier)
    for name, value in before.state_dict().items():  # never unfrozen
        assert torch.equal(after.encoder.state_dict()[name], value)
    record = json.loads((out / "run.json").read_text())
    assert record["checkpoint"]["trained_parameters"] == sum(
        parameter.numel() for parameter in after.head.parameters()
    )


# values


@pytest.fixture(scope="module")
def alertness(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> TaskConfig:
    """A number for each stretch: 8 with open eyes, 5 with closed ones, in a table."""
    folder = tmp_path_factory.mktemp("alertness")
    marks = [
        (row.recording, mark["onset"], mark["duration"], 8 if "open" in mark["description"] else 5)
        for row in open_corpus(tiny_corpus).recordings.itertuples()
        for mark in row.annotations
        if mark["description"].startswith("eyes")
    ]
    table = pd.DataFrame(marks, columns=["file", "begin", "seconds", "alertness"])
    table.to_csv(folder / "alertness.csv", index=False)
    (folder / "task.yaml").write_text(
        """
name: alertness
title: How alert somebody is
kind: regression
target: {name: alertness, unit: points}
labels:
  from: table
  table: alertness.csv
  recording: file
  column: alertness
  onset: begin
  duration: seconds
window_seconds: 4
n_folds: 3
"""
    )
    return load_task(folder / "task.yaml")


REGRESSION = AdaptationConfig(
    penalties=(0.01, 1.0),
    baselines=("band power + logistic regression", "same network, random weights", "chance"),
    fine_tuning=FineTuningConfig(epochs=2, batch_size=8),
)


@pytest.mark.parametrize("strategy", ["frozen probe", "fine-tuning"])
def test_values_are_predicted(
    strategy: str, alertness: TaskConfig, tiny_corpus: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    config = REGRESSION.model_copy(update={"strategy": strategy})
    results = adapt(
        config, tiny_checkpoint, alertness, out, corpus_folder=tiny_corpus, device="cpu", quiet=True
    )
    predictions = pd.read_parquet(out / "predictions.parquet")
    assert set(predictions["truth"]) == {5.0, 8.0}
    together = results.query("people == 'all' and fold == 0").set_index("model")
    band_power = together.loc["band power + ridge regression"]
    assert band_power["pearson"] > 0.5  # eyes closed have more alpha
    assert band_power["pearson_low"] < band_power["pearson"] < band_power["pearson_high"]
    chance = predictions[predictions["model"] == "chance"]
    for _, fold in chance.groupby("fold"):
        others = chance[~chance["subject"].isin(fold["subject"])]
        np.testing.assert_allclose(fold["prediction"], others["truth"].mean())
    own = predictions[predictions["model"] == config.model_name]
    error = np.sqrt(np.mean((own["prediction"] - own["truth"]) ** 2))
    assert together.loc[config.model_name, "rmse"] == pytest.approx(error)
    assert 4 < own["prediction"].mean() < 9
    assert "RMSE" in format_results(results)

    model = load_checkpoint(out / "checkpoint")
    assert isinstance(model, Classifier)
    assert (model.classes, model.target, model.is_adapted) == ((), "alertness (points)", True)
    text = build_report(out).read_text()
    assert "Predicted and true values" in text
    assert "alertness (points)" in text
    assert "band power + ridge regression" in text


def test_a_recording_gets_values(
    alertness: TaskConfig,
    tiny_corpus: Path,
    tiny_recordings: Path,
    tiny_checkpoint: Path,
    tmp_path: Path,
) -> None:
    config = AdaptationConfig(baselines=(), penalties=(0.01,))
    adapt(
        config, tiny_checkpoint, alertness, tmp_path / "run", corpus_folder=tiny_corpus, quiet=True
    )
    file = sorted(tiny_recordings.glob("**/*.edf"))[0]
    predict(tmp_path / "run" / "checkpoint", [file], tmp_path / "out", device="cpu", quiet=True)
    table = pd.read_csv(tmp_path / "out" / f"{file.name}.csv")
    assert [*table] == ["start", "duration", "usable", "prediction"]
    assert table["prediction"].between(0, 15).all()
    marks = mne.read_annotations(tmp_path / "out" / f"{file.name}_annotations.edf")
    assert marks.description[0] == f"alertness (points): {table['prediction'][0]:.4g}"


def test_a_mixture_is_tuned_to_values(
    alertness: TaskConfig, tiny_corpus: Path, tmp_path: Path
) -> None:
    small = SpecHiNetConfig.model_validate(TINY_MODEL)
    torch.manual_seed(0)
    mixture = SpecMoE.from_experts([SpecHiNet(small), SpecHiNet(small)], segment_seconds=2.0)
    preprocessing = open_corpus(tiny_corpus).manifest.preprocessing
    mixture.contract = InputContract(sfreq=100, preprocessing=preprocessing)
    mixture.save_checkpoint(tmp_path / "mixture")
    config = REGRESSION.model_copy(update={"strategy": "fine-tuning", "baselines": ("chance",)})
    out = tmp_path / "run"
    adapt(config, tmp_path / "mixture", alertness, out, corpus_folder=tiny_corpus, quiet=True)
    adapted = load_checkpoint(out / "checkpoint")
    assert isinstance(adapted, SpecMoE)
    assert adapted.target == "alertness (points)"
    assert adapted.values is not None
    assert adapted.values.mean == pytest.approx(6.5, abs=0.3)
    assert adapted.values.deviation == pytest.approx(1.5, abs=0.1)
