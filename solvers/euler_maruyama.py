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
        return _move(x, reverse.drift(x, t), t - s, reverse.sde.diffusion(x, t), noise(x, t, s))

    def prepare(self, reverse: Reverse, t: Tensor, s: Tensor) -> Step:
        drift = reverse.drifts(t)

        def go(i: int, x: Tensor, noise: Noise) -> Tensor:
            return _move(x, drift(i, x), t[i] - s[i], reverse.sde.diffusion(x, t[i]), noise(x, t[i], s[i]))

        return go


def _move(x: Tensor, drift: Tensor, width: Tensor, diffusion: Tensor, z: Tensor) -> Tensor:
    return x - expand(width, x) * drift + diffusion * expand(width.sqrt(), x) * z
