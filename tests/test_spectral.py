"""Laws of the time-frequency maps."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from berger.spectral import (
    BANDS,
    apply_gain,
    band_powers,
    downsample,
    istft,
    map_shape,
    stft,
    welch,
)


@pytest.mark.parametrize("n_times", [400, 1000, 2000, 6000])
def test_inverse_of_the_stft_is_the_identity(n_times: int) -> None:
    signal = torch.randn(2, 3, n_times, dtype=torch.float64)
    back = istft(stft(signal, 400, 200), 400, 200, n_times)
    torch.testing.assert_close(back, signal, rtol=0, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(n_times=st.integers(1, 2500), hop=st.integers(10, 100))
def test_a_gain_of_one_is_the_identity_at_any_length(n_times: int, hop: int) -> None:
    signal = torch.randn(2, 3, n_times, dtype=torch.float64)
    gain = torch.ones(2, *map_shape(n_times, 2 * hop, hop), dtype=torch.float64)
    torch.testing.assert_close(apply_gain(signal, gain, 2 * hop, hop), signal, rtol=0, atol=1e-10)


def test_a_gain_of_zero_is_silence_and_gains_are_linear() -> None:
    signal = torch.randn(2, 3, 1150)
    gain = torch.rand(2, *map_shape(1150, 400, 200))
    assert apply_gain(signal, 0 * gain, 400, 200).abs().max() == 0
    torch.testing.assert_close(
        apply_gain(signal, gain, 400, 200) + apply_gain(signal, 1 - gain, 400, 200),
        signal,
        rtol=0,
        atol=1e-5,
    )


def test_a_hidden_frequency_is_gone_and_its_neighbours_stay() -> None:
    times = torch.arange(4000) / 200
    tones = {hertz: torch.sin(2 * torch.pi * hertz * times) for hertz in (6.0, 20.0)}
    gain = torch.ones(1, *map_shape(4000, 400, 200))
    gain[:, 8:17] = 0  # 4 to 8 Hz in bins of 0.5 Hz
    left = apply_gain(sum(tones.values())[None, None], gain, 400, 200)[0, 0]
    torch.testing.assert_close(left[400:-400], tones[20.0][400:-400], rtol=0, atol=1e-3)


def test_a_long_signal_keeps_slow_waves_when_downsampled_and_loses_fast_ones() -> None:
    times = torch.arange(6000) / 200
    slow, fast = (torch.sin(2 * torch.pi * hertz * times) for hertz in (1.0, 30.0))
    low = downsample(slow + fast, 15)
    middle = times.reshape(-1, 15)[:, 7]
    assert low.shape == (400,)
    torch.testing.assert_close(
        low[10:-10], torch.sin(2 * torch.pi * middle)[10:-10], rtol=0, atol=0.02
    )


@pytest.mark.parametrize(
    ("band", "hertz"), [("delta", 2), ("theta", 6), ("alpha", 10), ("beta", 20)]
)
def test_a_tone_has_its_power_in_its_band(band: str, hertz: float) -> None:
    tone = torch.sin(2 * torch.pi * hertz * torch.arange(2000) / 200)
    powers = band_powers(tone, 200.0)
    assert set(powers) == set(BANDS)
    assert powers[band] / sum(powers.values()) > 0.999


@pytest.mark.parametrize("n_times", [400, 999, 2000])
def test_welch_is_scipys_of_the_centred_signal(n_times: int) -> None:
    signal = 3 + torch.randn(2, 3, n_times, dtype=torch.float64).cumsum(-1)
    centred = (signal - signal.mean(-1, keepdim=True)).numpy()
    _, one_sided = scipy.signal.welch(centred, 200, nperseg=400, noverlap=200, detrend=False)
    one_sided[..., 1:-1] /= 2
    np.testing.assert_allclose(welch(signal, 200, 400).numpy(), one_sided, rtol=1e-10)
