"""A process whose noise grows linearly in time, where the built-in VESDE's grows geometrically."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore import LinearSDE


@dataclass(frozen=True)
class RampSDE(LinearSDE):
    """alpha = 1, sigma = sigma_max t: its other functions follow by differentiation and bisection."""

    sigma_max: float = 50.0

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_max * t
