"""Solvers fitted to a net: what they are, that they come nearer to the flow on noises not seen, and what is refused."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sdescore import VPSDE, FlowSDE, GaussianMixture, KarrasSDE, LinearSDE, Solver, find_solver, fit_solver, sample
from sdescore.denoisers import guided
from sdescore.sampling import FittedSolver, ReverseProcess, uniform_lambda
from sdescore.sampling.fit_solver import _data
from sdescore.sampling.fitted_solver import linear_map
from sdescore.solvers import ADAMS, DDIM, DPMPP_2M
from sdescore.testing import exact_flow

MODES = GaussianMixture(torch.randn(3, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.5, 0.1)


def flow_ends(sde: LinearSDE, x: Tensor) -> Tensor:
    """The data prediction at t_min of the exact flow from states x at T."""
    lams = sde.lam(torch.tensor([sde.T, sde.t_min], dtype=torch.float64))
    wide = KarrasSDE(1e-8, 1e4)
    y = exact_flow(wide, MODES, x / sde.alpha(torch.tensor(sde.T, dtype=torch.float64)), lams)[1]
    return MODES.denoiser(wide)(y, wide.time(lams[1]))


@pytest.mark.parametrize("solver", [DDIM, DPMPP_2M, ADAMS], ids=repr)
def test_a_solver_is_a_triangular_map_of_its_data_predictions(solver: Solver) -> None:
    sde, net = VPSDE(), MODES.denoiser(VPSDE())
    times = uniform_lambda()(sde, 7)
    found = linear_map(solver, sde, times)
    x = MODES.at(sde, sde.T).sample(8, 1)
    expected = sample(sde, net, x=x, solver=solver, times=times)
    torch.testing.assert_close(sample(sde, net, x=x, solver=found), expected, rtol=0, atol=1e-11)
    # On another path the same states are the same up to scale.
    flow = FlowSDE()
    start = flow.time(sde.lam(times[0]))
    moved = x * flow.alpha(start) / sde.alpha(times[0])
    torch.testing.assert_close(sample(flow, net, x=moved, solver=found), expected, rtol=0, atol=1e-9)


def test_the_map_of_a_guided_net_has_the_orders_of_its_sampling() -> None:
    sde, n = VPSDE(), 8
    classes = GaussianMixture(MODES.means, 0.1, labels=[0, 1, 0])
    net, label = guided(classes.denoiser(sde), 7.0), torch.arange(n) % 2
    times = uniform_lambda()(sde, 12)  # steps of 0.9 in lam
    x = classes.at(sde, sde.T).sample(n, 1)
    expected = sample(sde, net, x=x, solver=ADAMS, times=times, condition={"label": label})
    found = linear_map(ADAMS, sde, times, net)
    assert found != linear_map(ADAMS, sde, times)
    got = sample(sde, net, x=x, solver=found, condition={"label": label})
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


def test_fitted_to_some_noises_it_is_nearer_to_the_flow_on_others() -> None:
    sde, net = VPSDE(), MODES.denoiser(VPSDE())
    solver = fit_solver(sde, net, (90, 16), nfe=6, iterations=60, dtype=torch.float64)
    x = MODES.at(sde, sde.T).sample(400, 1)
    exact = flow_ends(sde, x)

    def distance(**how: Any) -> Tensor:
        return (sample(sde, net, x=x, **how) - exact).square().mean(1).sqrt()

    own, fitted = distance(nfe=6), distance(solver=solver)
    assert float(fitted.median()) < 0.6 * float(own.median())
    assert float(fitted.square().mean()) < 1.1 * float(own.square().mean())
    assert solver.nfe(5) == 6 and solver.after < solver.before
    assert solver.before == pytest.approx(float(own.median()), rel=0.5)
    assert solver.after == pytest.approx(float(fitted.median()), rel=0.5)
    again = fit_solver(sde, net, (90, 16), nfe=6, iterations=1, dtype=torch.float64)
    assert again.after <= again.before


def test_the_derivative_by_the_noise_level_is_there_for_nets_that_have_none() -> None:
    """Of a net that sees its time as a number without gradient; beside the exact one's by autograd."""
    sde = KarrasSDE()
    own = MODES.denoiser(sde)

    def net(x: Tensor, t: Tensor) -> Tensor:
        return own(x, t.detach())

    y = MODES.at(sde, 1.0).sample(4, 2)
    level = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    found = _data(ReverseProcess(sde, net_of(net, sde)), y, level)
    (by_differences,) = torch.autograd.grad(found.sum(), level)
    exact = torch.func.jvp(lambda log_rho: own(y, log_rho.exp()), (level.detach(),), (torch.ones_like(level),))[1]
    assert abs(float(exact.sum())) > 0.1
    assert float(by_differences) == pytest.approx(float(exact.sum()), rel=0.02)


def net_of(net: Any, sde: LinearSDE) -> Any:
    from sdescore.denoisers.denoiser import as_denoiser

    return as_denoiser(net, sde, "data")


def test_it_is_saved_and_found_by_its_file(tmp_path: Path) -> None:
    sde, net = VPSDE(), MODES.denoiser(VPSDE())
    solver = linear_map(ADAMS, sde, uniform_lambda()(sde, 5))
    file = tmp_path / "solver.json"
    solver.save(file)
    assert FittedSolver.load(file).levels == solver.levels
    x = MODES.at(sde, sde.T).sample(3, 1)
    assert torch.equal(sample(sde, net, x=x, solver=str(file)), sample(sde, net, x=x, solver=solver))


@pytest.mark.parametrize(
    "change",
    [
        {"format": 7},
        {"levels": [1.0, 2.0]},
        {"end": [math.nan]},
        {"states": "abc"},
        {"levels": None},
        {"other": 1},
        {"states": [[1.0]]},
    ],
    ids=str,
)
def test_files_of_another_content_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "solver.json"
    linear_map(DDIM, VPSDE(), uniform_lambda()(VPSDE(), 4)).save(file)
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ValueError, match=r"solver\.json"):
        FittedSolver.load(file)


def test_what_cannot_be_fitted_is_refused() -> None:
    sde, net = VPSDE(), MODES.denoiser(VPSDE())
    with pytest.raises(ValueError, match="draws noise"):
        fit_solver(sde, net, (6, 16), nfe=5, solver="ddpm")
    with pytest.raises(ValueError, match="decreasing"):
        fit_solver(sde, net, (6, 16), nfe=5, solver="heun")
    with pytest.raises(ValueError, match="at least 6 pilots"):
        fit_solver(sde, net, (5, 16), nfe=5)
    with pytest.raises(ValueError, match="no derivative by x"):
        fit_solver(sde, lambda x, t: net.score(x.detach(), t), (6, 16), nfe=5, iterations=1)
    fitted = linear_map(find_solver("ddim"), sde, uniform_lambda()(sde, 4))
    with pytest.raises(ValueError, match="expected 4"):
        sample(sde, net, (2, 16), solver=fitted, steps=5)
    with pytest.raises(ValueError, match="expected the 4"):
        sample(sde, net, (2, 16), solver=fitted, times=uniform_lambda()(sde, 5))
