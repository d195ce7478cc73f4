"""Features that fit any data by themselves, where nobody knows better: values, and fixed random filters.

Distances in them compare sets with each other. They are no FIDs, which Inception's features make.
"""

from typing import Any

import torch
from torch import Tensor, nn

from sdescore.common.random import generator

__all__ = ["default_features", "random_filters", "values"]

WIDTHS = (16, 32, 32)
COARSE = 4  # positions an axis of the coarse values
CONVOLUTIONS = (nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d)
POOLS: tuple[Any, ...] = (
    nn.functional.adaptive_avg_pool1d,
    nn.functional.adaptive_avg_pool2d,
    nn.functional.adaptive_avg_pool3d,
)


def values(x: Tensor) -> Tensor:
    """The values themselves, (n, *shape) to (n, d)."""
    return x.flatten(1)


def random_filters(x: Tensor) -> Tensor:
    """Series, images or volumes to (n, d): coarse values, and means and maxima of what fixed random filters answer.

    Random convolutions with ReLUs tell textures apart nearly as trained ones do (Saxe et al. 2011): noise, blur and
    missing strokes move them. x is (n, channels, one to three axes); ValueError for others.
    """
    axes = x.ndim - 2
    if not 1 <= axes <= 3:
        raise ValueError(f"samples have shape {tuple(x.shape[1:])}; random filters take one to three axes")
    draw = generator("random filters", 0, device="cpu")
    found = [POOLS[axes - 1](x, [min(COARSE, size) for size in x.shape[2:]]).flatten(1)]
    for width in WIDTHS:
        weights = torch.randn(width, x.shape[1], *[3] * axes, generator=draw) / (x.shape[1] * 3**axes) ** 0.5
        x = nn.functional.relu(CONVOLUTIONS[axes - 1](x, weights.to(x), padding=1))
        found += [x.flatten(2).mean(2), x.flatten(2).amax(2)]
        stride = [2 if size > 1 else 1 for size in x.shape[2:]]
        x = x[(slice(None), slice(None), *(slice(None, None, step) for step in stride))]
    return torch.cat(found, 1)


def default_features(shape: tuple[int, ...]) -> str:
    """The name of the features that fit samples of a shape."""
    return "values" if len(shape) == 1 else "random-filters"
