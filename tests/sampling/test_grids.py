"""Time grids: their spacing, their ends, what the last step leaves, and what is refused."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from conftest import SIX, name_of
from scipy import stats
from torch import Tensor, nn

from sdescore import (
    VPSDE,
    Denoiser,
    DiscreteSDE,
    GaussianMixture,
    KarrasSDE,
    LinearSDE,
    SubVPSDE,
    find_solver,
    karras,
    sample,
)
from sdescore.sampling import (
    approaching,
    beta_quantile,
    polynomial_t,
    uniform_angle,
    uniform_asinh,
    uniform_lambda,
    uniform_t,
)
from sdescore.sampling.grids import Grid
from sdescore.sampling.solver import total_nfe
from sdescore.sampling.times import time_grid
from sdescore.solvers import ADAMS, HEUN
from sdescore.testing import exact_flow

MAKERS: dict[str, Callable[..., Grid]] = {
    "karras": karras,
    "lam": uniform_lambda,
    "angle": uniform_angle,
    "asinh": uniform_asinh,
    "t": uniform_t,
    "polynomial": polynomial_t,
    "beta": beta_quantile,
}
every_grid = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@every_grid
@pytest.mark.parametrize("rho_min", [1e-9, 0.002, 0.05])
def test_ends_are_those_of_the_process_to_the_bit(make: Callable[..., Grid], rho_min: float, sde: LinearSDE) -> None:
    smallest = max(rho_min, float(sde.rho(torch.tensor(sde.t_min, dtype=torch.float64))))
    for steps in (1, 2, 3, 40):
        times = make(rho_min=rho_min)(sde, steps)
        assert times.dtype == torch.float64 and times.shape == (steps,)
        assert bool((times.diff() < 0).all())
        assert float(times[0]) == sde.T and float(times[-1]) >= sde.t_min
        if steps > 1:
            assert float(sde.rho(times[-1])) == pytest.approx(smallest, rel=1e-6)
            assert smallest == rho_min or float(times[-1]) == sde.t_min


SPACING: dict[str, tuple[Grid, Callable[[LinearSDE, Tensor], Tensor]]] = {
    "karras": (karras(5.0), lambda sde, t: sde.rho(t) ** (1 / 5)),
    "lam": (uniform_lambda(), lambda sde, t: sde.lam(t)),
    "angle": (uniform_angle(), lambda sde, t: sde.rho(t).atan()),
    "asinh": (uniform_asinh(3.0), lambda sde, t: (3.0 / sde.rho(t)).asinh()),
    "t": (uniform_t(), lambda sde, t: t),
    "polynomial": (polynomial_t(3.0), lambda sde, t: t ** (1 / 3)),
}


@pytest.mark.parametrize("name", SPACING)
def test_steps_are_equal_in_the_coordinate(name: str, sde: LinearSDE) -> None:
    grid, coordinate = SPACING[name]
    steps = coordinate(sde, grid(sde, 20)).diff()
    torch.testing.assert_close(steps, steps.mean().expand(19), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("a", "b"), [(0.6, 0.6), (0.5, 3.0), (4.0, 0.7), (0.05, 0.1), (1.0, 1.0), (100.0, 100.0), (0.3, 100.0)]
)
def test_beta_quantiles_are_scipys(a: float, b: float) -> None:
    sde = VPSDE()
    times = beta_quantile(a, b, rho_min=1e-9)(sde, 30)
    want = torch.from_numpy(stats.beta.ppf(torch.linspace(1, 0, 30, dtype=torch.float64).numpy(), a, b))
    torch.testing.assert_close((times - sde.t_min) / (sde.T - sde.t_min), want, rtol=0, atol=1e-12)


def test_where_grids_coincide() -> None:
    sde = KarrasSDE()  # t is rho
    torch.testing.assert_close(polynomial_t(7.0)(sde, 18), karras(7.0)(sde, 18), rtol=1e-10, atol=0)
    torch.testing.assert_close(beta_quantile(1.0, 1.0)(sde, 18), uniform_t()(sde, 18), rtol=1e-10, atol=1e-10)
    steps = torch.arange(18, dtype=torch.float64) / 17
    edm = (80 ** (1 / 7) + steps * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7  # Karras et al. 2022, eq. 5
    torch.testing.assert_close(karras()(sde, 18), edm, rtol=1e-10, atol=0)


@every_grid
@pytest.mark.parametrize("name", ["adams", "ddim", "dpm++", "heun", "ddpm"])
def test_no_call_is_wasted(make: Callable[..., Grid], name: str) -> None:
    """The net is called as often as `calls` says, and never again at a state that it has seen."""
    sde, solver = VPSDE(), find_solver(name)
    oracle = GaussianMixture([[1.0, -0.5], [-0.3, 0.4]], 0.3, dtype=torch.float64)
    denoiser, seen = oracle.denoiser(sde), []

    def net(x: Tensor, t: Tensor) -> Tensor:
        seen.append((float(t[0]), x.clone()))
        return denoiser.score(x, t)

    times = make()(sde, 9)
    sample(sde, net, (2, 2), solver=solver, times=times, dtype=torch.float64)
    assert len(seen) == total_nfe(solver, 9)
    assert {t for t, _ in seen} == set(times.tolist())
    assert not any(t == u and torch.equal(x, y) for i, (t, x) in enumerate(seen) for u, y in seen[:i])


ORACLE = GaussianMixture([[1.0, -0.5], [-0.3, 0.4]], 0.1, dtype=torch.float64)
STOP = float(VPSDE().lam(torch.tensor(1e-3, dtype=torch.float64)))


@pytest.fixture(scope="module")
def runs() -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Of each process, states at T, denoised states of their exact flow at t_min, and at STOP.

    The flow is the same on every process: one integration takes up their states where each of them begins.
    """
    wide, starts, states = KarrasSDE(1e-8, 1e4), [], torch.empty(0, 2, dtype=torch.float64)
    last = {sde: torch.tensor(sde.T, dtype=torch.float64) for sde in SIX}
    order = sorted(SIX, key=lambda sde: float(sde.lam(last[sde])))
    lams = torch.stack([*(sde.lam(last[sde]) for sde in order), torch.tensor(STOP, dtype=torch.float64)])
    for i, sde in enumerate(order):
        starts.append(ORACLE.at(sde, sde.T).sample(16))
        states = torch.cat([states, starts[i] / sde.alpha(last[sde])])
        states = exact_flow(wide, ORACLE, states, lams[i : i + 2])[1]
    data = ORACLE.denoiser(wide)
    ends = [sde.lam(torch.tensor(sde.t_min, dtype=torch.float64)) for sde in order]
    later = torch.stack([torch.tensor(STOP, dtype=torch.float64), *sorted(ends)])
    flows = dict(zip(later.tolist(), exact_flow(wide, ORACLE, states, later), strict=True))
    exact = [
        data(flows[float(lam)], wide.time(lam)).split(16)[i]  # the data prediction at the process's own end
        for i, lam in enumerate(ends)
    ]
    stopped = data(states, wide.time(lams[-1])).split(16)
    return dict(zip(map(name_of, order), zip(starts, exact, stopped, strict=True), strict=True))


@pytest.mark.parametrize("sde", [sde for sde in SIX if name_of(sde) != "VESDE"], ids=name_of)
def test_no_floor_from_stopping_at_a_thousandth(sde: LinearSDE, runs: dict[str, tuple[Tensor, Tensor, Tensor]]) -> None:
    """Who stops at VP's t = 1e-3 keeps an error that no number of steps lowers; the grids' own end leaves none."""
    x, exact, stopped = runs[name_of(sde)]
    floor = float((stopped - exact).square().mean().sqrt())
    assert floor > 1e-4

    def error(steps: int) -> float:
        found = sample(
            sde, ORACLE.denoiser(sde), x=x, solver=replace(ADAMS, order=4), steps=steps, times=uniform_lambda()
        )
        return float((found - exact).square().mean().sqrt())

    assert error(240) < error(120) / 8
    assert error(240) < floor / 40


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["adams", "ddim", "dpm++3m", "unipc", "heun", "ddpm", "sa"])
def test_nothing_is_divided_by_a_vanishing_sigma(name: str, dtype: torch.dtype) -> None:
    """Down to rho = 1e-6 every state is finite, and the deterministic ones reach the exact endpoint of a Gaussian."""
    sde, mean, std = SubVPSDE(), torch.tensor([0.7, -0.2], dtype=dtype), 0.5
    net = GaussianMixture(mean[None], std).denoiser(sde)
    x = GaussianMixture(mean[None], std).at(sde, sde.T).sample(8)
    found = sample(sde, net, x=x, solver=name, steps=200, times=karras(rho_min=1e-9))
    assert found.dtype == dtype and bool(found.isfinite().all())
    if name not in ("ddpm", "sa"):
        # The flow of a Gaussian keeps (x - mean) over the standard deviation.
        alpha, sigma = (c(torch.tensor(sde.T, dtype=torch.float64)) for c in (sde.alpha, sde.sigma))
        want = mean + std * (x - alpha * mean) / math.hypot(float(alpha) * std, float(sigma))
        assert (found - want).abs().max() < (3e-2 if name == "ddim" else 1e-3)


def test_the_last_step_is_the_limit_of_a_step_to_no_noise() -> None:
    sde, denoiser = KarrasSDE(1e-12, 80.0), ORACLE.denoiser(KarrasSDE(1e-12, 80.0))
    x = ORACLE.at(sde, 0.5).sample(8)
    onwards = sample(sde, denoiser, x=x, solver="ddim", times=torch.tensor([0.5, 1e-12], dtype=torch.float64))
    at_once = sample(sde, denoiser, x=x, solver=HEUN, times=torch.tensor([0.5], dtype=torch.float64))
    torch.testing.assert_close(onwards, at_once, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: karras(0.0), "power=0.0; expected positive"),
        (lambda: karras(math.nan), "power=nan"),
        (lambda: karras(rho_min=0), "rho_min=0; expected positive"),
        (lambda: uniform_lambda(rho_min=-1.0), "rho_min=-1.0"),
        (lambda: uniform_angle(rho_min=math.inf), "rho_min=inf"),
        (lambda: uniform_asinh(0.0), "scale=0.0; expected positive"),
        (lambda: approaching(-1.0), "scale=-1.0"),
        (lambda: approaching(rho_max=0.0), "rho_max=0.0"),
        (lambda: approaching(rho_min=-1.0), "rho_min=-1.0; expected positive"),
        (lambda: approaching(rho_min=0.1), "rho_min=0.1; expected positive numbers up to 0.038"),
        (lambda: polynomial_t(-2.0), "power=-2.0"),
        (lambda: polynomial_t(math.inf), "power=inf"),
        (lambda: beta_quantile(0.0), "a=0.0; expected positive numbers up to 100"),
        (lambda: beta_quantile(b=101.0), "b=101.0"),
    ],
)
def test_bad_parameters_are_named_at_once(make: Callable[[], Grid], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@every_grid
def test_bad_calls_are_named(make: Callable[..., Grid]) -> None:
    with pytest.raises(ValueError, match="steps=0; expected a positive integer"):
        make()(VPSDE(), 0)
    with pytest.raises(ValueError, match=r"rho_min=90; expected on KarrasSDE.* below 80"):
        make(rho_min=90)(KarrasSDE(), 5)


def test_approaching_ends_nearer_to_the_data_the_more_steps_there_are() -> None:
    sde = KarrasSDE(1e-4)
    ends = {steps: float(sde.rho(approaching()(sde, steps)[-1])) for steps in (5, 10, 76, 190, 500)}
    assert ends == pytest.approx({5: 0.038, 10: 0.038, 76: 0.005, 190: 0.002, 500: 0.002}, rel=1e-9)
    torch.testing.assert_close(approaching()(sde, 76), uniform_asinh(5.0, rho_min=0.005)(sde, 76))


@pytest.mark.parametrize("predicts", ["noise", "score", "data", "edm", "v", "velocity"])
def test_the_default_grid_takes_high_noise_in_smaller_steps_for_nets_of_the_noise(predicts: str) -> None:
    """Where x0 errs in proportion to rho; the more so the more steps there are, as far as equal steps in lam."""
    sde = KarrasSDE()
    net = Denoiser(nn.Identity(), sde, predicts)
    above = {n: int((sde.rho(time_grid(sde, ADAMS, n, denoiser=net)) > 5).sum()) / n for n in (5, 10, 40, 300)}
    if predicts in ("noise", "score"):
        torch.testing.assert_close(
            time_grid(sde, ADAMS, 300, denoiser=net), uniform_lambda()(sde, 300), rtol=1e-5, atol=0
        )
        assert above[5] == 0.4 and above[10] == 0.4 and above[40] == 0.3 and 0.25 < above[300] < 0.3
    else:
        assert above[5] == 0.2 and above[10] <= 0.2 and above[40] <= 0.125 and above[300] < 0.1


def test_default_grids_of_tables_begin_where_entries_are_dense() -> None:
    """A cosine table ends with a leap of rho from 128 to 4,058, and no net has seen what is between."""
    share = torch.arange(201, dtype=torch.float64) / 200
    alpha = torch.cos((share + 0.008) / 1.008 * math.pi / 2) ** 2
    cosine = DiscreteSDE.from_betas((1 - alpha[1:] / alpha[:-1]).clamp(max=0.999))
    linear = DiscreteSDE.from_betas(torch.linspace(1e-4, 0.02, 1000))
    assert (cosine.T, cosine.start, linear.start) == (199.0, 198.0, linear.T)
    ends = cosine.rho(torch.tensor([198.0, 199.0], dtype=torch.float64)).tolist()
    assert ends == pytest.approx([128, 4058], rel=0.01)
    assert float(karras()(cosine, 5)[0]) == 198.0
    net = GaussianMixture([[0.3]], 0.5).denoiser(cosine)
    drawn = sample(cosine, net, (4096, 1), nfe=8)
    assert float(drawn.mean()) == pytest.approx(0.3, abs=0.04) and float(drawn.std()) == pytest.approx(0.5, abs=0.03)


def test_default_grids_stay_inside_the_noise_levels_of_the_net(oracle2: GaussianMixture) -> None:
    """A net of KarrasSDE, rho from 0.002 to 80, samples on VPSDE, whose rho reaches 152; given times are refused."""
    net, sde = oracle2.denoiser(KarrasSDE()), VPSDE()
    for grid in (karras(), uniform_t(), beta_quantile(), None):
        rho = sde.rho(time_grid(sde, ADAMS, 10, times=grid, denoiser=net))
        assert 79.9 < float(rho[0]) < 80.0001 and float(rho[-1]) > 0.00199
        assert bool(sample(sde, net, (2, 2), steps=10, times=grid).isfinite().all())
    with pytest.raises(ValueError, match="the net was trained on KarrasSDE"):
        sample(sde, net, (2, 2), times=karras()(sde, 10))


def test_asinh_is_lam_below_its_scale_and_the_inverse_of_rho_above() -> None:
    sde = KarrasSDE()
    torch.testing.assert_close(uniform_asinh(1e5)(sde, 30), uniform_lambda()(sde, 30), rtol=1e-6, atol=0)
    inverse = 1 / sde.rho(uniform_asinh(1e-7)(sde, 30))
    torch.testing.assert_close(inverse.diff(), inverse.diff().mean().expand(29), rtol=1e-6, atol=0)
