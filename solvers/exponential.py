"""What every exponential method shares: the exact solution over a step, and the polynomials that stand for its target.

With r = alpha / w of the target and tau the noise, x_s is

    x_s = alpha_s / alpha_t (r_t / r_s)^(1 + tau^2) x_t
        + (1 + tau^2) alpha_s / r_s int m (r / r_s)^tau^2 mu' dlam
        + alpha_s sqrt(2 tau^2 int rho^2 (r / r_s)^(2 + 2 tau^2) dlam) z

with integrals from lam_t to lam_s. At tau = 0 it is the probability-flow ODE, at tau = 1 the reverse SDE; every tau has
the same marginals (Xue et al. 2023, proposition 3.1, for the data target).
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sdescore.sde import LinearSDE

from .targets import Target

__all__ = ["Interval", "Tau", "interval", "lagrange", "points", "tau_squared"]

Tau = float | Callable[[Tensor], Tensor]


class Interval(NamedTuple):
    """The solution over n intervals: kept (n,) of x, measure (n, points) of m at lam = inside, spread (n,) of z."""

    kept: Tensor
    inside: Tensor
    measure: Tensor
    spread: Tensor


@lru_cache(maxsize=1)
def points() -> tuple[Tensor, Tensor]:
    """Nodes and weights of Gauss-Legendre quadrature on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(24)
    return torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)


def tau_squared(tau: Tau, h: Tensor) -> Tensor:
    """tau^2 of steps h in lam. Raises ValueError for a negative number."""
    if not callable(tau) and tau < 0:
        raise ValueError(f"tau={tau}; valid are non-negative numbers or a function of h")
    return torch.as_tensor(tau(h) if callable(tau) else tau, dtype=h.dtype) ** 2


def interval(target: Target, sde: LinearSDE, t: Tensor, s: Tensor, tau2: Tensor) -> Interval:
    """From times t to s, each (n,); tau2 = tau^2 is () or (n,)."""
    start, end, alpha, (nodes, weights) = sde.lam(t), sde.lam(s), sde.alpha(s), points()
    h, tau2 = (end - start)[:, None], tau2[..., None]
    inside, end_ratio = start[:, None] + h * nodes.to(h), target.ratio(end)[:, None]
    ratio, width = target.ratio(inside) / end_ratio, h * weights.to(h)
    variance = (2 * tau2 * torch.exp(-2 * inside) * ratio ** (2 + 2 * tau2) * width).sum(1)
    return Interval(
        alpha / sde.alpha(t) * (target.ratio(start) / end_ratio[:, 0]) ** (1 + tau2[..., 0]),
        inside,
        (1 + tau2) * alpha[:, None] / end_ratio * ratio**tau2 * target.slope(inside) * width,
        alpha * variance.sqrt(),
    )


def lagrange(q: Tensor, nodes: Tensor) -> Tensor:
    """The basis polynomials (steps, nodes, points) over nodes (steps, nodes) at q (steps, points)."""
    own = torch.eye(nodes.shape[1], dtype=torch.bool, device=q.device)[None, :, :, None]
    gaps = nodes[:, :, None, None] - nodes[:, None, :, None]
    factors = (q[:, None, None, :] - nodes[:, None, :, None]) / torch.where(own, 1.0, gaps)
    return torch.where(own, 1.0, factors).prod(2)
