"""Preparation in processes and on a dask cluster: the same bytes, whatever is killed on the way."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

import berger
from berger.corpus import executors, packing, prepare
from berger.corpus.executors import map_on_cluster, map_unordered
from berger.errors import BergerError
from berger.preprocessing import PreprocessingConfig

Files = Callable[[Path], dict[str, bytes]]


# --- Processes of this machine -----------------------------------------------------------------


def who(item: int) -> tuple[int, int]:
    time.sleep(0.01)
    return item, os.getpid()


def end_worker(item: int) -> int:
    if multiprocessing.parent_process() is not None:
        os._exit(1)
    time.sleep(0.2)
    return item


def test_every_item_is_done_once_by_this_process_and_another() -> None:
    results = list(map_unordered(who, range(300), 2))
    assert sorted(item for item, _ in results) == list(range(300))
    processes = {process for _, process in results}
    assert os.getpid() in processes
    assert len(processes) == 2


def test_this_process_begins_before_another_has_started() -> None:
    item, process = next(map_unordered(who, range(3), 2))
    assert (item, process) == (0, os.getpid())


def wait_for_others(item: tuple[Path, int]) -> int:
    folder, index = item
    if multiprocessing.parent_process() is not None:
        (folder / str(index)).touch()
    for _ in range(6000):
        if len(list(folder.iterdir())) >= 6:
            return index
        if multiprocessing.parent_process() is not None:
            return index
        time.sleep(0.01)
    raise AssertionError("another process waits until this one is done")


def test_while_this_process_is_at_a_long_item_another_does_many(tmp_path: Path) -> None:
    results = list(map_unordered(wait_for_others, [(tmp_path, index) for index in range(8)], 2))
    assert sorted(results) == list(range(8))


def fail_elsewhere(item: int) -> int:
    if multiprocessing.parent_process() is not None:
        raise KeyError(item)
    time.sleep(0.2)
    return item


def test_what_another_process_raises_is_raised_here() -> None:
    with pytest.raises(KeyError):
        list(map_unordered(fail_elsewhere, range(100), 2))


def begin_and_end_elsewhere(folder: Path) -> None:
    if multiprocessing.parent_process() is not None:
        (folder / "begun").touch()
        time.sleep(1)
        (folder / "ended").touch()
    while not (folder / "begun").exists():
        time.sleep(0.01)


def test_who_stops_in_the_middle_waits_for_what_another_process_is_at(tmp_path: Path) -> None:
    results = map_unordered(begin_and_end_elsewhere, [tmp_path] * 100, 2)
    next(results)
    results.close()
    assert (tmp_path / "ended").exists()


def test_memory_is_kept_only_where_the_c_library_can(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ctypes, "CDLL", lambda name: object())  # a library without mallopt
        assert not executors._set_memory_kept(2**28)
        assert list(map_unordered(abs, [-1], 1)) == [1]
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "win32")
        assert not executors._set_memory_kept(2**28)
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeLibrary(asked))
    assert list(map_unordered(abs, [-1], 1)) == [1]
    expected = [(-3, 2**25), (-1, 2**28), (-3, 2**25), (-1, 2**26), (0, 0)]
    assert asked == (expected if sys.platform == "linux" else [])


class FakeLibrary:
    def __init__(self, asked: list[tuple[int, int]]) -> None:
        self.asked = asked

    def mallopt(self, option: int, value: int) -> int:
        self.asked.append((option, value))
        return 1

    def malloc_trim(self, n_bytes: int) -> int:
        self.asked.append((0, n_bytes))
        return 1


def test_one_worker_and_one_item_need_no_process() -> None:
    assert {process for _, process in map_unordered(who, range(3), 1)} == {os.getpid()}
    assert {process for _, process in map_unordered(who, [0], 8)} == {os.getpid()}
    assert list(map_unordered(who, [], 8)) == []


def test_a_worker_that_ends_is_a_sentence() -> None:
    with pytest.raises(BergerError, match=r"a worker process ended abruptly.*fewer workers"):
        list(map_unordered(end_worker, range(100), 2))


def test_no_more_is_under_way_than_there_is_room() -> None:
    under_way: list[Future[int]] = []
    most = 0

    def submit(item: int) -> Future[int]:
        nonlocal most
        under_way.append(Future())
        most = max(most, sum(not future.done() for future in under_way))
        if len(under_way) % 5 == 0 or item == 1003:
            for future in under_way:
                if not future.done():
                    future.set_result(item)
        return under_way[-1]

    assert len(list(executors._finished(submit, range(1004), lambda: 5))) == 1004
    assert most == 5


def test_room_that_grows_is_used_and_none_at_all_is_waited_for() -> None:
    room = iter([1, 2, 3, *[0] * 100])
    begun: list[int] = []

    def submit(item: int) -> Future[int]:
        begun.append(item)
        future: Future[int] = Future()
        future.set_result(item)
        return future

    finished = executors._finished(submit, range(9), lambda: next(room))
    progress = [len(begun) for _ in finished]
    assert progress == [1, 3, 5, 5, 5]


SERVER = """
import multiprocessing.forkserver, re
from pathlib import Path
from berger.corpus import prepare
from berger.preprocessing import PreprocessingConfig
import sys
import threading
if __name__ == "__main__":
    config = PreprocessingConfig(sfreq=128, highpass=None, lowpass=None)
    prepare([sys.argv[1]], sys.argv[2], config, workers=2, progress=False)
    server = Path("/proc", str(multiprocessing.forkserver._forkserver._forkserver_pid))
    print(re.search(r"Threads:\\s*(\\d+)", (server / "status").read_text())[1])
    print("pyarrow" in (server / "maps").read_text())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers are spawned, not forked")
def test_what_workers_are_forked_from_has_the_libraries_and_one_thread(
    raw: Path, tmp_path: Path
) -> None:
    (tmp_path / "script.py").write_text(SERVER)
    command = [sys.executable, tmp_path / "script.py", raw, tmp_path / "corpus"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "True"]


# --- A dask cluster ----------------------------------------------------------------------------


class Cluster:
    """A scheduler and workers, each a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []
        self.workers: list[subprocess.Popen[bytes]] = []
        told = folder / "scheduler.json"
        options = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        self.scheduler = self._start("scheduler", *options, "--scheduler-file", told)
        while not told.is_file() or not told.read_text():
            assert self.scheduler.poll() is None, self.log()
            time.sleep(0.02)
        self.address: str = json.loads(told.read_text())["address"]

    def start_worker(self, *options: str, **how: Any) -> subprocess.Popen[bytes]:
        """Start a worker of one thread, without a nanny that would start it again."""
        options = ("--no-nanny", "--no-dashboard", "--nthreads", "1", *options)
        place = ("--local-directory", self.folder / "scratch")
        worker = self._start("worker", self.address, *options, *place, **how)
        self.workers.append(worker)
        return worker

    def stop_workers(self) -> None:
        for worker in self.workers:
            worker.kill()
            worker.wait()
        self.workers.clear()

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def _start(self, *command: object, **how: Any) -> subprocess.Popen[bytes]:
        arguments = [sys.executable, "-m", "dask", *map(str, command)]
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(arguments, stdout=log, stderr=log, **how)
        self.processes.append(process)
        return process


@pytest.fixture(scope="module")
def running_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.stop()


@pytest.fixture
def cluster(running_cluster: Cluster) -> Iterator[Cluster]:
    """A scheduler without workers."""
    yield running_cluster
    running_cluster.stop_workers()


@pytest.fixture
def many(raw: Path, write_recording: Callable[..., None]) -> Path:
    for seed in range(60):
        write_recording(raw / f"more_{seed}.edf", 100 + seed)
    return raw


def n_staged(out: Path) -> int:
    return len(list(out.glob(".staging/*.json"))) - 1  # beside the configuration


def on_cluster(
    cluster: Cluster, paths: Sequence[Path], out: Path, config: PreprocessingConfig
) -> Any:
    return prepare(paths, out, config, executor="dask", scheduler=cluster.address, progress=False)


PREPARE = """
import sys
import threading
from berger.corpus import prepare
from berger.preprocessing import PreprocessingConfig
raw, out, scheduler = sys.argv[1:]
config = PreprocessingConfig(sfreq=128, highpass=None, lowpass=None)
prepare([raw], out, config, executor="dask", scheduler=scheduler, progress=False)
"""


def test_killed_workers_and_a_killed_client_end_in_the_bytes_of_one_process(
    many: Path,
    tmp_path: Path,
    config: PreprocessingConfig,
    files: Files,
    cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packing, "SHARD_BYTES", 16_000)
    lost, _ = cluster.start_worker(), cluster.start_worker()
    out = tmp_path / "there"
    script = tmp_path / "script.py"
    script.write_text(PREPARE)
    client = subprocess.Popen([sys.executable, script, many, out, cluster.address])
    while n_staged(out) < 4:
        assert client.poll() is None, cluster.log()
        time.sleep(0.002)
    client.kill()
    client.wait()
    assert not (out / "manifest.json").exists()
    assert n_staged(out) < 67

    def kill_a_worker() -> None:
        while n_staged(out) < begun + 4:
            time.sleep(0.002)
        lost.kill()

    begun = n_staged(out)
    killer = threading.Thread(target=kill_a_worker)
    killer.start()
    summary = on_cluster(cluster, [many], out, config)
    killer.join()
    assert lost.wait() == -signal.SIGKILL
    assert (summary.ok, summary.failed) == (66, 1)
    prepare([many], tmp_path / "here", config, progress=False)
    assert files(out) == files(tmp_path / "here")


def test_a_worker_that_is_not_fit_is_refused_by_name(
    raw: Path, tmp_path: Path, config: PreprocessingConfig, cluster: Cluster
) -> None:
    cluster.start_worker("--nthreads", "2")
    with pytest.raises(BergerError, match=r"tcp://.*takes 2 tasks at a time.*--nthreads 1"):
        on_cluster(cluster, [raw], tmp_path / "corpus", config)
    cluster.stop_workers()

    (tmp_path / "other" / "berger").mkdir(parents=True)
    (tmp_path / "other" / "berger" / "__init__.py").write_text("")
    cluster.start_worker(env={**os.environ, "PYTHONPATH": str(tmp_path / "other")})
    with pytest.raises(BergerError, match=r"cannot import what it needs.*Berger is installed"):
        on_cluster(cluster, [raw], tmp_path / "corpus", config)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a path that means something per process")
def test_a_worker_that_sees_other_folders_is_refused(
    raw: Path,
    tmp_path: Path,
    config: PreprocessingConfig,
    cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = tmp_path / "elsewhere"
    there.mkdir()
    cluster.start_worker(cwd=there)
    monkeypatch.chdir(tmp_path)
    mine = Path("/proc/self/cwd")
    with pytest.raises(BergerError, match=r"corpus: the worker on .* does not see this folder"):
        on_cluster(cluster, [raw], mine / "corpus", config)
    with pytest.raises(BergerError, match=r"\.edf: the worker on .* does not see this file"):
        on_cluster(cluster, [mine / "raw"], tmp_path / "seen", config)
    (there / "corpus" / ".staging").mkdir(parents=True)
    with pytest.raises(BergerError, match=r"was prepared into another folder of this name"):
        on_cluster(cluster, [raw], mine / "corpus", config)
    # what was wrong is mended: nothing was taken for failed
    assert prepare([raw], tmp_path / "corpus", config, progress=False).ok == 6


def test_another_version_of_berger_is_refused(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.start_worker()
    monkeypatch.setattr(executors, "__version__", "0.0.0")
    with pytest.raises(BergerError, match=rf"has Berger {berger.__version__} and this .* 0\.0\.0"):
        list(map_on_cluster(abs, [-1], cluster.address))


def test_a_recording_that_ends_its_workers_is_named(cluster: Cluster) -> None:
    distributed = pytest.importorskip("distributed")

    def no_second_attempt(dask_scheduler: Any) -> None:
        dask_scheduler.allowed_failures = 0

    with distributed.Client(cluster.address, set_as_default=False) as client:
        client.run_on_scheduler(no_second_attempt)
    cluster.start_worker()
    with pytest.raises(BergerError, match=r"^77: every dask worker that tried it ended abruptly"):
        list(map_on_cluster(os._exit, [77], cluster.address))


def test_a_scheduler_without_workers_is_a_sentence(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "_SCHEDULER_SECONDS", 0.5)
    with pytest.raises(BergerError, match=r"has no workers; start some by `dask worker"):
        list(map_on_cluster(abs, [-1], cluster.address))


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "somewhere", "foo://127.0.0.1:1"])
def test_no_scheduler_is_a_sentence(address: str) -> None:
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    with pytest.raises(
        BergerError, match=rf"^{address}: no dask scheduler answers .*dask scheduler"
    ):
        list(map_on_cluster(abs, [-1], address))


def test_a_scheduler_that_ends_is_a_sentence(tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    cluster = Cluster(tmp_path)
    try:
        cluster.start_worker()
        results = map_on_cluster(time.sleep, [0.0, *[0.1] * 100], cluster.address)
        next(results)
        cluster.scheduler.kill()
        with pytest.raises(BergerError, match=r"connection to the scheduler was lost; run again"):
            list(results)
    finally:
        cluster.stop()


def test_where_nothing_is_left_to_do_no_cluster_is_asked(
    raw: Path, tmp_path: Path, config: PreprocessingConfig
) -> None:
    sound = raw / "sub-0"
    prepare([sound], tmp_path / "corpus", config, progress=False)
    nowhere = {"executor": "dask", "scheduler": "tcp://127.0.0.1:1"}
    summary = prepare([sound], tmp_path / "corpus", config, progress=False, **nowhere)  # type: ignore[arg-type]
    assert summary.prepared == 0


def test_without_dask_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(BergerError, match=r"not installed; install `berger\[cluster\]`"):
        list(map_on_cluster(abs, [-1], "tcp://127.0.0.1:1"))


@pytest.mark.parametrize("given", [{"executor": "dask"}, {"scheduler": "tcp://127.0.0.1:1"}])
def test_executor_and_scheduler_go_together(
    given: dict[str, Any], raw: Path, tmp_path: Path, config: PreprocessingConfig
) -> None:
    with pytest.raises(BergerError, match="go together"):
        prepare([raw], tmp_path / "corpus", config, progress=False, **given)
    assert not (tmp_path / "corpus").exists()
