from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import edfio
import numpy as np
import numpy.typing as npt
import pytest

from berger.corpus import Corpus, open_corpus, prepare
from berger.preprocessing import PreprocessingConfig

SFREQ = 128
MONTAGE = ("Fz", "Cz", "Pz")


def write_edf(
    path: Path, signal: npt.NDArray[np.float64], ch_names: Sequence[str], sfreq: float = SFREQ
) -> None:
    """Write microvolts (n_chans, n_times), whole seconds, as EDF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    edfio.Edf(
        [
            edfio.EdfSignal(
                channel,
                sfreq,
                label=f"EEG {name}",
                physical_dimension="uV",
                physical_range=(-8000, 8000),
            )
            for channel, name in zip(signal, ch_names, strict=True)
        ]
    ).write(path)


def _write_recording(
    path: Path, seed: int, seconds: int = 8, ch_names: Sequence[str] = MONTAGE, blink: float = 0
) -> None:
    """Write noise of about 20 µV with an artefact of `blink` µV from 3.0 to 3.2 s."""
    rng = np.random.default_rng(seed)
    signal = rng.normal(0, 20, (len(ch_names), seconds * SFREQ)).clip(-90, 90)
    signal[:, 3 * SFREQ : 3 * SFREQ + SFREQ // 5] += blink
    write_edf(path, signal, ch_names)


@pytest.fixture
def write_recording() -> Callable[..., None]:
    return _write_recording


@pytest.fixture
def config() -> PreprocessingConfig:
    """No filter, no resampling: what is written is what comes back."""
    return PreprocessingConfig(sfreq=SFREQ, highpass=None, lowpass=None)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Write six recordings of three subjects, two montages, and a damaged file."""
    folder = tmp_path / "raw"
    for subject in range(3):
        for run in range(2):
            _write_recording(
                folder / f"sub-{subject}" / f"sub-{subject}_ses-{run}_eeg.edf",
                seed=10 * subject + run,
                seconds=8 + subject,
                ch_names=("C3", "C4") if (subject, run) == (2, 1) else MONTAGE,
                blink=200 if run else 0,
            )
    (folder / "sub-3_eeg.edf").write_bytes(b"0       damaged")
    return folder


@pytest.fixture
def corpus(raw: Path, tmp_path: Path, config: PreprocessingConfig) -> Corpus:
    """Prepare and open the recordings."""
    prepare([raw], tmp_path / "corpus", config, progress=False)
    return open_corpus(tmp_path / "corpus")


@pytest.fixture
def files() -> Callable[[Path], dict[str, bytes]]:
    """Read every file of a corpus but the log."""

    def read(folder: Path) -> dict[str, bytes]:
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file() and path.name != "prepare.jsonl"
        }

    return read
