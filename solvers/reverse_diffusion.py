"""The reverse-diffusion predictor: the forward step's discretisation, reversed (Song et al. 2021, appendix E)."""

from dataclasses import dataclass

from torch import Tensor

from sdescore.common.linear_combinations import expand
from sdescore.processes import LinearSDE
from sdescore.sampling import Noise, OneStep, ReverseProcess
from sdescore.sampling.solver import Step

__all__ = ["ReverseDiffusion"]


@dataclass(frozen=True)
class ReverseDiffusion(OneStep):
    """x_s = (2 - a) x_t + G^2 score + G z, where the forward step is x_t = a x_s + G z (eq. 46); one call a step."""

    def step(self, reverse: ReverseProcess, x: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        p, q, spread = _parts(reverse.sde, t, s)
        return reverse.linear(x, t, p, q) + expand(spread, x) * noise(x, t, s)

    def prepare(self, reverse: ReverseProcess, t: Tensor, s: Tensor) -> Step:
        return reverse.affine(t, s, *_parts(reverse.sde, t, s))


def _parts(sde: LinearSDE, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """p, q and G of x_s = p x0 + q eps + G z."""
    a, alpha, sigma = sde.alpha(t) / sde.alpha(s), sde.alpha(t), sde.sigma(t)
    variance = sigma**2 - (a * sde.sigma(s)) ** 2
    return (2 - a) * alpha, (2 - a) * sigma - variance / sigma, variance.sqrt()
