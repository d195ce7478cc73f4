"""The reverse-diffusion predictor: the forward step's discretisation, reversed (Song et al. 2021, appendix E)."""

from dataclasses import dataclass

from torch import Tensor

from sdescore import Noise, OneStep, Reverse
from sdescore.sde import expand

__all__ = ["ReverseDiffusion"]


@dataclass(frozen=True)
class ReverseDiffusion(OneStep):
    """x_s = (2 - a) x_t + G^2 score + G z, where the forward step is x_t = a x_s + G z (eq. 46); one call a step."""

    def step(self, reverse: Reverse, x: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        sde = reverse.sde
        a = sde.alpha(t) / sde.alpha(s)
        variance = sde.sigma(t) ** 2 - (a * sde.sigma(s)) ** 2
        mean = expand(2 - a, x) * x + expand(variance, x) * reverse.score(x, t)
        return mean + expand(variance.sqrt(), x) * noise(x, t, s)
