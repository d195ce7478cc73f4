"""The amount of noise tau of a stochastic method: 0 is the ODE, 1 the reverse SDE; every tau has the same marginals.

It is a number, or a function of lam and of the step h in lam. The etas of other libraries are taus of these functions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Tau", "ddim_eta", "er_noise", "k_diffusion_eta", "tau_squared"]

Tau = float | Callable[[Tensor, Tensor], Tensor]


def tau_squared(tau: Tau, lam: Tensor, h: Tensor) -> Tensor:
    """tau^2 at each lam of a step h in lam. Raises ValueError for a negative number."""
    if not callable(tau) and not tau >= 0:
        raise ValueError(f"tau={tau}; expected non-negative numbers or a function of lam and the step h")
    return (tau(lam, h) if callable(tau) else torch.full_like(lam, tau)) ** 2


@dataclass(frozen=True)
class ddim_eta:
    """DDIM's eta, whose step keeps sqrt(1 - eta^2 (1 - e^-2h)) of the noise (Song, Meng & Ermon 2021, eq. 16)."""

    eta: float

    def __call__(self, lam: Tensor, h: Tensor) -> Tensor:
        return (-torch.log1p(-(self.eta**2) * -torch.expm1(-2 * h)) / (2 * h)).sqrt().expand_as(lam)


def k_diffusion_eta(eta: float) -> Tau:
    """The eta of k-diffusion's multistep SDE samplers, whose step keeps e^(-eta h) of the noise."""
    return eta**0.5


@dataclass(frozen=True)
class er_noise:
    """The noise scale phi(rho) = rho (e^(rho^0.3) + 10): tau^2 = d log(phi) / d log(rho) - 1.

    Cui et al. 2023, section 4.1 (ER-SDE 5): more noise at high levels, next to none at low ones.
    """

    def __call__(self, lam: Tensor, h: Tensor) -> Tensor:
        power = torch.exp(-0.3 * lam)
        return (0.3 * power / (1 + 10 * torch.exp(-power))).sqrt()
