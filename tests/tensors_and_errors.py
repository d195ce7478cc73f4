"""Tensors in float64, sizes of errors, and the order that errors show."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def draws(count: int, shape: tuple[int, ...]) -> list[Tensor]:
    return list(torch.randn(count, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(7)))


def fitted_order(steps: Sequence[int], errors: Sequence[float]) -> float:
    """Minus the slope of the logarithms."""
    return -float(np.polyfit(np.log(steps), np.log(errors), 1)[0])


def relative(value: Tensor, exact: Tensor) -> float:
    return float(((value.double() - exact) / exact).abs().max())


def rms(tolerance: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda error, size: (error / (tolerance + tolerance * size)).square().mean(1).sqrt()
