"""The diffusion transformer: the paper's sizes and operations, patches, and what its blocks are at the start."""

import math
from typing import Any

import pytest
import torch
from einops import rearrange
from small_nets import dit, filled, inputs
from torch.utils.flop_counter import FlopCounterMode

from sdescore.nets import DiT
from sdescore.nets.dit import TransformerBlock, places

SIZES = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "XL": (1152, 28, 16)}


@pytest.mark.parametrize(
    ("size", "patch", "millions", "gflop"),
    [  # Peebles & Xie 2023, table 4
        ("S", 8, 33, 0.36),
        ("S", 2, 33, 6.06),
        ("B", 8, 131, 1.42),
        ("B", 2, 130, 23.01),
        ("L", 2, 458, 80.71),
        ("XL", 2, 675, 118.64),
    ],
)
def test_has_the_papers_parameters_and_operations(size: str, patch: int, millions: int, gflop: float) -> None:
    width, depth, heads = SIZES[size]
    with torch.device("meta"):
        net = DiT(4, 32, patch=patch, width=width, depth=depth, heads=heads, classes=1000).eval()
        x, c_noise, label = torch.zeros(1, 4, 32, 32), torch.zeros(1), torch.zeros(1, dtype=torch.long)
    # Theirs returns a variance besides, and has 256 features of the time where ours has 32.
    theirs = 224 * width + 4 * patch**2 * (width + 1)
    count = sum(parameter.numel() for parameter in net.parameters()) + theirs
    assert abs(count / 1e6 - millions) <= 0.5
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(x, c_noise, label)
    multiplications = counter.get_total_flops() / 2e9  # the paper counts a multiplication with its addition as one
    assert multiplications == pytest.approx(gflop, rel=0.005, abs=0.006)


def test_blocks_are_the_identity_at_initialisation_and_not_after() -> None:
    block = TransformerBlock(8, 2, 16, 0.0, cross=True)
    draw = torch.Generator().manual_seed(0)
    rows, embedded = torch.randn(2, 5, 8, generator=draw), torch.randn(2, 8, generator=draw)
    context = torch.randn(2, 3, 8, generator=draw), torch.ones(2, 1, 1, 3, dtype=torch.bool)
    assert torch.equal(block(rows, embedded, context), rows)
    for name in ("adapt", "cross"):
        once = TransformerBlock(8, 2, 16, 0.0, cross=True)
        filled(once.get_submodule(name))
        assert (once(rows, embedded, context) - rows).abs().max() > 1e-3


@pytest.mark.parametrize(("dims", "sizes"), [(1, (12,)), (2, (4, 6)), (3, (4, 2, 6))])
def test_without_places_patches_may_be_permuted(dims: int, sizes: tuple[int, ...]) -> None:
    """A transformer of rows does not know their order: only the table of places tells it."""
    net = filled(dit(channels=2, image_size=sizes, patch=2, dims=dims)).double()
    x, c_noise = inputs(net, dtype=torch.float64)
    counts = [size // 2 for size in sizes]
    order = torch.randperm(math.prod(counts), generator=torch.Generator().manual_seed(3))

    def permuted(image: torch.Tensor) -> torch.Tensor:
        """The patches in another order, cut by indices alone."""
        patches = image.reshape(*image.shape[:2], *[n for count in counts for n in (count, 2)])
        outer, inner = [2 + 2 * k for k in range(dims)], [3 + 2 * k for k in range(dims)]
        flat = patches.permute(0, 1, *inner, *outer).reshape(*image.shape[:2], 2**dims, -1)[..., order]
        back = flat.reshape(*image.shape[:2], *[2] * dims, *counts)
        mixed = [axis for k in range(dims) for axis in (2 + dims + k, 2 + k)]
        return back.permute(0, 1, *mixed).reshape(image.shape)

    told = net(permuted(x), c_noise)
    assert (told - permuted(net(x, c_noise))).abs().max() > 1e-2
    net.places.zero_()
    torch.testing.assert_close(net(permuted(x), c_noise), permuted(net(x, c_noise)))


def test_a_patch_is_a_row_in_order_of_its_pixels() -> None:
    net = dit(channels=2, image_size=(4, 6), patch=2)
    x = torch.arange(48.0).reshape(1, 2, 4, 6)
    rows = rearrange(x, net.cut, **net.lengths)
    assert rows.shape == (1, 6, 8)
    assert rows[0, 1].tolist() == [x[0, k, i, j].item() for i in (0, 1) for j in (2, 3) for k in (0, 1)]
    assert torch.equal(rearrange(rows, net.join, **net.lengths), x)


@pytest.mark.parametrize(("sizes", "width"), [((7,), 12), ((3, 4), 12), ((2, 3, 4), 14)])
def test_places_are_all_different_and_of_unit_length(sizes: tuple[int, ...], width: int) -> None:
    table = places(sizes, width)
    assert table.shape == (torch.tensor(sizes).prod(), width)
    torch.testing.assert_close(table.square().sum(1), torch.full((len(table),), width / 2))
    assert torch.pdist(table).min() > 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patch": 3}, r"patch=3 for image_size=\[8, 8\]; expected a divisor"),
        ({"heads": 5}, "width=12 with heads=5; expected an even multiple of heads"),
        ({"depth": 0}, "depth has 0; expected"),
        ({"expansion": 0}, "expansion has 0; expected"),
        ({"dims": 4}, "dims=4; expected 1, 2, 3"),
        ({"image_size": (8,)}, r"image_size=\(8,\) for dims=2"),
        ({"classes": 2, "class_names": ["a", "a"]}, "class_names=.*expected 2 different names"),
        ({"class_names": ["a"]}, "class_names=.*expected no different names"),
    ],
)
def test_refuses_arguments_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dit(**arguments)


def test_is_found_by_name_and_rebuilt_from_its_config() -> None:
    from sdescore.denoisers.folders import build_net

    net = filled(dit(classes=2, class_names=["bag", "boot"], image_size=(4, 8), checkpointing=True))
    again: Any = build_net("DiT", net.config)
    again.load_state_dict(net.state_dict())
    assert again.config == net.config
    x, c_noise = inputs(net)
    assert torch.equal(again(x, c_noise), net(x, c_noise))
