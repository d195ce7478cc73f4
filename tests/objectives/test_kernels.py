"""Denoising score matching with any kernel, against closed forms, explicit matching and the processes."""

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from plane_quadrature import OVERLAPPING, Waves, quadrature
from torch import Tensor, nn
from torch.distributions import (
    Cauchy,
    Distribution,
    Laplace,
    MultivariateNormal,
    Normal,
    Poisson,
    Uniform,
)

from sdescore import Denoiser, GaussianMixture, KarrasSDE
from sdescore.objectives import denoising_score_matching
from sdescore.objectives.score_matching import explicit_score_matching

SIGMA = 0.6
NOISED = GaussianMixture(OVERLAPPING.means, (OVERLAPPING.stds**2 + SIGMA**2).sqrt(), OVERLAPPING.weights)
START = torch.tensor([[-0.5, 0.1], [0.3, -0.9]], dtype=torch.float64)


def at(law: Distribution, x: Tensor) -> Distribution:
    """The distribution whose next draws are x."""
    law.sample = lambda *_: x.clone()  # type: ignore[method-assign]
    return law


def test_denoising_has_the_gradient_of_explicit_matching_on_the_noised_density() -> None:
    """For s(x) = A x both gradients by A are E[(A x - grad log p) x^T] = A E[x x^T] + I, over the noised x."""
    matrix = nn.Parameter(START)
    x0, w0 = quadrature(OVERLAPPING, 12)
    nodes, mass = np.polynomial.hermite_e.hermegauss(6)
    eps = torch.tensor(list(itertools.product(nodes, nodes)))
    w = torch.outer(w0, torch.tensor(np.outer(mass, mass).ravel() / (2 * math.pi))).ravel()
    clean, noise = x0.repeat_interleave(len(eps), 0), eps.repeat(len(x0), 1)
    noisy = clean + SIGMA * noise
    loss = denoising_score_matching(
        lambda x: x @ matrix.T, clean, lambda x0: at(Normal(x0, SIGMA), noisy), weighting=1.0
    )
    (denoising,) = torch.autograd.grad(w @ loss, matrix)
    second = (w0[:, None] * x0).T @ x0 + SIGMA**2 * torch.eye(2, dtype=torch.float64)
    torch.testing.assert_close(denoising, START @ second + torch.eye(2, dtype=torch.float64), rtol=0, atol=1e-10)

    x, w = quadrature(NOISED)
    (explicit,) = torch.autograd.grad(w @ explicit_score_matching(lambda x: x @ matrix.T, x, NOISED.score(x)), matrix)
    torch.testing.assert_close(denoising, explicit, rtol=0, atol=1e-7)


def test_denoising_gradient_by_monte_carlo_is_within_its_error() -> None:
    x, w = quadrature(NOISED)
    second = (w[:, None] * x).T @ x
    wanted = START @ second + torch.eye(2, dtype=torch.float64)
    batches = []
    for seed in range(40):
        matrix = nn.Parameter(START)
        loss = denoising_score_matching(
            partial(nn.functional.linear, weight=matrix),
            OVERLAPPING.sample(2000, seed),
            lambda x0: Normal(x0, SIGMA),
            weighting=1.0,
            generator=torch.Generator().manual_seed(seed),
        )
        batches.append(torch.autograd.grad(loss.mean(), matrix)[0])
    gradients = torch.stack(batches)
    error = (gradients.mean(0) - wanted).abs()
    stderr = gradients.std(0) / math.sqrt(len(gradients))
    assert bool((error < 4.5 * stderr).all()) and float(stderr.max()) < 0.02


def test_kernels_of_elements_and_of_samples_agree() -> None:
    x0, noisy = torch.randn(7, 3, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64)
    eye = 0.25 * torch.eye(3, dtype=torch.float64)
    kernels: list[Callable[[Tensor], Distribution]] = [
        lambda x0: at(Normal(x0, 0.5), noisy),
        lambda x0: at(MultivariateNormal(x0, eye), noisy),
    ]
    for weighting in (1.0, torch.arange(7.0), "simple"):
        of_elements, of_samples = (
            denoising_score_matching(torch.zeros_like, x0, kernel, weighting=weighting) for kernel in kernels
        )
        factor = 0.25 if isinstance(weighting, str) else weighting
        torch.testing.assert_close(of_elements, factor * ((noisy - x0) / 0.25).square().sum(1) / 2)
        torch.testing.assert_close(of_samples, of_elements)


def test_a_kernel_of_many_levels_is_the_process_with_the_same_weight() -> None:
    """KarrasSDE noises with sigma = t: the loss on its noise equals that of Normal(x0, sigma) weighted by sigma^2."""
    x0, noise = torch.randn(9, 2, dtype=torch.float64), torch.randn(9, 2, dtype=torch.float64)
    sde, model = KarrasSDE(0.01, 10.0), Waves()
    sigma = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64).repeat(3)
    denoiser = Denoiser(model, sde, "score", data_std=0.8)
    process = denoising_score_matching(denoiser, x0, u=(sigma - sde.t_min) / (sde.T - sde.t_min), eps=noise)
    rows = sigma[:, None]
    levels = denoising_score_matching(
        lambda x: denoiser.score(x, sigma), x0, lambda x0: at(Normal(x0, rows), x0 + rows * noise)
    )
    torch.testing.assert_close(levels, process)


def test_laplace_kernel_recovers_the_score_of_the_laplace_noised_density() -> None:
    """Two points noised by Laplace(b): p = sum of two Laplace densities, whose score is known.

    The model has one value in each of many bins, so that its minimiser is the mean of the true score over a bin.
    """
    b, points, prob = 0.5, torch.tensor([-1.0, 1.0], dtype=torch.float64), torch.tensor([0.3, 0.7], dtype=torch.float64)
    n = 400_000
    torch.manual_seed(0)
    x0 = points[torch.multinomial(prob, n, replacement=True)].reshape(-1, 1)
    edges = torch.linspace(-3, 3, 25, dtype=torch.float64)
    table = nn.Parameter(torch.zeros(26, 1, dtype=torch.float64))
    seen = []

    def score(x: Tensor) -> Tensor:
        seen.append(torch.bucketize(x, edges)[:, 0])
        return table[seen[0]]

    loss = denoising_score_matching(score, x0, lambda x0: Laplace(x0, b), weighting=1.0)
    (gradient,) = torch.autograd.grad(loss.sum(), table)
    count = torch.bincount(seen[0], minlength=26)
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


def test_draws_follow_the_generator_and_leave_torchs_own_alone() -> None:
    x0 = torch.zeros(50, 2)

    def loss(seed: int) -> Tensor:
        draw = torch.Generator().manual_seed(seed)
        return denoising_score_matching(torch.zeros_like, x0, lambda x0: Normal(x0, 1.0), generator=draw)

    before = torch.get_rng_state()
    assert torch.equal(loss(0), loss(0)) and not torch.equal(loss(0), loss(1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_dtype_a_single_sample_and_conditions(dtype: torch.dtype) -> None:
    gain = torch.tensor([2.0], requires_grad=True)
    x0 = torch.zeros(1, 3, 2, dtype=dtype, requires_grad=True)
    loss = denoising_score_matching(
        lambda x, gain: -x * gain.to(x), x0, lambda x0: Laplace(x0, 0.5), condition={"gain": gain}
    )
    assert loss.shape == (1,) and loss.dtype == dtype
    loss.sum().backward()
    assert gain.grad is not None and float(gain.grad) != 0


@pytest.mark.parametrize(
    ("call", "error", "word"),
    [
        (lambda x: denoising_score_matching(Waves(), x), TypeError, "model is a Waves"),
        (lambda x: denoising_score_matching(Waves(), x.tolist(), kernel), TypeError, "x0 is a list"),
        (torch.inference_mode()(lambda x: denoising_score_matching(Waves(), x, kernel)), RuntimeError, "no_grad"),
        (lambda x: denoising_score_matching(Waves(), x, Normal(x, 1.0)), TypeError, "kernel is"),  # type: ignore[arg-type]
        (lambda x: denoising_score_matching(Waves(), x, torch.zeros_like), TypeError, "kernel returned"),  # type: ignore[arg-type]
        (
            lambda x: denoising_score_matching(Waves(), x, lambda y: Normal(y[:1], 1.0), weighting=1),
            ValueError,
            "kernel",
        ),
        (lambda x: denoising_score_matching(Waves(), x, lambda y: Uniform(y, y + 1)), ValueError, "has no score"),
        (lambda x: denoising_score_matching(Waves(), x, lambda y: Poisson(y + 1)), ValueError, "has no score"),
        (lambda x: denoising_score_matching(Waves(), x, lambda y: Cauchy(y, 1.0)), ValueError, "of a Cauchy"),
        (lambda x: denoising_score_matching(Waves(), x, kernel, weighting="edm"), ValueError, "weighting='edm'"),
        (lambda x: denoising_score_matching(Waves(), x, kernel, weighting=-1.0), ValueError, "negative"),
        (lambda x: denoising_score_matching(Waves(), x, kernel, weighting=x), ValueError, "weighting has shape"),
        (
            lambda x: denoising_score_matching(Waves(), x, kernel, time_distribution="importance"),
            ValueError,
            "with a kernel",
        ),
        (lambda x: denoising_score_matching(Waves(), x, kernel, eps=x), ValueError, "with a kernel"),
        (lambda x: denoising_score_matching(lambda x: x[:1], x, kernel), ValueError, "the score has shape"),
        (lambda x: denoising_score_matching(len, x, kernel), TypeError, "the score is a int"),  # type: ignore[arg-type]
        (lambda x: denoising_score_matching(Waves(), x[:0], kernel), ValueError, "x0 has shape"),
        (lambda x: denoising_score_matching(Waves(), x / 0, kernel), ValueError, "x0 is not finite"),
        (
            lambda x: denoising_score_matching(Denoiser(Waves(), KarrasSDE()), x, weighting=1.0),
            TypeError,
            "weighting=1.0",
        ),
    ],
)
def test_bad_input_is_named(call: Callable[[Any], Tensor], error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        call(torch.zeros(4, 2, dtype=torch.float64))


def kernel(x0: Tensor) -> Distribution:
    return Normal(x0, 1.0)
