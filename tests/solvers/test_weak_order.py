"""The weak orders of stochastic solvers, measured without any sampling."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from named_solvers import one_step
from noise_doubles import Constant, Replay
from tensors_and_errors import double, fitted_order

from sdescore import GaussianMixture, LinearSDE, OneStep, ReverseProcess, Solver, find_solver


def weak_errors(solver: OneStep, sde: LinearSDE, steps: Sequence[int]) -> np.ndarray:
    """Errors (steps, functions) of means over a mixture in one dimension, without any sampling.

    A step is x_s = m(x_t) + c z, so that the density of x_s is an integral over that of x_t, here by the trapezoid
    rule.
    """
    mixture = GaussianMixture(double(-1.0, 0.8).unsqueeze(1), [0.3, 0.5], [0.4, 0.6])
    reverse, found = ReverseProcess(sde, mixture.denoiser(sde)), []
    unit = torch.linspace(-6, 6, 601, dtype=torch.float64)
    functions = torch.stack([unit, unit**2, unit**4, torch.cos(2 * unit)])
    for count in steps:
        times = sde.time(torch.linspace(-1.0, 1.5, count + 1, dtype=torch.float64))
        scale = torch.hypot(sde.alpha(times), sde.sigma(times))
        start, exact = (
            mixture.at(sde, times[i]).log_prob((scale[i] * unit).unsqueeze(1)).exp() * scale[i] for i in (0, -1)
        )
        density = start
        for (t, s), (before, after) in zip(pairwise(times), pairwise(scale), strict=True):
            x = (before * unit).unsqueeze(1)
            mean = solver.step(reverse, x, t, s, Constant(0.0))
            spread = solver.step(reverse, x, t, s, Constant(1.0)) - mean
            assert float((spread - spread[0]).abs().max()) < 1e-9 and float(spread[0]) > 0
            kernel = torch.exp(-((after * unit.unsqueeze(1) - mean.squeeze(1)) ** 2) / (2 * spread[0] ** 2))
            density = kernel @ density / (math.sqrt(2 * math.pi) * spread[0] / after) * (unit[1] - unit[0])
        assert float(density.sum() * (unit[1] - unit[0])) == pytest.approx(1, abs=1e-6)
        found.append((functions @ (density - exact)).abs().numpy() * float(unit[1] - unit[0]))
    return np.array(found)


@pytest.mark.parametrize("name", ["euler-maruyama", "ddpm", "reverse-diffusion", "torchsde"])
def test_weak_order_one(name: str, main_sde: LinearSDE) -> None:
    steps = (32, 64, 128)
    errors = weak_errors(one_step(name), main_sde, steps)
    whole = np.linalg.norm(errors, axis=1).tolist()
    print(f"weak order {fitted_order(steps, whole):.2f}, errors {whole}")
    assert fitted_order(steps, whole) >= 0.85
    assert float(errors[-1].max()) < 0.1


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
