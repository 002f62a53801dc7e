"""The arithmetic of docs/scale.md."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from berger.configuration import load_config
from berger.pretraining import PretrainingConfig

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def scale() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scale", ROOT / "benchmarks" / "scale.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["scale"] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def numbers(rows: object) -> dict[str, list[float]]:
    found = {}
    for name, *cells in rows:  # type: ignore[attr-defined]
        words = [cell.split()[0].replace(",", "") for cell in cells]
        found[name] = [float(word) for word in words if word[0].isdigit()]
    return found


def test_the_paper_of_specmoe_in_numbers(scale: ModuleType) -> None:
    n_windows, per_step = scale.windows_in_all("specmoe", scale.Inputs())
    assert per_step == 2048
    assert n_windows == pytest.approx(1_109_545 * 0.99 * 50)


def test_by_hand(scale: ModuleType) -> None:
    """One hour of corpus; operations and GPU such that a device does 100 windows a second."""
    inputs = scale.Inputs(
        hours=1,
        raw_hours=2,
        prepare_seconds=1800,
        corpus_overhead=1,
        specmoe_gflop=1,
        peak_tflops=1,
        specmoe_reached=0.1,
        link_gbytes=1e9,
    )
    corpus = numbers(scale.corpus_rows(inputs))
    assert corpus["bytes of an hour"][0] == pytest.approx(19 * 200 * 2 * 3600 / 1e6, abs=0.1)
    assert corpus["preparation, one worker"] == [1, 1]
    found = numbers(scale.training_rows("specmoe", inputs))
    assert found["windows per second"] == [100, 800, 6400]
    assert found["seconds a step"] == pytest.approx([20.48, 2.56, 0.32], rel=0.01)
    hours = 120 * 0.99 * 50 / 100 / 3600
    assert found["hours"] == pytest.approx([hours, hours / 8, hours / 64], abs=0.06)
    assert found["windows of a device at once"] == [64, 8, 1]


def test_gradients_must_travel(scale: ModuleType) -> None:
    """Nearly twice all of them for each device, whatever it computes."""
    config = load_config(PretrainingConfig, "dare-tueg")
    n_bytes = 4 * scale.count_trained(config)
    inputs = scale.Inputs(dare_gflop=1e-12, link_gbytes=n_bytes / 1e9)
    seconds = numbers(scale.training_rows("dare", inputs))["seconds a step"]
    assert seconds[1:] == pytest.approx([2 * 7 / 8, 2 * 63 / 64], rel=0.01)


def test_operations_of_a_window_do_not_depend_on_the_batch(scale: ModuleType) -> None:
    config = load_config(PretrainingConfig, "spechinet-small", {"objective.n_chans": None})
    one, two = (scale.gflop(config, n, draws=1) for n in (1, 2))
    assert one == pytest.approx(two, rel=1e-3)
    assert one > 0.1


def test_the_page_shows_what_the_script_computes(scale: ModuleType) -> None:
    page = (ROOT / "docs" / "scale.md").read_text()
    inputs = scale.Inputs()
    assert scale.table(scale.corpus_rows(inputs)) in page
    for family in scale.FAMILIES:
        assert scale.table(scale.training_rows(family, inputs)) in page
        assert scale.summary(family, inputs) in " ".join(page.split())
    for field in dataclasses.fields(inputs):
        assert f"`{field.name}`" in page
