"""Laws of the pooled features and of the classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from berger.checkpoints import read_checkpoint, write_checkpoint
from berger.errors import BergerError
from berger.interop.onnx import export
from berger.models import (
    Classifier,
    ClassifierConfig,
    InputContract,
    SpecHiNet,
    SpecHiNetConfig,
    load_checkpoint,
)
from berger.models.heads import (
    AttentionHead,
    AttentionHeadConfig,
    Pooling,
    StepsHead,
    StepsHeadConfig,
    pooled_features,
    step_features,
)
from tests.conftest import TINY_MODEL
from tests.models.test_adapter import MUSE
from tests.models.test_encoders import CONFIGS, MONTAGE

SPECHINET = SpecHiNetConfig.model_validate(TINY_MODEL)


def encoder() -> SpecHiNet:
    torch.manual_seed(0)
    return SpecHiNet(SPECHINET).eval()


def microvolts(*shape: int) -> torch.Tensor:
    return 20 * torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def classifier(pooling: Pooling, n_chans: int | None = None) -> Classifier:
    torch.manual_seed(0)
    config = ClassifierConfig(
        encoder=SPECHINET, pooling=pooling, n_chans=n_chans, classes=("a", "b", "c")
    )
    return Classifier(config).eval()


@torch.inference_mode()
def test_the_mean_is_the_mean_over_electrodes() -> None:
    network, signal = encoder(), microvolts(3, 4, 500)
    mean = pooled_features(network, signal, "mean")
    each = pooled_features(network, signal, "electrodes")
    assert mean.shape == (3, 8)
    assert each.shape == (3, 4 * 8)
    torch.testing.assert_close(each.view(3, 4, 8).mean(1), mean)


@torch.inference_mode()
def test_the_mean_does_not_know_the_order_of_electrodes() -> None:
    network, signal = encoder(), microvolts(2, 5, 400)
    order = torch.tensor([4, 2, 0, 1, 3])
    torch.testing.assert_close(
        pooled_features(network, signal, "mean"), pooled_features(network, signal[:, order], "mean")
    )
    each = pooled_features(network, signal, "electrodes").view(2, 5, 8)
    torch.testing.assert_close(
        each[:, order].flatten(1), pooled_features(network, signal[:, order], "electrodes")
    )


@torch.inference_mode()
@pytest.mark.parametrize(("pooling", "n_chans"), [("mean", None), ("electrodes", 4)])
def test_logits_are_linear_in_the_features(pooling: Pooling, n_chans: int | None) -> None:
    model, signal = classifier(pooling, n_chans), microvolts(3, 4, 400)
    features = model.forward_features(signal)
    assert model(signal).shape == (3, model.config.n_outputs) == (3, 3)
    torch.testing.assert_close(model(signal), features @ model.head.weight.T + model.head.bias)
    torch.testing.assert_close(features, pooled_features(model.encoder, signal, pooling))


def test_any_montage_for_the_mean() -> None:
    model = classifier("mean")
    with torch.inference_mode():
        assert all(model(microvolts(1, n, 400)).shape == (1, 3) for n in (1, 2, 19))


def test_electrodes_need_their_number() -> None:
    with pytest.raises(ValidationError, match="needs n_chans"):
        ClassifierConfig(encoder=SPECHINET, pooling="electrodes", classes=("a", "b"))
    with pytest.raises(ValidationError):
        ClassifierConfig(encoder=SPECHINET, classes=("a",))


# heads

DARE = {"name": "dare", "embed_dim": 16, "n_streams": 2}
HEADS = ("linear", "steps", "mlp", "attention")


def with_any_head(encoder: Any, head: str, **fields: Any) -> Classifier:
    """A classifier of windows of 2 s."""
    torch.manual_seed(0)
    described = {"encoder": encoder, "head": {"name": head}, "classes": ("a", "b", "c")} | fields
    config = ClassifierConfig.model_validate(described)
    contract = InputContract(sfreq=config.encoder.sfreq, window_seconds=2, ch_names=tuple(MONTAGE))
    return Classifier(config, contract).eval()


@torch.inference_mode()
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("encoder", CONFIGS, ids=lambda c: c.name)
def test_every_head_stands_on_every_encoder(encoder: Any, head: str, tmp_path: Path) -> None:
    model = with_any_head(encoder, head)
    n_times = round(2 * encoder.sfreq)
    assert model(microvolts(4, 3, n_times)).shape == (4, 3)
    model.save_checkpoint(tmp_path / "checkpoint")
    loaded = load_checkpoint(tmp_path / "checkpoint")
    assert isinstance(loaded, Classifier)
    assert loaded.config == model.config
    assert torch.equal(loaded(microvolts(4, 3, n_times)), model(microvolts(4, 3, n_times)))
    if head == "steps" and model.encoder.n_steps(n_times, 3) > 1:  # a mixture pools them all
        with pytest.raises(BergerError, match=r"time steps, but the model's head reads \d+; cut"):
            model(microvolts(1, 3, 4 * n_times))


@torch.inference_mode()
@pytest.mark.parametrize("encoder", CONFIGS, ids=lambda c: c.name)
def test_steps_are_the_tokens_in_another_order(encoder: Any) -> None:
    model, signal = with_any_head(encoder, "linear").encoder, microvolts(2, 3, 512)
    features = model.forward_features(signal, MONTAGE)
    steps = step_features(model, signal, "mean", MONTAGE)
    n_steps = model.n_steps(512, 3)
    assert steps.shape == (2, n_steps, model.embed_dim * model.n_streams)
    each = 3 if model.features_by_electrode else model.n_streams
    assert features.tokens.shape[1] == n_steps * each
    if model.features_by_electrode:
        side_by_side = step_features(model, signal, "electrodes", MONTAGE)
        assert side_by_side.shape == (2, n_steps, 3 * model.embed_dim)
        torch.testing.assert_close(side_by_side.view(2, n_steps, 3, -1).mean(2), steps)
        torch.testing.assert_close(steps.mean(1), features.tokens.mean(1))
    else:
        torch.testing.assert_close(steps.reshape(features.tokens.shape), features.tokens)
        with pytest.raises(BergerError, match="no features of single ones; use pooling: mean"):
            step_features(model, signal, "electrodes", MONTAGE)


def test_the_probe_of_the_paper() -> None:
    """Two linear layers with limited weights, whatever a step of training does."""
    torch.manual_seed(0)
    head = StepsHead(StepsHeadConfig(), n_steps=5, width=32, n_outputs=3)
    assert head.each.weight.shape == (16, 32)
    assert head.all.weight.shape == (3, 5 * 16)
    assert head.dropout.p == 0.5
    optimizer = torch.optim.SGD(head.parameters(), lr=1e4)
    targets = torch.arange(8) % 3
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(head(microvolts(8, 5, 32)), targets).backward()
        optimizer.step()
        assert head.each.weight.norm(dim=1).max() <= 1 + 1e-5
        assert head.all.weight.norm(dim=1).max() <= 0.25 + 1e-5
    free = head.all.parametrizations.weight.original  # type: ignore[union-attr]
    assert free.norm(dim=1).max() > 1
    assert StepsHead(StepsHeadConfig(), 5, 32, n_outputs=1)(microvolts(8, 5, 32)).shape == (8, 1)


@torch.inference_mode()
def test_attention_starts_from_the_mean_and_does_not_know_an_order() -> None:
    torch.manual_seed(0)
    head = AttentionHead(AttentionHeadConfig(n_queries=2), dim=8, n_outputs=3).eval()
    tokens = microvolts(4, 6, 8)
    mean = head.norm(tokens).mean(1)
    torch.testing.assert_close(head(tokens), head.out(torch.cat((mean, mean), 1)))
    head.queries.normal_()
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    torch.testing.assert_close(head(tokens[:, order]), head(tokens))
    assert not torch.allclose(head(tokens), head(2 * tokens + microvolts(4, 6, 8).flip(1)))


def test_heads_that_lack_something_are_refused() -> None:
    config = ClassifierConfig.model_validate(
        {"encoder": DARE, "head": {"name": "steps"}, "classes": ("a", "b")}
    )
    with pytest.raises(BergerError, match=r"^the head steps reads windows of one length; give the"):
        Classifier(config)
    with pytest.raises(ValidationError, match="attention weighs all tokens by itself; leave pooli"):
        with_any_head(SPECHINET, "attention", pooling="electrodes", n_chans=3)
    with pytest.raises(ValidationError, match=r"n_chans must be the number of adapter\.targets"):
        with_any_head(SPECHINET, "linear", adapter={"targets": ["Cz"]}, n_chans=3)


# an adapter in front


def headband(encoder: Any = DARE, sfreq: float = 200, **fields: Any) -> Classifier:
    """A headband of four electrodes, its rate adapted and projected onto 19."""
    torch.manual_seed(0)
    described: dict[str, Any] = {
        "encoder": encoder,
        "adapter": {"targets": "10-20", "resample": True, "kernel_size": 5},
        "head": {"name": "steps"},
        "classes": ("a", "b"),
    }
    contract = InputContract(sfreq=sfreq, ch_names=MUSE, window_seconds=4)
    return Classifier(ClassifierConfig.model_validate(described | fields), contract).eval()


@torch.inference_mode()
@pytest.mark.parametrize("encoder", [DARE, SPECHINET], ids=["dare", "spechinet"])
def test_an_adapted_model_is_read_and_exported_as_any_other(encoder: Any, tmp_path: Path) -> None:
    model, signal = headband(encoder), microvolts(3, 4, 800)
    with torch.no_grad():  # beyond its norm
        free = model.adapter.projection[0].parametrizations.weight.original  # type: ignore[index, union-attr]
        free.add_(torch.randn(free.shape))
    assert model.encoder.contract.ch_names == model.config.adapter.targets
    assert model.encoder.contract.sfreq == model.config.encoder.sfreq
    model.save_checkpoint(tmp_path / "checkpoint")
    loaded = load_checkpoint(tmp_path / "checkpoint")
    assert torch.equal(loaded(signal), model(signal))
    assert pooled_features(loaded, signal, "mean").shape == (3, model.encoder.embed_dim)
    exported = export(tmp_path / "checkpoint", tmp_path / "headband.onnx")
    assert exported.inputs == {"signal": ("batch", 4, 800)}
    assert exported.difference < 1e-5


@torch.inference_mode()
def test_an_adapter_that_has_nothing_to_do_changes_nothing() -> None:
    targets = {"adapter": {"targets": MONTAGE, "resample": True}}
    signal = microvolts(3, 3, 512)
    for head in HEADS:
        plain, adapted = (with_any_head(DARE, head, **fields) for fields in ({}, targets))
        adapted.head.load_state_dict(plain.head.state_dict())
        assert torch.equal(adapted(signal), plain(signal))
        assert torch.equal(adapted.forward_features(signal), plain.forward_features(signal))


def test_an_adapted_model_knows_its_channels() -> None:
    model, signal = headband(), microvolts(1, 4, 800)
    assert torch.equal(model(signal, MUSE), model(signal))
    with pytest.raises(BergerError, match=r"^the signal: has the electrodes AF7 .* in this order"):
        model(signal, sorted(MUSE))
    with pytest.raises(BergerError, match=r"^file: has the electrodes Cz, but the model was made"):
        model.check_montage(["Cz"], "file")
    model.check_montage(MUSE, "file")  # DARE-EEG knows no TP9, nor needs to
    with pytest.raises(BergerError, match=r"^4 names for a signal of 2 electrodes; name each\.$"):
        model(microvolts(1, 2, 800))
    with pytest.raises(BergerError, match=r"^a window of 799 samples has no whole number of samp"):
        model(microvolts(1, 4, 799))
    with pytest.raises(BergerError, match=r"^adapter\.targets: the model has no embedding for TP9"):
        headband(adapter={"targets": ["Cz", "TP9"], "resample": True})


@torch.inference_mode()
def test_each_electrode_of_a_projection_has_features_of_its_own() -> None:
    model = headband(SPECHINET, pooling="electrodes", head={"name": "linear"})
    assert model.forward_features(microvolts(2, 4, 800)).shape == (2, 19 * 8)


@pytest.mark.parametrize("n_layers", [1, 2])
def test_gradients_pass_the_frozen_encoder(n_layers: int) -> None:
    start = "electrodes" if n_layers == 1 else "random"
    fields = {"targets": "10-20", "resample": True, "kernel_size": 5}
    model = headband(adapter=fields | {"n_layers": n_layers, "start": start})
    model.train()
    model.encoder.eval().requires_grad_(False)
    model(microvolts(6, 4, 800)).square().mean().backward()
    for name, parameter in model.named_parameters():
        if name.startswith("encoder."):
            assert parameter.grad is None
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


@torch.inference_mode()
def test_checkpoints_of_before_there_were_adapters_and_heads(tmp_path: Path) -> None:
    model = classifier("electrodes", 4)
    model.save_checkpoint(tmp_path / "new")
    new = read_checkpoint(tmp_path / "new")
    assert sorted(name for name in new.tensors if not name.startswith("encoder.")) == [
        "head.bias",
        "head.weight",
    ]
    described = {"model": dict(new.config["model"]), "contract": new.config["contract"]}
    del described["model"]["adapter"], described["model"]["head"]
    write_checkpoint(tmp_path / "old", described, new.tensors, {})
    signal = microvolts(2, 4, 400)
    assert torch.equal(load_checkpoint(tmp_path / "old")(signal), model(signal))
