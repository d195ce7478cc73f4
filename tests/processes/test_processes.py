"""Processes against their own definitions, autograd and an ODE integrator."""

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from scipy.integrate import solve_ivp
from tensors_and_errors import double, relative
from torch import Tensor

from sdescore import VESDE, VPSDE, CosineSDE, DiscreteSDE, FlowSDE, KarrasSDE, LinearSDE, SubVPSDE


def times(sde: LinearSDE, count: int = 200, dtype: torch.dtype = torch.float64) -> Tensor:
    """Log-spaced from 1e-5 (or the process's later start) to T."""
    first = max(sde.t_min, 1e-5)
    t = torch.logspace(math.log10(first), math.log10(sde.T), count, dtype=torch.float64)
    return t.to(dtype).clamp(first, sde.T)


def derivative(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    return torch.func.jvp(function, (t,), (torch.ones_like(t),))[1]


def test_time_is_the_inverse_of_lam(sde: LinearSDE) -> None:
    for dtype in (torch.float32, torch.float64):
        t = times(sde, dtype=dtype)
        lam = sde.lam(t)
        # What rounding of lam to this precision costs in t, and some.
        rounding = t + (1 + lam.abs()) / derivative(sde.lam, t.double()).abs().to(dtype)
        gap = (sde.time(lam) - t).abs()
        assert gap.dtype == dtype
        assert float((gap / rounding).max()) < 8 * torch.finfo(dtype).eps


def test_derived_quantities(sde: LinearSDE) -> None:
    t = times(sde)
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    assert float((sde.lam(t) - (alpha / sigma).log()).abs().max()) < 1e-9
    assert relative(sde.rho(t), sigma / alpha) < 1e-9
    assert bool((sde.lam(t).diff() < 0).all())
    assert math.isfinite(float(sde.lam(double(sde.T)))) and math.isfinite(float(sde.lam(double(sde.t_min))))


def test_coefficients_against_autograd(sde: LinearSDE) -> None:
    """d alpha / dt = f alpha and d sigma^2 / dt = 2 f sigma^2 + g^2, term by term."""
    t = times(sde)
    alpha, sigma, f, g = sde.alpha(t), sde.sigma(t), sde.f(t), sde.g(t)
    alpha_dot, sigma_dot = derivative(sde.alpha, t), derivative(sde.sigma, t)
    size = f.abs() + g**2 / sigma**2
    assert float(((alpha_dot - f * alpha).abs() / (size * alpha)).max()) < 1e-9
    growth = derivative(lambda u: sde.sigma(u) ** 2, t)
    assert float(((growth - 2 * f * sigma**2 - g**2).abs() / (size * sigma**2)).max()) < 1e-9
    assert float(((sde.alpha_dot(t) - alpha_dot).abs() / (size * alpha)).max()) < 1e-9
    assert float(((sde.sigma_dot(t) - sigma_dot).abs() / (size * sigma)).max()) < 1e-9


def test_coefficients_against_the_ode_of_the_moments(sde: LinearSDE) -> None:
    """A particle that starts at t0 as alpha x0 + sigma eps has the process's mean and variance at the end."""
    first, last = 0.1 * sde.T, 0.9 * sde.T

    def rate(t: float, moments: list[float]) -> list[float]:
        f, g = float(sde.f(double(t))), float(sde.g(double(t)))
        return [f * moments[0], 2 * f * moments[1] + g**2]

    start = [float(sde.alpha(double(first))), float(sde.sigma(double(first)) ** 2)]
    mean, variance = solve_ivp(rate, (first, last), start, method="RK45", rtol=1e-8, atol=1e-12).y[:, -1]
    assert mean == pytest.approx(float(sde.alpha(double(last))), rel=1e-6)
    assert variance == pytest.approx(float(sde.sigma(double(last)) ** 2), rel=1e-6)


def test_sigma_is_accurate_in_float32(sde: LinearSDE) -> None:
    t = times(sde, 2000, torch.float32)
    assert sde.sigma(t).dtype == torch.float32
    assert relative(sde.sigma(t), sde.sigma(t.double())) <= 1e-5


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_coefficients_follow_t(sde: LinearSDE, device: str) -> None:
    """Every function keeps the shape, dtype and device of t."""
    for shape in ((), (3,), (2, 3)):
        for dtype in (torch.float32, torch.float64):
            t = torch.full(shape, sde.T / 2, dtype=dtype, device=device)
            functions = [sde.alpha, sde.sigma, sde.lam, sde.rho, sde.f, sde.g, sde.alpha_dot, sde.sigma_dot, sde.time]
            for function in functions:
                value = function(t)
                assert (value.shape, value.dtype, value.device.type) == (t.shape, dtype, device), function


def test_frozen_hashable_and_without_state(sde: LinearSDE) -> None:
    fields = {field.name: getattr(sde, field.name) for field in dataclasses.fields(sde)}  # type: ignore[arg-type]
    twin = type(sde)(**fields)
    assert twin == sde and hash(twin) == hash(sde) and {sde: 1}[twin] == 1
    sde.g(times(sde)), sde.time(double(0.0)), sde.prior_sample((2, 3))
    assert vars(sde) == fields and not any(isinstance(value, Tensor) for value in fields.values())
    for name in fields or ["anything"]:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(sde, name, 1.0)


def test_processes_differ_by_class_and_parameters() -> None:
    assert (
        len({VPSDE(), SubVPSDE(), VPSDE(beta_max=10.0), KarrasSDE(0.01, 50.0), VESDE(0.01, 50.0), VESDE(0.01, 5.0)})
        == 6
    )


RANDOM_BETAS = 10 ** (-3 + 2 * torch.rand(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64))


@pytest.mark.parametrize("betas", [VPSDE().betas(1000), RANDOM_BETAS, double(0.3, 0.01)], ids=["ddpm", "random", "two"])
def test_discrete_interpolation(betas: Tensor) -> None:
    sde = DiscreteSDE.from_betas(betas)
    entries = torch.arange(len(betas), dtype=torch.float64)
    kept = torch.cumprod(1 - betas, 0)
    assert (sde.t_min, sde.T) == (0.0, len(betas) - 1)
    assert relative(sde.alpha(entries) ** 2, kept) < 1e-12
    assert relative(sde.sigma(entries) ** 2, 1 - kept) < 1e-11
    assert relative(sde.lam(entries).exp() ** 2, kept / (1 - kept)) < 1e-11

    dense = torch.linspace(0, sde.T, 40 * len(betas) + 1, dtype=torch.float64)
    assert bool((sde.lam(dense).diff() < 0).all())
    assert float((sde.time(sde.lam(dense)) - dense).abs().max()) < 1e-9 * sde.T

    # Once differentiable: the slopes on both sides of an entry, by autograd and by one-sided differences.
    inner = entries[1:-1]
    right, left = derivative(sde.lam, inner), derivative(sde.lam, inner - 1e-9)
    step = 1e-5
    after = (sde.lam(inner + step) - sde.lam(inner)) / step
    before = (sde.lam(inner) - sde.lam(inner - step)) / step
    if len(inner):
        assert relative(left, right) < 1e-6
        assert relative(after, right) < 1e-3 and relative(before, right) < 1e-3


def test_discrete_takes_integer_times() -> None:
    sde = DiscreteSDE.from_betas(VPSDE().betas(1000))
    whole = torch.tensor([0, 1, 500, 999])
    for name in ("alpha", "sigma", "lam", "f", "g"):
        function = getattr(sde, name)
        assert torch.equal(function(whole), function(whole.float()))


def test_prior(sde: LinearSDE) -> None:
    x = 3 * torch.randn(5, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    std = float(sde.sigma(double(sde.T)))
    expected = torch.distributions.Normal(0.0, torch.tensor(std, dtype=torch.float64)).log_prob(x).sum((1, 2))
    assert torch.allclose(sde.prior_log_prob(x), expected, rtol=1e-12)
    draws = [sde.prior_sample((4000, 5), torch.Generator().manual_seed(1), dtype=torch.float64) for _ in range(2)]
    assert torch.equal(*draws)
    assert draws[0].dtype == torch.float64 and draws[0].shape == (4000, 5)
    assert abs(float(draws[0].std()) / std - 1) < 5 / math.sqrt(2 * draws[0].numel())


class AlphaSigma(LinearSDE):
    """The VP process, of which only the two primitives are stated."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-(0.1 * t + 9.95 * t**2) / 2)

    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(-(0.1 * t + 9.95 * t**2))).sqrt()


def test_a_process_needs_only_alpha_and_sigma() -> None:
    mine, known = AlphaSigma(), VPSDE()
    t = times(known)
    for name in ("alpha", "sigma", "lam", "rho", "f", "g", "alpha_dot"):
        assert relative(getattr(mine, name)(t), getattr(known, name)(t)) < 1e-9, name
    size = known.sigma(t) * (known.f(t).abs() + known.g(t) ** 2)
    assert float(((mine.sigma_dot(t) - known.sigma_dot(t)).abs() / size).max()) < 1e-9
    lam = torch.linspace(-5, 6.9, 100, dtype=torch.float64)
    assert float((mine.time(lam) - known.time(lam)).abs().max()) < 1e-12
    x, noise = torch.randn(2, 4, 3, dtype=torch.float64)
    at = double(0.1, 0.2, 0.5, 1.0)
    assert torch.allclose(mine.perturb(x, at, noise), known.perturb(x, at, noise), rtol=1e-12)
    assert torch.allclose(mine.prior_log_prob(x), known.prior_log_prob(x), rtol=1e-12)


def test_drift_and_diffusion(sde: LinearSDE) -> None:
    x = torch.randn(3, 2, 4, dtype=torch.float64)
    t = double(0.2, 0.5, 0.9) * sde.T
    drift, diffusion = sde.drift(x, t), sde.diffusion(x, t).expand_as(x)
    for i in range(3):
        assert torch.equal(drift[i], sde.f(t[i]) * x[i])
        assert torch.equal(diffusion[i], sde.g(t[i]).expand_as(x[i]))
    assert torch.equal(sde.drift(x, t[0])[0], drift[0])


def test_perturb(sde: LinearSDE) -> None:
    x0, noise = torch.randn(2, 3, 2, 4, dtype=torch.float64)
    t = double(0.2, 0.5, 0.9) * sde.T
    x = sde.perturb(x0, t, noise)
    for i in range(3):
        assert torch.allclose(x[i], sde.alpha(t[i]) * x0[i] + sde.sigma(t[i]) * noise[i], rtol=1e-14)
    assert torch.equal(sde.perturb(x0, t[1], noise)[1], x[1])
    # The state keeps the data's dtype, whatever that of t.
    assert sde.perturb(x0.float(), t, noise.float()).dtype == torch.float32


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: VPSDE(beta_min=0.0), "beta_min"),
        (lambda: VPSDE(beta_min=2.0, beta_max=1.0), "beta_max"),
        (lambda: VPSDE(beta_max=math.nan), "beta_max"),
        (lambda: SubVPSDE(beta_max=math.inf), "beta_max"),
        (lambda: VESDE(sigma_min=0.0), "sigma_min"),
        (lambda: VESDE(sigma_min=2.0, sigma_max=1.0), "sigma_max"),
        (lambda: VESDE(sigma_max=math.inf), "sigma_max"),
        (lambda: KarrasSDE(sigma_min=-1.0), "sigma_min"),
        (lambda: KarrasSDE(sigma_max=math.inf), "sigma_max"),
        (lambda: CosineSDE(offset=-0.1), "offset"),
        (lambda: DiscreteSDE((1.0,)), "lambdas"),
        (lambda: DiscreteSDE((1.0, 1.0)), "lambdas"),
        (lambda: DiscreteSDE((math.inf, 1.0)), "lambdas"),
        (lambda: DiscreteSDE.from_betas([0.1, 1.5]), "betas"),
        (lambda: DiscreteSDE.from_betas([0.1]), "betas"),
        (lambda: DiscreteSDE.from_betas(torch.full((2, 2), 0.1)), "betas"),
    ],
)
def test_bad_parameters(make: Callable[[], LinearSDE], names: str) -> None:
    with pytest.raises(ValueError, match=names):
        make()


def test_bad_arguments_of_perturb(sde: LinearSDE) -> None:
    x0, noise = torch.randn(2, 3, 4)
    t = torch.tensor(sde.T / 2)
    with pytest.raises(TypeError, match=r"x0 has dtype torch.uint8.*\[-1, 1\]"):
        sde.perturb(torch.zeros(3, 4, dtype=torch.uint8), t, noise)
    with pytest.raises(ValueError, match=r"eps has shape \(3, 1\), but x0 has \(3, 4\)"):
        sde.perturb(x0, t, noise[:, :1])
    for shape in ((2,), (3, 1)):
        with pytest.raises(ValueError, match=r"t has shape .*; expected \(\) or \(3,\)"):
            sde.perturb(x0, t.expand(shape), noise)
    low, high = min(sde.t_min - 0.01, sde.t_min / 2), sde.T * 1.01
    for bad in (low, high, math.nan):
        with pytest.raises(ValueError, match=rf"t spans .*{type(sde).__name__} is used on"):
            sde.perturb(x0, torch.tensor([sde.T / 2, bad, sde.T / 2]), noise)
    for good in (sde.t_min, sde.T):
        sde.perturb(x0, torch.tensor(good), noise)


def test_flow_ends_where_lam_is_finite() -> None:
    assert FlowSDE().T == 0.999 and CosineSDE().T == 0.999
    with pytest.raises(ValueError, match="t spans"):
        FlowSDE().perturb(torch.zeros(2, 1), torch.tensor(1.0), torch.zeros(2, 1))


def test_a_table_of_too_few_betas_is_refused() -> None:
    with pytest.raises(ValueError, match=r"steps=10; expected an integer above beta_max=20"):
        VPSDE().betas(10)
