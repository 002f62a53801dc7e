"""What becomes of one file, and that its row does not depend on where the file lies."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from berger.corpus import open_corpus, prepare
from berger.errors import BergerError
from berger.preprocessing import PreprocessingConfig
from berger.preprocessing.stretches import SHORTEST_STRETCH, usable_stretches
from tests.corpus.conftest import write_edf

VHDR = """Brain Vision Data Exchange Header File Version 1.0
[Common Infos]
DataFile=a.eeg
DataFormat=BINARY
DataOrientation=MULTIPLEXED
NumberOfChannels=1
SamplingInterval=5000
[Binary Infos]
BinaryFormat=INT_16
[Channel Infos]
Ch1=C3,,0.1,uV
"""

needs_bytes = pytest.mark.skipif(
    sys.platform != "linux", reason="names of this system are text, not bytes"
)


@needs_bytes
def test_a_name_that_is_not_utf8_is_a_failed_row_and_the_others_go_on(
    tmp_path: Path, config: PreprocessingConfig, write_recording: Callable[..., None]
) -> None:
    raw, out = tmp_path / "raw", tmp_path / "corpus"
    write_recording(raw / "fine.edf", seed=0)
    write_recording(raw / os.fsdecode(b"caf\xe9.edf"), seed=1)
    summary = prepare([raw], out, config, progress=False)
    assert (summary.ok, summary.failed) == (1, 1)
    row = open_corpus(out).recordings.set_index("recording").loc[r"raw/caf\xe9.edf"]
    assert row["reason"] == r"raw/caf\xe9.edf: its path is not UTF-8; rename it."
    assert prepare([raw], out, config, progress=False).prepared == 0

    write_recording(raw / r"caf\xe9.edf", seed=2)
    with pytest.raises(BergerError, match=r"two files would be called 'raw/caf\\\\xe9\.edf'"):
        prepare([raw], out, config, progress=False)


@needs_bytes
def test_where_the_system_is_said_to_know_no_utf8_that_is_the_cure(
    tmp_path: Path, write_recording: Callable[..., None]
) -> None:
    raw, out = tmp_path / "raw", tmp_path / "corpus"
    write_recording(raw / "fine.edf", seed=0)
    write_recording(raw / "Jürgen.edf", seed=1)
    given = ["prepare", raw, "--out", out, "--sfreq", "128", "--lowpass", "null"]
    given += ["--highpass", "null", "--workers", "1"]
    command = [sys.executable, "-c", "from berger.cli import main; main()", *map(str, given)]
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(command, env=os.environ | plain, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"LC_ALL=C.UTF-8" in done.stderr
    assert b"1 recordings of 1 subjects" in done.stdout
    done = subprocess.run(command, env=os.environ | {"PYTHONUTF8": "1"}, check=True)
    table = open_corpus(out).recordings.set_index("recording")
    assert table["status"].to_dict() == {"raw/fine.edf": "ok", "raw/Jürgen.edf": "ok"}


def test_reasons_name_files_that_belong_to_it_as_ids_do(
    tmp_path: Path, config: PreprocessingConfig, write_recording: Callable[..., None]
) -> None:
    for name in ("here/raw", "else/where/raw"):
        raw = tmp_path / name
        write_recording(raw / "fine.edf", seed=0)
        (raw / "visit").mkdir()
        (raw / "visit" / "a.vhdr").write_text(VHDR)
        data = {"nbchan": 1.0, "pnts": 1280.0, "trials": 1.0, "srate": 128.0, "data": "b.fdt"}
        savemat(raw / "visit" / "b.set", {"EEG": data | {"chanlocs": {"labels": "C3"}}})
    (tmp_path / "link").symlink_to(tmp_path / "else", target_is_directory=True)
    tables = []
    for number, given in enumerate(("here/raw", "else/where/raw", "link/where/raw")):
        out = tmp_path / f"corpus{number}"
        prepare([tmp_path / given], out, config, progress=False)
        tables.append((out / "recordings.parquet").read_bytes())
        reasons = open_corpus(out).recordings["reason"].dropna()
        assert not reasons.str.contains(str(tmp_path)).any()
        assert reasons.str.contains(r"raw/visit/(?:a\.eeg|b\.fdt)").all()
        assert len(reasons) == 2
    assert tables[0] == tables[1] == tables[2]


def test_no_stretch_under_a_second_is_left_between_samples_out_of_range(
    tmp_path: Path, config: PreprocessingConfig
) -> None:
    signal = np.random.default_rng(0).normal(0, 20, (2, 10 * 128)).clip(-90, 90)
    signal[0, [300, 400, 460, 600]] = 7000  # 99, 59 and 139 samples between them
    write_edf(tmp_path / "a.edf", signal, ("C3", "C4"))
    loose = config.model_copy(update={"max_amplitude": None})
    prepare([tmp_path / "a.edf"], tmp_path / "corpus", loose, progress=False)
    corpus = open_corpus(tmp_path / "corpus")
    stretches = corpus.stretches[["start", "stop"]].to_numpy().tolist()
    assert stretches == [[0, 300], [461, 600], [601, 1280]]
    row = corpus.recordings.iloc[0]
    dropped = {cause["cause"]: cause["seconds"] for cause in row["dropped"]}
    assert dropped == {"out of range": 4 / 128, "stretch under 1 s": (99 + 59) / 128}
    assert row["seconds_kept"] + sum(dropped.values()) == row["seconds"]
    assert row["history"][-1] == "Dropped the stretches under 1 s that these left, 1.2 s."


def test_the_shortest_stretch_is_that_of_preprocessing() -> None:
    signal = np.zeros((1, 100))
    config = PreprocessingConfig(sfreq=10, highpass=None, lowpass=None)
    least = int(10 * SHORTEST_STRETCH)
    for length, n_kept in ((least, 1), (least - 1, 0)):
        lost = {"other": np.arange(100) >= length}
        nowhere = np.array([], np.int64)
        assert len(usable_stretches(signal, nowhere, lost, config, {})) == n_kept
