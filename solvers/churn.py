"""Churn: noise added before each step of another method (Karras et al. 2022, algorithm 2)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from sdescore.noise import Noise
from sdescore.reverse import Reverse
from sdescore.sde import expand
from sdescore.solver import OneStep

from .runge_kutta import HEUN

__all__ = ["Churn"]


@dataclass(frozen=True)
class Churn:
    """Raise rho by the factor 1 + min(amount / steps, sqrt(2) - 1) where low <= rho <= high, then take the step.

    Names in the paper: amount S_churn, low S_tmin, high S_tmax, inflation S_noise. The raised time never exceeds T.
    """

    method: OneStep = HEUN
    amount: float = 40.0
    low: float = 0.05
    high: float = 50.0
    inflation: float = 1.003

    def solve(self, reverse: Reverse, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        sde = reverse.sde
        rho = sde.rho(times)
        gamma = min(self.amount / len(times), math.sqrt(2) - 1)
        raised = (self.low <= rho) & (rho <= self.high) & (gamma > 0)
        # Elsewhere u is t to the bit: rounding alone would add noise of its square root.
        u = torch.where(raised, sde.time(-(rho * (1 + gamma)).log()), times).clamp(max=sde.T)
        kept = sde.alpha(u) / sde.alpha(times)
        added = self.inflation * sde.alpha(u) * (sde.rho(u) ** 2 - rho**2).clamp(min=0).sqrt()
        for i, (t, s) in enumerate(pairwise(times.unbind())):
            if u[i] > t:
                x = expand(kept[i], x) * x + expand(added[i], x) * noise.fresh(x)
            x = self.method.step(reverse, x, u[i], s, noise)
            yield x

    def calls(self, steps: int) -> int:
        return self.method.calls(steps)
