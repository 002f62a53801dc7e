"""Move between signals and time-frequency maps, exactly invertible; low-pass; EEG bands."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from scipy.signal import firwin
from torch import Tensor

BANDS: dict[str, tuple[float, float]] = {
    "delta": (1.0, 4.0),
    "theta": (4.0, 8.0),
    "alpha": (8.0, 12.0),
    "beta": (12.0, 30.0),
    "gamma": (30.0, 75.0),
}
"""Edges of the EEG bands in Hz; a band holds its lower edge and not its upper one."""


def stft(signal: Tensor, n_fft: int, hop: int, pad_mode: str = "constant") -> Tensor:
    """Short-time Fourier transform with a periodic Hann window and centred frames.

    Parameters
    ----------
    signal : Tensor, shape (..., n_times)
        Any unit.
    n_fft, hop : int
        Window length and step in samples.
    pad_mode : {"constant", "reflect"}
        How the half window beyond each end is filled; "constant" is zeros.

    Returns
    -------
    Tensor, complex, shape (..., n_fft // 2 + 1, 1 + n_times // hop)
    """
    window = torch.hann_window(n_fft, dtype=signal.dtype, device=signal.device)
    flat = signal.reshape(-1, signal.shape[-1])
    frames = torch.stft(
        flat, n_fft, hop, window=window, center=True, pad_mode=pad_mode, return_complex=True
    )
    return frames.reshape(*signal.shape[:-1], *frames.shape[-2:])


def istft(frames: Tensor, n_fft: int, hop: int, n_times: int) -> Tensor:
    """Invert `stft`, exactly where `n_times` is a multiple of `hop` and hop ≤ n_fft / 2.

    Parameters
    ----------
    frames : Tensor, complex, shape (..., n_fft // 2 + 1, 1 + n_times // hop)
    n_fft, hop, n_times : int
        As given to `stft`; the length of the signal.

    Returns
    -------
    Tensor, shape (..., n_times)
    """
    window = torch.hann_window(n_fft, dtype=frames.real.dtype, device=frames.device)
    flat = frames.reshape(-1, *frames.shape[-2:])
    signal = torch.istft(flat, n_fft, hop, window=window, center=True, length=n_times)
    return signal.reshape(*frames.shape[:-2], n_times)


def map_shape(n_times: int, n_fft: int, hop: int) -> tuple[int, int]:
    """Return (n_bins, n_frames) of the map that `apply_gain` filters for `n_times` samples."""
    return n_fft // 2 + 1, 1 + -(-n_times // hop)


def apply_gain(signal: Tensor, gain: Tensor, n_fft: int, hop: int) -> Tensor:
    """Multiply a signal's STFT map by `gain` and return to the time domain.

    The signal is continued by zeros to a whole number of hops and cropped back, because the last
    samples of an unfinished hop lie where the window is almost zero and would come back noisy.

    Parameters
    ----------
    signal : Tensor, shape (batch, n_chans, n_times)
    gain : Tensor, shape (batch, n_bins, n_frames)
        Shape from `map_shape`; one map for all channels of a sample.

    Returns
    -------
    Tensor, shape (batch, n_chans, n_times)
    """
    n_times = signal.shape[-1]
    padded = F.pad(signal, (0, -n_times % hop))
    frames = stft(padded, n_fft, hop) * gain[:, None]
    return istft(frames, n_fft, hop, padded.shape[-1])[..., :n_times]


@lru_cache(maxsize=8)
def _low_pass_taps(factor: int) -> Tensor:
    """Taps of a linear-phase low-pass at the Nyquist frequency of a `factor` times lower rate."""
    return torch.from_numpy(firwin(8 * factor + 1, 1 / factor)).float()


def downsample(signal: Tensor, factor: int) -> Tensor:
    """Low-pass a signal and keep the middle sample of every `factor` samples.

    Parameters
    ----------
    signal : Tensor, shape (..., n_times)
        `n_times` is a multiple of `factor`. Beyond its ends the signal keeps its last value.
    factor : int

    Returns
    -------
    Tensor, shape (..., n_times // factor)
    """
    taps = _low_pass_taps(factor).to(signal)
    half = len(taps) // 2
    flat = signal.reshape(-1, 1, signal.shape[-1])
    # step i stands for the samples i·factor … (i + 1)·factor − 1
    left = half - factor // 2
    extended = F.pad(flat, (half, half), mode="replicate")[..., half - left :]
    low = F.conv1d(extended, taps[None, None], stride=factor)
    return low[..., : signal.shape[-1] // factor].reshape(*signal.shape[:-1], -1)


def welch(signal: Tensor, sfreq: float, n_fft: int) -> Tensor:
    """Power spectral density by Welch's method: periodic Hann windows that overlap by half.

    The mean of the whole signal is removed. The density is two-sided: the powers of the bins
    between the first and the last are not doubled.

    Parameters
    ----------
    signal : Tensor, shape (..., n_times)
        At least `n_fft` samples; those behind the last whole segment are not looked at.
    sfreq : float
        Sampling rate in Hz.
    n_fft : int
        Length of a segment in samples.

    Returns
    -------
    Tensor, shape (..., n_fft // 2 + 1)
        Unit of the signal squared per Hz.
    """
    window = torch.hann_window(n_fft, dtype=signal.dtype, device=signal.device)
    centred = signal - signal.mean(-1, keepdim=True)
    segments = centred.unfold(-1, n_fft, n_fft // 2) * window
    power: Tensor = torch.fft.rfft(segments).abs().square().mean(-2)
    return power / (sfreq * window.square().sum())


def band_powers(signal: Tensor, sfreq: float) -> dict[str, Tensor]:
    """Power of a signal in each EEG band.

    Parameters
    ----------
    signal : Tensor, shape (..., n_times)
    sfreq : float
        Sampling rate in Hz.

    Returns
    -------
    dict of str to Tensor, shape (...)
        Band name → sum of the squared magnitudes of the Hann-windowed spectrum in `BANDS`, in
        units of the signal squared. Powers of one length and rate can be compared and divided.
    """
    n_times = signal.shape[-1]
    window = torch.hann_window(n_times, dtype=signal.dtype, device=signal.device)
    power = torch.fft.rfft(signal * window).abs().square() / n_times
    freqs = torch.fft.rfftfreq(n_times, 1 / sfreq, device=signal.device)
    return {
        band: power[..., (freqs >= low) & (freqs < high)].sum(-1)
        for band, (low, high) in BANDS.items()
    }
