"""Where the pure functions of a preparation run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from berger.errors import BergerError

T = TypeVar("T")
R = TypeVar("R")


def map_unordered(function: Callable[[T], R], items: Sequence[T], workers: int) -> Generator[R]:
    """Yield `function` of every item, in the order in which they are finished.

    Parameters
    ----------
    function : callable
        A function of a module, so that it can be sent to other processes.
    items : sequence
    workers : int
        Number of processes; 1 means this one.

    Raises
    ------
    BergerError
        If a worker process ends without a result.
    """
    if workers < 1:
        raise BergerError(f"workers = {workers}: must be at least 1.")
    if workers == 1:
        yield from map(function, items)
        return
    # Spawned rather than forked: a fork copies the locks of threads that it does not copy.
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_begin_worker
    )
    with _one_thread_each(), pool:
        try:
            futures = [pool.submit(function, item) for item in items]
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise BergerError(
                "a worker process ended abruptly, probably for want of memory; run again with "
                "fewer workers, finished recordings are kept (in a script of your own, call it "
                "under `if __name__ == '__main__':`)."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let processes that are started meanwhile use one thread each in numerical libraries."""
    variables = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(dict.fromkeys(variables, "1"))
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
