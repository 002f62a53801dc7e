"""Laws of the pooled features and of the classifier."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from berger.models import Classifier, ClassifierConfig, SpecHiNet, SpecHiNetConfig
from berger.models.heads import Pooling, pooled_features
from tests.conftest import TINY_MODEL

SPECHINET = SpecHiNetConfig.model_validate(TINY_MODEL)


def encoder() -> SpecHiNet:
    torch.manual_seed(0)
    return SpecHiNet(SPECHINET).eval()


def microvolts(*shape: int) -> torch.Tensor:
    return 20 * torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def classifier(pooling: Pooling, n_chans: int | None = None) -> Classifier:
    torch.manual_seed(0)
    config = ClassifierConfig(
        encoder=SPECHINET, pooling=pooling, n_chans=n_chans, classes=("a", "b", "c")
    )
    return Classifier(config).eval()


@torch.inference_mode()
def test_the_mean_is_the_mean_over_electrodes() -> None:
    network, signal = encoder(), microvolts(3, 4, 500)
    mean = pooled_features(network, signal, "mean")
    each = pooled_features(network, signal, "electrodes")
    assert mean.shape == (3, 8)
    assert each.shape == (3, 4 * 8)
    torch.testing.assert_close(each.view(3, 4, 8).mean(1), mean)


@torch.inference_mode()
def test_the_mean_does_not_know_the_order_of_electrodes() -> None:
    network, signal = encoder(), microvolts(2, 5, 400)
    order = torch.tensor([4, 2, 0, 1, 3])
    torch.testing.assert_close(
        pooled_features(network, signal, "mean"), pooled_features(network, signal[:, order], "mean")
    )
    each = pooled_features(network, signal, "electrodes").view(2, 5, 8)
    torch.testing.assert_close(
        each[:, order].flatten(1), pooled_features(network, signal[:, order], "electrodes")
    )


@torch.inference_mode()
@pytest.mark.parametrize(("pooling", "n_chans"), [("mean", None), ("electrodes", 4)])
def test_logits_are_linear_in_the_features(pooling: Pooling, n_chans: int | None) -> None:
    model, signal = classifier(pooling, n_chans), microvolts(3, 4, 400)
    features = model.forward_features(signal)
    assert model(signal).shape == (3, model.config.n_outputs) == (3, 3)
    torch.testing.assert_close(model(signal), features @ model.head.weight.T + model.head.bias)
    torch.testing.assert_close(features, pooled_features(model.encoder, signal, pooling))


def test_any_montage_for_the_mean() -> None:
    model = classifier("mean")
    with torch.inference_mode():
        assert all(model(microvolts(1, n, 400)).shape == (1, 3) for n in (1, 2, 19))


def test_electrodes_need_their_number() -> None:
    with pytest.raises(ValidationError, match="needs n_chans"):
        ClassifierConfig(encoder=SPECHINET, pooling="electrodes", classes=("a", "b"))
    with pytest.raises(ValidationError):
        ClassifierConfig(encoder=SPECHINET, classes=("a",))
