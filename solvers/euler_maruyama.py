"""The Euler-Maruyama method on the reverse-time SDE (Song et al. 2021, section 4.1)."""

from dataclasses import dataclass

from torch import Tensor

from sdescore.common.linear_combinations import Coefficient
from sdescore.processes import LinearSDE
from sdescore.sampling import About, LinearOneStep, drift_pair

__all__ = ["EulerMaruyama"]


@dataclass(frozen=True)
class EulerMaruyama(LinearOneStep):
    """x_s = x_t - (t - s) (f x - g^2 score) + g sqrt(t - s) z: weak order 1, one call a step."""

    about = About(
        "SDE",
        1,
        "Song et al. 2021, section 4.1",
        "https://arxiv.org/abs/2011.13456",
        "the plain baseline of the reverse SDE: hundreds of calls",
        least=12,
    )

    def coefficients(self, sde: LinearSDE, t: Tensor, s: Tensor) -> tuple[Coefficient, Coefficient, Coefficient]:
        p, q = drift_pair(sde, t)
        width = t - s
        return sde.alpha(t) - width * p, sde.sigma(t) - width * q, sde.g(t) * width.sqrt()
