"""A new run with the weights of another."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from berger import load_checkpoint, open_corpus
from berger.assembling import pretrain_experts
from berger.corpus import prepare
from berger.errors import BergerError
from berger.evaluation.seen import knows_people, people_seen
from berger.models import DareEEG
from berger.preprocessing import PreprocessingConfig
from berger.pretraining import PretrainingConfig, pretrain
from berger.reports import build_report
from berger.training.log import read_log
from berger.training.state import read_state
from tests.test_pretraining import tiny_dare

Settings = Callable[..., PretrainingConfig]
SHORT = {
    "training__steps": 2,
    "training__log_every": 1,
    "training__validate_every": 2,
    "training__save_every": 1,
    "max_validation_windows": 2,
}


def begin(config: PretrainingConfig, corpus: Path, out: Path, **how: Any) -> Path:
    return pretrain(config, corpus, out, device="cpu", quiet=True, **how)


@pytest.fixture(scope="module")
def second(
    tiny_checkpoint: Path,
    tiny_corpus: Path,
    tiny_pretraining: Settings,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A run of two steps from the weights of another."""
    out = tmp_path_factory.mktemp("second") / "run"
    begin(tiny_pretraining(**SHORT, start_from=str(tiny_checkpoint)), tiny_corpus, out)
    return out


def first_weights(
    config: PretrainingConfig, corpus: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """Weights as they stand before the first step."""
    found: dict[str, Any] = {}

    def stopped(objective: Any, *arguments: Any, **how: Any) -> None:
        found.update({name: w.clone() for name, w in objective.state_dict().items()})
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr("berger.pretraining.fit", stopped)
        with pytest.raises(InterruptedError):
            begin(config, corpus, out)
    return found


def test_it_starts_with_these_weights(
    tiny_checkpoint: Path,
    tiny_corpus: Path,
    tiny_pretraining: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tiny_pretraining(start_from=str(tiny_checkpoint), seed=1)
    found = first_weights(config, tiny_corpus, tmp_path / "run", monkeypatch)
    wanted = load_checkpoint(tiny_checkpoint).state_dict()
    assert found.keys() == {f"model.{name}" for name in wanted}
    for name, weight in wanted.items():
        assert torch.equal(found[f"model.{name}"], weight), name


def test_the_momentum_copy_starts_with_them_too(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the encoder of a DARE-EEG does; its heads are new."""
    first = begin(tiny_dare(training__steps=2), tiny_corpus, tmp_path / "first")
    config = tiny_dare(start_from=str(first))
    found = first_weights(config, tiny_corpus, tmp_path / "second", monkeypatch)
    model = load_checkpoint(first)
    assert isinstance(model, DareEEG)
    for name, weight in model.state_dict().items():
        assert torch.equal(found[f"model.{name}"], weight), name
    for name, weight in model.encoder.state_dict().items():
        assert torch.equal(found[f"target_encoder.{name}"], weight), name
    state = read_state(tmp_path / "first")["objective"]
    heads = [name for name in found if name.startswith("projection.")]
    assert heads
    assert not torch.equal(found[heads[0]], state[heads[0]])


def test_all_else_is_new(second: Path, tiny_run: Path) -> None:
    state, lines = read_state(second), read_log(second / "log.jsonl")
    assert state["step"] == 2
    assert [line["step"] for line in lines if line["split"] == "train"] == [1, 2]
    moments = state["optimizer"]["state"]
    assert {int(moment["step"]) for moment in moments.values()} == {2}
    assert lines[0]["lr"] == read_log(tiny_run / "log.jsonl")[0]["lr"]


def test_the_record_tells_what_it_started_from(
    second: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    provenance = load_checkpoint(second / "checkpoint").provenance
    assert provenance["earlier"] == load_checkpoint(tiny_checkpoint).provenance
    text = build_report(second, out=tmp_path / "report.html").read_text()
    assert "The weights that it began with were those of an earlier pretraining" in text


def test_it_is_resumed(
    second: Path,
    tiny_checkpoint: Path,
    tiny_corpus: Path,
    tiny_pretraining: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tiny_pretraining(**SHORT, start_from=str(tiny_checkpoint))
    out = tmp_path / "run"

    def stopped(*arguments: Any, **how: Any) -> None:
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr("berger.pretraining.validation_losses", stopped)
        with pytest.raises(InterruptedError):
            begin(config, tiny_corpus, out)
    with pytest.raises(BergerError, match=r"another configuration \(start_from: .* → None\)"):
        begin(tiny_pretraining(**SHORT), tiny_corpus, out, resume=True)
    begin(config, tiny_corpus, out, resume=True)
    weights = [(run / "checkpoint" / "model.safetensors").read_bytes() for run in (out, second)]
    assert weights[0] == weights[1]


def test_another_architecture_is_refused(
    tiny_checkpoint: Path, tiny_corpus: Path, tiny_pretraining: Settings, tmp_path: Path
) -> None:
    wider = tiny_pretraining(start_from=str(tiny_checkpoint), model__stem_dim=8)
    with pytest.raises(BergerError, match=r"is of another model \(stem_dim: 4 → 8\); set the conf"):
        begin(wider, tiny_corpus, tmp_path / "run")
    other = tiny_dare(start_from=str(tiny_checkpoint))
    with pytest.raises(BergerError, match=r"is of another model \(SpecHiNet there, dare here\)"):
        begin(other, tiny_corpus, tmp_path / "run")
    nowhere = tiny_pretraining(start_from=str(tmp_path / "nothing"))
    with pytest.raises(BergerError, match=r"nothing: no such folder; give the folder of a check"):
        begin(nowhere, tiny_corpus, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_whom_earlier_weights_have_seen_counts_as_seen(
    second: Path,
    tiny_recordings: Path,
    tiny_corpus: Path,
    tiny_pretraining: Settings,
    tmp_path: Path,
) -> None:
    """Two generations deep, and of experts that were assembled."""
    files = sorted(tiny_recordings.glob("*.edf"))[4:]
    config = PreprocessingConfig(sfreq=100, highpass=1, lowpass=40, max_amplitude=None)
    prepare(files, tmp_path / "others", config, progress=False)
    corpus, others = open_corpus(tiny_corpus), open_corpus(tmp_path / "others")
    first = people_seen(load_checkpoint(second / "checkpoint").provenance, corpus)
    started = tiny_pretraining(
        **{**SHORT, "validation_share": 0.5}, start_from=str(second / "checkpoint")
    )
    third = begin(started, tmp_path / "others", tmp_path / "third")
    provenance = load_checkpoint(third).provenance
    own = {*provenance["subjects"]["train"]}
    assert len(own) == 1 < len(others.subjects)
    assert people_seen(provenance, corpus) == first | own > own
    assert knows_people(provenance)

    experts = started.model_copy(update={"experts": 2})
    out = tmp_path / "experts"
    mixture = pretrain_experts(experts, tmp_path / "others", out, device="cpu", quiet=True)
    assembled = load_checkpoint(mixture).provenance
    assert people_seen(assembled, corpus) == first | own
    assert knows_people(assembled)


def test_earlier_weights_of_nobody_knows_whom_are_told(
    tiny_checkpoint: Path, tiny_corpus: Path, tiny_pretraining: Settings, tmp_path: Path
) -> None:
    imported = shutil.copytree(tiny_checkpoint, tmp_path / "imported")
    (imported / "provenance.json").write_text(json.dumps({}))
    config = tiny_pretraining(**SHORT, start_from=str(imported))
    run = begin(config, tiny_corpus, tmp_path / "run")
    assert not knows_people(load_checkpoint(run).provenance)
