"""mffpy leaves files open: in tests of .mff they are closed at the test's end, and not told of."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "recordings" in item.nodeid and "mff" in item.name:
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"))


@pytest.fixture(autouse=True)
def open_files_are_closed(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "mff" in request.node.name:
        gc.collect()
