"""The law of stochastic solvers' samples: by statistical tests, that of exact ones."""

import math
from collections.abc import Callable

import pytest
import torch
from conftest import FIVE, name_of
from noise_doubles import WithNoise
from path_independence import assert_same_on
from scipy.stats import chi2_contingency, ks_2samp
from tensors_and_errors import double
from torch import Tensor

from sdescore import VESDE, VPSDE, GaussianMixture, LinearSDE, Solver, find_solver, trajectory
from sdescore.sampling import uniform_lambda
from sdescore.solvers import HEUN, Churn, EulerMaruyama, Langevin, PredictorCorrector, Restart, RestartInterval

LEVEL = 1e-3


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


def exact_data(oracle: GaussianMixture, sde: LinearSDE) -> Callable[[Tensor, Tensor], Tensor]:
    """E[x0 | x_t] as the oracle's denoiser has it, but as products of small matrices, several times as fast."""
    means, variances = oracle.means, oracle.stds.square()

    def data(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = float(sde.alpha(t[0])), float(sde.sigma(t[0]))
        precision = 1 / (alpha**2 * variances + sigma**2)
        mean = alpha * means
        constant = oracle.weights.log() - (mean**2 * precision - precision.log()).sum(1) / 2
        logits = (mean * precision) @ x.T - precision @ x.T.square() / 2 + constant.unsqueeze(1)
        own, gain = logits.softmax(0).T, alpha * variances * precision
        return own @ (means - gain * mean) + own @ gain * x

    return data


def p_of(solver: str | Solver, sde: LinearSDE, oracle: GaussianMixture, times: Tensor, n: int) -> float:
    """Of n samples of a solver against n exact ones, both at times[-1]; the start is exact, at times[0]."""
    oracle = oracle.to(torch.float32)
    start = oracle.at(sde, times[0]).sample(n, seed=1)
    net = exact_data(oracle, sde)
    *_, before, _ = trajectory(sde, net, x=start, solver=solver, times=times, seed=2, predicts="data")
    end = oracle.at(sde, times[-1])
    return two_sample(before, end.sample(n, seed=3), end)


def test_the_exact_data_is_the_oracles(main_sde: LinearSDE, oracle64: GaussianMixture) -> None:
    for lam in (-2.0, 0.0, 1.6):
        t = main_sde.time(torch.tensor(lam, dtype=torch.float64))
        x = oracle64.at(main_sde, t).sample(8)
        torch.testing.assert_close(exact_data(oracle64, main_sde)(x, t[None]), oracle64.denoiser(main_sde)(x, t))


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


# What they do is the same on every process; torchsde's steps are Euler and Maruyama's, as its own tests hold.
PATHLESS = ("ddpm", "annealed-langevin", "churn", "sde-dpm++", "sa")
PLANE = [
    pytest.param(name, sde, marks=pytest.mark.slow if sde is not FIVE[0] and name in (*PATHLESS, "torchsde") else ())
    for name in SOLVERS
    for sde in FIVE
]


@pytest.mark.parametrize(("name", "sde"), PLANE, ids=name_of)
def test_law_in_the_plane(name: str, sde: LinearSDE, oracle2: GaussianMixture) -> None:
    """From T to a noise-to-signal ratio of .1, in 500 steps: 4,000 samples are as exact ones."""
    assert p_of(SOLVERS[name], sde, oracle2, uniform_lambda(rho_min=0.1)(sde, 500), 4000) > LEVEL


@pytest.mark.parametrize("name", PATHLESS)
def test_a_path_is_the_same_on_every_process(name: str, oracle2: GaussianMixture) -> None:
    z = torch.randn(16, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert_same_on(FIVE, SOLVERS[name], oracle2, torch.linspace(-2.0, 1.6, 25, dtype=torch.float64), z)


def times64(sde: LinearSDE) -> Tensor:
    return sde.time(torch.linspace(-2.0, 1.6, 500, dtype=torch.float64))


@pytest.mark.parametrize("name", SOLVERS)
def test_law_in_64_dimensions(name: str, oracle64: GaussianMixture) -> None:
    """While the modes form, lam from -2 to 1.6, in 500 steps: 1,000 samples are as exact ones."""
    assert p_of(SOLVERS[name], VPSDE(), oracle64, times64(VPSDE()), 1000) > LEVEL


@pytest.mark.slow
@pytest.mark.parametrize("sde", FIVE[1:], ids=name_of)
@pytest.mark.parametrize("name", SOLVERS)
def test_law_in_64_dimensions_on_the_other_processes(name: str, sde: LinearSDE, oracle64: GaussianMixture) -> None:
    assert p_of(SOLVERS[name], sde, oracle64, times64(sde), 1000) > LEVEL


SECOND: dict[str, tuple[str | Solver, int]] = {
    "sra": ("sra", 40),
    "dpm2-ancestral": ("dpm2-ancestral", 100),
    "dpm++2s-ancestral": ("dpm++2s-ancestral", 100),
    "restart": (Restart(HEUN, (RestartInterval(0.2, 1.0, 3, 6),)), 60),
}


@pytest.mark.parametrize("name", SECOND)
def test_law_at_weak_order_two(name: str, oracle2: GaussianMixture, oracle64: GaussianMixture) -> None:
    """The same in a tenth of the steps or so: on VP in the plane, on VE in 64 dimensions."""
    solver, steps = SECOND[name]
    assert p_of(solver, VPSDE(), oracle2, uniform_lambda(rho_min=0.1)(VPSDE(), steps), 4000) > LEVEL
    times = VESDE().time(torch.linspace(-2.0, 1.6, steps, dtype=torch.float64))
    assert p_of(solver, VESDE(), oracle64, times, 1000) > LEVEL
    wrong = WithNoise(find_solver(solver), 1.15)
    assert p_of(wrong, VPSDE(), oracle2, uniform_lambda(rho_min=0.1)(VPSDE(), steps), 4000) < LEVEL


@pytest.mark.slow
@pytest.mark.parametrize("name", SECOND)
def test_law_at_weak_order_two_on_every_process(name: str, main_sde: LinearSDE, oracle2: GaussianMixture) -> None:
    solver, steps = SECOND[name]
    assert p_of(solver, main_sde, oracle2, uniform_lambda(rho_min=0.1)(main_sde, steps), 4000) > LEVEL


@pytest.mark.parametrize("sign", [-1, 1])
def test_wrong_noise_is_seen(sign: int, oracle2: GaussianMixture, oracle64: GaussianMixture) -> None:
    """The tests above fail for noise that is 10 % off in the plane, or 5 % in 64 dimensions."""
    sde = VPSDE()
    wrong = WithNoise(find_solver("euler-maruyama"), 1 + 0.1 * sign)
    assert p_of(wrong, sde, oracle2, uniform_lambda(rho_min=0.1)(sde, 500), 4000) < LEVEL
    wrong = WithNoise(find_solver("ddpm"), 1 + 0.05 * sign)
    assert p_of(wrong, sde, oracle64, times64(sde), 1000) < LEVEL


def test_wrong_shares_are_seen(oracle2: GaussianMixture) -> None:
    other = GaussianMixture(oracle2.means, oracle2.stds, oracle2.weights + double(0.08, -0.08, 0.0))
    assert two_sample(other.sample(4000, 1), oracle2.sample(4000, 2), oracle2) < LEVEL
    assert two_sample(oracle2.sample(4000, 1), oracle2.sample(4000, 2), oracle2) > LEVEL
