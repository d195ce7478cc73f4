"""Processes without a closed-form kernel.

Cox, Ingersoll & Ross 1985: https://doi.org/10.2307/1911242.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.processes.base import SDE

__all__ = ["CIRSDE"]


@dataclass(frozen=True)
class CIRSDE(SDE):
    """dx = kappa (theta - x) dt + nu sqrt(x) dw on x > 0, each element by itself (Cox, Ingersoll & Ross 1985, eq. 17).

    The prior is its stationary law, Gamma with shape 2 kappa theta / nu^2 and mean theta; the gap from x_T to it falls
    as exp(-kappa T). `horizon` is T. Raises ValueError unless all are positive and nu^2 < 2 kappa theta.
    """

    kappa: float = 1.0
    theta: float = 1.0
    nu: float = 0.6
    horizon: float = 6.0

    def __post_init__(self) -> None:
        values = self.kappa, self.theta, self.nu, self.horizon
        if not all(0 < value < math.inf for value in values) or self.shape <= 1:
            raise ValueError(
                f"kappa, theta, nu, horizon = {values}; expected positive numbers with nu^2 < 2 kappa theta, with "
                "which x stays above 0"
            )

    @property
    def T(self) -> float:
        return self.horizon

    @property
    def t_min(self) -> float:
        """0, where the state is the data itself."""
        return 0.0

    @property
    def shape(self) -> float:
        """The shape parameter of the stationary Gamma law."""
        return 2 * self.kappa * self.theta / self.nu**2

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return self.kappa * (self.theta - x)

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        # A step of a numerical method may lead to 0 and below, where the root has no slope for Milstein's method.
        return self.nu * x.clamp(min=torch.finfo(x.dtype).tiny).sqrt()

    def diffusion_divergence(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.full_like(x, self.nu**2)

    def prior_sample(
        self,
        shape: tuple[int, ...],
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        alpha = torch.full(shape, self.shape, device=device, dtype=dtype)
        return torch._standard_gamma(alpha, generator=generator) * (self.theta / self.shape)

    def prior_log_prob(self, x: Tensor) -> Tensor:
        rate = self.shape / self.theta
        value = self.shape * math.log(rate) - math.lgamma(self.shape) + (self.shape - 1) * x.log() - rate * x
        return torch.where(x > 0, value, -torch.inf).flatten(1).sum(1)
