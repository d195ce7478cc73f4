"""The Euler-Maruyama method on the reverse-time SDE (Song et al. 2021, section 4.1)."""

from dataclasses import dataclass

from torch import Tensor

from sdescore.noise import Noise
from sdescore.reverse import Reverse
from sdescore.sde import expand
from sdescore.solver import OneStep

__all__ = ["EulerMaruyama"]


@dataclass(frozen=True)
class EulerMaruyama(OneStep):
    """x_s = x_t - (t - s) (f x - g^2 score) + g sqrt(t - s) z: weak order 1, one call a step."""

    def step(self, reverse: Reverse, x: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        width = t - s
        spread = reverse.sde.diffusion(x, t) * expand(width.sqrt(), x)
        return x - expand(width, x) * reverse.drift(x, t) + spread * noise(x, t, s)
