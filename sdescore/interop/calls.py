"""When a solver calls its net: found beforehand, by a run on one number with nets that are known."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.common.checks import require
from sdescore.common.linear_combinations import Coefficient, Summand, nonzero
from sdescore.denoisers import BareDenoiser
from sdescore.processes import LinearSDE
from sdescore.sampling import ReverseProcess, Solver, WhiteNoise
from sdescore.sampling.run import solver_states
from sdescore.sampling.solver import total_nfe

__all__ = ["CalledAtLevel", "Calls", "planned_calls"]

# Two nets that are as unlike as can be: a solver that sizes its steps takes others for each.
Net = Callable[[LinearSDE, Tensor, Tensor], Tensor]
NETS: tuple[Net, ...] = (
    lambda sde, x, t: torch.zeros_like(x),
    lambda sde, x, t: 3 * (8 * sde.lam(t) + x).cos(),
)


class CalledAtLevel(BareDenoiser):
    """A denoiser whose function is called with the state and the time as the solver gave it, unrounded, on the CPU."""

    def summands(self, coefficients: tuple[Coefficient, ...], x: Tensor, **condition: Tensor) -> list[Summand]:
        _, level, of_x, of_raw = coefficients
        return nonzero([(x, of_x), (self.net(x, level), of_raw)])


@dataclass(frozen=True)
class Calls:
    """The net calls of a solver on a grid.

    Args:
        times: Of each call, float64 (calls,).
        idle: The solver adds noise to its first state before it calls the net. As the net has been called by then, that
            is one call more, whose output is not used: the first of `times`.
    """

    times: Tensor
    idle: bool


def _recorded(solver: Solver, sde: LinearSDE, times: Tensor, net: Net) -> Calls:
    """The calls with a net."""
    found: list[tuple[float, float]] = []
    start = torch.full((1, 1), 0.7, dtype=torch.float64) * sde.sigma(times[0])

    def data(x: Tensor, level: Coefficient) -> Tensor:
        t = torch.as_tensor(level, dtype=torch.float64).flatten()[0]
        found.append((float(t), float(x)))
        return net(sde, x, t)

    reverse = ReverseProcess(sde, CalledAtLevel(data, sde, "data"))
    for _ in solver_states(reverse, solver, start, times, WhiteNoise(0, [0])):
        pass
    begun = all(math.isclose(a, b, rel_tol=1e-9) for a, b in zip(found[0], (times[0], start), strict=True))
    called = torch.tensor([t for t, _ in found], dtype=torch.float64)
    return Calls(called if begun else torch.cat([times[:1], called]), not begun)


def _declared(solver: Solver, times: int) -> int | None:
    """How many net calls the solver says that it makes, if it does: as many for every net."""
    try:
        return total_nfe(solver, times)
    except ValueError:
        return None


def planned_calls(solver: Solver, sde: LinearSDE, times: Tensor, name: str) -> Calls:
    """The net calls on decreasing float64 times, the last denoising included; `name` is the solver's in errors.

    Raises:
        ValueError: For a solver that calls the net at other times if the net is another: one that sizes its steps.
    """
    with torch.no_grad():
        if _declared(solver, len(times)):
            return _recorded(solver, sde, times, NETS[0])
        # Few steps tell most solvers with steps of their own, which may take long for all.
        for part in (times[-3:], times):
            calls, other = (_recorded(solver, sde, part, net) for net in NETS)
            require(
                torch.equal(calls.times, other.times),
                f"solver={name} chooses its steps as the samples need them; expected a solver with fixed steps, as a "
                "pipeline asks for the times of all net calls before the first",
            )
        return calls
