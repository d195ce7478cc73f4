"""Self-attention in the nets: its formula, kernel, derivatives and place."""

import math
from typing import Any

import pytest
import torch
from small_nets import filled, inputs, unet
from torch.nn.attention import SDPBackend, sdpa_kernel

from sdescore import Energy, sliced_score_matching
from sdescore.denoisers import Distance
from sdescore.nets.blocks import Attention


@pytest.mark.parametrize(("dims", "spatial"), [(1, (6,)), (2, (3, 4)), (3, (2, 3, 2))])
def test_attention_is_the_softmax_formula(dims: int, spatial: tuple[int, ...]) -> None:
    heads, width = 2, 8
    layer = filled(Attention(width, heads, dims), std=0.5).double()
    x = torch.randn(2, width, *spatial, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    y = layer(x)
    q, k, v = layer.qkv(layer.norm(x)).flatten(2).split(width, dim=1)  # each (batch, width, positions)
    expected = torch.empty_like(x)
    for i in range(len(x)):
        out = torch.empty(width, math.prod(spatial), dtype=torch.float64)
        for rows in torch.arange(width).split(width // heads):
            weights = torch.softmax(q[i, rows].T @ k[i, rows] / math.sqrt(width // heads), dim=1)
            out[rows] = v[i, rows] @ weights.T
        expected[i] = (x[i : i + 1] + layer.out(out.reshape(1, width, *spatial)))[0]
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_attention_reaches_the_fused_kernel(layout: torch.memory_format) -> None:
    layer = filled(Attention(8, 2, 2))
    x = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(2)).to(memory_format=layout)
    expected = layer(x)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # no other is allowed
        torch.testing.assert_close(layer(x), expected)


def test_attention_is_differentiated_twice_where_a_loss_needs_it() -> None:
    """An energy's score, and the slope of a score, are trained through kernels that have a second derivative."""
    net = filled(unet(attention=(8,)))
    x, c_noise = inputs(net)
    losses = [
        Energy(Distance(net))(x, c_noise).square().sum(),
        sliced_score_matching(lambda x: net(x, c_noise), x, v=torch.ones_like(x)).sum(),
    ]
    for loss in losses:
        (gradient,) = torch.autograd.grad(loss, net.get_parameter("encoder.0.attention.qkv.weight"))
        assert bool(gradient.isfinite().all()) and gradient.abs().max() > 0


def test_attention_stands_at_the_chosen_resolutions() -> None:
    def sizes(**arguments: Any) -> list[int]:
        net, seen = unet(image_size=20, multipliers=(1, 2, 2), **arguments), []
        for module in net.modules():
            if isinstance(module, Attention):
                module.register_forward_hook(lambda _module, given, _output: seen.append(given[0].shape[-1]))
        net(*inputs(net))
        return seen

    assert sizes(attention=(10,)) == [10, 10]
    assert sizes(attention=(5,)) == [5, 5, 5, 5]  # down, twice in the middle, up
    assert sizes(attention=()) == []
    assert sizes() == [10, 5, 5, 5, 5, 10]  # 20 x 20 positions are too many
