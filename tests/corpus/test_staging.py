"""What becomes of one file, and that its row does not depend on where the file lies."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from berger.corpus import open_corpus, prepare
from berger.errors import BergerError
from berger.preprocessing import PreprocessingConfig

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
