"""Conv-linear-probing on the road: a headband at 200 Hz read by an encoder of other electrodes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from pydantic import ValidationError

from berger import BergerClassifier, load_checkpoint
from berger.configuration import load_config
from berger.corpus import open_corpus, prepare
from berger.errors import BergerError
from berger.evaluation.decoding import AdaptationConfig, adapt
from berger.inference import embed, predict
from berger.models import Classifier, InputContract, create_model
from berger.preprocessing import PreprocessingConfig, preprocess
from berger.recordings import read_recording
from berger.reports import build_report
from berger.simulation import alternating_blocks, simulate_recording, write_edf
from berger.tasks import TaskConfig, load_task
from tests.conftest import TINY_TASK
from tests.models.test_adapter import MUSE
from tests.models.test_heads import headband

HERE = PreprocessingConfig(sfreq=200, highpass=1, lowpass=40, max_amplitude=None)
THERE = HERE.model_copy(update={"sfreq": 256.0, "reference": "average"})


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three people with a headband of four electrodes, 16 s each."""
    folder = tmp_path_factory.mktemp("headband") / "recordings"
    folder.mkdir()
    for number in range(3):
        recording, _ = simulate_recording(
            f"sub-{number}", alternating_blocks(4, 4.0), ch_names=MUSE, sfreq=250, seed=number
        )
        write_edf(recording, folder / f"sub-{number}_eyes.edf")
    (folder.parent / "task.yaml").write_text(TINY_TASK)
    return folder


@pytest.fixture(scope="module")
def task(recordings: Path) -> TaskConfig:
    return load_task(recordings.parent / "task.yaml")


@pytest.fixture(scope="module")
def corpus(recordings: Path) -> Path:
    prepare([recordings], recordings.parent / "corpus", HERE, progress=False)
    return recordings.parent / "corpus"


@pytest.fixture(scope="module")
def checkpoint(recordings: Path) -> Path:
    """A dare-nano at 256 Hz, average reference, which has no embedding for TP9 and TP10."""
    torch.manual_seed(0)
    folder = recordings.parent / "checkpoint"
    contract = InputContract(sfreq=256, window_seconds=4, preprocessing=THERE)
    create_model("dare-nano", contract).save_checkpoint(folder, {})
    return folder


def settings(**fields: Any) -> AdaptationConfig:
    """The shipped configuration, for two epochs."""
    changes = {"fine_tuning.epochs": 2, "fine_tuning.batch_size": 4, "baselines": []} | fields
    return load_config(AdaptationConfig, "conv-linear-probing", changes)


@pytest.fixture(scope="module")
def run(recordings: Path, corpus: Path, checkpoint: Path, task: TaskConfig) -> Path:
    out = recordings.parent / "run"
    config = settings(baselines=["same network, random weights"])
    adapt(config, checkpoint, task, out, corpus_folder=corpus, device="cpu", quiet=True)
    return out


def test_the_encoder_stays_bit_for_bit_and_the_rest_is_trained(run: Path, checkpoint: Path) -> None:
    before, after = load_checkpoint(checkpoint), load_checkpoint(run / "checkpoint")
    assert isinstance(after, Classifier)
    for name, value in before.state_dict().items():
        assert torch.equal(after.encoder.state_dict()[name], value), name
    start = headband({"name": "dare"}, adapter=after.config.adapter)
    moved = after.adapter.projection[0].weight - start.adapter.projection[0].weight  # type: ignore[index, operator]
    assert moved.abs().max() > 0
    assert after.adapter.projection[0].weight.norm(dim=1).max() <= 1 + 1e-6  # type: ignore[index, operator]
    record = json.loads((run / "run.json").read_text())
    n_trained = 19 * 4 + (64 + 1) * 16 + (16 * 16 + 1) * 2
    assert record["checkpoint"]["trained_parameters"] == n_trained
    assert set(record["choices"]) == {"conv-linear probe", "same network, random weights"}
    assert after.contract.sfreq == 200
    assert after.contract.ch_names == MUSE
    assert after.contract.preprocessing == HERE


def test_new_recordings_are_predicted_and_embedded_at_their_own_rate(
    run: Path, recordings: Path, corpus: Path, tmp_path: Path
) -> None:
    file = recordings / "sub-1_eyes.edf"
    assert predict(run / "checkpoint", [file], tmp_path, quiet=True).empty
    table = pd.read_csv(tmp_path / f"{file.name}.csv")
    assert table["start"].tolist() == [0, 4, 8, 12]
    model = load_checkpoint(run / "checkpoint")
    windows = open_corpus(corpus).windows(4.0, subjects=["sub-1"])
    (batch,) = windows.batches(4)
    with torch.inference_mode():
        scores = model(batch.signal()).softmax(1)
        features = model.forward_features(batch.signal())  # type: ignore[operator]
    # a corpus holds 16-bit numbers
    found = torch.tensor(table[["score_open", "score_closed"]].to_numpy(), dtype=torch.float32)
    torch.testing.assert_close(found, scores, atol=1e-3, rtol=0)
    assert embed(run / "checkpoint", [file], tmp_path / "f.parquet", quiet=True).empty
    embedded = pd.read_parquet(tmp_path / "f.parquet").filter(like="feature_").to_numpy()
    torch.testing.assert_close(torch.tensor(embedded), features, atol=1e-2, rtol=0)
    estimator = BergerClassifier(run / "checkpoint")
    transformed = torch.tensor(estimator.transform(batch.signal().numpy()), dtype=torch.float32)
    torch.testing.assert_close(transformed, features)
    other = tmp_path / "other"
    other.mkdir()
    recording, _ = simulate_recording("sub-9", alternating_blocks(2, 4.0), ch_names=("Cz", "Pz"))
    write_edf(recording, other / "sub-9_eyes.edf")
    with pytest.raises(BergerError, match=r"no recording could be used: .*TP9"):
        predict(run / "checkpoint", [other], tmp_path / "p", quiet=True)


def test_the_report_tells_what_was_trained(run: Path) -> None:
    text = " ".join(build_report(run).read_text(encoding="utf-8").split())
    assert "features were read time step by time step by a new linear layer of 16 outputs" in text
    assert "projected onto 19 electrodes by a 1 × 1 convolution across channels" in text
    assert "were brought, where it differed, to the encoder" in text
    assert "What was pretrained stayed frozen." in text


def test_recordings_are_prepared_with_whichever_channels_they_have(
    recordings: Path, checkpoint: Path, task: TaskConfig, tmp_path: Path
) -> None:
    encoder = load_checkpoint(checkpoint)
    asked = THERE.model_copy(update={"sfreq": 128.0, "ch_names": ("Cz",)})
    sfreq = {"sfreq": 128.0, "patch_size": 32}
    config = encoder.config.model_copy(update=sfreq)
    contract = InputContract(sfreq=128, preprocessing=asked)
    create_model(config, contract).save_checkpoint(tmp_path / "other", {})
    files = sorted(recordings.glob("*.edf"))
    out = tmp_path / "run"
    changes = {"fine_tuning.epochs": 1, "adapter.resample": False, "head": {"name": "mlp"}}
    adapt(settings(**changes), tmp_path / "other", task, out, data=files, device="cpu", quiet=True)
    adapted = load_checkpoint(out / "checkpoint")
    assert adapted.contract.ch_names == MUSE
    assert adapted.contract.sfreq == 128


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"adapter.resample": False}, r"prepared with sfreq: 200\.0, but the model was trained"),
        ({"adapter.targets": None}, "prepared with reference: as recorded, but the model was"),
    ],
)
def test_what_no_adapter_makes_up_for_is_refused(
    changes: dict[str, Any],
    reason: str,
    corpus: Path,
    checkpoint: Path,
    task: TaskConfig,
    tmp_path: Path,
) -> None:
    with pytest.raises(BergerError, match=reason):
        adapt(
            *(settings(**changes), checkpoint, task, tmp_path / "run"),
            corpus_folder=corpus,
            device="cpu",
            quiet=True,
        )


def test_another_rate_is_refused_where_nobody_says_how_the_encoder_s_corpus_was_prepared(
    corpus: Path, task: TaskConfig, tmp_path: Path
) -> None:
    create_model("dare-nano").save_checkpoint(tmp_path / "bare", {})
    with pytest.raises(BergerError, match="sampled at 200 Hz, but the model was made for 256 Hz"):
        adapt(
            *(settings(**{"adapter.resample": False}), tmp_path / "bare", task, tmp_path / "run"),
            corpus_folder=corpus,
            device="cpu",
            quiet=True,
        )


def test_several_montages_have_no_common_projection(
    tiny_corpus: Path, tiny_checkpoint: Path, task: TaskConfig, tmp_path: Path
) -> None:
    with pytest.raises(BergerError, match="an adapter of recorded channels needs one montage, but"):
        adapt(
            *(settings(), tiny_checkpoint, task, tmp_path / "run"),
            corpus_folder=tiny_corpus,
            device="cpu",
            quiet=True,
        )


def test_a_frozen_probe_has_no_adapter() -> None:
    for fields in ({"adapter": {"targets": "10-20"}}, {"head": {"name": "mlp"}}):
        with pytest.raises(ValidationError, match="a frozen probe has neither adapter nor another"):
            AdaptationConfig.model_validate(fields)
    with pytest.raises(ValidationError, match="attention weighs all tokens by itself"):
        AdaptationConfig.model_validate(
            {"strategy": "fine-tuning", "head": {"name": "attention"}, "pooling": "electrodes"}
        )


def test_a_mixture_has_a_head_of_its_own(
    tiny_corpus: Path, task: TaskConfig, tmp_path: Path
) -> None:
    expert = {"name": "spechinet", "sfreq": 100, "stem_dim": 4, "embed_dim": 8}
    expert |= {"bottleneck_dim": 8, "n_heads": 2}
    schema = type(create_model("specmoe").config)
    contract = InputContract(
        sfreq=100, preprocessing=open_corpus(tiny_corpus).manifest.preprocessing
    )
    mixture = create_model(schema.model_validate({"expert": expert}), contract)
    mixture.save_checkpoint(tmp_path / "mixture", {})
    with pytest.raises(BergerError, match="a SpecMoE is fine-tuned with a gate and a head of its"):
        adapt(
            *(settings(), tmp_path / "mixture", task, tmp_path / "run"),
            corpus_folder=tiny_corpus,
            device="cpu",
            quiet=True,
        )


def test_a_real_headband(real_data: Path) -> None:
    """Four electrodes at 200 Hz through a dare-nano of 19 electrodes at 256 Hz."""
    config = load_config(PreprocessingConfig, "muse")
    file = sorted((real_data / "muse").rglob("*.csv"))[0]
    recording = preprocess(read_recording(file, layout=config.layout), config).recording
    model = headband({"name": "dare"}).eval()
    model.contract.check(recording.sfreq, recording.ch_names, file)
    windows = torch.tensor(recording.signal[:, : 8 * 800], dtype=torch.float32).unfold(1, 800, 800)
    with torch.inference_mode():
        logits = model(windows.transpose(0, 1))
    assert logits.shape == (8, 2)
    assert logits.isfinite().all()
    assert logits.std(0).min() > 0
