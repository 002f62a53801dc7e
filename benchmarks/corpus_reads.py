"""What random window reads cost beside the bare `os.pread` of the same bytes, and beside pickles.

    python benchmarks/corpus_reads.py [CORPUS]

Without a corpus, one of 19 channels at 200 Hz is made of noise. All ways of reading take turns in
one run, each at random places of its own; times are medians per window in µs, ratios are to the
first of a line. Everything is warm: read before, so that it lies in the page cache. "After
forgetting" asks the system to drop the file from that cache before each read, which it need not do.

Pickles hold the same windows as float64 (n_chans, n_times): a file for each window, or a file for
each recording, of which one window is taken. Page faults are printed because they can decide the
figure for batches: where the C library's allocator gives memory back after every batch, a batch
costs several times as much. Some sandboxes always count 0.
"""

from __future__ import annotations

import argparse
import os
import pickle
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from berger.corpus import Corpus, WindowDataset, collate, open_corpus, prepare
from berger.preprocessing import PreprocessingConfig

N_READS = 200
BATCH = 64


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


Read = Callable[[int], object]
Forget = Callable[[int], None]


def interleaved(
    reads: dict[str, Read], n_windows: int, before: Forget | None = None
) -> dict[str, tuple[float, float]]:
    """Let ways of reading take turns; return each one's median time (µs) and mean page faults."""
    times: dict[str, list[float]] = {name: [] for name in reads}
    faults = dict.fromkeys(reads, 0)
    rng = np.random.default_rng(1)
    for _ in range(N_READS):
        for name, read in reads.items():
            index = int(rng.integers(n_windows))
            if before is not None:
                before(index)
            known = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            start = time.perf_counter()
            read(index)
            times[name].append(time.perf_counter() - start)
            faults[name] += resource.getrusage(resource.RUSAGE_SELF).ru_minflt - known
    return {name: (statistics.median(times[name]) * 1e6, faults[name] / N_READS) for name in reads}


def unpickled(path: Path) -> Any:
    with path.open("rb") as file:
        return pickle.load(file)  # noqa: S301  it is what is measured


def pickled(path: Path, signal: np.ndarray[Any, Any]) -> None:
    with path.open("wb") as file:
        pickle.dump(signal.astype(np.float64), file)


def forget(path: Path | str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def compare(corpus: Corpus, seconds: float, folder: Path) -> None:
    windows: WindowDataset = corpus.windows(seconds)
    n_windows = len(windows)
    descriptors = {path: os.open(path, os.O_RDONLY) for path in {b.shard for b in windows.blocks}}
    places, cuts = [], []
    for index in range(n_windows):
        number, start = int(windows.of_block[index]), int(windows.starts[index])
        block = windows.blocks[number]
        n_chans, n_times = len(block.ch_names), round(seconds * block.sfreq)
        first = 128 + 2 * (block.offset + start * n_chans)
        places.append((descriptors[block.shard], 2 * n_times * n_chans, first))
        cuts.append((folder / f"recording-{number}.pkl", slice(start, start + n_times)))
        window = windows[index]
        assert os.pread(*places[-1]) == window.samples.tobytes()
        pickled(folder / f"{index}.pkl", window.signal)
    for number, block in enumerate(windows.blocks):
        whole = corpus.read(block.recording, 0, block.n_times)
        pickled(folder / f"recording-{number}.pkl", whole)

    def pread(index: int) -> bytes:
        return os.pread(*places[index])

    def file_per_window(index: int) -> object:
        return unpickled(folder / f"{index}.pkl")

    def file_per_recording(index: int) -> object:
        path, cut = cuts[index]
        return unpickled(path)[:, cut]

    def batch_of(read: Read) -> Callable[[int], list[Any]]:
        return lambda index: [read((index + step) % n_windows) for step in range(BATCH)]

    def forget_both(index: int) -> None:
        forget(windows.blocks[windows.of_block[index]].shard)
        forget(folder / f"{index}.pkl")

    dataset: Read = windows.__getitem__
    from_dataset = batch_of(dataset)
    # two or three at a time, since a long read empties the processor's caches for the next one
    groups: tuple[tuple[int, Forget | None, dict[str, Read]], ...] = (
        (1, None, {"pread": pread, "WindowDataset": dataset}),
        (1, None, {"WindowDataset": dataset, "unpickled, a file per window": file_per_window}),
        (
            1,
            None,
            {"WindowDataset": dataset, "unpickled, a file per recording": file_per_recording},
        ),
        (
            BATCH,
            None,
            {
                "pread": batch_of(pread),
                f"batch of {BATCH}": from_dataset,
                f"batch of {BATCH}, collated": lambda index: collate(from_dataset(index)),
            },
        ),
        (1, forget_both, {"pread": pread, "WindowDataset": dataset}),
        (1, forget_both, {"pread": pread, "unpickled, a file per window": file_per_window}),
    )
    print(f"windows of {seconds:g} s × {n_chans} channels at {block.sfreq:g} Hz")
    for n_read, before, reads in groups:
        interleaved(reads, n_windows)
        results = interleaved(reads, n_windows, before)
        base = next(iter(results.values()))[0]
        parts = [
            f"{name} {cost / n_read:.1f} µs ({cost / base:.2f} ×, {faults:.0f} page faults)"
            for name, (cost, faults) in results.items()
        ]
        print(f"  {'warm' if before is None else 'after forgetting'}: {'; '.join(parts)}")
    for descriptor in descriptors.values():
        os.close(descriptor)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", nargs="?", metavar="CORPUS", help="a folder made by prepare")
    given = parser.parse_args().corpus
    with tempfile.TemporaryDirectory() as folder:
        corpus = open_corpus(given) if given else make_corpus(Path(folder))
        print(corpus)
        for seconds in (4.0, 10.0, 30.0):
            with tempfile.TemporaryDirectory() as pickles:
                compare(corpus, seconds, Path(pickles))


if __name__ == "__main__":
    main()
