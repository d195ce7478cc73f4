"""What every exponential method shares: the exact solution over a step, and the polynomials that stand for its target.

With r = alpha / w of the target, tau the noise and E the decay e^(-int tau^2 dlog r) from a point to the end, x_s is

    x_s = alpha_s r_t / (alpha_t r_s) E_t x_t
        + alpha_s / r_s int (1 + tau^2) m E mu' dlam
        + alpha_s / r_s sqrt(2 int tau^2 (rho r E)^2 dlam) z

with integrals from lam_t to lam_s. At tau = 0 it is the probability-flow ODE, at tau = 1 the reverse SDE; every tau has
the same marginals (Xue et al. 2023, proposition 3.1, for the data target).
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from sdescore.common.quadrature import gauss
from sdescore.processes import LinearSDE

from .targets import Target
from .tau import Tau, tau_squared

__all__ = ["Interval", "interval", "lagrange", "points"]


class Interval(NamedTuple):
    """The solution over n intervals: kept (n,) of x, measure (n, points) of m at lam = inside, spread (n,) of z.

    end (n,) is the measure if its density were everywhere that at the end.
    """

    kept: Tensor
    inside: Tensor
    measure: Tensor
    spread: Tensor
    end: Tensor


@lru_cache(maxsize=1)
def points() -> tuple[Tensor, Tensor, Tensor]:
    """Gauss-Legendre quadrature on [0, 1]: nodes, weights, and the weights (node, node) for the part after a node."""
    nodes, weights = gauss(24)
    part = nodes[:, None] + (1 - nodes)[:, None] * nodes
    basis = lagrange(part.reshape(1, -1), nodes[None]).reshape(24, 24, 24)
    return nodes, weights, (basis * (1 - nodes)[:, None] * weights).sum(2).T


def interval(target: Target, sde: LinearSDE, t: Tensor, s: Tensor, tau: Tau, h: Tensor | None = None) -> Interval:
    """The solution from times t to s, each (n,), within steps of length h (n,) in lam: by default the whole steps."""
    nodes, weights, after = points()
    start, end = sde.lam(t), sde.lam(s)
    alpha, end_ratio = sde.alpha(s), target.ratio(end)
    width = (end - start)[:, None]
    step = width if h is None else h[:, None]
    inside = start[:, None] + width * nodes.to(width)
    share = width * weights.to(width)
    factor = (alpha / end_ratio)[:, None]
    slope = factor * target.slope(inside) * share
    density = factor * target.slope(end[:, None]) * width
    kept = alpha / sde.alpha(t) * target.ratio(start) / end_ratio
    if isinstance(tau, int | float) and tau == 0:  # all that tau enters is 0 or 1
        return Interval(kept, inside, slope, torch.zeros_like(kept), density[:, 0])
    tau2 = tau_squared(tau, inside, step)
    growth = tau2 * target.growth(inside)
    decay = torch.exp(-width * (growth @ after.to(width).T))
    return Interval(
        kept * torch.exp(-(growth * share).sum(1)),
        inside,
        (1 + tau2) * decay * slope,
        alpha / end_ratio * (2 * tau2 * (torch.exp(-inside) * target.ratio(inside) * decay) ** 2 * share).sum(1).sqrt(),
        ((1 + tau_squared(tau, end[:, None], step)) * density)[:, 0],
    )


def lagrange(q: Tensor, nodes: Tensor) -> Tensor:
    """The basis polynomials (steps, nodes, points) over nodes (steps, nodes) at q (steps, points)."""
    own = torch.eye(nodes.shape[1], dtype=torch.bool, device=q.device)[None, :, :, None]
    gaps = nodes[:, :, None, None] - nodes[:, None, :, None]
    factors = (q[:, None, None, :] - nodes[:, None, :, None]) / torch.where(own, 1.0, gaps)
    return torch.where(own, 1.0, factors).prod(2)
