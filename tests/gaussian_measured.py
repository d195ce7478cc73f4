"""A Gaussian prior in four dimensions that is measured twice, and what affine maps make of a Gaussian."""

from typing import Any

import torch
from torch import Tensor

from sdescore import VPSDE, GaussianMixture, KarrasSDE, LinearSDE, sample

own = torch.Generator().manual_seed(21)
ROOT = torch.randn(4, 4, generator=own, dtype=torch.float64)
COVARIANCE = ROOT @ ROOT.T / 4 + 0.05 * torch.eye(4, dtype=torch.float64)
MEAN = torch.randn(4, generator=own, dtype=torch.float64)
FULL = GaussianMixture.of_covariances(MEAN[None], COVARIANCE[None])
A = 0.6 * torch.randn(2, 4, generator=own, dtype=torch.float64)
Y = torch.tensor([0.7, -0.4], dtype=torch.float64)
STD, N = 0.3, 4000
LEFT, VALUES, AXES = torch.linalg.svd(A)
SDES = [VPSDE(), KarrasSDE()]


def drawn(solver: Any, sde: LinearSDE, steps: int, prior: GaussianMixture = FULL, n: int = N, y: Tensor = Y) -> Tensor:
    condition = {"measurement": y.expand(n, -1)}
    return sample(sde, prior.denoiser(sde), (n, 4), solver=solver, steps=steps, condition=condition)


class Law:
    """A Gaussian that goes through maps x -> M x + b + spread z."""

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        self.mean, self.covariance = mean, covariance

    def moved(self, matrix: Tensor, shift: Tensor, variance: Tensor | float = 0.0) -> "Law":
        noise = variance * torch.eye(len(shift)) if isinstance(variance, float) else variance
        return Law(matrix @ self.mean + shift, matrix @ self.covariance @ matrix.T + noise)


def assert_moments(found: Tensor, law: Law) -> None:
    """Within five standard errors."""
    spread = law.covariance.diagonal().clamp(min=1e-12).sqrt()
    wrong = (found.mean(0) - law.mean).abs() / spread
    assert float(wrong.max()) < 5 / len(found) ** 0.5
    scaled = (torch.cov(found.T) - law.covariance).abs() / (spread[:, None] * spread)
    assert float(scaled.max()) < 7 / len(found) ** 0.5
