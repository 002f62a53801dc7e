"""Commands of Berger as processes of their own, which a program that has all imported forks off.

Each is a process like any other: it can be killed, and ends with a status. To start an interpreter
and import torch would take longer than what it does here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]


class Warm:
    """A program that waits for commands."""

    def __init__(self, program: subprocess.Popen[str], output: Path) -> None:
        self._program, self._output = program, output

    def berger(
        self,
        *arguments: object,
        point: str | None = None,
        nth: int = 1,
        after: float | None = None,
        number: signal.Signals = signal.SIGKILL,
        group: bool = False,
    ) -> tuple[int, str]:
        """Run a command; return its exit status, negative for a signal, and what it printed.

        Parameters
        ----------
        *arguments
            Of the command.
        point : str, optional
            One of `POINTS`, or ``"model"`` (before one is made) or ``"step"`` (after one), where
            it signals to itself.
        nth : int
            At which passing of that point.
        after : float, optional
            Seconds after which it is signalled to by another process, if it has not ended.
        number : Signals
        group : bool
            Whether the processes that it has started are signalled to as well.
        """
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        asked = {
            "arguments": [str(argument) for argument in arguments],
            "output": str(self._output),
            **{"point": point, "nth": nth, "after": after, "number": number, "group": group},
        }
        self._program.stdin.write(json.dumps(asked) + "\n")
        self._program.stdin.flush()
        return int(self._program.stdout.readline()), self._output.read_text()


@contextmanager
def warm(output: Path) -> Iterator[Warm]:
    """Start the program; what its commands print goes to `output`."""
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    with subprocess.Popen(
        [sys.executable, "-c", "from tests.training import warm; warm.serve()"],
        cwd=ROOT,
        env=os.environ | threads,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        yield Warm(program, output)
        assert program.stdin is not None
        program.stdin.close()


def serve() -> None:
    """Run what is asked for, a line each, until there is no more."""
    import berger.assembling
    import berger.reports  # noqa: F401
    from berger.cli import main

    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if child == 0:
            os.setsid()
            output = os.open(asked["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(output, 1)
            os.dup2(output, 2)
            signals_at(asked["point"], asked["nth"], asked["number"], asked["group"])
            main(asked["arguments"])
            sys.exit(0)
        if asked["after"] is not None:
            time.sleep(asked["after"])
            (os.killpg if asked["group"] else os.kill)(child, asked["number"])
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
        sys.stdout.flush()


POINTS = ("half", "unsynced", "before the renames", "between the renames", "renamed")
"""Of a save: half of it written, all but perhaps only in memory, and about its two renames."""


def signals_at(point: str | None, nth: int, number: int, group: bool) -> None:
    """Let this process signal to itself at the nth passing of a point of a run."""
    n_passed = 0

    def passed(here: str) -> bool:
        nonlocal n_passed
        n_passed += here == point
        return here == point and n_passed == nth

    def send() -> None:
        (os.killpg if group else os.kill)(os.getpid(), number)

    save, fsync, replace = torch.save, os.fsync, os.replace

    def half_saved(state: Any, file: Any) -> None:
        save(state, file)
        if passed("half"):
            file.truncate(file.tell() // 2)
            send()

    def synced(descriptor: int) -> None:
        if passed("unsynced"):
            send()
        fsync(descriptor)

    def renamed(source: Any, target: Any, **how: Any) -> None:
        name = Path(target).name
        if name == "state-before.ckpt" and passed("before the renames"):
            send()
        if name == "state.ckpt" and passed("between the renames"):
            send()
        replace(source, target, **how)
        if name == "state.ckpt" and passed("renamed"):
            send()

    torch.save, os.fsync, os.replace = half_saved, synced, renamed  # type: ignore[assignment]

    from berger import pretraining
    from berger.training.run import Run

    attempt, fresh_objective = Run.attempt, pretraining.fresh_objective

    def made(*arguments: Any) -> Any:
        if passed("model"):
            send()
        return fresh_objective(*arguments)

    def attempted(self: Run, batches: Any) -> Any:
        found = attempt(self, batches)
        if passed("step"):
            send()
        return found

    Run.attempt = attempted  # type: ignore[method-assign]
    pretraining.fresh_objective = made
