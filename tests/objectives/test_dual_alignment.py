"""DARE-EEG's objective: golden values, then laws of each term and of the momentum copy."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from berger.corpus import Batch, open_corpus
from berger.errors import BergerError
from berger.masking.views import Views, draw_views
from berger.models.dare import DARE_SIZES, DareConfig, DareEEG, name_here, patches_at
from berger.objectives.dual_alignment import (
    DualAlignment,
    DualAlignmentConfig,
    activation_penalty,
    reconstruction_loss,
)
from berger.training.loop import fit
from berger.training.optim import OptimizerConfig, build_optimizer
from berger.training.run import TrainingConfig
from tests.golden.golden_weights import golden_tensor
from tests.golden.published import GOLDEN, agree, golden_arrays

CH_NAMES = ("Fp1", "Fp2", "C3", "C4", "Cz", "O1", "O2", "Pz")
TERMS = ("reconstruction", "anchor", "mask_alignment", "activation")
MEASURES = {"anchor_unseen", "feature_std", "effective_rank", "retrieval"}


def objective(n_streams: int = 1, **changes: Any) -> DualAlignment:
    torch.manual_seed(0)
    model = DareEEG(
        DareConfig(
            embed_dim=16,
            n_heads=2,
            n_streams=n_streams,
            encoder_depth=1,
            predictor_depth=1,
            reconstructor_depth=1,
        )
    )
    return DualAlignment(model, DualAlignmentConfig.model_validate(changes))


def batch_of(n_windows: int = 4, n_steps: int = 8, ch_names: tuple[str, ...] = CH_NAMES) -> Batch:
    generator = torch.Generator().manual_seed(1)
    counts = 100 * torch.randn(n_windows, 64 * n_steps, len(ch_names), generator=generator)
    return Batch(
        samples=counts.round().to(torch.int16),
        scale=torch.full((n_windows, len(ch_names)), 0.1),
        ch_names=ch_names,
        sfreq=256.0,
        recordings=("r",) * n_windows,
        subjects=("s",) * n_windows,
        starts=torch.arange(n_windows) * 64 * n_steps,
    )


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


# golden values


def golden_objective(case: str) -> tuple[DualAlignment, dict[str, Tensor], Views, tuple[str, ...]]:
    """The published program's weights in the objective, its inputs and its outputs."""
    about = json.loads((GOLDEN / f"{case}.json").read_text())
    encoder, predictor, reconstructor = about["config"]["depth"]
    model = DareEEG(
        DareConfig(
            embed_dim=about["config"]["embed_dim"],
            n_streams=about["config"]["embed_num"],
            encoder_depth=encoder,
            predictor_depth=predictor,
            reconstructor_depth=reconstructor,
            n_heads=about["config"]["num_heads"],
        )
    )
    made = DualAlignment(model, DualAlignmentConfig())
    weights = {
        name: torch.from_numpy(golden_tensor(name, tuple(shape)))
        for name, shape, *fixed in about["parameters"]
        if not fixed
    }
    head = "loss_mc.projection_head."
    made.projection.load_state_dict(
        {name.removeprefix(head): w for name, w in weights.items() if name.startswith(head)}
    )
    parts = {name: w for name, w in weights.items() if not name.startswith(head)}
    own = model.state_dict()
    named = {name_here(name): w for name, w in parts.items()}
    model.load_state_dict({name: w.reshape(own[name].shape) for name, w in named.items()})
    made.target_encoder.load_state_dict(model.encoder.state_dict())
    golden = golden_arrays(case)
    n_chans = golden["signal"].shape[1]
    views = Views(
        steps=golden["visible_view1"][:, 0] // n_chans,
        visible1=golden["visible_view1"],
        visible2=golden["visible_view2"],
        targets=golden["target"],
        overlap=math.nan,
    )
    return made.train(), golden, views, tuple(about["channels"])


@pytest.mark.parametrize("case", ["dare_nano", "dare_streams4"])
def test_losses_agree_with_the_published_values(case: str) -> None:
    made, golden, views, ch_names = golden_objective(case)
    losses = made.losses(10 * golden["signal"], ch_names, views)
    assert list(losses) == ["loss", *TERMS]
    for name, weight, published in (
        ("reconstruction", 1, "loss_reconstruction"),
        ("anchor", 1, "loss_anchor"),
        ("mask_alignment", 0.1, "loss_mask_alignment"),
        ("activation", 1e-4, "activation_penalty"),
        ("loss", 1, "total"),
    ):
        torch.testing.assert_close(losses[name], weight * golden[published], rtol=1e-4, atol=0)
    scaled, _ = made.model.prepare(10 * golden["signal"], ch_names)
    patches = patches_at(scaled, views.targets, 64)
    clean = nn.functional.layer_norm(patches, (64,))
    agree(clean, golden["reconstruction_target"])  # the order of the targets, too


@pytest.mark.parametrize(
    ("size", "n_parameters"),
    [
        ("nano", 593_792),
        ("light", 3_849_408),
        ("small", 14_743_104),
        ("base", 19_876_416),
        ("deep", 77_762_880),
    ],
)
def test_the_papers_sizes(size: str, n_parameters: int) -> None:
    """Three parts and the projection head, without the momentum copy."""
    with torch.device("meta"):
        made = DualAlignment(DareEEG(DARE_SIZES[size]), DualAlignmentConfig())
    assert sum(p.numel() for p in made.parameters() if p.requires_grad) == n_parameters


# what is computed


@pytest.mark.parametrize("n_streams", [1, 3])
@pytest.mark.parametrize("same_steps", [True, False])
def test_losses_are_finite_and_sum_up(n_streams: int, same_steps: bool) -> None:
    made = objective(n_streams, views={"same_steps": same_steps})
    for training in (True, False):
        losses = made.train(training)(batch_of(), seeded())
        assert set(losses) == {"loss", *TERMS} | (set() if training else MEASURES)
        assert all(torch.isfinite(value) and value.ndim == 0 for value in losses.values())
        torch.testing.assert_close(losses["loss"], sum(losses[name] for name in TERMS))
    losses["loss"].backward()


def gradients(made: DualAlignment) -> dict[str, Tensor]:
    """The gradient of a batch by parameter; those without one are left out."""
    made.zero_grad()
    made.train()(batch_of(), seeded())["loss"].backward()
    return {n: p.grad.clone() for n, p in made.named_parameters() if p.grad is not None}


PART_OF = {"reconstruction": "model.reconstructor.", "mask_alignment": "projection."}


@pytest.mark.parametrize("term", TERMS)
def test_a_term_that_is_off_is_absent(term: str) -> None:
    """Not in the losses, and the gradient is that of the others."""
    whole, rest = objective(), objective(**{term: 0})
    assert term not in rest(batch_of(), seeded())
    others_off: dict[str, float] = {name: 0 for name in TERMS if name != term}
    if term == "activation":  # is nothing to learn by itself
        others_off["mask_alignment"] = 1e-12
    found, others, own = (gradients(o) for o in (whole, rest, objective(**others_off)))
    if term in PART_OF:
        assert not any(name.startswith(PART_OF[term]) for name in others)
    zero = torch.zeros(())
    for name, gradient in found.items():
        parts = others.get(name, zero) + own.get(name, zero)
        torch.testing.assert_close(parts.expand_as(gradient), gradient, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(
    ("changes", "idle"),
    [
        ({}, {"target_encoder"}),
        ({"reconstruction": 0}, {"target_encoder", "model.reconstructor"}),
        ({"anchor": 0}, {"target_encoder"}),
        ({"mask_alignment": 0}, {"target_encoder", "projection"}),
        (
            {"reconstruction": 0, "anchor": 0},
            {"target_encoder", "model.reconstructor", "model.predictor"},
        ),
        (
            {"reconstruction": 0, "mask_alignment": 0},
            {"target_encoder", "model.reconstructor", "projection"},
        ),
    ],
)
def test_the_optimiser_gets_what_is_trained_and_nothing_else(
    changes: dict[str, float], idle: set[str]
) -> None:
    """The target encoder never; and everything that it gets has a gradient, as DDP demands."""
    made = objective(**changes)
    optimizer = build_optimizer(made, OptimizerConfig())
    given = {id(p) for group in optimizer.param_groups for p in group["params"]}
    trained = {name for name, parameter in made.named_parameters() if id(parameter) in given}
    assert trained == {
        name for name, _ in made.named_parameters() if not name.startswith(tuple(idle))
    }
    assert set(gradients(made)) == trained


def test_nothing_to_learn_is_no_configuration() -> None:
    with pytest.raises(ValidationError, match="cannot all be 0"):
        DualAlignmentConfig(reconstruction=0, anchor=0, mask_alignment=0)
    with pytest.raises(ValidationError, match="momentum must be two numbers from 0 to 1"):
        DualAlignmentConfig(momentum=(0.5, 1.5))


def test_amplitude_counts_unless_targets_are_normalised() -> None:
    patches = random_rows(2, 5, 64)
    guess = random_rows(2, 5, 64, seed=1)
    louder = reconstruction_loss(guess, 7 * patches)
    torch.testing.assert_close(louder, reconstruction_loss(guess, patches), rtol=1e-3, atol=0)
    assert reconstruction_loss(guess, 7 * patches, normalize=False) > 7 * louder
    assert reconstruction_loss(patches, patches, normalize=False) == 0
    raw = objective(normalize_targets=False)
    assert (
        raw(batch_of(), seeded())["reconstruction"]
        != objective()(batch_of(), seeded())["reconstruction"]
    )


def test_without_seen_features_the_reconstructor_gets_predicted_ones() -> None:
    for keep_seen in (True, False):
        made = objective(keep_seen=keep_seen)
        given: list[Tensor] = []
        made.model.reconstructor.register_forward_pre_hook(
            lambda _, arguments, given=given: given.append(arguments[0])
        )
        made.model.predictor.register_forward_hook(
            lambda _, arguments, outputs, given=given: given.extend(outputs)
        )
        made(batch_of(), seeded())
        predicted, combined, used = given
        assert not torch.equal(predicted, combined)
        assert torch.equal(used, combined if keep_seen else predicted)


def test_only_view_1_is_predicted_and_restored_from() -> None:
    made = objective()
    views = draw_views(8, 8, made.config.views, seeded())
    signal = batch_of().signal()
    other = views._replace(visible2=draw_views(8, 8, made.config.views, seeded(9)).visible2)
    one, two = (made.losses(signal, CH_NAMES, v) for v in (views, other))
    assert one["reconstruction"] == two["reconstruction"]
    assert one["anchor"] == two["anchor"]
    assert one["mask_alignment"] != two["mask_alignment"]


def test_a_signal_that_does_not_fit_is_refused() -> None:
    with pytest.raises(BergerError, match="no embedding and no position for X9"):
        objective()(batch_of(ch_names=("C3", "X9")), seeded())
    with pytest.raises(BergerError, match="a single channel"):
        objective()(batch_of(ch_names=("C3",)), seeded())


# laws of the target encoder


def test_the_price_of_features_by_hand() -> None:
    features = random_rows(3, 6, 2, 16)
    assert activation_penalty(features, 0 * features) == features.square().mean() / 2


@pytest.mark.parametrize(("momentum", "follows"), [(1.0, False), (0.0, True)])
def test_momentum_1_freezes_and_0_copies(momentum: float, follows: bool) -> None:
    made = objective(momentum=(momentum, momentum))
    before = {name: w.clone() for name, w in made.target_encoder.state_dict().items()}
    nn.init.normal_(made.model.encoder.embed.weight)
    made.after_step(1, 10)
    wanted = made.model.encoder.state_dict() if follows else before
    for name, weight in made.target_encoder.state_dict().items():
        assert torch.equal(weight, wanted[name])
    assert not torch.equal(made.model.encoder.embed.weight, before["embed.weight"])


def test_momentum_rises_on_a_straight_line() -> None:
    kept = []
    for step in (1, 2, 3, 4, 5):
        made = objective(momentum=(0.6, 1.0))
        nn.init.zeros_(made.target_encoder.norm.bias)
        nn.init.ones_(made.model.encoder.norm.bias)
        made.after_step(step, 5)
        kept.append(1 - made.target_encoder.norm.bias[0].item())
    assert kept == pytest.approx([0.6, 0.7, 0.8, 0.9, 1.0])
    objective().after_step(1, 1)


def test_the_target_encoder_is_never_trained() -> None:
    made = objective()
    assert not any(p.requires_grad for p in made.target_encoder.parameters())
    made.train()
    assert made.model.encoder.training
    assert not any(module.training for module in made.target_encoder.modules())
    assert not any(name.startswith("target_encoder") for name in gradients(made))
    assert not made.eval().training
    # no gradient is even computed on the way to it
    outputs: list[Tensor] = []
    made.target_encoder.register_forward_hook(lambda _, __, output: outputs.append(output))
    made.train()(batch_of(), seeded())
    assert [output.requires_grad for output in outputs] == [False]


def test_the_target_encoder_sees_the_complete_signal() -> None:
    made = objective()
    given: list[tuple[Any, ...]] = []
    made.target_encoder.register_forward_pre_hook(lambda _, arguments: given.append(arguments))
    made(batch_of(), seeded())
    ((signal, *rest),) = given
    torch.testing.assert_close(signal, batch_of().signal() / 10)
    assert len(rest) == 1  # electrodes, and no `visible`


@pytest.mark.parametrize("saves", ["target", "trained"])
def test_the_checkpoint_holds_the_encoder_asked_for(saves: str, tmp_path: Path) -> None:
    made = objective(saves=saves, reconstruction=0)
    nn.init.normal_(made.model.encoder.embed.weight)
    model = made.pretrained()
    chosen = made.target_encoder if saves == "target" else made.model.encoder
    for name, weight in chosen.state_dict().items():
        assert torch.equal(model.encoder.state_dict()[name], weight)
    assert all(p.requires_grad for p in model.parameters())
    assert not model.training
    # what goes on being trained is not touched
    with torch.no_grad():
        model.predictor.out.weight.zero_()
    assert made.model.predictor.out.weight.abs().sum() > 0


def test_a_collapse_shows() -> None:
    made = objective().eval()
    healthy = made(batch_of(), seeded())
    nn.init.zeros_(made.model.encoder.norm.weight)
    collapsed = made(batch_of(), seeded())
    assert collapsed["feature_std"] == 0
    assert collapsed["effective_rank"] == 1
    assert healthy["feature_std"] > 0
    assert healthy["effective_rank"] > 1.5


# training


def train(
    corpus: Path, out: Path, resume: bool = False, stop: Callable[[int], None] = lambda step: None
) -> DualAlignment:
    made = objective(momentum=(0.5, 1.0))
    after_step = made.after_step

    def watched(step: int, total: int) -> None:
        after_step(step, total)
        stop(step)

    made.after_step = watched  # type: ignore[method-assign]
    config = TrainingConfig(steps=6, batch_size=3, save_every=2, log_every=1)
    windows = open_corpus(corpus).windows(2.56)
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
        n
        for n, w in fresh.target_encoder.named_parameters()
        if not torch.equal(w, whole.target_encoder.get_parameter(n))
    ]
    assert len(moved) > 10
    still = [
        n
        for n, w in whole.target_encoder.named_parameters()
        if torch.equal(w, whole.model.encoder.get_parameter(n))
    ]
    assert not still
