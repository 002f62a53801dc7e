"""Fixtures that several rooms' tests share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

DEFAULT_DATA = Path(__file__).parents[2] / "shared" / "data"

TINY_MODEL = {
    "sfreq": 100,
    "stem_dim": 4,
    "embed_dim": 8,
    "bottleneck_dim": 8,
    "n_heads": 2,
    "restores": "map",
    "zero_start": True,
}
TINY_TASK = """\
name: eyes
title: Eyes open versus eyes closed
recordings: ["recordings/*.edf"]
labels:
  from: annotations
  classes: {"eyes open": open, "eyes closed": closed}
window_seconds: 4
n_folds: 3
"""


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real recordings; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("BERGER_DATA", DEFAULT_DATA))
    if not (folder / "eegmat").is_dir():
        pytest.skip(f"no real recordings in {folder}; set BERGER_DATA to the folder that has them")
    return folder


@pytest.fixture(scope="session")
def tiny_recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Simulate six people of two montages, 32 s each, and a task file beside the folder."""
    from berger.simulation import simulate_dataset

    folder = tmp_path_factory.mktemp("tiny") / "recordings"
    simulate_dataset(folder, 6, n_blocks=4, block_seconds=8.0)
    (folder.parent / "task.yaml").write_text(TINY_TASK)
    return folder


@pytest.fixture(scope="session")
def tiny_corpus(tiny_recordings: Path) -> Path:
    """Prepare them at 100 Hz."""
    from berger.corpus import prepare
    from berger.preprocessing import PreprocessingConfig

    config = PreprocessingConfig(sfreq=100, highpass=1, lowpass=40, max_amplitude=None)
    out = tiny_recordings.parent / "corpus"
    prepare([tiny_recordings], out, config, progress=False)
    return out


@pytest.fixture(scope="session")
def tiny_pretraining() -> Callable[..., Any]:
    """Make the configuration of a pretraining of a second; changes as dotted names."""
    from berger.configuration import load_config
    from berger.pretraining import PretrainingConfig

    def configuration(**changes: object) -> PretrainingConfig:
        fields: dict[str, Any] = {f"model.{name}": value for name, value in TINY_MODEL.items()}
        fields |= {
            "objective.mask.n_fft": 200,
            "objective.mask.hop": 100,
            "objective.n_fft": 128,
            "objective.hop": 64,
            "objective.n_chans": 4,
            "window_seconds": 4,
            "validation_share": 0.34,
            "max_validation_windows": 6,
            "training.epochs": None,
            "training.steps": 24,
            "training.batch_size": 4,
            "training.log_every": 12,
            "training.validate_every": 12,
            "training.save_every": 12,
        }
        fields |= {name.replace("__", "."): value for name, value in changes.items()}
        return load_config(PretrainingConfig, None, fields)

    return configuration


@pytest.fixture(scope="session")
def tiny_run(tiny_corpus: Path, tiny_pretraining: Callable[..., Any]) -> Path:
    """Pretrain on them, long enough for batch norm to have seen what is usual."""
    from berger.pretraining import pretrain

    out = tiny_corpus.parent / "run"
    pretrain(tiny_pretraining(), tiny_corpus, out, device="cpu", quiet=True)
    return out


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_run: Path) -> Path:
    """A pretrained checkpoint."""
    return tiny_run / "checkpoint"


@pytest.fixture(scope="session")
def tiny_adaptation(tiny_corpus: Path, tiny_checkpoint: Path) -> Path:
    """Adapt it to eyes open versus eyes closed."""
    from berger.evaluation.decoding import AdaptationConfig, adapt
    from berger.tasks import load_task

    out = tiny_corpus.parent / "adapted"
    task = load_task(tiny_corpus.parent / "task.yaml")
    config = AdaptationConfig(penalties=(0.01, 1.0))
    adapt(config, tiny_checkpoint, task, out, corpus_folder=tiny_corpus, device="cpu", quiet=True)
    return out
