"""The published layout against the published program, stage by stage; laws of its attention."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from einops import rearrange
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from berger.models import create_model, load_checkpoint
from berger.models import spechinet_published as published
from berger.models.spechinet_published import (
    SpecHiNetPublished,
    SpecHiNetPublishedConfig,
    name_here,
    query_normalised_attention,
)
from tests.golden.published import agree, golden_arrays, published_weights

SMALL = {"stem_dim": 8, "embed_dim": 16, "bottleneck_dim": 32, "n_heads": 2, "n_auxiliary": 5}


def small() -> SpecHiNetPublished:
    torch.manual_seed(0)
    return SpecHiNetPublished(SpecHiNetPublishedConfig.model_validate(SMALL)).eval()


def microvolts(*shape: int, seed: int = 1) -> Tensor:
    return 20 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def qkv(n_tokens: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, 3, n_tokens, 4, generator=generator, dtype=dtype).requires_grad_()
        for _ in range(3)
    ]


def plain_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The definition, with the whole matrix of scores."""
    scores = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5
    scores = scores * (1 - torch.eye(scores.shape[-1], dtype=scores.dtype))
    return scores.softmax(-2) @ value


# golden vectors


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return golden_arrays("specmoe_expert")


@pytest.fixture(scope="module")
def expert() -> SpecHiNetPublished:
    model = SpecHiNetPublished(SpecHiNetPublishedConfig())
    renamed = {
        name_here(name): value for name, value in published_weights("specmoe_expert").items()
    }
    left = model.load_state_dict(renamed, strict=False)
    assert left.unexpected_keys == []
    assert all(name.endswith("num_batches_tracked") for name in left.missing_keys)
    return model.eval()


def test_size_is_the_published_one() -> None:
    assert create_model("spechinet-published").n_parameters == 2_928_104


@torch.inference_mode()
@pytest.mark.parametrize("case", ["a", "b"])
def test_outputs_agree_with_the_published_program(
    expert: SpecHiNetPublished, golden: dict[str, Tensor], case: str
) -> None:
    restored = expert.reconstruct(100 * golden[f"{case}_signal"], golden[f"{case}_positions"])
    agree(restored.fine / 100, golden[f"{case}_out_branch_fine"])
    agree(restored.coarse / 100, golden[f"{case}_out_branch_coarse"])
    agree(restored.auxiliary[0] / 100, golden[f"{case}_out_aux_up2"])
    agree(restored.auxiliary[1] / 100, golden[f"{case}_out_aux_up1"])


@torch.inference_mode()
def test_every_stage_agrees_with_the_published_program(
    expert: SpecHiNetPublished, golden: dict[str, Tensor]
) -> None:
    seen: dict[str, Any] = {}

    def keep(stage: str) -> Callable[..., None]:
        return lambda _module, _inputs, output: seen.update({stage: output})

    hooks = [
        module.register_forward_hook(keep(stage))
        for stage, module in expert.named_children()
        if not stage.startswith("auxiliary")
    ]
    expert.reconstruct(100 * golden["a_signal"], golden["a_positions"])
    for hook in hooks:
        hook.remove()

    def by_electrode(x: Tensor) -> Tensor:
        return rearrange(x, "b d (half c t) -> b d c (half t)", half=2, c=4)

    agree(seen.pop("down1"), torch.cat([golden[f"a_act_Down1_{i}"] for i in range(2)], -1))
    for index, wanted in enumerate(seen.pop("up3")):
        agree(rearrange(wanted, "b 1 (c t) -> b 1 c t", c=4), golden[f"a_act_Up3_{index}"])
    for stage, output in seen.items():
        if stage.startswith("attention"):
            agree(output, golden[f"a_act_TransformerEnc{stage[-1]}"])
        elif stage.startswith("bottom"):
            agree(output, golden[f"a_act_{stage.capitalize()}"])
        else:
            agree(by_electrode(output), golden[f"a_act_{stage.capitalize()}"])
    assert len(seen) == 9


# laws of the attention


@pytest.mark.parametrize("n_tokens", [1, 127, 128, 129, 300])
def test_blocks_give_the_same_values_and_gradients_as_the_whole_matrix(n_tokens: int) -> None:
    inputs = qkv(n_tokens)
    wanted = plain_attention(*inputs)
    weights = torch.linspace(-1, 1, wanted.numel(), dtype=wanted.dtype).view_as(wanted)
    wanted_slopes = torch.autograd.grad((weights * wanted).sum(), inputs)
    result = query_normalised_attention(*inputs)
    torch.testing.assert_close(result, wanted, rtol=1e-10, atol=1e-12)
    slopes = torch.autograd.grad((weights * result).sum(), inputs)
    torch.testing.assert_close(slopes, wanted_slopes, rtol=1e-5, atol=1e-10)
    with torch.inference_mode():
        torch.testing.assert_close(query_normalised_attention(*inputs), wanted)


def test_every_key_gives_its_value_away_once() -> None:
    """Each key's column sums to one: what the queries take together is the sum of the values."""
    query, key, value = qkv(200)
    taken = query_normalised_attention(query, key, value)
    torch.testing.assert_close(taken.sum(-2), value.sum(-2))
    alike = query_normalised_attention(0 * query, key, value)
    torch.testing.assert_close(alike, value.mean(-2, keepdim=True).expand_as(value))


class Sizes(TorchDispatchMode):
    """Number of values in the largest tensor that is made."""

    largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = function(*args, **(kwargs or {}))
        made = [x.numel() for x in tree_leaves(result) if isinstance(x, Tensor)]
        self.largest = max(self.largest, *made, 0)
        return result


def memory(n_tokens: int) -> tuple[int, int]:
    """Largest tensor of a forward and a backward pass, and values kept between the two."""
    inputs = qkv(n_tokens, torch.float32)
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes() // 4
        return x

    with Sizes() as sizes:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            out = query_normalised_attention(*inputs)
        out.sum().backward()
    return sizes.largest, sum(kept.values())


def test_memory_grows_with_the_number_of_tokens_not_its_square() -> None:
    largest, kept = memory(1024)
    twice_largest, twice_kept = memory(2048)
    assert twice_largest == 2 * largest == 2 * 3 * published.KEYS_AT_ONCE * 2048
    assert twice_kept <= 2.1 * kept


# laws of the network


@pytest.mark.parametrize(("n_chans", "n_times"), [(1, 2), (1, 400), (2, 200), (7, 120), (3, 1000)])
def test_outputs_have_the_shape_of_the_input(n_chans: int, n_times: int) -> None:
    model, signal = small(), microvolts(2, n_chans, n_times)
    with torch.inference_mode():
        restored = model.reconstruct(signal)
        features = model.forward_features(signal, ch_names=["x"] * n_chans)
        each = model.channel_embedding(signal)
    length = next(x for x in range(120, 2000, 120) if x >= n_times and x * n_chans >= 360)
    assert restored.fine.shape == restored.coarse.shape == signal.shape
    assert restored.auxiliary[0].shape == (2, 5, n_chans * 2 * length // 15)
    assert restored.auxiliary[1].shape == (2, 5, n_chans * 2 * length // 60)
    assert features.tokens.shape == (2, n_chans * 2 * length // 120, model.embed_dim)
    torch.testing.assert_close(features.summary, features.tokens.mean(1))
    assert each.shape == (2, n_chans, model.embed_dim, 2 * length // 120)
    # the same memory, read in another order
    memory_order = rearrange(features.tokens, "b steps dim -> b (dim steps)")
    torch.testing.assert_close(each.flatten(1), memory_order)


def test_windows_of_a_batch_do_not_see_each_other() -> None:
    model, signal = small(), microvolts(3, 2, 600)
    with torch.inference_mode():
        together, alone = model.reconstruct(signal), model.reconstruct(signal[1:2])
    torch.testing.assert_close(together.mean[1:2], alone.mean, rtol=1e-4, atol=1e-3)


def test_every_parameter_learns() -> None:
    model = small().train()
    restored = model.reconstruct(microvolts(2, 3, 600))
    outputs = [restored.fine, restored.coarse, *restored.auxiliary]
    sum(output.square().mean() for output in outputs).backward()
    assert [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ] == []


def test_a_checkpoint_gives_the_same_outputs(tmp_path: Path) -> None:
    model, signal = small(), microvolts(1, 3, 300)
    model.save_checkpoint(tmp_path / "checkpoint")
    loaded = load_checkpoint(tmp_path / "checkpoint")
    assert isinstance(loaded, SpecHiNetPublished)
    assert loaded.config == model.config
    with torch.inference_mode():
        assert torch.equal(loaded.reconstruct(signal).mean, model.reconstruct(signal).mean)
