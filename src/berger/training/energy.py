"""What a run cost in energy, where the machine tells it."""

from __future__ import annotations

from pathlib import Path

import torch

PACKAGES = Path("/sys/class/powercap")
"""Linux's counters of processor packages; most systems let only root read them."""


class EnergyMeter:
    """Counts from when it is made.

    Parameters
    ----------
    packages : Path
        Folder of the processors' counters.
    """

    def __init__(self, packages: Path = PACKAGES) -> None:
        self._packages = packages
        self._processors = self._read_processors()
        self._gpus = _read_gpus()

    def record(self) -> dict[str, float] | None:
        """Return joules used by processors and GPUs since then; None if nothing tells."""
        used: dict[str, float] = {}
        now = self._read_processors()
        if counters := self._processors.keys() & now.keys():
            spent = 0
            for name in counters:
                (before, size), (after, _) = self._processors[name], now[name]
                spent += (after - before) % (size + 1)  # a counter that is full begins at 0
            used["processors"] = round(spent / 1e6, 1)
        gpus = _read_gpus()
        if self._gpus and len(gpus) == len(self._gpus):
            used["gpus"] = round((sum(gpus) - sum(self._gpus)) / 1e3, 1)
        return used or None

    def _read_processors(self) -> dict[str, tuple[int, int]]:
        """Microjoules of each package, and where its counter ends."""
        found = {}
        for folder in sorted(self._packages.glob("intel-rapl:?")):
            try:
                values = [int((folder / name).read_text()) for name in COUNTER]
            except (OSError, ValueError):
                continue
            found[folder.name] = (values[0], values[1])
        return found


COUNTER = ("energy_uj", "max_energy_range_uj")


def _read_gpus() -> list[int]:
    """Millijoules of each GPU since its driver was loaded; empty if nothing tells."""
    if not torch.cuda.is_available():
        return []
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
        return [
            int(pynvml.nvmlDeviceGetTotalEnergyConsumption(pynvml.nvmlDeviceGetHandleByIndex(i)))
            for i in range(torch.cuda.device_count())
        ]
    except pynvml.NVMLError:
        return []
