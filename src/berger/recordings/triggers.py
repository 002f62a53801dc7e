"""Turn the values of trigger channels into annotations."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from berger.recordings.recording import Annotation


def trigger_annotations(
    values: npt.NDArray[np.generic], sfreq: float, name: str = "", *, status: bool = False
) -> list[Annotation]:
    """Return an annotation for every run of samples that hold one value other than 0.

    It is described as "trigger 12" and lasts from the run's first to its last sample. A value that
    follows another without 0 between is a run of its own, also one that is lower, and so is the
    value that lines at rest have, where this is not 0: nothing is left out.

    Parameters
    ----------
    values : ndarray, shape (n_times,)
        Of one trigger channel.
    sfreq : float
        Its samples per second.
    name : str
        The channel's, where a file has several: "trigger DIN2 1".
    status : bool
        Whether it is BioSemi's status, whose triggers are the lowest 16 of its bits; those above
        say how the amplifier does.
    """
    whole = np.rint(values.astype(np.float64)).astype(np.int64)
    if status:
        whole &= 0xFFFF
    edges = np.concatenate([[0], np.flatnonzero(np.diff(whole)) + 1, [len(whole)]])
    words = ("trigger", name) if name else ("trigger",)
    return [
        Annotation(start / sfreq, (stop - 1 - start) / sfreq, " ".join((*words, str(value))))
        for start, stop, value in zip(
            edges[:-1].tolist(), edges[1:].tolist(), whole[edges[:-1]].tolist(), strict=True
        )
        if value
    ]
