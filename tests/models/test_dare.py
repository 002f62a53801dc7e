"""Laws of DARE-EEG's parts, and their agreement with the published program."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from berger.adaptation.probe import embed_windows
from berger.channels import positions
from berger.configuration import load_config
from berger.corpus import open_corpus, prepare
from berger.errors import BergerError
from berger.evaluation.decoding import AdaptationConfig, adapt
from berger.inference import embed, predict
from berger.interop.sklearn import BergerClassifier
from berger.models import (
    Classifier,
    ClassifierConfig,
    DareConfig,
    DareEEG,
    InputContract,
    create_model,
    list_models,
    load_checkpoint,
)
from berger.models.dare import PatchSpectrum, name_here, patches_at
from berger.models.dare_electrodes import ELECTRODES, find_places
from berger.preprocessing import PreprocessingConfig
from berger.simulation import STATES, alternating_blocks, simulate_recording, write_edf
from berger.tasks import load_task
from tests.conftest import TINY_TASK
from tests.golden.published import agree, golden_arrays, manifest, published_weights

SMALL = DareConfig(
    embed_dim=16, n_streams=2, encoder_depth=2, predictor_depth=2, reconstructor_depth=2, n_heads=2
)
SIZES = {
    "nano": ((108_288, 108_480, 212_416), 593_792),
    "light": ((1_206_272, 1_223_040, 1_222_720), 3_849_408),
    "small": ((4_771_840, 4_870_912, 4_837_440), 14_743_104),
    "base": ((6_352_128, 6_451_200, 6_416_960), 19_876_416),
    "deep": ((25_287_168, 25_747_456, 25_547_840), 77_762_880),
}
"""Parameters of encoder, predictor and reconstructor; those with the alignment head (published)."""


def small(**changes: object) -> DareEEG:
    """A small network, its weights large enough that everything it reads counts."""
    torch.manual_seed(0)
    model = DareEEG(DareConfig.model_validate(SMALL.model_dump() | changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter *= 10
    return model


def microvolts(*shape: int, seed: int = 1) -> Tensor:
    return 10 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def golden(case: str) -> DareEEG:
    """The published network with the golden weights."""
    sizes = manifest(case)["config"]
    names = ("encoder_depth", "predictor_depth", "reconstructor_depth")
    config = DareConfig(
        embed_dim=sizes["embed_dim"],
        n_streams=sizes["embed_num"],
        n_heads=sizes["num_heads"],
        **dict(zip(names, sizes["depth"], strict=True)),
    )
    model = DareEEG(config).eval()
    weights = published_weights(case)
    weights["encoder.patch_embed.proj.weight"] = weights["encoder.patch_embed.proj.weight"].flatten(
        1
    )
    model.load_state_dict(
        {name_here(n): x for n, x in weights.items() if not re.search("freqs|loss_mc", n)}
    )
    return model


# agreement with the published program


@torch.inference_mode()
@pytest.mark.parametrize("case", ["dare_nano", "dare_streams4"])
def test_every_part_computes_what_was_published(case: str) -> None:
    model, arrays, names = golden(case), golden_arrays(case), manifest(case)["channels"]
    signal, electrodes = model.prepare(10 * arrays["signal"], names)
    n_chans, n_steps = len(names), signal.shape[2] // 64
    agree(model.encoder(signal, electrodes), arrays["features_full"])
    views = [model.encoder(signal, electrodes, arrays[f"visible_view{i}"]) for i in (1, 2)]
    agree(views[0], arrays["features_view1"])
    agree(views[1], arrays["features_view2"])
    seen = arrays["visible_view1"][:, 0] // n_chans
    predicted, combined = model.predictor(views[0], seen, n_steps)
    agree(predicted, arrays["predicted"])
    agree(combined, arrays["combined"])
    restored = model.reconstructor(combined, arrays["target"], electrodes)
    agree(restored, arrays["reconstruction"])
    clean = F.layer_norm(patches_at(signal, arrays["target"], 64), (64,))
    agree(clean, arrays["reconstruction_target"])
    agree(F.mse_loss(restored, clean), arrays["loss_reconstruction"])
    anchor = F.layer_norm(model.encoder(signal, electrodes), (model.embed_dim,))
    agree(F.mse_loss(predicted, anchor), arrays["loss_anchor"])
    # the same through the door that users take
    features = model.forward_features(10 * arrays["signal"], names)
    agree(features.tokens, arrays["features_full"].flatten(1, 2))
    agree(features.summary, arrays["features_full"].mean((1, 2)))
    view = model.forward_features(
        10 * arrays["signal"], names, visible=arrays["visible_view2"]
    ).tokens
    agree(view, arrays["features_view2"].flatten(1, 2))


@pytest.mark.parametrize("size", SIZES)
def test_sizes_are_the_papers(size: str) -> None:
    assert f"dare-{size}" in list_models()
    with torch.device("meta"):
        model = create_model(f"dare-{size}")
    assert isinstance(model, DareEEG)
    parts, published = SIZES[size]
    counts = [
        sum(parameter.numel() for parameter in part.parameters())
        for part in (model.encoder, model.predictor, model.reconstructor)
    ]
    assert counts == list(parts)
    assert model.n_parameters == sum(parts)
    # Linear(streams · width → 512), ReLU, Linear(512 → 256), which the objective owns
    width = model.config.n_streams * model.config.embed_dim
    assert model.n_parameters + (width + 1) * 512 + (512 + 1) * 256 == published


def test_the_encoder_alone() -> None:
    model = small(parts="encoder")
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"encoder"}
    assert not hasattr(model, "predictor")
    whole = small()
    model.load_state_dict({n: x for n, x in whole.state_dict().items() if n in model.state_dict()})
    signal = microvolts(1, 3, 128)
    names = ("Fz", "Cz", "Pz")
    assert torch.equal(
        model.forward_features(signal, names).tokens, whole.forward_features(signal, names).tokens
    )


def test_weights_start_small_and_the_smaller_the_deeper() -> None:
    torch.manual_seed(0)
    model = DareEEG(DareConfig(embed_dim=256, encoder_depth=4))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif parameter.ndim == 1:
            assert (parameter == 1).all(), name
    for depth, layer in enumerate(model.encoder.layers, 1):
        for matrix in (layer.out.weight, layer.feedforward[2].weight):
            assert matrix.std().item() == pytest.approx(0.02 / (2 * depth) ** 0.5, rel=0.03)
        for matrix in (layer.qkv.weight, layer.feedforward[0].weight):
            assert matrix.std().item() == pytest.approx(0.02, rel=0.03)
    assert model.reconstructor.electrodes.weight.std().item() == pytest.approx(0.02, rel=0.05)


# laws


@torch.inference_mode()
def test_the_order_of_channels_does_not_count() -> None:
    model, signal = small(), microvolts(2, 5, 256)
    names = ["Fp1", "Cz", "T8", "Pz", "O2"]
    order = [3, 0, 4, 2, 1]
    here = model.forward_features(signal, names).tokens
    there = model.forward_features(signal[:, order], [names[i] for i in order]).tokens
    torch.testing.assert_close(here, there)
    # but which electrode a signal comes from does
    assert (model.forward_features(signal[:, order], names).tokens - here).abs().max() > 1e-3


@torch.inference_mode()
def test_hidden_patches_are_not_read() -> None:
    model, signal = small(), microvolts(2, 4, 256)
    names = ["F3", "F4", "P3", "P4"]
    visible = torch.tensor([[1, 3], [14, 12]])  # channels 1 and 3 of step 0, 2 and 0 of step 3
    wanted = model.forward_features(signal, names, visible=visible).tokens
    hidden = torch.full_like(signal, torch.nan)
    hidden[:, [1, 3], :64] = signal[:, [1, 3], :64]
    hidden[:, [0, 2], 192:] = signal[:, [0, 2], 192:]
    assert torch.equal(model.forward_features(hidden, names, visible=visible).tokens, wanted)
    # in a row the order does not count, and rows come out in the order given
    again = model.forward_features(signal, names, visible=visible.flip(0, 1)).tokens
    torch.testing.assert_close(again.unflatten(1, (2, 2)).flip(1).flatten(1, 2), wanted)


@torch.inference_mode()
def test_seeing_everything_is_the_complete_view() -> None:
    model, signal = small(), microvolts(2, 4, 256)
    names = ["F3", "F4", "P3", "P4"]
    complete = model.forward_features(signal, names).tokens
    everything = torch.arange(16).view(4, 4)
    torch.testing.assert_close(
        model.forward_features(signal, names, visible=everything).tokens, complete
    )


@torch.inference_mode()
def test_the_encoder_reads_every_time_step_on_its_own() -> None:
    model, signal = small(), microvolts(2, 3, 320)
    names = ["Fz", "Cz", "Pz"]
    tokens = model.forward_features(signal, names).tokens.unflatten(1, (5, 2))
    other = signal.clone()
    other[..., 64:128] = microvolts(2, 3, 64, seed=2)
    changed = model.forward_features(other, names).tokens.unflatten(1, (5, 2))
    same = [0, 2, 3, 4]
    torch.testing.assert_close(changed[:, same], tokens[:, same])
    assert (changed[:, 1] - tokens[:, 1]).abs().max() > 1e-3
    # so that steps may come in any number and order
    shuffled = signal.unflatten(2, (5, 64))[:, :, [4, 1, 0]].flatten(2)
    torch.testing.assert_close(
        model.forward_features(shuffled, names).tokens.unflatten(1, (3, 2)), tokens[:, [4, 1, 0]]
    )


@torch.inference_mode()
def test_the_predictor_knows_when_and_keeps_what_was_seen() -> None:
    model = small()
    features = torch.randn(2, 3, 2, 16, generator=torch.Generator().manual_seed(1))
    seen = torch.tensor([0, 2, 5])
    predicted, combined = model.predictor(features, seen, 7)
    assert predicted.shape == combined.shape == (2, 7, 2, 16)
    assert torch.equal(combined[:, seen], features)
    unseen = torch.tensor([1, 3, 4, 6])
    assert torch.equal(combined[:, unseen], predicted[:, unseen])
    # mask tokens differ by their time only
    assert (predicted[:, 1] - predicted[:, 3]).abs().max() > 1e-4
    # the order in which seen steps are given does not count
    order = torch.tensor([2, 0, 1])
    again = model.predictor(features[:, order], seen[order], 7)
    torch.testing.assert_close(again[0], predicted)
    torch.testing.assert_close(again[1], combined)
    # rotary positions: what counts is how far steps are apart
    later, _ = model.predictor(features, seen + 3, 10)
    early, _ = model.predictor(features, seen, 7)
    assert later.shape[1] == 10
    assert (later[:, 3:] - early).abs().max() > 1e-4  # three more mask tokens are attended to
    alone = torch.arange(3)
    whole, kept = model.predictor(features, alone, 3)
    assert torch.equal(kept, features)
    assert (whole - features).abs().max() > 1e-3


@torch.inference_mode()
def test_rotary_positions_count_by_their_differences() -> None:
    layer = small().predictor.layers[0]
    tokens = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(1))
    times = torch.tensor([[0.0, 0.5, 1.0, 1.0, 2.5, 7.0]])
    here = layer(tokens, times)
    torch.testing.assert_close(layer(tokens, times + 3), here)
    assert (layer(tokens, 2 * times) - here).abs().max() > 1e-3
    torch.testing.assert_close(layer(tokens, torch.zeros(1, 6)), layer(tokens))


@torch.inference_mode()
def test_the_reconstructor_answers_in_the_order_of_the_targets() -> None:
    model, n_chans = small(), 3
    combined = torch.randn(2, 4, 2, 16, generator=torch.Generator().manual_seed(1))
    electrodes = torch.tensor(model.places(["Fz", "Cz", "Pz"]))
    targets = torch.tensor([11, 0, 4])  # (step 3, Pz), (0, Fz), (1, Cz)
    patches = model.reconstructor(combined, targets, electrodes)
    assert patches.shape == (2, 3, 64)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(
        model.reconstructor(combined, targets[order], electrodes), patches[:, order]
    )
    # a target is an electrode at a time, whatever its number in the montage
    flipped = targets // n_chans * n_chans + (2 - targets % n_chans)
    torch.testing.assert_close(model.reconstructor(combined, flipped, electrodes.flip(0)), patches)
    assert (patches[:, 0] - patches[:, 1]).abs().max() > 1e-4


@torch.inference_mode()
def test_a_window_does_not_know_its_neighbours_in_the_batch() -> None:
    model, signal = small(), microvolts(5, 4, 256)
    names = ["F3", "F4", "P3", "P4"]
    visible = torch.tensor([[1, 3], [14, 12]])

    def road(windows: Tensor) -> tuple[Tensor, Tensor]:
        scaled, electrodes = model.prepare(windows, names)
        features = model.encoder(scaled, electrodes, visible)
        _, combined = model.predictor(features, visible[:, 0] // 4, 4)
        return features, model.reconstructor(combined, torch.tensor([0, 6]), electrodes)

    together = road(signal)
    for index in range(5):
        for one, all_of_them in zip(road(signal[index : index + 1]), together, strict=True):
            torch.testing.assert_close(one[0], all_of_them[index])


@torch.inference_mode()
@pytest.mark.parametrize("n_chans", [1, 4, 19, 58, 62])
def test_any_montage_and_any_number_of_steps(n_chans: int) -> None:
    model = small()
    chosen = torch.randperm(62, generator=torch.Generator().manual_seed(n_chans))[:n_chans]
    names = [ELECTRODES[place] for place in chosen]
    assert model.places(names) == chosen.tolist()
    for n_steps in (1, 3, 20):
        features = model.forward_features(microvolts(2, n_chans, 64 * n_steps), names)
        assert features.tokens.shape == (2, 2 * n_steps, 16)
        assert torch.isfinite(features.tokens).all()


@torch.inference_mode()
def test_microvolts_are_scaled() -> None:
    model, signal = small(), microvolts(1, 3, 64)
    names = ["Fz", "Cz", "Pz"]
    coarse = small(scale=1000.0)
    torch.testing.assert_close(
        coarse.forward_features(100 * signal, names).tokens,
        model.forward_features(signal, names).tokens,
    )


def test_gradients_reach_every_part() -> None:
    model, signal = small().train(), microvolts(3, 4, 256)
    scaled, electrodes = model.prepare(signal, ["F3", "F4", "P3", "P4"])
    visible = torch.tensor([[1, 3], [14, 12]])
    features = model.encoder(scaled, electrodes, visible)
    predicted, combined = model.predictor(features, visible[:, 0] // 4, 4)
    patches = model.reconstructor(combined, torch.tensor([0, 5, 6, 9]), electrodes)
    (patches.square().mean() + predicted.square().mean()).backward()
    unreached = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert unreached == []


@pytest.mark.parametrize("train", [False, True])
def test_half_precision_is_finite(train: bool) -> None:
    model, signal = small().train(train), microvolts(2, 4, 256)
    scaled, electrodes = model.prepare(signal, ["F3", "F4", "P3", "P4"])
    visible = torch.tensor([[1, 3], [14, 12]])
    with torch.autocast("cpu", torch.bfloat16):
        features = model.encoder(scaled, electrodes, visible)
        predicted, combined = model.predictor(features, visible[:, 0] // 4, 4)
        patches = model.reconstructor(combined, torch.tensor([0, 5]), electrodes)
    exact = model.encoder(scaled, electrodes, visible)
    torch.testing.assert_close(features, exact, rtol=0.1, atol=0.1)
    patches.float().square().mean().backward()
    for result in (predicted, combined, patches, model.encoder.embed.weight.grad):
        assert torch.isfinite(result).all()


def test_a_checkpoint_computes_the_same_to_the_bit(tmp_path: Path) -> None:
    model = small(unknown_electrodes="nearest")
    model.save_checkpoint(tmp_path / "checkpoint")
    loaded = load_checkpoint(tmp_path / "checkpoint")
    assert isinstance(loaded, DareEEG)
    assert loaded.config == model.config
    assert all(torch.equal(x, loaded.state_dict()[n]) for n, x in model.state_dict().items())
    signal, names = microvolts(2, 3, 128), ["Fz", "Cz", "Pz"]
    assert torch.equal(
        loaded.forward_features(signal, names).tokens, model.forward_features(signal, names).tokens
    )


# electrodes


def test_electrodes_are_found_by_name() -> None:
    assert len(ELECTRODES) == len(set(ELECTRODES)) == 62
    for case in ("dare_nano", "dare_streams4"):
        wanted = [name.upper() for name in manifest(case)["channels"]]
        places, borrowed = find_places(wanted)
        assert [ELECTRODES[place].upper() for place in places] == wanted
        assert borrowed == []
    missing = set(ELECTRODES) - {
        ELECTRODES[p] for p in find_places(manifest("dare_nano")["channels"])[0]
    }
    assert missing == {"AF7", "AF8", "PO5", "PO6"}
    places, _ = find_places(["EEG FP1-REF", "T3", "cz"])
    assert [ELECTRODES[place] for place in places] == ["Fp1", "T7", "Cz"]


def test_electrodes_without_an_embedding() -> None:
    refuse, signal = small(), microvolts(1, 3, 64)
    with pytest.raises(
        BergerError, match=r"^the model has no embedding for Iz, EMG1; prepare .* nearest, or"
    ):
        refuse.forward_features(signal, ["Cz", "Iz", "EMG1"])
    nearest = small(unknown_electrodes="nearest")
    with pytest.warns(UserWarning, match=r"read as their nearest: Iz as Oz, FT9 as FT7\.$"):
        tokens = nearest.forward_features(signal, ["Cz", "Iz", "FT9"]).tokens
    # said once for a montage
    assert torch.equal(nearest.forward_features(signal, ["Cz", "Iz", "FT9"]).tokens, tokens)
    assert torch.equal(nearest.forward_features(signal, ["Cz", "Oz", "FT7"]).tokens, tokens)
    with pytest.raises(BergerError, match=r"no embedding and no position for EMG1; prepare"):
        nearest.forward_features(signal, ["Cz", "Iz", "EMG1"])
    with pytest.raises(BergerError, match=r"^Iz and Oz would share the embedding of Oz; prepare"):
        nearest.forward_features(signal, ["Iz", "Cz", "Oz"])
    with pytest.raises(BergerError, match=r"^T3 and T7 would share the embedding of T7; prepare"):
        refuse.forward_features(signal, ["T3", "Cz", "T7"])


def test_a_mouse_has_electrodes_of_its_own(tmp_path: Path) -> None:
    signal = microvolts(1, 2, 64)
    with pytest.raises(
        BergerError,
        match=r"no embedding and no position for EEG_P, EMG; .* as model\.electrodes\.$",
    ):
        small().forward_features(signal, ["EEG_P", "EMG"])
    model = small(electrodes=("EEG_F", "EEG_P", "EMG"))
    assert model.encoder.electrodes.weight.shape[0] == 3
    assert model.reconstructor.electrodes.weight.shape[0] == 3
    assert model.places(["EMG", "EEG_P"]) == [2, 1]
    tokens = model.forward_features(signal, ["EEG_P", "EMG"]).tokens
    swapped = model.forward_features(signal.flip(1), ["EMG", "EEG_P"]).tokens
    torch.testing.assert_close(tokens, swapped)
    model.save_checkpoint(tmp_path / "checkpoint")
    loaded = load_checkpoint(tmp_path / "checkpoint")
    assert torch.equal(loaded.forward_features(signal, ["EEG_P", "EMG"]).tokens, tokens)
    with pytest.raises(BergerError, match=r"for Cz, only for EEG_F, EEG_P, EMG; prepare"):
        model.forward_features(signal, ["EEG_P", "Cz"])
    with pytest.raises(BergerError, match="named twice"):
        model.forward_features(signal, ["EMG", "EMG"])
    with pytest.raises(ValueError, match="one is named twice"):
        small(electrodes=("EMG", "EMG"))
    with pytest.raises(ValueError, match="have no place in space"):
        small(electrodes=("EMG",), unknown_electrodes="nearest")


def test_the_nearest_is_the_nearest() -> None:
    for name in ("Iz", "FT10", "AFz", "F9", "CCP1h"):
        ((_, place),) = find_places([name], nearest=True)[1]
        away = np.linalg.norm(positions(ELECTRODES) - positions([name]), axis=1)
        assert away[place] == away.min()


def test_names_come_from_the_contract_where_none_are_given() -> None:
    signal = microvolts(1, 2, 64)
    with pytest.raises(BergerError, match=r"finds its electrodes by name; give ch_names\.$"):
        small().forward_features(signal)
    contract = InputContract(sfreq=256, ch_names=("Cz", "Pz"))
    torch.manual_seed(0)
    model = DareEEG(SMALL, contract)
    assert torch.equal(
        model.forward_features(signal).tokens, model.forward_features(signal, ["Cz", "Pz"]).tokens
    )
    described = ClassifierConfig(encoder=SMALL, classes=("a", "b"))
    assert Classifier(described, contract)(signal).shape == (1, 2)


def test_electrodes_are_named_to_scikit_learn(tmp_path: Path) -> None:
    small().save_checkpoint(tmp_path / "checkpoint")
    signal, names = microvolts(3, 2, 128), ["Cz", "Pz"]
    features = BergerClassifier(tmp_path / "checkpoint", ch_names=names).transform(signal.numpy())
    wanted = small().forward_features(signal, names).summary.detach().double().numpy()
    np.testing.assert_allclose(features, wanted, rtol=1e-5)
    with pytest.raises(BergerError, match=r"by name; give ch_names\.$"):
        BergerClassifier(tmp_path / "checkpoint").transform(signal.numpy())


# what is refused


# the option of a spectrum


def test_the_spectrum_is_an_addition() -> None:
    plain, other = DareEEG(SMALL), DareEEG(SMALL.model_copy(update={"spectrum": True}))
    added = set(other.state_dict()) - set(plain.state_dict())
    assert added == {"encoder.spectrum.embed.weight", "encoder.spectrum.embed.bias"}
    assert not set(plain.state_dict()) - set(other.state_dict())
    assert other.n_parameters - plain.n_parameters == 34 * SMALL.embed_dim


def test_the_spectrum_by_numpy() -> None:
    part = PatchSpectrum(SMALL)
    part.embed = nn.Linear(33, 33, bias=False)
    nn.init.eye_(part.embed.weight)
    patches = microvolts(3, 5, 64)
    cycle = np.arange(64) / 64
    window = 0.5 - 0.5 * np.cos(2 * np.pi * cycle)
    power = np.abs(np.fft.rfft(patches.double().numpy() * window)) ** 2
    np.testing.assert_allclose(part(patches).detach(), np.log(power + 1e-4), rtol=1e-3, atol=1e-3)
    assert torch.isfinite(part(torch.zeros(1, 64))).all()


def test_the_spectrum_does_not_know_phases() -> None:
    part = PatchSpectrum(SMALL)
    nn.init.normal_(part.embed.weight)
    time = torch.arange(64) / 256
    waves = torch.stack([torch.sin(2 * math.pi * 40 * time + phase) for phase in (0, 1, 2, 3)])
    embedded = part(10 * waves)
    assert torch.allclose(embedded[1:], embedded[:1].expand(3, -1), rtol=0.02, atol=0.5)
    torch.testing.assert_close(part(-waves), part(waves))
    quieter = part(5 * waves)
    assert (quieter - embedded).abs().max() > 10 * (embedded - embedded[:1]).abs().max()


def test_a_small_fast_wave_shows_in_features_with_a_spectrum_only() -> None:
    """As much as without it by noise alone: the slow waves' phases, which no two windows share."""
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(1024) / 256
    frequencies = torch.arange(1, 13)[:, None, None, None]
    phases = 2 * math.pi * torch.rand(12, 64, 4, 1, generator=generator)
    amplitude = 20 / frequencies
    slow = (amplitude * torch.sin(2 * math.pi * frequencies * time + phases)).sum(0)
    fast = torch.sin(2 * math.pi * 40 * time + phases[0])
    told = {}
    for spectrum in (False, True):
        torch.manual_seed(0)
        model = DareEEG(DareConfig(parts="encoder", spectrum=spectrum)).eval()
        names = ("C3", "C4", "O1", "O2")
        with torch.no_grad():
            without, with_it = (
                model.forward_features(x, names).summary for x in (slow[:32], (slow + fast)[32:])
            )
        spread = (without.var(0) + with_it.var(0)).div(2).sqrt()
        told[spectrum] = ((with_it.mean(0) - without.mean(0)) / spread).abs().max().item()
    assert told[True] > 3 * told[False]


def test_hidden_patches_are_not_read_by_their_spectrum_either() -> None:
    model = small(spectrum=True)
    signal, names = microvolts(2, 4, 256), ("C3", "C4", "O1", "O2")
    visible = torch.tensor([[0, 2], [9, 11]])
    seen = model.forward_features(signal, names, visible=visible).tokens
    hidden = signal.clone()
    hidden[:, [1, 3], :64] = torch.nan
    hidden[:, :, 64:128] = torch.nan
    hidden[:, [0, 2], 128:192] = torch.nan
    hidden[:, :, 192:] = torch.nan
    assert torch.equal(model.forward_features(hidden, names, visible=visible).tokens, seen)


def test_a_checkpoint_with_a_spectrum_computes_the_same(tmp_path: Path) -> None:
    model = small(spectrum=True)
    model.save_checkpoint(tmp_path / "checkpoint")
    signal, names = microvolts(2, 4, 256), ("C3", "C4", "O1", "O2")
    loaded = load_checkpoint(tmp_path / "checkpoint")
    assert torch.equal(
        loaded.forward_features(signal, names).tokens, model.forward_features(signal, names).tokens
    )


@pytest.mark.parametrize("n_times", [0, 63, 100])
def test_windows_of_broken_patches(n_times: int) -> None:
    with pytest.raises(
        BergerError,
        match=rf"^a window of {n_times} samples is no multiple of .* 64; .*, 0\.25 s each\.$",
    ):
        small().forward_features(microvolts(1, 1, n_times), ["Cz"])


@pytest.mark.parametrize(
    ("visible", "complaint"),
    [
        ([0, 1], "are no table of whole numbers"),
        ([[0.0, 1.0]], "are no table of whole numbers"),
        ([[]], "are no table of whole numbers"),
        ([[6, 7], [8, 9]], "reach beyond the window's 9 patches"),
        ([[-1, 1]], "reach beyond"),
        ([[2, 3]], "hold patches of several time steps in one row"),
        ([[0, 1], [4, 4]], "hold a patch twice"),
        ([[0, 1], [1, 2]], "hold a patch twice"),
    ],
)
def test_visible_patches_that_make_no_sense(visible: list[object], complaint: str) -> None:
    with pytest.raises(BergerError, match=rf"^the visible patches {complaint}.* step · 3 \+ chan"):
        small().forward_features(
            microvolts(1, 3, 192), ["Fz", "Cz", "Pz"], visible=torch.tensor(visible)
        )


def test_widths_that_heads_do_not_divide() -> None:
    with pytest.raises(ValidationError, match="width 24 must be a multiple of 4"):
        DareConfig(embed_dim=24, n_heads=4)


# the road


def test_the_road_from_recordings_to_predictions(tmp_path: Path) -> None:
    """Two montages in one corpus; a probe is adapted and answers for files."""
    files = tmp_path / "recordings"
    for index, montage in enumerate(2 * [("Fz", "Cz", "Oz"), ("T7", "T8", "Pz", "O1")]):
        blocks = alternating_blocks(4, 8.0, STATES[index % 2])
        recording, _ = simulate_recording(f"s{index}", blocks, ch_names=montage, seed=index)
        write_edf(recording, files / f"s{index}.edf")
    (tmp_path / "task.yaml").write_text(TINY_TASK)
    config = PreprocessingConfig(sfreq=256, highpass=1, lowpass=40, max_amplitude=None)
    prepare([files], tmp_path / "corpus", config, progress=False)
    contract = InputContract(sfreq=256, window_seconds=4, preprocessing=config)
    torch.manual_seed(0)
    DareEEG(SMALL, contract).save_checkpoint(tmp_path / "dare", {})
    task = load_task(tmp_path / "task.yaml")
    results = adapt(
        AdaptationConfig(n_folds=2, penalties=(1.0,), baselines=()),
        tmp_path / "dare",
        task,
        tmp_path / "run",
        corpus_folder=tmp_path / "corpus",
        device="cpu",
        quiet=True,
    )
    assert set(results["model"]) == {"frozen probe"}
    model = load_checkpoint(tmp_path / "run" / "checkpoint")
    assert isinstance(model, Classifier)
    assert isinstance(model.encoder, DareEEG)
    failures = predict(
        tmp_path / "run" / "checkpoint",
        [files],
        tmp_path / "answers",
        device="cpu",
        quiet=True,
    )
    assert failures.empty
    failures = embed(
        tmp_path / "dare",
        [files],
        tmp_path / "features.parquet",
        device="cpu",
        quiet=True,
    )
    assert failures.empty
    table = pd.read_parquet(tmp_path / "features.parquet").filter(like="feature_")
    assert table.shape[1] == 16
    assert table.std().min() > 0
    windows = open_corpus(tmp_path / "corpus").windows(4.0)
    assert len({block.ch_names for block in windows.blocks}) == 2
    with pytest.raises(BergerError, match=r"use pooling: mean\.$"):
        embed_windows(model.encoder, windows, "electrodes")


def test_recordings_with_unknown_electrodes_are_told(tmp_path: Path) -> None:
    for name, montage in {"known": ("Cz", "Oz"), "unknown": ("Cz", "Iz")}.items():
        blocks = alternating_blocks(1, 8.0)
        recording, _ = simulate_recording("s1", blocks, ch_names=montage)
        write_edf(recording, tmp_path / f"{name}.edf")
    config = PreprocessingConfig(sfreq=256, highpass=1, lowpass=40, max_amplitude=None)
    contract = InputContract(sfreq=256, window_seconds=4, preprocessing=config)
    Classifier(ClassifierConfig(encoder=SMALL, classes=("a", "b")), contract).save_checkpoint(
        tmp_path / "checkpoint"
    )
    files, features = [tmp_path / "known.edf", tmp_path / "unknown.edf"], tmp_path / "x.parquet"
    failures = embed(tmp_path / "checkpoint", files, features, device="cpu", quiet=True)
    (reason,) = failures["reason"]
    assert reason.startswith(f"{tmp_path}/unknown.edf: the model has no embedding for Iz; prepare")
    assert set(pd.read_parquet(features)["recording"]) == {"known.edf"}


def test_the_shipped_preparation_is_for_any_montage() -> None:
    prepared = load_config(PreprocessingConfig, "dare")
    assert prepared.sfreq == DareConfig().sfreq == 256
    assert prepared.ch_names is None
    assert prepared.reference == "average"
