"""Score matching against closed forms: expectations over mixtures are exact, by Gauss-Hermite quadrature."""

import itertools
import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Laplace, MultivariateNormal, Normal

from sdescore import GaussianMixture
from sdescore.energy import Energy
from sdescore.score_matching import (
    explicit_score_matching,
    finite_difference_score_matching,
    implicit_score_matching,
    kernel_score_matching,
    multilevel_score_matching,
    sliced_score_matching,
    variance_reduced_score_matching,
)

SLICED = [sliced_score_matching, variance_reduced_score_matching, finite_difference_score_matching]


@pytest.fixture
def overlapping() -> GaussianMixture:
    return GaussianMixture([[-1.0, 0.3], [1.1, -0.4]], [[0.9, 1.2], [1.1, 0.8]], [0.4, 0.6], dtype=torch.float64)


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


class Bowl(nn.Module):
    """A scalar with known derivatives: x^T A x / 2 + sum cos x."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.tensor([[0.7, 0.2], [0.2, 0.9]], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return ((x @ self.matrix) * x).sum(1) / 2 + x.cos().sum(1)


MODELS = pytest.mark.parametrize("model", [Waves(), Energy(Bowl())], ids=["score net", "energy net"])


@MODELS
def test_explicit_implicit_and_sliced_differ_by_the_analytic_constant(
    model: nn.Module, overlapping: GaussianMixture
) -> None:
    x, w = quadrature(overlapping)
    truth = overlapping.score(x)
    constant = float(w @ truth.square().sum(1)) / 2
    explicit = float((w @ explicit_score_matching(model, x, truth)).detach())
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=2)), dtype=torch.float64)
    v = signs[:, None].expand(4, *x.shape)
    assert explicit > 0.05  # so that the agreement says something
    for loss in (
        implicit_score_matching(model, x),
        sliced_score_matching(model, x, v=v),
        variance_reduced_score_matching(model, x, v=v),
    ):
        assert float((w @ loss).detach()) == pytest.approx(explicit - constant, abs=1e-7)


@MODELS
def test_their_gradients_by_the_parameters_agree(model: nn.Module, overlapping: GaussianMixture) -> None:
    x, w = quadrature(overlapping)
    v = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)[:, None].expand(2, *x.shape)
    parameters = list(model.parameters())
    wanted = torch.autograd.grad(w @ explicit_score_matching(model, x, overlapping.score(x)), parameters)
    for loss in (
        implicit_score_matching(model, x),
        sliced_score_matching(model, x, v=v),
        variance_reduced_score_matching(model, x, v=v),
    ):
        for ours, theirs in zip(torch.autograd.grad(w @ loss, parameters), wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)


def test_exact_score_attains_zero_and_the_floor(overlapping: GaussianMixture) -> None:
    x, w = quadrature(overlapping)
    truth = overlapping.score(x)
    assert torch.equal(explicit_score_matching(overlapping.score, x, truth), torch.zeros(len(x), dtype=x.dtype))
    floor = -float(w @ truth.square().sum(1)) / 2
    assert float((w @ implicit_score_matching(overlapping.score, x)).detach()) == pytest.approx(floor, abs=1e-7)


def test_trace_of_a_known_jacobian_on_any_shape() -> None:
    x = torch.randn(3, 2, 2, dtype=torch.float64)
    loss = implicit_score_matching(lambda x: x**3, x)
    torch.testing.assert_close(loss, (3 * x**2).flatten(1).sum(1) + (x**6).flatten(1).sum(1) / 2)


@pytest.mark.parametrize("loss", [implicit_score_matching, *SLICED])
def test_a_constant_score_has_no_slope(loss: Callable[..., Tensor]) -> None:
    level = nn.Parameter(torch.tensor([3.0, 0.0]))
    x = torch.randn(5, 2)
    torch.testing.assert_close(loss(lambda x: level.expand_as(x), x), torch.full((5,), 4.5))
    torch.testing.assert_close(loss(torch.zeros_like, x), torch.zeros(5))


def test_sliced_signs_are_rademacher_and_seeded() -> None:
    x = torch.zeros(4000, 3, dtype=torch.float64)
    matrix = torch.tensor([[1.0, 2, 0], [0, -1, 0], [0.5, 0, 3]], dtype=torch.float64)

    def loss(seed: int) -> Tensor:
        draw = torch.Generator().manual_seed(seed)
        return sliced_score_matching(lambda x: x @ matrix.T, x, projections=2, generator=draw)

    # v^T M v of signs is tr M + (off-diagonal sums of random sign): variance (2^2 + .5^2) over two projections.
    values = loss(0)
    assert torch.equal(values, loss(0)) and not torch.equal(values, loss(1))
    assert float(values.mean()) == pytest.approx(3, abs=4 * math.sqrt(4.25 / 8000))
    assert float(values.var()) == pytest.approx(4.25 / 2, rel=0.1)


def test_finite_differences_tend_to_the_sliced_loss_with_order_two() -> None:
    x = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    v, model = torch.ones_like(x), Waves()
    exact = sliced_score_matching(model, x, v=v)
    errors = [
        float((finite_difference_score_matching(model, x, v=v, step=step) - exact).square().mean().sqrt())
        for step in (0.2, 0.1, 0.05)
    ]
    for coarse, fine in itertools.pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize("loss", [implicit_score_matching, *SLICED])
def test_no_graph_is_kept_without_gradients(loss: Callable[..., Tensor]) -> None:
    x, model = torch.randn(6, 2, dtype=torch.float64), Waves()
    options = {} if loss is implicit_score_matching else {"v": torch.ones_like(x)}
    kept = loss(model, x, **options)
    with torch.no_grad():
        plain = loss(model, x, **options)
    assert kept.requires_grad and not plain.requires_grad
    torch.testing.assert_close(kept.detach(), plain)


# Denoising


def linear_problem() -> tuple[GaussianMixture, float, Tensor]:
    mixture = GaussianMixture([[-1.0, 0.3], [1.1, -0.4]], [[0.9, 1.2], [1.1, 0.8]], [0.4, 0.6], dtype=torch.float64)
    return mixture, 0.6, torch.tensor([[-0.5, 0.1], [0.3, -0.9]], dtype=torch.float64)


def test_denoising_has_the_gradient_of_explicit_matching_on_the_noised_density() -> None:
    """For s(x) = A x both gradients by A are E[(A x - grad log p) x^T] = A E[x x^T] + I, over the noised x."""
    mixture, sigma, start = linear_problem()
    matrix = nn.Parameter(start)
    x0, w0 = quadrature(mixture, 12)
    at, mass = np.polynomial.hermite_e.hermegauss(6)
    eps = torch.tensor(list(itertools.product(at, at)))
    w = torch.outer(w0, torch.tensor(np.outer(mass, mass).ravel() / (2 * math.pi))).ravel()
    clean, noise = x0.repeat_interleave(len(eps), 0), eps.repeat(len(x0), 1)
    noisy = clean + sigma * noise
    loss = kernel_score_matching(lambda x: x @ matrix.T, clean, lambda x0: Normal(x0, sigma), noisy=noisy)
    (denoising,) = torch.autograd.grad(w @ loss, matrix)
    second = (w0[:, None] * x0).T @ x0 + sigma**2 * torch.eye(2, dtype=torch.float64)
    torch.testing.assert_close(denoising, start @ second + torch.eye(2, dtype=torch.float64), rtol=0, atol=1e-10)

    noised = GaussianMixture(mixture.means, (mixture.stds**2 + sigma**2).sqrt(), mixture.weights)
    x, w = quadrature(noised)
    (explicit,) = torch.autograd.grad(w @ explicit_score_matching(lambda x: x @ matrix.T, x, noised.score(x)), matrix)
    torch.testing.assert_close(denoising, explicit, rtol=0, atol=1e-7)


def test_denoising_gradient_by_monte_carlo_is_within_its_error() -> None:
    mixture, sigma, start = linear_problem()
    noised = GaussianMixture(mixture.means, (mixture.stds**2 + sigma**2).sqrt(), mixture.weights)
    x, w = quadrature(noised)
    second = (w[:, None] * x).T @ x
    wanted = start @ second + torch.eye(2, dtype=torch.float64)
    torch.manual_seed(0)
    batches = []
    for seed in range(40):
        matrix = nn.Parameter(start)
        x0 = mixture.sample(2000, seed)
        loss = kernel_score_matching(partial(nn.functional.linear, weight=matrix), x0, lambda x0: Normal(x0, sigma))
        batches.append(torch.autograd.grad(loss.mean(), matrix)[0])
    gradients = torch.stack(batches)
    error = (gradients.mean(0) - wanted).abs()
    stderr = gradients.std(0) / math.sqrt(len(gradients))
    assert bool((error < 4.5 * stderr).all()) and float(stderr.max()) < 0.02


def test_kernels_of_elements_and_of_samples_agree() -> None:
    x0, noisy = torch.randn(7, 3, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64)
    of_elements = kernel_score_matching(torch.zeros_like, x0, lambda x0: Normal(x0, 0.5), noisy=noisy)
    eye = 0.25 * torch.eye(3, dtype=torch.float64)
    of_samples = kernel_score_matching(torch.zeros_like, x0, lambda x0: MultivariateNormal(x0, eye), noisy=noisy)
    torch.testing.assert_close(of_elements, ((noisy - x0) / 0.25).square().sum(1) / 2)
    torch.testing.assert_close(of_samples, of_elements)
    weight = torch.arange(7.0)
    weighted = kernel_score_matching(torch.zeros_like, x0, lambda x0: Normal(x0, 0.5), noisy=noisy, weight=weight)
    torch.testing.assert_close(weighted, weight * of_elements)


def test_laplace_kernel_recovers_the_score_of_the_laplace_noised_density() -> None:
    """Two points noised by Laplace(b): p = sum of two Laplace densities, whose score is known.

    The model has one value in each of many bins, so that its minimiser is the mean of the true score over a bin.
    """
    b, points, prob = 0.5, torch.tensor([-1.0, 1.0], dtype=torch.float64), torch.tensor([0.3, 0.7], dtype=torch.float64)
    n = 400_000
    torch.manual_seed(0)
    x0 = points[torch.multinomial(prob, n, replacement=True)].reshape(-1, 1)
    x = Laplace(x0, b).sample()
    edges = torch.linspace(-3, 3, 25, dtype=torch.float64)
    table = nn.Parameter(torch.zeros(26, 1, dtype=torch.float64))
    bins = torch.bucketize(x, edges)[:, 0]
    loss = kernel_score_matching(lambda x: table[bins], x0, lambda x0: Laplace(x0, b), noisy=x)
    (gradient,) = torch.autograd.grad(loss.sum(), table)
    count = torch.bincount(bins, minlength=26)
    fitted = -gradient[:, 0] / count  # the loss is quadratic with curvature `count`: one Newton step from 0

    def density(y: Tensor) -> Tensor:
        return (prob * torch.exp(-(y[:, None] - points).abs() / b) / (2 * b)).sum(1)

    # The mean of p'/p over a bin with density p is the difference of p over the mass between its ends.
    def mass_below(y: Tensor) -> Tensor:
        gap = (y[:, None] - points) / b
        return (prob * torch.where(gap < 0, gap.exp() / 2, 1 - (-gap).exp() / 2)).sum(1)

    wanted = density(edges).diff() / mass_below(edges).diff()
    stderr = (1 / b) / count[1:-1].sqrt()
    assert bool(((fitted[1:-1] - wanted).abs() < 4 * stderr).all())
    assert float(wanted.max() - wanted.min()) > 3


def test_multilevel_is_one_level_at_a_time_with_weight_sigma_squared() -> None:
    x0, noise = torch.randn(9, 2, dtype=torch.float64), torch.randn(9, 2, dtype=torch.float64)
    sigmas, model = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64), Waves()
    chosen = []

    def score(x: Tensor, sigma: Tensor) -> Tensor:
        chosen.append(sigma)
        return model(x)

    loss = multilevel_score_matching(score, x0, sigmas, noise=noise, generator=torch.Generator().manual_seed(1))
    sigma = chosen[0]
    assert set(sigma.tolist()) == set(sigmas.tolist())
    wanted = kernel_score_matching(
        model, x0, lambda x0: Normal(x0, sigma[:, None]), weight=sigma**2, noisy=x0 + sigma[:, None] * noise
    )
    torch.testing.assert_close(loss, wanted)


@pytest.mark.parametrize(
    ("call", "error", "word"),
    [
        (lambda x: implicit_score_matching(Waves(), x.long()), TypeError, "x has dtype"),
        (lambda x: implicit_score_matching(lambda x: x[:, :1], x), ValueError, "the score has shape"),
        (lambda x: explicit_score_matching(Waves(), x, x[:1]), ValueError, "target has shape"),
        (lambda x: sliced_score_matching(Waves(), x, v=x[:, :1]), ValueError, "v has shape"),
        (lambda x: sliced_score_matching(Waves(), x, projections=0), ValueError, "projections=0"),
        (lambda x: sliced_score_matching(Waves(), x[:, 0]), ValueError, "x has shape"),
        (lambda x: finite_difference_score_matching(Waves(), x, step=0), ValueError, "step=0"),
        (lambda x: kernel_score_matching(Waves(), x, lambda y: Normal(y[:1], 1.0)), ValueError, "the noised data"),
        (lambda x: multilevel_score_matching(Waves(), x, torch.tensor([1.0, 0.0])), ValueError, "sigmas has shape"),
    ],
)
def test_bad_input_is_named(call: Callable[[Tensor], Tensor], error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        call(torch.zeros(4, 2, dtype=torch.float64))
