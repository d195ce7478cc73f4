"""The arguments and labels of nets: what they change, that they rebuild a net, and what is refused."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_nets import filled, inputs, unet
from torch import Tensor, nn

from sdescore.nets import MLP, UNet


@pytest.mark.parametrize("make", [lambda: unet(classes=4), lambda: MLP(3, width=8, classes=4)])
def test_labels_condition_the_net_and_one_more_stands_for_none(make: Callable[[], nn.Module]) -> None:
    net = filled(make())
    x, c_noise = inputs(net)
    no_label = net(x, c_noise)
    torch.testing.assert_close(net(x, c_noise, torch.full((3,), 4)), no_label)
    labelled = net(x, c_noise, torch.tensor([0, 4, 3]))
    torch.testing.assert_close(labelled[1], no_label[1])
    assert (labelled - no_label)[[0, 2]].flatten(1).abs().amax(1).min() > 1e-3


@pytest.mark.parametrize(
    "net",
    [
        UNet(2, (5, 9), base_width=8, multipliers=[1, 3], blocks=1, attention=(5,), heads=3, dropout=0.1, classes=2),
        MLP(4, width=8, depth=3, dropout=0.2, classes=5),
    ],
)
def test_config_rebuilds_the_net(net: Any) -> None:
    again = type(net)(**json.loads(json.dumps(net.config)))
    assert again.config == net.config
    again.load_state_dict(net.state_dict())
    x, c_noise = inputs(net)
    assert torch.equal(again.eval()(x, c_noise), net.eval()(x, c_noise))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 0}, "channels has 0; expected"),
        ({"image_size": (8, 8, 8)}, r"image_size=\(8, 8, 8\) for dims=2"),
        ({"image_size": 8.5}, "image_size has 8.5; expected"),
        ({"base_width": -8}, "base_width has -8; expected"),
        ({"multipliers": ()}, "multipliers has 0 levels; expected"),
        ({"multipliers": (1, 0)}, "multipliers has 0; expected"),
        ({"multipliers": (1, 1, 1, 1, 1)}, r"multipliers has 5 levels; expected 1 to 4 for image_size=\[8, 8\]"),
        ({"blocks": 0}, "blocks has 0; expected"),
        ({"attention": (16,)}, r"attention=\[16\]; expected resolutions of levels: \[8, 4\]"),
        ({"heads": 3}, "heads=3 for 8 channels at resolution 8"),
        ({"dropout": 1.0}, r"dropout=1.0; expected a number in \[0, 1\)"),
        ({"classes": 0}, "classes has 0; expected"),
        ({"dims": 4}, "dims=4; expected 1, 2, 3"),
    ],
)
def test_unet_refuses_arguments_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unet(**arguments)


@pytest.mark.parametrize("arguments", [{"features": 0}, {"width": 0}, {"depth": 0}, {"dropout": -0.1}, {"classes": 0}])
def test_mlp_refuses_arguments_out_of_range(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(arguments))}.*expected"):
        MLP(**{"features": 2, **arguments})


@pytest.mark.parametrize(
    ("x", "c_noise", "label", "message"),
    [
        (torch.ones(2, 1, 8), torch.ones(2), None, r"x has shape \(2, 1, 8\), 3 axes; expected \(batch, 1 channels"),
        (torch.ones(2, 3, 8, 8), torch.ones(2), None, "3 for channels; expected"),
        (torch.ones(2, 8, 8, 1), torch.ones(2), None, "8 for channels; expected"),
        (torch.ones(2, 1, 8, 9), torch.ones(2), None, "9 for width; expected .*8 height, 8 width"),
        (torch.ones(2, 1, 8, 8).long(), torch.ones(2), None, "x has dtype torch.int64; expected"),
        (torch.ones(2, 1, 8, 8), torch.ones(3), None, r"c_noise has shape \(3,\).*expected \(2,\)"),
        (torch.ones(2, 1, 8, 8), torch.tensor(1.0), None, r"c_noise has shape \(\).*expected \(2,\)"),
        (torch.ones(2, 1, 8, 8), torch.ones(2).long(), None, "c_noise has .*int64; expected .* floating point"),
        (torch.ones(2, 1, 8, 8), torch.ones(2), torch.ones(3).long(), r"label has shape \(3,\).*expected \(2,\)"),
        (torch.ones(2, 1, 8, 8), torch.ones(2), torch.ones(2), "label has .*float32; expected .*0 to 3, or 4"),
    ],
)
def test_inputs_that_do_not_fit(x: Tensor, c_noise: Tensor, label: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unet(classes=4)(x, c_noise, label)


def test_a_net_without_classes_refuses_labels() -> None:
    net = MLP(2, width=8)
    with pytest.raises(ValueError, match="label was given to a net without classes"):
        net(torch.ones(2, 2), torch.ones(2), torch.ones(2).long())
    with pytest.raises(ValueError, match="3 for features; expected"):
        net(torch.ones(2, 3), torch.ones(2))
