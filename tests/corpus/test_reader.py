from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import berger.corpus
from berger.corpus import Corpus, open_corpus, prepare, verify_corpus
from berger.errors import BergerError
from berger.preprocessing import PreprocessingConfig, preprocess
from berger.recordings import read_recording

BLINKED = "raw/sub-1/sub-1_ses-1_eeg.edf"


def test_what_is_read_is_what_was_prepared(
    corpus: Corpus, raw: Path, config: PreprocessingConfig
) -> None:
    for row in corpus.recordings.query("status == 'ok'").itertuples():
        prepared = preprocess(read_recording(raw.parent / str(row.recording)), config)
        signal = corpus.read(str(row.recording), 0, prepared.recording.signal.shape[1])
        assert signal.dtype == np.float32
        stretches = corpus.stretches.query("recording == @row.recording")
        assert [*zip(stretches["start"], stretches["stop"], strict=True)] == [*prepared.stretches]
        for start, stop in prepared.stretches:
            error = signal[:, start:stop] - prepared.recording.signal[:, start:stop]
            assert np.sqrt(np.mean(error**2)) < 0.1
            np.testing.assert_array_equal(
                corpus.read(str(row.recording), start, stop - start), signal[:, start:stop]
            )


def test_summary(corpus: Corpus) -> None:
    assert corpus.subjects == ("sub-0", "sub-1", "sub-2")
    kept = corpus.recordings["seconds_kept"].sum()
    assert 2 * (8 + 9 + 10) - 1 < kept < 2 * (8 + 9 + 10)
    assert corpus.hours == pytest.approx(kept / 3600)
    assert (
        repr(corpus) == f"<Corpus {corpus.folder}: 6 recordings of 3 subjects, 0.01 usable hours>"
    )
    assert [montage.recordings for montage in corpus.manifest.montages] == [5, 1]


@pytest.mark.parametrize("seconds", [0.25, 1.0, 2.5, 7.0])
@pytest.mark.parametrize("step", [None, 0.125, 0.3125, 3.0])
def test_windows_are_all_of_the_grid_that_lie_within_a_stretch(
    corpus: Corpus, seconds: float, step: float | None
) -> None:
    n_times, n_step = round(seconds * 128), round((step or seconds) * 128)
    wanted = {
        (stretch.recording, start)
        for stretch in corpus.stretches.itertuples()
        for start in range(0, 128 * 20, n_step)
        if stretch.start <= start and start + n_times <= stretch.stop
    }
    windows = corpus.windows(seconds, step)
    assert len(windows) == len(wanted)
    assert {(window.recording, window.start) for window in windows} == wanted  # type: ignore[attr-defined]
    for window in map(windows.__getitem__, range(0, len(windows), 5)):
        assert window.samples.shape == (n_times, len(window.ch_names))
        np.testing.assert_array_equal(
            window.signal, corpus.read(window.recording, window.start, n_times)
        )


def test_windows_of_some_subjects(corpus: Corpus) -> None:
    table = corpus.windows(1, subjects=["sub-1", "sub-2"]).table
    assert set(table["subject"]) == {"sub-1", "sub-2"}
    assert list(table.columns) == ["recording", "subject", "start"]
    assert table["recording"].str.contains("sub-[12]").all()
    everybody = corpus.windows(1).table
    assert len(table) == (everybody["subject"] != "sub-0").sum()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.33,), r"0\.33 s are 42\.24 samples at 128 Hz; .* e\.g\. 0\.328125 s"),
        ((1.0, 0.001), "0.001 s are 0.128 samples"),
        ((0.0,), "0 s are 0 samples"),
        ((-1.0,), "-1 s are -128 samples"),
        ((60.0,), "no usable stretch holds a window of 60 s"),
        ((1.0, None, ["sub-1", "nobody"]), r"has no subjects \['nobody'\]"),
        ((1.0, None, []), "no usable stretch"),
    ],
)
def test_windows_that_cannot_be_are_refused(
    corpus: Corpus, arguments: tuple[object, ...], message: str
) -> None:
    with pytest.raises(BergerError, match=message):
        corpus.windows(*arguments)  # type: ignore[arg-type]


def test_reading_what_is_not_there_is_refused(corpus: Corpus) -> None:
    with pytest.raises(BergerError, match=r"holds no data of 'raw/sub-3_eeg\.edf'"):
        corpus.read("raw/sub-3_eeg.edf", 0, 1)
    for start, n_times in ((-1, 10), (0, 10_000), (1152, 1), (10, -1)):
        with pytest.raises(BergerError, match="are not within its 1152"):
            corpus.read(BLINKED, start, n_times)


def test_a_corpus_made_anew_in_the_same_place_is_read_anew(
    corpus: Corpus, raw: Path, config: PreprocessingConfig, write_recording: Callable[..., None]
) -> None:
    before = corpus.read(BLINKED, 0, 100)
    shutil.rmtree(corpus.folder)
    write_recording(raw.parent / BLINKED, seed=1234)
    prepare([raw], corpus.folder, config, progress=False)
    after = open_corpus(corpus.folder).read(BLINKED, 0, 100)
    wanted = read_recording(raw.parent / BLINKED).signal[:, :100]
    np.testing.assert_allclose(after, wanted, atol=0.1)
    assert not np.allclose(before, wanted, atol=0.1)


def damage(folder: Path, name: str) -> None:
    """Break a corpus in the way that is called so."""
    shard, manifest = folder / "shard-00000.npy", folder / "manifest.json"
    match name:
        case "missing shard":
            shard.unlink()
        case "truncated shard":
            os.truncate(shard, shard.stat().st_size - 1)
        case "flipped byte":
            data = bytearray(shard.read_bytes())
            data[1000] ^= 1
            shard.write_bytes(data)
        case "truncated table":
            os.truncate(folder / "windows.parquet", 100)
        case "another table":
            table = folder / "recordings.parquet"
            table.write_bytes(table.read_bytes()[::-1])
        case "other version":
            manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"version": 7}))
        case "edited manifest":
            manifest.write_text(manifest.read_text().replace('"ok": 6', '"ok": 7'))
        case "no manifest":
            manifest.unlink()
        case "no folder":
            shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("name", "message", "opens"),
    [
        ("missing shard", r"shard-00000\.npy: is missing", False),
        ("truncated shard", r"shard-00000\.npy: has \d+ bytes instead of \d+", False),
        ("flipped byte", r"shard-00000\.npy: is not as it was written", True),
        ("truncated table", r"windows\.parquet: has 100 bytes", False),
        ("another table", r"recordings\.parquet: is not as it was written", False),
        ("other version", "another format version", False),
        ("edited manifest", "the manifest has changed", True),
        ("no manifest", r"is no corpus \(no manifest\.json\)", False),
        ("no folder", "is no corpus", False),
    ],
)
def test_damage_is_found_and_named(corpus: Corpus, name: str, message: str, opens: bool) -> None:
    assert verify_corpus(corpus.folder) == []
    damage(corpus.folder, name)
    problems = verify_corpus(corpus.folder)
    assert len(problems) == 1
    with pytest.raises(BergerError, match=message):
        raise BergerError(problems[0])
    if opens:
        open_corpus(corpus.folder)
    else:
        with pytest.raises(BergerError, match=message):
            open_corpus(corpus.folder)


def test_a_shard_that_ends_early_or_vanishes_later_is_told(corpus: Corpus) -> None:
    shard = corpus.folder / "shard-00000.npy"
    last = corpus.recordings.query("status == 'ok'").iloc[-1]
    os.truncate(shard, shard.stat().st_size - 2)
    with pytest.raises(BergerError, match="ends early; run `berger corpus verify`"):
        corpus.read(last["recording"], 0, last["n_times"])
    shutil.rmtree(corpus.folder)
    berger.corpus.windows._opened.cache_clear()
    with pytest.raises(BergerError, match="cannot be read"):
        corpus.read(last["recording"], 0, 1)


def test_the_room_imports_on_demand() -> None:
    for name in berger.corpus.__all__:
        assert getattr(berger.corpus, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'shards'"):
        _ = berger.corpus.shards  # type: ignore[attr-defined]
    code = "import sys, berger.corpus; sys.exit('torch' in sys.modules or 'mne' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_hours_by_site(
    raw: Path, corpus: Corpus, tmp_path: Path, config: PreprocessingConfig
) -> None:
    assert corpus.hours_by_site == {}
    pattern = r"(?P<subject>sub-\d)/(sub-(?P<site>[01]))?"
    config = config.model_copy(update={"subject_pattern": pattern})
    prepare([raw], tmp_path / "sites", config, progress=False)
    sites = open_corpus(tmp_path / "sites")
    kept = sites.recordings.groupby("subject")["seconds_kept"].sum() / 3600
    expected = {"0": kept["sub-0"], "1": kept["sub-1"], "unknown": kept["sub-2"]}
    assert sites.hours_by_site == pytest.approx(expected)
    assert [*sites.hours_by_site] == ["0", "1", "unknown"]


def test_the_benchmark_of_reads_says_how_it_is_called() -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "corpus_reads.py"
    told = subprocess.run([sys.executable, script, "--help"], capture_output=True, check=True)
    assert b"usage: corpus_reads.py [-h] [CORPUS]" in told.stdout
