"""Singlestep, ancestral and restart solvers against the papers' formulas restated here, and their weak orders."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from named_solvers import one_step
from noise_doubles import Given, Replay
from small_nets import ConvNet
from tensors_and_errors import double
from torch import Tensor
from weak_orders import overall_order, weak_errors

from sdescore import VPSDE, Denoiser, GaussianMixture, KarrasSDE, LinearSDE, ReverseProcess, karras, sample
from sdescore.sampling.noise import WhiteNoise
from sdescore.sampling.solver import total_nfe
from sdescore.solvers import (
    DATA,
    DDIM,
    DDPM,
    DPM_2,
    DPMPP_2M,
    DPMPP_3M,
    EULER,
    HEUN,
    Adams,
    Ancestral,
    Churn,
    ExponentialEuler,
    LowerOrderFinal,
    PredictorCorrector,
    Restart,
    RestartInterval,
    RungeKutta,
    Tableau,
)

Eps = Callable[[Tensor, Tensor], Tensor]


def dpm_solver_2(sde: LinearSDE, eps: Eps, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Lu et al. 2022a, algorithm 1."""
    h = sde.lam(s) - sde.lam(t)
    middle = sde.time(sde.lam(t) + h / 2)
    u = sde.alpha(middle) / sde.alpha(t) * x - sde.sigma(middle) * torch.expm1(h / 2) * eps(x, t)
    return sde.alpha(s) / sde.alpha(t) * x - sde.sigma(s) * torch.expm1(h) * eps(u, middle)


def dpm_solver_3(sde: LinearSDE, eps: Eps, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Lu et al. 2022a, algorithm 2, with r1 = 1/3 and r2 = 2/3."""
    h, r1, r2 = sde.lam(s) - sde.lam(t), 1 / 3, 2 / 3
    one, two = (sde.time(sde.lam(t) + r * h) for r in (r1, r2))
    start = eps(x, t)
    u = sde.alpha(one) / sde.alpha(t) * x - sde.sigma(one) * torch.expm1(r1 * h) * start
    first = eps(u, one) - start
    phi = torch.expm1(r2 * h) / (r2 * h) - 1
    u = sde.alpha(two) / sde.alpha(t) * x - sde.sigma(two) * (torch.expm1(r2 * h) * start + r2 / r1 * phi * first)
    second, phi = eps(u, two) - start, torch.expm1(h) / h - 1
    return sde.alpha(s) / sde.alpha(t) * x - sde.sigma(s) * (torch.expm1(h) * start + phi / r2 * second)


def dpm_solver_pp_2s(sde: LinearSDE, data: Eps, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Lu et al. 2022b, algorithm 1, with r = 1/2."""
    h, r = sde.lam(s) - sde.lam(t), 1 / 2
    middle, start = sde.time(sde.lam(t) + r * h), data(x, t)
    u = sde.sigma(middle) / sde.sigma(t) * x - sde.alpha(middle) * torch.expm1(-r * h) * start
    d = (1 - 1 / (2 * r)) * start + 1 / (2 * r) * data(u, middle)
    return sde.sigma(s) / sde.sigma(t) * x - sde.alpha(s) * torch.expm1(-h) * d


def dpm_solver_pp_3s(sde: LinearSDE, data: Eps, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Lu et al. 2022b, appendix, with r1 = 1/3 and r2 = 2/3."""
    h, r1, r2 = sde.lam(s) - sde.lam(t), 1 / 3, 2 / 3
    one, two = (sde.time(sde.lam(t) + r * h) for r in (r1, r2))
    start = data(x, t)
    u = sde.sigma(one) / sde.sigma(t) * x - sde.alpha(one) * torch.expm1(-r1 * h) * start
    first, phi = data(u, one) - start, torch.expm1(-r2 * h) / (r2 * h) + 1
    u = sde.sigma(two) / sde.sigma(t) * x - sde.alpha(two) * (torch.expm1(-r2 * h) * start - r2 / r1 * phi * first)
    second, phi = data(u, two) - start, torch.expm1(-h) / h + 1
    return sde.sigma(s) / sde.sigma(t) * x - sde.alpha(s) * (torch.expm1(-h) * start - phi / r2 * second)


def midpoint_in_rho(sde: LinearSDE, eps: Eps, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """The midpoint rule for d(x / alpha) = eps drho."""
    start, stop = sde.rho(t), sde.rho(s)
    middle = sde.time(-((start + stop) / 2).log())
    u = x / sde.alpha(t) + (stop - start) / 2 * eps(x, t)
    return sde.alpha(s) * (x / sde.alpha(t) + (stop - start) * eps(sde.alpha(middle) * u, middle))


@pytest.mark.parametrize("ends", [(-2.0, 1.0), (0.5, 0.51)])
@pytest.mark.parametrize(
    ("name", "paper", "kind"),
    [
        ("midpoint", midpoint_in_rho, "noise"),
        ("dpm2", dpm_solver_2, "noise"),
        ("dpm3", dpm_solver_3, "noise"),
        ("dpm++2s", dpm_solver_pp_2s, "data"),
        ("dpm++3s", dpm_solver_pp_3s, "data"),
    ],
)
def test_singlestep_as_published(
    name: str, paper: Callable[..., Tensor], kind: str, ends: tuple[float, float], main_sde: LinearSDE
) -> None:
    oracle = GaussianMixture(double(-1.0, 0.5, 0.8, 1.0).reshape(2, 2), 0.3)
    t, s = main_sde.time(double(*ends))
    x, reverse = oracle.at(main_sde, t).sample(16), ReverseProcess(main_sde, oracle.denoiser(main_sde))
    found = one_step(name).step(reverse, x, t, s, WhiteNoise(0, range(16)))
    torch.testing.assert_close(found, paper(main_sde, getattr(reverse, kind), x, t, s), rtol=1e-9, atol=1e-9)


ALONE = (
    *("heun", "dpm3", "rk4", "sra", "ddim", "ddpm", "seeds"),
    *("dpm2-ancestral", "consistency", "euler-maruyama", "reverse-diffusion", "milstein"),
)


@pytest.mark.parametrize("name", ALONE)
def test_a_step_takes_times_of_each_sample_and_is_that_of_a_grid(name: str, main_sde: LinearSDE) -> None:
    oracle = GaussianMixture(double(-1.0, 0.5, 0.8, 1.0).reshape(2, 2), 0.3)
    reverse, x = ReverseProcess(main_sde, oracle.denoiser(main_sde)), torch.randn(3, 2, dtype=torch.float64)
    t, s = main_sde.time(double(-1.0, 0.0, 0.3)), main_sde.time(double(0.5, 0.6, 0.7))
    z, method = Given(torch.ones_like(x), torch.ones_like(x)), one_step(name)
    each = method.step(reverse, x, t, s, z)
    for i, (a, b) in enumerate(zip(t, s, strict=True)):
        on_grid = next(iter(method.solve(reverse, x, torch.stack([a, b]), z)))
        for alone in (method.step(reverse, x, a, b, z), on_grid):
            torch.testing.assert_close(each[i], alone[i], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["heun", "dpm++2s", "ddim", "ddpm"])
def test_times_of_each_sample_with_a_net_of_its_own_kind(name: str, main_sde: LinearSDE) -> None:
    """Where a net predicts what a method integrates, x itself has the factor 0."""
    denoiser = Denoiser(ConvNet().double(), main_sde, predicts="noise" if name in ("heun", "ddim") else "data")
    reverse, x = ReverseProcess(main_sde, denoiser), torch.randn(2, 1, 4, 4, dtype=torch.float64)
    t, s = main_sde.time(double(-1.0, 0.3)), main_sde.time(double(0.5, 0.7))
    z, method = Given(torch.ones_like(x), torch.ones_like(x)), one_step(name)
    with torch.no_grad():
        each = method.step(reverse, x, t, s, z)
        for i in range(2):
            alone = method.step(reverse, x, t[i], s[i], z)
            torch.testing.assert_close(each[i], alone[i], rtol=1e-9, atol=1e-9)


def test_no_noise_is_drawn_for_a_step_that_has_none() -> None:
    """tau may be 0 over a step alone: the noises of the others are then those of solve()."""
    sde, oracle = VPSDE(), GaussianMixture(double(-1.0, 0.5, 0.8, 1.0).reshape(2, 2), 0.3)
    reverse, x, (t, s) = (
        ReverseProcess(sde, oracle.denoiser(sde)),
        torch.randn(3, 2).double(),
        sde.time(double(-1.0, 0.5)),
    )
    still, none = ExponentialEuler(tau=lambda lam, h: torch.where(lam > 1, 1.0, torch.zeros_like(lam))), Replay([])
    expected = ExponentialEuler().step(reverse, x, t, s, none)
    torch.testing.assert_close(still.step(reverse, x, t, s, none), expected)
    torch.testing.assert_close(next(iter(still.solve(reverse, x, torch.stack([t, s]), none))), expected)


@pytest.mark.parametrize("method", [DPMPP_2M, DPMPP_3M, Adams(1, DATA)], ids=["2M", "3M", "order 1"])
@pytest.mark.parametrize(
    "wrapper",
    [Churn, Ancestral, Restart, PredictorCorrector, lambda method: LowerOrderFinal(method, (DDIM,))],
    ids=["churn", "ancestral", "restart", "predictor-corrector", "lower order final"],
)
def test_a_method_with_memory_cannot_be_taken_step_by_step(wrapper: Callable[[Any], object], method: Adams) -> None:
    """It would lose its history, and silently be of order 1."""
    with pytest.raises(TypeError, match=r"(method|predictor) is Adams\(.*expected a OneStep"):
        wrapper(method)


@pytest.mark.parametrize("eta", [0.5, 1.0, 3.0])
def test_ancestral_dpm2_as_in_k_diffusion(eta: float) -> None:
    """sigma_up = min(s, eta sqrt(s^2 (t^2 - s^2) / t^2)), the midpoint of the logarithms, and noise of sigma_up."""
    sde, oracle = KarrasSDE(1e-6, 80.0), GaussianMixture(double(-1.0, 0.5, 0.8, 1.0).reshape(2, 2), 0.3)
    t, s = double(3.0, 1.0)
    x, z, denoiser = oracle.at(sde, t).sample(16), torch.randn(16, 2, dtype=torch.float64), oracle.denoiser(sde)
    up = min(1.0, eta * math.sqrt(1 * (9 - 1) / 9))
    down = double(math.sqrt(1 - up**2))[0].clamp(min=1e-6)
    middle = (t.log().lerp(down.log(), 0.5)).exp()
    d = (x - denoiser(x, t)) / t
    d = denoiser.noise(x + (middle - t) * d, middle)
    expected = x + (down - t) * d + z * math.sqrt(1 - float(down) ** 2)
    found = Ancestral(DPM_2, eta).step(ReverseProcess(sde, denoiser), x, t, s, Given(z, z))
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def test_ancestral_euler_is_ddpm(main_sde: LinearSDE) -> None:
    oracle = GaussianMixture(double(-1.0, 0.5, 0.8, 1.0).reshape(2, 2), 0.3)
    times = main_sde.time(torch.linspace(-2, 2, 9, dtype=torch.float64))
    x = oracle.at(main_sde, float(times[0])).sample(8)
    both = [sample(main_sde, oracle.denoiser(main_sde), x=x, solver=s, times=times) for s in (Ancestral(EULER), DDPM)]
    torch.testing.assert_close(*both, rtol=1e-8, atol=1e-8)


def test_ancestral_without_noise_is_the_method() -> None:
    sde, oracle = VPSDE(), GaussianMixture(double(-1.0, 0.5, 0.8, 1.0).reshape(2, 2), 0.3)
    x = oracle.at(sde, 1.0).sample(8)
    both = [sample(sde, oracle.denoiser(sde), x=x, solver=s, steps=9) for s in (Ancestral(HEUN, 0.0), HEUN)]
    assert torch.equal(*both)


def test_restart_as_published() -> None:
    """Xu et al. 2023, algorithm 1: at the grid's level nearest to the lower end, up by noise and down by steps."""
    sde, oracle = KarrasSDE(), GaussianMixture(double(-1.0, 0.5, 0.8, 1.0).reshape(2, 2), 0.3)
    denoiser, t = oracle.denoiser(sde), karras()(sde, 12)
    start, z = oracle.at(sde, 80.0).sample(8), list(torch.randn(3, 8, 2, dtype=torch.float64))

    def heun(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        d = denoiser.noise(x, a)
        return x + (b - a) * (d + denoiser.noise(x + (b - a) * d, b)) / 2

    place = int((t.log() - math.log(0.1)).abs().argmin())
    back = torch.linspace(0.5 ** (1 / 7), float(t[place]) ** (1 / 7), 4, dtype=torch.float64) ** 7
    x = start
    for i in range(1, 12):
        x = heun(x, t[i - 1], t[i])
        if i == place:
            for k in range(3):
                x = x + (0.25 - t[place] ** 2).sqrt() * z[k]
                for a, b in pairwise(back):
                    x = heun(x, a, b)
    method = Restart(HEUN, (RestartInterval(0.1, 0.5, 3, 4),))
    *_, found = method.solve(ReverseProcess(sde, denoiser), start, t, Given(start, start, z))
    torch.testing.assert_close(found, x, rtol=1e-9, atol=1e-9)
    assert total_nfe(method, 12) == total_nfe(HEUN, 12) + 3 * 6
    with pytest.raises(ValueError, match=r"times stay above rho = 1"):
        next(iter(method.solve(ReverseProcess(sde, denoiser), start, double(3.0, 2.0, 1.0), Given(start, start))))


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Tableau("own", (0.5,), ((1,),)), r"expected c in \[0, 1\] from 0 on"),
        (lambda: Tableau("own", (0.0, 1.0), ((1,),)), r"row i with i \+ 1"),
        (lambda: Tableau("own", (0.0, 1.0), ((1,), (0, 0))), "rows="),
        (lambda: RungeKutta(Tableau("own", (0.0,), ((1,),)), tau=-1.0), "tau=-1.0"),
        (lambda: Ancestral(HEUN, -1.0), "eta=-1.0"),
        (lambda: Churn(inflation=-1.0), "inflation=-1.0"),
        (lambda: Churn(amount=-1.0), "amount=-1.0"),
        (lambda: Restart(HEUN, (RestartInterval(0.5, 0.1, 1, 4),)), "low < high"),
    ],
)
def test_bad_settings(make: Callable[[], object], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        make()


WEAK = {"euler-maruyama": 1, "euler-ancestral": 1, "sra": 2, "dpm2-ancestral": 2, "dpm++2s-ancestral": 2}


@pytest.mark.parametrize("name", WEAK)
def test_weak_order(name: str) -> None:
    steps = (8, 16, 32)
    errors = weak_errors(one_step(name), VPSDE(), steps, normals=2)
    order = overall_order(steps, errors)
    print(f"{name}: weak order {order:.2f}, errors {errors}")
    assert WEAK[name] - 0.2 <= order < WEAK[name] + 0.8, errors


def test_churn_keeps_its_methods_order_in_the_law() -> None:
    """Adding noise is exact in law, so that a Gaussian's variance has the error of Heun's steps alone.

    The factor by which rho is raised falls with the steps too.
    """
    sde, gaussian = KarrasSDE(), GaussianMixture(torch.zeros(1, 1, dtype=torch.float64), 0.5)
    reverse = ReverseProcess(sde, gaussian.denoiser(sde))
    churn, errors = Churn(amount=4.0, low=0.0, high=math.inf, inflation=1.0), []
    for steps in (16, 32, 64):
        times = sde.time(torch.linspace(-1.0, 1.5, steps + 1, dtype=torch.float64))
        variance = float(gaussian.at(sde, times[0]).stds) ** 2
        states = torch.zeros(steps + 1, 1, dtype=torch.float64)  # impulses: by the start, and by each draw
        states[-1] = 1
        draws = list(torch.eye(steps + 1, dtype=torch.float64)[:steps].unsqueeze(2))
        *_, end = churn.solve(reverse, states, times, Given(states, states, draws))
        found = float(end[:-1].square().sum() + end[-1].square() * variance)
        errors.append(abs(found / float(gaussian.at(sde, times[-1]).stds) ** 2 - 1))
    print(errors)
    assert math.log2(errors[0] / errors[2]) / 2 > 1.8
