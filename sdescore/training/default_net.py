"""A net for those who name none: its kind by the shape of the data, its size by the data and the kind of device."""

import math
from typing import Any

__all__ = ["default_net"]

# What an update of the net should cost for each sample, in operations: a few hours' training on two cores of a CPU, or
# on one GPU, then see a million samples or more.
BUDGET = {"cpu": 3e8, "cuda": 6e10}
WIDTHS = {"cpu": (16, 32), "cuda": (32, 128)}
PER_POSITION = 1500.0  # operations, over base_width squared, of a U-Net of one block a level, forward and backward
# Samples below which a net learns them by heart, and its dropout. On moons of 2,000 rows that of few rows cost nats.
FEW, DROPOUT = 10_000, 0.1
FEW_ROWS, DROPOUT_OF_ROWS = 1_000, 0.3


def default_net(shape: tuple[int, ...], count: int, device: str) -> tuple[str, dict[str, Any]]:
    """The name and the arguments of a net for `count` samples of a shape, on "cpu" or "cuda".

    Vectors get an MLP; series, images and volumes a U-Net with levels down to about 8 positions an axis, as wide as the
    device affords. Raises ValueError for more than three spatial axes.
    """
    kind = "cpu" if device == "cpu" else "cuda"
    if len(shape) == 1:
        dropout = DROPOUT_OF_ROWS if count < FEW_ROWS else 0.0
        return "MLP", {"width": 128 if kind == "cpu" else 512, "depth": 4, "dropout": dropout}
    if len(shape) > 4:
        raise ValueError(f"samples have shape {shape}; expected at most three axes after the channels, or net=")
    largest = max(shape[1:])
    levels = min(max(2, math.ceil(math.log2(largest / 8)) + 1), 1 + (largest - 1).bit_length())
    blocks = 1 if kind == "cpu" else 2
    low, high = WIDTHS[kind]
    affordable = math.sqrt(BUDGET[kind] / (PER_POSITION * blocks * math.prod(shape[1:])))
    width = min(max(8 * int(affordable / 8), low), high)
    return "UNet", {
        "base_width": width,
        "multipliers": [1, *[2] * (levels - 1)],
        "blocks": blocks,
        "dropout": DROPOUT if count < FEW else 0.0,
    }
