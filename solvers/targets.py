"""What a deterministic or stochastic exponential method integrates, as functions of lam alone.

Along the probability-flow ODE d(x / w) = m dmu for each of these targets m = p x0 + q eps.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sdescore.denoisers.conversions import Pair
from sdescore.processes import LinearSDE

__all__ = ["DATA", "DIFFERENCE", "IN_LAM", "NOISE", "Spacing", "Target", "V"]

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Spacing:
    """A monotone function mu(lam) and its inverse lam(mu): nodes within a step are placed by their share in mu."""

    name: str
    mu: Function = field(repr=False)
    lam: Function = field(repr=False)


IN_LAM = Spacing("lam", mu=lambda lam: lam, lam=lambda mu: mu)


@dataclass(frozen=True)
class Target(Spacing):
    """A target m = p x0 + q eps with its scale w and measure mu.

    ratio(lam) is alpha / w and growth(lam) the derivative of its logarithm; mu(lam) the measure, slope(lam) its
    derivative, lam(mu) its inverse; pair(lam) is (p, q).
    """

    ratio: Function = field(repr=False)
    growth: Function = field(repr=False)
    slope: Function = field(repr=False)
    pair: Callable[[Tensor], Pair] = field(repr=False)

    def w(self, sde: LinearSDE, t: Tensor) -> Tensor:
        """The scale of x at time t."""
        return sde.alpha(t) / self.ratio(sde.lam(t))


NOISE = Target(  # w = alpha, mu = rho
    "noise",
    ratio=torch.ones_like,
    growth=torch.zeros_like,
    mu=lambda lam: torch.exp(-lam),
    slope=lambda lam: -torch.exp(-lam),
    lam=lambda mu: -mu.log(),
    pair=lambda lam: (0.0, 1.0),
)
DATA = Target(  # w = sigma, mu = 1 / rho
    "data",
    ratio=torch.exp,
    growth=torch.ones_like,
    mu=torch.exp,
    slope=torch.exp,
    lam=torch.log,
    pair=lambda lam: (1.0, 0.0),
)
V = Target(  # w = sqrt(alpha^2 + sigma^2), mu = atan(rho), m = v / w
    "v",
    ratio=lambda lam: torch.sigmoid(2 * lam).sqrt(),
    growth=lambda lam: torch.sigmoid(-2 * lam),
    mu=lambda lam: torch.exp(-lam).atan(),
    slope=lambda lam: -0.5 / torch.cosh(lam),
    lam=lambda mu: -mu.tan().log(),
    pair=lambda lam: (-torch.sigmoid(-2 * lam).sqrt(), torch.sigmoid(2 * lam).sqrt()),
)
DIFFERENCE = Target(  # w = alpha + sigma, mu = sigma / (alpha + sigma), m = eps - x0
    "difference",
    ratio=torch.sigmoid,
    growth=lambda lam: torch.sigmoid(-lam),
    mu=lambda lam: torch.sigmoid(-lam),
    slope=lambda lam: -torch.sigmoid(lam) * torch.sigmoid(-lam),
    lam=lambda mu: -torch.logit(mu),
    pair=lambda lam: (-1.0, 1.0),
)
