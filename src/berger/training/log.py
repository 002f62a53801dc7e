"""What a run leaves to read: one JSON object a line, and a record of how it was made."""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from berger.files import named, written_whole


class JsonLinesLog:
    """Append-only log; a resumed run first drops what lies behind its last saved step.

    Parameters
    ----------
    path : Path
    keep_until : int
        Lines with a ``step`` beyond this are removed.
    """

    def __init__(self, path: Path, keep_until: int = 0) -> None:
        kept = [line for line in read_log(path) if line["step"] <= keep_until]
        with written_whole(path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self._path = path
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def write(self, **values: Any) -> None:
        """Append one line."""
        with named(self._path):
            self._file.write(json.dumps(values) + "\n")

    def close(self) -> None:
        """Close the file."""
        with named(self._path):
            self._file.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read a log; a last line cut off by a crash is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def run_record() -> dict[str, Any]:
    """Return what identifies a run besides its configuration: versions, machine, command."""
    packages = ("berger", "torch", "numpy", "scipy", "mne", "scikit-learn", "lightning-fabric")
    return {
        "versions": {"python": platform.python_version()}
        | {name: metadata.version(name) for name in packages},
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "hardware": ", ".join([f"{_processor()}, {os.cpu_count()} cores", *_gpus()]),
        "git_commit": _git_commit(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _processor() -> str:
    """Name of the processor as the system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpus() -> list[str]:
    """Name the GPUs that this process sees, and how many of each."""
    names = Counter(map(torch.cuda.get_device_name, range(torch.cuda.device_count())))
    return [f"{number} × {name}" for name, number in names.items()]


def _git_commit() -> str | None:
    """Commit of the source tree that Berger runs from, None for an installed package."""
    git = shutil.which("git")
    here = Path(__file__)

    def ask(*words: str) -> str:
        command = [git or "git", "-C", str(here.parent), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    # a package that is installed inside somebody's repository is not tracked by it
    if git is None or not ask("ls-files", here.name):
        return None
    return ask("rev-parse", "HEAD") or None
