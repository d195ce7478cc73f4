"""A denoiser whose data predictions are limited, as in the pipelines of diffusers."""

from typing import Any

from torch import Tensor

from sdescore.common.linear_combinations import Coefficient, Summand, combine, nonzero
from sdescore.denoisers.denoiser import Denoiser
from sdescore.denoisers.guidance import Wrapper
from sdescore.interop.schedules import Clip

__all__ = ["Clipped"]


class Clipped(Wrapper):
    """The data predictions of `inner` after a Clip; every other prediction is the one that goes with them."""

    def __init__(self, denoiser: Denoiser, clip: Clip) -> None:
        super().__init__(denoiser, 1.0)
        self.clip = clip

    def nfe(self, t: Tensor) -> Tensor:
        return self.inner.nfe(t)

    def coefficients(self, t: Tensor, p: Coefficient, q: Coefficient) -> tuple[Any, ...]:
        # p x0 + q eps with eps = (x - alpha x0) / sigma.
        of_x = q / self.sde.sigma(t)
        return self.inner.coefficients(t, 1.0, 0.0), of_x, p - self.sde.alpha(t) * of_x

    def summands(self, coefficients: tuple[Any, ...], x: Tensor, **condition: Tensor) -> list[Summand]:
        of_net, of_x, of_data = coefficients
        data = self.clip(combine(self.inner.summands(of_net, x, **condition)))
        return nonzero([(x, of_x), (data, of_data)])
