"""Miniatures and what was adapted to them, once for all tests of the catalogue."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tasks.catalogue.roads import ROADS, adaptation_for, checkpoint_for, run


@pytest.fixture(scope="session")
def data_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Make the miniature of a task, once; who changes files takes a copy."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = ROADS[name].miniature(tmp_path_factory.mktemp(name))
        return made[name]

    return make


@pytest.fixture(scope="session")
def adapted_of(
    data_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Path]:
    """Adapt a family to a task by the command, once; the folder has ``pretrained`` and ``run``."""
    made: dict[tuple[str, str], Path] = {}

    def make(name: str, family: str) -> Path:
        if (name, family) not in made:
            folder = tmp_path_factory.mktemp(f"{name}-{family}")
            road = ROADS[name]
            checkpoint = checkpoint_for(road, family, folder / "pretrained")
            words = ["--checkpoint", str(checkpoint), "--task", f"{name}{road.split}"]
            words += ["--data", str(data_of(name)), "--out", str(folder / "run")]
            run("adapt", adaptation_for(road, family) | {"baselines": []}, folder, *words)
            made[name, family] = folder
        return made[name, family]

    return make
