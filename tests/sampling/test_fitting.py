"""Times fitted to a net: nearer to the exact flow on noises that the search has not seen; what is refused."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sdescore import (
    VESDE,
    VPSDE,
    FlowSDE,
    GaussianMixture,
    KarrasSDE,
    LinearSDE,
    find_solver,
    fit_times,
    karras,
    sample,
    trajectory,
)
from sdescore.sampling import uniform_lambda, uniform_t
from sdescore.sampling.grids import two_ends
from sdescore.solvers import ADAMS
from sdescore.testing import exact_flow

# Three tight modes in 16 dimensions.
MODES = GaussianMixture(torch.randn(3, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.5, 0.1)


def endpoints(sde: LinearSDE, x: Tensor) -> Tensor:
    """Of the flow, by a long run: a twentieth of the time of the exact one."""
    return sample(sde, MODES.denoiser(sde), x=x, solver=replace(ADAMS, order=4), steps=400, times=uniform_lambda())


def exact_endpoints(sde: LinearSDE, x: Tensor) -> Tensor:
    """The data prediction at t_min of the exact flow."""
    times = torch.tensor([sde.T, sde.t_min], dtype=torch.float64)
    wide, lams = KarrasSDE(1e-8, 1e4), sde.lam(times)
    y = exact_flow(wide, MODES, x / sde.alpha(times[0]), lams)[1]
    return MODES.denoiser(wide)(y, wide.time(lams[1]))


def distance(sde: LinearSDE, x: Tensor, exact: Tensor, **grid: Any) -> Tensor:
    return (sample(sde, MODES.denoiser(sde), x=x, **grid) - exact).square().mean(1).sqrt()


@pytest.mark.parametrize("sde", [VPSDE(), VESDE()], ids=["VP", "VE"])
def test_a_long_run_ends_where_the_flow_does(sde: LinearSDE) -> None:
    x = MODES.at(sde, sde.T).sample(8, 1)
    torch.testing.assert_close(endpoints(sde, x), exact_endpoints(sde, x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["adams", "dpm++", "heun"])
@pytest.mark.parametrize("sde", [VPSDE(), pytest.param(VESDE(), marks=pytest.mark.slow)], ids=["VP", "VE"])
def test_fitted_times_halve_the_distance_on_other_noises(name: str, sde: LinearSDE) -> None:
    x = MODES.at(sde, sde.T).sample(160, 1)
    exact = endpoints(sde, x)
    times = fit_times(sde, MODES.denoiser(sde), solver=name, nfe=9, x=x[:32], exact=exact[:32])

    own, fitted = (distance(sde, x[32:], exact[32:], solver=name, **grid) for grid in ({"nfe": 9}, {"times": times}))
    assert fitted.median() < own.median() / 2
    assert times[0] == sde.T and times[-1] >= sde.t_min and bool((times.diff() < 0).all())


@pytest.mark.parametrize("sde", [pytest.param(VPSDE(), marks=pytest.mark.slow), VESDE()], ids=["VP", "VE"])
def test_times_for_the_farthest_keep_other_noises_from_going_astray(sde: LinearSDE) -> None:
    eager = replace(ADAMS, reach=math.inf)  # of full order wherever it can be, it sends some samples astray
    x, other = MODES.at(sde, sde.T).sample(1000, 1), MODES.at(sde, sde.T).sample(1000, 2)
    far = x[distance(sde, x, endpoints(sde, x), solver=eager, nfe=9).argsort(descending=True)[:64]]
    typical = fit_times(sde, MODES.denoiser(sde), solver=eager, x=x[:64], nfe=9)
    square = fit_times(sde, MODES.denoiser(sde), solver=eager, x=far, nfe=9, power=2.0)
    exact = endpoints(sde, other)
    before, after = (
        float(distance(sde, other, exact, solver=eager, times=times).square().mean()) for times in (typical, square)
    )
    assert after < before / 2


@pytest.mark.parametrize("power", [0.0, 0.5, 2.0])
def test_the_mean_that_falls_is_that_of_the_power(power: float, capsys: pytest.CaptureFixture[str]) -> None:
    sde = VPSDE()
    x = MODES.at(sde, sde.T).sample(20, 1)
    exact = endpoints(sde, x)
    times = fit_times(sde, MODES.denoiser(sde), x=x, exact=exact, nfe=9, power=power, runs=40, progress=True)
    found = distance(sde, x, exact, times=times)
    mean = found.pow(power).mean() ** (1 / power) if power else found.log().mean().exp()
    assert f"distance {float(mean):.3g}]" in capsys.readouterr().err


def test_pilots_of_a_seed_are_those_of_sample_and_the_flow_is_found_where_it_is_not_told() -> None:
    sde = VPSDE()
    denoiser, seen = MODES.denoiser(sde), []

    def net(x: Tensor, t: Tensor) -> Tensor:
        seen.append(len(x))
        return denoiser(x, t)

    times = fit_times(sde, net, (24, 16), nfe=7, seed=3, runs=40, dtype=torch.float64, predicts="data")
    x = next(trajectory(sde, denoiser, (24, 16), seed=3, dtype=torch.float64))
    torch.testing.assert_close(
        times, fit_times(sde, denoiser, x=x, exact=exact_endpoints(sde, x), nfe=7, seed=3, runs=40), rtol=1e-4, atol=0
    )
    assert set(seen) == {24} and len(seen) == 7 * (2 + 1 + 40) + 200


def test_one_run_that_finds_nothing_better_leaves_the_grid_as_it_is() -> None:
    sde = VPSDE()
    x = MODES.at(sde, sde.T).sample(4, 1)
    grid = karras()(sde, 6)
    reached = sample(sde, MODES.denoiser(sde), x=x, solver="heun", times=grid)  # no other times come nearer
    found = fit_times(sde, MODES.denoiser(sde), solver="heun", steps=6, times=karras(), x=x, exact=reached, runs=20)
    assert torch.equal(found, grid)


def test_where_all_times_are_as_good_the_moves_stay_small_and_the_grid_as_it_is() -> None:
    sde = FlowSDE()
    common: dict[str, Any] = {"solver": "ddim", "predicts": "data", "seed": -1}
    grid = uniform_t()(sde, 5).float()  # whose rounding of T is still T
    found = fit_times(sde, lambda x, t: torch.zeros_like(x), (4, 3), times=lambda *_: grid, steps=5, runs=60, **common)
    assert torch.equal(found, grid.double())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"solver": "ddpm"}, ValueError, "solver='ddpm' draws noise; expected solvers of the probability-flow ODE"),
        ({"solver": "bosh3", "nfe": None, "steps": 9}, ValueError, "solver='bosh3' begins with 2 times"),
        ({"times": two_ends()}, ValueError, "begins with 2 times; expected at least 3"),
        ({"times": uniform_t()(VPSDE(), 9), "nfe": None}, TypeError, "times is a tensor; expected a grid"),
        ({"exact": torch.zeros(3, 16)}, ValueError, r"exact is \(3, 16\); expected the finite endpoints .* \(8, 16\)"),
        ({"exact": torch.full((8, 16), math.nan)}, ValueError, r"exact is \(8, 16\); expected the finite endpoints"),
        ({"runs": 0}, ValueError, "runs=0; expected a positive integer"),
        ({"power": -1.0}, ValueError, "power=-1.0; expected 0 and numbers from 0.01 on"),
        ({"power": math.inf}, ValueError, "power=inf; expected 0 and numbers"),
        ({"power": math.nan}, ValueError, "power=nan; expected 0 and numbers"),
        ({"power": 1e-9}, ValueError, "power=1e-09; expected 0 and numbers"),
        ({"power": "2"}, ValueError, "power='2'; expected 0 and numbers"),
        ({"nfe": 1}, ValueError, "nfe=1 is too small"),
        ({"solver": "nosuch"}, ValueError, "nosuch"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    given: dict[str, Any] = {"nfe": 8, **arguments}
    with pytest.raises(error, match=message):
        fit_times(VPSDE(), MODES.denoiser(VPSDE()), (8, 16), **given)


def test_what_is_no_process_is_named() -> None:
    with pytest.raises(TypeError, match="sde is 'vp'; expected a LinearSDE"):
        fit_times("vp", MODES.denoiser(VPSDE()), (8, 16), nfe=8)  # type: ignore[arg-type]


def test_a_solver_object_is_fitted_as_its_name() -> None:
    sde = VESDE()
    both = [
        fit_times(sde, MODES.denoiser(sde), (8, 16), nfe=6, runs=10, solver=s) for s in ("ddim", find_solver("ddim"))
    ]
    assert torch.equal(*both)
