"""The measured order of every deterministic fixed-step solver, against SciPy's integration of the exact flow.

Errors are root mean squares over 64 starts on lam in [-1, 1.5]; single starts scatter.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import chain, islice
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FIVE, name_of
from path_independence import assert_same_on
from scipy.integrate import solve_ivp
from tensors_and_errors import fitted_order
from torch import Tensor

from sdescore import VPSDE, GaussianMixture, LinearSDE, ReverseProcess, Solver, SubVPSDE, find_solver
from sdescore.common.linear_combinations import Coefficient
from sdescore.sampling.noise import WhiteNoise
from sdescore.sampling.reverse import SummandsAlong
from sdescore.solvers import (
    DATA,
    DIFFERENCE,
    IN_LAM,
    NOISE,
    RungeKutta,
    Spacing,
    Tableau,
    V,
    tableaux,
)
from sdescore.testing import exact_flow, measured_order

FIRST, LAST, STARTS = -1.0, 1.5, 64
EARLIEST = -1.5  # where the exact trajectories begin, so that multistep methods find their history on them

# Methods of order 4 with history meet their order later.
COARSE, FINE = (24, 48, 96), (48, 96, 192)
# Name: order, how many earlier predictions the method uses, and steps.
CLAIMS = {
    "euler": (1, 0, COARSE),
    "heun": (2, 0, COARSE),
    "midpoint": (2, 0, COARSE),
    "dpm2": (2, 0, COARSE),
    "dpm3": (3, 0, COARSE),
    "dpm++2s": (2, 0, COARSE),
    "dpm++3s": (3, 0, COARSE),
    "rk4": (4, 0, COARSE),
    "dpm++": (2, 1, COARSE),
    "dpm++3m": (3, 2, FINE),
    "lms": (4, 3, FINE),
    "deis": (4, 3, FINE),
    "ipndm": (2, 3, FINE),
    "unipc": (4, 2, FINE),
}
IN_TIME = "deis"  # interpolates in t, which is the process's
TARGETS = {"noise": NOISE, "data": DATA, "v": V, "difference": DIFFERENCE}


@dataclass(frozen=True)
class Problem:
    """A mixture, and trajectories z(lam) = x / sqrt(alpha^2 + sigma^2) of its probability-flow ODE."""

    mixture: GaussianMixture
    lams: list[float]
    states: np.ndarray  # (lams, starts, size)

    def z(self, lam: float) -> Tensor:
        index = int(np.abs(np.array(self.lams) - lam).argmin())
        assert abs(self.lams[index] - lam) < 1e-9
        return torch.from_numpy(self.states[index])


def grid(steps: int, history: int = 0) -> list[float]:
    """Equal steps in lam from FIRST to LAST, with `history` more of them before."""
    width = (LAST - FIRST) / steps
    return [FIRST + width * i for i in range(-history, steps + 1)]


def exact_trajectories(mixture: GaussianMixture) -> Problem:
    """In NumPy and SciPy alone: dz / dlam = b^2 (z + score of z), b^2 = sigma^2 / (alpha^2 + sigma^2).

    In these coordinates every path is a = sqrt(sigmoid(2 lam)), b = sqrt(sigmoid(-2 lam)).
    """
    means, stds = mixture.means.numpy(), mixture.stds.numpy()
    log_weights = np.log(mixture.weights.numpy())

    def slope(lam: float, flat: np.ndarray) -> np.ndarray:
        z = flat.reshape(STARTS, 1, -1)
        a2, b2 = 1 / (1 + np.exp(-2 * lam)), 1 / (1 + np.exp(2 * lam))
        gap, variance = np.sqrt(a2) * means - z, a2 * stds**2 + b2
        logits = log_weights - (gap**2 / variance + np.log(variance)).sum(2) / 2
        own = np.exp(logits - logits.max(1, keepdims=True))
        own /= own.sum(1, keepdims=True)
        score = (own[:, :, None] * gap / variance).sum(1)
        return (b2 * (z[:, 0] + score)).reshape(-1)

    lams = sorted({EARLIEST, *(lam for count in {*COARSE, *FINE} for lam in grid(count, 3))})
    assert lams[0] == EARLIEST
    draw = np.random.default_rng(0)
    a2 = 1 / (1 + np.exp(-2 * EARLIEST))
    component = draw.choice(len(means), STARTS, p=mixture.weights.numpy())
    spread = np.sqrt(a2 * stds[component] ** 2 + 1 - a2)
    start = np.sqrt(a2) * means[component] + spread * draw.standard_normal(spread.shape)
    path = solve_ivp(slope, (EARLIEST, LAST), start.ravel(), "DOP853", lams, rtol=1e-12, atol=1e-12)
    assert path.success
    return Problem(mixture, lams, path.y.T.reshape(len(lams), STARTS, -1))


@cache
def problem(size: int) -> Problem:
    draw = torch.Generator().manual_seed(size)
    # The modes of both are so far apart that the trajectories bend within [-1, 1.5].
    means = {2: 1.0, 64: 0.25}[size] * torch.randn(4, size, generator=draw, dtype=torch.float64)
    stds = 0.3 + 0.4 * torch.rand(4, size, generator=draw, dtype=torch.float64)
    return exact_trajectories(GaussianMixture(means, stds, [0.4, 0.3, 0.2, 0.1]))


@dataclass(frozen=True)
class ExactHistory(ReverseProcess):
    """Answers up to FIRST are those on the exact trajectory, whatever state the solver is in there."""

    known: dict[float, Tensor] = field(default_factory=dict)

    def linear(self, x: Tensor, t: Tensor, p: Coefficient, q: Coefficient) -> Tensor:
        return super().linear(self.known.get(float(t), x), t, p, q)

    def summands(self, times: Tensor, p: Coefficient, q: Coefficient) -> SummandsAlong:
        at = super().summands(times, p, q)
        return lambda i, x: at(i, self.known.get(float(times[i]), x))


def errors(solver: Solver, sde: LinearSDE, case: Problem, history: int, steps: tuple[int, ...]) -> list[float]:
    """Root mean square errors of z at LAST for each number of steps.

    A multistep method starts `history` steps early. There its predictions are the exact ones, so that it carries them
    as history, and its state, an affine function of the starting state, is made to be the exact one at FIRST.
    """
    found = []
    for count in steps:
        lams = grid(count, history)
        times = sde.time(torch.tensor(lams, dtype=torch.float64))
        scale = torch.hypot(sde.alpha(times), sde.sigma(times))
        exact = [s * case.z(lam) for s, lam in zip(scale[: history + 1], lams, strict=False)]
        known = dict(zip(times[: history + 1].tolist() if history else (), exact, strict=False))
        reverse = ExactHistory(sde, case.mixture.denoiser(sde), known=known)

        def states(x: Tensor, reverse: ReverseProcess = reverse, times: Tensor = times) -> Iterator[Tensor]:
            return chain([x], solver.solve(reverse, x, times, WhiteNoise(0, range(STARTS))))

        x = exact[0]
        if history:
            low, high = (next(islice(states(start), history, None)) for start in (x, x + 1))
            x = x + (exact[history] - low) / (high - low)
        path = list(states(x))
        assert float((path[history] - exact[history]).abs().max()) < 1e-10
        found.append(float((path[-1] / scale[-1] - case.z(LAST)).square().mean().sqrt()))
    return found


def check(
    solver: Solver, order: float, sde: LinearSDE, size: int, history: int = 0, steps: tuple[int, ...] = COARSE
) -> None:
    found = errors(solver, sde, problem(size), history, steps)
    assert found[-1] > 3e-11, "too near to the error of the exact states, about 3e-12, to measure an order"
    print(f"{size}-D order {fitted_order(steps, found):.2f}, errors {found}")
    assert fitted_order(steps, found) >= order - 0.15, found


SIZES = pytest.mark.parametrize("size", [2, 64])


def once(sde: LinearSDE, size: int, name: str = IN_TIME) -> Any:
    """Slow is what is the same on every process, as tests below hold; and 64 dimensions on more than one."""
    return pytest.mark.slow if sde is not FIVE[0] and (size == 64 or name != IN_TIME) else ()


CASES = [(sde, size) for size in (2, 64) for sde in FIVE]


@pytest.mark.parametrize(
    ("name", "sde", "size"),
    [pytest.param(name, *case, marks=once(*case, name)) for name in CLAIMS for case in CASES],
    ids=name_of,
)
def test_order_of_named_solvers(name: str, sde: LinearSDE, size: int) -> None:
    order, history, steps = CLAIMS[name]
    check(find_solver(name), order, sde, size, history, steps)


STAGES = pytest.mark.parametrize(
    ("stages", "spacing", "order"),
    [
        (tableaux.HEUN, None, 2),
        (tableaux.HEUN, IN_LAM, 2),
        (tableaux.HEUN3, None, 3),
        (tableaux.HEUN3, IN_LAM, 3),
        (tableaux.KUTTA4, None, 4),
    ],
    ids=["heun", "heun-lam", "thirds", "thirds-lam", "rk4"],
)


@SIZES
@STAGES
@pytest.mark.parametrize("target", TARGETS)
def test_order_in_every_target(target: str, stages: Tableau, spacing: Spacing | None, order: int, size: int) -> None:
    check(RungeKutta(stages, TARGETS[target], spacing), order, SubVPSDE(), size)


def test_an_order_too_high_is_seen() -> None:
    """No preset passes for one order more; nor does Heun's method with a weight that is wrong, for its own."""
    for name, (order, history, steps) in CLAIMS.items():
        with pytest.raises(AssertionError):
            check(find_solver(name), order + 1, VPSDE(), 2, history, steps)
    with pytest.raises(AssertionError):
        check(RungeKutta(Tableau("own", (0.0, 1.0), ((1,), (0.9, 1.1)))), 2, VPSDE(), 2)
    with pytest.raises(AssertionError):
        check(RungeKutta(tableaux.KUTTA4, spacing=IN_LAM), 4, VPSDE(), 2)


PATHLESS: list[str | Solver] = [name for name in CLAIMS if name != IN_TIME]


@pytest.mark.parametrize("solver", [*PATHLESS, *(RungeKutta(tableaux.KUTTA4, target) for target in TARGETS.values())])
def test_the_trajectory_is_the_same_on_every_path(solver: str | Solver) -> None:
    """Neither the flow nor any step of a solver depends on the process."""
    case = problem(2)
    assert_same_on(FIVE, solver, case.mixture, torch.tensor(grid(24), dtype=torch.float64), case.z(FIRST))


@pytest.mark.parametrize(("sde", "size"), [pytest.param(*case, marks=once(*case)) for case in CASES], ids=name_of)
def test_the_librarys_exact_flow(sde: LinearSDE, size: int) -> None:
    """sdescore.testing, for authors of solvers, integrates the same flow as SciPy does."""
    case = problem(size)
    lams = torch.tensor([FIRST, 0.25, LAST], dtype=torch.float64)
    times = sde.time(lams)
    scale = torch.hypot(sde.alpha(times), sde.sigma(times))
    found = exact_flow(sde, case.mixture, scale[0] * case.z(FIRST), lams)
    for state, s, lam in zip(found, scale, lams.tolist(), strict=True):
        assert float((state / s - case.z(lam)).abs().max()) < 1e-10


@pytest.mark.parametrize("name", ["heun", "dpm++", "unipc"])
def test_the_librarys_measured_order(name: str) -> None:
    """It measures the orders that are measured here, from other starts."""
    (_, history, steps), sde = CLAIMS[name], VPSDE()
    theirs = measured_order(name, history, sde, problem(2).mixture, steps)
    mine = fitted_order(steps, errors(find_solver(name), sde, problem(2), history, steps))
    assert theirs == pytest.approx(mine, abs=0.1)
