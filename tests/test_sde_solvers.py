"""Stochastic solvers: the law of their samples, their orders, and parity with the papers' formulas restated here."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import FIVE
from scipy.stats import chi2_contingency, ks_2samp
from torch import Tensor

from sdescore import (
    VESDE,
    VPSDE,
    DiscreteSDE,
    GaussianMixture,
    KarrasSDE,
    LinearSDE,
    OneStep,
    Reverse,
    Solver,
    find_solver,
    karras,
    sample,
    trajectory,
    uniform_lambda,
)
from sdescore.noise import Noise, White
from sdescore.solvers import (
    HEUN,
    Again,
    AnnealedLangevin,
    Churn,
    EulerMaruyama,
    Langevin,
    PredictorCorrector,
    Restart,
    ReverseDiffusion,
)

LEVEL = 1e-3

# Noise that is not random ---------------------------------------------------------------------------------------------


class Constant:
    """Every draw is one value."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return torch.full_like(x, self.value)

    def area(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return torch.full_like(x, self.value)

    def fresh(self, x: Tensor) -> Tensor:
        return torch.full_like(x, self.value)

    def take(self, index: Tensor) -> "Constant":
        return self


class Replay:
    """Draws that were made before, in their order."""

    def __init__(self, draws: Sequence[Tensor]) -> None:
        self.draws = iter(draws)

    def __call__(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return next(self.draws)

    def area(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return next(self.draws)

    def fresh(self, x: Tensor) -> Tensor:
        return next(self.draws)

    def take(self, index: Tensor) -> "Replay":
        raise NotImplementedError


class Louder:
    """The noise of another source, times a factor."""

    def __init__(self, noise: Noise, factor: float) -> None:
        self.noise, self.factor = noise, factor

    def __call__(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return self.factor * self.noise(x, t, s)

    def area(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return self.factor * self.noise.area(x, t, s)

    def fresh(self, x: Tensor) -> Tensor:
        return self.factor * self.noise.fresh(x)

    def take(self, index: Tensor) -> "Louder":
        return Louder(self.noise.take(index), self.factor)


class WithNoise:
    """A solver that is handed its noise, times a factor."""

    def __init__(self, solver: Solver, factor: float) -> None:
        self.solver, self.factor = solver, factor

    def solve(self, reverse: Reverse, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        return iter(self.solver.solve(reverse, x, times, Louder(noise, self.factor)))


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def draws(count: int, shape: tuple[int, ...]) -> list[Tensor]:
    return list(torch.randn(count, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(7)))


def one_step(name: str) -> OneStep:
    solver = find_solver(name)
    assert isinstance(solver, OneStep)
    return solver


# The law of the samples -----------------------------------------------------------------------------------------------


def two_sample(x: Tensor, y: Tensor, law: GaussianMixture) -> float:
    """A p-value for x and y (n, *shape) being samples of one law: the least of several tests, times their number.

    Kolmogorov-Smirnov along 16 directions and for the log-density, which sees the spread within the modes; chi-squared
    for the shares of the modes.
    """
    directions = torch.randn(law.shape[0], 16, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
    features = [torch.cat([z @ directions, law.log_prob(z).unsqueeze(1)], 1).double().numpy() for z in (x, y)]
    values = [float(ks_2samp(a, b, method="asymp").pvalue) for a, b in zip(*(f.T for f in features), strict=True)]
    nearest = [torch.bincount(law.log_joint(z).argmax(1), minlength=len(law.means)) for z in (x, y)]
    values.append(float(chi2_contingency(torch.stack(nearest).numpy()).pvalue))
    return min(1.0, len(values) * min(values))


def p_of(solver: str | Solver, sde: LinearSDE, oracle: GaussianMixture, times: Tensor, n: int) -> float:
    """Of n samples of a solver against n exact ones, both at times[-1]; the start is exact, at times[0]."""
    oracle = oracle.to(torch.float32)
    start = oracle.at(sde, times[0]).sample(n, seed=1)
    *_, before, _ = trajectory(sde, oracle.denoiser(sde), x=start, solver=solver, times=times, seed=2)
    end = oracle.at(sde, times[-1])
    return two_sample(before, end.sample(n, seed=3), end)


# Without the inflation of its noise, which is wrong for an exact net, and at every level.
CHURN = Churn(amount=40.0, low=0.0, high=math.inf, inflation=1.0)
SOLVERS: dict[str, str | Solver] = {
    "ddpm": "ddpm",
    "euler-maruyama": "euler-maruyama",
    "reverse-diffusion": "reverse-diffusion",
    "predictor-corrector": "predictor-corrector",
    "em-langevin": PredictorCorrector(EulerMaruyama(), Langevin(snr=0.16)),
    "annealed-langevin": "annealed-langevin",
    "churn": CHURN,
    "sde-dpm++": "sde-dpm++",
    "sa": "sa",
    "torchsde": "torchsde",
}


@pytest.mark.parametrize("name", SOLVERS)
def test_law_in_the_plane(name: str, main_sde: LinearSDE, oracle2: GaussianMixture) -> None:
    """From T to a noise-to-signal ratio of .1, in 500 steps: 4,000 samples are as exact ones."""
    assert p_of(SOLVERS[name], main_sde, oracle2, uniform_lambda(0.1)(main_sde, 500), 4000) > LEVEL


def times64(sde: LinearSDE) -> Tensor:
    return sde.time(torch.linspace(-2.0, 1.6, 500, dtype=torch.float64))


@pytest.mark.parametrize("name", SOLVERS)
def test_law_in_64_dimensions(name: str, oracle64: GaussianMixture) -> None:
    """While the modes form, lam from -2 to 1.6, in 500 steps: 1,000 samples are as exact ones."""
    assert p_of(SOLVERS[name], VPSDE(), oracle64, times64(VPSDE()), 1000) > LEVEL


@pytest.mark.slow
@pytest.mark.parametrize("sde", FIVE[1:], ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize("name", SOLVERS)
def test_law_in_64_dimensions_on_the_other_processes(name: str, sde: LinearSDE, oracle64: GaussianMixture) -> None:
    assert p_of(SOLVERS[name], sde, oracle64, times64(sde), 1000) > LEVEL


SECOND: dict[str, tuple[str | Solver, int]] = {
    "sra": ("sra", 40),
    "dpm2-ancestral": ("dpm2-ancestral", 100),
    "dpm++2s-ancestral": ("dpm++2s-ancestral", 100),
    "restart": (Restart(HEUN, (Again(0.2, 1.0, 3, 6),)), 60),
}


@pytest.mark.parametrize("name", SECOND)
def test_law_at_weak_order_two(name: str, oracle2: GaussianMixture, oracle64: GaussianMixture) -> None:
    """The same in a tenth of the steps or so: on VP in the plane, on VE in 64 dimensions."""
    solver, steps = SECOND[name]
    assert p_of(solver, VPSDE(), oracle2, uniform_lambda(0.1)(VPSDE(), steps), 4000) > LEVEL
    times = VESDE().time(torch.linspace(-2.0, 1.6, steps, dtype=torch.float64))
    assert p_of(solver, VESDE(), oracle64, times, 1000) > LEVEL
    wrong = WithNoise(find_solver(solver), 1.15)
    assert p_of(wrong, VPSDE(), oracle2, uniform_lambda(0.1)(VPSDE(), steps), 4000) < LEVEL


@pytest.mark.slow
@pytest.mark.parametrize("name", SECOND)
def test_law_at_weak_order_two_on_every_process(name: str, main_sde: LinearSDE, oracle2: GaussianMixture) -> None:
    solver, steps = SECOND[name]
    assert p_of(solver, main_sde, oracle2, uniform_lambda(0.1)(main_sde, steps), 4000) > LEVEL


@pytest.mark.parametrize("sign", [-1, 1])
def test_wrong_noise_is_seen(sign: int, oracle2: GaussianMixture, oracle64: GaussianMixture) -> None:
    """The tests above fail for noise that is 10 % off in the plane, or 5 % in 64 dimensions."""
    sde = VPSDE()
    wrong = WithNoise(find_solver("euler-maruyama"), 1 + 0.1 * sign)
    assert p_of(wrong, sde, oracle2, uniform_lambda(0.1)(sde, 500), 4000) < LEVEL
    wrong = WithNoise(find_solver("ddpm"), 1 + 0.05 * sign)
    assert p_of(wrong, sde, oracle64, times64(sde), 1000) < LEVEL


def test_wrong_shares_are_seen(oracle2: GaussianMixture) -> None:
    other = GaussianMixture(oracle2.means, oracle2.stds, oracle2.weights + double(0.08, -0.08, 0.0))
    assert two_sample(other.sample(4000, 1), oracle2.sample(4000, 2), oracle2) < LEVEL
    assert two_sample(oracle2.sample(4000, 1), oracle2.sample(4000, 2), oracle2) > LEVEL


# Orders ---------------------------------------------------------------------------------------------------------------


def slope(steps: Sequence[int], errors: Sequence[float]) -> float:
    return -float(np.polyfit(np.log(steps), np.log(errors), 1)[0])


def weak_errors(solver: OneStep, sde: LinearSDE, steps: Sequence[int]) -> np.ndarray:
    """Errors (steps, functions) of means over a mixture in one dimension, without any sampling.

    A step is x_s = m(x_t) + c z, so that the density of x_s is an integral over that of x_t, here by the trapezoid
    rule.
    """
    mixture = GaussianMixture(double(-1.0, 0.8).unsqueeze(1), [0.3, 0.5], [0.4, 0.6])
    reverse, found = Reverse(sde, mixture.denoiser(sde)), []
    unit = torch.linspace(-6, 6, 601, dtype=torch.float64)
    functions = torch.stack([unit, unit**2, unit**4, torch.cos(2 * unit)])
    for count in steps:
        times = sde.time(torch.linspace(-1.0, 1.5, count + 1, dtype=torch.float64))
        scale = torch.hypot(sde.alpha(times), sde.sigma(times))
        start, exact = (
            mixture.at(sde, times[i]).log_prob((scale[i] * unit).unsqueeze(1)).exp() * scale[i] for i in (0, -1)
        )
        density = start
        for (t, s), (before, after) in zip(pairwise(times), pairwise(scale), strict=True):
            x = (before * unit).unsqueeze(1)
            mean = solver.step(reverse, x, t, s, Constant(0.0))
            spread = solver.step(reverse, x, t, s, Constant(1.0)) - mean
            assert float((spread - spread[0]).abs().max()) < 1e-9 and float(spread[0]) > 0
            kernel = torch.exp(-((after * unit.unsqueeze(1) - mean.squeeze(1)) ** 2) / (2 * spread[0] ** 2))
            density = kernel @ density / (math.sqrt(2 * math.pi) * spread[0] / after) * (unit[1] - unit[0])
        assert float(density.sum() * (unit[1] - unit[0])) == pytest.approx(1, abs=1e-6)
        found.append((functions @ (density - exact)).abs().numpy() * float(unit[1] - unit[0]))
    return np.array(found)


@pytest.mark.parametrize("name", ["euler-maruyama", "ddpm", "reverse-diffusion", "torchsde"])
def test_weak_order_one(name: str, main_sde: LinearSDE) -> None:
    steps = (32, 64, 128)
    errors = weak_errors(one_step(name), main_sde, steps)
    whole = np.linalg.norm(errors, axis=1).tolist()
    print(f"weak order {slope(steps, whole):.2f}, errors {whole}")
    assert slope(steps, whole) >= 0.85
    assert float(errors[-1].max()) < 0.1


def variance_error(solver: Solver, sde: LinearSDE, steps: int) -> float:
    """Of the end's variance, for Gaussian data, where a linear solver's state is a sum over its draws.

    Row i of a batch has a 1 as its draw i and zeros elsewhere; two more rows tell what the starting state adds.
    """
    mixture = GaussianMixture(torch.zeros(1, 1, dtype=torch.float64), 0.5)
    times = sde.time(torch.linspace(-1.0, 1.5, steps + 1, dtype=torch.float64))
    impulses = [row.unsqueeze(1) for row in torch.eye(steps + 1, dtype=torch.float64)[:steps]]
    start = torch.zeros(steps + 1, 1, dtype=torch.float64)
    start[-1] = 1
    *_, end = solver.solve(Reverse(sde, mixture.denoiser(sde)), start, times, Replay(impulses))
    first, last = (float(mixture.at(sde, t).stds) ** 2 for t in times[[0, -1]])
    return abs(float(end[:-1].square().sum() + end[-1].square() * first) / last - 1)


@pytest.mark.parametrize(("name", "order"), [("euler-maruyama", 1), ("ddpm", 1), ("sde-dpm++", 2), ("sa", 2)])
def test_weak_order_of_the_variance(name: str, order: int, main_sde: LinearSDE) -> None:
    steps = (32, 64, 128)
    errors = [variance_error(find_solver(name), main_sde, count) for count in steps]
    print(f"order {slope(steps, errors):.2f}, errors {errors}")
    assert slope(steps, errors) >= order - 0.15


# Parity with the papers -----------------------------------------------------------------------------------------------


@pytest.fixture
def table() -> tuple[DiscreteSDE, Tensor, Tensor]:
    """DDPM's process, its betas and its cumulative products of 1 - beta."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    return DiscreteSDE.from_betas(betas), betas, torch.cumprod(1 - betas, 0)


INDICES = [1, 2, 100, 500, 999]


@pytest.mark.parametrize("i", INDICES)
def test_ddpm_as_published(i: int, table: tuple[DiscreteSDE, Tensor, Tensor], oracle2: GaussianMixture) -> None:
    """Ho et al. 2020, eq. 7: the posterior's mean and variance, from the table."""
    sde, beta, a = table
    x = oracle2.at(sde, i).sample(16)
    t, s = double(i, i - 1)
    data = oracle2.denoiser(sde)(x, t)
    mean = (a[i - 1].sqrt() * beta[i] * data + (1 - beta[i]).sqrt() * (1 - a[i - 1]) * x) / (1 - a[i])
    std = ((1 - a[i - 1]) / (1 - a[i]) * beta[i]).sqrt()
    reverse, z = Reverse(sde, oracle2.denoiser(sde)), draws(1, (16, 2))[0]
    assert float((one_step("ddpm").step(reverse, x, t, s, Replay([z])) - (mean + std * z)).abs().max()) < 1e-10


@pytest.mark.parametrize("i", INDICES)
def test_ddim_as_published(i: int, table: tuple[DiscreteSDE, Tensor, Tensor], oracle2: GaussianMixture) -> None:
    """Song, Meng & Ermon 2021, eq. 12 with sigma = 0, over 1 and over 50 entries of the table."""
    sde, _, a = table
    x = oracle2.at(sde, i).sample(16)
    noise = oracle2.denoiser(sde).noise(x, double(i)[0])
    for j in {i - 1, max(i - 50, 0)}:
        data = (x - (1 - a[i]).sqrt() * noise) / a[i].sqrt()
        expected = a[j].sqrt() * data + (1 - a[j]).sqrt() * noise
        reverse = Reverse(sde, oracle2.denoiser(sde))
        found = one_step("euler").step(reverse, x, double(i)[0], double(j)[0], Constant(math.nan))
        assert float((found - expected).abs().max()) < 1e-10


@pytest.mark.parametrize("i", INDICES)
def test_reverse_diffusion_on_a_vp_table(
    i: int, table: tuple[DiscreteSDE, Tensor, Tensor], oracle2: GaussianMixture
) -> None:
    """Song et al. 2021, eq. 46 with the forward step x <- sqrt(1 - beta) x + sqrt(beta) z."""
    sde, beta, _ = table
    x, z, t = oracle2.at(sde, i).sample(16), draws(1, (16, 2))[0], double(i)[0]
    f, g = (1 - beta[i]).sqrt() * x - x, beta[i].sqrt()
    expected = x - f + g**2 * oracle2.at(sde, i).score(x) + g * z
    found = ReverseDiffusion().step(Reverse(sde, oracle2.denoiser(sde)), x, t, t - 1, Replay([z]))
    assert float((found - expected).abs().max()) < 1e-9


@pytest.mark.parametrize("i", INDICES)
def test_reverse_diffusion_on_the_ncsn_ladder(i: int, oracle2: GaussianMixture) -> None:
    """The same with the forward step x <- x + sqrt(sigma_i^2 - sigma_(i-1)^2) z."""
    sde = VESDE()
    sigmas = sde.sigmas(1000)
    t, s = double(i / 999, (i - 1) / 999)
    x, z = oracle2.at(sde, t).sample(16), draws(1, (16, 2))[0]
    g = (sigmas[i] ** 2 - sigmas[i - 1] ** 2).sqrt()
    expected = x + g**2 * oracle2.at(sde, t).score(x) + g * z
    found = ReverseDiffusion().step(Reverse(sde, oracle2.denoiser(sde)), x, t, s, Replay([z]))
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-10


def test_annealed_langevin_as_published(oracle2: GaussianMixture) -> None:
    """NCSN's loop: at each level 5 steps of e = 6.2e-6 (sigma_i / sigma_L)^2."""
    sde = VESDE()
    sigmas = sde.sigmas(30).flip(0)
    times = torch.linspace(1, 0, 30, dtype=torch.float64).clamp(min=sde.t_min)
    start, noise = oracle2.at(sde, 1.0).sample(8), draws(5 * 29, (8, 2))
    x, z = start, iter(noise)
    for i in range(1, 30):
        step = 6.2e-6 * (sigmas[i] / sigmas[-1]) ** 2
        for _ in range(5):
            x = x + step * oracle2.at(sde, times[i]).score(x) + (2 * step).sqrt() * next(z)
    *_, found = AnnealedLangevin().solve(Reverse(sde, oracle2.denoiser(sde)), start, times, Replay(noise))
    # The library's last level is t_min = 1e-5, whose sigma is .01000085.
    assert float((found - x).abs().max()) < 1e-4
    assert Langevin(snr=0.17607).snr == pytest.approx(AnnealedLangevin().corrector.snr, abs=5e-6)


def edm_times(steps: int) -> Tensor:
    """Karras et al. 2022, eq. 5, and 0."""
    i = torch.arange(steps, dtype=torch.float64)
    top, bottom = 80 ** (1 / 7), 0.002 ** (1 / 7)
    return torch.cat([(top + i / (steps - 1) * (bottom - top)) ** 7, i.new_zeros(1)])


def test_edm_deterministic_sampler_as_published(oracle2: GaussianMixture) -> None:
    """Karras et al. 2022, algorithm 1: 18 steps and 35 net calls are sample(solver="heun", steps=18) and nfe=35."""
    sde = KarrasSDE()
    denoiser, t, calls = oracle2.denoiser(sde), edm_times(18), 0
    start = 80 * draws(1, (16, 2))[0]
    x = start
    for i in range(18):
        d, calls = (x - denoiser(x, t[i])) / t[i], calls + 1
        ahead = x + (t[i + 1] - t[i]) * d
        if t[i + 1] != 0:
            d_ahead, calls = (ahead - denoiser(ahead, t[i + 1])) / t[i + 1], calls + 1
            ahead = x + (t[i + 1] - t[i]) * (d / 2 + d_ahead / 2)
        x = ahead
    assert calls == 35
    for size in ({"steps": 18}, {"nfe": 35}):
        assert float((sample(sde, denoiser, x=start, solver="heun", **size) - x).abs().max()) < 1e-10  # type: ignore
    assert find_solver("heun").calls(18) == 35  # type: ignore[attr-defined]
    assert float((karras()(sde, 18) - t[:-1]).abs().max()) < 1e-11


def test_edm_stochastic_sampler_as_published(oracle2: GaussianMixture) -> None:
    """Karras et al. 2022, algorithm 2, with the settings for ImageNet-64."""
    churn, low, high, inflation, steps = 40.0, 0.05, 50.0, 1.003, 24
    sde = KarrasSDE()
    denoiser, t = oracle2.denoiser(sde), edm_times(steps)
    start, noise = 80 * draws(1, (16, 2))[0], draws(steps, (16, 2))
    x, z = start, iter(noise)
    for i in range(steps):
        gamma = min(churn / steps, math.sqrt(2) - 1) if low <= t[i] <= high else 0.0
        raised = t[i] + gamma * t[i]
        if gamma > 0:
            x = x + (raised**2 - t[i] ** 2).sqrt() * inflation * next(z)
        d = (x - denoiser(x, raised)) / raised
        ahead = x + (t[i + 1] - raised) * d
        if t[i + 1] != 0:
            d_ahead = (ahead - denoiser(ahead, t[i + 1])) / t[i + 1]
            ahead = x + (t[i + 1] - raised) * (d / 2 + d_ahead / 2)
        x = ahead
    reverse = Reverse(sde, denoiser)
    *_, found = Churn(amount=churn, low=low, high=high, inflation=inflation).solve(
        reverse, start, karras()(sde, steps), Replay(noise)
    )
    assert float((denoiser(found, t[-2]) - x).abs().max()) < 1e-10


def test_dpm_solver_pp_2m_as_published(oracle2: GaussianMixture) -> None:
    """Lu et al. 2022b, algorithm 2, on a grid that is uniform in time."""
    sde = VPSDE()
    denoiser, t = oracle2.denoiser(sde), torch.linspace(1, 0.01, 15, dtype=torch.float64)
    alpha, sigma, lam = sde.alpha(t), sde.sigma(t), sde.alpha(t).log() - sde.sigma(t).log()
    start = draws(1, (16, 2))[0]
    x, models, h = start, [denoiser(start, t[0])], lam.diff()
    for i in range(1, len(t)):
        d = models[-1]
        if i > 1:
            r = h[i - 2] / h[i - 1]
            d = (1 + 1 / (2 * r)) * models[-1] - 1 / (2 * r) * models[-2]
        x = sigma[i] / sigma[i - 1] * x - alpha[i] * (torch.exp(-h[i - 1]) - 1) * d
        models.append(denoiser(x, t[i]))
    assert float((sample(sde, denoiser, x=start, solver="dpm++", times=t) - models[-1]).abs().max()) < 1e-10


# Langevin dynamics ----------------------------------------------------------------------------------------------------


def stationary(snr: float, sigma: float, variance: float) -> float:
    """The chain x <- (1 - e / v) x + sqrt(2 e) z has variance 2 e / (1 - (1 - e / v)^2), e = 2 (snr sigma)^2."""
    step = 2 * (snr * sigma) ** 2
    return 2 * step / (1 - (1 - step / variance) ** 2)


@pytest.mark.parametrize("snr", [0.16, 0.6])
def test_langevin_keeps_its_stationary_variance(snr: float, main_sde: LinearSDE) -> None:
    gaussian = GaussianMixture(torch.zeros(1, 3, dtype=torch.float64), 0.4)
    reverse = Reverse(main_sde, gaussian.denoiser(main_sde))
    t = main_sde.time(double(0.5))[0]
    there = float(gaussian.at(main_sde, t).stds[0, 0]) ** 2
    expected = stationary(snr, float(main_sde.sigma(t)), there)
    # One step of the exact map: what is left of x, and the noise.
    x = torch.ones(1, 3, dtype=torch.float64)
    kept = Langevin(snr).correct(reverse, x, t, Constant(0.0))
    added = Langevin(snr).correct(reverse, x, t, Constant(1.0)) - kept
    assert torch.allclose(kept**2 * expected + added**2, torch.full_like(x, expected), rtol=1e-10)


def test_langevin_reaches_its_stationary_variance() -> None:
    """A chain of 200 steps from a point, 8,000 times: the step inflates the variance by a fifth, and is seen to."""
    sde, snr = VPSDE(), 0.6
    gaussian = GaussianMixture(torch.zeros(1, 1, dtype=torch.float64), 0.4)
    t = sde.time(double(0.0))[0]
    there = float(gaussian.at(sde, t).stds) ** 2
    expected = stationary(snr, float(sde.sigma(t)), there)
    assert expected / there > 1.2
    reverse = Reverse(sde, gaussian.denoiser(sde))
    x = Langevin(snr, repeats=200).correct(reverse, torch.zeros(8_000, 1).double(), t, White(0, range(8_000)))
    assert float(x.var()) == pytest.approx(expected, rel=4 * math.sqrt(2 / 8_000))
    assert abs(float(x.mean())) < 4 * math.sqrt(expected / 8_000)


def test_samples_do_not_share_the_langevin_step(oracle2: GaussianMixture) -> None:
    """A sample's step is its own: an outlier beside it changes nothing."""
    sde = VPSDE()
    reverse, t = Reverse(sde, oracle2.denoiser(sde)), double(0.3)[0]
    x, z = oracle2.at(sde, t).sample(4), draws(1, (4, 2))[0]
    moved = x.clone()
    moved[0] = 1e6
    a, b = (Langevin().correct(reverse, state, t, Replay([z])) for state in (x, moved))
    assert torch.equal(a[1:], b[1:])


@pytest.mark.parametrize("options", [{"snr": 0.0}, {"snr": -1.0}, {"snr": math.nan}, {"repeats": -1}])
def test_bad_langevin(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="valid are snr > 0 and repeats >= 0"):
        Langevin(**options)  # type: ignore[arg-type]


def test_predictor_corrector_calls() -> None:
    solver = PredictorCorrector(EulerMaruyama(), Langevin(repeats=3))
    assert solver.calls(10) == 10 + 27
