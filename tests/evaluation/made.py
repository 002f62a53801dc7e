"""Recordings whose two classes differ in how electrodes vary together, and in nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from berger import open_corpus
from berger.corpus import prepare
from berger.evaluation.strategies import Question
from berger.models import InputContract
from berger.preprocessing import PreprocessingConfig
from berger.recordings import Recording
from berger.simulation import write_edf

SFREQ = 100
MONTAGES = (("C3", "C4", "Cz"), ("Oz", "C4", "Cz", "C3"))
N_WINDOWS = 24  # of 2 s, a person


def write_recording(
    path: Path,
    ch_names: tuple[str, ...],
    signal: npt.NDArray[np.float64],
    sfreq: float = SFREQ,
) -> None:
    """Write a signal (n_chans, n_times) in µV; the file's name is the person's."""
    recording = Recording(
        signal=signal,
        ch_names=ch_names,
        sfreq=sfreq,
        subject=path.stem,
        subject_source="simulation",
        session=None,
        path=path,
        original_ch_names=ch_names,
        annotations=(),
    )
    write_edf(recording, path)


def correlated(folder: Path, n_people: int = 6) -> Question:
    """White noise of 10 µV; C3 and C4 go together in even windows and against one another in odd.

    The montages alternate from person to person and share C3, C4 and Cz.
    """
    rng = np.random.default_rng(0)
    for person in range(n_people):
        ch_names = MONTAGES[person % 2]
        signal = 10 * rng.standard_normal((len(ch_names), N_WINDOWS, 2 * SFREQ))
        sign = np.where(np.arange(N_WINDOWS) % 2, -1.0, 1.0)[:, None]
        c3, c4 = (ch_names.index(name) for name in ("C3", "C4"))
        signal[c4] = 0.8 * sign * signal[c3] + 0.6 * signal[c4]  # of the same power
        write_recording(
            folder / "raw" / f"p{person}.edf", ch_names, signal.reshape(len(signal), -1)
        )
    config = PreprocessingConfig(sfreq=SFREQ, highpass=None, lowpass=None, max_amplitude=None)
    prepare([folder / "raw"], folder / "corpus", config, progress=False)
    windows = open_corpus(folder / "corpus").windows(2)
    labels = windows.starts // (2 * SFREQ) % 2
    return Question(windows, labels, ("together", "against"), InputContract(sfreq=SFREQ))
