"""The plug-in interface of numerical methods, and how a method is found by its name."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

from torch import Tensor

from sdescore.common.plugins import find_plugin
from sdescore.sampling.noise import Noise
from sdescore.sampling.reverse import ReverseProcess, Step

__all__ = ["OneStep", "Solver", "Step", "calls_of", "find_solver"]

GROUP = "sdescore.solvers"


@runtime_checkable
class Solver(Protocol):
    """A numerical method that takes states from noise towards data.

    Two attributes are optional: `calls(steps)`, the net calls over a grid of `steps` times with the last denoising,
    without which sample(nfe=...) cannot choose the grid; and `grid`, the method's default (see sdescore.grids).
    """

    def solve(self, reverse: ReverseProcess, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        """Yield the states after x, one at each later time; then, if the method can do better than the net's data
        prediction at times[-1], the data.

        x is (batch, *shape) at times[0]; times is a decreasing float64 vector on the CPU, so that coefficients cost no
        device synchronisation. A yielded tensor is never written again.
        """
        ...


class OneStep(ABC):
    """A method without memory: solve() repeats step()."""

    @abstractmethod
    def step(self, reverse: ReverseProcess, x: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        """The state at s < t from x (batch, *shape) at t; t and s are () or (batch,)."""

    def solve(self, reverse: ReverseProcess, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        go = self.prepare(reverse, times[:-1], times[1:])
        for i in range(len(times) - 1):
            x = go(i, x, noise)
            yield x

    def prepare(self, reverse: ReverseProcess, t: Tensor, s: Tensor) -> Step:
        """Steps from t[i] to s[i], each (n,), as a function (i, x, noise).

        Override it where coefficients can be computed for all of them at once.
        """
        starts, ends = t.unbind(), s.unbind()
        return lambda i, x, noise: self.step(reverse, x, starts[i], ends[i], noise)

    def calls(self, steps: int) -> int:
        return steps


def find_solver(solver: "str | Solver") -> Solver:
    """What an entry-point name stands for, a solver or a callable that makes one; a solver as it is.

    Raises ValueError for a name that is not installed, or claimed twice, and TypeError for what is no solver.
    """
    if isinstance(solver, str):
        found = find_plugin(GROUP, solver, "solver")
        solver = found if isinstance(found, Solver) and not isinstance(found, type) else found()
    if isinstance(solver, type) or not isinstance(solver, Solver):
        raise TypeError(f"solver is {solver!r}; expected a name or an object with solve(reverse, x, times, noise)")
    return solver


def calls_of(solver: Solver) -> Callable[[int], int]:
    """The solver's calls(steps). Raises ValueError if it does not say."""
    calls = getattr(solver, "calls", None)
    if calls is None:
        raise ValueError(f"nfe is given, but {type(solver).__name__} defines no calls(steps); give steps or times")
    return calls
