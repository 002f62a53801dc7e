"""Fixtures that several rooms' tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

DEFAULT_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real recordings; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("BERGER_DATA", DEFAULT_DATA))
    if not (folder / "eegmat").is_dir():
        pytest.skip(f"no real recordings in {folder}; set BERGER_DATA to the folder that has them")
    return folder
