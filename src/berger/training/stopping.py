"""Stop where a scheduler asks for it: after the step under way, with the state saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from berger.errors import StoppedError

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1) if hasattr(signal, "SIGUSR1") else (signal.SIGTERM,)
"""Of a machine that goes down, and of SLURM (``--signal=TERM@120`` or ``USR1@120``)."""


class Stop:
    """Whether somebody has asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.by: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.by is not None


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Note the signals that ask to stop, instead of dying of them; only the main thread can."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def note(number: int, frame: FrameType | None) -> None:
        stop.by = signal.Signals(number)

    with _handled_by(note):
        yield stop


@contextmanager
def stop_at_once(message: Callable[[str], str]) -> Iterator[None]:
    """Raise StoppedError where a signal arrives, for all before and after `stop_on_signals`.

    Parameters
    ----------
    message : callable
        Makes it of the signal's name.
    """

    def end(number: int, frame: FrameType | None) -> None:
        raise StoppedError(message(signal.Signals(number).name))

    with _handled_by(end):
        yield


def leave_stopping_to_parent(worker: int) -> None:
    """Let a process that reads windows go on when a scheduler signals to all of a job.

    The step under way needs its windows; its parent ends it.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
