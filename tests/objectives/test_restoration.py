"""The losses of SpecMoE's pretraining: golden values and laws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from berger.corpus import Batch
from berger.errors import BergerError
from berger.models import (
    DareConfig,
    DareEEG,
    Features,
    Reconstruction,
    SpecHiNet,
    SpecHiNetConfig,
)
from berger.objectives.restoration import (
    Restoration,
    RestorationConfig,
    auxiliary_loss,
    spectral_distance,
    squared_error,
    window_times,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "specmoe_loss.npz"


def batch_of(signal: Tensor) -> Batch:
    """A batch whose counts are tenths of a microvolt."""
    n_windows, n_chans, _ = signal.shape
    return Batch(
        samples=(10 * signal).round().to(torch.int16).transpose(1, 2),
        scale=torch.full((n_windows, n_chans), 0.1),
        ch_names=tuple(f"E{i}" for i in range(n_chans)),
        sfreq=200.0,
        recordings=("r",) * n_windows,
        subjects=("s",) * n_windows,
        starts=torch.arange(n_windows) * signal.shape[-1],
    )


def objective(**changes: object) -> Restoration:
    torch.manual_seed(0)
    config = SpecHiNetConfig(stem_dim=8, embed_dim=16, bottleneck_dim=32, n_heads=2)
    return Restoration(SpecHiNet(config), RestorationConfig.model_validate(changes))


def test_losses_agree_with_the_published_values() -> None:
    with np.load(GOLDEN, allow_pickle=False) as arrays:
        golden = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    target, branches = golden["target"], (golden["pred_fine"], golden["pred_coarse"])
    mse = sum(squared_error(branch, target) for branch in branches)
    spectral = sum(0.02 * spectral_distance(branch, target, 512, 256) for branch in branches)
    torch.testing.assert_close(mse, golden["mse"], rtol=1e-4, atol=0)
    torch.testing.assert_close(spectral, golden["spectral"], rtol=1e-4, atol=0)
    # the published auxiliary heads are compared with the target interpolated to their length
    auxiliary = torch.zeros(())
    for weight, name in ((0.3, "aux_up2"), (0.2, "aux_up1")):
        low = F.interpolate(target, golden[name].shape[-1], mode="linear", align_corners=False)
        distance = spectral_distance(golden[name], low, 512, 256)
        auxiliary = auxiliary + weight * (squared_error(golden[name], low) + 0.02 * distance)
    torch.testing.assert_close(mse + spectral + auxiliary, golden["total"], rtol=1e-4, atol=0)


@pytest.mark.parametrize("n_times", [240, 2000, 6000])
def test_losses_are_finite_and_sum_up(n_times: int) -> None:
    signal = 20 * torch.randn(2, 3, n_times)
    losses = objective()(batch_of(signal), torch.Generator().manual_seed(0))
    assert all(torch.isfinite(value) for value in losses.values())
    parts = losses["mse"] + losses["spectral"] + losses["auxiliary"]
    torch.testing.assert_close(losses["loss"], parts)
    losses["loss"].backward()


@pytest.mark.parametrize("weights", [(0.3, 0.2), (0.3, 0.0), (0.0, 0.0)])
def test_whatever_is_trained_has_a_gradient(weights: tuple[float, float]) -> None:
    """Several processes would wait for one for ever, or end."""
    made = objective(auxiliary_weights=weights).train()
    batch = batch_of(20 * torch.randn(2, 3, 400))
    made(batch, torch.Generator().manual_seed(0))["loss"].backward()
    for name, parameter in made.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), name
    assert not made.model.auxiliary_up1.weight.requires_grad or weights[1]


def test_measures_of_features_are_taken_in_evaluation_only() -> None:
    made, batch = objective(), batch_of(torch.randn(3, 4, 400))
    learned = made.train()(batch, torch.Generator().manual_seed(0))
    watched = made.eval()(batch, torch.Generator().manual_seed(0))
    assert watched.keys() - learned.keys() == {"feature_std", "effective_rank"}
    assert watched["loss"] == watched["mse"] + watched["spectral"] + watched["auxiliary"]
    assert 1 < watched["effective_rank"] <= made.model.embed_dim


def test_a_perfect_restoration_costs_nothing() -> None:
    signal = torch.randn(2, 3, 2000)
    assert squared_error(signal, signal, 0.95) == 0
    assert spectral_distance(signal, signal, 512, 256) == 0


def test_the_spectral_distance_does_not_see_a_sign() -> None:
    signal = torch.randn(2, 3, 2000)
    assert spectral_distance(-signal, signal, 512, 256) < 1e-10
    assert spectral_distance(2 * signal, signal, 512, 256) > 1


def test_silence_has_a_gradient() -> None:
    """A network that starts at zero must not be trapped where |z| has no slope."""
    silent = torch.zeros(1, 1, 2000, requires_grad=True)
    spectral_distance(silent, torch.randn(1, 1, 2000), 512, 256).backward()
    assert silent.grad is not None
    assert torch.isfinite(silent.grad).all()


def test_pre_emphasis_weighs_fast_waves() -> None:
    times = torch.arange(2000) / 200
    slow, fast = (torch.sin(2 * torch.pi * hertz * times) for hertz in (2, 20))
    nothing = torch.zeros_like(times)
    assert squared_error(slow, nothing).item() == pytest.approx(
        squared_error(fast, nothing).item(), rel=1e-3
    )
    ratio = squared_error(fast, nothing, 0.95) / squared_error(slow, nothing, 0.95)
    assert ratio > 30


def test_the_target_is_the_clean_signal() -> None:
    """A model that returned its masked input would not be content."""
    signal = 20 * torch.randn(4, 2, 2000)
    restoration = objective(auxiliary_weights=(0, 0), spectral_weight=0)
    masked, gain = restoration.mask(signal, torch.Generator().manual_seed(3))
    assert gain.shape == (4, 201, 11)

    def returns_its_input(x: Tensor, times: Tensor, ch_names: object) -> Reconstruction:
        return Reconstruction({"fine": x, "coarse": x}, Features(x, x))

    restoration.model.reconstruct = returns_its_input  # type: ignore[method-assign, assignment]
    losses = restoration(batch_of(signal), torch.Generator().manual_seed(3))
    wanted = 2 * ((masked - signal) / 100).square().mean()
    torch.testing.assert_close(losses["mse"], wanted, rtol=1e-2, atol=0)


def test_fewer_electrodes_are_drawn_anew_for_each_batch() -> None:
    restoration = objective(n_chans=2)
    whole = batch_of(20 * torch.randn(2, 5, 800))
    seen = []
    reconstruct = restoration.model.reconstruct

    def spy(signal: Tensor, times: Tensor, ch_names: tuple[str, ...]) -> object:
        seen.append((signal.shape, len(set(ch_names))))
        # the names are those of the signals
        batch = whole.signal()
        for name, row in zip(ch_names, signal.unbind(1), strict=True):
            alike = torch.cosine_similarity(row[:, None], batch, dim=-1).mean(0).argmax()
            assert whole.ch_names[alike] == name
        return reconstruct(signal, times, ch_names)

    restoration.model.reconstruct = spy  # type: ignore[method-assign, assignment]
    for seed in range(3):
        restoration(whole, torch.Generator().manual_seed(seed))
    assert seen == 3 * [(torch.Size((2, 2, 800)), 2)]


NAMES = ("Fp1", "C3", "C4", "O2")


def dare(restores: str = "correction", **changes: object) -> Restoration:
    torch.manual_seed(0)
    config = DareConfig.model_validate(
        {"embed_dim": 16, "n_heads": 2, "restores": restores, "sfreq": 200, "patch_size": 50}
    )
    fields = {"auxiliary_weights": (0, 0), **changes}
    return Restoration(DareEEG(config), RestorationConfig.model_validate(fields))


def dare_batch(n_times: int = 800) -> Batch:
    signal = 20 * torch.randn(3, 4, n_times, generator=torch.Generator().manual_seed(1))
    return batch_of(signal)._replace(ch_names=NAMES)


def test_dare_learns_to_restore() -> None:
    """The same objective: one branch, and every part of the network has a gradient."""
    restoration = dare("signal", spectral_weight=0.02)
    losses = restoration(dare_batch(), torch.Generator().manual_seed(0))
    torch.testing.assert_close(losses["loss"], losses["mse"] + losses["spectral"])
    losses["loss"].backward()
    idle = {"model.predictor.mask_token"}  # every step is seen
    found = {n for n, p in restoration.named_parameters() if p.grad is not None and p.grad.any()}
    assert found == {n for n, _ in restoration.named_parameters()} - idle


@pytest.mark.parametrize("restores", ["correction", "map"])
def test_a_correction_starts_from_the_masked_input(restores: str) -> None:
    restoration, batch = dare(restores), dare_batch()
    clean = batch.signal()
    masked, _ = restoration.mask(clean, torch.Generator().manual_seed(0))
    restored = restoration.restore(masked, batch.starts, NAMES)
    assert list(restored.branches) == ["reconstructor"]
    torch.testing.assert_close(restored.mean, masked, rtol=1e-4, atol=1e-4)
    wanted = ((masked - clean) / 10).square().mean()
    losses = restoration(batch, torch.Generator().manual_seed(0))
    torch.testing.assert_close(losses["mse"], wanted, rtol=1e-4, atol=0)


def test_what_a_model_has_no_heads_for_is_not_left_out_in_silence() -> None:
    with pytest.raises(ValueError, match="zip"):
        dare(auxiliary_weights=(0.3, 0.2))(dare_batch(), torch.Generator().manual_seed(0))


def test_windows_that_dare_cannot_read_are_told_before_training() -> None:
    restoration = dare()
    restoration.check(800, NAMES)
    with pytest.raises(BergerError, match="no multiple of a patch's 50"):
        restoration.check(810, NAMES)
    with pytest.raises(BergerError, match="no embedding and no position for X9"):
        restoration.check(800, ("C3", "X9"))
    objective().check(810, ("X9",))  # a SpecHi-Net reads any


def test_times_of_the_windows_of_a_recording() -> None:
    times = window_times(torch.tensor([0, 6000, 12000]), 6000)
    assert times[:, 0].tolist() == [1, 11, 21]
    assert times[:, -1].tolist() == [10, 20, 30]


@pytest.mark.parametrize("n_times", [400, 1000, 2000, 2400])
@pytest.mark.parametrize(("index", "factor"), [(0, 15), (1, 60)])
def test_an_auxiliary_head_that_is_right_costs_nothing(
    index: int, factor: int, n_times: int
) -> None:
    """A slow wave at the heads' own rate, for windows that the network has to pad and not."""
    slow = torch.sin(2 * torch.pi * 0.8 * torch.arange(2520.0) / 200)
    clean = slow[:n_times].expand(1, 2, -1)
    padded = max(360, -(-n_times // 120) * 120)
    middles = slow[torch.arange(padded // factor) * factor + factor // 2]
    head = middles.expand(1, 2, 2, -1)
    # the ends, where the signal is continued by its last value, are not exact
    assert auxiliary_loss(head, clean, factor, RestorationConfig()) < 0.05 * slow.square().mean()
    assert auxiliary_loss(0 * head, clean, factor, RestorationConfig()) > 0.4
