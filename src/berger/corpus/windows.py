"""Read windows, one contiguous piece of a shard each, and put them into batches.

::

    Window (n_times, n_chans) ─► Batch.samples (batch, n_times, n_chans) int16
                                      └─► Batch.signal() (batch, n_chans, n_times) float32, µV
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby, islice
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from einops import rearrange
from torch import Tensor
from torch.utils.data import Dataset

from berger.corpus.format import SAMPLE
from berger.corpus.remote import is_remote, local_file
from berger.errors import BergerError


def count_samples(seconds: float, sfreq: float) -> int:
    """Return a length in samples, if it is a whole number of them."""
    n_samples = round(seconds * sfreq)
    if n_samples < 1 or abs(n_samples - seconds * sfreq) > 1e-6:
        raise BergerError(
            f"{seconds:g} s are {seconds * sfreq:g} samples at {sfreq:g} Hz; choose a length of "
            f"whole samples, e.g. {max(n_samples, 1) / sfreq:g} s."
        )
    return n_samples


@dataclass(frozen=True, eq=False)
class Block:
    """Where a recording's samples are, and what they mean."""

    recording: str
    subject: str
    ch_names: tuple[str, ...]
    sfreq: float
    n_times: int
    scale: npt.NDArray[np.float32]
    shard: str  # path or address
    content: str  # the shard's SHA-256
    offset: int
    progress: bool  # show a bar while the shard is fetched
    spatial_filter: npt.NDArray[np.float32] | None = None

    def window(self, start: int, n_times: int) -> Window:
        """Read samples; one contiguous read."""
        n_chans = len(self.ch_names)
        shard = _opened(self.shard, self.content, self.progress)
        n_bytes = n_times * n_chans * SAMPLE.itemsize
        place = shard.first_byte + (self.offset + start * n_chans) * SAMPLE.itemsize
        cure = "remove this copy" if is_remote(self.shard) else "run `berger corpus verify`"
        try:
            data = os.pread(shard.descriptor, n_bytes, place)
        except OSError as error:  # of a disk, or a server that has another file now
            raise BergerError(
                f"{shard.path}: cannot be read ({error.strerror}); {cure}."
            ) from error
        if len(data) < n_bytes:
            raise BergerError(f"{shard.path}: ends early; {cure}.")
        return Window(
            np.ndarray((n_times, n_chans), SAMPLE, data),
            self.scale,
            self.ch_names,
            self.sfreq,
            self.recording,
            self.subject,
            start,
            self.spatial_filter,
        )


class _Shard:
    """An open file; `os.pread` keeps no position, so that threads and forks can share it."""

    def __init__(self, place: str, content: str, progress: bool) -> None:
        with local_file(place, content, progress=progress) as path:
            self.path = path
            try:
                self.descriptor = os.open(path, os.O_RDONLY)
            except OSError as error:
                raise BergerError(
                    f"{path}: cannot be read ({error.strerror}); restore it, or see what is "
                    "missing with `berger corpus verify`."
                ) from error
        with open(self.descriptor, "rb", closefd=False) as file:
            try:
                np.lib.format.read_magic(file)
                np.lib.format.read_array_header_1_0(file)
            except (ValueError, OSError) as error:
                raise BergerError(
                    f"{path}: is no shard, or no longer; run `berger corpus verify`."
                ) from error
            self.first_byte = file.tell()

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


@lru_cache(maxsize=128)
def _opened(place: str, content: str, progress: bool) -> _Shard:
    """Open a shard once per process; `content` tells a corpus made anew from the one before."""
    return _Shard(place, content, progress)


class Window(NamedTuple):
    """A piece of one recording, as it is stored.

    A named tuple because one is made for every read, in a quarter of a dataclass' time.

    Attributes
    ----------
    samples : ndarray of int16, shape (n_times, n_chans)
        Counts; not writable.
    scale : ndarray of float32, shape (n_chans,)
        Microvolts per count.
    ch_names : tuple of str
    sfreq : float
    recording, subject : str
        Id of the recording; who was recorded.
    start : int
        First sample in the recording.
    spatial_filter : ndarray of float32, shape (n_chans, n_chans), optional
        What the microvolts are multiplied by; see `WindowDataset.with_spatial_filters`.
    """

    samples: npt.NDArray[np.int16]
    scale: npt.NDArray[np.float32]
    ch_names: tuple[str, ...]
    sfreq: float
    recording: str
    subject: str
    start: int
    spatial_filter: npt.NDArray[np.float32] | None = None

    @property
    def signal(self) -> npt.NDArray[np.float32]:
        """Microvolts, float32, shape (n_chans, n_times)."""
        signal = np.ascontiguousarray((self.samples * self.scale).T)
        return signal if self.spatial_filter is None else self.spatial_filter @ signal


class WindowDataset(Dataset[Window]):
    """Windows of one length, by number; made by `Corpus.windows`, of several corpora by `join`.

    Can be pickled and read from in any process.

    Attributes
    ----------
    blocks : tuple of Block
        The recordings, also those without a window.
    of_block : ndarray of int64, shape (n_windows,)
        Number of the recording of each window.
    starts : ndarray of int64, shape (n_windows,)
        First sample of each window in its recording.
    seconds : float
        Length of a window.
    corpora : tuple of int
        Number of the corpus of each of `blocks`: its place among those that were joined.
    weights : tuple of float, optional
        How often each corpus is drawn by a `WindowSampler`, relative to one another; None if
        every window is drawn equally often.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        of_block: npt.NDArray[np.int64],
        starts: npt.NDArray[np.int64],
        seconds: float,
        corpora: Sequence[int] | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        self.blocks = tuple(blocks)
        self.of_block = of_block
        self.starts = starts
        self.seconds = seconds
        self.corpora = (0,) * len(self.blocks) if corpora is None else tuple(corpora)
        self.weights = None if weights is None else tuple(weights)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Window:
        block: Block = self.blocks[self.of_block[index]]
        return block.window(int(self.starts[index]), count_samples(self.seconds, block.sfreq))

    def take(self, indices: npt.NDArray[np.int64]) -> WindowDataset:
        """Return the windows of these numbers, in this order."""
        return WindowDataset(
            self.blocks,
            self.of_block[indices],
            self.starts[indices],
            self.seconds,
            self.corpora,
            self.weights,
        )

    def with_spatial_filters(self, filters: Mapping[str, npt.NDArray[np.float32]]) -> WindowDataset:
        """Return the same windows, the signals of each recording multiplied by its own matrix.

        Parameters
        ----------
        filters : mapping of str to ndarray of float32, shape (n_chans, n_chans)
            Id of the recording → its matrix; there is one for every recording that has windows.
        """
        read = set(self.of_block.tolist())
        blocks = [
            replace(block, spatial_filter=filters[block.recording]) if number in read else block
            for number, block in enumerate(self.blocks)
        ]
        return WindowDataset(
            blocks, self.of_block, self.starts, self.seconds, self.corpora, self.weights
        )

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Yield all windows in order; a batch ends early where the montage or rate changes."""
        windows = (self[index] for index in range(len(self)))
        for _, alike in groupby(windows, key=lambda window: (window.ch_names, window.sfreq)):
            while some := list(islice(alike, batch_size)):
                yield collate(some)

    @property
    def table(self) -> pd.DataFrame:
        """One row per window: recording, subject, start in samples."""
        recordings, subjects = (
            np.array([getattr(block, name) for block in self.blocks], dtype=object)[self.of_block]
            for name in ("recording", "subject")
        )
        return pd.DataFrame({"recording": recordings, "subject": subjects, "start": self.starts})


def join(
    datasets: Sequence[WindowDataset], weights: Sequence[float] | None = None
) -> WindowDataset:
    """Put the windows of several corpora behind each other.

    Parameters
    ----------
    datasets : sequence of WindowDataset
        With windows of one length; one per corpus, none of them joined before.
    weights : sequence of float, optional
        How often a `WindowSampler` draws from each corpus, relative to one another, whatever their
        sizes; by default every window is drawn equally often.

    Raises
    ------
    BergerError
        If the lengths differ, or the weights are not one positive number per corpus.
    """
    if len({dataset.seconds for dataset in datasets}) != 1:
        lengths = ", ".join(f"{dataset.seconds:g} s" for dataset in datasets)
        raise BergerError(
            f"windows of {lengths or 'no corpus'} cannot be joined; give windows of one length."
        )
    if any(dataset.weights or any(dataset.corpora) for dataset in datasets):
        raise BergerError("windows that were joined cannot be joined again; join all at once.")
    if weights is not None and not (
        len(weights) == len(datasets) and all(0 < weight < np.inf for weight in weights)
    ):
        raise BergerError(
            f"weights {[*weights]} do not fit {len(datasets)} corpora; give one number over 0 for "
            "each, and leave out a corpus that shall not be drawn."
        )
    n_blocks = [len(dataset.blocks) for dataset in datasets]
    first_blocks = np.cumsum([0, *n_blocks[:-1]])
    numbered = zip(datasets, first_blocks, strict=True)
    return WindowDataset(
        [block for dataset in datasets for block in dataset.blocks],
        np.concatenate([dataset.of_block + first for dataset, first in numbered]),
        np.concatenate([dataset.starts for dataset in datasets]),
        datasets[0].seconds,
        np.repeat(np.arange(len(datasets)), n_blocks).tolist(),
        weights,
    )


class Share(NamedTuple):
    """A process's part of a batch.

    Attributes
    ----------
    n_windows : int
        Of the whole batch.
    own : slice
        Which of them are this process's.
    """

    n_windows: int
    own: slice

    @property
    def n_own(self) -> int:
        """How many are this process's."""
        return len(range(self.n_windows)[self.own])


class Batch(NamedTuple):
    """Windows of one montage and rate.

    A named tuple, which PyTorch and Fabric know how to pass on, pin and move.

    Attributes
    ----------
    samples : Tensor, int16, shape (batch, n_times, n_chans)
        Counts, as stored.
    scale : Tensor, float32, shape (batch, n_chans)
        Microvolts per count.
    ch_names : tuple of str
    sfreq : float
    recordings, subjects : tuple of str
        Of each window.
    starts : Tensor, int64, shape (batch,)
        First sample of each window in its recording.
    spatial_filter : Tensor, float32, shape (batch, n_chans, n_chans), optional
        What the microvolts of each window are multiplied by.
    shared : Share, optional
        Of which larger batch these are this process's windows.
    """

    samples: Tensor
    scale: Tensor
    ch_names: tuple[str, ...]
    sfreq: float
    recordings: tuple[str, ...]
    subjects: tuple[str, ...]
    starts: Tensor
    spatial_filter: Tensor | None = None
    shared: Share | None = None

    @property
    def n_windows(self) -> int:
        """Number of windows."""
        return len(self.samples)

    def signal(self, device: torch.device | str | None = None) -> Tensor:
        """Return microvolts, float32, shape (batch, n_chans, n_times), scaled on `device`."""
        samples = rearrange(self.samples.to(device), "batch times chans -> batch chans times")
        scale = rearrange(self.scale.to(device), "batch chans -> batch chans 1")
        signal = (samples * scale).contiguous()
        if self.spatial_filter is None:
            return signal
        return self.spatial_filter.to(device) @ signal


def collate(windows: Sequence[Window]) -> Batch:
    """Put windows into a batch.

    Raises
    ------
    BergerError
        If they differ in channels, their order, or rate.
    """
    first = windows[0]
    filters = [window.spatial_filter for window in windows if window.spatial_filter is not None]
    for window in windows:
        if (window.ch_names, window.sfreq) != (first.ch_names, first.sfreq):
            raise BergerError(
                f"{first.recording} and {window.recording} differ in channels or sampling rate "
                "and do not fit into one batch; draw batches with a WindowSampler."
            )
    assert len(filters) in (0, len(windows)), (
        "some windows have a spatial filter and some have none"
    )
    return Batch(
        samples=torch.from_numpy(np.stack([window.samples for window in windows])),
        scale=torch.from_numpy(np.stack([window.scale for window in windows])),
        ch_names=first.ch_names,
        sfreq=first.sfreq,
        recordings=tuple(window.recording for window in windows),
        subjects=tuple(window.subject for window in windows),
        starts=torch.tensor([window.start for window in windows]),
        spatial_filter=torch.from_numpy(np.stack(filters)) if filters else None,
    )


class WindowSampler:
    """Batches of window numbers, each a pure function of seed and step.

    The windows of a batch have one montage and rate; the last batch of each montage may be
    smaller. An epoch hands out every window once. If the corpora have weights it is as long, but
    its share of corpus k is that of the weight, and the windows of a corpus come round after round,
    each once in a round.

    Several ranks take their parts of the same batch, so that a step means the same whatever their
    number, and all have the same montage. Rank r takes windows r, r + world_size, … of it. A batch
    that has fewer windows than there are ranks is not shared: every rank takes all of it.

    Parameters
    ----------
    dataset : WindowDataset
    batch_size : int
        Of all ranks together.
    seed : int
    shuffle : bool
        Whether windows, and batches of different montages, come in a new order in every epoch.
    rank, world_size : int
        Which of how many processes this one is.

    Notes
    -----
    Each montage of a corpus is drawn for itself, in rounds of its own. The number of its windows
    in an epoch is rounded, but at least one, so that a corpus' share may differ from its weight's
    by as many windows as there are pairs of corpus and montage.
    """

    def __init__(
        self,
        dataset: WindowDataset,
        batch_size: int,
        seed: int,
        shuffle: bool = True,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank = {rank} of {world_size}: must be from 0 to {world_size - 1}")
        if batch_size < world_size:
            raise BergerError(f"batch_size = {batch_size}: must be at least {world_size}.")
        if dataset.weights and not shuffle:
            raise BergerError("corpora with weights can only be drawn with shuffle = True.")
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.rank, self.world_size = rank, world_size
        self._montages = _montages(dataset)
        self.batches_per_epoch = sum(
            -(-sum(pool.n_drawn for pool in pools) // batch_size) for pools in self._montages
        )
        # two: at the end of an epoch, processes that read are in the next one already
        self._epoch = lru_cache(maxsize=2)(self._batches_of_epoch)

    def batch(self, step: int) -> list[int]:
        """Return this rank's window numbers of one step, counted from 0 through all epochs."""
        share = self.share(step)
        numbers: list[int] = self._whole_batch(step)[share.own if share else slice(None)].tolist()
        return numbers

    def share(self, step: int) -> Share | None:
        """Return what this rank takes of a step's batch; None for all of it."""
        n_windows = len(self._whole_batch(step))
        if self.world_size == 1 or n_windows < self.world_size:
            return None
        return Share(n_windows, slice(self.rank, None, self.world_size))

    def weight(self, step: int) -> float:
        """Return what this rank's mean over windows counts in a mean over ranks.

        The mean over ranks of weight times mean is then the mean over all windows of the batch.
        """
        share = self.share(step)
        return share.n_own * self.world_size / share.n_windows if share else 1.0

    def starting_at(self, step: int) -> Iterator[list[int]]:
        """Yield this rank's part of the batches from a step on, for ever."""
        while True:
            yield self.batch(step)
            step += 1

    def _whole_batch(self, step: int) -> npt.NDArray[np.int64]:
        epoch, place = divmod(step, self.batches_per_epoch)
        return self._epoch(epoch if self.shuffle else 0)[place]

    def _batches_of_epoch(self, epoch: int) -> list[npt.NDArray[np.int64]]:
        """Cut each montage's windows into batches, and mix these."""
        rng = np.random.default_rng([self.seed, epoch])
        batches = []
        for pools in self._montages:
            alike = np.concatenate([pool.drawn(self.seed, epoch) for pool in pools])
            ordered = rng.permutation(alike) if self.shuffle else alike
            batches += np.split(ordered, range(self.batch_size, len(ordered), self.batch_size))
        order = rng.permutation(len(batches)) if self.shuffle else range(len(batches))
        return [batches[place] for place in order]


class _Pool(NamedTuple):
    """Windows of one montage, and of one corpus if corpora have weights."""

    number: int
    windows: npt.NDArray[np.int64]
    n_drawn: int  # in an epoch

    def drawn(self, seed: int, epoch: int) -> npt.NDArray[np.int64]:
        """Return the windows of an epoch: the next of an endless row of rounds."""
        size = len(self.windows)
        if self.n_drawn == size:
            return self.windows
        first, stop = epoch * self.n_drawn, (epoch + 1) * self.n_drawn
        rounds = range(first // size, -(-stop // size))
        row = [
            # + 1: NumPy ignores a zero at the end, and [seed, epoch] orders the epoch
            np.random.default_rng([seed, self.number, number + 1]).permutation(self.windows)
            for number in rounds
        ]
        before = rounds.start * size
        return np.concatenate(row)[first - before : stop - before]


def _montages(dataset: WindowDataset) -> list[list[_Pool]]:
    """Sort windows by montage and rate, and inside these by corpus if corpora have weights."""
    kinds: dict[tuple[tuple[str, ...], float], int] = {}
    of_block = [kinds.setdefault((b.ch_names, b.sfreq), len(kinds)) for b in dataset.blocks]
    kind = np.array(of_block)[dataset.of_block]
    if dataset.weights is None:
        corpus = np.zeros_like(kind)
        rates = np.ones(1)  # how often a window is drawn in an epoch
    else:
        corpus = np.array(dataset.corpora)[dataset.of_block]
        sizes = np.bincount(corpus, minlength=len(dataset.weights))
        shares = np.where(sizes > 0, dataset.weights, 0.0)
        rates = len(dataset) * shares / shares.sum() / np.maximum(sizes, 1)
    code = kind * len(rates) + corpus
    order = np.argsort(code, kind="stable")
    values, firsts = np.unique(code[order], return_index=True)
    montages: dict[int, list[_Pool]] = {}
    for number, windows in enumerate(np.split(order, firsts[1:])):
        which, source = divmod(int(values[number]), len(rates))
        n_drawn = max(1, round(rates[source] * len(windows)))
        montages.setdefault(which, []).append(_Pool(number, windows, n_drawn))
    return list(montages.values())
