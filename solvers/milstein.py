"""The Milstein method on the reverse-time SDE, for processes whose diffusion depends on the state (Milstein 1975)."""

from dataclasses import dataclass

from torch import Tensor

from sdescore.common.linear_combinations import expand
from sdescore.sampling import About, Noise, OneStep, ReverseProcess

__all__ = ["Milstein"]


@dataclass(frozen=True)
class Milstein(OneStep):
    """Euler-Maruyama's step plus (t - s) / 4 d(g_i^2)/dx_i (z_i^2 - 1): strong order 1 where g_i depends on x_i alone.

    Its place is sdescore.sampling.reverse_sample() on processes such as CIRSDE: for a LinearSDE it is Euler-Maruyama.
    """

    about = About(
        "SDE",
        1,
        "Milstein 1975",
        "https://doi.org/10.1137/1119062",
        "processes whose diffusion depends on the state; on others it is euler-maruyama",
        least=12,
    )

    def step(self, reverse: ReverseProcess, x: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        sde, width, z = reverse.sde, expand(t - s, x), noise(x, t, s)
        move = sde.diffusion_divergence(x, t) * (z.square() - 1) / 4 - reverse.drift(x, t)
        return x + width * move + sde.diffusion(x, t) * width**0.5 * z
