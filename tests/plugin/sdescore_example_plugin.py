"""Euler's method, written for the data prediction where the built-in one is written for the noise."""

from torch import Tensor

from sdescore import Noise, OneStep, ReverseProcess
from sdescore.common import expand


class DataEuler(OneStep):
    """x_s = kept x_t + (alpha_s - kept alpha_t) x0 with kept = sigma_s / sigma_t: order 1, one call a step."""

    def step(self, reverse: ReverseProcess, x: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        sde = reverse.sde
        kept = sde.sigma(s) / sde.sigma(t)
        return expand(kept, x) * x + expand(sde.alpha(s) - kept * sde.alpha(t), x) * reverse.data(x, t)
