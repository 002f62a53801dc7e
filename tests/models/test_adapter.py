"""Laws of what stands in front of an encoder: projection, resampling, kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from berger.configuration import load_config
from berger.errors import BergerError
from berger.models import AdapterConfig, InputContract
from berger.models.adapter import TEN_TWENTY, Adapter, Resampling, starting_weights
from berger.models.layers import with_max_norm
from berger.preprocessing import PreprocessingConfig

MUSE = ("TP9", "AF7", "AF8", "TP10")
RATES = [(200, 256), (256, 200), (500, 256), (160, 256), (125, 256), (305, 256), (512, 256)]


def adapter(
    ch_names: tuple[str, ...] | None = MUSE, sfreq: float = 256, unit: float = 10, **fields: Any
) -> Adapter:
    torch.manual_seed(0)
    config = AdapterConfig.model_validate(fields)
    return Adapter(config, InputContract(sfreq=sfreq, ch_names=ch_names), 256, unit)


def sine(frequency: float, sfreq: float, seconds: float = 4.0) -> Tensor:
    times = torch.arange(round(seconds * sfreq), dtype=torch.float64) / sfreq
    return torch.sin(2 * torch.pi * frequency * times + 0.3).float()[None, None]


def noise(*shape: int) -> Tensor:
    return 20 * torch.randn(*shape, generator=torch.Generator().manual_seed(1))


# the norm of weights


@pytest.mark.parametrize("layer", [nn.Linear(7, 5), nn.Conv1d(4, 5, 3)], ids=["linear", "conv"])
def test_no_step_of_an_optimiser_takes_weights_beyond_their_norm(
    layer: nn.Linear | nn.Conv1d,
) -> None:
    torch.manual_seed(0)
    limited = with_max_norm(layer, 0.5)
    free = limited.parametrizations.weight.original  # type: ignore[union-attr]
    optimizer = torch.optim.AdamW(limited.parameters(), lr=1.0)
    for _ in range(3):
        optimizer.zero_grad()
        (-limited.weight.sum()).backward()
        optimizer.step()
        norms = limited.weight.flatten(1).norm(dim=1)
        assert free.flatten(1).norm(dim=1).min() > 0.5  # it would have gone further
        torch.testing.assert_close(norms, torch.full((5,), 0.5))
    with torch.no_grad():
        limited.weight = torch.zeros_like(limited.weight)
    assert torch.equal(limited.weight, torch.zeros_like(limited.weight))
    limited.weight.sum().backward()
    assert torch.isfinite(free.grad).all()


def test_short_weights_are_left_as_they_are() -> None:
    layer = nn.Linear(6, 3)
    before = layer.weight.detach().clone()
    limit = float(before.norm(dim=1).max())
    assert torch.equal(with_max_norm(layer, limit).weight, before)


# resampling


@pytest.mark.parametrize(("before", "behind"), RATES)
def test_a_sine_keeps_frequency_amplitude_and_phase(before: int, behind: int) -> None:
    resampling = Resampling(before, behind)
    inside = slice(behind // 4, -(behind // 4))
    for frequency in (1.0, 10.0, 0.39 * min(before, behind)):
        found = resampling(sine(frequency, before))
        wanted = sine(frequency, behind)
        assert found.shape == wanted.shape
        assert (found - wanted)[..., inside].abs().max() < 2e-3
    constant = torch.full((2, 3, before), 7.0)
    torch.testing.assert_close(resampling(constant), torch.full((2, 3, behind), 7.0))


@pytest.mark.parametrize(("before", "behind"), [pair for pair in RATES if pair[0] > pair[1]])
def test_what_lies_above_the_new_nyquist_frequency_is_removed(before: int, behind: int) -> None:
    resampling = Resampling(before, behind)
    inside = slice(behind // 4, -(behind // 4))
    for frequency in (behind / 2 + 1, (behind + before) / 4, before / 2 - 1):
        assert resampling(sine(frequency, before))[..., inside].abs().max() < 2e-3


def test_there_and_back_again() -> None:
    signal = sine(3.0, 200) + 0.5 * sine(41.0, 200)
    again = Resampling(256, 200)(Resampling(200, 256)(signal))
    assert (again - signal)[..., 50:-50].abs().max() < 3e-3


def test_channels_do_not_mix_in_a_resampling() -> None:
    resampling, signal = Resampling(200, 256), noise(2, 3, 400)
    together = resampling(signal)
    for chan in range(3):
        torch.testing.assert_close(together[:, chan : chan + 1], resampling(signal[:, [chan]]))


def test_windows_without_a_whole_number_of_samples_are_refused() -> None:
    resampling = Resampling(200, 256)
    assert resampling.n_times(800) == 1024
    with pytest.raises(BergerError, match=r"^a window of 790 samples .* multiple of 25 samples\.$"):
        resampling(noise(1, 2, 790))
    with pytest.raises(BergerError, match=r"^200\.03 Hz cannot be taken to 256 Hz by whole numb"):
        Resampling(200.03, 256)


# projection


def test_the_widths_of_a_projection_double_up_to_a_limit() -> None:
    deep = adapter(tuple(f"ch{i}" for i in range(100)), targets="10-20", n_layers=4, start="random")
    layers = [layer for layer in deep.projection if isinstance(layer, nn.Conv1d)]
    assert [layer.out_channels for layer in layers] == [200, 256, 256, 19]
    kinds = [type(layer).__name__ for layer in deep.projection]
    assert kinds == ["ParametrizedConv1d", "BatchNorm1d", "GELU"] * 3 + ["ParametrizedConv1d"]
    assert all(layer.weight.flatten(1).norm(dim=1).max() < 1.0001 for layer in layers)
    # batch norm took the unit of the signal; several layers give that of the network
    signal = noise(4, 100, 256)
    one = Adapter(
        AdapterConfig(targets=TEN_TWENTY, n_layers=4, start="random"),
        InputContract(sfreq=256, ch_names=tuple(f"ch{i}" for i in range(100))),
        256,
        1,
    )
    one.load_state_dict(deep.state_dict())
    torch.testing.assert_close(deep(signal), 10 * one(signal))


def test_recorded_electrodes_start_as_themselves() -> None:
    ch_names = ("EEG O1-REF", "T3", *TEN_TWENTY[:7], "ECG")
    weights = starting_weights(ch_names, ("O1", "T7", "Fp2", "Oz"))
    assert np.array_equal(weights[:3], np.eye(10)[[0, 1, 3]])
    assert weights[3].sum() == pytest.approx(1)
    assert weights[3].argmax() == 0  # the nearest of them
    assert weights[3, -1] == 0  # has no place
    assert (weights[3, :-1] > 0).all()
    same = adapter(TEN_TWENTY, targets="10-20")
    assert torch.equal(same(noise(2, 19, 256)), noise(2, 19, 256))
    muse = adapter(targets=["Fz", "AF7"])
    signal = noise(2, 4, 256)
    torch.testing.assert_close(muse(signal)[:, 1], signal[:, 1])


def test_channels_without_a_place_start_at_random_or_are_refused() -> None:
    with pytest.raises(
        BergerError, match=r"^adapter: Fp1 was not recorded and cannot be placed .*"
    ):
        adapter(("ch1", "ch2"), targets="10-20")
    random = adapter(("ch1", "ch2"), targets="10-20", start="random")
    assert random(noise(2, 2, 64)).shape == (2, 19, 64)
    with pytest.raises(BergerError, match="adapter: EMG was not recorded and cannot be placed"):
        adapter(MUSE, targets=("Cz", "EMG"))


# parts that know nothing of each other


@pytest.mark.parametrize("targets", [None, "10-20"])
@pytest.mark.parametrize("sfreq", [256, 200])
@pytest.mark.parametrize("kernel_size", [None, 7])
def test_each_part_can_be_off(targets: str | None, sfreq: int, kernel_size: int | None) -> None:
    model = adapter(sfreq=sfreq, targets=targets, resample=True, kernel_size=kernel_size)
    signal = noise(2, 4, 2 * sfreq)
    adapted = model(signal)
    assert adapted.shape == (2, 19 if targets else 4, 512)
    assert model.n_times(2 * sfreq) == 512
    parts = (model.projection, model.resampling, model.kernel)
    off = (targets is None, sfreq == 256, kernel_size is None)
    assert tuple(isinstance(part, nn.Identity) for part in parts) == off
    # at the start projection and resampling are linear and the kernel does nothing
    alone = signal
    if targets:
        weights = torch.tensor(starting_weights(MUSE, TEN_TWENTY), dtype=torch.float32)
        alone = weights @ alone
    if sfreq != 256:
        alone = Resampling(sfreq, 256)(alone)
    torch.testing.assert_close(adapted, alone, rtol=1e-4, atol=1e-4)
    n_trained = (19 * 4 if targets else 0) + (kernel_size or 0) * (19 if targets else 4)
    assert sum(p.numel() for p in model.parameters()) == n_trained
    assert AdapterConfig(targets=None).is_on is False


def test_what_an_adapter_cannot_do_is_refused() -> None:
    with pytest.raises(
        BergerError, match=r"^signals at 200 Hz for an encoder at 256 Hz; set adapt"
    ):
        adapter(sfreq=200)
    with pytest.raises(BergerError, match=r"give the model a contract with ch_names\.$"):
        adapter(None, targets="10-20")
    with pytest.raises(BergerError, match=r"give the model a contract with ch_names\.$"):
        adapter(None, kernel_size=3)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"targets": "10-10"}, "must be 10-20, a list of electrodes, or null"),
        ({"targets": ["Cz", "Cz"]}, "targets names an electrode twice"),
        ({"targets": []}, "at least 1 item"),
        ({"n_layers": 2}, "only a single layer can start from electrodes; set start to random"),
        ({"kernel_size": 4}, "kernel_size must be odd"),
    ],
)
def test_configurations_that_mean_nothing(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        AdapterConfig.model_validate(fields)


def test_a_set_of_electrodes_by_name(tmp_path: Path) -> None:
    file = tmp_path / "adapter.yaml"
    file.write_text("targets: 10-20\n")
    assert load_config(AdapterConfig, file).targets == TEN_TWENTY
    with pytest.raises(
        BergerError, match=r"'targets'.*must be 10-20, a list of electrodes, or null"
    ):
        load_config(AdapterConfig, file, {"targets": "standard"})


def test_what_an_adapter_makes_up_for() -> None:
    own = PreprocessingConfig(sfreq=256, lowpass=75, reference="average")
    at_200 = own.model_copy(update={"sfreq": 200.0})
    at_100 = own.model_copy(update={"sfreq": 100.0, "lowpass": 45.0})
    fixed, rate, electrodes = (
        AdapterConfig.model_validate(fields)
        for fields in ({}, {"resample": True}, {"targets": "10-20"})
    )
    assert fixed.absorbs(own, at_100) == set()
    assert rate.absorbs(own, at_200) == {"sfreq"}
    assert rate.absorbs(own, at_100) == {"sfreq", "lowpass"}  # 75 Hz do not exist there
    assert electrodes.absorbs(own, at_100) == {"reference", "bipolar"}
    contract = InputContract(sfreq=256, preprocessing=own)
    contract.check_preprocessing(at_100, "corpus", rate.absorbs(own, at_100))
    with pytest.raises(BergerError, match=r"^corpus: was prepared with sfreq: 200\.0, but"):
        contract.check_preprocessing(at_200, "corpus", electrodes.absorbs(own, at_200))
    softer = at_200.model_copy(update={"lowpass": 45.0})
    with pytest.raises(BergerError, match=r"^corpus: was prepared with lowpass: 45\.0, but"):
        contract.check_preprocessing(softer, "corpus", rate.absorbs(own, softer))
