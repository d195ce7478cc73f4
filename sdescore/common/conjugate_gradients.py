"""Conjugate gradients for a batch of systems, each with its own steps."""

from collections.abc import Callable

import torch
from torch import Tensor

from sdescore.common.linear_combinations import dot, expand

__all__ = ["conjugate_gradients"]


def conjugate_gradients(apply: Callable[[Tensor], Tensor], b: Tensor, iterations: int) -> Tensor:
    """u of apply(u) = b (batch, *shape) for a symmetric positive semi-definite map of each row.

    Hestenes & Stiefel 1952. Stops after `iterations` products, or where every row has its residual at 1e-10 of b.
    """
    residual = direction = b
    u = torch.zeros_like(b)
    size = start = dot(b, b)
    tiny = torch.finfo(b.dtype).tiny
    for _ in range(iterations):
        image = apply(direction)
        step = size / dot(direction, image).clamp(min=tiny)
        u = u + expand(step, u) * direction
        residual = residual - expand(step, u) * image
        before, size = size, dot(residual, residual)
        direction = residual + expand(size / before.clamp(min=tiny), u) * direction
        if bool((size <= 1e-20 * start).all()):
            break
    return u
