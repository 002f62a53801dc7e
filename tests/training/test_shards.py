"""A corpus that changes while a model is trained on it."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from berger.corpus import unchanged
from berger.corpus.unchanged import UnchangedShards
from berger.corpus.windows import _opened
from berger.errors import BergerError, StoppedError
from tests.training.test_faults import windows_of
from tests.training.test_loop import assert_same, log_of, state_of, train

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
Act = Callable[[], None]


@pytest.fixture
def corpus(tiny_corpus: Path, tmp_path: Path) -> Path:
    """A copy to harm, of which nothing has been read."""
    _opened.cache_clear()
    return shutil.copytree(tiny_corpus, tmp_path / "corpus")


def shard_of(corpus: Path) -> Path:
    (shard,) = corpus.glob("shard-*.npy")
    return shard


def flip(shard: Path) -> None:
    """Change one bit of the first sample and none of the times that a copy keeps."""
    times = shard.stat()
    with shard.open("r+b") as file:
        file.seek(128)
        (byte,) = file.read(1)
        file.seek(128)
        file.write(bytes([byte ^ 1]))
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_is_cut_short_is_named(workers: int, corpus: Path, tmp_path: Path) -> None:
    shard = shard_of(corpus)
    size = shard.stat().st_size
    with pytest.raises(BergerError) as caught:
        train(
            *(corpus, tmp_path / "run"),
            **{"at": 5, "act": lambda: os.truncate(shard, size // 50), "workers": workers},
        )
    assert str(caught.value) in {
        f"{shard}: ends early; run `berger corpus verify`.",
        _changed(shard),  # whichever comes first
    }


def test_a_shard_that_is_gone_is_named(corpus: Path, tmp_path: Path) -> None:
    """By whoever wants to open it; who has it open goes on."""
    shard = shard_of(corpus)

    def lose() -> None:
        shard.unlink()
        _opened.cache_clear()

    with pytest.raises(BergerError) as caught:
        train(corpus, tmp_path / "run", at=5, act=lose)
    assert str(caught.value) == (
        f"{shard}: cannot be read (No such file or directory); restore it, or see what is missing "
        "with `berger corpus verify`."
    )


def test_a_shard_that_is_open_may_go(corpus: Path, tmp_path: Path) -> None:
    train(corpus, tmp_path / "once")
    train(corpus, tmp_path / "cut", at=5, act=shard_of(corpus).unlink)
    assert_same(state_of(tmp_path / "cut"), state_of(tmp_path / "once"))


def test_a_shard_that_is_emptied_is_named(corpus: Path) -> None:
    windows = windows_of(corpus)
    os.truncate(shard_of(corpus), 0)
    with pytest.raises(BergerError, match="is no shard, or no longer; run `berger corpus verify`"):
        windows[0]


def test_no_state_is_saved_that_has_learned_from_a_changed_shard(
    corpus: Path, tmp_path: Path
) -> None:
    """One bit is told; with the shard restored the run ends as if nothing had happened."""
    shard, out = shard_of(corpus), tmp_path / "run"
    sound = shard.read_bytes()
    train(corpus, tmp_path / "once")
    with pytest.raises(BergerError) as caught:
        train(corpus, out, at=7, act=lambda: flip(shard))  # in step 4, a state of 2 is there
    assert str(caught.value) == _changed(shard)
    assert state_of(out)["step"] == 2
    shard.write_bytes(sound)
    train(corpus, out, resume=True)
    assert_same(state_of(out), state_of(tmp_path / "once"))
    assert log_of(out) == log_of(tmp_path / "once")


def test_a_shard_that_changed_between_two_processes_is_named(corpus: Path, tmp_path: Path) -> None:
    """If its time tells; one that was written anew as it was is good."""
    shard, out = shard_of(corpus), tmp_path / "run"
    sound = shard.read_bytes()
    with pytest.raises(StoppedError):
        train(corpus, out, at=5, act=lambda: os.kill(os.getpid(), signal.SIGTERM))
    flip(shard)
    os.utime(shard)
    with pytest.raises(BergerError) as caught:
        train(corpus, out, resume=True)
    assert str(caught.value) == _changed(shard)
    shard.write_bytes(sound)
    assert train(corpus, out, resume=True).steps == 7


def test_what_was_written_anew_as_it_was_is_read_once(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched, shard = UnchangedShards(windows_of(corpus)), shard_of(corpus)
    content, sound = shard.read_bytes(), unchanged.sha256
    read: list[Path] = []

    def sha256(path: Path) -> str:
        read.append(path)
        return sound(path)

    monkeypatch.setattr(unchanged, "sha256", sha256)
    watched.check()
    assert read == []
    shard.unlink()
    watched.check()
    shard.write_bytes(content)
    watched.check()
    watched.check()
    assert read == [shard]


def _changed(shard: Path) -> str:
    return (
        f"{shard}: has changed while it was in use and is not as the manifest says; restore it, "
        "see that it is right with `berger corpus verify`, and continue with --resume from the "
        "last state, which is of before."
    )
