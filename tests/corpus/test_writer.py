from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import mne
import numpy as np
import pytest

from berger.corpus import open_corpus, packing, prepare, staging, verify_corpus, writer
from berger.errors import BergerError
from berger.preprocessing import PreprocessingConfig

Files = Callable[[Path], dict[str, bytes]]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two or three recordings a shard."""
    monkeypatch.setattr(packing, "SHARD_BYTES", 16_000)


def test_equal_inputs_give_equal_bytes_wherever_and_by_however_many(
    raw: Path, tmp_path: Path, config: PreprocessingConfig, files: Files
) -> None:
    prepare([raw], tmp_path / "one", config, progress=False)
    moved = tmp_path / "elsewhere" / "raw"
    shutil.copytree(raw, moved)
    prepare([moved], tmp_path / "two", config, workers=2, progress=False)
    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    assert one == two
    assert {"manifest.json", "shard-00002.npy", "recordings.parquet", "windows.parquet"} <= set(one)
    assert str(tmp_path).encode() not in b"".join(one.values())
    assert verify_corpus(tmp_path / "one") == []


def test_every_file_has_a_row_and_what_happened_to_it(
    raw: Path, tmp_path: Path, config: PreprocessingConfig, write_recording: Callable[..., None]
) -> None:
    write_recording(raw / "short.edf", seed=5, seconds=2)
    config = config.model_copy(update={"min_duration": 5.0, "cut_start": 1.0})
    summary = prepare([raw], tmp_path / "corpus", config, progress=False)
    table = open_corpus(tmp_path / "corpus").recordings.set_index("recording")
    assert (summary.ok, summary.failed, summary.rejected, summary.prepared) == (6, 1, 1, 8)
    assert table["status"].value_counts().to_dict() == {"ok": 6, "failed": 1, "rejected": 1}
    assert [failure[:2] for failure in summary.failures] == [
        ("raw/short.edf", "rejected"),
        ("raw/sub-3_eeg.edf", "failed"),
    ]
    assert table.loc["raw/sub-3_eeg.edf", "reason"].startswith("raw/sub-3_eeg.edf: ")
    assert table.loc["raw/short.edf", "subject"] == "short"

    row = table.loc["raw/sub-1/sub-1_ses-1_eeg.edf"]
    assert (row["subject"], row["session"], row["ch_names"]) == (
        "sub-1",
        "ses-1",
        ["Fz", "Cz", "Pz"],
    )
    assert row["original_ch_names"] == ["EEG Fz", "EEG Cz", "EEG Pz"]
    assert (row["source_sfreq"], row["sfreq"], row["offset_seconds"]) == (128, 128, 1.0)
    assert row["source_bytes"] == (raw.parent / row.name).stat().st_size
    dropped = {cause["cause"]: cause["seconds"] for cause in row["dropped"]}
    assert set(dropped) == {"first and last seconds", "amplitude"}
    assert sum(dropped.values()) + row["seconds_kept"] == pytest.approx(row["seconds"])
    assert any("Cut 1 s at the start" in sentence for sentence in row["history"])


def test_samples_out_of_range_are_dropped_and_that_is_told(
    tmp_path: Path, config: PreprocessingConfig, write_recording: Callable[..., None]
) -> None:
    write_recording(tmp_path / "a.edf", seed=0, blink=7000)
    loose = config.model_copy(update={"max_amplitude": None})
    prepare([tmp_path / "a.edf"], tmp_path / "corpus", loose, progress=False)
    row = open_corpus(tmp_path / "corpus").recordings.iloc[0]
    assert row["dropped"] == [{"cause": "out of range", "seconds": pytest.approx(25 / 128)}]
    assert "Dropped 25 samples" in row["history"][-1]


def test_no_window_spans_a_gap_and_the_gap_is_told(
    tmp_path: Path, config: PreprocessingConfig
) -> None:
    info = mne.create_info(["C3", "C4"], 128, "eeg")
    noise = 1e-5 * np.random.default_rng(0).normal(size=(2, 7 * 128 + 64))
    pieces = [mne.io.RawArray(noise, info, verbose="ERROR") for _ in range(2)]
    joined = mne.concatenate_raws(pieces, verbose="ERROR")
    joined.save(tmp_path / "x_raw.fif", verbose="ERROR")
    config = config.model_copy(update={"species": "mouse"})
    prepare([tmp_path / "x_raw.fif"], tmp_path / "corpus", config, progress=False)
    corpus = open_corpus(tmp_path / "corpus")
    seam = 7 * 128 + 64
    assert corpus.recordings["gaps"][0] == [{"start": seam, "seconds": None}]
    starts = corpus.windows(seconds=1).table["start"]
    assert corpus.recordings["kinds"][0] == ["scalp", "scalp"]
    assert corpus.recordings["species"][0] == "mouse"
    assert len(starts) == 14  # of 15 on the grid, one would lie across the seam
    assert not ((starts < seam) & (starts + 128 > seam)).any()


def test_shards_are_arrays_of_whole_recordings(
    raw: Path, tmp_path: Path, config: PreprocessingConfig
) -> None:
    prepare([raw], tmp_path / "corpus", config, progress=False)
    corpus = open_corpus(tmp_path / "corpus")
    for shard, rows in corpus.recordings.query("status == 'ok'").groupby("shard"):
        samples = np.load(corpus.folder / str(shard), allow_pickle=False)
        ends = rows["offset"] + rows["n_times"] * rows["ch_names"].str.len()
        assert samples.dtype == np.int16
        assert [0, *ends] == [*rows["offset"], len(samples)]
        assert samples.nbytes <= packing.SHARD_BYTES


def test_a_recording_larger_than_a_shard_gets_one_of_its_own(
    raw: Path, tmp_path: Path, config: PreprocessingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "SHARD_BYTES", 1)
    prepare([raw], tmp_path / "corpus", config, progress=False)
    assert len(open_corpus(tmp_path / "corpus").manifest.shards) == 6


def test_run_again_there_is_nothing_to_do(
    raw: Path, tmp_path: Path, config: PreprocessingConfig
) -> None:
    out = tmp_path / "corpus"
    first = prepare([raw], out, config, progress=False)
    assert "6 recordings of 3 subjects" in str(first)
    assert "Prepared 7 files" in str(first)
    log = out / "prepare.jsonl"

    def state() -> dict[str, tuple[int, bytes]]:
        files = set(out.iterdir()) - {log}
        return {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in files}

    before = state()
    again = prepare([raw], out, config, progress=False)
    assert again.prepared == 0
    assert "Nothing to do" in str(again)
    assert (again.ok, again.failed, again.hours) == (first.ok, first.failed, first.hours)
    assert state() == before
    assert len(log.read_text().splitlines()) == 7 + 1  # the failed file is tried again


def test_added_files_extend_the_corpus(
    raw: Path,
    tmp_path: Path,
    config: PreprocessingConfig,
    files: Files,
    write_recording: Callable[..., None],
) -> None:
    out = tmp_path / "corpus"
    prepare([raw], out, config, progress=False)
    before = files(out)
    row = open_corpus(out).recordings.iloc[0]
    write_recording(raw / "a-new_eeg.edf", seed=99)
    write_recording(raw / "sub-3_eeg.edf", seed=100)  # the damaged one, mended
    summary = prepare([raw], out, config, progress=False)
    after = files(out)
    assert (summary.prepared, summary.ok, summary.failed) == (2, 8, 0)
    assert verify_corpus(out) == []
    assert all(after[file] == before[file] for file in before if file.startswith("shard"))
    assert len(after) == len(before) + 1
    table = open_corpus(out).recordings
    assert list(table["recording"]) == sorted(table["recording"])
    assert table.set_index("recording").loc[row["recording"]].equals(row.iloc[1:])

    only_new = prepare([raw / "a-new_eeg.edf"], out, config, progress=False)
    assert (only_new.prepared, only_new.ok, only_new.rejected) == (1, 8, 1)  # it has two ids


def test_of_equal_files_one_is_kept_whatever_ends_first(
    raw: Path, tmp_path: Path, config: PreprocessingConfig, files: Files
) -> None:
    first, again = raw / "sub-0" / "sub-0_ses-0_eeg.edf", raw / "sub-0" / "sub-0_ses-2_eeg.edf"
    shutil.copy(first, again)
    for workers in (1, 2):
        summary = prepare([raw], tmp_path / f"{workers}", config, workers=workers, progress=False)
        assert (summary.ok, summary.rejected, summary.failed) == (6, 1, 1)
    one = files(tmp_path / "1")
    assert one == files(tmp_path / "2")
    reason = "raw/sub-0/sub-0_ses-2_eeg.edf: is the same file as raw/sub-0/sub-0_ses-0_eeg.edf; "
    assert summary.failures[0].reason.startswith(reason)
    corpus = open_corpus(tmp_path / "1")
    assert len(corpus.stretches["recording"].unique()) == 6
    assert verify_corpus(tmp_path / "1") == []
    before = files(tmp_path / "1")
    assert prepare([raw], tmp_path / "1", config, progress=False).prepared == 0
    assert files(tmp_path / "1") == before

    with killed_at(10**6) as made:
        prepare([raw], tmp_path / "counted", config, progress=False)
    for n_changes in range(made[0] - 25, made[0], 3):
        with killed_at(n_changes), pytest.raises(Killed):
            prepare([raw], tmp_path / f"killed{n_changes}", config, progress=False)
        prepare([raw], tmp_path / f"killed{n_changes}", config, progress=False)
        assert files(tmp_path / f"killed{n_changes}") == one, f"after {n_changes} changes"


def test_subjects_that_several_folders_have_are_told(
    tmp_path: Path, config: PreprocessingConfig, write_recording: Callable[..., None]
) -> None:
    for seed, name in enumerate(
        ["A/s01.edf", "A/day2/s01.edf", "B/s01_x.edf", "B/s02.edf", "C/s02_y.edf", "C/s03.edf"]
    ):
        write_recording(tmp_path / name, seed)
    for seed, site in enumerate(["R1", "R2"]):
        folder = tmp_path / "bids" / site
        write_recording(folder / "sub-01" / "eeg" / f"sub-01_task-{site}_eeg.edf", 50 + seed)
        write_recording(folder / f"sub-{seed + 5}" / "eeg" / f"sub-{seed + 5}_eeg.edf", 60 + seed)
        (folder / "dataset_description.json").write_text("{}")

    def shared(*given: str, **options: object) -> dict[str, tuple[str, ...]]:
        out = tmp_path / "corpora" / "-".join([*given, *options]).replace("/", "_")
        paths = [tmp_path / name for name in given]
        changed = config.model_copy(update=options)
        return dict(prepare(paths, out, changed, progress=False).shared_subjects)

    assert shared("A") == shared("C") == {}
    assert shared("A", "B", "C") == {"s01": ("A", "B"), "s02": ("B", "C")}
    assert shared("bids") == {"sub-01": ("bids/R1", "bids/R2")}
    assert shared("A/s01.edf", "B/s01_x.edf") == {"s01": ("A", "B")}
    assert shared("A/s01.edf", "A") == {}
    alone = [f"bids/{root}/sub-01/eeg/sub-01_task-{root}_eeg.edf" for root in ("R1", "R2")]
    assert shared(*alone) == {"sub-01": ("R1", "R2")}
    assert shared("B/s01_x.edf", "B/s02.edf") == {}
    assert shared("A", "B", subject_pattern=r"(?P<subject>[^/]+/s\d+)") == {}
    out = tmp_path / "corpora" / "A"
    extended = prepare([tmp_path / "B"], out, config, progress=False)
    assert extended.shared_subjects == (("s01", ("A", "B")),)


def test_a_file_in_the_corpus_is_kept_before_its_twin_whatever_their_ids(
    raw: Path, tmp_path: Path, config: PreprocessingConfig
) -> None:
    out = tmp_path / "corpus"
    prepare([raw], out, config, progress=False)
    shards = open_corpus(out).manifest.shards
    (tmp_path / "a").mkdir()
    shutil.copy(raw / "sub-2" / "sub-2_ses-0_eeg.edf", tmp_path / "a" / "b.edf")
    summary = prepare([tmp_path / "a"], out, config, progress=False)
    assert (summary.ok, summary.rejected) == (6, 1)
    assert summary.failures[0].reason.startswith("a/b.edf: is the same file as raw/sub-2/sub-2_")
    assert open_corpus(out).manifest.shards == shards
    assert prepare([tmp_path / "a", raw], out, config, progress=False).prepared == 0


def test_another_configuration_is_refused_with_the_difference(
    raw: Path, tmp_path: Path, config: PreprocessingConfig
) -> None:
    prepare([raw], tmp_path / "corpus", config, progress=False)
    other = config.model_copy(update={"max_amplitude": 50.0})
    with pytest.raises(BergerError, match=r"\(max_amplitude is 100.0 there and 50.0 here\)"):
        prepare([raw], tmp_path / "corpus", other, progress=False)


def test_a_source_that_changed_is_refused_by_name(
    raw: Path, tmp_path: Path, config: PreprocessingConfig, write_recording: Callable[..., None]
) -> None:
    prepare([raw], tmp_path / "corpus", config, progress=False)
    write_recording(raw / "sub-0" / "sub-0_ses-0_eeg.edf", seed=0, seconds=20)
    with pytest.raises(BergerError, match=r"sub-0_ses-0_eeg\.edf: has changed since"):
        prepare([raw], tmp_path / "corpus", config, progress=False)


def test_a_second_preparation_at_the_same_time_is_refused(
    raw: Path, tmp_path: Path, config: PreprocessingConfig
) -> None:
    (tmp_path / "corpus").mkdir()
    with (
        filelock.FileLock(tmp_path / "corpus" / ".lock"),
        pytest.raises(BergerError, match="another preparation is writing"),
    ):
        prepare([raw], tmp_path / "corpus", config, progress=False)


def test_a_folder_with_something_else_is_refused(
    raw: Path, tmp_path: Path, config: PreprocessingConfig
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("1")
    with pytest.raises(BergerError, match="is not empty and no corpus"):
        prepare([raw], tmp_path / "thesis", config, progress=False)


def test_a_file_in_the_place_of_a_folder_is_refused(
    raw: Path, tmp_path: Path, config: PreprocessingConfig
) -> None:
    (tmp_path / "chapter.txt").write_text("1")
    for out in (tmp_path / "chapter.txt", tmp_path / "chapter.txt" / "corpus"):
        with pytest.raises(BergerError, match=r"chapter\.txt: is a file, but the corpus needs a"):
            prepare([raw], out, config, progress=False)
    assert (tmp_path / "chapter.txt").read_text() == "1"


def test_a_folder_that_cannot_be_written_is_named(
    raw: Path, tmp_path: Path, config: PreprocessingConfig
) -> None:
    (tmp_path / "corpus" / ".lock").mkdir(parents=True)
    with pytest.raises(BergerError, match="corpus: cannot be written"):
        prepare([raw], tmp_path / "corpus", config, progress=False)


def test_no_workers_are_refused(raw: Path, tmp_path: Path, config: PreprocessingConfig) -> None:
    with pytest.raises(BergerError, match="workers = 0"):
        prepare([raw], tmp_path / "corpus", config, workers=0, progress=False)


def test_a_lost_shard_is_noticed_before_anything_is_added(
    raw: Path, tmp_path: Path, config: PreprocessingConfig
) -> None:
    prepare([raw], tmp_path / "corpus", config, progress=False)
    (tmp_path / "corpus" / "shard-00001.npy").unlink()
    with pytest.raises(BergerError, match=r"shard-00001\.npy: is missing; restore it"):
        prepare([raw], tmp_path / "corpus", config, progress=False)


def test_when_nothing_is_usable_the_reasons_are_told_and_another_attempt_is_free(
    raw: Path, tmp_path: Path, config: PreprocessingConfig
) -> None:
    strict = config.model_copy(update={"min_duration": 1000.0})
    with pytest.raises(BergerError, match=r"none of 7 files could be prepared: .*min_duration"):
        prepare([raw], tmp_path / "corpus", strict, progress=False)
    with pytest.raises(BergerError, match="is no corpus"):
        open_corpus(tmp_path / "corpus")
    assert prepare([raw], tmp_path / "corpus", config, progress=False).ok == 6


def test_a_fault_of_ours_in_one_file_is_a_failed_row(
    raw: Path, tmp_path: Path, config: PreprocessingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = staging.preprocess

    def faulty(recording, config):  # type: ignore[no-untyped-def]
        if recording.subject == "sub-1":
            raise KeyError("a fault")
        return sound(recording, config)

    monkeypatch.setattr(staging, "preprocess", faulty)
    summary = prepare([raw], tmp_path / "corpus", config, progress=False)
    assert (summary.ok, summary.failed) == (4, 3)
    assert summary.failures[0].reason == "KeyError: 'a fault'"


def test_the_log_has_a_line_per_file_and_the_bar_a_rate(
    raw: Path,
    tmp_path: Path,
    config: PreprocessingConfig,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prepare([raw], tmp_path / "corpus", config, progress=True)
    lines = (tmp_path / "corpus" / "prepare.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["status"] for line in lines) == ["failed"] + ["ok"] * 6
    shown = capsys.readouterr()
    assert "7/7 files" in shown.err
    assert "× real time, 1 unusable" in shown.err
    assert shown.out == ""


# --- Packed while others are staged --------------------------------------------------------


@pytest.fixture
def raw_with_twin(raw: Path) -> Path:
    """Give the first recording of all a copy with one of the last ids."""
    shutil.copy(raw / "sub-0" / "sub-0_ses-0_eeg.edf", raw / "sub-2" / "sub-2_ses-2_eeg.edf")
    return raw


@contextmanager
def staged_after_the_first_shard(out: Path, then: Callable[[], None]) -> Iterator[None]:
    """Hold up the twin and the damaged file until a shard stands."""
    sound = writer.stage

    def late(task: staging.Task) -> staging.Entry:
        if task.recording.endswith(("sub-2_ses-2_eeg.edf", "sub-3_eeg.edf")):
            for _ in range(3000):
                if (out / "shard-00000.npy").exists():
                    break
                time.sleep(0.01)
            else:
                pytest.fail("nothing is packed before all is staged")
            then()
        return sound(task)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "stage", late)
        yield


def test_shards_are_packed_while_later_files_are_staged(
    raw_with_twin: Path, tmp_path: Path, config: PreprocessingConfig, files: Files
) -> None:
    prepare([raw_with_twin], tmp_path / "whole", config, progress=False)
    wanted = files(tmp_path / "whole")
    out = tmp_path / "early"
    with staged_after_the_first_shard(out, lambda: None):
        summary = prepare([raw_with_twin], out, config, progress=False)
    assert files(out) == wanted
    assert (summary.ok, summary.failed, summary.rejected) == (6, 1, 1)
    twin = "raw/sub-2/sub-2_ses-2_eeg.edf: is the same file as raw/sub-0/sub-0_ses-0_eeg.edf; "
    assert summary.failures[0].reason.startswith(twin)

    def kill() -> None:
        raise Killed

    out = tmp_path / "killed"
    with staged_after_the_first_shard(out, kill), pytest.raises(Killed):
        prepare([raw_with_twin], out, config, progress=False)
    assert (out / "shard-00000.npy").exists()
    assert prepare([raw_with_twin], out, config, progress=False).rejected == 1
    assert files(out) == wanted


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_while_it_packs_it_continues_to_the_same_bytes(
    workers: int,
    raw_with_twin: Path,
    tmp_path: Path,
    config: PreprocessingConfig,
    files: Files,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prepare([raw_with_twin], tmp_path / "whole", config, progress=False)
    wanted = files(tmp_path / "whole")
    sound = packing._append
    for n_packed in range(0, 6, workers):
        n_left = n_packed

        def killed(*args: Any) -> None:
            nonlocal n_left
            if not n_left:
                raise Killed
            n_left -= 1
            sound(*args)

        out = tmp_path / f"after-{n_packed}"
        with monkeypatch.context() as patch:
            patch.setattr(packing, "_append", killed)
            with pytest.raises(Killed):
                prepare([raw_with_twin], out, config, workers=workers, progress=False)
        assert not (out / "manifest.json").exists()
        prepare([raw_with_twin], out, config, progress=False)
        assert files(out) == wanted, f"after {n_packed} blocks"


def test_a_disk_that_is_full_ends_it_before_all_is_staged(
    raw: Path,
    tmp_path: Path,
    config: PreprocessingConfig,
    files: Files,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failed = threading.Event()

    def full(*args: object) -> None:
        failed.set()
        raise OSError(errno.ENOSPC, "No space left on device")

    staged = []
    sound = writer.stage

    def after_that(task: staging.Task) -> staging.Entry:
        staged.append(task)
        if len(staged) > 3:
            assert failed.wait(30)
        return sound(task)

    out = tmp_path / "corpus"
    with monkeypatch.context() as patch:
        patch.setattr(packing, "_append", full)
        patch.setattr(writer, "stage", after_that)
        with pytest.raises(BergerError, match=r"cannot be written .*No space left"):
            prepare([raw], out, config, progress=False)
    assert len(staged) < 7
    prepare([raw], out, config, progress=False)
    prepare([raw], tmp_path / "whole", config, progress=False)
    assert files(out) == files(tmp_path / "whole")


def test_a_staged_block_that_is_cut_off_is_named(
    raw: Path, tmp_path: Path, config: PreprocessingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "corpus"
    sound = writer.stage

    def cut_off(task: staging.Task) -> staging.Entry:
        entry = sound(task)
        if entry.is_ok:
            block = staging.staged_path(task.staging, task.recording, ".npy")
            os.truncate(block, block.stat().st_size - 2)
        return entry

    monkeypatch.setattr(writer, "stage", cut_off)
    with pytest.raises(BergerError, match=r"\.npy: is not as it was written; delete it and run"):
        prepare([raw / "sub-0"], out, config, progress=False)


def test_files_are_begun_a_shards_worth_after_another_the_largest_first(
    config: PreprocessingConfig, tmp_path: Path
) -> None:
    sizes = {"a": 1, "b": 9_000, "c": 6_000, "d": 2_000, "e": 50_000, "f": 5_000, "g": 16_001}
    tasks = [
        staging.Task(name, tmp_path / name, size, None, config, tmp_path)
        for name, size in sizes.items()
    ]
    # a b c are 16 kB at most together, d f again, e and g are larger than a shard
    assert "".join(task.recording for task in writer._in_turn(tasks)) == "egbcafd"


# --- Killed and run again -----------------------------------------------------------------


class Killed(BaseException):
    """What a killed process does from then on: nothing."""


@contextmanager
def killed_at(n_changes: int) -> Iterator[list[int]]:
    """Let this process change the disk's directories so many times and then never again."""
    made = [0]
    one_at_a_time = threading.Lock()  # files are staged and packed by two threads

    def counted(change: Callable[..., object]) -> Callable[..., object]:
        def may_fail(*args: object, **kwargs: object) -> object:
            with one_at_a_time:
                if made[0] >= n_changes:
                    raise Killed
                made[0] += 1
            return change(*args, **kwargs)

        return may_fail

    with pytest.MonkeyPatch.context() as patch:
        for name in ("rename", "replace", "unlink"):
            patch.setattr(Path, name, counted(getattr(Path, name)))
        for name in ("unlink", "rmdir"):
            patch.setattr(os, name, counted(getattr(os, name)))
        patch.setattr(os, "getpid", lambda: -1)  # another process than the one that continues
        yield made


@pytest.mark.parametrize(
    ("begun", "added", "forgetful"),
    [
        ((), ("sub-0", "sub-1"), False),
        (("sub-2", "sub-3_eeg.edf"), ("sub-0", "sub-1"), False),
        (("sub-2", "sub-3_eeg.edf"), ("sub-0", "sub-1"), True),
        (("sub-0",), ("sub-3_eeg.edf",), False),
    ],
    ids=["new", "extended", "staging deleted by hand", "extended by a failure"],
)
def test_killed_at_any_change_of_the_disk_it_continues_to_the_same_bytes(
    begun: tuple[str, ...],
    added: tuple[str, ...],
    forgetful: bool,
    raw: Path,
    tmp_path: Path,
    config: PreprocessingConfig,
    files: Files,
) -> None:
    before, whole, out = (tmp_path / name for name in ("before", "whole", "killed"))
    before.mkdir()
    if begun:
        prepare([raw / name for name in begun], before, config, progress=False)
    paths = [raw / name for name in added]
    shutil.copytree(before, whole)
    with killed_at(10**6) as made:
        prepare(paths, whole, config, progress=False)
    wanted = files(whole)
    # Every third change, and every one from the last shard on.
    for n_changes in sorted({*range(0, made[0], 3), *range(made[0] - 30, made[0])}):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(before, out)
        with killed_at(n_changes), pytest.raises(Killed):
            prepare(paths, out, config, progress=False)
        if forgetful:
            shutil.rmtree(out / ".staging", ignore_errors=True)
        prepare(paths, out, config, progress=False)
        assert files(out) == wanted, f"after {n_changes} changes"


def test_a_shard_lost_before_the_corpus_is_finished_is_made_again(
    raw: Path, tmp_path: Path, config: PreprocessingConfig, files: Files
) -> None:
    prepare([raw], tmp_path / "whole", config, progress=False)
    n_changes = 0
    while not (tmp_path / "killed" / "shard-00001.npy").exists():
        shutil.rmtree(tmp_path / "killed", ignore_errors=True)
        n_changes += 4
        with killed_at(n_changes), pytest.raises(Killed):
            prepare([raw], tmp_path / "killed", config, progress=False)
    (tmp_path / "killed" / "shard-00000.npy").unlink()
    prepare([raw], tmp_path / "killed", config, progress=False)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


PREPARE = """
import sys
from berger.corpus import prepare
from berger.preprocessing import PreprocessingConfig
if __name__ == "__main__":
    config = PreprocessingConfig(sfreq=128, highpass=None, lowpass=None)
    prepare([sys.argv[1]], sys.argv[2], config, workers=2, progress=False)
"""


def test_killed_for_real_it_leaves_no_worker_and_continues(
    raw: Path,
    tmp_path: Path,
    config: PreprocessingConfig,
    files: Files,
    write_recording: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packing, "SHARD_BYTES", 2**30)  # as in the other process
    for seed in range(60):
        write_recording(raw / f"more_{seed}.edf", 100 + seed)
    script = tmp_path / "script.py"
    script.write_text(PREPARE)
    out = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, script, raw, out], start_new_session=True)
    while len(list(out.glob(".staging/*.json"))) < 4:
        assert process.poll() is None
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert not (out / "manifest.json").exists()
    for _ in range(3000):  # the workers were in the killed process's group
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.02)
    else:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail("workers outlive their parent")

    with pytest.raises(BergerError, match="unfinished"):
        open_corpus(out)
    prepare([raw], out, config, progress=False)
    prepare([raw], tmp_path / "whole", config, progress=False)
    assert files(out) == files(tmp_path / "whole")


def test_an_unfinished_corpus_of_another_configuration_is_refused(
    raw: Path, tmp_path: Path, config: PreprocessingConfig
) -> None:
    with killed_at(12), pytest.raises(Killed):
        prepare([raw], tmp_path / "corpus", config, progress=False)
    other = config.model_copy(update={"reference": "average"})
    with pytest.raises(BergerError, match="reference is 'as recorded' there and 'average' here"):
        prepare([raw], tmp_path / "corpus", other, progress=False)


def test_an_attempt_that_prepared_nothing_leaves_the_configuration_free(
    raw: Path, tmp_path: Path, config: PreprocessingConfig
) -> None:
    out = tmp_path / "corpus"
    with pytest.raises(BergerError, match="no dask scheduler answers"):
        prepare([raw], out, config, executor="dask", scheduler="tcp://127.0.0.1:9", progress=False)
    assert (out / ".staging").is_dir()
    other = config.model_copy(update={"reference": "average"})
    assert prepare([raw], out, other, progress=False).ok == 6
    assert open_corpus(out).manifest.preprocessing == other


def test_preparing_imports_no_torch() -> None:
    code = "import sys, berger.corpus.writer; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
