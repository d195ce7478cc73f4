"""Ancestral sampling: draw x_s from the posterior q(x_s | x_t, x0) at the predicted x0 (Ho et al. 2020, eq. 6-7)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.noise import Noise
from sdescore.reverse import Reverse
from sdescore.sde import expand
from sdescore.solver import OneStep

__all__ = ["DDPM"]


@dataclass(frozen=True)
class DDPM(OneStep):
    """The Gaussian posterior of every linear process; for a VP process DDPM's with its smaller variance.

    With h = lam_s - lam_t: mean (sigma_s / sigma_t) e^-h x_t + alpha_s (1 - e^-2h) x0, variance sigma_s^2 (1 - e^-2h).
    """

    def step(self, reverse: Reverse, x: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        sde, sigma = reverse.sde, reverse.sde.sigma(s)
        h = sde.lam(s) - sde.lam(t)
        removed = -torch.expm1(-2 * h)
        mean = expand(sigma / sde.sigma(t) * torch.exp(-h), x) * x
        mean = mean + expand(sde.alpha(s) * removed, x) * reverse.data(x, t)
        return mean + expand(sigma * removed.sqrt(), x) * noise(x, t, s)
