"""The probability-flow ODE of any linear process, and states carried along it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from sdescore.common.linear_combinations import expand
from sdescore.density.coordinates import ROOT_ANGLE, Angle
from sdescore.density.runge_kutta import TSITOURAS, EmbeddedPair, Solution, integrate_runge_kutta
from sdescore.sampling.reverse import ReverseProcess

__all__ = ["ProbabilityFlowODE", "finite_slope", "transport"]


@dataclass(frozen=True, eq=False)
class ProbabilityFlowODE:
    """dz/dq = d angle/dq (cos(angle) eps - sin(angle) x0), with z = x / sqrt(alpha^2 + sigma^2) and angle = atan(rho).

    The equation is the same on every linear process, its right side is bounded, and the scale of x does not enter
    (Song et al. 2021, eq. 13, in other coordinates).

    Args:
        reverse: The process with its denoiser.
        times: Increasing or decreasing times (n,) on the CPU in float64. The net is called between them alone.
        coordinate: q.
    """

    reverse: ReverseProcess
    times: Tensor
    coordinate: Angle = ROOT_ANGLE

    @cached_property
    def nodes(self) -> Tensor:
        """q at the times, (n,)."""
        return self.coordinate.of(self.reverse.sde.lam(self.times))

    @cached_property
    def scales(self) -> Tensor:
        """sqrt(alpha^2 + sigma^2) at the times, (n,)."""
        return self._scale(self.times)

    @cached_property
    def _q_range(self) -> tuple[float, float]:
        return float(self.nodes.min()), float(self.nodes.max())

    @cached_property
    def _t_range(self) -> tuple[float, float]:
        return float(self.times.min()), float(self.times.max())

    def _scale(self, t: Tensor) -> Tensor:
        return torch.hypot(self.reverse.sde.alpha(t), self.reverse.sde.sigma(t))

    def _inside(self, q: Tensor) -> Tensor:
        """q in float64 between the nodes: trial steps, and rounding in a lower dtype, may lead out of them."""
        return q.double().clamp(*self._q_range)

    def time(self, q: Tensor) -> Tensor:
        """The time at q, of its shape."""
        return self.reverse.sde.time(self.coordinate.lam(self._inside(q))).clamp(*self._t_range)

    def slope(self, q: Tensor, rows: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """dz/dq at q, () or (batch,), as a function of z (batch, *shape), with one net call each time.

        rows (batch,) are the numbers of the samples in the condition, if they are not all of them.
        """
        reverse = self.reverse if rows is None else self.reverse.select(rows)
        q = self._inside(q)
        t = self.time(q)
        scale = self._scale(t)
        angle = self.coordinate.angle(q)
        rate = self.coordinate.rate(q)
        of_data = -rate * angle.sin()
        of_noise = rate * angle.cos()
        return lambda z: reverse.linear(expand(scale, z) * z, t, of_data, of_noise)


def finite_slope(ode: ProbabilityFlowODE, solver: object) -> Callable[[Tensor, Tensor], Tensor]:
    """The slope as a function (q, z), for libraries of ODE methods, which do not say where it is not finite.

    It raises FloatingPointError, naming the solver and the first such sample's time.
    """

    def slope(q: Tensor, z: Tensor) -> Tensor:
        value = ode.slope(q)(z)
        finite = value.isfinite().flatten(1).all(1)
        # The libraries compare times on the host at every step, so that this wait adds none.
        if not bool(finite.all()):
            at = float(ode.time(q).expand(len(z))[~finite][0])
            rows = f"{len(z) - int(finite.sum())} of {len(z)} samples"
            raise FloatingPointError(f"{solver}: values are not finite at t = {at:.6g}, in {rows}")
        return value

    return slope


def transport(
    reverse: ReverseProcess,
    x: Tensor,
    start: float,
    stop: float,
    rtol: float,
    atol: float,
    advance: Callable[[float], None] = lambda done: None,
    pair: EmbeddedPair = TSITOURAS,
    coordinate: Angle = ROOT_ANGLE,
) -> Solution:
    """Carry x (batch, *shape) from time start to time stop along the flow, each sample with its own adaptive steps.

    The y of the solution is the state (batch, *shape) at its `time`, in the dtype of x; the root mean square of a
    step's error in z is at most atol + rtol |z|. Integrated in float64.
    """
    ode = ProbabilityFlowODE(reverse, torch.tensor([start, stop], dtype=torch.float64), coordinate)
    shape = x.shape[1:]

    def slope(q: Tensor, z: Tensor, rows: Tensor) -> Tensor:
        return ode.slope(q, rows)(z.reshape(-1, *shape)).flatten(1)

    def norm(error: Tensor, size: Tensor) -> Tensor:
        return (error / (atol + rtol * size)).square().mean(1).sqrt()

    z = x.to(torch.float64).flatten(1) / ode.scales[0]
    first, last = ode.nodes.tolist()
    done = integrate_runge_kutta(slope, z, first, last, norm, pair, advance)
    y = (ode.scales[1] * done.y).reshape(x.shape).to(x.dtype)
    return replace(done, y=y, time=ode.time(done.time))
