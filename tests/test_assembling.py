"""Experts are joined if, and only if, they belong together."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from berger import assembling, load_checkpoint, open_corpus
from berger.assembling import assemble, pretrain_experts
from berger.errors import BergerError
from berger.models import SpecHiNet, SpecMoE
from berger.pretraining import PretrainingConfig, pretrain, windows_mark

Settings = Callable[..., PretrainingConfig]


@pytest.fixture(scope="module")
def config(tiny_pretraining: Settings) -> PretrainingConfig:
    """Three experts of two steps each."""
    return tiny_pretraining(experts=3, training__steps=2, max_validation_windows=2)


@pytest.fixture(scope="module")
def run(
    config: PretrainingConfig, tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """All experts in turn, and the SpecMoE that they make."""
    out = tmp_path_factory.mktemp("experts") / "run"
    checkpoint = pretrain_experts(config, tiny_corpus, out, device="cpu", quiet=True)
    assert checkpoint == out / "checkpoint"
    return out


def changed(run: Path, out: Path, number: int = 1, **changes: object) -> Path:
    """A copy of an expert's run whose provenance says something else, as dotted names."""
    copy = shutil.copytree(run / f"expert-{number}", out / f"changed-{number}")
    file = copy / "checkpoint" / "provenance.json"
    content = json.loads(file.read_text())
    for dotted, value in changes.items():
        *parents, last = dotted.split("__")
        place = content
        for key in parents:
            place = place[key]
        place[last] = value
    file.write_text(json.dumps(content))
    return copy


def refusal(experts: list[Path], out: Path) -> str:
    with pytest.raises(BergerError) as caught:
        assemble(experts, out)
    assert not out.exists()
    text = str(caught.value)
    assert text.endswith(".")
    assert "\n" not in text
    return text


# what is joined


def test_the_experts_keep_their_weights(run: Path) -> None:
    model = load_checkpoint(run / "checkpoint")
    assert isinstance(model, SpecMoE)
    assert len(model.experts) == 3
    signal = 20 * torch.randn(2, 4, 400)
    weights = []
    for number, encoder in enumerate(model.experts):
        expert = load_checkpoint(run / f"expert-{number}" / "checkpoint")
        assert isinstance(expert, SpecHiNet)
        own = encoder.state_dict()
        assert own
        assert all(torch.equal(tensor, expert.state_dict()[name]) for name, tensor in own.items())
        weights.append(next(iter(own.values())))
        with torch.inference_mode():
            torch.testing.assert_close(
                encoder.channel_embedding(signal, None), expert.channel_embedding(signal, None)
            )
    assert not torch.equal(weights[0], weights[1])
    assert model.contract == expert.contract
    assert model.config.segment_seconds == 2


def test_the_parts_are_disjoint_and_hold_everything(run: Path, tiny_corpus: Path) -> None:
    parts = [pd.read_parquet(run / f"expert-{number}" / "part.parquet") for number in range(3)]
    joined = pd.concat(parts)
    assert not joined.duplicated().any()
    model = load_checkpoint(run / "checkpoint")
    people = model.provenance["subjects"]["train"]
    assert len(joined) == len(open_corpus(tiny_corpus).windows(4, subjects=people))
    assert model.provenance["training_windows"] == len(joined)
    assert model.provenance["corpus"]["id"] == open_corpus(tiny_corpus).manifest.id
    marks = [expert["part"]["windows_sha256"] for expert in model.provenance["experts"]]
    assert marks == [windows_mark(part) for part in parts]


def test_the_order_does_not_matter_nor_whether_runs_or_checkpoints_are_given(
    run: Path, tmp_path: Path
) -> None:
    experts = [run / f"expert-{number}" for number in (2, 0, 1)]
    assemble([experts[0], experts[1] / "checkpoint", experts[2]], tmp_path / "c")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "c" / name).read_bytes() == (run / "checkpoint" / name).read_bytes()


def test_other_machines_make_the_same_model(
    run: Path, config: PretrainingConfig, tiny_corpus: Path, tmp_path: Path
) -> None:
    """One expert at a time, each in a folder of its own."""
    for expert in (1, 0, 2):
        out = tmp_path / str(expert)
        pretrain(config, tiny_corpus, out, expert=expert, device="cpu", quiet=True)
    assemble([tmp_path / str(expert) for expert in range(3)], tmp_path / "c")
    weights = (tmp_path / "c" / "model.safetensors").read_bytes()
    assert weights == (run / "checkpoint" / "model.safetensors").read_bytes()


def test_two_of_three_experts_can_be_joined(run: Path, tmp_path: Path) -> None:
    assemble([run / "expert-0", run / "expert-2"], tmp_path / "c")
    model = load_checkpoint(tmp_path / "c")
    assert isinstance(model, SpecMoE)
    assert model.config.n_experts == 2


def test_short_windows_get_a_gate_that_fits(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run / "expert-0" / "checkpoint", tmp_path / "short")
    described = json.loads((copy / "config.json").read_text())
    described["contract"]["window_seconds"] = 1.0
    (copy / "config.json").write_text(json.dumps(described))
    assemble([copy], tmp_path / "c")
    model = load_checkpoint(tmp_path / "c")
    assert isinstance(model, SpecMoE)
    assert model(torch.randn(1, 2, 100)).shape == (1, 1)


# what is not


def test_experts_of_one_part_are_refused(run: Path, tmp_path: Path) -> None:
    text = refusal([run / "expert-1", run / "expert-0", run / "expert-1"], tmp_path / "c")
    assert "were both trained on part 1; give one expert of each part" in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"corpus__id": "f" * 64}, "were trained on different corpora ("),
        ({"part__seed": 9}, "different divisions of the corpus (seed: 0 → 9), whose parts"),
        ({"part__experts": 2}, "different divisions of the corpus (experts: 3 → 2)"),
        ({"part__division": "people"}, "(division: windows, shuffled → people)"),
        ({"part__divided_sha256": "0"}, "different divisions of the corpus (divided_sha256: "),
    ],
)
def test_experts_that_were_trained_apart_are_refused(
    changes: dict[str, object], words: str, run: Path, tmp_path: Path
) -> None:
    other = changed(run, tmp_path, **changes)
    text = refusal([run / "expert-0", other, run / "expert-2"], tmp_path / "c")
    assert words in text
    assert str(other) in text


def test_windows_that_two_experts_saw_are_found(run: Path, tmp_path: Path) -> None:
    parts = [pd.read_parquet(run / f"expert-{number}" / "part.parquet") for number in range(2)]
    common = pd.concat([parts[1], parts[0][:3]], ignore_index=True)
    other = changed(run, tmp_path, part__windows_sha256=windows_mark(common))
    common.to_parquet(other / "part.parquet", index=False)
    text = refusal([run / "expert-0", other], tmp_path / "c")
    assert "share 3 windows that they were trained on; train one of them again" in text


def test_a_part_of_another_run_is_refused(run: Path, tmp_path: Path) -> None:
    other = changed(run, tmp_path)
    shutil.copy(run / "expert-2" / "part.parquet", other / "part.parquet")
    text = refusal([run / "expert-0", other], tmp_path / "c")
    assert text.startswith(f"{other / 'part.parquet'}: is not the part that ")


@pytest.mark.parametrize(
    ("section", "key", "value", "words"),
    [
        ("contract", "window_seconds", 8.0, "expect different input (window_seconds: 4.0 → 8.0)"),
        ("contract", "ch_names", ["Cz"], "expect different input (ch_names: None → ['Cz'])"),
        ("model", "dropout", 0.1, "are different networks (dropout: 0.2 → 0.1)"),
    ],
)
def test_experts_of_other_contracts_or_networks_are_refused(
    section: str, key: str, value: object, words: str, run: Path, tmp_path: Path
) -> None:
    other = changed(run, tmp_path)
    file = other / "checkpoint" / "config.json"
    content = json.loads(file.read_text())
    content[section][key] = value
    file.write_text(json.dumps(content))
    assert words in refusal([run / "expert-0", other], tmp_path / "c")


def test_what_is_no_expert_is_refused(run: Path, tiny_adaptation: Path, tmp_path: Path) -> None:
    text = refusal([tiny_adaptation], tmp_path / "c")
    assert "checkpoint: is a Classifier, not an expert; give checkpoints of" in text
    text = refusal([run], tmp_path / "c")
    assert "is a SpecMoE, not an expert" in text
    bare = tmp_path / "bare"
    load_checkpoint(run / "expert-0" / "checkpoint").save_checkpoint(bare, {})
    text = refusal([bare], tmp_path / "c")
    assert "does not tell the part of a corpus that it was trained on" in text
    assert refusal([], tmp_path / "c").startswith("no experts given; name their checkpoints")
    assert "no such folder" in refusal([tmp_path / "nothing"], tmp_path / "c")


def test_what_stands_there_is_not_replaced(run: Path, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    with pytest.raises(BergerError, match="c: exists already; choose another folder"):
        assemble([run / "expert-0"], tmp_path / "c")


# all in turn, resumed


def test_experts_that_are_finished_stay(
    run: Path,
    config: PretrainingConfig,
    tiny_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Interrupted at the second of three experts."""
    out, watch = tmp_path / "run", []

    def interrupted(*arguments: Any, **options: Any) -> Path:
        watch.append(options["expert"])
        if watch == [0, 1]:
            raise KeyboardInterrupt
        return pretrain(*arguments, **options)

    monkeypatch.setattr(assembling, "pretrain", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretrain_experts(config, tiny_corpus, out, device="cpu", quiet=True)
    assert not (out / "checkpoint").exists()
    with pytest.raises(BergerError, match="holds a run already; continue it with --resume"):
        pretrain_experts(config, tiny_corpus, out, device="cpu", quiet=True)
    with pytest.raises(BergerError, match="holds a run already"):
        pretrain(config, tiny_corpus, out, expert=0, device="cpu", quiet=True)
    pretrain_experts(config, tiny_corpus, out, resume=True, device="cpu", quiet=True)
    assert watch == [0, 1, 1, 2]
    weights = (out / "checkpoint" / "model.safetensors").read_bytes()
    assert weights == (run / "checkpoint" / "model.safetensors").read_bytes()
    # once more changes nothing
    pretrain_experts(config, tiny_corpus, out, resume=True, device="cpu", quiet=True)
    assert watch == [0, 1, 1, 2]


def test_another_corpus_is_not_resumed_on(
    run: Path, config: PretrainingConfig, tiny_corpus: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    record = json.loads((copy / "expert-1" / "run.json").read_text())
    record["corpus"]["id"] = "0"
    (copy / "expert-1" / "run.json").write_text(json.dumps(record))
    with pytest.raises(BergerError, match=r"expert-1: was trained on another corpus; resume"):
        pretrain_experts(config, tiny_corpus, copy, resume=True, device="cpu", quiet=True)
