"""Every shipped configuration of an adaptation runs for both families, or says why it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from berger import load_checkpoint, open_corpus
from berger.configuration import load_config, shipped_configs
from berger.corpus import prepare
from berger.errors import BergerError
from berger.evaluation.decoding import AdaptationConfig, adapt
from berger.inference import predict
from berger.interop.onnx import export
from berger.models import DareConfig, InputContract, SpecHiNetConfig, SpecMoEConfig, create_model
from berger.models.heads import Classifier, pooled_features
from berger.preprocessing import PreprocessingConfig
from berger.reports import build_report
from berger.simulation import simulate_dataset
from berger.tasks import load_task
from tests.conftest import TINY_MODEL, TINY_TASK

SHIPPED = sorted(
    name for name, path in shipped_configs().items() if path.parent.name == "adaptation"
)
EXPERT = SpecHiNetConfig.model_validate(TINY_MODEL)
MODELS = {
    "spechinet": EXPERT,
    "specmoe": SpecMoEConfig(expert=EXPERT, n_experts=2, segment_seconds=1),
    "dare": DareConfig(embed_dim=8, n_heads=2, patch_size=50, sfreq=100, parts="encoder"),
}
REFUSED = {
    ("dare", "probe-electrodes"): "sums up all electrodes of a time step and has no features of",
    ("specmoe", "conv-linear-probing"): "a SpecMoE is fine-tuned with a gate and a head of its own",
}
NEW = ("ridge-probe", "low-rank", "gradual-unfreezing")
VALUES = """
name: number
title: A number of each recording
kind: regression
target: {name: number}
labels: {from: table, table: values.csv, recording: recording, column: value}
window_seconds: 4
n_folds: 3
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three people of one montage, 16 s each, a task, and a fresh checkpoint of each model."""
    folder = tmp_path_factory.mktemp("shipped")
    simulate_dataset(folder / "recordings", 6, n_blocks=2, block_seconds=8.0)
    (folder / "task.yaml").write_text(TINY_TASK)
    files = sorted((folder / "recordings").glob("*.edf"))[1::2]
    config = PreprocessingConfig(sfreq=100, highpass=1, lowpass=40, max_amplitude=None)
    prepare(files, folder / "corpus", config, progress=False)
    own = open_corpus(folder / "corpus").manifest.preprocessing
    for name, model in MODELS.items():
        torch.manual_seed(0)
        contract = InputContract(sfreq=100, preprocessing=own)
        create_model(model, contract).eval().save_checkpoint(folder / name)
    return folder


def settings(name: str, **more: Any) -> AdaptationConfig:
    """A shipped configuration for three folds of two epochs, without baselines."""
    short: dict[str, Any] = {"baselines": [], "n_folds": 3}
    own = load_config(AdaptationConfig, name)
    if not own.is_probe:
        short["fine_tuning.epochs"] = 2
    if own.fine_tuning.unfreeze_every is not None:
        short |= {"fine_tuning.unfreeze": 0, "fine_tuning.unfreeze_every": 1}
    if own.model_name == "fine-tuned":
        short["mixture.segment_seconds"] = 1
    return load_config(AdaptationConfig, name, short | more)


def run(name: str, model: str, folder: Path, out: Path, **more: Any) -> pd.DataFrame:
    if name == "low-rank":
        pytest.importorskip("peft", reason="peft is not installed: pip install berger[peft]")
    task = load_task(folder / "task.yaml")
    return adapt(
        *(settings(name, **more), folder / model, task, out),
        corpus_folder=folder / "corpus",
        device="cpu",
        quiet=True,
    )


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", SHIPPED)
def test_it_runs(name: str, model: str, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    if reason := REFUSED.get((model, name)):
        with pytest.raises(BergerError, match=reason):
            run(name, model, folder, out)
        return
    results = run(name, model, folder, out)
    assert results["balanced_accuracy"].between(0, 1).all()
    adapted = load_checkpoint(out / "checkpoint")
    assert adapted.classes == ("open", "closed")
    before, after = load_checkpoint(folder / model).state_dict(), adapted.state_dict()
    own = {key.removeprefix("encoder."): value for key, value in after.items()}
    kept = all(torch.equal(own[key], value) for key, value in before.items() if key in own)
    if name in NEW[1:]:
        assert not kept  # the encoder learned
    elif name in ("probe", "probe-electrodes", "ridge-probe", "conv-linear-probing"):
        assert kept
    if name in NEW:
        file = sorted((folder / "recordings").glob("*.edf"))[1]
        assert predict(out / "checkpoint", [file], tmp_path / "scores", quiet=True).empty
        table = pd.read_csv(tmp_path / "scores" / f"{file.name}.csv")
        np.testing.assert_allclose(table[["score_open", "score_closed"]].sum(axis=1), 1, atol=1e-5)


def test_a_ridge_probe_says_the_same_from_its_checkpoint_and_as_onnx(
    folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: berger[onnx]")
    run("ridge-probe", "dare", folder, tmp_path / "run", penalties=[0.1])
    model = load_checkpoint(tmp_path / "run" / "checkpoint")
    assert isinstance(model, Classifier)
    encoder = load_checkpoint(folder / "dare")
    corpus = open_corpus(folder / "corpus")
    (batch,) = corpus.windows(4.0, subjects=corpus.subjects[:1]).batches(16)
    with torch.inference_mode():
        found = model(batch.signal(), batch.ch_names).softmax(1)
        features = pooled_features(encoder, batch.signal(), "mean", batch.ch_names).double()
    weight, bias = (value.detach().double() for value in (model.head.weight, model.head.bias))
    scores = (features @ weight.T + bias) / 2
    np.testing.assert_allclose(scores.sum(1), 1, atol=1e-4)  # a regression's of 0 and 1
    torch.testing.assert_close(found.double(), (2 * scores).softmax(1), rtol=0, atol=1e-5)
    export(tmp_path / "run" / "checkpoint", tmp_path / "probe.onnx", ch_names=batch.ch_names)


@pytest.mark.parametrize("name", ["low-rank", "gradual-unfreezing", "ridge-probe"])
def test_few_shots_go_with_every_adaptation(name: str, folder: Path, tmp_path: Path) -> None:
    run(name, "dare", folder, tmp_path / "run", shots=1)
    with pytest.raises(BergerError, match="windows of open, fewer than shots: 99; take fewer"):
        run(name, "dare", folder, tmp_path / "again", shots=99)


def test_what_is_combined_is_told_in_the_report(folder: Path, tmp_path: Path) -> None:
    steps = {"fine_tuning.unfreeze_every": 1, "fine_tuning.unfreeze": 0}
    run("low-rank", "dare", folder, tmp_path / "run", shots=2, **steps)
    text = " ".join(build_report(tmp_path / "run").read_text(encoding="utf-8").split())
    assert "everything was fitted to and chosen by 2 windows of each class of the training" in text
    assert "one after another, from the last to the first, a further one every 1 epoch" in text
    assert "convolutions layers of rank 8 were trained (LoRA, alpha 16), and added to them" in text


def test_values_are_predicted_by_all_that_is_new(folder: Path, tmp_path: Path) -> None:
    labels = "recording,value\n" + "".join(
        f"{path},{number}\n"
        for number, path in enumerate(open_corpus(folder / "corpus").recordings["recording"])
    )
    (folder / "values.csv").write_text(labels)
    (folder / "values.yaml").write_text(VALUES)
    task = load_task(folder / "values.yaml")
    for name in NEW:
        results = adapt(
            *(settings(name, shots=2), folder / "dare", task, tmp_path / name),
            corpus_folder=folder / "corpus",
            device="cpu",
            quiet=True,
        )
        assert np.isfinite(results["rmse"]).all()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"low_rank": {}}, "low_rank is trained inside an encoder; set strategy to fine-tuning"),
        (
            {"strategy": "fine-tuning", "low_rank": {}, "fine_tuning": {"unfreeze": None}},
            "fine_tuning.unfreeze to the epoch from which it is trained",
        ),
        (
            {"strategy": "ridge probe", "head": {"name": "mlp"}},
            "a ridge probe has neither adapter nor another head",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        AdaptationConfig.model_validate(fields)
