"""Checks for authors of solvers: does a method have its order, and do its samples follow the right law?"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from sdescore.common.linear_combinations import Coefficient
from sdescore.common.random import generator
from sdescore.denoisers.mixture import GaussianMixture
from sdescore.density.coordinates import LAM
from sdescore.density.flow import transport
from sdescore.processes.base import LinearSDE
from sdescore.processes.linear import VPSDE
from sdescore.sampling.noise import WhiteNoise
from sdescore.sampling.reverse import ReverseProcess, SummandsAlong
from sdescore.sampling.sample import sample
from sdescore.sampling.solver import Solver, find_solver

__all__ = ["check_ode_order", "check_sde_law", "exact_flow", "measured_order", "two_sample"]


@cache
def _mixture() -> GaussianMixture:
    own = generator("testing", 0)
    return GaussianMixture(torch.randn(6, 2, generator=own, dtype=torch.float64), 0.4)


def exact_flow(sde: LinearSDE, mixture: GaussianMixture, x: Tensor, lams: Tensor) -> list[Tensor]:
    """States (batch, *shape) on the probability-flow ODE at each of the lams in their order, from x at the first.

    Integrated in lam by Tsitouras' pair to a relative error of about 1e-11, for x and a mixture in float64.
    """
    reverse = ReverseProcess(sde, mixture.denoiser(sde))
    states = [x]
    for start, stop in pairwise(sde.time(lams).tolist()):
        if start != stop:
            x = transport(reverse, x, start, stop, 1e-12, 1e-12, coordinate=LAM).y
        states.append(x)
    return states


@dataclass(frozen=True)
class _WithHistory(ReverseProcess):
    """Predictions at the first times are those of the exact states there, whatever state the solver asks about."""

    exact: Mapping[float, Tensor] = field(default_factory=dict)

    def linear(self, x: Tensor, t: Tensor, p: Coefficient, q: Coefficient) -> Tensor:
        return super().linear(self.exact.get(float(t), x), t, p, q)

    def summands(self, times: Tensor, p: Coefficient, q: Coefficient) -> SummandsAlong:
        at = super().summands(times, p, q)
        return lambda i, x: at(i, self.exact.get(float(times[i]), x))


@lru_cache(maxsize=64)
def _exact_states(sde: LinearSDE, mixture: GaussianMixture, starts: int, lams: tuple[float, ...]) -> list[Tensor]:
    """States on the flow from exact samples at the first of lams; kept, as every solver is measured on the same."""
    at = torch.tensor(lams, dtype=torch.float64)
    return exact_flow(sde, mixture, mixture.at(sde, sde.time(at[0])).sample(starts), at)


def measured_order(
    solver: "str | Solver",
    history: int = 0,
    sde: LinearSDE | None = None,
    mixture: GaussianMixture | None = None,
    steps: tuple[int, ...] = (32, 64, 128),
    starts: int = 64,
) -> float:
    """The order of a deterministic solver: minus the slope of log RMS error against log steps on lam in [-1, 1.5].

    Args:
        solver: A name or a Solver.
        history: How many earlier states a multistep method uses; it gets the exact ones.
        sde, mixture: The test problem; by default VPSDE and a mixture of six Gaussians in the plane.
        steps: Numbers of steps over the interval.
        starts: Number of starting points, over which errors are averaged.
    """
    method = find_solver(solver)
    sde = sde or VPSDE()
    mixture = mixture or _mixture()
    denoiser = mixture.denoiser(sde)
    noise = WhiteNoise(0, range(starts))
    exact = _exact_states(sde, mixture, starts, (-1.0, 1.5))[-1]
    errors = []
    for count in steps:
        lams = -1 + 2.5 / count * torch.arange(-history, count + 1, dtype=torch.float64)
        states = _exact_states(sde, mixture, starts, tuple(lams[: history + 1].flip(0).tolist()))[::-1]
        times = sde.time(lams)
        known = dict(zip(times.tolist(), states, strict=False)) if history else {}
        reverse = _WithHistory(sde, denoiser, exact=known)
        x = states[0]
        if history:
            # With its predictions given, a linear multistep method is affine in x: start so that it passes through the
            # exact state where the history ends.
            at_x, at_next = (_state(method, reverse, each, times, noise, history) for each in (x, x + 1))
            x = x + (states[history] - at_x) / (at_next - at_x)
        end = _state(method, reverse, x, times, noise, len(times) - 1)
        errors.append(float((end - exact).square().mean().sqrt()))
    a = torch.tensor(steps, dtype=torch.float64).log()
    b = torch.tensor(errors, dtype=torch.float64).log()
    return float(-((a - a.mean()) * (b - b.mean())).sum() / (a - a.mean()).square().sum())


def _state(method: Solver, reverse: ReverseProcess, x: Tensor, times: Tensor, noise: WhiteNoise, number: int) -> Tensor:
    for i, state in enumerate(method.solve(reverse, x, times, noise), start=1):
        if i == number:
            return state
    raise AssertionError(f"{method} yields fewer than {number} states on {len(times)} times")


def check_ode_order(solver: "str | Solver", order: float, history: int = 0, **options: object) -> float:
    """Return the order of a deterministic solver, or raise AssertionError if it is below `order` - 0.15.

    Arguments as of measured_order().
    """
    found = measured_order(solver, history, **options)  # type: ignore[arg-type]
    if not found >= order - 0.15:
        raise AssertionError(f"{solver} is claimed to be of order {order}, but measures {found:.2f}")
    return found


def two_sample(a: Tensor, b: Tensor, directions: int = 16) -> float:
    """The p-value of samples a and b (n, *shape) being of one law.

    The smallest of the two-sample Kolmogorov-Smirnov tests along random directions, times their number (Bonferroni).
    """
    a, b = a.flatten(1).double(), b.flatten(1).double()
    axes = torch.randn(a.shape[1], directions, generator=generator("directions", 0), dtype=torch.float64).to(a)
    smallest = 1.0
    for axis in axes.T:
        left, right = (a @ axis).sort().values, (b @ axis).sort().values
        at = torch.cat([left, right])
        shares = [torch.searchsorted(sample, at, right=True) / len(sample) for sample in (left, right)]
        scaled = float((shares[0] - shares[1]).abs().max()) * math.sqrt(len(a) * len(b) / (len(a) + len(b)))
        tail = 2 * sum((-1) ** (k - 1) * math.exp(-2 * (k * scaled) ** 2) for k in range(1, 101)) if scaled > 0.2 else 1
        smallest = min(smallest, tail)
    return min(1.0, directions * smallest)


def check_sde_law(
    solver: "str | Solver",
    steps: int = 400,
    sde: LinearSDE | None = None,
    mixture: GaussianMixture | None = None,
    n: int = 4000,
    level: float = 1e-3,
    seed: int = 0,
) -> float:
    """Return the p-value of n samples of a solver against exact ones, or raise AssertionError if it is below `level`.

    The solver starts from exact samples at T, so that the gap between p_T and the prior does not matter. sde and
    mixture as of measured_order().
    """
    sde, mixture = sde or VPSDE(), mixture or _mixture()
    start = mixture.at(sde, sde.T).sample(n, seed)
    found = sample(sde, mixture.denoiser(sde), x=start, solver=solver, steps=steps, seed=seed)
    p = two_sample(found, mixture.sample(n, seed + 1))
    if not p >= level:
        raise AssertionError(f"samples of {solver} in {steps} steps differ from exact ones: p = {p:.2g} < {level}")
    return p
