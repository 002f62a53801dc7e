"""A mouse from its file through corpus, pretraining and report to features."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.io import savemat

from berger import list_models, load_checkpoint, open_corpus
from berger.cli import main
from berger.models import DareEEG
from tests.reports.page import Page

SHORT = "--training.steps 2 --training.batch_size 2 --training.log_every 1"
SHORT += " --training.validate_every 2 --max_validation_windows 2"
CHANNELS = {"mat": "[EEG_P, EMG_DIFF]", "edf": "[Channel1, Channel2, Channel3, Channel4]"}


def road(recording: Path, out: Path, config: str, channels: str) -> None:
    """Walk the whole road with both families."""
    corpus = out / "corpus"
    words = ["prepare", str(recording), "--config", config, "--sfreq", "256"]
    main([*words, "--out", str(corpus), "--quiet"])
    main(["corpus", "verify", str(corpus)])
    families = {
        "spechinet-small": ["--model.sfreq", "256"],
        "dare-nano": ["--model.electrodes", channels],
    }
    for family, more in families.items():
        words = ["pretrain", family, "--corpus", str(corpus), "--out", str(out / family)]
        words += [*SHORT.split(), "--validation_by", "time", "--quiet", "--device", "cpu"]
        main([*words, *more])
        record = json.loads((out / family / "run.json").read_text())
        assert len(record["subjects"]["train"]) == 1
        assert record["validation_by"] == "time"
        main(["report", str(out / family), "--quiet"])
        text = Page(out / family / "report.html").text
        assert "later time of" in text
        assert "of people not trained on" not in text
        features = out / f"{family}.parquet"
        words = ["embed", str(recording), "--checkpoint", str(out / family / "checkpoint")]
        main([*words, "--out", str(features), "--quiet", "--device", "cpu"])
        table = pd.read_parquet(features)
        assert len(table) > 2
        assert np.isfinite(table.filter(regex=r"^feature").to_numpy(np.float64)).all()
    main(["report", str(corpus), "--quiet"])
    assert "mouse" in Page(corpus / "report.html").text


def test_a_simulated_mouse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    theta = 40 * np.sin(2 * np.pi * 7 * np.arange(305 * 60) / 305)
    signal = rng.normal(0, 40, (2, len(theta))) + theta
    fields = {"EEG_P": signal[0] / 1000, "EMG_DIFF": signal[1] / 1000, "sf": 305.0}
    savemat(tmp_path / "mouse7.mat", {"data": fields})
    road(tmp_path / "mouse7.mat", tmp_path, "mouse", CHANNELS["mat"])
    (row,) = open_corpus(tmp_path / "corpus").recordings.to_dict("records")
    assert (row["subject"], row["species"]) == ("mouse7", "mouse")
    model = load_checkpoint(tmp_path / "dare-nano" / "checkpoint")
    assert isinstance(model, DareEEG)
    assert model.encoder.electrodes.weight.shape[0] == 2
    capsys.readouterr()


@pytest.mark.parametrize("suffix", ["mat", "edf"])
def test_a_real_mouse(
    suffix: str, real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = sorted((real_data / "mouse").glob(f"*.{suffix}"))
    if not found:
        pytest.skip(f"no mouse in {real_data}; set BERGER_DATA to the folder that has one")
    assert "dare-nano" in list_models()
    road(found[0], tmp_path, "mouse" if suffix == "mat" else "mouse-edf", CHANNELS[suffix])
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "set validation_by: time to watch it on the end of each recording"),
        (["--validation_by", "time"], "no embedding and no position for EEG_P, EMG_DIFF"),
    ],
)
def test_what_a_mouse_needs_is_said(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    fields = {name: rng.normal(0, 0.05, 305 * 60) for name in ("EEG_P", "EMG_DIFF")}
    savemat(tmp_path / "mouse7.mat", {"data": fields | {"sf": 305.0}})
    corpus = str(tmp_path / "corpus")
    prepare = ["prepare", str(tmp_path / "mouse7.mat"), "--config", "mouse", "--sfreq", "256"]
    main([*prepare, "--out", corpus, "--quiet"])
    pretrain = ["pretrain", "dare-nano", "--corpus", corpus, "--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as ended:
        main([*pretrain, "--quiet", "--device", "cpu", *words])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
