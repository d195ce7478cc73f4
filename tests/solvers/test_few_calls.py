"""What solvers do with few net calls at their own grids: nearer to the flow than the data's mean, or they say so."""

import warnings

import pytest
import torch
from named_solvers import FIXED

from sdescore import VESDE, VPSDE, GaussianMixture, LinearSDE, find_solver, sample
from sdescore.sampling import About, uniform_asinh

ORACLE = GaussianMixture([[1.0, -0.5], [-0.9, 0.4], [0.2, 1.1]], 0.15, dtype=torch.float64)
BUDGETS = (5, 6, 8, 10)


def about(name: str) -> About:
    found: About = find_solver(name).about  # type: ignore[attr-defined]
    return found


DETERMINISTIC = [name for name in FIXED if about(name).kind == "ODE" and about(name).least == 1]


@pytest.mark.parametrize("sde", [VPSDE(), VESDE()], ids=["VP", "VE"])
def test_solvers_of_the_ode_that_say_nothing_are_nearer_than_the_mean(sde: LinearSDE) -> None:
    net = ORACLE.denoiser(sde)
    x = ORACLE.at(sde, sde.T).sample(64, 1)
    least = float(sde.rho(torch.tensor(sde.t_min, dtype=torch.float64)))
    exact = sample(sde, net, x=x, solver="heun", times=uniform_asinh(40.0, rho_min=max(least, 0.002))(sde, 200))
    mean = (exact - exact.mean(0)).norm(dim=1).median()
    assert len(DETERMINISTIC) > 12
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in DETERMINISTIC:
            for nfe in BUDGETS:
                found = sample(sde, net, x=x, solver=name, nfe=nfe)
                assert (found - exact).norm(dim=1).median() < mean, (name, nfe)


def test_solvers_that_need_more_calls_say_so_by_name() -> None:
    sde = VPSDE()
    with pytest.warns(RuntimeWarning, match=r"seeds3 has 10 net calls; its default grid needs 40.*take adams"):
        sample(sde, ORACLE.denoiser(sde), (2, 2), solver="seeds3", nfe=10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample(sde, ORACLE.denoiser(sde), (2, 2), solver="seeds3", nfe=40)
        sample(sde, ORACLE.denoiser(sde), (2, 2), solver="seeds3", times=uniform_asinh()(sde, 4))
