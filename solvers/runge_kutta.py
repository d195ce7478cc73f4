"""Explicit Runge-Kutta methods for the probability-flow ODE: a tableau, and the target that it integrates."""

from dataclasses import dataclass

from torch import Tensor

from sdescore.noise import Noise
from sdescore.ode import Tableau
from sdescore.reverse import Reverse
from sdescore.sde import expand
from sdescore.solver import OneStep

from .targets import NOISE, Target

__all__ = ["CLASSIC", "HEUN", "RK4", "Heun", "RungeKutta", "Tableau"]

HEUN = Tableau(a=((1.0,),), b=(1 / 2, 1 / 2), c=(0.0, 1.0))
CLASSIC = Tableau(a=((1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)), b=(1 / 6, 1 / 3, 1 / 3, 1 / 6), c=(0.0, 0.5, 0.5, 1.0))


@dataclass(frozen=True)
class RungeKutta(OneStep):
    """d(x / w) = m dmu, with the tableau's nodes at their share of the step in mu; len(tableau.b) calls a step."""

    tableau: Tableau
    target: Target = NOISE

    def step(self, reverse: Reverse, x: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        sde, target = reverse.sde, self.target
        start = target.mu(sde.lam(t))
        width = target.mu(sde.lam(s)) - start
        y = x / expand(target.w(sde, t), x)
        slopes: list[Tensor] = []
        for row, c in zip(((), *self.tableau.a), self.tableau.c, strict=True):
            node = t if c == 0 else s if c == 1 else sde.time(target.lam(start + c * width))
            at = expand(target.w(sde, node), x) * _advance(y, slopes, row, width) if slopes else x
            slopes.append(reverse.combination(at, node, *target.pair(sde.lam(node))))
        return expand(target.w(sde, s), x) * _advance(y, slopes, self.tableau.b, width)

    def calls(self, steps: int) -> int:
        return len(self.tableau.b) * (steps - 1) + 1


def _advance(y: Tensor, slopes: list[Tensor], weights: tuple[float, ...], width: Tensor) -> Tensor:
    for slope, weight in zip(slopes, weights, strict=True):
        if weight:
            y = y + expand(weight * width, y) * slope
    return y


@dataclass(frozen=True)
class Heun(RungeKutta):
    """Heun's second-order method in rho, EDM's deterministic sampler (Karras et al. 2022, algorithm 1)."""

    tableau: Tableau = HEUN


@dataclass(frozen=True)
class RK4(RungeKutta):
    """The classic fourth-order method in rho (Kutta 1901)."""

    tableau: Tableau = CLASSIC
