"""Laws of Euclidean alignment, and that nothing but the recording itself has a say in it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import inv, sqrtm

from berger import open_corpus
from berger.adaptation.alignment import align, alignment_filter
from berger.corpus import WindowDataset, prepare
from berger.errors import BergerError
from berger.models import EuclideanAlignment
from berger.preprocessing import PreprocessingConfig
from berger.simulation import simulate_dataset

Array = npt.NDArray[np.float64]
CONFIG = EuclideanAlignment()


def recording(n_chans: int = 5, n_windows: int = 12, seed: int = 0) -> Array:
    """Windows (n_windows, n_chans, 200) of mixed sources of very different strength."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(rng.normal(size=(n_chans, n_chans))).Q
    mixing = directions * 10.0 ** rng.uniform(-1, 1.5, n_chans)
    return np.asarray(mixing @ rng.normal(size=(n_windows, n_chans, 200)))


def covariance(windows: Array) -> Array:
    return np.asarray(np.mean([x @ x.T / x.shape[1] for x in windows], axis=0))


# laws


@settings(max_examples=25, deadline=None)
@given(n_chans=st.integers(1, 12), seed=st.integers(0, 1000), amplitude=st.floats(0.1, 100))
def test_the_covariance_becomes_the_identity(n_chans: int, seed: int, amplitude: float) -> None:
    windows = recording(n_chans, seed=seed)
    config = EuclideanAlignment(amplitude=amplitude)
    found = covariance(alignment_filter(windows, 100, config, "r") @ windows)
    np.testing.assert_allclose(found, amplitude**2 * np.eye(n_chans), atol=1e-3 * amplitude**2)


def test_the_default_is_ten_microvolts() -> None:
    windows = recording()
    found = covariance(alignment_filter(windows, 100, CONFIG, "r") @ windows)
    np.testing.assert_allclose(found, 100 * np.eye(5), atol=0.01)


def test_it_is_the_inverse_root_by_scipy() -> None:
    windows = recording()
    expected = 10 * inv(sqrtm(covariance(windows)))
    np.testing.assert_allclose(alignment_filter(windows, 100, CONFIG, "r"), expected, rtol=1e-4)


@settings(max_examples=25, deadline=None)
@given(gain=st.floats(0.01, 100), seed=st.integers(0, 1000))
def test_the_gain_of_an_amplifier_does_not_matter(gain: float, seed: int) -> None:
    windows = recording(seed=seed)
    one, other = (alignment_filter(x, 100, CONFIG, "r") @ x for x in (windows, gain * windows))
    np.testing.assert_allclose(one, other, atol=0.01)


def test_the_order_of_windows_and_electrodes_does_not_matter() -> None:
    windows = recording()
    matrix = alignment_filter(windows, 100, CONFIG, "r")
    np.testing.assert_allclose(alignment_filter(windows[::-1], 100, CONFIG, "r"), matrix, rtol=1e-5)
    order = np.array([3, 0, 4, 1, 2])
    moved = alignment_filter(windows[:, order], 100, CONFIG, "r")
    np.testing.assert_allclose(moved, matrix[np.ix_(order, order)], rtol=1e-4, atol=1e-6)


# directions without a signal


def test_an_average_reference_costs_one_direction() -> None:
    """Also where counts of a corpus have rounded it: rounding is not blown up to a signal."""
    windows = recording(8)
    windows -= windows.mean(1, keepdims=True)
    step = np.abs(windows).max((0, 2), keepdims=True) / 32767
    for x in (windows, np.round(windows / step) * step):
        matrix = alignment_filter(x, 100, CONFIG, "r")
        span = np.eye(8) - 1 / 8
        np.testing.assert_allclose(covariance(matrix @ x), 100 * span, atol=0.01)
        np.testing.assert_allclose(matrix @ np.ones(8), 0, atol=1e-2)
        assert np.linalg.matrix_rank(matrix) == 7


def test_a_flat_electrode_stays_flat_and_changes_no_other() -> None:
    windows = recording(5)
    flat = np.insert(windows, 2, 0.0, axis=1)
    matrix = alignment_filter(flat, 100, CONFIG, "r")
    np.testing.assert_allclose(matrix[2], 0, atol=1e-9)
    rest = np.delete(np.delete(matrix, 2, 0), 2, 1)
    np.testing.assert_allclose(rest, alignment_filter(windows, 100, CONFIG, "r"), rtol=1e-4)


def test_a_loud_electrode_does_not_make_the_others_empty() -> None:
    windows = recording(5)
    windows[:, 0] += 1e5 * np.random.default_rng(1).normal(size=windows[:, 0].shape)
    assert np.linalg.matrix_rank(alignment_filter(windows, 100, CONFIG, "r")) == 5


@pytest.mark.parametrize(
    ("windows", "sfreq", "message"),
    [
        (recording(5, 4), 100, "r: its usable windows last 8 s, too short .* asks 10 s; leave the"),
        (recording(5, 0), 100, "r: its usable windows last 0 s, too short"),
        (recording(40, 4), 10, "r: its usable windows have 800 samples, fewer than .* 40 electrod"),
        (0 * recording(), 100, "r: all its electrodes are flat, so it cannot be aligned"),
    ],
)
def test_what_cannot_be_aligned_is_refused(windows: Array, sfreq: float, message: str) -> None:
    with pytest.raises(BergerError, match=message):
        alignment_filter(windows, sfreq, CONFIG, "r")


# a corpus


@pytest.fixture(scope="module")
def windows(tiny_corpus: Path) -> Any:
    return open_corpus(tiny_corpus).windows(4.0)


def filters(windows: WindowDataset) -> dict[str, Any]:
    read = {windows.blocks[number] for number in np.unique(windows.of_block)}
    return {block.recording: block.spatial_filter for block in read}


def test_windows_of_a_corpus_are_aligned_one_recording_at_a_time(windows: WindowDataset) -> None:
    some = windows.take(np.arange(0, len(windows), 3))
    aligned, empty = align(some, windows, CONFIG)
    assert empty == {}
    assert len(aligned) == len(some)
    assert aligned.table.equals(some.table)
    for name, matrix in filters(aligned).items():
        own = np.flatnonzero((windows.table["recording"] == name).to_numpy())
        signals = np.stack([windows[int(index)].signal for index in own])
        identity = np.eye(len(matrix))
        np.testing.assert_allclose(covariance(matrix @ signals), 100 * identity, atol=0.1)
    # a window alone, and in a batch on the device where a model is
    order = np.random.default_rng(0).permutation(len(aligned))
    rows = [row for batch in aligned.take(order).batches(5) for row in batch.signal("cpu")]
    for row, index in zip(rows, order, strict=True):
        window, plain = aligned[int(index)], some[int(index)]
        assert np.array_equal(window.samples, plain.samples)
        expected = filters(aligned)[plain.recording] @ plain.signal
        np.testing.assert_allclose(window.signal, expected, atol=1e-4)
        np.testing.assert_allclose(row.numpy(), expected, atol=1e-3)


def test_neither_labels_nor_which_windows_are_asked_for_have_a_say(windows: WindowDataset) -> None:
    whole = filters(align(windows, windows, CONFIG)[0])
    for start in range(4):
        some = windows.take(np.arange(start, len(windows), 4))
        part = filters(align(some, windows, CONFIG)[0])
        assert all(np.array_equal(part[name], whole[name]) for name in part)


def test_another_recording_has_no_say(tiny_recordings: Path, tmp_path: Path) -> None:
    """In a corpus of other people beside it, a recording's matrix is bit for bit the same."""
    for name, seed in (("a", 0), ("b", 5)):
        simulate_dataset(tmp_path / name, 3, n_blocks=4, block_seconds=8.0, seed=seed)
    kept = sorted((tmp_path / "a").glob("*.edf"))[1]
    shutil.copy(kept, tmp_path / "b" / kept.name)
    config = PreprocessingConfig(sfreq=100, highpass=1, lowpass=40, max_amplitude=None)
    found = []
    for name in "ab":
        prepare([tmp_path / name], tmp_path / f"corpus-{name}", config, progress=False)
        windows = open_corpus(tmp_path / f"corpus-{name}").windows(4.0)
        own = filters(align(windows, windows, CONFIG)[0])
        found.append({recording.rsplit("/")[-1]: matrix for recording, matrix in own.items()})
    one, other = found
    assert np.array_equal(one[kept.name], other[kept.name])
    assert not any(np.array_equal(one[name], other[name]) for name in one if name != kept.name)


def test_a_recording_that_is_too_short_is_named(windows: WindowDataset) -> None:
    few = windows.take(np.flatnonzero(windows.of_block != 2)[:-1])
    with pytest.raises(BergerError, match=r"sub-03_eyes.edf: its usable windows last 0 s"):
        align(windows, few, CONFIG)
