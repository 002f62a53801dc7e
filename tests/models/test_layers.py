"""Laws of the layers that several models share."""

from __future__ import annotations

import pytest
import torch

from berger.models.layers import PreNormAttentionLayer


@pytest.mark.parametrize("n_last", [1, 3, 7])
@pytest.mark.parametrize("timed", [False, True])
def test_the_last_tokens_alone_are_what_they_are_among_all(n_last: int, timed: bool) -> None:
    torch.manual_seed(0)
    layer = PreNormAttentionLayer(16, 2).double()
    tokens = torch.randn(4, 7, 16, dtype=torch.double)
    times = torch.randn(1, 7, dtype=torch.double) if timed else None
    gradients = []
    outputs = []
    for output in (layer(tokens, times)[:, -n_last:], layer(tokens, times, n_last)):
        layer.zero_grad()
        output.square().sum().backward()
        outputs.append(output)
        gradients.append([parameter.grad for parameter in layer.parameters()])
    torch.testing.assert_close(outputs[1], outputs[0])
    torch.testing.assert_close(gradients[1], gradients[0])
    assert outputs[1].shape == (4, n_last, 16)
