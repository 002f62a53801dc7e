"""Restoration with alignments beside it: laws, what is computed, exact resume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from berger.corpus import Batch, open_corpus
from berger.models import (
    DareConfig,
    DareEEG,
    SpecHiNet,
    SpecHiNetConfig,
    SpecHiNetPublished,
    SpecHiNetPublishedConfig,
)
from berger.models.encoders import Restorer
from berger.objectives.aligned_restoration import AlignedRestoration, AlignedRestorationConfig
from berger.objectives.restoration import Restoration, RestorationConfig
from berger.training.loop import fit
from berger.training.optim import OptimizerConfig, build_optimizer
from berger.training.run import TrainingConfig

NAMES = ("Fp1", "C3", "C4", "O2")
MEASURES = {"feature_std", "effective_rank", "retrieval"}
ALIGNMENTS = {"anchor": "predictor.", "mask_alignment": "projection."}


def make_model(name: str = "spechinet") -> Restorer:
    torch.manual_seed(0)
    tiny = {"stem_dim": 4, "embed_dim": 8, "bottleneck_dim": 8, "n_heads": 2, "sfreq": 100}
    if name == "dare":
        return DareEEG(DareConfig(embed_dim=16, n_heads=2, sfreq=100, patch_size=50))
    if name == "spechinet-published":
        return SpecHiNetPublished(SpecHiNetPublishedConfig.model_validate(tiny))
    return SpecHiNet(SpecHiNetConfig.model_validate(tiny))


SETTINGS = {
    "mask": {"n_fft": 200, "hop": 100},
    "n_fft": 128,
    "hop": 64,
    "n_chans": 3,
    "hidden_dim": 8,
    "projection_dim": 4,
}


def objective(name: str = "spechinet", **changes: Any) -> AlignedRestoration:
    fields = {**SETTINGS, **({} if name == "spechinet" else {"auxiliary_weights": (0, 0)})}
    config = AlignedRestorationConfig.model_validate({**fields, **changes})
    return AlignedRestoration(make_model(name), config)


def plain(**changes: Any) -> Restoration:
    own = {k: v for k, v in SETTINGS.items() if not k.endswith("dim")}
    return Restoration(make_model(), RestorationConfig.model_validate({**own, **changes}))


def batch_of(n_windows: int = 4, n_times: int = 400) -> Batch:
    counts = 200 * torch.randn(n_windows, n_times, 4, generator=seeded(1))
    return Batch(
        samples=counts.round().to(torch.int16),
        scale=torch.full((n_windows, 4), 0.1),
        ch_names=NAMES,
        sfreq=100.0,
        recordings=("r",) * n_windows,
        subjects=("s",) * n_windows,
        starts=torch.arange(n_windows) * n_times,
    )


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def losses_of(made: Restoration) -> dict[str, Tensor]:
    torch.manual_seed(5)  # dropout
    return made(batch_of(), seeded())


# what is computed


@pytest.mark.parametrize("name", ["spechinet", "spechinet-published", "dare"])
def test_losses_are_finite_and_sum_up(name: str) -> None:
    made = objective(name)
    terms = {"mse", "spectral", "auxiliary", *ALIGNMENTS}
    for training in (True, False):
        losses = losses_of(made.train(training))
        expected = {"loss", *terms}
        assert set(losses) == expected | (set() if training else MEASURES | {"anchor_unexplained"})
        assert all(torch.isfinite(value) and value.ndim == 0 for value in losses.values())
        torch.testing.assert_close(losses["loss"], sum(losses[term] for term in terms))


def test_without_alignment_it_is_restoration_bit_for_bit() -> None:
    one, other = objective(anchor=0, mask_alignment=0), plain()
    found, wanted = losses_of(one.train()), losses_of(other.train())
    assert found == wanted
    for losses in (found, wanted):
        losses["loss"].backward()
    for name, weight in other.named_parameters():
        own = one.get_parameter(name).grad
        assert (own is None) == (weight.grad is None)
        assert own is None or torch.equal(own, weight.grad)


def test_alignment_leaves_the_restoration_as_it_is() -> None:
    found, wanted = losses_of(objective().train()), losses_of(plain().train())
    for term in ("mse", "spectral", "auxiliary"):
        assert torch.equal(found[term], wanted[term])


@pytest.mark.parametrize("off", [set(), {"anchor"}, {"mask_alignment"}, set(ALIGNMENTS)])
def test_what_is_off_is_not_computed(off: set[str]) -> None:
    """Nor given to the optimiser; and what that gets has a gradient, as DDP demands."""
    made = objective(**dict.fromkeys(off, 0)).train()
    calls: list[str] = []
    made.target_encoder.bottom2.register_forward_hook(lambda *_: calls.append("target"))  # type: ignore[union-attr,operator]
    made.model.bottom2.register_forward_hook(lambda *_: calls.append("encoder"))  # type: ignore[union-attr,operator]
    for name in ("predictor", "projection"):
        made.get_submodule(name).register_forward_hook(lambda *_, name=name: calls.append(name))
    losses = losses_of(made)
    wanted = ["encoder"]
    if "anchor" not in off:
        wanted += ["target", "predictor"]
    if "mask_alignment" not in off:
        wanted += ["encoder", "projection", "projection"]
    assert calls == wanted
    assert set(losses) & set(ALIGNMENTS) == set(ALIGNMENTS) - off
    losses["loss"].backward()
    optimizer = build_optimizer(made, OptimizerConfig())
    given = {id(p) for group in optimizer.param_groups for p in group["params"]}
    idle = ("target_encoder.", *(ALIGNMENTS[term] for term in off))
    trained = {n for n, p in made.named_parameters() if id(p) in given}
    assert trained == {n for n, _ in made.named_parameters() if not n.startswith(idle)}
    assert {n for n, p in made.named_parameters() if p.grad is not None} == trained


# the views


def test_two_masks_of_the_same_electrodes_and_the_clean_signal() -> None:
    made = objective()
    seen: dict[str, list[tuple[Any, ...]]] = {"target": [], "encoder": []}
    made.target_encoder.down1.register_forward_pre_hook(lambda _, x: seen["target"].append(x))  # type: ignore[union-attr,operator]
    made.model.down1.register_forward_pre_hook(lambda _, x: seen["encoder"].append(x))  # type: ignore[union-attr,operator]
    losses_of(made.train())
    clean, _ = made.choose(batch_of(), seeded())
    folded = clean.flatten(0, 1)[:, None] / 100
    ((target,),), ((one,), (other,)) = seen["target"], seen["encoder"]
    torch.testing.assert_close(target[..., :400], folded)
    for view in (one, other):  # half of the map is hidden, in each view another half
        assert not torch.allclose(view[..., :400], folded, atol=0.05)
        assert torch.nn.functional.cosine_similarity(view.flatten(), target.flatten(), 0) > 0.4
    assert not torch.allclose(one, other, atol=0.05)


@pytest.mark.parametrize("name", ["spechinet", "dare"])
def test_identical_views_are_aligned_best(name: str) -> None:
    """Better than views of other windows of the batch."""
    made = objective(name)
    for seed in range(20):  # batch norms see what is usual
        made.train()(batch_of(), seeded(seed))
    made.eval()
    found = []
    for shift in range(4):
        shifts = iter((0, shift))  # of the first view, of the second
        made.mask = lambda clean, *_, shifts=shifts: (clean.roll(next(shifts), 0), clean)  # type: ignore[method-assign]
        losses = losses_of(made)
        assert losses["retrieval"] == (shift == 0)
        found.append(losses["mask_alignment"].item())
    assert found[0] == min(found) < min(found[1:])


# the momentum copy


@pytest.mark.parametrize("name", ["spechinet", "spechinet-published", "dare"])
def test_the_target_encoder_starts_as_the_encoder(name: str) -> None:
    made = objective(name).eval()
    signal = batch_of().signal()
    own, other = (m.forward_features(signal, NAMES) for m in (made.model, made.target_encoder))
    torch.testing.assert_close(own.tokens, other.tokens)
    assert sum(p.numel() for p in made.target_encoder.parameters()) < made.model.n_parameters


@pytest.mark.parametrize(("momentum", "follows"), [(1.0, False), (0.0, True)])
def test_momentum_1_freezes_and_0_copies(momentum: float, follows: bool) -> None:
    made = objective(momentum=(momentum, momentum))
    before = {name: w.clone() for name, w in made.target_encoder.named_parameters()}
    with torch.no_grad():
        for weight in made.model.parameters():
            weight += 1
    made.after_step(1, 10)
    for name, weight in made.target_encoder.named_parameters():
        assert torch.equal(weight, made.model.get_parameter(name) if follows else before[name])


def test_no_gradient_reaches_the_target_encoder() -> None:
    made = objective().train()
    assert not any(module.training for module in made.target_encoder.modules())
    before = {name: w.clone() for name, w in made.target_encoder.state_dict().items()}
    outputs: list[Tensor] = []
    made.target_encoder.bottom2.register_forward_hook(lambda _, __, out: outputs.append(out))  # type: ignore[union-attr,operator]
    losses_of(made)["loss"].backward()
    assert [output.requires_grad for output in outputs] == [False]
    for name, weight in made.target_encoder.state_dict().items():
        assert torch.equal(weight, before[name])  # nor do its batch norms move


def test_a_perfect_prediction_leaves_nothing_unexplained() -> None:
    made = objective("dare", n_chans=None).eval()
    made.mask = lambda clean, *_: (clean, clean)  # type: ignore[method-assign]
    nn.init.eye_(made.predictor.weight)
    nn.init.zeros_(made.predictor.bias)
    # DARE-EEG's features are layer-normalised already
    losses = losses_of(made)
    assert losses["anchor"] < 1e-6
    assert losses["anchor_unexplained"] < 1e-3
    nn.init.zeros_(made.predictor.weight)
    assert losses_of(made)["anchor"].item() == pytest.approx(made.config.anchor, rel=1e-3)


# training


def train(
    corpus: Path, out: Path, resume: bool = False, stop: Callable[[int], None] = lambda step: None
) -> AlignedRestoration:
    made = objective(momentum=(0.5, 1.0))
    after_step = made.after_step

    def watched(step: int, total: int) -> None:
        after_step(step, total)
        stop(step)

    made.after_step = watched  # type: ignore[method-assign]
    config = TrainingConfig(steps=6, batch_size=3, save_every=2, log_every=1)
    windows = open_corpus(corpus).windows(4)
    fit(made, windows, config, out, seed=1, device="cpu", quiet=True, resume=resume)
    return made


def test_training_resumes_bit_by_bit(tiny_corpus: Path, tmp_path: Path) -> None:
    whole = train(tiny_corpus, tmp_path / "whole")

    def give_up(step: int) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny_corpus, tmp_path / "cut", stop=give_up)
    resumed = train(tiny_corpus, tmp_path / "cut", resume=True)
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name
    fresh = objective()
    moved = [
        name
        for name, weight in fresh.target_encoder.named_parameters()
        if not torch.equal(weight, whole.target_encoder.get_parameter(name))
        and not torch.equal(
            whole.model.get_parameter(name), whole.target_encoder.get_parameter(name)
        )
    ]
    assert len(moved) > 10
