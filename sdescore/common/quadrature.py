"""Gauss-Legendre quadrature on [0, 1]."""

import numpy as np
import torch
from torch import Tensor

__all__ = ["gauss"]


def gauss(count: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights, (count,) and float64: exact for polynomials of degree up to 2 count - 1."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)
