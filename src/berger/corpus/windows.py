"""Read windows, one contiguous piece of a shard each, and put them into batches.

::

    Window (n_times, n_chans) ─► Batch.samples (batch, n_times, n_chans) int16
                                      └─► Batch.signal() (batch, n_chans, n_times) float32, µV
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
    shard: str
    content: str  # the shard's SHA-256
    offset: int

    def window(self, start: int, n_times: int) -> Window:
        """Read samples; one contiguous read."""
        n_chans = len(self.ch_names)
        shard = _opened(self.shard, self.content)
        n_bytes = n_times * n_chans * SAMPLE.itemsize
        place = shard.first_byte + (self.offset + start * n_chans) * SAMPLE.itemsize
        data = os.pread(shard.descriptor, n_bytes, place)
        if len(data) < n_bytes:
            raise BergerError(f"{self.shard}: ends early; run `berger corpus verify`.")
        return Window(
            samples=np.frombuffer(data, SAMPLE).reshape(n_times, n_chans),
            scale=self.scale,
            ch_names=self.ch_names,
            sfreq=self.sfreq,
            recording=self.recording,
            subject=self.subject,
            start=start,
        )


class _Shard:
    """An open file; `os.pread` keeps no position, so that threads and forks can share it."""

    def __init__(self, path: str) -> None:
        try:
            self.descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise BergerError(f"{path}: cannot be read ({error.strerror}).") from error
        with open(self.descriptor, "rb", closefd=False) as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            self.first_byte = file.tell()

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


@lru_cache(maxsize=128)
def _opened(path: str, content: str) -> _Shard:
    """Open a shard once per process; `content` tells a corpus made anew from the one before."""
    return _Shard(path)


@dataclass(frozen=True, eq=False)
class Window:
    """A piece of one recording, as it is stored.

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
    """

    samples: npt.NDArray[np.int16]
    scale: npt.NDArray[np.float32]
    ch_names: tuple[str, ...]
    sfreq: float
    recording: str
    subject: str
    start: int

    @property
    def signal(self) -> npt.NDArray[np.float32]:
        """Microvolts, float32, shape (n_chans, n_times)."""
        return np.ascontiguousarray((self.samples * self.scale).T)


class WindowDataset(Dataset[Window]):
    """Windows of one length, by number; made by `Corpus.windows`.

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
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        of_block: npt.NDArray[np.int64],
        starts: npt.NDArray[np.int64],
        seconds: float,
    ) -> None:
        self.blocks = tuple(blocks)
        self.of_block = of_block
        self.starts = starts
        self.seconds = seconds

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Window:
        block: Block = self.blocks[self.of_block[index]]
        return block.window(int(self.starts[index]), count_samples(self.seconds, block.sfreq))

    def take(self, indices: npt.NDArray[np.int64]) -> WindowDataset:
        """Return the windows of these numbers, in this order."""
        return WindowDataset(
            self.blocks, self.of_block[indices], self.starts[indices], self.seconds
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
    """

    samples: Tensor
    scale: Tensor
    ch_names: tuple[str, ...]
    sfreq: float
    recordings: tuple[str, ...]
    subjects: tuple[str, ...]
    starts: Tensor

    @property
    def n_windows(self) -> int:
        """Number of windows."""
        return len(self.samples)

    def signal(self, device: torch.device | str | None = None) -> Tensor:
        """Return microvolts, float32, shape (batch, n_chans, n_times), scaled on `device`."""
        samples = rearrange(self.samples.to(device), "batch times chans -> batch chans times")
        scale = rearrange(self.scale.to(device), "batch chans -> batch chans 1")
        return (samples * scale).contiguous()


def collate(windows: Sequence[Window]) -> Batch:
    """Put windows into a batch.

    Raises
    ------
    BergerError
        If they differ in channels, their order, or rate.
    """
    first = windows[0]
    for window in windows:
        if (window.ch_names, window.sfreq) != (first.ch_names, first.sfreq):
            raise BergerError(
                f"{first.recording} and {window.recording} differ in channels or sampling rate "
                "and do not fit into one batch; draw batches with a WindowSampler."
            )
    return Batch(
        samples=torch.from_numpy(np.stack([window.samples for window in windows])),
        scale=torch.from_numpy(np.stack([window.scale for window in windows])),
        ch_names=first.ch_names,
        sfreq=first.sfreq,
        recordings=tuple(window.recording for window in windows),
        subjects=tuple(window.subject for window in windows),
        starts=torch.tensor([window.start for window in windows]),
    )


class WindowSampler:
    """Batches of window numbers, each a pure function of seed and step.

    An epoch hands out every window once. The windows of a batch have one montage and rate; the
    last batch of each montage may be smaller.

    Parameters
    ----------
    dataset : WindowDataset
    batch_size : int
    seed : int
    shuffle : bool
        Whether windows, and batches of different montages, come in a new order in every epoch.
    """

    def __init__(
        self, dataset: WindowDataset, batch_size: int, seed: int, shuffle: bool = True
    ) -> None:
        if batch_size < 1:
            raise BergerError(f"batch_size = {batch_size}: must be at least 1.")
        kinds: dict[tuple[tuple[str, ...], float], int] = {}
        of_block = [kinds.setdefault((b.ch_names, b.sfreq), len(kinds)) for b in dataset.blocks]
        kind = np.array(of_block)[dataset.of_block]
        self._alike = [np.flatnonzero(kind == number) for number in np.unique(kind)]
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.batches_per_epoch = sum(-(-len(alike) // batch_size) for alike in self._alike)
        self._epoch = lru_cache(maxsize=1)(self._batches_of_epoch)

    def batch(self, step: int) -> list[int]:
        """Return the window numbers of one step, counted from 0 through all epochs."""
        epoch, place = divmod(step, self.batches_per_epoch)
        numbers: list[int] = self._epoch(epoch if self.shuffle else 0)[place].tolist()
        return numbers

    def starting_at(self, step: int) -> Iterator[list[int]]:
        """Yield the batches from a step on, for ever."""
        while True:
            yield self.batch(step)
            step += 1

    def _batches_of_epoch(self, epoch: int) -> list[npt.NDArray[np.int64]]:
        """Cut each montage's windows into batches, and mix these."""
        rng = np.random.default_rng([self.seed, epoch])
        batches = []
        for alike in self._alike:
            ordered = rng.permutation(alike) if self.shuffle else alike
            batches += np.split(ordered, range(self.batch_size, len(ordered), self.batch_size))
        order = rng.permutation(len(batches)) if self.shuffle else range(len(batches))
        return [batches[place] for place in order]
