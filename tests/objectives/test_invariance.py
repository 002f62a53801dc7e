"""Invariance under masks: laws of the measures, and of the pairs of masks."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from berger import load_checkpoint, open_corpus
from berger.corpus import WindowDataset
from berger.errors import BergerError
from berger.masking.gaussian import GaussianMaskConfig
from berger.masking.views import ViewsConfig
from berger.models import DareConfig, DareEEG, Encoder, SpecHiNet, SpecHiNetConfig
from berger.models.encoders import build_encoder
from berger.objectives.dual_alignment import pooled
from berger.objectives.invariance import (
    MAPS,
    MEASURES,
    OVERLAPS,
    OWN_STEPS,
    SAME_STEPS,
    compare,
    invariance,
)

VIEWS = ViewsConfig(visible=6)
DARE = DareConfig(
    sfreq=100, patch_size=50, embed_dim=16, encoder_depth=1, n_heads=4, parts="encoder"
)
MASKS = GaussianMaskConfig(n_fft=100, hop=50)


def rows_of(n_windows: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(n_windows, dim, generator=torch.Generator().manual_seed(seed))


def dare(seed: int = 0, **changes: object) -> DareEEG:
    torch.manual_seed(seed)
    encoder = build_encoder(DARE.model_copy(update=changes))
    assert isinstance(encoder, DareEEG)
    return encoder


@pytest.fixture
def windows(tiny_corpus: Path) -> WindowDataset:
    """Windows of 4 s of people of two montages."""
    everything = open_corpus(tiny_corpus).windows(4)
    return everything.take(np.arange(0, len(everything), 3))


# laws of the measures


def test_the_same_features_are_the_best_pair() -> None:
    rows = rows_of(40, 8)
    found = compare(rows, 5 * rows)  # lengths do not count
    assert found["alignment"] == pytest.approx(0, abs=1e-12)
    assert found["retrieval"] == 1
    assert found["cosine_within"] == pytest.approx(1)
    assert found["cosine_between"] < 0.1


def test_features_that_know_nothing_find_their_window_by_chance() -> None:
    n_windows, n_draws = 20, 400
    found = [compare(rows_of(n_windows, 6, s), rows_of(n_windows, 6, s + n_draws))
             for s in range(n_draws)]  # fmt: skip
    retrieval = np.mean([f["retrieval"] for f in found])
    deviation = math.sqrt(0.05 * 0.95 / (n_windows * n_draws))
    assert abs(retrieval - 1 / n_windows) < 5 * deviation
    # independent directions: squared distance 2, cosine 0, within windows as between them
    assert np.mean([f["alignment"] for f in found]) == pytest.approx(2, abs=0.02)
    assert np.mean([f["cosine_within"] for f in found]) == pytest.approx(0, abs=0.01)
    assert np.mean([f["cosine_between"] for f in found]) == pytest.approx(0, abs=0.01)


def test_a_collapse_is_aligned_but_neither_uniform_nor_found() -> None:
    found = compare(torch.ones(10, 4), torch.ones(10, 4))
    assert found["alignment"] == pytest.approx(0)
    assert found["uniformity"] == pytest.approx(0)
    assert found["retrieval"] == pytest.approx(0.1)


def test_two_opposite_windows_by_hand() -> None:
    one = torch.tensor([[1.0, 0.0], [-2.0, 0.0]])
    other = torch.tensor([[0.0, 3.0], [-1.0, 0.0]])
    found = compare(one, other)
    assert found["alignment"] == pytest.approx((2 + 0) / 2)
    # opposite rows have squared distance 4, perpendicular ones 2
    assert found["uniformity"] == pytest.approx(math.log((math.exp(-8) + math.exp(-4)) / 2))
    # the first row of `other` is as near to either row of `one`, and counts half
    assert found["retrieval"] == pytest.approx((1 + 1 + 0.5 + 1) / 4)
    assert found["cosine_within"] == pytest.approx(0.5)
    assert found["cosine_between"] == pytest.approx((-1 + 0) / 2)


def test_alignment_and_cosine_are_one_number() -> None:
    found = compare(rows_of(30, 5, 1), rows_of(30, 5, 2))
    assert found["alignment"] == pytest.approx(2 - 2 * found["cosine_within"])


def test_uniformity_is_least_on_a_uniform_sphere() -> None:
    rows = rows_of(300, 3)
    narrow = rows + 3
    assert compare(rows, rows)["uniformity"] < compare(narrow, narrow)["uniformity"] < 0


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_windows_and_of_views_does_not_count(seed: int) -> None:
    one, other = rows_of(25, 6, seed), rows_of(25, 6, seed) + 0.5 * rows_of(25, 6, seed + 9)
    order = torch.randperm(25, generator=torch.Generator().manual_seed(seed))
    found = compare(one, other)
    assert compare(one[order], other[order]) == pytest.approx(found, abs=1e-12)
    assert compare(other, one) == pytest.approx(found, abs=1e-12)


# pairs of masks


def test_the_table_of_an_encoder_of_patches(windows: WindowDataset) -> None:
    table = invariance(dare(), windows, VIEWS, seed=0)
    assert list(table.columns) == [
        *("masks", "wanted", "overlap", "n_windows", "chance"),
        *MEASURES,
    ]
    assert len(table) == 2 * len(OVERLAPS) - 1
    assert set(table["n_windows"]) == {len(windows)}
    assert np.isfinite(table[list(MEASURES)]).all(axis=None)
    same = table[table["masks"] == SAME_STEPS]
    assert same["overlap"].is_monotonic_decreasing
    assert same["overlap"].iloc[0] == 1
    first = same.iloc[0]
    assert first["alignment"] == pytest.approx(0, abs=1e-12)
    assert first["retrieval"] == 1
    # the less the views share, the further apart they are
    assert same["alignment"].is_monotonic_increasing
    own = table[table["masks"] == OWN_STEPS]
    assert own["wanted"].tolist() == list(OVERLAPS[1:])
    assert (own["overlap"].to_numpy() <= same["overlap"].to_numpy()[1:]).all()
    assert (own["alignment"] > 0).all()


def test_the_order_of_the_windows_does_not_count(windows: WindowDataset) -> None:
    order = np.random.default_rng(0).permutation(len(windows))
    tables = [
        invariance(dare(), some, VIEWS, seed=0, overlaps=(0.4,), n_draws=2)
        for some in (windows, windows.take(order))
    ]
    for name in MEASURES:
        np.testing.assert_allclose(tables[0][name], tables[1][name], rtol=1e-5)


def test_the_seed_decides_and_the_batches_do_not(windows: WindowDataset) -> None:
    def measured(seed: int, batch_size: int = 32) -> list[float]:
        table = invariance(
            dare(), windows, VIEWS, seed=seed, overlaps=(0.4,), n_draws=1, batch_size=batch_size
        )
        found: list[float] = table[list(MEASURES)].to_numpy().ravel().tolist()
        return found

    assert measured(0, batch_size=3) == pytest.approx(measured(0), rel=1e-4)
    assert measured(0) != measured(1)


def test_measuring_draws_nothing_from_the_global_generator(windows: WindowDataset) -> None:
    encoder, state = dare(), torch.get_rng_state()
    for masks in (VIEWS, MASKS):
        invariance(encoder, windows, masks, seed=0, overlaps=(0.4,), n_draws=1)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_features_are_those_of_the_mask_alignment(windows: WindowDataset) -> None:
    """Averaged over steps, streams side by side."""
    encoder = dare(n_streams=2).eval()
    own = windows.take(np.flatnonzero([b == windows.of_block[0] for b in windows.of_block]))
    (batch,) = own.batches(32)
    seen: list[Tensor] = []
    encoder.encoder.register_forward_hook(lambda part, given, out: seen.append(pooled(out)))
    table = invariance(encoder, own, VIEWS, seed=0, overlaps=(0.4,), n_draws=1)
    same = table.set_index("masks").loc[SAME_STEPS]
    assert seen[0].shape == (batch.n_windows, 32)
    expected = compare(seen[0], seen[1])
    assert {name: same[name] for name in MEASURES} == pytest.approx(expected)


def test_windows_are_compared_with_those_of_their_montage(windows: WindowDataset) -> None:
    montages = [windows.blocks[block].ch_names for block in windows.of_block]
    sizes = [montages.count(names) for names in dict.fromkeys(montages)]
    assert len(sizes) == 2
    table = invariance(dare(), windows, VIEWS, seed=0, overlaps=(0.4,), n_draws=1)
    np.testing.assert_allclose(table["chance"], 2 / len(windows))  # Σ n · 1/n over 2 montages
    # one window alone has nobody to be compared with
    alone = windows.take(np.array([montages.index(montages[0])]))
    assert invariance(dare(), alone, VIEWS, seed=0).empty
    others = np.flatnonzero([names == montages[-1] for names in montages])
    mixed = windows.take(np.concatenate([[montages.index(montages[0])], others]))
    table = invariance(dare(), mixed, VIEWS, seed=0, overlaps=(0.4,), n_draws=1)
    assert set(table["n_windows"]) == {len(others)}


def test_any_encoder_by_masks_of_the_map(windows: WindowDataset, tiny_checkpoint: Path) -> None:
    for encoder in (load_checkpoint(tiny_checkpoint), dare()):
        assert isinstance(encoder, Encoder)
        table = invariance(encoder, windows.take(np.arange(8)), MASKS, seed=0, n_draws=2)
        assert set(table["masks"]) == {MAPS}
        assert table["wanted"].tolist() == list(OVERLAPS)
        assert table["overlap"].iloc[0] == 1
        assert table["overlap"].is_monotonic_decreasing
        assert table["alignment"].iloc[0] == pytest.approx(0, abs=1e-12)
        assert table["retrieval"].iloc[0] == 1
        assert table["alignment"].iloc[0] < table["alignment"].iloc[-1]


def test_views_need_an_encoder_of_patches(windows: WindowDataset) -> None:
    with pytest.raises(BergerError, match="a SpecHiNet sees whole signals and no patches"):
        invariance(SpecHiNet(SpecHiNetConfig(sfreq=100)), windows, VIEWS, seed=0)
