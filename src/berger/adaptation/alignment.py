"""Euclidean alignment: each recording is whitened by its own mean covariance.

::

    usable windows X_i of one recording ─► R = mean of X_i X_iᵀ / n_times      (n_chans, n_chans)
    every window of that recording      ─► amplitude · R^(−1/2) X

Labels and other recordings have no part in it, so that it can be done with a recording that a model
has never seen (He & Wu 2020, doi:10.1109/TBME.2019.2913914). docs/decisions/0020-fine-tuning.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from berger.corpus import WindowDataset
from berger.errors import BergerError
from berger.models import EuclideanAlignment

Array = npt.NDArray[Any]
Filters = dict[str, npt.NDArray[np.float32]]


def align(
    windows: WindowDataset,
    usable: WindowDataset,
    config: EuclideanAlignment,
    *,
    quiet: bool = True,
) -> tuple[WindowDataset, dict[str, int]]:
    """Align the recordings that windows come from.

    Parameters
    ----------
    windows : WindowDataset
    usable : WindowDataset
        All usable windows of these recordings, whatever their labels, from which the covariances
        come.
    config : EuclideanAlignment
    quiet : bool
        No progress bar.

    Returns
    -------
    WindowDataset
        The same windows, aligned.
    dict of str to int
        Recording → number of directions that were found empty and set to zero, where there are any.

    Raises
    ------
    BergerError
        As `alignment_filter`.
    """
    own = {block.recording: number for number, block in enumerate(usable.blocks)}
    filters: Filters = {}
    for number in tqdm(np.unique(windows.of_block), unit="recording", disable=quiet):
        block = windows.blocks[number]
        some = usable.take(np.flatnonzero(usable.of_block == own[block.recording]))
        signals = (some[index].signal for index in range(len(some)))
        filters[block.recording] = alignment_filter(signals, block.sfreq, config, block.recording)
    empty = {name: len(matrix) - np.linalg.matrix_rank(matrix) for name, matrix in filters.items()}
    return windows.with_spatial_filters(filters), {k: int(v) for k, v in empty.items() if v}


def alignment_filter(
    windows: Iterable[Array], sfreq: float, config: EuclideanAlignment, source: object
) -> npt.NDArray[np.float32]:
    """Return the matrix by which all signals of one recording are to be multiplied.

    Parameters
    ----------
    windows : iterable of ndarray, shape (n_chans, n_times)
        The recording's own usable windows, in µV.
    sfreq : float
        In Hz.
    config : EuclideanAlignment
    source : object
        The recording, for messages.

    Returns
    -------
    ndarray of float32, shape (n_chans, n_chans)
        Symmetric; amplitude · R^(−1/2), R the mean over windows of X Xᵀ / n_times. Where R has
        empty directions, as of an average reference or a flat electrode, its pseudo-inverse: they
        become zero.

    Raises
    ------
    BergerError
        If the windows are too few for a covariance, or hold nothing.
    """
    total: Array = np.zeros(())
    n_windows = n_times = 0
    for window in windows:
        signal = np.asarray(window, np.float64)
        total = total + signal @ signal.T / signal.shape[1]
        n_windows, n_times = n_windows + 1, n_times + signal.shape[1]
    if n_times < config.min_seconds * sfreq or not n_windows:
        raise BergerError(
            f"{source}: its usable windows last {n_times / sfreq:g} s, too short for a covariance "
            f"of its own, for which euclidean_alignment.min_seconds asks {config.min_seconds:g} s; "
            "leave the recording out, or do without euclidean_alignment."
        )
    n_chans = len(total)
    if n_times < n_chans * (n_chans + 1) // 2:
        raise BergerError(
            f"{source}: its usable windows have {n_times} samples, fewer than the covariance of "
            f"{n_chans} electrodes has values; leave the recording out, or do without "
            "euclidean_alignment."
        )
    return _inverse_root(total / n_windows, config, source)


def _inverse_root(
    covariance: Array, config: EuclideanAlignment, source: object
) -> npt.NDArray[np.float32]:
    power = np.diag(covariance)
    if not power.any():
        raise BergerError(
            f"{source}: all its electrodes are flat, so it cannot be aligned; leave it out."
        )
    # the median, because a single loud electrode must not make the others look empty
    least = config.tolerance * np.median(power[power > 0])
    values, directions = np.linalg.eigh(covariance)
    kept = values > least
    root = (directions[:, kept] / np.sqrt(values[kept])) @ directions[:, kept].T
    return np.asarray(config.amplitude * root, np.float32)
