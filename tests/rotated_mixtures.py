"""Mixtures whose Jacobians are full matrices."""

import torch
from torch import Tensor

from sdescore import GaussianMixture, LinearSDE


def rotation(size: int) -> Tensor:
    own = torch.Generator().manual_seed(size)
    return torch.linalg.qr(torch.randn(size, size, generator=own, dtype=torch.float64)).Q


class Rotated:
    """A mixture seen in turned axes, where its Jacobians are full matrices."""

    def __init__(self, mixture: GaussianMixture, sde: LinearSDE) -> None:
        self.mixture, self.sde, self.denoiser = mixture, sde, mixture.denoiser(sde)
        self.basis = rotation(mixture.means[0].numel())

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.denoiser.score(x @ self.basis, t) @ self.basis.T

    def sample(self, n: int, seed: int = 0) -> Tensor:
        return self.mixture.at(self.sde, self.sde.t_min).sample(n, seed) @ self.basis.T

    def log_prob(self, x: Tensor) -> Tensor:
        """Of x_T: the prior that makes the likelihood exact."""
        return self.mixture.at(self.sde, self.sde.T).log_prob(x @ self.basis)


def wide(size: int, components: int = 2) -> GaussianMixture:
    """Modes whose standard deviations spread over a factor of 20."""
    own = torch.Generator().manual_seed(size)
    means = 0.4 * torch.randn(components, size, generator=own, dtype=torch.float64)
    stds = 0.05 + 0.95 * torch.rand(components, size, generator=own, dtype=torch.float64).square()
    return GaussianMixture(means, stds)
