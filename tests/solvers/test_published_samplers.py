"""Samplers beside the algorithms of their papers, restated here."""

import math

import pytest
import torch
from named_solvers import one_step
from noise_doubles import Constant, Replay
from tensors_and_errors import double, draws
from torch import Tensor

from sdescore import VESDE, DiscreteSDE, GaussianMixture, KarrasSDE, ReverseProcess, find_solver, karras, sample
from sdescore.sampling.solver import total_nfe
from sdescore.solvers import AnnealedLangevin, Churn, EulerMaruyama, Langevin, PredictorCorrector, ReverseDiffusion


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
    reverse, z = ReverseProcess(sde, oracle2.denoiser(sde)), draws(1, (16, 2))[0]
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
        reverse = ReverseProcess(sde, oracle2.denoiser(sde))
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
    found = ReverseDiffusion().step(ReverseProcess(sde, oracle2.denoiser(sde)), x, t, t - 1, Replay([z]))
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
    found = ReverseDiffusion().step(ReverseProcess(sde, oracle2.denoiser(sde)), x, t, s, Replay([z]))
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
    *_, found = AnnealedLangevin().solve(ReverseProcess(sde, oracle2.denoiser(sde)), start, times, Replay(noise))
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
    assert total_nfe(find_solver("heun"), 18) == 35
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
    reverse = ReverseProcess(sde, denoiser)
    *_, found = Churn(amount=churn, low=low, high=high, inflation=inflation).solve(
        reverse, start, karras()(sde, steps), Replay(noise)
    )
    assert float((denoiser(found, t[-2]) - x).abs().max()) < 1e-10


def test_predictor_corrector_calls() -> None:
    solver = PredictorCorrector(EulerMaruyama(), Langevin(repeats=3))
    assert total_nfe(solver, 10) == 10 + 27
