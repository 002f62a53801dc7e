"""What any model has to beat: log band powers, read by the same logistic regression."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.signal import welch

from berger.corpus import WindowDataset
from berger.spectral import BANDS

Array = npt.NDArray[np.float64]


def band_power_features(windows: WindowDataset, ch_names: tuple[str, ...]) -> Array:
    """Log band powers per electrode.

    Parameters
    ----------
    windows : WindowDataset
    ch_names : tuple of str
        Electrodes that every window has; the others are not used.

    Returns
    -------
    ndarray, shape (n_windows, n_chans · n_bands)
        Natural logarithm of the power in µV², Welch with 2-s Hann segments that overlap by half,
        in each of `berger.spectral.BANDS` that lies below the Nyquist frequency.
    """
    rows = []
    for batch in windows.batches(256):
        order = [batch.ch_names.index(name) for name in ch_names]
        signal = batch.signal().numpy()[:, order].astype(np.float64)
        segment = min(round(2 * batch.sfreq), signal.shape[-1])
        freqs, density = welch(signal, batch.sfreq, nperseg=segment)
        bands = [(freqs >= low) & (freqs < high) for low, high in BANDS.values()]
        power = [density[..., band].sum(-1) * freqs[1] for band in bands if band.any()]
        rows.append(np.log(np.stack(power, -1) + 1e-12).reshape(len(signal), -1))
    return np.concatenate(rows)
