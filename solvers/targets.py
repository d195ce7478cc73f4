"""What a deterministic method integrates: every target m obeys d(x / w) = m dmu along the probability-flow ODE."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.denoiser import Pair
from sdescore.sde import LinearSDE

__all__ = ["DATA", "DIFFERENCE", "NOISE", "Target", "V"]


@dataclass(frozen=True)
class Target:
    """A scale w, a measure mu and the target m = p x0 + q eps, each a function of the process and the time.

    `lam` is the inverse of mu: the half log-SNR at which mu has a given value.
    """

    w: Callable[[LinearSDE, Tensor], Tensor]
    mu: Callable[[LinearSDE, Tensor], Tensor]
    lam: Callable[[Tensor], Tensor]
    pair: Callable[[LinearSDE, Tensor], Pair]


def _norm(sde: LinearSDE, t: Tensor) -> Tensor:
    return torch.hypot(sde.alpha(t), sde.sigma(t))


def _total(sde: LinearSDE, t: Tensor) -> Tensor:
    return sde.alpha(t) + sde.sigma(t)


NOISE = Target(
    w=lambda sde, t: sde.alpha(t),
    mu=lambda sde, t: sde.rho(t),
    lam=lambda mu: -mu.log(),
    pair=lambda sde, t: (0.0, 1.0),
)
DATA = Target(
    w=lambda sde, t: sde.sigma(t),
    mu=lambda sde, t: sde.lam(t).exp(),
    lam=lambda mu: mu.log(),
    pair=lambda sde, t: (1.0, 0.0),
)
V = Target(
    w=_norm,
    mu=lambda sde, t: sde.rho(t).atan(),
    lam=lambda mu: -mu.tan().log(),
    pair=lambda sde, t: (-sde.sigma(t) / _norm(sde, t), sde.alpha(t) / _norm(sde, t)),
)
DIFFERENCE = Target(
    w=_total,
    mu=lambda sde, t: torch.sigmoid(-sde.lam(t)),
    lam=lambda mu: -torch.logit(mu),
    pair=lambda sde, t: (-1.0, 1.0),
)
