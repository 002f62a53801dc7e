"""Damaged files are read as what they still say or refused, never worse."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.io

from berger.corpus import prepare, verify_corpus
from berger.preprocessing import PreprocessingConfig
from berger.recordings import LayoutConfig, read_recording
from tests.conftest import DEFAULT_DATA
from tests.recordings import mutation, writing

# BERGER_FUZZ=2000 damages so many
N_FILES = int(os.environ.get("BERGER_FUZZ", "400"))


def made_sources(folder: Path) -> list[mutation.Source]:
    """One source of every format that can be written by script."""
    sources = []
    for name in writing.WRITERS:
        if name == "ant_wide.cnt":  # a process for every ANT file takes its time
            continue
        place = folder / name.replace(".", "-")
        path = writing.write(place, name)
        others = [file for file in sorted(place.iterdir()) if file != path]
        names = writing.EXPECTED[name].names or None
        sources.append(mutation.source(path, *others, ch_names=names))
    layout = {"signal": ["x"], "unit": "µV", "axes": ["channels", "time"], "sfreq": 100.0}
    layout["ch_names"] = ["Fp1", "T3"]
    np.savez(folder / "x.npz", x=writing.WAVES[:2])
    scipy.io.savemat(folder / "x.mat", {"x": writing.WAVES[:2]})
    for suffix in (".npz", ".mat"):
        declared = LayoutConfig.model_validate({"suffix": suffix} | layout)
        sources.append(mutation.source(folder / f"x{suffix}", layout=declared))
    np.savetxt(
        folder / "x.csv",
        writing.WAVES[:2].T,
        delimiter=",",
        header="Fp1,T3",
        comments="",
        fmt="%.4f",
    )
    declared = LayoutConfig(suffix=".csv", signal=("Fp1", "T3"), unit="µV", sfreq=100.0)
    sources.append(mutation.source(folder / "x.csv", layout=declared))
    return sources


def real_sources() -> list[mutation.Source]:
    """The small real files, where they are."""
    folder = Path(os.environ.get("BERGER_DATA", DEFAULT_DATA)) / "formats"
    if not folder.is_dir():
        return []
    wanted = {
        "eeglab_test.edf": None,
        "eeglab_test.bdf": ("A1", "A2", "A3"),
        "biosemi.bdf": None,
        "biosemi.edf": ("A1", "A2", "A3"),
        "duplicate_channel_labels.edf": ("F2",),
        "resting_raw.fif": None,
        "test.vhdr": None,
        "eeglab_data.set": None,
    }
    sources = []
    for name, names in wanted.items():
        others = [folder / "test.vmrk", folder / "test.eeg"] if name == "test.vhdr" else []
        others = [folder / "eeglab_data.fdt"] if name == "eeglab_data.set" else others
        sources.append(mutation.source(folder / name, *others, ch_names=names))
    return sources


@pytest.mark.timeout(1800)
def test_no_damage_crashes_hangs_or_passes_for_sound(tmp_path):
    sources = made_sources(tmp_path / "made") + real_sources()
    (tmp_path / "run").mkdir()
    outcomes = list(mutation.run(sources, range(N_FILES), tmp_path / "run"))
    assert len(outcomes) == N_FILES
    assert [outcome for outcome in outcomes if outcome.result == "fault"] == []
    # most damage is found, yet what is sound is not refused
    read = sum(outcome.result == "read" for outcome in outcomes)
    assert 0.05 * N_FILES < read < 0.7 * N_FILES


def test_a_corpus_of_damaged_files_is_sound(tmp_path):
    """What is accepted is written as it was read; the rest is listed with its reason."""
    folder = tmp_path / "damaged"
    # EGI's numbered electrodes would have to be asked for
    made = [name for name in writing.WRITERS if not name.startswith("ant") and ".raw" not in name]
    for seed in range(100):
        name = made[seed % len(made)]
        path = writing.write(tmp_path / "sound" / str(seed), name)
        others = [file for file in sorted(path.parent.iterdir()) if file != path]
        whole = mutation.source(path, *others)
        mutation.lay_out(whole, folder / f"sub-{seed:03d}", mutation.damage(whole, seed))
    config = PreprocessingConfig(sfreq=100, highpass=1, lowpass=40, max_amplitude=None)
    prepare([folder], tmp_path / "corpus", config, progress=False)
    assert verify_corpus(tmp_path / "corpus") == []
    table = pd.read_parquet(tmp_path / "corpus" / "recordings.parquet")
    assert len(table) >= 100
    ok = table["status"] == "ok"
    assert 10 < ok.sum() < 80
    for row in table[ok].itertuples():
        assert read_recording(folder.parent / row.recording).duration == pytest.approx(row.seconds)
    assert (table.loc[~ok, "reason"].str.len() > 10).all()
