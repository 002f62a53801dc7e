"""Laws of the Gaussian masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.stats import ks_2samp

from berger.errors import BergerError
from berger.masking.gaussian import (
    Bumps,
    GaussianMaskConfig,
    KindShares,
    draw_bumps,
    draw_gain,
    lay_on,
    mask_signal,
)
from berger.spectral import BANDS

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


def test_equal_configurations_draw_equal_masks() -> None:
    """A file may list the bands in any order."""
    one = GaussianMaskConfig()
    other = GaussianMaskConfig(bands=dict(sorted(one.bands.items())))
    assert one == other
    assert [*one.bands] != [*other.bands]
    assert torch.equal(draw(4, one), draw(4, other))


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


# laws over 10,000 masks of 30 s: every bump that was laid on is looked at

MAP = (201, 31)


@pytest.fixture(scope="module")
def laid_on() -> tuple[Bumps, torch.Tensor, torch.Tensor]:
    """Bumps, which of them were used, and the share that each mask hides; made in batches."""
    source, config = generator(3), GaussianMaskConfig()
    bumps, used, hidden = [], [], []
    for _ in range(50):
        drawn = draw_bumps(200, MAP, SFREQ, config, source)
        gain, n_bumps = lay_on(drawn, MAP, config)
        bumps.append(drawn)
        used.append(torch.arange(drawn.centre_bin.shape[1]) < n_bumps[:, None])
        hidden.append(1 - gain.mean((1, 2)))
    joined = Bumps(*(torch.cat(parts) for parts in zip(*bumps, strict=True)))
    return joined, torch.cat(used), torch.cat(hidden)


def assert_shares(found: torch.Tensor, expected: list[float]) -> None:
    """Counts agree with probabilities to four standard errors."""
    shares = np.array(expected)
    error = np.sqrt(shares * (1 - shares) / found.sum().item())
    np.testing.assert_array_less(np.abs(found.numpy() / found.sum().item() - shares), 4 * error)


def test_kinds_of_all_bumps(laid_on: tuple[Bumps, torch.Tensor, torch.Tensor]) -> None:
    """Stopping when enough is hidden does not favour a kind (Wald's identity)."""
    bumps, used, _ = laid_on
    frequency, time = bumps.hides_frequency[used], bumps.hides_time[used]
    assert (frequency | time).all()
    counts = torch.stack([(frequency & ~time).sum(), (time & ~frequency).sum()])
    counts = torch.cat([counts, (frequency & time).sum()[None]])
    assert_shares(counts, [0.6, 0.3, 0.1])


def test_centres_of_all_bumps(laid_on: tuple[Bumps, torch.Tensor, torch.Tensor]) -> None:
    """Half of the centres are drawn in bands, the other half falls into bands by chance, too."""
    bumps, used, _ = laid_on
    centre = bumps.centre_bin[used & bumps.hides_frequency].long()
    counts = torch.bincount(centre, minlength=MAP[0])
    assert len(counts) == MAP[0]
    hertz = np.arange(MAP[0]) * SFREQ / 400
    expected = np.full(MAP[0], 0.5 / MAP[0])
    for band, share in GaussianMaskConfig().bands.items():
        inside = (hertz >= BANDS[band][0]) & (hertz < BANDS[band][1])
        expected[inside] += 0.5 * share / inside.sum()
        # delta 0.150 + 6/402 = 0.165, theta 0.200 + 8/402 = 0.220, ...
        total = torch.stack([counts[torch.from_numpy(inside)].sum(), counts.sum()])
        probability = float(expected[inside].sum())
        assert_shares(torch.stack([total[0], total[1] - total[0]]), [probability, 1 - probability])
    chi2 = ((counts.numpy() - counts.sum().item() * expected) ** 2 / expected).sum()
    chi2 /= counts.sum().item()
    freedom = MAP[0] - 1
    assert abs(chi2 - freedom) < 4 * (2 * freedom) ** 0.5
    frames = bumps.centre_frame[used & bumps.hides_time].long()
    assert_shares(torch.bincount(frames, minlength=MAP[1]), [1 / MAP[1]] * MAP[1])


def test_the_share_hidden(laid_on: tuple[Bumps, torch.Tensor, torch.Tensor]) -> None:
    """At least the ratio; beyond it at most the last bump's own area, σ·√(2π) of the map."""
    bumps, used, hidden = laid_on
    assert hidden.min() >= 0.5
    assert hidden.max() < 0.5 + 0.05 * (2 * np.pi) ** 0.5 * 1.01
    without_last = used & (torch.arange(used.shape[1]) < used.sum(1)[:, None] - 1)
    before = torch.stack([by_hand(bumps, without_last, sample).mean() for sample in range(200)])
    assert (1 - before < 0.5).all()


def test_the_overshoot_is_that_of_the_definition(
    laid_on: tuple[Bumps, torch.Tensor, torch.Tensor],
) -> None:
    """Kolmogorov-Smirnov test against masks that NumPy draws word by word from the definition."""
    rng = np.random.default_rng(0)
    f, t = np.arange(MAP[0])[:, None], np.arange(MAP[1])
    bands = [(1, 4), (4, 8), (8, 12), (12, 30)]
    n, hidden, n_bumps = 1000, [], []
    for _ in range(n):
        gain, count = np.ones(MAP), 0
        while 1 - gain.mean() < 0.5:
            kind = rng.choice(["frequency", "time", "both"], p=[0.6, 0.3, 0.1])
            f0, t0 = rng.integers(MAP[0]), rng.integers(MAP[1])
            if rng.random() < 0.5:
                f0 = int(rng.uniform(*bands[rng.choice(4, p=[0.3, 0.4, 0.2, 0.1])]) * 2)
            bump = np.ones(MAP)
            if kind != "time":
                bump = bump * np.exp(-0.5 * ((f - f0) / (0.05 * MAP[0])) ** 2)
            if kind != "frequency":
                bump = bump * np.exp(-0.5 * ((t - t0) / (0.05 * MAP[1])) ** 2)
            gain, count = gain * (1 - bump), count + 1
        hidden.append(1 - gain.mean())
        n_bumps.append(count)
    _, used, ours = laid_on
    # at 1.95 one in a thousand pairs of equal distributions would differ by more
    limit = 1.95 * ((n + len(ours)) / (n * len(ours))) ** 0.5
    for one, other in ((hidden, ours.numpy()), (n_bumps, used.sum(1).numpy())):
        assert ks_2samp(one, other).statistic < limit
    assert ks_2samp(hidden, ours.numpy() + 0.005).statistic > limit  # the test can tell


def by_hand(bumps: Bumps, used: torch.Tensor, sample: int) -> torch.Tensor:
    """The definition, a bump at a time, in double precision."""
    f, t = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in MAP), indexing="ij")
    gain = torch.ones(MAP, dtype=torch.float64)
    for place in used[sample].nonzero()[:, 0].tolist():
        frequency, time, f0, t0 = (x[sample, place].item() for x in bumps)
        across = torch.exp(-0.5 * ((f - f0) / (0.05 * MAP[0])) ** 2) if frequency else 1.0
        along = torch.exp(-0.5 * ((t - t0) / (0.05 * MAP[1])) ** 2) if time else 1.0
        gain *= 1 - across * along
    return gain


def test_a_mask_by_hand(laid_on: tuple[Bumps, torch.Tensor, torch.Tensor]) -> None:
    bumps, used, _ = laid_on
    gain = draw_gain(20, 6000, SFREQ, GaussianMaskConfig(), generator(3))
    # the first numbers of the same stream
    bumps = draw_bumps(20, MAP, SFREQ, GaussianMaskConfig(), generator(3))
    for sample in range(20):
        expected = by_hand(bumps, used, sample)
        torch.testing.assert_close(gain[sample].double(), expected, rtol=0, atol=1e-6)


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
