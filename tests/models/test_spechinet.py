"""Laws of SpecHi-Net, and its convolution stages against the published program's outputs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange
from torch import Tensor, nn

from berger.models import SpecHiNet, SpecHiNetConfig
from tests.golden.golden_weights import golden_tensor

GOLDEN = Path(__file__).parents[1] / "golden"
N_CHANS = 4


def small(**changes: object) -> SpecHiNet:
    torch.manual_seed(0)
    sizes = {"stem_dim": 8, "embed_dim": 16, "bottleneck_dim": 32, "n_heads": 2}
    model = SpecHiNet(SpecHiNetConfig.model_validate({**sizes, **changes}))
    # running statistics as after some training, so that evaluation mode is no special case
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
    return model.eval()


def microvolts(*shape: int, seed: int = 1) -> Tensor:
    return 20 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# laws


def test_size_is_the_published_one_but_for_the_auxiliary_heads() -> None:
    assert SpecHiNet(SpecHiNetConfig()).n_parameters == 2_928_104 - 2 * 18 * (64 + 1)


@pytest.mark.parametrize("restores", ["signal", "correction", "map"])
@pytest.mark.parametrize("n_times", [1, 200, 360, 800, 1000, 2000])
@pytest.mark.parametrize("n_chans", [1, 3])
def test_outputs_have_the_shape_of_the_input(n_chans: int, n_times: int, restores: str) -> None:
    with torch.inference_mode():
        model = small(restores=restores)
        if n_times == 1:  # a single sample has no length: its times would have no step
            times = torch.zeros(2, 2)
            restored = model.reconstruct(microvolts(2, n_chans, 2), times)
            assert restored.fine.shape == (2, n_chans, 2)
            return
        signal = microvolts(2, n_chans, n_times)
        restored = model.reconstruct(signal)
        features = model.forward_features(signal)
    padded = max(360, -(-n_times // 120) * 120)
    assert restored.fine.shape == restored.coarse.shape == signal.shape
    assert restored.auxiliary[0].shape == (2, n_chans, 2, padded // 15)
    assert restored.auxiliary[1].shape == (2, n_chans, 2, padded // 60)
    assert features.tokens.shape == (2, n_chans * 2 * padded // 120, 32)
    assert features.summary.shape == (2, model.embed_dim)


def test_permuting_electrodes_permutes_features_and_restorations() -> None:
    model, signal = small(restores="map"), microvolts(2, 5, 600)
    order = torch.tensor([3, 0, 4, 1, 2])
    with torch.inference_mode():
        features, permuted = (model.forward_features(x) for x in (signal, signal[:, order]))
        restored, shuffled = (model.reconstruct(x) for x in (signal, signal[:, order]))
    per_chan = rearrange(features.tokens, "b (c t) d -> b c t d", c=5)[:, order]
    torch.testing.assert_close(rearrange(per_chan, "b c t d -> b (c t) d"), permuted.tokens)
    torch.testing.assert_close(features.summary, permuted.summary)
    torch.testing.assert_close(restored.fine[:, order], shuffled.fine, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(
        restored.auxiliary[0][:, order], shuffled.auxiliary[0], rtol=1e-4, atol=1e-3
    )


def test_windows_of_a_batch_do_not_see_each_other() -> None:
    model, signal = small(), microvolts(3, 2, 600)
    with torch.inference_mode():
        together, alone = model.reconstruct(signal), model.reconstruct(signal[1:2])
    torch.testing.assert_close(together.mean[1:2], alone.mean, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("n_times", [300, 1000, 1190])
def test_zero_padding_changes_nothing_that_is_cropped_away(n_times: int) -> None:
    model, signal = small(), microvolts(2, 3, n_times)
    padded_length = max(360, -(-n_times // 120) * 120)
    step = 0.001
    times = step * torch.arange(padded_length).repeat(2, 1)
    padded = nn.functional.pad(signal, (0, padded_length - n_times))
    with torch.inference_mode():
        short = model.reconstruct(signal, times[:, :n_times])
        long = model.reconstruct(padded, times)
        features = model.forward_features(signal, times=times[:, :n_times])
    torch.testing.assert_close(short.fine, long.fine[..., :n_times], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(short.coarse, long.coarse[..., :n_times], rtol=1e-4, atol=1e-3)
    assert features.tokens.shape[1] == 3 * 2 * padded_length // 120


def test_only_differences_of_times_count() -> None:
    model, signal = small().double(), microvolts(2, 3, 600).double()
    times = torch.linspace(1, 10, 600, dtype=torch.float64).expand(2, -1)
    with torch.inference_mode():
        here, later = (model.forward_features(signal, times=times + shift) for shift in (0, 50))
        stretched = model.forward_features(signal, times=3 * times)
    torch.testing.assert_close(here.tokens, later.tokens, rtol=0, atol=1e-10)
    assert (here.tokens - stretched.tokens).abs().max() > 1e-5


@pytest.mark.parametrize("restores", ["correction", "map"])
def test_a_zero_start_returns_the_masked_input(restores: str) -> None:
    model, signal = small(restores=restores, zero_start=True), microvolts(2, 3, 1000)
    with torch.inference_mode():
        restored = model.reconstruct(signal)
    torch.testing.assert_close(restored.fine, signal, rtol=0, atol=1e-3)
    torch.testing.assert_close(restored.coarse, signal, rtol=0, atol=1e-3)
    with torch.inference_mode():
        assert small(zero_start=True).reconstruct(signal).mean.abs().max() == 0


@pytest.mark.parametrize("restores", ["signal", "correction", "map"])
def test_every_parameter_learns(restores: str) -> None:
    model, signal = small(restores=restores).train(), microvolts(2, 3, 600)
    restored = model.reconstruct(signal)
    outputs = [restored.fine, restored.coarse, *restored.auxiliary]
    sum(output.square().mean() for output in outputs).backward()
    without = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]
    # a bias before a softmax over keys, or before batch norm, has no effect in theory
    assert all("key.bias" in name for name in without)


def test_attention_holds_no_square_of_scores() -> None:
    """20,000 tokens: one head's scores alone would take 1.6 GB a window."""
    layer = small().attention1
    tokens, times = torch.randn(1, 20_000, 16), torch.arange(20_000.0)[None]
    biggest = 0

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal biggest
            result = function(*args, **(kwargs or {}))
            found = [x for x in torch.utils._pytree.tree_leaves(result) if isinstance(x, Tensor)]
            biggest = max([biggest, *(x.numel() for x in found)])
            return result

    with torch.inference_mode(), Largest():
        layer(tokens, times)
    assert biggest < 4 * tokens.numel()


# golden vectors: the published program lays all channels end to end, which for the convolutions
# is a single long channel


@pytest.fixture(scope="module")
def published() -> SpecHiNet:
    """The convolution stages with the golden weights."""
    names = json.loads((GOLDEN / "specmoe_expert.json").read_text())["parameters"]
    model = SpecHiNet(SpecHiNetConfig()).eval()

    def load(module: nn.Module, prefix: str) -> None:
        own = [key for key in module.state_dict() if not key.endswith("num_batches_tracked")]
        values = [
            torch.from_numpy(golden_tensor(name, tuple(shape)))
            for name, shape in names
            if name.startswith(prefix) and not name.endswith("num_batches_tracked")
        ]
        module.load_state_dict(dict(zip(own, values, strict=True)), strict=False)

    for stage in ("down1", "down2", "down3", "up1", "up2", "up3"):
        module = model.get_submodule(stage)
        load(module.get_submodule("fine"), f"{stage.capitalize()}.features1.")
        load(module.get_submodule("coarse"), f"{stage.capitalize()}.features3.")
    for stage in ("bottom1", "bottom2"):
        load(model.get_submodule(stage).get_submodule("layers"), f"{stage.capitalize()}.features.")
    return model


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    with np.load(GOLDEN / "specmoe_expert.npz", allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def laid_out(joined: Tensor) -> Tensor:
    """(batch, dim, 2·C·t), all fine then all coarse, → the published (batch, dim, C, 2t)."""
    return rearrange(joined, "b d (half c t) -> b d c (half t)", half=2, c=N_CHANS)


def end_to_end(stage: Tensor) -> Tensor:
    """The reverse of `laid_out`."""
    return rearrange(stage, "b d c (half t) -> b d (half c t)", half=2)


def tokens_as_map(tokens: Tensor) -> Tensor:
    return rearrange(tokens, "b (c t) d -> b d c t", c=N_CHANS)


def agree(result: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(result, wanted, rtol=1e-4, atol=1e-4 * wanted.abs().max().item())


@torch.inference_mode()
def test_encoder_stages_agree_with_the_published_program(
    published: SpecHiNet, golden: dict[str, Tensor]
) -> None:
    down1 = published.down1(rearrange(golden["a_signal"], "b c t -> b 1 (c t)"))
    agree(down1, torch.cat((golden["a_act_Down1_0"], golden["a_act_Down1_1"]), -1))
    agree(laid_out(published.down2(down1)), golden["a_act_Down2"])
    attended = end_to_end(tokens_as_map(golden["a_act_TransformerEnc1"]))
    agree(laid_out(published.down3(attended)), golden["a_act_Down3"])
    agree(published.bottom1(golden["a_act_Down3"].flatten(2)), golden["a_act_Bottom1"])
    tokens = golden["a_act_TransformerEnc2"]
    agree(published.bottom2(tokens.transpose(1, 2)), golden["a_act_Bottom2"])


@torch.inference_mode()
def test_decoder_stages_agree_with_the_published_program(
    published: SpecHiNet, golden: dict[str, Tensor]
) -> None:
    bottom = golden["a_act_Bottom2"].unflatten(2, (N_CHANS, -1))
    x = end_to_end(torch.cat((bottom, golden["a_act_Down3"]), 1))
    agree(laid_out(published.up1(x)), golden["a_act_Up1"])

    attended = tokens_as_map(golden["a_act_TransformerEnc3"])
    down2 = golden["a_act_Down2"]
    skip = tokens_as_map(down2.reshape(len(down2), -1, down2.shape[1]))
    x = end_to_end(torch.cat((attended, skip), 1))
    agree(laid_out(published.up2(x)), golden["a_act_Up2"])

    down1 = torch.cat((golden["a_act_Down1_0"], golden["a_act_Down1_1"]), -1)
    skip = down1.reshape(len(down1), 64, N_CHANS, -1)
    fine, coarse = published.up3(end_to_end(torch.cat((golden["a_act_Up2"], skip), 1)))
    agree(fine.unflatten(2, (N_CHANS, -1)), golden["a_act_Up3_0"])
    agree(coarse.unflatten(2, (N_CHANS, -1)), golden["a_act_Up3_1"])
