"""What a run cost: counters that wrap, parts of a resumed run, machines that do not tell."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from berger.training import energy
from berger.training.energy import Meter

FULL = 262_143_328_850
"""Microjoules at which a counter of an Intel processor begins anew."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands until it is moved; no GPU."""
    now = [1000.0]
    monkeypatch.setattr(energy.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return now


def package(folder: Path, place: str, used: int, name: str = "package-0") -> None:
    counter = folder / f"intel-rapl:{place}"
    counter.mkdir(parents=True, exist_ok=True)
    (counter / "name").write_text(f"{name}\n")
    (counter / "energy_uj").write_text(f"{used}\n")
    (counter / "max_energy_range_uj").write_text(f"{FULL}\n")


def joules(meter: Meter, source: str = "processors") -> float:
    found = meter.energy()
    assert found is not None
    return found[source]["joules"]


def test_packages_are_added_and_nothing_is_counted_twice(
    tmp_path: Path, clock: list[float]
) -> None:
    """Parts of a package, and the platform that holds the packages, are in these already."""
    places = {"0": "package-0", "1": "package-1", "0:0": "core", "2": "psys"}
    for place, name in places.items():
        package(tmp_path, place, 5_000_000, name)
    (tmp_path / "intel-rapl").mkdir()
    meter = Meter(tmp_path)
    for place, name in places.items():
        package(tmp_path, place, 8_000_000, name)
    clock[0] += 10
    assert meter.energy() == {"processors": {"joules": 6.0, "seconds": 10.0}}


@pytest.mark.parametrize("rounds", [1, 3])
def test_a_counter_that_is_full_begins_anew(
    rounds: int, tmp_path: Path, clock: list[float]
) -> None:
    """Several times in a run, as it does after some minutes."""
    package(tmp_path, "0", FULL - 1_000_000)
    meter = Meter(tmp_path)
    used, step = FULL - 1_000_000, FULL // 2
    for _ in range(2 * rounds):
        clock[0] += 61
        used += step
        package(tmp_path, "0", used % (FULL + 1))
        meter.look()
    assert joules(meter) == pytest.approx(2 * rounds * step / 1e6, abs=0.1)


def test_counters_are_read_now_and_then(
    tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    n_read = 0

    def read() -> dict[str, tuple[int, int]]:
        nonlocal n_read
        n_read += 1
        return {}

    monkeypatch.setattr(energy, "_read_gpus", read)
    meter = Meter(tmp_path)
    for _ in range(1000):
        clock[0] += 0.25
        meter.look()
    assert n_read == 1 + 4


def test_a_resumed_run_counts_all_its_parts(tmp_path: Path, clock: list[float]) -> None:
    package(tmp_path, "0", 0)
    first = Meter(tmp_path)
    clock[0] += 20
    package(tmp_path, "0", 7_000_000)
    state = first.state()
    package(tmp_path, "0", 90_000_000)  # by others, in between
    clock[0] += 5000
    second = Meter(tmp_path)
    second.go_on(state)
    clock[0] += 10
    package(tmp_path, "0", 95_000_000)
    assert second.energy() == {"processors": {"joules": 12.0, "seconds": 30.0}}
    assert second.seconds == 30
    assert (second.started, second.resumed) == (first.started, 1)

    silent = Meter(tmp_path / "none")  # on a machine that does not tell
    silent.go_on(second.state())
    clock[0] += 100
    assert silent.energy() == {"processors": {"joules": 12.0, "seconds": 30.0}}
    assert (silent.seconds, silent.resumed) == (130, 2)


@pytest.mark.parametrize("fault", ["none", "not a number", "missing", "forbidden"])
def test_a_machine_that_does_not_tell(
    fault: str, tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault != "none":
        package(tmp_path, "0", 1)
        counter = tmp_path / "intel-rapl:0" / "energy_uj"
        counter.unlink() if fault == "missing" else counter.write_text("?")
    if fault == "forbidden":
        read_text = Path.read_text

        def refuse(path: Path, *arguments: Any) -> str:
            if path.name == "energy_uj":
                raise PermissionError(path)
            return read_text(path, *arguments)

        monkeypatch.setattr(Path, "read_text", refuse)
    meter = Meter(tmp_path)
    clock[0] += 10
    assert meter.energy() is None
    assert meter.seconds == 10


def nvml(used: Callable[[str], int]) -> ModuleType:
    """The package that tells of GPUs, of which this knows two that are visible."""
    made: Any = ModuleType("pynvml")
    made.NVMLError = RuntimeError
    made.nvmlInit = lambda: None
    made.nvmlDeviceGetHandleByUUID = lambda name: name
    made.nvmlDeviceGetTotalEnergyConsumption = used
    module: ModuleType = made
    return module


def test_gpus_that_are_seen_are_counted(
    tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By their names, because NVML numbers all GPUs of a machine."""
    counters = {"GPU-c": 1_000_000, "GPU-d": 5}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda place: SimpleNamespace(uuid="cd"[place])
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml(counters.__getitem__))
    meter = Meter(tmp_path)
    counters["GPU-c"] += 30_000
    counters["GPU-d"] += 500
    clock[0] += 4
    assert meter.energy() == {"gpus": {"joules": 30.5, "seconds": 4.0}}

    def fail(name: str) -> int:
        raise RuntimeError("Not Supported")

    monkeypatch.setitem(sys.modules, "pynvml", nvml(fail))
    assert Meter(tmp_path).energy() is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert Meter(tmp_path).energy() is None
