"""A mixture in the plane, a measurement of it, and runs of sequential Monte Carlo for its posterior."""

from typing import Any

import torch
from torch import Tensor, nn

from sdescore import VPSDE, GaussianMixture, LinearSDE, smc
from sdescore.operators import Matrix
from sdescore.sampling import Particles

MEANS = torch.tensor([[-1.5, 0.5], [1.2, 1.4], [0.5, -1.6]], dtype=torch.float64)
STDS = torch.tensor([[0.5, 0.4], [0.35, 0.6], [0.45, 0.45]])
PRIOR = GaussianMixture(MEANS, STDS, [0.5, 0.3, 0.2], labels=[0, 1, 1])
A = Matrix(torch.tensor([[1.0, -0.7]], dtype=torch.float64))
Y, STD = torch.tensor([0.3], dtype=torch.float64), 0.4
EXACT = PRIOR.posterior(A, Y, STD)
METHODS: dict[str, dict[str, Any]] = {
    "tds": {},
    "tds, pigdm": {"twist": "pigdm"},
    "mcgdiff": {"method": "mcgdiff"},
}


def log_evidence(prior: GaussianMixture, y: Tensor, std: float) -> float:
    """log N(y; A m_k, A C_k A^T + std^2), summed over the components."""
    law = torch.distributions.MultivariateNormal(
        prior.means @ A.matrix.T,
        (A.matrix * prior.stds.square()[:, None]) @ A.matrix.T + std**2 * torch.eye(len(A.matrix)).double(),
    )
    return float((law.log_prob(y) + prior.weights.log()).logsumexp(0))


def features(x: Tensor) -> Tensor:
    """Both elements, and the share of each mode."""
    return torch.cat([x, nn.functional.one_hot(PRIOR.log_joint(x).argmax(1), 3).double()], 1)


def _by_quadrature() -> Tensor:
    axis = torch.linspace(-5, 5, 501, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)
    log_joint = PRIOR.log_prob(x) - ((Y - A.A(x)) / STD).square().sum(1) / 2
    return log_joint.softmax(0) @ features(x)


TRUTH = _by_quadrature()


def run(sde: LinearSDE | None = None, prior: GaussianMixture = PRIOR, **options: Any) -> Particles:
    sde = sde or VPSDE()
    given: dict[str, Any] = dict(noise_std=STD, n=2000, particles=500, steps=100) | options
    return smc(sde, prior.denoiser(VPSDE()), A, Y, **given)
