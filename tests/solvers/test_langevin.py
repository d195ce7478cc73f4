"""Langevin correctors: stationary variances, parity with score_sde, preconditioning, and Metropolis's exact law."""

import math

import pytest
import torch
from noise_doubles import Constant, Replay
from tensors_and_errors import double, draws
from torch import Tensor

from sdescore import VESDE, VPSDE, DiscreteSDE, GaussianMixture, LinearSDE, ReverseProcess, sample
from sdescore.sampling.noise import WhiteNoise
from sdescore.sampling.solver import total_nfe
from sdescore.solvers import BatchMeanLangevin, EulerMaruyama, Langevin, MetropolisLangevin, PredictorCorrector
from sdescore.testing import two_sample


class Draws(WhiteNoise):
    """White noise whose first draw can be looked at."""

    def __init__(self, z: Tensor) -> None:
        self.z = z

    def randn(self, x: Tensor, std: float = 1.0) -> Tensor:
        return std * self.z


def stationary(snr: float, sigma: float, variance: float) -> float:
    """The chain x <- (1 - e / v) x + sqrt(2 e) z has variance 2 e / (1 - (1 - e / v)^2), e = 2 (snr sigma)^2."""
    step = 2 * (snr * sigma) ** 2
    return 2 * step / (1 - (1 - step / variance) ** 2)


@pytest.mark.parametrize("snr", [0.16, 0.6])
def test_langevin_keeps_its_stationary_variance(snr: float, main_sde: LinearSDE) -> None:
    gaussian = GaussianMixture(torch.zeros(1, 3, dtype=torch.float64), 0.4)
    reverse = ReverseProcess(main_sde, gaussian.denoiser(main_sde))
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
    reverse = ReverseProcess(sde, gaussian.denoiser(sde))
    x = Langevin(snr, repeats=200).correct(reverse, torch.zeros(8_000, 1).double(), t, WhiteNoise(0, range(8_000)))
    assert float(x.var()) == pytest.approx(expected, rel=4 * math.sqrt(2 / 8_000))
    assert abs(float(x.mean())) < 4 * math.sqrt(expected / 8_000)


def test_samples_do_not_share_the_langevin_step(oracle2: GaussianMixture) -> None:
    """A sample's step is its own: an outlier beside it changes nothing."""
    sde = VPSDE()
    reverse, t = ReverseProcess(sde, oracle2.denoiser(sde)), double(0.3)[0]
    x, z = oracle2.at(sde, t).sample(4), draws(1, (4, 2))[0]
    moved = x.clone()
    moved[0] = 1e6
    a, b = (Langevin().correct(reverse, state, t, Replay([z])) for state in (x, moved))
    assert torch.equal(a[1:], b[1:])


@pytest.mark.parametrize("options", [{"snr": 0.0}, {"snr": -1.0}, {"snr": math.nan}, {"repeats": -1}])
def test_bad_langevin(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected snr > 0 and repeats >= 0"):
        Langevin(**options)  # type: ignore[arg-type]


TABLE = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)


@pytest.mark.parametrize("i", [0, 1, 500, 999])
@pytest.mark.parametrize(
    ("sde", "alpha"),
    [(VESDE(), torch.ones(1000)), (DiscreteSDE.from_betas(TABLE), 1 - TABLE)],
    ids=["VE", "VP"],
)
def test_batch_means_as_in_score_sde(sde: LinearSDE, alpha: Tensor, i: int, oracle2: GaussianMixture) -> None:
    """x + e s + sqrt(2 e) z with e = 2 alpha_i (snr mean|z| / mean|s|)^2: alpha_i is 1, or 1 - beta_i of the table."""
    t = double(i if sde.T > 1 else max(i / 999, sde.t_min))[0]
    x, z = oracle2.at(sde, t).sample(16), torch.randn(16, 2, dtype=torch.float64)
    score = oracle2.at(sde, t).score(x)
    step = (0.16 * z.norm(dim=1).mean() / score.norm(dim=1).mean()) ** 2 * 2 * alpha[i]
    found = BatchMeanLangevin(0.16).correct(ReverseProcess(sde, oracle2.denoiser(sde)), x, t, Draws(z))
    torch.testing.assert_close(found, x + step * score + (2 * step).sqrt() * z, rtol=1e-8, atol=1e-8)


def test_preconditioning_by_the_datas_spread(main_sde: LinearSDE) -> None:
    """For a Gaussian whose spreads it knows, all directions relax by one factor, and none more slowly."""
    stds = double(3.0, 0.5, 0.01)
    gaussian = GaussianMixture(torch.zeros(1, 3, dtype=torch.float64), stds.unsqueeze(0))
    reverse, t, x = (
        ReverseProcess(main_sde, gaussian.denoiser(main_sde)),
        main_sde.time(double(0.5))[0],
        torch.ones(1, 3).double(),
    )
    kept = Langevin(0.3, data_std=stds).correct(reverse, x, t, Draws(torch.zeros_like(x)))
    torch.testing.assert_close(kept, torch.full_like(x, 1 - 2 * 0.3**2))
    spread = Langevin(0.3, data_std=stds).correct(reverse, x, t, Draws(torch.ones_like(x))) - kept
    torch.testing.assert_close(spread, 2 * 0.3 * gaussian.at(main_sde, t).stds)
    plain = Langevin(0.3).correct(reverse, x, t, Draws(torch.zeros_like(x)))
    assert bool((plain >= kept - 1e-9).all()) and float(plain[0, 0]) > 0.9


@pytest.mark.parametrize(("snr", "inflation"), [(0.6, 1.2), (0.4, 1.05)])
def test_the_metropolis_test_takes_the_bias_away(snr: float, inflation: float) -> None:
    """From a point, 60 steps, 8,000 times: the law of a Gaussian, where the plain chain's variance is too large."""
    sde, gaussian = VPSDE(), GaussianMixture(torch.zeros(1, 1, dtype=torch.float64), 0.4)
    t = sde.time(double(0.0))[0]
    there = float(gaussian.at(sde, t).stds) ** 2
    reverse, start = ReverseProcess(sde, gaussian.denoiser(sde)), torch.zeros(8000, 1, dtype=torch.float64)
    plain = Langevin(snr, 60).correct(reverse, start, t, WhiteNoise(0, range(8000)))
    tested = MetropolisLangevin(snr, 60).correct(reverse, start, t, WhiteNoise(0, range(8000)))
    assert float(plain.var()) / there > inflation
    assert float(tested.var()) / there == pytest.approx(1, abs=4 * math.sqrt(2 / 8000))
    assert two_sample(tested, gaussian.at(sde, t).sample(8000)) > 1e-3


def test_the_metropolis_law_of_a_mixture(oracle2: GaussianMixture) -> None:
    """Exact samples stay exact samples under 50 long steps, where the density is far from a Gaussian's."""
    sde, t = VPSDE(), VPSDE().time(double(0.5))[0]
    here = oracle2.at(sde, t)
    reverse, x = ReverseProcess(sde, oracle2.denoiser(sde)), here.sample(4000, 1)
    tested = MetropolisLangevin(0.7, 50).correct(reverse, x, t, WhiteNoise(0, range(4000)))
    assert reverse.net_calls.count == MetropolisLangevin(0.7, 50).nfe == 101
    assert float((tested != x).double().mean()) == 1
    assert two_sample(tested, here.sample(4000, 2)) > 1e-3
    plain = Langevin(0.7, 50).correct(reverse, x, t, WhiteNoise(0, range(4000)))
    assert two_sample(plain, here.sample(4000, 2)) < 1e-3


@pytest.mark.parametrize("corrector", [BatchMeanLangevin(0.1), MetropolisLangevin(0.1), Langevin(0.1, data_std=0.5)])
def test_correctors_in_a_sampler(
    corrector: BatchMeanLangevin | MetropolisLangevin | Langevin, oracle2: GaussianMixture
) -> None:
    sde, method = VPSDE(), PredictorCorrector(EulerMaruyama(), corrector)
    x = oracle2.at(sde, 1.0).sample(1000, 1)
    found = sample(sde, oracle2.denoiser(sde), x=x, solver=method, steps=150)
    assert two_sample(found, oracle2.sample(1000, 2)) > 1e-3
    assert total_nfe(method, 10) == 10 + 9 * corrector.nfe


@pytest.mark.parametrize("make", [BatchMeanLangevin, MetropolisLangevin])
def test_bad_settings(make: type[BatchMeanLangevin | MetropolisLangevin]) -> None:
    with pytest.raises(ValueError, match="expected snr > 0 and repeats >= 0"):
        make(snr=0.0)
    assert make(repeats=0).nfe == 0
