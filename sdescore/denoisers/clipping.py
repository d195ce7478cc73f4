"""Data predictions limited to the range of the data, as the pipelines of diffusers have them by default."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sdescore.common.checks import check_flag, check_number, require
from sdescore.common.linear_combinations import Coefficient, Summand, combine, nonzero
from sdescore.denoisers.denoiser import Denoiser
from sdescore.denoisers.guidance import Wrapper

__all__ = ["Clip", "Clipped", "clipped"]


@dataclass(frozen=True)
class Clip:
    """A limit on every data prediction, to ±limit.

    With a quantile, dynamically (Saharia et al. 2022, section 2.3): to that quantile s of a sample's absolute values,
    which is at least 1 and at most the limit, and then divided by s.
    """

    limit: float = 1.0
    quantile: float | None = None

    def __call__(self, data: Tensor) -> Tensor:
        """The clipped data predictions, of the shape of data (batch, *shape)."""
        if self.quantile is None:
            return data.clamp(-self.limit, self.limit)
        size = data.detach().abs().flatten(1).to(torch.promote_types(data.dtype, torch.float32))
        s = size.quantile(self.quantile, dim=1).clamp(1, self.limit).to(data.dtype)
        s = s.reshape(-1, *(1,) * (data.ndim - 1))
        return data.clamp(-s, s) / s


class Clipped(Wrapper):
    """See clipped()."""

    def __init__(self, denoiser: Denoiser, clip: Clip, keeps_noise: bool = False) -> None:
        super().__init__(denoiser, 1.0)
        self.clip = clip
        self.keeps_noise = keeps_noise

    def coefficients(self, t: Tensor, p: Coefficient, q: Coefficient) -> tuple[Any, ...]:
        # p x0 + q eps with eps = (x - alpha x0) / sigma, where x0 is the clipped one, or in eps the net's own.
        of_x = q / self.sde.sigma(t)
        in_noise = -self.sde.alpha(t) * of_x
        of_clipped, of_own = (p, in_noise) if self.keeps_noise else (p + in_noise, 0.0)
        return self.inner.coefficients(t, 1.0, 0.0), of_x, of_clipped, of_own

    def summands(self, coefficients: tuple[Any, ...], x: Tensor, **condition: Tensor) -> list[Summand]:
        of_net, of_x, of_clipped, of_own = coefficients
        own = combine(self.inner.summands(of_net, x, **condition))
        return nonzero([(x, of_x), (self.clip(own), of_clipped), (own, of_own)])


def clipped(
    denoiser: Denoiser, limit: float = 1.0, *, quantile: float | None = None, keeps_noise: bool = False
) -> Denoiser:
    """A denoiser whose data predictions are limited to ±limit, or by dynamic thresholding.

    It is another flow: its samples stay in the range, but are not those of the net's own, and it has no density of its
    own. It clips what it is given: guidance inside it is clipped, guidance around it guides clipped predictions.

    Args:
        denoiser: The denoiser, guided or not.
        limit: The largest absolute value of the data, in the scale that the net knows.
        quantile: Of a sample's absolute values, such as 0.995: the prediction is limited to it and divided by it where
            it lies between 1 and the limit (Saharia et al. 2022, section 2.3, https://arxiv.org/abs/2205.11487).
        keeps_noise: The noise prediction stays the net's own, so that it and the clipped data no longer make up the
            state: diffusers' DDIMScheduler() with "ddim". By default it follows from the clipped data: its
            DDPMScheduler() with "ddpm".

    Raises TypeError and ValueError for other values.
    """
    check_number("limit", limit, above=0)
    if quantile is not None:
        check_number("quantile", quantile, above=0)
        require(quantile <= 1, f"quantile={quantile}; expected positive numbers up to 1")
        require(limit >= 1, f"limit={limit}; expected at least 1 beside a quantile, which is at least 1 itself")
    return Clipped(denoiser, Clip(float(limit), quantile), check_flag("keeps_noise", keeps_noise))
