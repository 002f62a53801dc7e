"""Laws of the Gaussian masks."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from berger.errors import BergerError
from berger.masking.gaussian import GaussianMaskConfig, KindShares, draw_gain, mask_signal

SFREQ = 200.0
ONLY = {
    "frequency": KindShares(frequency=1, time=0, time_frequency=0),
    "time": KindShares(frequency=0, time=1, time_frequency=0),
    "time_frequency": KindShares(frequency=0, time=0, time_frequency=1),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(
    n_samples: int, config: GaussianMaskConfig, n_times: int = 6000, seed: int = 0
) -> torch.Tensor:
    return draw_gain(n_samples, n_times, SFREQ, config, generator(seed))


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("kinds", [KindShares(), *ONLY.values()], ids=["mixed", *ONLY])
@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.8])
def test_every_mask_reaches_its_ratio_and_not_much_more(
    kinds: KindShares, ratio: float, hard: bool
) -> None:
    hidden = 1 - draw(50, GaussianMaskConfig(kinds=kinds, ratio=ratio, hard=hard)).mean((1, 2))
    assert hidden.min() >= ratio
    # the last bump hides at most the area under one Gaussian
    assert hidden.max() <= ratio + 0.17


@pytest.mark.parametrize("n_times", [200, 240, 1000, 2000, 12000])
def test_every_window_length_can_be_masked(n_times: int) -> None:
    gain = draw(20, GaussianMaskConfig(), n_times)
    assert gain.shape[1:] == (201, 1 + -(-n_times // 200))
    assert (1 - gain.mean((1, 2))).min() >= 0.5
    assert gain.min() >= 0
    assert gain.max() <= 1


def test_strength_zero_is_the_identity() -> None:
    config = GaussianMaskConfig(level=0)
    signal = torch.randn(4, 3, 2000)
    gain = draw(4, config, 2000)
    assert (gain == 1).all()
    torch.testing.assert_close(mask_signal(signal, gain, config), signal, rtol=0, atol=1e-5)


def test_a_weaker_level_still_reaches_the_ratio() -> None:
    gain = draw(50, GaussianMaskConfig(level=0.3))
    assert (1 - gain.mean((1, 2))).min() >= 0.5


@pytest.mark.parametrize(
    "config", [GaussianMaskConfig(), GaussianMaskConfig(kinds=ONLY["time_frequency"])]
)
def test_same_seed_same_masks_whatever_the_batch_size(config: GaussianMaskConfig) -> None:
    whole = draw(12, config)
    source = generator()
    parts = [draw_gain(n, 6000, SFREQ, config, source) for n in (1, 4, 7)]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole, draw(12, config, seed=1))


def test_the_kinds_of_bump_hide_what_they_say() -> None:
    frequency = draw(20, GaussianMaskConfig(kinds=ONLY["frequency"]))
    assert torch.equal(frequency, frequency[:, :, :1].expand_as(frequency))
    time = draw(20, GaussianMaskConfig(kinds=ONLY["time"]))
    assert torch.equal(time, time[:, :1].expand_as(time))
    spot = draw(20, GaussianMaskConfig(kinds=ONLY["time_frequency"], ratio=0.01))
    assert spot.amin(1).mean() > 0.5
    assert spot.amin(2).mean() > 0.5


def first_bumps(config: GaussianMaskConfig, n_samples: int = 10_000) -> torch.Tensor:
    """Masks of a single bump: a ratio so small that the first reaches it."""
    return draw(n_samples, config.model_copy(update={"ratio": 1e-9}), n_times=4000)


def test_kinds_come_as_often_as_they_should() -> None:
    gain = first_bumps(GaussianMaskConfig())
    whole_time = (gain == gain[:, :, :1]).all(2).all(1)
    whole_frequency = (gain == gain[:, :1]).all(2).all(1)
    shares = [
        whole_time.float().mean(),
        whole_frequency.float().mean(),
        (~whole_time & ~whole_frequency).float().mean(),
    ]
    # three standard errors of 10,000 draws
    torch.testing.assert_close(
        torch.stack(shares), torch.tensor([0.6, 0.3, 0.1]), rtol=0, atol=0.015
    )


@pytest.mark.parametrize("bias", [0.0, 0.5, 1.0])
def test_bands_are_hit_as_often_as_they_should(bias: float) -> None:
    config = GaussianMaskConfig(kinds=ONLY["frequency"], band_bias=bias)
    centre = first_bumps(config)[:, :, 0].argmin(1) * SFREQ / 400
    bands = {
        "delta": (1, 4, 0.3),
        "theta": (4, 8, 0.4),
        "alpha": (8, 12, 0.2),
        "beta": (12, 30, 0.1),
    }
    for low, high, share in bands.values():
        uniform = (high - low) * 2 / 201
        wanted = bias * share + (1 - bias) * uniform
        hit = ((centre >= low) & (centre < high)).float().mean().item()
        assert hit == pytest.approx(wanted, abs=0.015)


def test_hard_masks_hide_as_much_as_the_gaussians_that_they_replace() -> None:
    inside = {"ratio": 1e-9, "band_bias": 1.0, "bands": {"beta": 1.0}, "kinds": ONLY["frequency"]}
    soft = 1 - draw(500, GaussianMaskConfig(**inside)).mean()
    hard_gain = draw(500, GaussianMaskConfig(**inside, hard=True))
    assert set(hard_gain.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(1 - hard_gain.mean(), soft, rtol=0.02, atol=0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"ratio": 0},
        {"kinds": {"frequency": 0.6, "time": 0.6, "time_frequency": 0.1}},
        {"bands": {"delta": 0.5}},
        {"bands": {"slow": 1.0}},
        {"hop": 300},
        {"levle": 1},
    ],
)
def test_impossible_masks_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        GaussianMaskConfig.model_validate(wrong)


def test_a_share_that_cannot_be_hidden_is_an_error() -> None:
    """Bumps inside the bands alone never reach beyond 45 Hz."""
    config = GaussianMaskConfig(kinds=ONLY["frequency"], band_bias=1.0)
    with pytest.raises(BergerError, match=r"not the ratio of 0\.5"):
        draw(2, config)


@pytest.mark.parametrize("bias", [0.0, 0.9])
def test_a_strong_band_bias_reaches_the_ratio_all_the_same(bias: float) -> None:
    gain = draw(100, GaussianMaskConfig(kinds=ONLY["frequency"], band_bias=bias))
    assert (1 - gain.mean((1, 2))).min() >= 0.5
