"""Mixtures with full covariances, and their exact posteriors under linear measurements."""

import math

import pytest
import torch
from torch import Tensor

from sdescore import VPSDE, GaussianMixture, LinearSDE, sample
from sdescore.operators import Channels, Mask, Matrix
from sdescore.testing import two_sample

MEANS = torch.tensor([[-1.0, 0.5], [0.8, 1.0], [0.5, -1.2]], dtype=torch.float64)
PRIOR = GaussianMixture(MEANS, [[0.3, 0.2], [0.15, 0.4], [0.25, 0.25]], [0.5, 0.3, 0.2])
A, Y, STD = torch.tensor([[1.0, -0.7]], dtype=torch.float64), torch.tensor([0.3], dtype=torch.float64), 0.4


def full() -> GaussianMixture:
    draw = torch.Generator().manual_seed(7)
    roots = torch.randn(3, 2, 2, generator=draw, dtype=torch.float64)
    return GaussianMixture.of_covariances(MEANS, roots @ roots.mT / 4 + 0.05 * torch.eye(2), [0.2, 0.5, 0.3])


def test_density_and_score_of_full_covariances() -> None:
    mixture, x = full(), torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    parts = [
        torch.distributions.MultivariateNormal(mean, covariance)
        for mean, covariance in zip(MEANS, mixture._covariances(), strict=True)
    ]
    exact = torch.stack([part.log_prob(x) for part in parts], 1) + mixture.weights.log()
    torch.testing.assert_close(mixture.log_prob(x), exact.logsumexp(1))
    (gradient,) = torch.autograd.grad(exact.logsumexp(1).sum(), x)
    torch.testing.assert_close(mixture.score(x.detach()), gradient)
    torch.testing.assert_close(mixture.variances, torch.stack([part.variance for part in parts]))
    drawn = mixture.sample(40_000, 0)
    mean = (mixture.weights[:, None] * MEANS).sum(0)
    second = (mixture.weights[:, None, None] * (mixture._covariances() + MEANS[:, :, None] * MEANS[:, None])).sum(0)
    torch.testing.assert_close(drawn.mean(0), mean, rtol=0, atol=0.03)
    torch.testing.assert_close(drawn.T @ drawn / len(drawn), second, rtol=0, atol=0.05)


def test_denoiser_of_full_covariances(sde: LinearSDE) -> None:
    mixture, t = full(), torch.tensor(sde.t_min + 0.4 * (sde.T - sde.t_min), dtype=torch.float64)
    x = mixture.at(sde, t).sample(6)
    torch.testing.assert_close(mixture.denoiser(sde).score(x, t), mixture.at(sde, t).score(x), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("prior", [PRIOR, full()], ids=["diagonal", "full"])
def test_posterior_is_the_prior_times_the_likelihood(prior: GaussianMixture) -> None:
    """Normalised by quadrature in the plane."""
    axis = torch.linspace(-4, 4, 801, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    joint = prior.log_prob(grid) - (grid @ A.T - Y).square().sum(1) / (2 * STD**2)
    evidence = joint.logsumexp(0) + 2 * math.log(0.01)
    found = prior.posterior(Matrix(A), Y, STD).log_prob(grid)
    near = joint - evidence > -15
    torch.testing.assert_close(found[near], (joint - evidence)[near], rtol=1e-6, atol=1e-6)


def test_of_images_by_any_operator() -> None:
    draw = torch.Generator().manual_seed(3)
    prior = GaussianMixture(torch.randn(2, 3, 2, 2, generator=draw, dtype=torch.float64), [0.5, 0.8])
    seen = Mask(torch.tensor([[1, 0], [1, 1]]))
    y = seen.A(prior.sample(1, 1))[0]
    found = prior.posterior(seen, y, 1e-3)
    assert found.shape == (3, 2, 2)
    known = seen.mask.bool().expand(3, 2, 2)
    torch.testing.assert_close(found.sample(50)[:, known], y[known].expand(50, -1), rtol=0, atol=6e-3)
    # What is not seen keeps each component's own law.
    torch.testing.assert_close(found.variances[:, ~known], prior.variances[[0, 1]][:, ~known][: len(found.weights)])
    grey = prior.posterior(Channels(), Channels().A(prior.means[:1])[0], 0.1)
    assert float(Channels().A(grey.means).sub(Channels().A(prior.means[:1])).abs().max()) < 0.1


@pytest.mark.parametrize("solver", ["heun", "dpm++", "sde-dpm++"])
def test_its_denoiser_samples_the_posterior(solver: str) -> None:
    sde, n = VPSDE(), 2000
    exact = PRIOR.posterior(Matrix(A), Y, STD)
    start = exact.at(sde, sde.T).sample(n)
    found = sample(sde, exact.denoiser(sde), x=start, solver=solver, steps=60)
    assert two_sample(found, exact.sample(n, 1)) > 1e-3
    assert two_sample(found, PRIOR.sample(n, 1)) < 1e-6  # the test can fail


def test_the_likelihood_score_is_the_gradient_of_the_evidence_at_t() -> None:
    """log p(y | x_t) of each component is Gaussian: its mean and variance given x_t by Bayes, in one dimension."""
    sde, t = VPSDE(), torch.tensor(0.3, dtype=torch.float64)
    exact = PRIOR.posterior(Matrix(A), Y, STD)
    x = PRIOR.at(sde, t).sample(4).requires_grad_()
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    variance = 1 / (1 / PRIOR.stds.square() + alpha**2 / sigma**2)  # of x0 given x_t
    mean = variance * (PRIOR.means / PRIOR.stds.square() + alpha * x[:, None] / sigma**2)
    spread = (A.square() * variance).sum(-1) + STD**2
    gap = Y - (A * mean).sum(-1)
    log_likelihood = -(gap.square() / spread + spread.log()) / 2
    posterior_weights = PRIOR.at(sde, t).log_joint(x).log_softmax(1)
    (gradient,) = torch.autograd.grad((posterior_weights + log_likelihood).logsumexp(1).sum(), x)
    found = exact.at(sde, t).score(x.detach()) - PRIOR.at(sde, t).score(x.detach())
    torch.testing.assert_close(found, gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("y", "std", "word"),
    [(Y, 0.0, "noise_std=0.0"), (Y, -1.0, "noise_std=-1.0"), (Y.repeat(2), 0.1, r"y has shape \(2,\)")],
)
def test_bad_measurements_are_named(y: Tensor, std: float, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        PRIOR.posterior(Matrix(A), y, std)


def test_bad_covariances_are_named() -> None:
    with pytest.raises(ValueError, match="not positive definite"):
        GaussianMixture.of_covariances(MEANS, -torch.eye(2).expand(3, 2, 2))
    with pytest.raises(ValueError, match=r"axes has shape \(2, 2\)"):
        GaussianMixture(MEANS, 1.0, axes=torch.eye(2))
