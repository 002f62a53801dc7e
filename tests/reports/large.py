"""A corpus of the size of the largest there are, all of whose recordings lie in one small shard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from berger.corpus.format import (
    RECORDING_COLUMNS,
    RECORDINGS,
    SAMPLE,
    WINDOW_COLUMNS,
    WINDOWS,
    CorpusManifest,
    Counts,
    FileEntry,
    Montage,
    shard_name,
    write_table,
)
from berger.preprocessing import PreprocessingConfig

ELECTRODES = [f"{row}{column}" for row in ("AF", "F", "FC", "C", "CP", "P") for column in "3124z"]
SFREQ = 200.0
SECONDS = 20.0
CAUSES = ("amplitude", "stretch under 1 s", "first and last seconds")


def write_large_corpus(
    folder: Path, n_recordings: int = 70_000, n_subjects: int = 15_000, n_montages: int = 300
) -> Path:
    """Write a corpus whose recordings all point to the same samples."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    n_times = round(SECONDS * SFREQ)
    shard = folder / shard_name(0)
    np.save(shard, rng.normal(0, 100, n_times * len(ELECTRODES)).astype(SAMPLE))
    montages = [
        [*rng.permutation(ELECTRODES)[: rng.integers(8, len(ELECTRODES) + 1)]]
        for _ in range(n_montages)
    ]
    # few subjects and montages have most of the recordings
    subject = np.minimum(rng.pareto(0.8, n_recordings) * 900, n_subjects - 1).astype(int)
    subject[:n_subjects] = np.arange(n_subjects)
    montage = np.minimum(rng.exponential(25, n_recordings), n_montages - 1).astype(int)
    montage[:n_montages] = np.arange(n_montages)
    seconds = rng.lognormal(6.8, 1.0, n_recordings)
    broken = rng.random(n_recordings) < 0.02
    rows = [
        _broken(number)
        if broken[number]
        else _row(number, f"s{subject[number]:05}", montages[montage[number]], seconds[number])
        for number in range(n_recordings)
    ]
    ok = [row for row in rows if row["status"] == "ok"]
    windows = [
        {"recording": row["recording"], "start": start, "stop": start + n_times // 4}
        for row in ok
        for start in range(0, n_times, n_times // 4)
    ]
    tables = (
        write_table(folder / RECORDINGS, rows, RECORDING_COLUMNS),
        write_table(folder / WINDOWS, windows, WINDOW_COLUMNS),
    )
    manifest = CorpusManifest(
        preprocessing=PreprocessingConfig(),
        counts=Counts(
            ok=len(ok),
            failed=len(rows) - len(ok),
            rejected=0,
            subjects=len({row["subject"] for row in ok}),
            seconds_kept=sum(row["seconds_kept"] for row in ok),
            seconds_dropped=sum(cause["seconds"] for row in ok for cause in row["dropped"]),
        ),
        montages=tuple(Montage(ch_names=tuple(names), recordings=1) for names in montages),
        shards=(FileEntry.of(shard),),
        tables=tables,
    ).identified()
    (folder / "manifest.json").write_text(manifest.model_dump_json(), encoding="utf-8")
    return folder


def _row(number: int, subject: str, ch_names: list[str], seconds: float) -> dict[str, Any]:
    return {
        "recording": f"tuh/{subject}/{number:06}.edf",
        "status": "ok",
        "subject": subject,
        "subject_source": "pattern",
        "session": f"ses-{number % 7}",
        "site": f"hospital {number % 23}" if number % 11 else None,
        "source_bytes": 1000,
        "source_sfreq": 256.0,
        "sfreq": SFREQ,
        "ch_names": ch_names,
        "original_ch_names": [f"EEG {name.upper()}-REF" for name in ch_names],
        "kept_out": [{"name": f"X{number % 900}", "reason": "not an electrode name"}],
        "n_times": round(SECONDS * SFREQ),
        "shard": shard_name(0),
        "offset": 0,
        "scale": [0.1] * len(ch_names),
        "offset_seconds": 60.0,
        "seconds": seconds,
        "seconds_kept": 0.9 * seconds,
        "dropped": [{"cause": cause, "seconds": seconds / 30} for cause in CAUSES],
        "annotations": [],
        "history": ["Filtered.", f"Kept {0.9 * seconds:.1f} of {seconds:.1f} s in 3 stretches."],
        "gaps": [{"start": 800, "seconds": 12.0}] if number % 5 == 0 else [],
        "kinds": ["scalp"] * len(ch_names),
        "species": "human",
    }


def _broken(number: int) -> dict[str, Any]:
    name = f"tuh/broken/{number:06}.edf"
    return {
        "recording": name,
        "status": "failed" if number % 3 else "rejected",
        "reason": f"{name}: lasts {number % 97}.5 s, less than min_duration, {300 + number % 2} s.",
        "source_bytes": 1000,
    }
