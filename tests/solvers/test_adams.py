"""Exponential Adams methods: measured orders, exactness of the weights, the extrapolated end, and the law."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SIX, name_of
from path_independence import assert_same_on
from scipy import integrate as scipy_integrate
from torch import Tensor

from sdescore import VPSDE, GaussianMixture, KarrasSDE, LinearSDE, Solver, karras, sample
from sdescore.sampling import uniform_lambda
from sdescore.solvers import (
    ADAMS,
    CUBE_ROOT_RHO,
    DATA,
    DDIM,
    DEIS,
    DIFFERENCE,
    DPMPP_2M,
    DPMPP_3M,
    ER_SDE,
    HEUN,
    IPNDM,
    LAM,
    LMS,
    NOISE,
    RHO,
    SDE_DPMPP_3M,
    SEEDS,
    TIME,
    UNIPC,
    UNIPC_BH1,
    UNIPC_BH2,
    Adams,
    Coordinate,
    Target,
    V,
)
from sdescore.testing import check_ode_order, check_sde_law, exact_flow, measured_order

TARGETS = {"noise": NOISE, "data": DATA, "v": V, "difference": DIFFERENCE}
process = pytest.mark.parametrize("sde", SIX, ids=name_of)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("target", TARGETS)
def test_predictor_has_its_order(target: str, order: int) -> None:
    check_ode_order(Adams(order, TARGETS[target], LAM), order, history=order - 1)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("target", TARGETS)
def test_corrector_adds_an_order(target: str, order: int) -> None:
    method = Adams(order, TARGETS[target], CUBE_ROOT_RHO, corrector=True)
    check_ode_order(method, order + 1, history=order - 1)


@pytest.mark.parametrize(
    ("method", "order"),
    [
        (DDIM, 1),
        (DPMPP_2M, 2),
        (DPMPP_3M, 3),
        (LMS, 4),
        (DEIS, 4),
        (UNIPC, 4),
        (UNIPC_BH1, 3),
        (UNIPC_BH2, 3),
        (IPNDM, 2),
        (replace(ADAMS, end=1), 4),
        (replace(ADAMS, end=1, order=4), 5),
    ],
    ids=["ddim", "dpm++", "dpm++3m", "lms", "deis", "unipc", "unipc-bh1", "unipc-bh2", "ipndm", "adams", "fifth"],
)
@pytest.mark.parametrize("sde", [VPSDE(), KarrasSDE()], ids=["VP", "Karras"])
def test_presets_have_their_order(method: Solver, order: int, sde: LinearSDE) -> None:
    check_ode_order(method, order, history=getattr(method, "order", 1) - 1, sde=sde)


def test_the_order_test_can_fail() -> None:
    assert measured_order(DPMPP_2M, history=1) < 2.5
    with pytest.raises(AssertionError, match=r"order 3, but measures (1\.9|2\.0)"):
        check_ode_order(DPMPP_2M, 3, history=1)


@process
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 2.0])
def test_first_order_step_is_the_closed_form(sde: LinearSDE, target: str, tau: float) -> None:
    """Where x0 (or eps) is constant over a step, its weight has an elementary integral (SciPy takes the others)."""
    t, s = (sde.time(torch.tensor(lam, dtype=torch.float64)) for lam in (-0.4, 0.8))
    alpha, sigma = float(sde.alpha(s)), float(sde.sigma(s))
    method = Adams(1, TARGETS[target], tau=tau)
    table = method.table(sde, torch.stack([t, s]))
    shape: Target = TARGETS[target]

    def r(lam: float) -> float:
        return float(shape.ratio(torch.tensor(lam, dtype=torch.float64)))

    def slope(lam: float) -> float:
        return float(shape.slope(torch.tensor(lam, dtype=torch.float64)))

    weight = scipy_integrate.quad(lambda lam: (r(lam) / r(0.8)) ** tau**2 * slope(lam), -0.4, 0.8, epsabs=1e-13)[0]
    assert table.predict[0][0] == pytest.approx((1 + tau**2) * alpha / r(0.8) * weight, rel=1e-11)
    if target == "data":
        h, ratio = 1.2, sigma / float(sde.sigma(t))
        assert table.kept[0] == pytest.approx(ratio * math.exp(-(tau**2) * h), rel=1e-12)
        assert table.predict[0][0] == pytest.approx(alpha * -math.expm1(-(1 + tau**2) * h), rel=1e-12)
        assert table.spread[0] == pytest.approx(sigma * math.sqrt(-math.expm1(-2 * tau**2 * h)), rel=1e-12)
    if target == "noise":
        rho_t, rho_s = math.exp(0.4), math.exp(-0.8)
        assert table.kept[0] == pytest.approx(alpha / float(sde.alpha(t)), rel=1e-12)
        assert table.predict[0][0] == pytest.approx((1 + tau**2) * alpha * (rho_s - rho_t), rel=1e-12)
        assert table.spread[0] == pytest.approx(alpha * tau * math.sqrt(rho_t**2 - rho_s**2), rel=1e-12)


@pytest.mark.parametrize("coordinate", [LAM, RHO, CUBE_ROOT_RHO, TIME], ids=["lam", "rho", "rho^1/3", "t"])
@pytest.mark.parametrize("h", [0.5, 1e-3])
def test_weights_integrate_polynomials_of_the_coordinate(coordinate: Coordinate, h: float) -> None:
    """Four nodes integrate q^k, k < 4, also where steps are so small that solving for them would lose the digits."""
    sde = VPSDE()
    times = sde.time(-1 + h * torch.arange(6, dtype=torch.float64))
    q, lam = coordinate.q(sde, times), sde.lam(times).tolist()
    weights = Adams(4, NOISE, coordinate).table(sde, times).predict[4]

    def unit(value: Tensor) -> Tensor:
        return (value - q[4]) / (q[4] - q[3])

    def integrand(at: float, power: int) -> float:
        t = sde.time(torch.tensor([at], dtype=torch.float64))
        return float(-sde.rho(t) * unit(coordinate.q(sde, t)) ** power)

    for power in range(4):
        exact = scipy_integrate.quad(integrand, lam[4], lam[5], args=(power,), epsabs=1e-16, epsrel=1e-12)[0]
        found = sum(w * float(unit(node)) ** power for w, node in zip(weights, q[1:5].flip(0), strict=True))
        assert found == pytest.approx(exact * float(sde.alpha(times)[5]), rel=1e-8)


def test_adams_bashforth_weights_of_equal_steps() -> None:
    """iPNDM on a grid uniform in rho of KarrasSDE has the classic weights 55, -59, 37, -9 over 24."""
    times = torch.linspace(9.0, 2.0, 8, dtype=torch.float64)
    weights = IPNDM.table(KarrasSDE(), times).predict[4]
    np.testing.assert_allclose(np.array(weights) / -1.0, np.array([55, -59, 37, -9]) / 24, rtol=1e-12)
    np.testing.assert_allclose(LMS.table(KarrasSDE(), times).predict[4], weights, rtol=1e-10)


@pytest.mark.parametrize("target", TARGETS)
def test_the_end_is_exact_for_polynomials_of_rho_squared(target: str) -> None:
    sde, shape = VPSDE(), TARGETS[target]
    times = karras(rho_min=0.02)(sde, 12)[-3:].flip(0)
    x = torch.randn(3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    rho = sde.rho(times)
    last = float(sde.rho(torch.tensor(sde.t_min, dtype=torch.float64)))
    data = 0.7 - 2.0 * (rho**2 - last**2) + 5.0 * (rho**4 - last**4)
    p, q = shape.pair(sde.lam(times))
    m = p * data + q * (x - sde.alpha(times) * data) / sde.sigma(times)
    weights = torch.tensor(Adams(4, shape, end=3)._ending(sde, times), dtype=torch.float64)
    assert float(weights @ torch.cat([x, m])) == pytest.approx(0.7, abs=1e-11)


def test_the_end_leaves_no_floor() -> None:
    """On a grid that ends at rho = 0.01 the denoised state keeps an error of order rho^2, the extrapolated one none."""
    oracle = GaussianMixture([[1.0, -0.5], [-0.3, 0.4]], 0.1, dtype=torch.float64)
    sde, grid = VPSDE(), uniform_lambda(rho_min=0.01)
    x = oracle.at(sde, sde.T).sample(64)
    start = torch.tensor(sde.T, dtype=torch.float64)
    lams = torch.tensor([float(sde.lam(start)), math.log(1e7)], dtype=torch.float64)
    exact = exact_flow(KarrasSDE(1e-8, 1e4), oracle, x / sde.alpha(start), lams)[1]

    def error(end: int, steps: int) -> float:
        found = sample(sde, oracle.denoiser(sde), x=x, solver=replace(ADAMS, end=end), steps=steps, times=grid)
        return float((found - exact).square().mean().sqrt())

    assert error(1, 160) > 0.9 * error(1, 80) > 2e-4
    assert error(3, 160) < error(3, 80) / 6
    assert error(3, 160) < 2e-5


def test_the_end_does_not_magnify_errors_of_the_net_however_fine_the_grid() -> None:
    """Data predictions with errors of std 0.01 that differ from call to call: extrapolated from neighbours of a grid of
    400 steps they would be magnified by hundreds."""
    sde, own = KarrasSDE(), torch.Generator().manual_seed(0)

    def net(x: Tensor, t: Tensor) -> Tensor:
        return 0.01 * torch.randn(x.shape, generator=own, dtype=x.dtype)

    x = torch.randn(500, 2, generator=own, dtype=torch.float64) * 80
    for steps in (20, 100, 400):
        end = sample(sde, net, x=x, solver=ADAMS, steps=steps, predicts="data")
        assert 0.005 < float(end.square().mean().sqrt()) < 0.04


@pytest.mark.parametrize("target", TARGETS)
def test_trajectories_do_not_depend_on_the_path(target: str, oracle3: GaussianMixture) -> None:
    """The weights depend on lam alone."""
    z = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    method = Adams(3, TARGETS[target], RHO, corrector=True)
    assert_same_on(SIX, method, oracle3, torch.linspace(-2, 3, 9, dtype=torch.float64), z)


@pytest.mark.parametrize("method", [ER_SDE, SEEDS, SDE_DPMPP_3M], ids=["er-sde", "seeds", "sde-dpm++3m"])
def test_stochastic_presets_have_the_right_law(method: Adams) -> None:
    check_sde_law(method, steps=300, n=2000)


@pytest.mark.parametrize("target", ["noise", "data", "v", "difference"])
@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_every_tau_has_the_right_law(target: str, tau: float) -> None:
    check_sde_law(Adams(2, TARGETS[target], LAM, corrector=True, tau=tau), steps=200, n=2000)


def test_the_law_test_can_fail() -> None:
    class Louder(Adams):
        def table(self, sde: LinearSDE, times: Tensor, strength: Tensor | None = None) -> Any:
            table = super().table(sde, times, strength)
            return replace(table, spread=[1.3 * spread for spread in table.spread])

    with pytest.raises(AssertionError, match="differ from exact ones"):
        check_sde_law(Louder(2, DATA, tau=1.0), steps=200)


def test_large_steps_are_of_low_order() -> None:
    """A step of h in lam combines at most 1 + reach / h targets; guidance beyond 3 shortens the reach."""
    sde = VPSDE()
    times = sde.time(torch.tensor([-4.0, -3.9, -3.8, -3.0, -1.4, 0.0, 0.7, 1.1], dtype=torch.float64))
    method, whole = Adams(3, reach=1.5), Adams(3)

    def counts(*strength: float) -> list[int]:
        scales = torch.tensor(strength, dtype=torch.float64).expand(len(times)) if strength else None
        return [len(row) for row in method.table(sde, times, scales).predict]

    assert counts() == counts(1.0) == counts(3.0) == [1, 2, 2, 1, 2, 3, 3]
    assert counts(6.0) == [1, 2, 1, 1, 1, 2, 2]
    assert counts(1.0, 1.0, 1.0, 1.0, 1.0, 6.0, 1.0, 1.0) == [1, 2, 2, 1, 2, 2, 3]
    found, full = method.table(sde, times).predict, whole.table(sde, times).predict
    assert found[5] == full[5]
    assert found[4] == Adams(2).table(sde, times).predict[4]


@pytest.mark.parametrize("sde", [VPSDE(), KarrasSDE()], ids=repr)
def test_the_default_is_nearer_for_its_reach(sde: LinearSDE) -> None:
    """In 8 calls it ends nearer to the flow of 64 numbers, as heun with 200 steps has it, than at full order."""
    own = torch.Generator().manual_seed(0)
    means = 0.6 * torch.randn(10, 64, generator=own, dtype=torch.float64)
    denoiser = GaussianMixture(means, 0.02 + 0.28 * torch.rand(10, 64, generator=own)).denoiser(sde)

    def at(solver: Solver, **budget: Any) -> Tensor:
        return sample(sde, denoiser, (60, 64), seed=0, solver=solver, **budget)

    exact = at(HEUN, steps=200)

    def distance(solver: Solver) -> float:
        return float((at(solver, nfe=8) - exact).norm(dim=1).median())

    assert distance(ADAMS) < 0.75 * distance(replace(ADAMS, reach=math.inf))


@pytest.mark.parametrize("options", [{"order": 0}, {"order": 7}, {"tau": -1.0}, {"end": 0}, {"reach": 0.0}])
def test_bad_settings(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"expected"):
        Adams(**options)  # type: ignore[arg-type]
