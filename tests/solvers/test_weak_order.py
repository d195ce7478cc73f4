"""The weak orders of stochastic solvers, measured without any sampling."""

import pytest
import torch
from conftest import FIVE, name_of
from named_solvers import one_step
from noise_doubles import Replay
from tensors_and_errors import fitted_order
from weak_orders import overall_order, weak_errors

from sdescore import GaussianMixture, LinearSDE, ReverseProcess, Solver, find_solver

# DDPM's errors are the same on every process, and torchsde's steps are Euler and Maruyama's, as their own tests hold.
ORDER_ONE = [
    pytest.param(name, sde, marks=pytest.mark.slow if sde is not FIVE[0] and name in ("ddpm", "torchsde") else ())
    for name in ("euler-maruyama", "ddpm", "reverse-diffusion", "torchsde")
    for sde in FIVE
]


@pytest.mark.parametrize(("name", "sde"), ORDER_ONE, ids=name_of)
def test_weak_order_one(name: str, sde: LinearSDE) -> None:
    steps = (32, 64, 128)
    errors = weak_errors(one_step(name), sde, steps)
    print(f"weak order {overall_order(steps, errors):.2f}, errors {errors}")
    assert overall_order(steps, errors) >= 0.85
    assert float(abs(errors[-1]).max()) < 0.1


def variance_error(solver: Solver, sde: LinearSDE, steps: int) -> float:
    """Of the end's variance, for Gaussian data, where a linear solver's state is a sum over its draws.

    Row i of a batch has a 1 as its draw i and zeros elsewhere; two more rows tell what the starting state adds.
    """
    mixture = GaussianMixture(torch.zeros(1, 1, dtype=torch.float64), 0.5)
    times = sde.time(torch.linspace(-1.0, 1.5, steps + 1, dtype=torch.float64))
    impulses = [row.unsqueeze(1) for row in torch.eye(steps + 1, dtype=torch.float64)[:steps]]
    start = torch.zeros(steps + 1, 1, dtype=torch.float64)
    start[-1] = 1
    *_, end = solver.solve(ReverseProcess(sde, mixture.denoiser(sde)), start, times, Replay(impulses))
    first, last = (float(mixture.at(sde, t).stds) ** 2 for t in times[[0, -1]])
    return abs(float(end[:-1].square().sum() + end[-1].square() * first) / last - 1)


@pytest.mark.parametrize(("name", "order"), [("euler-maruyama", 1), ("ddpm", 1), ("sde-dpm++", 2), ("sa", 2)])
def test_weak_order_of_the_variance(name: str, order: int, main_sde: LinearSDE) -> None:
    steps = (32, 64, 128)
    errors = [variance_error(find_solver(name), main_sde, count) for count in steps]
    print(f"order {fitted_order(steps, errors):.2f}, errors {errors}")
    assert fitted_order(steps, errors) >= order - 0.15
