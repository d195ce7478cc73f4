"""The nets: what they compute, on which inputs, under which transformations."""

import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from small_nets import dit, filled, inputs, unet
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sdescore.nets import MLP
from sdescore.nets.blocks import Block
from sdescore.nets.embedding import fourier

UNETS: dict[str, dict[str, Any]] = {
    "series": {"channels": 2, "image_size": 12, "dims": 1},
    "image": {"channels": 1, "image_size": 8, "dims": 2},
    "odd image": {"channels": 3, "image_size": (7, 10), "dims": 2},
    "volume": {"channels": 1, "image_size": (3, 5, 4), "dims": 3},
}
NETS: list[Any] = [pytest.param(lambda a=a: unet(**a), id=name) for name, a in UNETS.items()]
NETS.append(pytest.param(lambda: MLP(5, width=16, depth=2), id="vectors"))
DITS: dict[str, dict[str, Any]] = {
    "patches of a series": {"channels": 2, "image_size": 12, "dims": 1, "patch": 3},
    "patches of an image": {"channels": 3, "image_size": (4, 6), "dims": 2, "patch": 2},
    "patches of a volume": {"channels": 1, "image_size": (2, 6, 4), "dims": 3, "patch": 2},
}
NETS += [pytest.param(lambda a=a: dit(**a), id=name) for name, a in DITS.items()]


@pytest.mark.parametrize("make", NETS)
def test_output_is_zero_at_initialisation_and_of_the_shape_of_x_after(make: Callable[[], nn.Module]) -> None:
    net = make()
    x, c_noise = inputs(net)
    assert torch.equal(net(x, c_noise), torch.zeros_like(x))
    y = filled(net)(x, c_noise)
    assert y.shape == x.shape and y.std() > 1e-3


@pytest.mark.parametrize("make", NETS)
def test_each_sample_answers_to_its_own_noise_level_alone(make: Callable[[], nn.Module]) -> None:
    net = filled(make())
    x, c_noise = inputs(net)
    y = net(x, c_noise)
    moved = net(x, c_noise + torch.tensor([0.0, 0.1, 0.0]))
    assert (moved - y)[1].abs().max() > 1e-3
    torch.testing.assert_close(moved[[0, 2]], y[[0, 2]])
    alone = torch.cat([net(x[i : i + 1], c_noise[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(alone, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", NETS)
def test_gradients_reach_every_parameter(make: Callable[[], nn.Module]) -> None:
    net = filled(make())
    net(*inputs(net)).square().sum().backward()
    without = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@pytest.mark.parametrize("make", NETS)
def test_float_agrees_with_double(make: Callable[[], nn.Module]) -> None:
    net = filled(make())
    x, c_noise = inputs(net)
    single = net(x, c_noise)
    double = net.double()(x.double(), c_noise.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", NETS)
def test_derivatives_of_every_kind(make: Callable[[], nn.Module]) -> None:
    net = filled(make()).double()
    x, c_noise = inputs(net, batch=1, dtype=torch.float64)
    at = (x.requires_grad_(), c_noise.requires_grad_())
    assert torch.autograd.gradcheck(net, at, fast_mode=True, check_forward_ad=True, check_batched_grad=True)
    with sdpa_kernel(SDPBackend.MATH):
        assert torch.autograd.gradgradcheck(net, at, fast_mode=True)


def test_gradients_per_sample_by_vmap_equal_those_of_single_samples() -> None:
    net = filled(unet())
    x, c_noise = inputs(net)
    parameters = {name: parameter.detach() for name, parameter in net.named_parameters()}

    def loss(parameters: dict[str, Tensor], x: Tensor, c_noise: Tensor) -> Tensor:
        y: Tensor = torch.func.functional_call(net, parameters, (x[None], c_noise[None]))
        return y.square().sum()

    gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(parameters, x, c_noise)
    for i in range(len(x)):
        net.zero_grad()
        net(x[i : i + 1], c_noise[i : i + 1]).square().sum().backward()
        for name, parameter in net.named_parameters():
            torch.testing.assert_close(gradients[name][i], parameter.grad, rtol=1e-3, atol=1e-4)


def test_bfloat16_by_autocast_and_by_weights() -> None:
    net = filled(unet())
    x, c_noise = inputs(net)
    y = net(x, c_noise)
    scale = y.abs().max()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = net(x, c_noise)
    assert mixed.dtype == torch.float32 and 0 < (mixed - y).abs().max() < 0.03 * scale
    # c_noise stays in float32 beside such a net, and its features with it: their phases would not bear bfloat16.
    narrow = net.bfloat16()(x.bfloat16(), c_noise)
    assert narrow.dtype == torch.bfloat16 and (narrow.float() - y).abs().max() < 0.05 * scale


def test_fourier_features_are_sines_and_cosines_at_geometric_frequencies() -> None:
    c = np.linspace(-3, 2, 7)
    angles = c[:, None] * np.geomspace(0.5, 16, 16)
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    np.testing.assert_allclose(fourier(torch.from_numpy(c)).numpy(), expected, atol=1e-12)
    assert fourier(torch.zeros(2, dtype=torch.bfloat16)).dtype == torch.float32


def test_channels_last_stays_channels_last_and_changes_no_value() -> None:
    x = torch.randn(2, 8, 6, 4, generator=torch.Generator().manual_seed(3))
    block = filled(Block(8, 16, 4, dropout=0.0, heads=2, dims=2))
    embedded = torch.ones(2, 4)
    expected = block(x, embedded)
    block.to(memory_format=torch.channels_last)
    y = block(x.to(memory_format=torch.channels_last), embedded)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "make", [lambda **a: unet(multipliers=(1, 2, 2), blocks=2, **a), lambda **a: dit(patch=2, depth=4, **a)]
)
def test_checkpointing_keeps_less_and_gives_the_same_bits(make: Callable[..., nn.Module]) -> None:
    kept, gradients = [], []
    for checkpointing in (False, True):
        net = filled(make(dropout=0.3, checkpointing=checkpointing))
        x, c_noise = inputs(net)
        torch.manual_seed(0)  # of the dropout, which must be the same when it is computed again
        size = 0

        def keep(tensor: Tensor) -> Tensor:
            nonlocal size
            size += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = net(x, c_noise).square().sum()
        kept.append(size)
        loss.backward()
        gradients.append([parameter.grad for parameter in net.parameters()])
    assert all(one is not None and torch.equal(one, two) for one, two in zip(*gradients, strict=True))
    assert kept[1] < 0.4 * kept[0]


@pytest.mark.slow
def test_compiles_without_graph_breaks_at_any_batch_and_noise_level() -> None:
    net = filled(unet(multipliers=(1,), classes=3)).eval()
    # Without a C++ compiler the graph is captured just the same, and run by the interpreter.
    backend = "inductor" if any(map(shutil.which, ("c++", "g++", "clang++"))) else "eager"
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, backend=backend, dynamic=True)
    for batch in (2, 3, 5):
        x, c_noise = inputs(net, batch)
        label = torch.arange(batch) % 4
        torch.testing.assert_close(compiled(x, c_noise, label), net(x, c_noise, label), rtol=1e-3, atol=1e-4)


def test_captured_whole_by_the_compiler() -> None:
    for net in (filled(unet(attention=(8,))), filled(MLP(3, width=8, depth=1))):
        torch._dynamo.reset()
        compiled = torch.compile(net, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(*inputs(net)), net(*inputs(net)))


@pytest.mark.parametrize(
    "make", [lambda: unet(dropout=0.5), lambda: MLP(3, width=8, dropout=0.5), lambda: dit(dropout=0.5)]
)
def test_dropout_acts_in_training_only(make: Callable[[], nn.Module]) -> None:
    net = filled(make())
    x, c_noise = inputs(net)
    assert not torch.equal(net(x, c_noise), net(x, c_noise))
    net.eval()
    assert torch.equal(net(x, c_noise), net(x, c_noise))


def test_mlp_learns_a_function_of_both_inputs() -> None:
    torch.manual_seed(0)
    net = MLP(2, width=32, depth=2)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(300):
        x, c_noise = torch.randn(128, 2), torch.rand(128) * 3 - 1.5
        error = net(x, c_noise) - x.flip(1).tanh() * torch.sin(3 * c_noise)[:, None]
        error.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    # The target's mean square is about 0.2: a net blind to x or to c_noise stays there.
    assert error.square().mean() < 0.02
