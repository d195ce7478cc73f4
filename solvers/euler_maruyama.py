"""The Euler-Maruyama method on the reverse-time SDE (Song et al. 2021, section 4.1)."""

from dataclasses import dataclass

from torch import Tensor

from sdescore.common.linear_combinations import expand
from sdescore.sampling import Noise, OneStep, ReverseProcess
from sdescore.sampling.solver import Step

__all__ = ["EulerMaruyama"]


@dataclass(frozen=True)
class EulerMaruyama(OneStep):
    """x_s = x_t - (t - s) (f x - g^2 score) + g sqrt(t - s) z: weak order 1, one call a step."""

    def step(self, reverse: ReverseProcess, x: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        width = expand(t - s, x)
        return x - width * reverse.drift(x, t) + reverse.sde.diffusion(x, t) * width**0.5 * noise(x, t, s)

    def prepare(self, reverse: ReverseProcess, t: Tensor, s: Tensor) -> Step:
        return reverse.euler(t, s)
