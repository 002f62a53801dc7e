"""Masks and views: laws over many draws, on montages from 2 to 62 electrodes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from berger.errors import BergerError
from berger.masking import views as room
from berger.masking.views import Views, ViewsConfig, count_visible, draw_views

PAPER = ViewsConfig()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_draws(n_draws: int, config: ViewsConfig) -> Iterator[tuple[int, int, Views]]:
    """Draw for montages of 4 to 62 channels and 1 to 32 steps."""
    rng, generator = np.random.default_rng(1), seeded(1)
    for _ in range(n_draws):
        n_steps, n_chans = int(rng.integers(1, 33)), int(rng.integers(4, 63))
        yield n_steps, n_chans, draw_views(n_steps, n_chans, config, generator)


def rows(visible: Tensor, n_chans: int) -> tuple[list[int], list[set[int]]]:
    """The step of each row, and its channels."""
    steps, channels = visible // n_chans, visible % n_chans
    assert (steps == steps[:, :1]).all()
    return steps[:, 0].tolist(), [set(row) for row in channels.tolist()]


def iou(one: Tensor, other: Tensor) -> float:
    left, right = set(one.flatten().tolist()), set(other.flatten().tolist())
    return len(left & right) / len(left | right)


def test_laws_of_ten_thousand_draws() -> None:
    overlaps, seen_share, target_share = [], [0, 0], [0, 0]
    for n_steps, n_chans, views in random_draws(10_000, PAPER):
        expected = 12 if n_chans >= 24 else n_chans // 2
        steps = views.steps.tolist()
        assert 1 <= len(steps) <= n_steps
        assert steps == sorted(set(steps))
        # both views: the same steps, in the order of time, equally many different channels in each
        for visible in (views.visible1, views.visible2):
            assert visible.shape == (len(steps), expected)
            of_row, channels = rows(visible, n_chans)
            assert of_row == steps
            assert all(len(row) == expected for row in channels)
        # the realised overlap, in every step the same
        both = (views.visible1[:, :, None] == views.visible2[:, None, :]).sum((1, 2))
        k = int(both[0])
        assert (both == k).all()
        assert k <= expected - 1
        assert views.overlap == pytest.approx(k / (2 * expected - k))
        if n_chans >= 36:
            overlaps.append(views.overlap)
        # targets: sorted, never seen by view 1, all of hidden steps, some of what seen steps hide
        targets = views.targets.tolist()
        assert targets == sorted(set(targets))
        assert set(targets) <= set(range(n_steps * n_chans))
        assert not set(targets) & set(views.visible1.flatten().tolist())
        in_steps = np.bincount(np.array(targets) // n_chans, minlength=n_steps)
        hidden = np.setdiff1d(np.arange(n_steps), steps)
        assert (in_steps[hidden] == n_chans).all()
        assert in_steps[steps].sum() >= 1
        if n_steps >= 16:  # where nothing is drawn again, nearly
            seen_share[0] += len(steps)
            seen_share[1] += n_steps
            target_share[0] += int(in_steps[steps].sum())
            target_share[1] += len(steps) * (n_chans - expected)
    assert len(overlaps) > 4000
    assert min(overlaps) == pytest.approx(3 / 21)  # 0.143
    assert max(overlaps) == pytest.approx(11 / 13)  # 0.846
    assert seen_share[0] / seen_share[1] == pytest.approx(0.5, abs=0.01)
    assert target_share[0] / target_share[1] == pytest.approx(0.2, abs=0.003)


def test_overlap_follows_the_wanted_one() -> None:
    """Without jitter, up to the rounding to whole channels."""
    for wanted in (0.0, 0.2, 0.5, 0.8):
        config = ViewsConfig(overlap=(wanted, wanted), jitter=0)
        k = round(2 * wanted / (1 + wanted) * 12)
        for seed in range(20):
            views = draw_views(8, 58, config, seeded(seed))
            assert views.overlap == pytest.approx(k / (24 - k))
            assert iou(views.visible1, views.visible2) == pytest.approx(views.overlap)


def test_jitter_moves_the_overlap() -> None:
    config = ViewsConfig(overlap=(0.5, 0.5))
    overlaps = [draw_views(4, 58, config, seeded(seed)).overlap for seed in range(50)]
    shared = {round(24 * overlap / (1 + overlap)) for overlap in overlaps}
    assert shared == {7, 8, 9}  # two thirds of 12 plus or minus 0.6 channels


@pytest.mark.parametrize("channel_count", [2, 3])
def test_two_and_three_channels_show_one(channel_count: int) -> None:
    overlaps = set()
    for seed in range(200):
        views = draw_views(4, channel_count, PAPER, seeded(seed))
        assert views.visible1.shape[1] == views.visible2.shape[1] == 1
        overlaps.add(views.overlap)
    assert overlaps == {0.0, 1.0}


@pytest.mark.parametrize(
    ("n_chans", "visible", "expected"),
    [(2, 12, 1), (3, 12, 1), (4, 12, 2), (23, 12, 11), (24, 12, 12), (62, 12, 12), (20, 4, 4)],
)
def test_small_montages_show_half(n_chans: int, visible: int, expected: int) -> None:
    assert count_visible(n_chans, ViewsConfig(visible=visible)) == expected


@pytest.mark.parametrize("n_chans", [25, 28, 31])
def test_overlap_is_raised_where_channels_are_too_few(n_chans: int) -> None:
    """16 of 28 channels seen twice have 4 in common at least."""
    config = ViewsConfig(visible=16, overlap=(0, 0), jitter=0)
    views = draw_views(6, n_chans, config, seeded())
    k = 32 - n_chans
    assert views.overlap == pytest.approx(k / (32 - k))


def test_every_channel_is_equally_likely_in_both_views() -> None:
    n_steps, n_chans, n_draws = 8, 30, 400
    counts = torch.zeros(2, n_chans)
    n_rows = 0
    for seed in range(n_draws):
        views = draw_views(n_steps, n_chans, PAPER, seeded(seed))
        n_rows += len(views.steps)
        for number, visible in enumerate((views.visible1, views.visible2)):
            counts[number] += torch.bincount(visible.flatten() % n_chans, minlength=n_chans)
    p = 12 / n_chans
    assert ((counts / n_rows - p).abs() < 5 * math.sqrt(p * (1 - p) / n_rows)).all()


def test_the_generator_alone_decides() -> None:
    before = torch.get_rng_state()
    one, same, other = (draw_views(16, 58, PAPER, seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())
    assert all(
        torch.equal(a, b) if isinstance(a, Tensor) else a == b
        for a, b in zip(one, same, strict=True)
    )
    assert not torch.equal(one.targets, other.targets)


# views with steps of their own


def test_laws_of_independent_steps() -> None:
    config = ViewsConfig(same_steps=False)
    n_common = n_seen = 0
    for n_steps, n_chans, views in random_draws(2000, config):
        expected = 12 if n_chans >= 24 else n_chans // 2
        steps1, channels1 = rows(views.visible1, n_chans)
        steps2, channels2 = rows(views.visible2, n_chans)
        assert steps1 == views.steps.tolist()
        assert steps2 == sorted(set(steps2))
        assert all(len(row) == expected for row in channels1 + channels2)
        first = dict(zip(steps1, channels1, strict=True))
        second = dict(zip(steps2, channels2, strict=True))
        common = first.keys() & second.keys()
        shared = {len(first[step] & second[step]) for step in common}
        assert len(shared) <= 1
        assert max(shared, default=0) <= expected - 1
        assert views.overlap == pytest.approx(iou(views.visible1, views.visible2))
        assert not set(views.targets.tolist()) & set(views.visible1.flatten().tolist())
        if n_steps >= 16:
            n_common += len(common)
            n_seen += len(steps1)
    assert n_common / n_seen == pytest.approx(0.5, abs=0.02)


# what is drawn again, and what is refused


def test_redraws_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MAX_DRAWS", 20)
    config = ViewsConfig(step_mask=0.999999)
    with pytest.raises(BergerError, match=r"1 time steps × 4 channels .* in 20 draws; lower step"):
        draw_views(1, 4, config, seeded())
    config = ViewsConfig(target_share=1e-9)
    with pytest.raises(BergerError, match=r"target_share = 1e-09 .* raise target_share"):
        draw_views(4, 4, config, seeded())


def test_one_step_of_two_channels_can_be_masked() -> None:
    """One draw in ten is good: the step is seen and its only unseen patch a target."""
    for seed in range(200):
        views = draw_views(1, 2, PAPER, seeded(seed))
        assert views.steps.tolist() == [0]
        assert sorted([views.visible1.item(), views.targets.item()]) == [0, 1]


def test_a_single_channel_is_refused() -> None:
    with pytest.raises(BergerError, match="a single channel has none that could be hidden"):
        draw_views(16, 1, PAPER, seeded())


def test_seeing_everything_is_refused() -> None:
    with pytest.raises(BergerError, match="visible = 30 hides nothing of 30 channels; lower it to"):
        draw_views(16, 30, ViewsConfig(visible=30), seeded())


@pytest.mark.parametrize(
    "fields",
    [
        {"step_mask": 1.0},
        {"visible": 0},
        {"target_share": 0},
        {"overlap": (0.8, 0.2)},
        {"overlap": (0.2, 1.2)},
        {"jitter": -0.1},
    ],
)
def test_what_cannot_be_drawn_is_no_configuration(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ViewsConfig(**fields)
