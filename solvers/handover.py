"""The probability-flow ODE as libraries of ODE methods are given it: dy/dmu = m of the v target.

y = x / w is x at unit scale and mu = atan(rho) an angle, in which the slope m is bounded on every process.
"""

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from sdescore.common.linear_combinations import expand
from sdescore.sampling import ReverseProcess, Solver

from .targets import V

__all__ = ["Handover"]


@dataclass(frozen=True)
class Handover:
    """The ODE between the first and the last of `times`, for a solver that names itself in errors."""

    solver: Solver
    reverse: ReverseProcess
    times: Tensor

    @cached_property
    def nodes(self) -> Tensor:
        """The times as angles, on the CPU in float64: falling."""
        return V.mu(self.reverse.sde.lam(self.times))

    def start(self, x: Tensor) -> Tensor:
        """y (batch, *shape) of the state at times[0]."""
        return x / expand(V.w(self.reverse.sde, self.times[0]), x)

    def states(self, path: Tensor) -> list[Tensor]:
        """The states at times[1:] from y (times, batch, *shape) at all of them."""
        w = V.w(self.reverse.sde, self.times)
        return [expand(scale, y) * y for scale, y in zip(w[1:], path[1:], strict=True)]

    def slope(self, mu: Tensor, y: Tensor) -> Tensor:
        """m at angles () or (batch,) and y (batch, *shape).

        Raises FloatingPointError, with the first sample's time, if the net's output is not finite.
        """
        sde, (high, low) = self.reverse.sde, self.nodes[[0, -1]].tolist()
        # Trial steps, and rounding in the dtype of y, may lead out of the range.
        lam = V.lam(mu.double().clamp(low, high))
        t = sde.time(lam).clamp(float(self.times[-1]), float(self.times[0]))
        m = self.reverse.linear(expand(V.w(sde, t), y) * y, t, *V.pair(lam))
        finite = m.isfinite().flatten(1).all(1)
        # This costs no synchronisation more: the libraries compare times on the host at every step.
        if not bool(finite.all()):
            at = float(t.expand(len(y))[~finite][0])
            rows = f"{len(y) - int(finite.sum())} of {len(y)} samples"
            raise FloatingPointError(f"{self.solver}: values are not finite at t = {at:.6g}, in {rows}")
        return m
