"""Deterministic solvers as what they are, triangular linear maps, and such a map that was fitted to a net.

On y = x / alpha, whose noise level is rho, every state of a linear solver of n net calls is a combination of the first
state and the data predictions so far, and so is the sample. What a fit changes is those weights and the levels.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from sdescore.common.checks import require
from sdescore.common.files import read_json, replace_file
from sdescore.common.linear_combinations import combine, materialise, weight
from sdescore.denoisers.denoiser import BareDenoiser, Denoiser
from sdescore.processes.base import LinearSDE
from sdescore.sampling.grids import Grid
from sdescore.sampling.noise import Noise, WhiteNoise
from sdescore.sampling.reverse import ReverseProcess
from sdescore.sampling.solver import Solver, denoises, find_solver, total_nfe

__all__ = ["FittedSolver", "linear_map", "solver_of"]

FORMAT = 1


@dataclass(frozen=True)
class fixed_levels:
    """The times at which rho has given values, on any process that reaches them."""

    levels: tuple[float, ...]

    @property
    def steps(self) -> int:
        return len(self.levels)

    def __call__(self, sde: LinearSDE, steps: int) -> Tensor:
        require(steps == self.steps, f"steps={steps}; expected {self.steps}, to which this solver was fitted")
        ends = sde.rho(torch.tensor([sde.T, sde.t_min], dtype=torch.float64)).tolist()
        inside = ends[1] * (1 - 1e-6) <= self.levels[-1] and self.levels[0] <= ends[0] * (1 + 1e-6)
        span = f"rho from {self.levels[0]:.6g} to {self.levels[-1]:.6g}"
        require(
            inside, f"this solver was fitted to {span}; expected on {type(sde).__name__} {ends[0]:.6g} to {ends[1]:.6g}"
        )
        return sde.time(-torch.tensor(self.levels, dtype=torch.float64).log()).clamp(sde.t_min, sde.T)


@dataclass(frozen=True)
class FittedSolver:
    """A solver of n net calls, fitted to one net by fit_solver(): its times are its own.

    Args:
        levels: The n noise-to-signal ratios at which the net is called, decreasing.
        states: Of calls 1 to n - 1, the weights of the first state and of the data predictions so far.
        end: The weights of the first state and of all data predictions in the sample.
        weights: Fingerprint of the net's weights, "" if it has none.
        before: Median distance to the flow of the solver that the fit began with, on samples that it has not seen.
        after: The same of this one.
    """

    levels: tuple[float, ...]
    states: tuple[tuple[float, ...], ...]
    end: tuple[float, ...]
    weights: str = ""
    before: float = math.nan
    after: float = math.nan

    denoises = True

    def __post_init__(self) -> None:
        n = len(self.levels)
        lengths = [len(row) for row in (*self.states, self.end)]
        require(
            n >= 2 and lengths == list(range(2, n + 2)), f"{n} levels with rows of {lengths} weights; expected 2, 3, …"
        )
        numbers = [*self.levels, *self.end, *(each for row in self.states for each in row)]
        require(all(map(math.isfinite, numbers)), "weights are not finite; expected finite numbers")
        falling = all(a > b > 0 for a, b in zip(self.levels, self.levels[1:], strict=False))
        require(falling, f"levels={self.levels}; expected decreasing positive numbers")

    @property
    def grid(self) -> Grid:
        return fixed_levels(self.levels)

    def nfe(self, intervals: int) -> int:
        return intervals + 1

    def solve(self, reverse: ReverseProcess, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        rho = reverse.sde.rho(times)
        known = len(times) == len(self.levels) and torch.allclose(rho, rho.new_tensor(self.levels), rtol=1e-5)
        require(
            known, f"times has {len(times)} values; expected the {len(self.levels)} to which this solver was fitted"
        )
        alpha = reverse.sde.alpha(times).tolist()
        summands = reverse.summands(times, 1.0, 0.0)
        found = [materialise(summands(0, x))]

        def combination(weights: tuple[float, ...], scale: float) -> Tensor:
            factors = [weight * scale for weight in weights[1:]]
            return combine([(x, weights[0] * scale / alpha[0]), *weight(factors, [[data] for data in found])])

        for i, weights in enumerate(self.states, 1):
            state = combination(weights, alpha[i])
            yield state
            found.append(materialise(summands(i, state)))
        yield combination(self.end, 1.0)

    def save(self, file: str | Path) -> None:
        """Write it to a JSON file, which sample(..., solver="file.json") takes."""
        replace_file(Path(file), json.dumps({"format": FORMAT, **asdict(self)}))

    @classmethod
    def load(cls, file: str | Path) -> "FittedSolver":
        """Read a file of save(). Raises ValueError, naming the file, for another content."""
        try:
            content = dict(read_json(Path(file)))
            require(content.pop("format", None) == FORMAT, f"expected format {FORMAT}")
            rows = tuple(tuple(map(float, row)) for row in content.pop("states"))
            levels, end = (tuple(map(float, content.pop(name))) for name in ("levels", "end"))
            return cls(levels=levels, states=rows, end=end, **content)
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{file} is no fitted solver: {error}") from error


def solver_of(solver: str | Solver) -> Solver:
    """What find_solver() finds, or the fitted solver in a file "….json". Raises as both."""
    named = isinstance(solver, str) and solver.endswith(".json")
    return FittedSolver.load(str(solver)) if named else find_solver(solver)


class _Units(BareDenoiser):
    """Unit vectors in place of what a denoiser predicts, guided as that is."""

    def __init__(self, net: Callable[..., Tensor], sde: LinearSDE, denoiser: Denoiser | None) -> None:
        super().__init__(net, sde, "data")
        self.replaced = None if denoiser is None else ReverseProcess(sde, denoiser)

    def strength(self, t: Tensor) -> Tensor:
        return super().strength(t) if self.replaced is None else self.replaced.strength(t)


def linear_map(solver: Solver, sde: LinearSDE, times: Tensor, denoiser: Denoiser | None = None) -> FittedSolver:
    """A deterministic solver on these times as a map of data predictions: run on unit vectors in their place.

    With a denoiser it is the map by which that is sampled, whose order may depend on guidance.
    Raises ValueError for a solver that draws noise, or whose steps depend on the state.
    """
    n = total_nfe(solver, len(times))
    unit = torch.eye(n + 1, dtype=torch.float64)

    def run(seed: int) -> tuple[list[float], list[Tensor], Tensor]:
        at: list[float] = []
        states: list[Tensor] = []

        def net(x: Tensor, t: Tensor) -> Tensor:
            at.append(float(t[0]))
            states.append(x[0] / sde.alpha(t[0]))
            return unit[None, len(at)] if len(at) <= n else torch.zeros_like(x)

        reverse = ReverseProcess(sde, _Units(net, sde, denoiser))
        x = unit[:1] * sde.alpha(times[0])
        *_, x = solver.solve(reverse, x, times, WhiteNoise(seed, range(1), x.device))
        end = x[0] if denoises(solver) else reverse.data(x, times[-1])[0]
        return at, states, end

    at, states, end = run(0)
    require(len(at) == n, f"{solver!r} made {len(at)} net calls; expected {n}, as it declares")
    again = run(1)[1]
    fixed = all(torch.equal(*pair) for pair in zip(states, again, strict=True))
    require(fixed, f"{solver!r} draws noise; expected a solver of the probability-flow ODE")
    rho = sde.rho(torch.tensor(at, dtype=torch.float64)).tolist()
    rows = tuple(tuple(row[: i + 1].tolist()) for i, row in enumerate(states) if i)
    return FittedSolver(tuple(rho), rows, tuple(end.tolist()))
