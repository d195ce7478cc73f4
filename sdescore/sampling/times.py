"""The times of one run: from a number of steps, a budget of net calls, a grid, or as they are given."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.common.checks import check_count, check_tensor
from sdescore.denoisers.denoiser import Denoiser
from sdescore.processes.base import LinearSDE
from sdescore.sampling.grids import Grid, karras
from sdescore.sampling.reverse import ReverseProcess
from sdescore.sampling.solver import Solver, denoises, grid_of, total_nfe

__all__ = ["DEFAULT_STEPS", "check_range", "time_grid"]

DEFAULT_STEPS = 50


def time_grid(
    sde: LinearSDE,
    solver: Solver,
    steps: int | None = None,
    nfe: int | None = None,
    times: Tensor | Grid | None = None,
    denoiser: Denoiser | None = None,
) -> Tensor:
    """The decreasing float64 times that a solver visits, on the CPU.

    At most one of steps and nfe is given; times is a tensor of times, which decides alone, or a grid. With a denoiser,
    a grid stays inside the noise levels of its process, and suits what its net predicts if the grid has suited(); the
    net calls of nfe are the denoiser's, which may make several for a prediction.
    Raises TypeError or ValueError if they are something else, contradict each other or leave [t_min, T].
    """
    _check(steps, nfe, times)
    if isinstance(times, Tensor):
        grid = times.detach().to("cpu", torch.float64)
    else:
        given = times or grid_of(solver)
        make = given if denoiser is None else _for_net(given, denoiser)
        if nfe is not None:
            steps = _steps_within(nfe, sde, solver, make, denoiser)
        elif steps is None:
            steps = int(getattr(given, "steps", DEFAULT_STEPS))  # a grid may know how many there are
        grid = check_tensor("times(sde, steps)", make(sde, steps), "of decreasing times")
    if grid.ndim != 1 or len(grid) < 1 or not bool((grid.diff() < 0).all()):
        raise ValueError(f"times has shape {tuple(grid.shape)}; expected a vector of strictly decreasing times")
    sde.check_times(grid, "times")
    return grid


@dataclass(frozen=True)
class _Part(LinearSDE):
    """A process between two of its times."""

    whole: LinearSDE
    first: float
    last: float

    @property
    def T(self) -> float:
        return self.first

    @property
    def t_min(self) -> float:
        return self.last

    def alpha(self, t: Tensor) -> Tensor:
        return self.whole.alpha(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.whole.sigma(t)

    def lam(self, t: Tensor) -> Tensor:
        return self.whole.lam(t)

    def time(self, lam: Tensor) -> Tensor:
        return self.whole.time(lam)


def _for_net(make: Grid, denoiser: Denoiser) -> Grid:
    """A grid as it suits what the net predicts, inside the noise levels of the net's own process."""
    suited: Grid = make.suited(denoiser.predicts) if hasattr(make, "suited") else make
    own = denoiser.sde

    def span(sde: LinearSDE) -> list[float]:
        return sde.lam(torch.tensor([sde.start, sde.t_min], dtype=torch.float64)).tolist()

    def grid(sde: LinearSDE, steps: int) -> Tensor:
        if own == sde:
            return suited(sde, steps)
        (first, last), (low, high) = span(sde), span(own)
        if first >= low and last <= high:
            return suited(sde, steps)
        limits = torch.tensor([max(first, low), min(last, high)], dtype=torch.float64)
        if limits[0] >= limits[1]:
            return suited(sde, steps)  # which check_range() refuses
        first, last = sde.time(limits).clamp(sde.t_min, sde.start).tolist()
        return suited(_Part(sde, first, last), steps)

    return grid


def _check(steps: int | None, nfe: int | None, times: Tensor | Grid | None) -> None:
    for name, value in (("steps", steps), ("nfe", nfe)):
        if value is not None:
            check_count(name, value)
    if isinstance(times, type):
        raise TypeError(f"times is the class {times.__name__}; a grid is made by calling it: {times.__name__}()")
    if times is not None and not isinstance(times, Tensor) and not callable(times):
        raise TypeError(
            f"times is a {type(times).__name__}; expected a tensor of times or a grid (sde, steps) -> times"
        )
    if isinstance(times, Tensor) and (steps is not None or nfe is not None):
        raise ValueError("times is a tensor and fixes the steps; leave steps and nfe out")
    if steps is not None and nfe is not None:
        raise ValueError(f"steps={steps} and nfe={nfe} are both given; expected one of them")


def _steps_within(nfe: int, sde: LinearSDE, solver: Solver, make: Grid, denoiser: Denoiser | None) -> int:
    """The most steps whose net calls, with the last denoising, fit in nfe."""
    reverse = None  # of a denoiser whose predictions may cost more than one call
    if denoiser is not None and type(denoiser).nfe is not Denoiser.nfe:
        reverse = ReverseProcess(sde, denoiser)
    if reverse is not None and bool((reverse.nfe(karras()(sde, 64)) == 1).all()):
        reverse = None

    def cost(steps: int) -> int:
        if reverse is None or steps == 1:
            return total_nfe(solver, steps)
        each = reverse.nfe(make(sde, steps))
        inside = total_nfe(solver, steps) - (not denoises(solver))
        # A step may call the net anywhere between its ends.
        most = float(torch.maximum(each[:-1], each[1:]).double().mean())
        return math.ceil(inside * most - 1e-9) + (not denoises(solver)) * int(each[-1])

    fewest = cost(2)
    if fewest > nfe:
        raise ValueError(f"nfe={nfe} is too small: two steps of this solver make {fewest} net calls")
    far = 100 * (nfe + 1)  # a solver may reuse calls, but where steps are free the search would not end
    if total_nfe(solver, far) <= nfe:
        raise ValueError(f"nfe={nfe} sets no limit: {far} steps of this solver make {total_nfe(solver, far)} net calls")
    steps = 2
    while cost(steps + 1) <= nfe:
        steps += 1
    return steps


def check_range(sde: LinearSDE, denoiser: Denoiser, times: Tensor) -> None:
    """Raise ValueError where times on `sde` leave the noise levels that the denoiser's own process covers."""
    own = denoiser.sde
    if own == sde:
        return
    ends = torch.tensor([own.T, own.t_min], dtype=torch.float64)
    low, high = own.lam(ends).tolist()
    first, last = sde.lam(times[[0, -1]]).tolist()
    slack = 1e-6 * (high - low)
    if first < low - slack or last > high + slack:
        raise ValueError(
            f"times on {type(sde).__name__} span lam in [{first:.4g}, {last:.4g}], but the net was trained on "
            f"{type(own).__name__} with lam in [{low:.4g}, {high:.4g}]; give times inside that range"
        )
