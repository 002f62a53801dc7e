"""Where the pure functions of a preparation run: here, in processes, or on a cluster.

However many items there are, only one per process, on a cluster about two per worker, are under way
at a time: 70,000 files need no 70,000 futures, and what is cancelled is soon at an end.
"""

from __future__ import annotations

import ctypes
import math
import multiprocessing
import os
import pkgutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from queue import SimpleQueue
from typing import Any, Literal, TypeVar
from uuid import uuid4

from berger import __version__
from berger.errors import BergerError

T = TypeVar("T")
R = TypeVar("R")

Executor = Literal["processes", "dask"]

_MEMORY_KEPT = 2**28
_LARGEST_KEPT = 2**25
"""Freed memory that a process keeps, and the largest piece of it, the most that glibc allows."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h

_SCHEDULER_SECONDS = 10  # to wait for a scheduler to answer, and for its first worker


def map_unordered(function: Callable[[T], R], items: Sequence[T], workers: int) -> Generator[R]:
    """Yield `function` of every item, in the order in which they are finished.

    Parameters
    ----------
    function : callable
        A function of a module, so that it can be sent to other processes.
    items : sequence
        Are begun in this order.
    workers : int
        How many items are worked on at a time: one by this process, the others by processes that
        it starts. This one begins while those are still starting.

    Raises
    ------
    BergerError
        If a worker process ends without a result.
    """
    if workers < 1:
        raise BergerError(f"workers = {workers}: must be at least 1.")
    workers = min(workers, len(items))
    if workers <= 1:
        with _freed_memory_kept():
            yield from map(function, items)
        return
    waiting = iter(items)
    mutex = threading.Lock()
    finished: SimpleQueue[Future[R]] = SimpleQueue()

    def take() -> list[T]:
        with mutex:
            return list(islice(waiting, 1))

    def submit_next() -> None:
        for item in take():
            try:
                future = pool.submit(function, item)
            except Exception as error:  # a broken pool; whoever waits for the item is to know
                future = Future()
                future.set_exception(error)
            future.add_done_callback(hand_on)

    def hand_on(future: Future[R]) -> None:
        finished.put(future)
        if not future.cancelled() and not future.exception():
            submit_next()  # at once: this process may be at its item for long

    pool = ProcessPoolExecutor(workers - 1, _context(function), initializer=_begin_worker)
    starter = ThreadPoolExecutor(1)  # since starting a process waits for its imports
    with _one_thread_each(), _freed_memory_kept(), starter, pool:
        try:
            n_left = len(items)
            mine = take()
            for _ in range(workers - 1):
                starter.submit(submit_next)
            while mine:
                n_left -= 1
                yield function(mine[0])
                while not finished.empty():
                    n_left -= 1
                    yield finished.get().result()
                mine = take()
            for _ in range(n_left):
                yield finished.get().result()
        except BrokenProcessPool as error:
            raise BergerError(
                "a worker process ended abruptly, probably for want of memory; run again with "
                "fewer workers, finished recordings are kept (in a script of your own, call it "
                "under `if __name__ == '__main__':`)."
            ) from error
        finally:
            with mutex:
                waiting = iter(())
            starter.shutdown(cancel_futures=True)
            # And wait: what is still at work elsewhere writes into the folder that we let go.
            pool.shutdown(cancel_futures=True)


def map_on_cluster(function: Callable[[T], R], items: Sequence[T], scheduler: str) -> Generator[R]:
    """Yield `function` of every item, in the order in which a dask cluster finishes them.

    The workers may come and go meanwhile; an item whose worker is lost goes to another.

    Parameters
    ----------
    function : callable
        A function of a module, which the workers import.
    items : sequence
        ``str`` of one names it in messages and on dask's dashboard.
    scheduler : str
        Address of the scheduler, e.g. "tcp://node1:8786". Its workers must run one task at a time
        each, since each task may need the memory of a whole recording.

    Raises
    ------
    BergerError
        If dask is not installed, the scheduler or a worker is not there or gets lost, a worker
        takes several tasks at a time or has another version of Berger, or an item ends several
        workers.
    """
    if not items:
        return
    try:
        import distributed
    except ImportError as error:
        raise BergerError(
            "executor 'dask': dask.distributed is not installed; install `berger[cluster]`."
        ) from error
    try:
        # By hand first: a client that finds nobody leaves a traceback of its own on stderr.
        address = distributed.comm.get_address_host_port(scheduler)
        socket.create_connection(address, _SCHEDULER_SECONDS).close()
        client = distributed.Client(
            scheduler, timeout=_SCHEDULER_SECONDS, set_as_default=False, name="berger"
        )
    except (OSError, ValueError, TypeError) as error:
        raise BergerError(
            f"{scheduler}: no dask scheduler answers there within {_SCHEDULER_SECONDS} s "
            f"({_one_line(error)}); correct the address, e.g. tcp://HOST:8786, or start one by "
            "`dask scheduler`."
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=_SCHEDULER_SECONDS)
        except TimeoutError as error:
            raise BergerError(
                f"{scheduler}: this scheduler has no workers; start some by `dask worker "
                f"--nthreads 1 {scheduler}`."
            ) from error

        try:  # by a name: a worker that cannot import what it is sent ends without a word
            client.run(pkgutil.resolve_name, f"{__name__}:{_on_worker.__name__}.__name__")
        except ImportError as error:
            raise BergerError(
                f"{scheduler}: a worker cannot import what it needs ({_one_line(error)}); start "
                "the workers in an environment in which Berger is installed."
            ) from error

        def submit(item: T) -> Any:
            key = f"{item}-{uuid4().hex}"  # not by content: equal items of two runs are two tasks
            return client.submit(_on_worker, function, item, __version__, key=key, pure=False)

        n_workers, asked_at = 1, -math.inf

        def room() -> int:  # workers come and go, but asking takes longer than sending an item
            nonlocal n_workers, asked_at
            if time.monotonic() > asked_at + 1.0:
                n_workers, asked_at = max(len(client.nthreads()), 1), time.monotonic()
            return 2 * n_workers

        try:
            for future in _finished(submit, items, room):
                yield future.result()
        except distributed.KilledWorker as error:
            name = str(error.task).rpartition("-")[0]
            raise BergerError(
                f"{name}: every dask worker that tried it ended abruptly, probably for want of "
                "memory; give the workers more (`dask worker --memory-limit`) and run again, "
                "finished recordings are kept."
            ) from error
        except (OSError, CancelledError, distributed.client.FutureCancelledError) as error:
            if client.status == "running":
                raise
            raise BergerError(
                f"{scheduler}: the connection to the scheduler was lost; run again, finished "
                "recordings are kept."
            ) from error


def _on_worker(function: Callable[[T], R], item: T, version: str) -> R:
    """Apply a function on a worker of a cluster that is fit for it."""
    from distributed import get_worker

    worker = get_worker()
    if worker.state.nthreads > 1:
        raise BergerError(
            f"{worker.address}: this dask worker takes {worker.state.nthreads} tasks at a time, "
            "and each may need the memory of a whole recording; start it with `--nthreads 1`, and "
            "`--nworkers` for more of them."
        )
    if version != __version__:
        raise BergerError(
            f"{worker.address}: has Berger {__version__} and this machine {version}; install the "
            "same version everywhere."
        )
    return function(item)


def _finished(
    submit: Callable[[T], Any], items: Sequence[T], room: Callable[[], int]
) -> Iterator[Any]:
    """Submit items while fewer than `room` are under way; yield the futures as they finish."""
    waiting = iter(items)
    finished: SimpleQueue[Any] = SimpleQueue()
    n_under_way = 0
    while True:
        for item in islice(waiting, max(room() - n_under_way, 0)):
            n_under_way += 1
            submit(item).add_done_callback(finished.put)
        if not n_under_way:
            return
        yield finished.get()
        n_under_way -= 1


def _context(function: Callable[..., Any]) -> multiprocessing.context.BaseContext:
    """Return how to start processes that know `function`'s module.

    Not forked from this process: a fork copies the locks of threads that it does not copy. On
    Linux they are forked from a server that has one thread and imports the libraries once for
    all workers; elsewhere the system's own libraries may not survive that.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([function.__module__])
    return context


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let processes that are started meanwhile use one thread each in numerical libraries."""
    counts = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    # The allocator inside pyarrow would start a thread on import.
    variables = dict.fromkeys(counts, "1") | {"JE_ARROW_MALLOC_CONF": "background_thread:false"}
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _begin_worker() -> None:
    """Leave Ctrl-C to the parent; when it is killed end too, not wait for work for ever."""
    _set_memory_kept(_MEMORY_KEPT)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _freed_memory_kept() -> Iterator[None]:
    """Let this process keep meanwhile the memory that it frees, and give it back in the end."""
    if not _set_memory_kept(_MEMORY_KEPT):
        yield
        return
    try:
        yield
    finally:
        # As far as the C library's own rule goes that was in force before.
        _set_memory_kept(2 * _LARGEST_KEPT)
        ctypes.CDLL(None).malloc_trim(0)


def _set_memory_kept(n_bytes: int) -> bool:
    """Let the GNU C library keep so much freed memory; say whether it is in use here.

    By its own rule it gives most of it back to the system after every array, only to be handed
    the same pages again, each of which the system fills with zeros.
    """
    if sys.platform != "linux":
        return False
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:  # another C library
        return False
    return bool(
        set_option(_M_MMAP_THRESHOLD, _LARGEST_KEPT) and set_option(_M_TRIM_THRESHOLD, n_bytes)
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")
