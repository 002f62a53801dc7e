"""What a run cost, over all its parts: time on the clock, and energy where the machine tells it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

PACKAGES = Path("/sys/class/powercap")
"""Linux's counters of processor packages; most systems let only root read them."""
COUNTER = ("energy_uj", "max_energy_range_uj")
"""Files of each: microjoules, and where it is full."""
READ_AGAIN = 60.0
"""Seconds; a package's counter is full after some minutes and begins anew."""


class Meter:
    """Counts from when it is made.

    Energy is that of the whole machine of the first process, whatever else runs there: its
    processors, and the GPUs that the process sees. A part of a run that was killed counts up to its
    last saved state.

    Parameters
    ----------
    packages : Path
        Folder of the processors' counters.

    Attributes
    ----------
    started : str
        When the first part began.
    resumed : int
        How many parts came before this one.
    """

    def __init__(self, packages: Path = PACKAGES) -> None:
        self._packages = packages
        self._begun = self._looked = time.monotonic()
        self._earlier = 0.0
        self._counters = self._read()
        self._microjoules: dict[str, int] = {}
        self._measured: dict[str, float] = {}
        self.started = datetime.now(UTC).isoformat(timespec="seconds")
        self.resumed = 0

    @property
    def seconds(self) -> float:
        """Seconds on the clock, without those between the parts."""
        return self._earlier + time.monotonic() - self._begun

    def energy(self) -> dict[str, dict[str, float]] | None:
        """Return what processors and GPUs used, None if nothing tells.

        Returns
        -------
        dict
            "processors" and "gpus" → ``joules``, and the ``seconds`` in which they were counted:
            fewer than the run's if a part of it was on a machine that does not tell.
        """
        self.look(after=0.0)
        return {
            source: {
                "joules": round(used / 1e6, 1),
                "seconds": round(self._measured[source], 1),
            }
            for source, used in self._microjoules.items()
        } or None

    def look(self, after: float = READ_AGAIN) -> None:
        """Read the counters, if more than so many seconds have gone since they were read."""
        now = time.monotonic()
        if now - self._looked < after:
            return
        counters = self._read()
        for source in ("processors", "gpus"):
            before, later = self._counters[source], counters[source]
            if both := before.keys() & later.keys():
                used = sum(_difference(before[name], later[name]) for name in both)
                self._microjoules[source] = self._microjoules.get(source, 0) + used
                self._measured[source] = self._measured.get(source, 0.0) + now - self._looked
        self._counters, self._looked = counters, now

    def state(self) -> dict[str, Any]:
        """Return what a resumed run counts on from."""
        self.look(after=0.0)
        return {
            "started": self.started,
            "resumed": self.resumed,
            "seconds": self.seconds,
            "microjoules": dict(self._microjoules),
            "measured": dict(self._measured),
        }

    def go_on(self, state: Mapping[str, Any]) -> None:
        """Add what the earlier parts of this run cost."""
        self.started, self.resumed = state["started"], state["resumed"] + 1
        self._earlier += state["seconds"]
        for mine, theirs in (
            (self._microjoules, state["microjoules"]),
            (self._measured, state["measured"]),
        ):
            for source, value in theirs.items():
                mine[source] = mine.get(source, 0) + value

    def _read(self) -> dict[str, dict[str, tuple[int, int]]]:
        """Microjoules of each counter, and where it is full."""
        return {"processors": self._read_processors(), "gpus": _read_gpus()}

    def _read_processors(self) -> dict[str, tuple[int, int]]:
        found = {}
        for folder in self._packages.glob("intel-rapl:*"):
            try:
                # not what is within a package, nor the platform, which holds the packages
                if not (folder / "name").read_text().startswith("package"):
                    continue
                used, full = (int((folder / name).read_text()) for name in COUNTER)
            except (OSError, ValueError):
                continue
            found[folder.name] = (used, full)
        return found


def _difference(before: tuple[int, int], after: tuple[int, int]) -> int:
    """Return what was used between two readings; a counter that is full begins at 0."""
    return (after[0] - before[0]) % (before[1] + 1)


def _read_gpus() -> dict[str, tuple[int, int]]:
    """Microjoules of each GPU that this process sees, since its driver was loaded."""
    if not torch.cuda.is_available():
        return {}
    try:
        import pynvml
    except ImportError:
        return {}
    found = {}
    try:
        pynvml.nvmlInit()
        for place in range(torch.cuda.device_count()):
            # by name: NVML counts all GPUs of the machine, not those that are visible
            name = f"GPU-{torch.cuda.get_device_properties(place).uuid}"
            handle = pynvml.nvmlDeviceGetHandleByUUID(name)
            millijoules = int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))
            found[name] = (millijoules * 1000, 2**64 - 1)
    except pynvml.NVMLError:
        return {}
    return found
