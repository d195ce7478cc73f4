"""Exact expectations over mixtures in the plane, and a smooth field there."""

import itertools
import math

import numpy as np
import torch
from torch import Tensor, nn

from sdescore import GaussianMixture

OVERLAPPING = GaussianMixture([[-1.0, 0.3], [1.1, -0.4]], [[0.9, 1.2], [1.1, 0.8]], [0.4, 0.6], dtype=torch.float64)


def quadrature(mixture: GaussianMixture, nodes: int = 80) -> tuple[Tensor, Tensor]:
    """Points (n, 2) and weights (n,) for expectations over a mixture in the plane."""
    at, mass = np.polynomial.hermite_e.hermegauss(nodes)
    z = torch.tensor(list(itertools.product(at, at)))
    w = torch.tensor(np.outer(mass, mass).ravel() / (2 * math.pi))
    points = torch.cat([mean + std * z for mean, std in zip(mixture.means, mixture.stds, strict=True)])
    return points, torch.cat([weight * w for weight in mixture.weights])


class Waves(nn.Module):
    """A smooth field of the plane that is no gradient: entire, so that quadrature converges fast."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(5)
        self.inner = nn.Parameter(0.6 * torch.randn(6, 2, generator=draw, dtype=torch.float64))
        self.outer = nn.Parameter(0.5 * torch.randn(2, 6, generator=draw, dtype=torch.float64))
        self.slope = nn.Parameter(-0.5 * torch.eye(2, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        return torch.sin(x @ self.inner.T + 0.3) @ self.outer.T + x @ self.slope.T
