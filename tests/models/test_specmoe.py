"""The mixture against the published program; laws of gates, pooling, freezing and the head."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from berger.errors import BergerError
from berger.models import (
    SpecHiNet,
    SpecHiNetConfig,
    SpecHiNetPublished,
    SpecHiNetPublishedConfig,
    SpecMoE,
    SpecMoEConfig,
    create_model,
    load_checkpoint,
)
from berger.models.heads import pooled_features
from berger.models.spechinet_published import name_here
from tests.golden.published import agree, golden_arrays, published_weights

SIZES = {"stem_dim": 4, "embed_dim": 8, "bottleneck_dim": 16, "n_heads": 2}
GATES = ("spectral", "encoding", "softmax", "none")


def small(name: str = "spechinet", **settings: object) -> SpecMoE:
    torch.manual_seed(0)
    expert = {"name": name, **SIZES}
    return SpecMoE(
        SpecMoEConfig.model_validate({"expert": expert, "n_outputs": 3} | settings)
    ).eval()


def microvolts(*shape: int, seed: int = 1) -> Tensor:
    return 20 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# golden vectors


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return golden_arrays("specmoe_fusion")


def fusion(**settings: object) -> SpecMoE:
    config = {"expert": SpecHiNetPublishedConfig(), "n_outputs": 4, **settings}
    model = SpecMoE(SpecMoEConfig.model_validate(config)).eval()
    renamed = {}
    for name, value in published_weights("specmoe_fusion").items():
        place, *rest = name.split(".")
        if place == "experts":
            name = f"experts.{rest[0]}.{name_here('.'.join(rest[1:]))}"
        elif place == "classifier":
            name = ".".join(["head", *rest[1:]])
        else:
            name = f"gate.layers.{int(place[-1]) - 1}.{rest[0]}"
        renamed[name] = value
    left = model.load_state_dict(renamed, strict=False)
    assert left.unexpected_keys == []
    assert all(name.endswith("num_batches_tracked") for name in left.missing_keys)
    return model


@torch.inference_mode()
@pytest.mark.parametrize("chans", ["mean", "max"])
@pytest.mark.parametrize("time", ["mean", "max"])
def test_logits_agree_with_the_published_program(
    golden: dict[str, Tensor], time: str, chans: str
) -> None:
    logits = fusion(pool_time=time, pool_chans=chans)(100 * golden["signal"], golden["positions"])
    agree(logits, golden[f"logits_time_{time}_channel_{chans}"])


@torch.inference_mode()
def test_spectrum_and_bottleneck_agree_with_the_published_program(
    golden: dict[str, Tensor],
) -> None:
    model = fusion()
    agree(model.gate.spectrum(golden["signal"]), golden["welch_psd"])
    expert = model.experts[0]
    tokens = expert.forward_features(100 * golden["signal"], times=golden["positions"]).tokens
    agree(tokens.transpose(1, 2), golden["expert0_bottleneck"])


# laws


@torch.inference_mode()
@pytest.mark.parametrize("name", ["spechinet", "spechinet-published"])
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize(("n_chans", "seconds"), [(1, 1.0), (3, 2.0), (2, 5.3)])
def test_any_window_from_a_second_up(name: str, gate: str, n_chans: int, seconds: float) -> None:
    model = small(name, gate=gate, segment_seconds=min(2.0, seconds))
    signal = microvolts(2, n_chans, round(200 * seconds))
    assert model(signal).shape == (2, 3)
    features = model.forward_features(signal, ch_names=["x"] * n_chans)
    assert features.tokens.shape == (2, n_chans, 3 * 16)
    assert features.summary.shape == (2, model.embed_dim) == (2, 48)
    torch.testing.assert_close(features.summary, features.tokens.mean(1))
    torch.testing.assert_close(model.head(features.summary), model(signal))
    assert pooled_features(model, signal, "electrodes").shape == (2, n_chans * 48)


def test_a_window_shorter_than_a_segment_is_refused() -> None:
    with pytest.raises(BergerError, match=r"^a window of 300 samples is shorter than .* 400; give"):
        small()(microvolts(1, 2, 300))
    with pytest.raises(BergerError, match=r"of shape \(2, 300\); give"):
        small()(microvolts(2, 300))


@torch.inference_mode()
@pytest.mark.parametrize("gate", GATES)
def test_features_are_the_experts_features_times_their_gates(gate: str) -> None:
    model, signal = small(gate=gate), microvolts(2, 3, 600)
    gates = model.gates(signal)
    assert gates.shape == (2, 3, 3, 1 if gate in ("softmax", "none") else 16)
    assert ((gates >= 0) & (gates <= 1)).all()
    pooled = [expert.channel_embedding(signal).mean(-1) for expert in model.experts]
    wanted = torch.cat([x * gates[:, :, i] for i, x in enumerate(pooled)], -1)
    torch.testing.assert_close(model.forward_features(signal).tokens, wanted)
    logits, same_gates = model.forward_with_gates(signal)
    torch.testing.assert_close(logits, model(signal))
    assert torch.equal(same_gates, gates)


@torch.inference_mode()
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("pool_chans", ["mean", "max"])
def test_the_order_of_electrodes_does_not_matter(gate: str, pool_chans: str) -> None:
    model, signal = small(gate=gate, pool_chans=pool_chans), microvolts(2, 4, 500)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(model(signal), model(signal[:, order]))
    torch.testing.assert_close(model.gates(signal)[:, order], model.gates(signal[:, order]))


@torch.inference_mode()
def test_spectral_gates_read_the_spectrum_alone() -> None:
    """Shifted in time, a signal's spectrum stays and so do its gates; the encoding's change."""
    times = torch.arange(800) / 200
    signal, shifted = (
        30 * torch.sin(2 * math.pi * 10 * times + phase).expand(1, 2, -1) for phase in (0, 1)
    )
    for gate in ("spectral", "softmax"):
        gates = [small(gate=gate).gates(x) for x in (signal, shifted, 10 * signal)]
        torch.testing.assert_close(gates[0], gates[1], rtol=1e-4, atol=1e-4)
        assert (gates[0] - gates[2]).abs().max() > 1e-3
    model = small(gate="encoding")
    assert (model.gates(signal) - model.gates(shifted)).abs().max() > 1e-6


@torch.inference_mode()
def test_softmax_gates_share_out_and_the_loss_falls_with_equality() -> None:
    model, signal = small(gate="softmax"), microvolts(2, 3, 600)
    gates = model.gates(signal)
    torch.testing.assert_close(gates.sum(2), torch.ones(2, 3, 1))
    equal = torch.full_like(gates, 1 / 3)
    one = torch.tensor([1.0, 0, 0])[:, None].expand_as(gates)
    assert model.loss_gate(equal).item() == pytest.approx(0, abs=1e-7)
    assert model.loss_gate(one).item() == pytest.approx(0.01 * math.log(3))
    assert 0 < model.loss_gate(gates) < model.loss_gate(one)
    hot, cold = (small(gate="softmax", temperature=t).gates(signal) for t in (100.0, 0.001))
    assert hot.std() < gates.std() < cold.std()
    assert small(gate="none").loss_gate(small(gate="none").gates(signal)) == 0


@pytest.mark.parametrize("gate", GATES)
def test_every_parameter_learns_and_frozen_experts_do_not(gate: str) -> None:
    model, signal = small(gate=gate).train(), microvolts(4, 3, 600)

    def learning() -> set[str]:
        model.zero_grad()
        logits, gates = model.forward_with_gates(signal)
        (logits.square().sum() + model.loss_gate(gates)).backward()
        return {
            name.split(".")[0]
            for name, parameter in model.named_parameters()
            if parameter.grad is not None and parameter.grad.abs().sum() > 0
        }

    rest = {"head"} | ({"gate"} if gate != "none" else set())
    assert learning() == {"experts", *rest}
    model.experts.requires_grad_(False)
    assert learning() == rest


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (SpecHiNetConfig(**SIZES, restores="map"), SpecHiNet),
        (SpecHiNetPublishedConfig(**SIZES), SpecHiNetPublished),
    ],
)
def test_experts_are_joined_without_their_decoders(
    config: SpecHiNetConfig, kind: type[SpecHiNet]
) -> None:
    torch.manual_seed(1)
    experts = [kind(config).eval() for _ in range(2)]
    model = SpecMoE.from_experts(experts, gate="none", classes=("a", "b"), n_outputs=2).eval()
    signal = microvolts(2, 3, 600)
    with torch.inference_mode():
        wanted = torch.cat([expert.channel_embedding(signal).mean(-1) for expert in experts], -1)
        torch.testing.assert_close(model.forward_features(signal).tokens, wanted)
    assert not any("up" in name for name, _ in model.named_parameters())
    other = kind(config.model_copy(update={"dropout": 0.5}))
    with pytest.raises(BergerError, match=r"^the experts are different networks \(dropout: 0.2"):
        SpecMoE.from_experts([experts[0], other])


@pytest.mark.parametrize("gate", GATES)
def test_a_checkpoint_gives_the_same_outputs(tmp_path: Path, gate: str) -> None:
    named = {"n_outputs": 2, "classes": ("left", "right")}
    model = small("spechinet-published", gate=gate, **named)
    signal = microvolts(1, 3, 400)
    model.eval().save_checkpoint(tmp_path / "checkpoint")
    loaded = load_checkpoint(tmp_path / "checkpoint")
    assert isinstance(loaded, SpecMoE)
    assert loaded.config == model.config
    assert loaded.config.classes == ("left", "right")
    with torch.inference_mode():
        assert torch.equal(loaded(signal), model(signal))


def test_sizes() -> None:
    """As published with four classes; a regression has one output and no classes."""
    published = SpecMoEConfig(expert=SpecHiNetPublishedConfig(), n_outputs=4)
    parameters = {
        name: value
        for name, value in published_weights("specmoe_fusion").items()
        if "running" not in name
    }
    assert create_model(published).n_parameters == sum(x.numel() for x in parameters.values())
    regression = create_model("specmoe")
    assert regression.config.model_dump()["n_outputs"] == 1
    assert regression.config.model_dump()["classes"] == ()


def test_classes_must_be_as_many_as_outputs() -> None:
    with pytest.raises(ValidationError, match="2 classes but n_outputs: 3"):
        SpecMoEConfig(n_outputs=3, classes=("a", "b"))
    with pytest.raises(BergerError, match=r"^2 names for a signal of 3 electrodes"):
        small().forward_features(microvolts(1, 3, 400), ch_names=("Fz", "Cz"))
