"""How much random window reads cost beyond the bare `os.pread` of the same bytes.

    python benchmarks/corpus_reads.py [CORPUS]

Without a corpus, one of 19 channels at 200 Hz is made of noise (needs edfio). Times are medians
per window in µs; cold means that the page cache was told to forget the shards before each read.
Page faults are printed because they can decide the figure for batches: where the C library's
allocator gives memory back after every batch, a batch costs several times as much.
"""

from __future__ import annotations

import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from berger.corpus import Corpus, WindowDataset, collate, open_corpus, prepare
from berger.preprocessing import PreprocessingConfig

N_READS = 300


def make_corpus(folder: Path) -> Corpus:
    import edfio

    names = ["Fp1", "Fp2", "F7", "F3", "Fz", "F4", "F8", "T7", "C3", "Cz", "C4", "T8", "P7", "P3"]
    names += ["Pz", "P4", "P8", "O1", "O2"]
    rng = np.random.default_rng(0)
    for subject in range(8):
        signals = [
            edfio.EdfSignal(rng.normal(0, 15, 200 * 600).clip(-90, 90), 200, label=f"EEG {name}")
            for name in names
        ]
        for signal in signals:
            signal.physical_dimension = "uV"
        edfio.Edf(signals).write(folder / f"sub-{subject}_eeg.edf")
    config = PreprocessingConfig(sfreq=200, highpass=None, lowpass=None)
    prepare([folder], folder / "corpus", config, progress=False)
    return open_corpus(folder / "corpus")


def median_us(read: Callable[[int], object], indices: list[int], forget: list[int]) -> float:
    """Median time of one read; `forget` are open files to drop from the page cache first."""
    times = []
    for index in indices[: 0 if forget else None]:
        read(index)
    for index in indices:
        for descriptor in forget:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        start = time.perf_counter()
        read(index)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def compare(corpus: Corpus, seconds: float) -> None:
    windows: WindowDataset = corpus.windows(seconds)
    rng = np.random.default_rng(1)
    indices = rng.integers(len(windows), size=N_READS).tolist()
    paths = sorted({block.shard for block in windows.blocks})
    descriptors = {path: os.open(path, os.O_RDONLY) for path in paths}
    for descriptor in descriptors.values():
        os.fsync(descriptor)  # what is not yet on disk would not be forgotten

    def place(index: int) -> tuple[str, int, int]:
        block = windows.blocks[windows.of_block[index]]
        n_chans = len(block.ch_names)
        first = block.offset + int(windows.starts[index]) * n_chans
        return block.shard, first, round(seconds * block.sfreq) * n_chans

    def pread(index: int) -> bytes:
        shard, first, size = place(index)
        return os.pread(descriptors[shard], 2 * size, 128 + 2 * first)

    def batch(index: int) -> object:
        return collate([windows[(index + step) % len(windows)] for step in range(16)])

    for index in indices[:50]:
        assert pread(index) == windows[index].samples.tobytes()
    warm: list[int] = []
    cold = list(descriptors.values())
    for name, read, forget, n_windows in (
        ("dataset, warm", windows.__getitem__, warm, 1),
        ("collated batches of 16, warm", batch, warm, 16),
        ("dataset, cold", windows.__getitem__, cold, 1),
    ):
        bare = median_us(pread, indices, forget)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        whole = median_us(read, indices, forget) / n_windows
        n_faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        n_reads = len(indices) * (1 if forget else 2)  # the warm ones are made twice
        print(
            f"{seconds:4g} s: pread {bare:6.1f}; {name} {whole:6.1f} = {whole / bare:.2f} ×, "
            f"{n_faults / n_reads:.0f} page faults a read"
        )


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        corpus = open_corpus(sys.argv[1]) if sys.argv[1:] else make_corpus(Path(folder))
        print(corpus)
        for seconds in (4.0, 10.0, 30.0):
            compare(corpus, seconds)


if __name__ == "__main__":
    main()
