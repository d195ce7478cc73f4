"""Times fitted to a net: where a solver's steps are best spent is a matter of the data, which a short search finds.

Optimised grids are due to Sabour et al. 2024, Xue et al. 2024 and Tong et al. 2024; here the search has six numbers.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from sdescore.common.checks import check_count, described
from sdescore.denoisers.denoiser import as_denoiser
from sdescore.processes.base import LinearSDE, check_linear
from sdescore.sampling.grids import Grid, uniform_asinh
from sdescore.sampling.sample import sample, trajectory
from sdescore.sampling.solver import Solver, find_solver
from sdescore.sampling.times import time_grid

__all__ = ["REFERENCE", "distances", "fit_times"]

KNOTS = 5
ASINH = uniform_asinh()  # in whose variable the times are moved
REFERENCE = 200  # net calls that stand for the exact flow


def distances(x: Tensor, exact: Tensor) -> Tensor:
    """How far each sample is from where the flow ends, (batch,), float64: root mean square over its elements."""
    return (x - exact.to(x)).flatten(1).double().square().mean(1).sqrt()


def _warped(sde: LinearSDE, start: Tensor, moves: np.ndarray) -> Tensor:
    """The times `start` redistributed: more of them where the first moves, logarithms of a density, are higher.

    The last move is the logarithm of what the whole range is stretched by, away from the noise.
    """
    q = ASINH.variable(sde, start).numpy()
    low = torch.tensor(sde.t_min, dtype=start.dtype)
    share = np.linspace(0, 1, 16 * len(start) + 1)
    density = np.exp(np.interp(share, np.linspace(0, 1, KNOTS), moves[:KNOTS]))
    mass = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    even = np.linspace(0, 1, len(start))
    moved = np.interp(np.interp(even, mass / mass[-1], share), even, q) - q[0]
    most = float(ASINH.variable(sde, low)) - q[0]
    stretched = torch.from_numpy(q[0] + moved * min(math.exp(moves[KNOTS]), most / moved[-1]))
    times = ASINH.time(sde, stretched).clamp(sde.t_min, sde.T)
    return torch.cat([start[:1], times[1:]])


def fit_times(
    sde: LinearSDE,
    net: Any,
    shape: tuple[int, ...] | None = None,
    *,
    solver: str | Solver = "adams",
    steps: int | None = None,
    nfe: int | None = None,
    times: Grid | None = None,
    x: Tensor | None = None,
    exact: Tensor | None = None,
    seed: int = 0,
    condition: Mapping[str, Tensor] | None = None,
    predicts: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    power: float = 0.0,
    runs: int = 300,
    progress: bool = False,
) -> Tensor:
    """The times (steps,) at which a solver comes nearest to the flow of a net, found on pilot samples.

    The solver's grid is warped so that a mean of the distances to the flow's endpoints falls, by a random search whose
    moves grow with success and shrink without (Rechenberg 1973). The times serve all samples of the same net, solver
    and number of steps: sample(..., times=fit_times(...)).

    The geometric mean, power=0, is about the typical sample, for which a few dozen pilots do. The root mean square,
    power=2, is about the few that go astray: let the pilots be those, as the farthest hundred of some thousands.

    Args:
        shape: (pilots, *sample_shape), or x, the pilots' states at T.
        times: Grid to begin with; by default the solver's own.
        exact: Where the flow takes x, (pilots, *sample_shape); by default found by 200 calls of adams.
        power: Of the mean of the distances, (mean d^power)^(1/power).
        runs: How often the solver runs on the pilots.
        sde, net, solver, steps, nfe, seed, condition, predicts, device, dtype, progress: As of sample().

    Raises:
        TypeError, ValueError: As sample(); for a solver that draws noise, or whose steps are not its grid's.
    """
    check_linear(sde)
    chosen = find_solver(solver)
    check_count("runs", runs)
    if not isinstance(power, float | int) or not (power == 0 or 0.01 <= power < math.inf):
        raise ValueError(f"power={power!r}; expected 0 and numbers from 0.01 on")
    if isinstance(times, Tensor):
        raise TypeError("times is a tensor; expected a grid (sde, steps) -> times to begin with")
    start = time_grid(sde, chosen, steps, nfe, times, as_denoiser(net, sde, predicts))
    if len(start) < 3:
        raise ValueError(f"solver={solver!r} begins with {len(start)} times; expected at least 3")
    common: dict[str, Any] = dict(condition=condition, predicts=predicts, device=device, dtype=dtype)
    x = next(trajectory(sde, net, shape, solver=chosen, times=start, x=x, seed=seed, **common))
    if exact is not None and (described(exact) != tuple(x.shape) or not bool(exact.isfinite().all())):
        valid = f"the finite endpoints of the pilots, {tuple(x.shape)}"
        raise ValueError(f"exact is {described(exact)}; expected {valid}")

    def run(times: Tensor, seed: int = seed) -> Tensor:
        return sample(sde, net, x=x, solver=chosen, times=times, seed=seed, **common)

    if not torch.equal(run(start), run(start, seed + 1)):
        raise ValueError(f"solver={solver!r} draws noise; expected solvers of the probability-flow ODE")
    if exact is None:
        exact = sample(sde, net, x=x, solver="adams", nfe=REFERENCE, progress=progress, **common)

    def distance(moves: np.ndarray) -> float:
        try:
            found = run(_warped(sde, start, moves))
        except (FloatingPointError, ValueError):  # the solver left all bounds, or two times fell together
            return math.inf
        logs = distances(found, exact).clamp(min=1e-15).log()
        return float((logs.mul(power).logsumexp(0) - math.log(len(logs))) / power if power else logs.mean())

    own, moves, size = np.random.default_rng(seed % 2**64), np.zeros(KNOTS + 1), 0.6
    best = distance(moves)
    with tqdm(range(runs), disable=not progress, desc="times") as bar:
        for _ in bar:
            trial = moves + size * own.standard_normal(KNOTS + 1)
            found = distance(trial)
            better = found < best
            if better:
                moves, best = trial, found
                bar.set_postfix_str(f"distance {math.exp(best):.3g}")
            size = max(0.03, size * (1.2 if better else 0.96))
    return _warped(sde, start, moves) if moves.any() else start
