"""Quantised data: bits per dimension and dequantisation."""

import math

import torch
from torch import Tensor

from sdescore.noise import generator
from sdescore.scaling import Scaling

__all__ = ["bits_per_dim", "dequantize"]


def bits_per_dim(log_prob: Tensor, shape: tuple[int, ...], scaling: Scaling) -> Tensor:
    """Bits per element (batch,) of quantised data, from the log-density of its dequantised model values.

    Raw levels are low, low + d, ..., high, with d one level's width; data is dequantised by adding uniform noise in
    [-d/2, d/2), so that a level has the probability mass density * d (Theis et al. 2016, section 3.1).

    Args:
        log_prob: Natural-log density (batch,) in model scale, where the levels are 2 / (levels - 1) apart.
        shape: Shape of a sample.
        scaling: How raw data is scaled. Raises ValueError if it has no levels.
    """
    if scaling.levels is None:
        raise ValueError("scaling.levels is None: bits per dimension are defined for quantised data only")
    width = 2 / (scaling.levels - 1)
    return -(log_prob / math.prod(shape) + math.log(width)) / math.log(2)


def dequantize(x: Tensor, scaling: Scaling, seed: int = 0, first: int = 0) -> Tensor:
    """Add uniform noise of one level's width to model data (batch, *shape); that of sample i depends on (seed, i)."""
    if scaling.levels is None:
        raise ValueError("scaling.levels is None: only quantised data can be dequantised")
    own = (generator("dequantize", seed, first + i, device=x.device) for i in range(len(x)))
    u = torch.stack([torch.rand(x.shape[1:], generator=g, device=x.device, dtype=x.dtype) for g in own])
    return x + (u - 0.5) * (2 / (scaling.levels - 1))
