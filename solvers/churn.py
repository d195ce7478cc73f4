"""Churn: noise added before each step of another method (Karras et al. 2022, algorithm 2)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.sampling import About, Noise, OneStep, ReverseProcess, check_one_step

from .renoise import at_rho, renoising
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

    about = About(
        "SDE",
        2,
        "Karras et al. 2022, algorithm 2",
        "https://arxiv.org/abs/2206.00364",
        "EDM's stochastic sampler: noise added before each step corrects earlier errors",
        least=20,
    )

    def __post_init__(self) -> None:
        check_one_step(self.method, "method")
        for name, value in (("amount", self.amount), ("inflation", self.inflation)):
            if not value >= 0:
                raise ValueError(f"{name}={value}; expected numbers from 0 on")

    def solve(self, reverse: ReverseProcess, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        sde, t = reverse.sde, times[:-1]
        rho, gamma = sde.rho(t), min(self.amount / len(times), math.sqrt(2) - 1)
        raised = (self.low <= rho) & (rho <= self.high) & (gamma > 0)
        # Elsewhere u is t to the bit: rounding alone would add noise of its square root.
        u = torch.where(raised, at_rho(sde, rho * (1 + gamma)), t)
        kept, added = renoising(sde, t, u)
        step, factors = self.method.plan(reverse, u, times[1:]), zip(kept.tolist(), added.tolist(), strict=True)
        for i, (share, spread) in enumerate(factors):
            if spread > 0:
                x = noise.randn(x, self.inflation * spread).add_(x, alpha=share)
            x = step(i, x, noise)
            yield x

    def nfe(self, intervals: int) -> int:
        return self.method.nfe(intervals)
