"""A checkpoint comes back bit by bit, or one sentence says why not."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from berger import load_checkpoint
from berger.checkpoints import FILES, VERSION, read_checkpoint
from berger.configuration import Config
from berger.errors import BergerError
from berger.models import (
    ARCHITECTURES,
    MODELS,
    ClassifierConfig,
    DareConfig,
    DareEEG,
    EEGModel,
    InputContract,
    SpecHiNetConfig,
    SpecHiNetPublishedConfig,
    SpecMoEConfig,
    create_model,
    list_models,
)
from berger.models import count_parameters as count
from berger.preprocessing import PreprocessingConfig
from tests.conftest import TINY_MODEL

SPECHINET = SpecHiNetConfig.model_validate(TINY_MODEL)
CLASSES = ("rest", "ärithmetic, fast")
PUBLISHED = SpecHiNetPublishedConfig(stem_dim=4, embed_dim=8, bottleneck_dim=8, n_heads=2)
CONFIGS: dict[str, Config] = {
    "signal": SPECHINET.model_copy(update={"restores": "signal", "zero_start": False}),
    "correction": SPECHINET.model_copy(update={"restores": "correction"}),
    "map": SPECHINET,
    "mean": ClassifierConfig(encoder=SPECHINET, classes=CLASSES),
    "electrodes": ClassifierConfig(
        encoder=SPECHINET, classes=CLASSES, pooling="electrodes", n_chans=3
    ),
    "published": PUBLISHED,
    "mixture": SpecMoEConfig(expert=SPECHINET, n_outputs=2, classes=CLASSES),
    "published mixture": SpecMoEConfig(expert=PUBLISHED, gate="encoding"),
    "dare": DareConfig(sfreq=100, patch_size=50, embed_dim=8, n_heads=2),
}
CONTRACT = InputContract(
    sfreq=100,
    ch_names=("Fz", "Cz", "Pz"),
    window_seconds=4,
    preprocessing=PreprocessingConfig(sfreq=100, lowpass=40, notch=16.7),
)
PROVENANCE = {"corpus": {"id": "abc"}, "subjects": {"train": ["sub-µ"]}, "seed": 3}


def scrambled(config: Config) -> EEGModel:
    """A model with every parameter and buffer other than fresh, some hard to write in digits."""
    model = create_model(config, CONTRACT)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator).abs() / 3)
            else:
                tensor.fill_(len(name))
        first = next(model.parameters()).view(-1)
        first[:4] = torch.tensor([1e-42, -0.0, torch.pi, 1 / 3])
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("checkpoint") / "good"
    scrambled(SPECHINET).save_checkpoint(target, PROVENANCE)
    return target


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


# laws


def answer(model: Any, signal: Tensor) -> Tensor:
    if hasattr(model, "reconstruct"):
        restored: Tensor = model.reconstruct(signal).mean
        return restored
    if isinstance(model, DareEEG):
        return model.forward_features(signal, CONTRACT.ch_names).summary
    outputs: Tensor = model(signal)
    return outputs


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_a_model_comes_back_bit_by_bit(config: Config, tmp_path: Path) -> None:
    model = scrambled(config)
    model.save_checkpoint(tmp_path / "saved", PROVENANCE)
    loaded = load_checkpoint(tmp_path / "saved")
    assert type(loaded) is type(model)
    assert loaded.config == model.config
    assert loaded.contract == CONTRACT
    assert loaded.provenance == PROVENANCE
    assert not loaded.training
    before, after = model.state_dict(), loaded.state_dict()
    assert list(before) == list(after)
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype, name
        assert tensor.numpy().tobytes() == after[name].numpy().tobytes(), name
    signal = 20 * torch.randn(2, 3, 400)
    with torch.inference_mode():
        expected, found = (answer(m, signal) for m in (model.eval(), loaded))
    assert torch.isfinite(found).all()
    assert torch.equal(expected, found)


def test_every_architecture_is_tested() -> None:
    assert {config.name for config in CONFIGS.values()} == set(ARCHITECTURES)  # type: ignore[attr-defined]


def test_saving_again_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    load_checkpoint(folder).save_checkpoint(tmp_path / "again")
    assert [(tmp_path / "again" / name).read_bytes() for name in FILES] == [
        (folder / name).read_bytes() for name in FILES
    ]


def test_a_checkpoint_is_these_files_and_holds_no_pickle(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == set(FILES)
    config = json.loads((folder / "config.json").read_text())
    assert config["version"] == VERSION
    assert "berger." not in json.dumps(config)  # no import paths


def test_a_checkpoint_that_stands_is_replaced(tmp_path: Path) -> None:
    for config in (CONFIGS["map"], CONFIGS["mean"]):
        scrambled(config).save_checkpoint(tmp_path / "it")
    assert load_checkpoint(tmp_path / "it").config == CONFIGS["mean"]


# what is broken


def refusal(folder: Path) -> str:
    with pytest.raises(BergerError) as caught:
        load_checkpoint(folder)
    text = str(caught.value)
    assert text.startswith(str(folder))
    assert "\n" not in text
    return text


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(name: str, copy: Path) -> None:
    (copy / name).unlink()
    assert f"not a complete checkpoint, {name} missing" in refusal(copy)


def test_no_folder(tmp_path: Path) -> None:
    assert "no such folder" in refusal(tmp_path / "nowhere")
    assert "config.json and model.safetensors and provenance.json" in refusal(tmp_path)


@pytest.mark.parametrize("damage", ["empty", "short", "header", "text"])
def test_damaged_weights_are_refused(damage: str, copy: Path) -> None:
    file = copy / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(
        {
            "empty": b"",
            "short": content[:-100],
            "header": b"\xff" * 8 + content[8:],
            "text": b"version https://git-lfs.github.com/spec/v1\n",
        }[damage]
    )
    assert "model.safetensors: damaged" in refusal(copy)


def test_a_pickle_is_not_read(copy: Path, tmp_path: Path) -> None:
    """Whatever the file is called, nothing in it runs."""
    trace = tmp_path / "ran"

    class Trap:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
            return Path.touch, (trace,)  # type: ignore[return-value]

    (copy / "model.safetensors").write_bytes(pickle.dumps(Trap()))
    refusal(copy)
    torch.save({"a": Trap()}, copy / "model.safetensors")
    refusal(copy)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["config.json", "provenance.json"])
@pytest.mark.parametrize("content", [b"{", b"", b"[]", b"\xff\xfe"])
def test_damaged_json_is_refused(name: str, content: bytes, copy: Path) -> None:
    (copy / name).write_bytes(content)
    assert refusal(copy).startswith(f"{copy / name}: ")


def change(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    "changes", [{"version": VERSION + 1}, {"version": None}, {"format": "other"}]
)
def test_another_version_is_refused(changes: dict[str, object], copy: Path) -> None:
    change(copy, **changes)
    text = refusal(copy)
    assert f"version {VERSION}" in text
    assert "install" in text


@pytest.mark.parametrize(
    "model",
    [
        {"name": "gpt"},
        {"name": ["spechinet"]},
        {},
        None,
        "spechinet",
        {"name": "spechinet", "depth": 9},
        {"name": "spechinet", "n_heads": 3},
        {"name": "classifier", "classes": ["a", "b"]},
    ],
)
def test_a_configuration_of_no_known_model_is_refused(model: object, copy: Path) -> None:
    change(copy, model=model)
    assert "does not describe a model of this Berger" in refusal(copy)


@pytest.mark.parametrize("contract", [{}, None, {"sfreq": 100, "unit": "V"}])
def test_a_broken_contract_is_refused(contract: object, copy: Path) -> None:
    change(copy, contract=contract)
    assert "does not describe a model" in refusal(copy)


@pytest.mark.parametrize(
    "changes", [{"embed_dim": 16}, {"restores": "signal"}, {"name": "classifier"}]
)
def test_weights_that_do_not_fit_are_refused(changes: dict[str, object], copy: Path) -> None:
    described = SPECHINET.model_dump(mode="json") | changes
    if changes == {"name": "classifier"}:
        described = CONFIGS["mean"].model_dump(mode="json")
    change(copy, model=described)
    assert "the weights do not fit config.json" in refusal(copy)


def test_reading_says_what_is_in_it(folder: Path) -> None:
    checkpoint = read_checkpoint(folder)
    assert set(checkpoint.config) == {"format", "version", "model", "contract"}
    assert checkpoint.provenance == PROVENANCE
    assert all(tensor.device.type == "cpu" for tensor in checkpoint.tensors.values())


# models by name


@pytest.mark.parametrize("name", list_models())
def test_models_are_made_by_name(name: str) -> None:
    model = create_model(name)
    assert model.config == MODELS[name]
    assert model.n_parameters == count(MODELS[name]) > 100_000
    assert model.contract == InputContract(sfreq=256 if name.startswith("dare") else 200)


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(BergerError, match="no model is called 'resnet'; there are spechinet, "):
        create_model("resnet")
    with pytest.raises(BergerError, match="PreprocessingConfig is not the configuration of a"):
        create_model(PreprocessingConfig())
