"""How preparation compares with MNE's own read, filter and resample, and what two workers gain.

    python benchmarks/preparation.py [--data FOLDER | --simulate HOURS] [--passes N]

FOLDER holds EDF files, by default $BERGER_DATA/eegmat; --simulate writes recordings of half an hour
and 19 channels at 500 Hz instead (needs edfio), HOURS in all. Every pass runs MNE, one worker and
two, each in a process of its own, imports not counted; medians over the passes are printed. MNE
reads only the channels that are prepared, filters and resamples to the same band and rate, and
writes nothing.

On a machine that others use too, trust CPU time: "by CPU" is what two workers would gain with two
idle cores, 2 × the CPU time with one / that of all processes with two. Needs psutil.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

CHANNELS = ["Fp1", "Fp2", "F7", "F3", "Fz", "F4", "F8", "T7", "C3", "Cz", "C4", "T8", "P7", "P3"]
CHANNELS += ["Pz", "P4", "P8", "O1", "O2"]


def simulate(folder: Path, hours: float) -> None:
    import edfio
    import numpy as np

    rng = np.random.default_rng(0)
    n_times = 500 * 1800
    for subject in range(round(2 * hours)):
        signals = [
            edfio.EdfSignal(
                rng.normal(0, 15, n_times).clip(-90, 90),
                500,
                label=f"EEG {name}",
                physical_dimension="uV",
                physical_range=(-100, 100),
            )
            for name in CHANNELS
        ]
        edfio.Edf(signals).write(folder / f"sub-{subject}_eeg.edf")


def measure_mne(data: Path) -> dict[str, Any]:
    """Read, filter and resample every file by MNE alone."""
    import mne

    from berger.preprocessing import PreprocessingConfig
    from berger.recordings import find_recordings, read_recording

    config = PreprocessingConfig()
    files = [path for _, path in find_recordings([data])]
    picks = {path: list(read_recording(path).original_ch_names) for path in files}
    raw = mne.io.read_raw_edf(files[0], include=picks[files[0]], verbose="ERROR")
    raw.crop(0, 30).load_data(verbose="ERROR").filter(config.highpass, config.lowpass, verbose=40)
    wall, cpu = time.perf_counter(), time.process_time()
    for path in files:
        raw = mne.io.read_raw_edf(path, include=picks[path], preload=True, verbose="ERROR")
        if config.notch is not None:
            raw.notch_filter(config.notch, picks="all", verbose="ERROR")
        raw.filter(config.highpass, config.lowpass, picks="all", verbose="ERROR")
        raw.resample(config.sfreq, verbose="ERROR")
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def measure_prepare(data: Path, workers: int) -> dict[str, Any]:
    """Prepare once; peaks are of the memory beyond what a process holds after its imports."""
    import numpy as np
    import psutil

    import berger.corpus.writer  # noqa: F401
    from berger.corpus import open_corpus, prepare
    from berger.preprocessing import PreprocessingConfig

    this = psutil.Process()
    others: dict[int, tuple[float, int]] = {}  # process → CPU seconds, highest resident bytes
    ended = threading.Event()
    watching = 0.0  # CPU seconds, which are no part of preparing

    def watch() -> None:
        nonlocal watching
        while not ended.wait(0.1):
            watching = time.thread_time()
            for process in this.children(recursive=True):
                try:
                    status = Path(f"/proc/{process.pid}/status").read_text()
                    cpu = sum(process.cpu_times()[:2])
                    highest = int(status.partition("VmHWM:")[2].split()[0]) * 1024
                except (OSError, IndexError, psutil.Error):
                    continue
                others[process.pid] = (cpu, highest)

    before = this.memory_info().rss
    watcher = threading.Thread(target=watch)
    if workers > 1:
        watcher.start()
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = time.perf_counter(), time.process_time()
        prepare(
            [data], Path(folder) / "out", PreprocessingConfig(), workers=workers, progress=False
        )
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu - watching
        table = open_corpus(Path(folder) / "out").recordings
    ended.set()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    seconds = table["seconds"] * table["source_sfreq"] * table["ch_names"].str.len()
    return {
        "wall": wall,
        "cpu": cpu + sum(seconds for seconds, _ in others.values()),
        "peak": peak,
        "highest": max((highest for _, highest in others.values()), default=0),
        "float64": int(np.max(seconds) * 8),
        "hours": float(table["seconds"].sum() / 3600),
        "files": len(table),
    }


def run(*arguments: object) -> dict[str, Any]:
    """Measure in a process of its own, with one thread in numerical libraries."""
    environment = os.environ | dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"
    )
    command = [sys.executable, __file__, *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def compare(data: Path, passes: int) -> None:
    rows = []
    for index in range(passes):
        calls = {
            "mne": ("--mne",),
            "one": ("--workers", 1),
            "two": ("--workers", 2),
        }
        order = list(calls) if index % 2 == 0 else list(calls)[::-1]
        rows.append({name: run(*calls[name], "--data", data) for name in order})

    def median(name: str, what: str) -> float:
        return statistics.median(row[name][what] for row in rows)

    def ratio(upper: str, lower: str, what: str) -> float:
        return statistics.median(row[upper][what] / row[lower][what] for row in rows)

    one = rows[0]["one"]
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{one['files']} files, {one['hours']:.2f} h; {passes} passes; load average {load}")
    print(
        f"one worker / MNE's own: CPU {ratio('one', 'mne', 'cpu'):.2f} × "
        f"({median('one', 'cpu'):.2f} / {median('mne', 'cpu'):.2f} s), "
        f"wall {ratio('one', 'mne', 'wall'):.2f} × "
        f"({median('one', 'wall'):.2f} / {median('mne', 'wall'):.2f} s)"
    )
    print(
        f"one worker / two workers: by CPU {2 * ratio('one', 'two', 'cpu'):.2f} × "
        f"({median('one', 'cpu'):.2f} / {median('two', 'cpu'):.2f} s), "
        f"wall {ratio('one', 'two', 'wall'):.2f} × "
        f"({median('one', 'wall'):.2f} / {median('two', 'wall'):.2f} s)"
    )
    size = one["float64"]
    print(
        f"peak of one worker: {median('one', 'peak') / size:.2f} × the largest recording in "
        f"float64 ({size / 2**20:.0f} MiB) beyond its imports; of the other process of two: "
        f"{median('two', 'highest') / 2**20:.0f} MiB resident in all"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    default = Path(os.environ.get("BERGER_DATA", "../shared/data")) / "eegmat"
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--simulate", type=float, metavar="HOURS")
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--mne", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.mne:
        print(json.dumps(measure_mne(options.data)))
    elif options.workers:
        print(json.dumps(measure_prepare(options.data, options.workers)))
    elif options.simulate:
        with tempfile.TemporaryDirectory() as folder:
            simulate(Path(folder), options.simulate)
            compare(Path(folder), options.passes)
    else:
        compare(options.data, options.passes)


if __name__ == "__main__":
    main()
