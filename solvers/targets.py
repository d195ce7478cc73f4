"""What an exponential method integrates, as functions of lam alone.

Along the probability-flow ODE d(x / w) = m dmu for each of these targets m = p x0 + q eps. To add one: a class with its
functions, and the object that stands for it.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.denoisers import Pair
from sdescore.processes import LinearSDE

__all__ = ["DATA", "DIFFERENCE", "IN_LAM", "NOISE", "Spacing", "Target", "V"]


@dataclass(frozen=True)
class Spacing(ABC):
    """A monotone function mu(lam) and its inverse lam(mu): nodes within a step are placed by their share in mu."""

    @abstractmethod
    def mu(self, lam: Tensor) -> Tensor: ...

    @abstractmethod
    def lam(self, mu: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Target(Spacing):
    """A target m = p x0 + q eps with its scale w and measure mu."""

    @abstractmethod
    def pair(self, lam: Tensor) -> Pair:
        """(p, q)."""

    @abstractmethod
    def ratio(self, lam: Tensor) -> Tensor:
        """alpha / w."""

    @abstractmethod
    def growth(self, lam: Tensor) -> Tensor:
        """The derivative of log(alpha / w)."""

    @abstractmethod
    def slope(self, lam: Tensor) -> Tensor:
        """The derivative of mu."""

    def w(self, sde: LinearSDE, t: Tensor) -> Tensor:
        """The scale of x at time t."""
        return sde.alpha(t) / self.ratio(sde.lam(t))


class LogSNR(Spacing):
    """Equal shares of lam."""

    def mu(self, lam: Tensor) -> Tensor:
        return lam

    def lam(self, mu: Tensor) -> Tensor:
        return mu


class NoiseTarget(Target):
    """w = alpha, mu = rho, m = eps."""

    def pair(self, lam: Tensor) -> Pair:
        return 0.0, 1.0

    def ratio(self, lam: Tensor) -> Tensor:
        return torch.ones_like(lam)

    def growth(self, lam: Tensor) -> Tensor:
        return torch.zeros_like(lam)

    def mu(self, lam: Tensor) -> Tensor:
        return torch.exp(-lam)

    def slope(self, lam: Tensor) -> Tensor:
        return -torch.exp(-lam)

    def lam(self, mu: Tensor) -> Tensor:
        return -mu.log()


class DataTarget(Target):
    """w = sigma, mu = 1 / rho, m = x0."""

    def pair(self, lam: Tensor) -> Pair:
        return 1.0, 0.0

    def ratio(self, lam: Tensor) -> Tensor:
        return torch.exp(lam)

    def growth(self, lam: Tensor) -> Tensor:
        return torch.ones_like(lam)

    def mu(self, lam: Tensor) -> Tensor:
        return torch.exp(lam)

    def slope(self, lam: Tensor) -> Tensor:
        return torch.exp(lam)

    def lam(self, mu: Tensor) -> Tensor:
        return torch.log(mu)


class VTarget(Target):
    """w = sqrt(alpha^2 + sigma^2), mu = atan(rho), m = v / w."""

    def pair(self, lam: Tensor) -> Pair:
        return -torch.sigmoid(-2 * lam).sqrt(), torch.sigmoid(2 * lam).sqrt()

    def ratio(self, lam: Tensor) -> Tensor:
        return torch.sigmoid(2 * lam).sqrt()

    def growth(self, lam: Tensor) -> Tensor:
        return torch.sigmoid(-2 * lam)

    def mu(self, lam: Tensor) -> Tensor:
        return torch.exp(-lam).atan()

    def slope(self, lam: Tensor) -> Tensor:
        return -0.5 / torch.cosh(lam)

    def lam(self, mu: Tensor) -> Tensor:
        return -mu.tan().log()


class DifferenceTarget(Target):
    """w = alpha + sigma, mu = sigma / (alpha + sigma), m = eps - x0."""

    def pair(self, lam: Tensor) -> Pair:
        return -1.0, 1.0

    def ratio(self, lam: Tensor) -> Tensor:
        return torch.sigmoid(lam)

    def growth(self, lam: Tensor) -> Tensor:
        return torch.sigmoid(-lam)

    def mu(self, lam: Tensor) -> Tensor:
        return torch.sigmoid(-lam)

    def slope(self, lam: Tensor) -> Tensor:
        return -torch.sigmoid(lam) * torch.sigmoid(-lam)

    def lam(self, mu: Tensor) -> Tensor:
        return -torch.logit(mu)


IN_LAM = LogSNR()
NOISE = NoiseTarget()
DATA = DataTarget()
V = VTarget()
DIFFERENCE = DifferenceTarget()
