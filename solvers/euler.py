"""Euler's method on the probability-flow ODE in the noise-to-signal ratio: DDIM (Song, Meng & Ermon 2021, eq. 13)."""

from dataclasses import dataclass

from torch import Tensor

from sdescore.noise import Noise
from sdescore.reverse import Reverse
from sdescore.sde import expand
from sdescore.solver import OneStep

__all__ = ["Euler"]


@dataclass(frozen=True)
class Euler(OneStep):
    """x_s / alpha_s = x_t / alpha_t + (rho_s - rho_t) eps: order 1, one call a step."""

    def step(self, reverse: Reverse, x: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        sde = reverse.sde
        alpha = sde.alpha(s)
        kept, added = alpha / sde.alpha(t), alpha * (sde.rho(s) - sde.rho(t))
        return expand(kept, x) * x + expand(added, x) * reverse.noise(x, t)
