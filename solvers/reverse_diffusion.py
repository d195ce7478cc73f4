"""The reverse-diffusion predictor: the forward step's discretisation, reversed (Song et al. 2021, appendix E)."""

from dataclasses import dataclass

from torch import Tensor

from sdescore.common.linear_combinations import Coefficient
from sdescore.processes import LinearSDE
from sdescore.sampling import About, LinearOneStep

__all__ = ["ReverseDiffusion"]


@dataclass(frozen=True)
class ReverseDiffusion(LinearOneStep):
    """x_s = (2 - a) x_t + G^2 score + G z, where the forward step is x_t = a x_s + G z (eq. 46); one call a step."""

    about = About(
        "SDE",
        1,
        "Song et al. 2021, eq. 46",
        "https://arxiv.org/abs/2011.13456",
        "score_sde's predictor: for parity, and inside predictor-corrector",
        least=6,
    )

    def coefficients(self, sde: LinearSDE, t: Tensor, s: Tensor) -> tuple[Coefficient, Coefficient, Coefficient]:
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        a = alpha / sde.alpha(s)
        variance = sigma**2 - (a * sde.sigma(s)) ** 2
        return (2 - a) * alpha, (2 - a) * sigma - variance / sigma, variance.sqrt()
