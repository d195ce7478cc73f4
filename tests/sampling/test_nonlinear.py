"""General processes against the Cox-Ingersoll-Ross process, whose laws are known, and against the linear ones."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from noise_doubles import Constant as ConstantNoise
from scipy import stats
from torch import Tensor

from sdescore import SDE, VPSDE, GaussianMixture, ReverseProcess
from sdescore.processes.nonlinear import CIRSDE
from sdescore.processes.simulation import simulate
from sdescore.sampling.nonlinear import FlowHeun, ItoEuler, NonlinearReverse, reverse_sample

CIR = CIRSDE()
SCALE = 0.03  # of the data's Gamma law, whose shape is the stationary one's


def scale(t: Tensor) -> Tensor:
    """x0 ~ Gamma(shape, SCALE) makes x_t ~ Gamma(shape, scale(t)): the Laplace transform keeps its form."""
    decay = torch.exp(-CIR.kappa * t)
    return SCALE * decay + CIR.theta / CIR.shape * (1 - decay)


def exact_score(x: Tensor, t: Tensor) -> Tensor:
    return (CIR.shape - 1) / x.clamp(min=1e-3) - 1 / scale(t)[:, None]


class Coupled(SDE):
    """A diffusion that depends on the other elements too."""

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return -(x**3)

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        return (1 + x.square() + x.flip(1)) * (1 + t)

    def prior_sample(self, shape: tuple[int, ...], *options: object) -> Tensor:
        raise AssertionError

    def prior_log_prob(self, x: Tensor) -> Tensor:
        raise AssertionError


class Constant(Coupled):
    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.ones_like(x)


class Geometric(Constant):
    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize("method", ["euler", "milstein"])
def test_simulation_has_the_known_transition_law(method: str) -> None:
    x0, t, n = 2.0, 0.7, 10_000
    grid = torch.linspace(0, t, 201, dtype=torch.float64) ** 1.5 / t**0.5  # uneven
    path = simulate(CIR, torch.full((n, 1), x0, dtype=torch.float64), grid, method=method)
    assert path.shape == (201, n, 1) and torch.equal(path[0], torch.full((n, 1), x0, dtype=torch.float64))
    c = CIR.nu**2 * (1 - math.exp(-CIR.kappa * t)) / (4 * CIR.kappa)
    law = stats.ncx2(2 * CIR.shape, x0 * math.exp(-CIR.kappa * t) / c, scale=c)
    assert stats.kstest(path[-1, :, 0].numpy(), law.cdf).pvalue > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_path_leaves_zero(dtype: torch.dtype) -> None:
    """Where the root's slope is infinite, the drift alone moves a path."""
    path = simulate(CIR, torch.zeros(3, 1, dtype=dtype), torch.tensor([0.0, 0.1, 0.2]))
    torch.testing.assert_close(path[1], torch.full((3, 1), 0.1 * CIR.kappa * CIR.theta, dtype=dtype))
    assert bool((path[2] != path[2, 0]).any())


def test_milstein_has_strong_order_one() -> None:
    """On dx = x dw the path is exp(w - t / 2): the error of x_1 halves with the step, where Euler's falls by sqrt 2."""
    n = 4000

    def error(method: str, steps: int) -> float:
        grid = torch.linspace(1e-5, 1, steps + 1, dtype=torch.float64)
        x0 = torch.ones(n, 1, dtype=torch.float64)
        # The noise of a seed is drawn in the order of the steps: that of a process with constant diffusion is w itself.
        w = simulate(Constant(), torch.zeros_like(x0), grid, method="euler", seed=3)[-1]
        ours = simulate(Geometric(), x0, grid, method=method, seed=3)[-1]
        return float((ours - torch.exp(w - 0.5)).abs().mean())  # whose scatter is small: squares have heavy tails

    assert math.log2(error("milstein", 16) / error("milstein", 64)) / 2 == pytest.approx(1, abs=0.15)
    assert math.log2(error("euler", 16) / error("euler", 64)) / 2 == pytest.approx(0.5, abs=0.15)


def test_divergence_by_autograd() -> None:
    x, t = torch.randn(5, 2, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    g = 1 + x.square() + x.flip(1)
    torch.testing.assert_close(Coupled().diffusion_divergence(x, t), 2 * g * 2 * x * 1.5**2)
    y = x.exp()
    torch.testing.assert_close(SDE.diffusion_divergence(CIR, y, t), CIR.diffusion_divergence(y, t))
    assert torch.equal(SDE.diffusion_divergence(VPSDE(), x, t), torch.zeros_like(x))


def test_a_linear_process_is_a_special_case() -> None:
    sde, mixture = VPSDE(), GaussianMixture([[-1.0, 0.0], [1.0, 0.5]], 0.5, dtype=torch.float64)
    denoiser = mixture.denoiser(sde)
    x, t = torch.randn(6, 2, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64)
    general, linear = NonlinearReverse(sde, denoiser.score), ReverseProcess(sde, denoiser)
    torch.testing.assert_close(general.drift(x, t), linear.drift(x, t))
    torch.testing.assert_close(general.velocity(x, t), linear.velocity(x, t))


def test_a_step_of_euler_maruyama() -> None:
    """On CIR, whose diffusion depends on the state: x - h (f - d(g^2)/dx - g^2 score) + g sqrt(h) z, by hand."""
    sde, x, z = CIRSDE(), torch.tensor([[0.4], [2.5]], dtype=torch.float64), 0.7
    t, s = torch.tensor([0.5, 0.3], dtype=torch.float64)
    reverse = NonlinearReverse(sde, lambda x, t: -x)
    found = ItoEuler().step(reverse, x, t, s, ConstantNoise(z))
    square = sde.diffusion(x, t).square()
    drift = sde.drift(x, t) - square / x + square * x  # g^2 is proportional to x
    torch.testing.assert_close(found, x - 0.2 * drift + (0.2 * square).sqrt() * z, rtol=1e-12, atol=0)


def test_the_flow_stands_still_in_the_stationary_law() -> None:
    x = torch.linspace(0.1, 4, 50, dtype=torch.float64).reshape(-1, 1)
    at_rest = NonlinearReverse(CIR, lambda x, t: (CIR.shape - 1) / x - CIR.shape / CIR.theta)
    torch.testing.assert_close(at_rest.velocity(x, torch.tensor(1.0)), torch.zeros_like(x))


@pytest.mark.parametrize("solver", [ItoEuler(), "milstein", FlowHeun()], ids=str)
def test_exact_score_takes_the_prior_to_the_data(solver: object) -> None:
    n = 10_000
    times = CIR.T * torch.linspace(1, 0, 301, dtype=torch.float64) ** 2
    x = reverse_sample(CIR, exact_score, (n, 1), solver=solver, times=times, dtype=torch.float64)  # type: ignore[arg-type]
    distance = stats.kstest(x[:, 0].numpy(), stats.gamma(CIR.shape, scale=SCALE).cdf).statistic
    assert distance < 0.02


def test_prior_is_the_stationary_gamma() -> None:
    x = CIR.prior_sample((10_000, 1), torch.Generator().manual_seed(0), dtype=torch.float64)
    law = stats.gamma(CIR.shape, scale=CIR.theta / CIR.shape)
    assert stats.kstest(x[:, 0].numpy(), law.cdf).pvalue > 1e-3
    pairs = x[:40].reshape(20, 2)
    np.testing.assert_allclose(CIR.prior_log_prob(pairs), law.logpdf(pairs.numpy()).sum(1))
    assert float(CIR.prior_log_prob(-pairs[:1])) == -math.inf


def test_samples_depend_on_seed_and_number_alone() -> None:
    whole = reverse_sample(CIR, exact_score, (5, 1), steps=20)
    assert torch.equal(reverse_sample(CIR, exact_score, (2, 1), steps=20, index_offset=3), whole[3:])
    assert not torch.equal(reverse_sample(CIR, exact_score, (5, 1), steps=20, seed=1), whole)


@pytest.mark.parametrize(
    ("call", "error", "word"),
    [
        (lambda x: CIRSDE(nu=2.0), ValueError, "nu"),
        (lambda x: simulate(CIR, x.long(), torch.tensor([0.0, 1.0])), TypeError, "x0"),
        (lambda x: simulate(CIR, x, [0.0, 1.0]), TypeError, "times is a list"),  # type: ignore[arg-type]
        (lambda x: simulate(CIR, x, torch.tensor([1.0, 0.0])), ValueError, "times"),
        (lambda x: simulate(CIR, x, torch.tensor([0.0, 9.0])), ValueError, "times spans"),
        (lambda x: simulate(Coupled(), 1e13 * x, torch.tensor([0.1, 1.0])), FloatingPointError, "not finite"),
        (lambda x: simulate(CIR, x, torch.tensor([0.0, 1.0]), method="srk"), ValueError, "method='srk'"),
        (lambda x: simulate(CIR, x * math.nan, torch.tensor([0.0, 1.0])), ValueError, "x0 is not finite"),
        (lambda x: simulate(CIR, x[:0], torch.tensor([0.0, 1.0])), ValueError, r"x0 has shape \(0, 1\)"),
        (lambda x: reverse_sample(CIR, exact_score, (4,)), ValueError, "shape"),
        (lambda x: reverse_sample(CIR, exact_score, (4, 1), steps=5.5), TypeError, "steps=5.5"),  # type: ignore[arg-type]
        (lambda x: reverse_sample(CIR, exact_score, (4, 1), times=[1.0, 0.0]), TypeError, "times is a list"),  # type: ignore[arg-type]
        (lambda x: reverse_sample(CIR, exact_score, (4, 1), solver="heun"), ValueError, "'heun' needs a closed-form"),
        (lambda x: reverse_sample(CIR, lambda x, t: 1, (4, 1), steps=3), ValueError, "net returned int"),  # type: ignore[arg-type,return-value]
        (lambda x: reverse_sample(CIR, exact_score, (4, 1), times=torch.tensor([0.0, 1.0])), ValueError, "times"),
        (lambda x: reverse_sample(CIR, lambda x, t: t, (4, 1), steps=3), ValueError, "net returned"),
        (lambda x: reverse_sample(CIR, lambda x, t: x / 0, (4, 1), steps=3), FloatingPointError, "not finite"),
    ],
)
def test_bad_input_is_named(call: Callable[[Tensor], object], error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        call(torch.ones(4, 1))
