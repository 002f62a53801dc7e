"""Contracts that every encoder keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from berger.configuration import Config
from berger.errors import BergerError
from berger.models import (
    Classifier,
    ClassifierConfig,
    DareConfig,
    Encoder,
    SpecHiNetConfig,
    SpecHiNetPublishedConfig,
    SpecMoEConfig,
    load_checkpoint,
)
from berger.models.encoders import ENCODERS, build_encoder
from berger.models.heads import pooled_features

SIZES = {"stem_dim": 4, "embed_dim": 8, "bottleneck_dim": 8, "n_heads": 2}
SMALL: dict[type[Config], dict[str, Any]] = {
    SpecHiNetConfig: SIZES,
    SpecHiNetPublishedConfig: SIZES,
    SpecMoEConfig: {"expert": {"name": "spechinet", **SIZES}},
    DareConfig: {"embed_dim": 16, "n_streams": 2},
}
CONFIGS = [schema.model_validate(SMALL[schema]) for schema in ENCODERS]
MONTAGE = ["Fz", "Cz", "Pz"]


def encoder(config: Config) -> Encoder:
    torch.manual_seed(0)
    return build_encoder(config).eval()


def microvolts(*shape: int) -> Tensor:
    return 20 * torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_features_have_the_width_that_is_told(config: Config) -> None:
    model, signal = encoder(config), microvolts(2, 3, 512)
    features = model.forward_features(signal, MONTAGE)
    assert features.tokens.shape[::2] == (2, model.embed_dim)
    assert features.summary.shape == (2, model.embed_dim)
    assert torch.equal(pooled_features(model, signal, "mean", MONTAGE), features.summary)
    times = torch.linspace(1, 10, 512).expand(2, -1)
    shift = model.forward_features(signal, MONTAGE, times).tokens - features.tokens
    assert (shift.abs().max() > 0) == model.features_by_electrode  # DARE-EEG's has no times
    if model.features_by_electrode:
        assert features.tokens.shape[1] % 3 == 0
        each = pooled_features(model, signal, "electrodes", MONTAGE)
        assert each.shape == (2, 3 * model.embed_dim)
    else:
        with pytest.raises(BergerError, match=r"has no features of single ones; use pooling: mean"):
            pooled_features(model, signal, "electrodes", MONTAGE)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_what_is_no_batch_of_windows_is_refused(config: Config) -> None:
    with pytest.raises(BergerError, match=r"^a signal of shape \(3, 500\); give \(batch, n_chans"):
        encoder(config).forward_features(microvolts(3, 500))
    with pytest.raises(BergerError, match=r"^1 names for a signal of 3 electrodes; name each\.$"):
        encoder(config).forward_features(microvolts(1, 3, 512), ch_names=["Cz"])
    for no_names in ("abc", torch.zeros(3)):
        with pytest.raises(BergerError, match=r"^ch_names must be names, one for each"):
            encoder(config).forward_features(microvolts(3, 3, 512), no_names)  # type: ignore[arg-type]


@torch.inference_mode()
@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_a_classifier_stands_on_any_encoder(config: Config, tmp_path: Path) -> None:
    torch.manual_seed(0)
    described = ClassifierConfig.model_validate({"encoder": config, "classes": ("a", "b")})
    model, signal = Classifier(described).eval(), microvolts(2, 3, 512)
    assert type(model.encoder) is ENCODERS[type(config)]
    model.save_checkpoint(tmp_path / "checkpoint")
    loaded = load_checkpoint(tmp_path / "checkpoint")
    assert loaded.config == described
    assert torch.equal(loaded(signal, MONTAGE), model(signal, MONTAGE))
