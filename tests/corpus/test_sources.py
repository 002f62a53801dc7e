from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import mne
import numpy as np
import pyarrow.parquet as pq
import pytest

from berger.corpus import open_corpus, prepare, sources, verify_corpus
from berger.corpus.format import FileEntry
from berger.errors import BergerError
from berger.files import write_json
from berger.preprocessing import PreprocessingConfig

FIRST = "sub-0/sub-0_ses-0_eeg.edf"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files that a repeated preparation reads to compare them."""
    names: list[str] = []
    compute = sources.hash_of

    def hash_of(path: Path) -> str:
        names.append(path.name)
        return compute(path)

    monkeypatch.setattr(sources, "hash_of", hash_of)
    return names


@pytest.fixture
def out(raw: Path, tmp_path: Path, config: PreprocessingConfig) -> Path:
    (raw / "sub-3_eeg.edf").unlink()  # the damaged one
    prepare([raw], tmp_path / "corpus", config, progress=False)
    return tmp_path / "corpus"


def change_a_sample(path: Path, *, quietly: bool) -> None:
    """Change one byte; `quietly`, the time of change stays as it was."""
    times = path.stat()
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    later = 0 if quietly else 10**9
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + later))


def test_the_table_has_the_hash_of_every_source(raw: Path, out: Path) -> None:
    for row in open_corpus(out).recordings.itertuples():
        content = (raw.parent / str(row.recording)).read_bytes()
        assert row.source_sha256 == hashlib.sha256(content).hexdigest()


def test_times_of_change_are_no_part_of_a_corpus(
    raw: Path, out: Path, tmp_path: Path, config: PreprocessingConfig, files: Callable[..., object]
) -> None:
    for path in raw.rglob("*.edf"):
        os.utime(path, (1e9, 1e9))
    prepare([raw], tmp_path / "other", config, progress=False)
    assert files(tmp_path / "other") == files(out)


def test_nothing_is_read_again_while_size_and_time_stay(
    raw: Path, out: Path, config: PreprocessingConfig, read: list[str]
) -> None:
    assert prepare([raw], out, config, progress=False).prepared == 0
    assert read == []


def test_a_file_of_the_same_size_that_was_replaced_is_noticed(
    raw: Path, out: Path, config: PreprocessingConfig
) -> None:
    change_a_sample(raw / FIRST, quietly=False)
    with pytest.raises(BergerError, match=r"ses-0_eeg\.edf: has changed since .* same name"):
        prepare([raw], out, config, progress=False)


def test_a_change_of_what_belongs_to_a_file_is_told_as_such(
    tmp_path: Path, config: PreprocessingConfig, write_recording: Callable[..., None]
) -> None:
    root = tmp_path / "root"
    name = "sub-1_task-rest"
    write_recording(root / "sub-1" / "eeg" / f"{name}_eeg.edf", seed=0)
    (root / "dataset_description.json").write_text("{}")
    events = root / "sub-1" / "eeg" / f"{name}_events.tsv"
    events.write_text("onset\tduration\ttrial_type\n1.0\t0.5\tblink\n")
    prepare([root], tmp_path / "corpus", config, progress=False)
    events.write_text("onset\tduration\ttrial_type\n1.0\t0.5\tstare\n")
    with pytest.raises(BergerError, match=r"_eeg\.edf: has changed .* \(it, or a table or another"):
        prepare([root], tmp_path / "corpus", config, progress=False, check_sources=True)


def test_what_was_changed_at_the_same_time_is_noticed_where_that_is_asked_for(
    raw: Path, out: Path, config: PreprocessingConfig
) -> None:
    change_a_sample(raw / FIRST, quietly=True)
    assert prepare([raw], out, config, progress=False).prepared == 0
    with pytest.raises(BergerError, match="has changed since"):
        prepare([raw], out, config, progress=False, check_sources=True)


def test_another_folder_of_the_same_name_is_noticed(
    raw: Path,
    out: Path,
    tmp_path: Path,
    config: PreprocessingConfig,
    write_recording: Callable[..., None],
) -> None:
    other = tmp_path / "site2" / raw.name
    write_recording(other / FIRST, seed=77)
    assert (other / FIRST).stat().st_size == (raw / FIRST).stat().st_size
    with pytest.raises(BergerError, match="or is another file of the same name"):
        prepare([other], out, config, progress=False)


def test_a_copy_is_compared_once(
    raw: Path, out: Path, tmp_path: Path, config: PreprocessingConfig, read: list[str]
) -> None:
    copy = tmp_path / "elsewhere" / raw.name
    shutil.copytree(raw, copy, copy_function=shutil.copyfile)
    assert prepare([copy], out, config, progress=False).prepared == 0
    assert len(read) == 6
    assert prepare([copy], out, config, progress=False).prepared == 0
    assert len(read) == 6


def test_without_the_log_files_are_compared(
    raw: Path, out: Path, config: PreprocessingConfig, read: list[str]
) -> None:
    (out / "prepare.jsonl").write_text("{cut sho")
    assert prepare([raw], out, config, progress=False).prepared == 0
    assert len(read) == 6


def test_a_corpus_without_hashes_goes_by_size_and_says_that_it_cannot_check(
    raw: Path, out: Path, config: PreprocessingConfig
) -> None:
    manifest = open_corpus(out).manifest
    table = pq.read_table(out / "recordings.parquet").drop_columns(["source_sha256"])
    pq.write_table(table, out / "recordings.parquet")
    entry = FileEntry.of(out / "recordings.parquet")
    manifest = manifest.model_copy(update={"tables": (entry, manifest.tables[1])}).identified()
    write_json(out / "manifest.json", manifest.model_dump(mode="json"))
    change_a_sample(raw / FIRST, quietly=False)
    assert prepare([raw], out, config, progress=False).prepared == 0
    with pytest.raises(BergerError, match="kept no hashes of the sources"):
        prepare([raw], out, config, progress=False, check_sources=True)
    assert verify_corpus(out) == []


def test_the_table_names_what_was_interpolated_and_has_the_triggers(tmp_path: Path) -> None:
    names = ["Fp1", "Fp2", "F3", "F4", "C3", "C4", "P3", "P4", "O1", "O2", "STI 014"]
    signal = 1e-5 * np.random.default_rng(0).normal(size=(11, 40 * 200))
    signal[-1] = 0
    signal[-1, 2000:2010] = 12
    info = mne.create_info(names, 200, ["eeg"] * 10 + ["stim"])
    info["bads"] = ["C3"]
    mne.io.RawArray(signal, info, verbose="ERROR").save(tmp_path / "x_raw.fif", verbose="ERROR")
    options = {"bad_channels": "interpolate", "reference": "average", "highpass": 1.0}
    config = PreprocessingConfig(**options)  # type: ignore[arg-type]
    prepare([tmp_path / "x_raw.fif"], tmp_path / "corpus", config, progress=False)
    (row,) = open_corpus(tmp_path / "corpus").recordings.to_dict("records")
    assert row["interpolated"] == ["C3"]
    assert row["ch_names"] == names[:10]
    assert any("Interpolated C3 (marked as bad" in line for line in row["history"])
    assert row["annotations"] == [
        {"onset": 10.0, "duration": pytest.approx(0.045), "description": "trigger 12"}
    ]
