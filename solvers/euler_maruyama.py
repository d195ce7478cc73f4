"""The Euler-Maruyama method on the reverse-time SDE (Song et al. 2021, section 4.1)."""

from dataclasses import dataclass

from torch import Tensor

from sdescore import Noise, OneStep, Reverse
from sdescore.sde import expand
from sdescore.solver import Step

__all__ = ["EulerMaruyama"]


@dataclass(frozen=True)
class EulerMaruyama(OneStep):
    """x_s = x_t - (t - s) (f x - g^2 score) + g sqrt(t - s) z: weak order 1, one call a step."""

    def step(self, reverse: Reverse, x: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        width = expand(t - s, x)
        return x - width * reverse.drift(x, t) + reverse.sde.diffusion(x, t) * width**0.5 * noise(x, t, s)

    def prepare(self, reverse: Reverse, t: Tensor, s: Tensor) -> Step:
        return reverse.euler(t, s)
