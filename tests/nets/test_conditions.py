"""Conditions of nets: what they change, what stands for none, in whose units they are, and what is refused."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_nets import dit, filled, inputs, unet
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from sdescore.nets import MLP, UNet
from sdescore.nets.conditions import Condition

ALL = {
    "vector": {"kind": "vector", "size": 3},
    "image": {"kind": "image", "size": 2},
    "tokens": {"kind": "tokens", "size": 4},
}
VECTOR = {"vector": ALL["vector"]}
Make = Callable[..., nn.Module]
MAKES: dict[str, Make] = {
    "U-Net": lambda **a: unet(**{"conditions": ALL, **a}),
    "U-Net without attention": lambda **a: unet(**{"conditions": ALL, "attention": (), **a}),
    "U-Net of a series": lambda **a: unet(**{"conditions": ALL, "image_size": 6, "dims": 1, **a}),
    "DiT": lambda **a: dit(**{"conditions": ALL, **a}),
    "MLP": lambda **a: MLP(**{"features": 4, "width": 64, "depth": 2, "conditions": VECTOR, **a}),
}
by_net = pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in MAKES.items()])


def given(net: Any, batch: int = 3, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(7)
    spatial = list(net.axes.values())[1:]
    shapes = {"vector": (3,), "image": (2, *spatial), "tokens": (5, 4)}
    return {name: torch.randn(batch, *shapes[name], generator=draw, dtype=dtype) for name in net.config["conditions"]}


@by_net
def test_each_condition_changes_its_own_sample_alone(make: Make) -> None:
    net = filled(make())
    x, c_noise = inputs(net)
    known = given(net)
    y = net(x, c_noise, **known)
    for name, value in known.items():
        moved = value.clone()
        moved[1] += 1 + torch.arange(moved[1].numel()).reshape(moved[1].shape) % 2
        changed = net(x, c_noise, **{**known, name: moved}) - y
        assert changed[1].abs().max() > 1e-3, name
        assert changed[[0, 2]].abs().max() < 1e-5, name


@by_net
def test_rows_of_nan_stand_for_none_as_leaving_it_out_does(make: Make) -> None:
    net = filled(make())
    x, c_noise = inputs(net)
    known = given(net)
    y = net(x, c_noise, **known)
    for name, value in known.items():
        dropped = value.clone()
        dropped[1] = torch.nan
        some = net(x, c_noise, **{**known, name: dropped})
        without = net(x, c_noise, **{**known, name: None})
        left_out = net(x, c_noise, **{each: v for each, v in known.items() if each != name})
        assert torch.equal(without, left_out)
        torch.testing.assert_close(some[1], without[1])
        torch.testing.assert_close(some[[0, 2]], y[[0, 2]])
        assert (without - y).abs().max() > 1e-3, name


@by_net
def test_the_null_is_learnt_and_nothing_else_is_trained_without_it(make: Make) -> None:
    net: Any = filled(make())
    x, c_noise = inputs(net)
    known = given(net)
    for values, expected in ((known, set()), ({}, {f"conditioning.conditions.each.{n}.null" for n in known})):
        net.zero_grad()
        net(x, c_noise, **values).square().sum().backward()
        missing = {name for name, p in net.named_parameters() if p.grad is None}
        assert missing == set()
        moved = {name for name, p in net.named_parameters() if name.endswith("null") and bool(p.grad.any())}
        tokens = {name for name in moved if ".tokens." in name}  # that of a sequence is always looked at
        assert moved - (tokens if values else set()) == expected


def test_tokens_have_no_say_at_initialisation() -> None:
    torch.manual_seed(0)
    for net in (unet(conditions={"tokens": ALL["tokens"]}), dit(conditions={"tokens": ALL["tokens"]})):
        for parameter in (net.exits[-1] if isinstance(net, UNet) else net.exit).parameters():
            nn.init.normal_(parameter)
        x, c_noise = inputs(net)
        assert net(x, c_noise).std() > 0.1 and torch.equal(net(x, c_noise, **given(net)), net(x, c_noise))


def test_tokens_of_nan_are_not_looked_at_and_order_counts() -> None:
    for net in (filled(unet(conditions={"tokens": ALL["tokens"]})), filled(dit(conditions={"tokens": ALL["tokens"]}))):
        x, c_noise = inputs(net)
        tokens = given(net)["tokens"]
        y = net(x, c_noise, tokens=tokens)
        padded = torch.cat([tokens, torch.full((3, 2, 4), torch.nan)], dim=1)
        torch.testing.assert_close(net(x, c_noise, tokens=padded), y)
        assert (net(x, c_noise, tokens=tokens.flip(1)) - y).abs().max() > 1e-3


def test_values_are_in_the_units_that_mean_and_std_say() -> None:
    plain = filled(MLP(4, width=8, depth=1, conditions=VECTOR))
    mean, std = [2020.0, -3.0, 0.5], [5.0, 0.1, 2.0]
    scaled = MLP(4, width=8, depth=1, conditions={"vector": {**VECTOR["vector"], "mean": mean, "std": std}})
    scaled.load_state_dict(plain.state_dict())
    x, c_noise = inputs(plain)
    value = given(plain)["vector"]
    raw = value * torch.tensor(std) + torch.tensor(mean)
    torch.testing.assert_close(scaled(x, c_noise, vector=raw), plain(x, c_noise, vector=value), rtol=1e-3, atol=1e-3)
    narrow = scaled.bfloat16()(x.bfloat16(), c_noise, vector=raw)
    wanted = plain.bfloat16()(x.bfloat16(), c_noise, vector=value)
    torch.testing.assert_close(narrow, wanted, rtol=0.05, atol=0.02)  # 2020 rounded to bfloat16 would be off by .8 std


def test_images_of_another_size_are_interpolated_to_that_of_x_and_bytes_are_numbers() -> None:
    net = filled(unet(conditions={"image": {"kind": "image", "size": 2, "mean": 127.5, "std": 60.0}}))
    x, c_noise = inputs(net)
    low = torch.randint(0, 256, (3, 2, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    wide = F.interpolate(low.float(), size=(8, 8), mode="bilinear")
    torch.testing.assert_close(net(x, c_noise, image=low), net(x, c_noise, image=wide), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: unet(multipliers=(1,), attention=(), conditions=ALL), marks=pytest.mark.slow),
        lambda: dit(depth=1, conditions=ALL),
        MAKES["MLP"],
    ],
)
def test_derivatives_by_the_conditions(make: Make) -> None:
    net = filled(make()).double()
    x, c_noise = inputs(net, batch=1, dtype=torch.float64)
    known = given(net, 1, torch.float64)

    def called(x: Tensor, *values: Tensor) -> Tensor:
        y: Tensor = net(x, c_noise, **dict(zip(known, values, strict=True)))
        return y

    at = tuple(each.requires_grad_() for each in (x, *known.values()))
    with sdpa_kernel(SDPBackend.MATH):
        assert torch.autograd.gradcheck(called, at, fast_mode=True, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(called, at, fast_mode=True)


@by_net
def test_rebuilt_from_json(make: Make) -> None:
    net: Any = filled(make())
    again = type(net)(**json.loads(json.dumps(net.config)))
    again.load_state_dict(net.state_dict())
    x, c_noise = inputs(net)
    known = given(net)
    assert torch.equal(again(x, c_noise, **known), net(x, c_noise, **known))


@pytest.mark.parametrize(
    "make",
    [
        lambda: dit(conditions={name: ALL[name] for name in ("vector", "tokens")}, depth=1),
        pytest.param(lambda: dit(conditions=ALL), marks=pytest.mark.slow),
        pytest.param(lambda: unet(conditions=ALL), marks=pytest.mark.slow),
    ],
)
def test_captured_whole_by_the_compiler(make: Make) -> None:
    net = filled(make())
    x, c_noise = inputs(net)
    known = given(net)
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, c_noise, **known), net(x, c_noise, **known))


def test_checkpointing_and_channels_last_change_nothing() -> None:
    net = filled(unet(conditions=ALL))
    x, c_noise = inputs(net)
    known = given(net)
    y = net(x, c_noise, **known)
    again = unet(conditions=ALL, checkpointing=True)
    again.load_state_dict(net.state_dict())
    assert torch.equal(again(x, c_noise, **known), y)
    torch.testing.assert_close(net.to(memory_format=torch.channels_last)(x, c_noise, **known), y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"label": ALL["vector"]}, "conditions has 'label'; expected names"),
        ({"my text": ALL["tokens"]}, "conditions has 'my text'; expected names"),
        ({"a": {"kind": "words", "size": 3}}, r"conditions\['a'\] has kind 'words'; expected vector, image, tokens"),
        ({"a": {"kind": "vector"}}, r"conditions\['a'\] has kind; expected kind, size"),
        ({"a": {"kind": "vector", "size": 3, "low": 0}}, "has kind, size, low; expected"),
        ({"a": {"kind": "vector", "size": 0}}, r"conditions\['a'\] size has 0; expected"),
        ({"a": {"kind": "vector", "size": 3, "mean": [1.0, 2.0]}}, r"mean is \[1.0, 2.0\]; expected .* 3 of them"),
        ({"a": {"kind": "vector", "size": 1, "std": 0.0}}, "has std 0.0; expected positive"),
    ],
)
def test_refuses_conditions_that_it_does_not_understand(conditions: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unet(conditions=conditions)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"other": torch.ones(3, 3)}, r"other was given to a net with the conditions \['image', 'tokens', 'vector'\]"),
        ({"vector": torch.ones(3, 4)}, r"vector has shape \(3, 4\), torch.float32; expected numbers of shape \(3, 3\)"),
        ({"vector": torch.ones(2, 3)}, r"vector has shape \(2, 3\).*expected"),
        ({"image": torch.ones(3, 2, 8)}, r"image has shape \(3, 2, 8\).*expected numbers of shape \(3, 2, any, any\)"),
        ({"tokens": torch.ones(3, 4, 5)}, r"tokens has shape \(3, 4, 5\).*expected numbers of shape \(3, any, 4\)"),
        ({"tokens": torch.ones(3, 5, 4) > 0}, "tokens has .*torch.bool; expected numbers"),
    ],
)
def test_refuses_values_that_do_not_fit(values: dict[str, Tensor], message: str) -> None:
    net = unet(conditions=ALL)
    with pytest.raises(ValueError, match=message):
        net(*inputs(net), **values)


def test_perceptrons_take_vectors_alone_and_heads_must_divide_the_middle() -> None:
    with pytest.raises(ValueError, match=r"has kind 'tokens'; expected vector$"):
        MLP(2, conditions={"tokens": ALL["tokens"]})
    with pytest.raises(ValueError, match="heads=3 for 16 channels in the middle; expected a divisor"):
        unet(attention=(), heads=3, conditions={"tokens": ALL["tokens"]})


def test_a_mean_and_a_spread_of_each_channel() -> None:
    each = Condition("image", "image", 2, [1.0, -1.0], [2.0, 4.0])
    value, there = each(torch.ones(3, 2, 2, 2))
    assert value[:, 0].eq(0).all() and value[:, 1].eq(0.5).all() and there.all()
