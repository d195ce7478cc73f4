"""Coordinates of the probability-flow ODE: strictly monotone functions q of lam.

Every method maps a tensor to one of its shape.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["ANGLE", "LAM", "ROOT_ANGLE", "Angle", "Lam", "RootAngle"]


@dataclass(frozen=True)
class Angle:
    """q = atan(rho), between 0 and pi/2; the base of the other coordinates."""

    def of(self, lam: Tensor) -> Tensor:
        """q at lam."""
        return torch.exp(-lam).atan()

    def angle(self, q: Tensor) -> Tensor:
        """atan(rho) at q."""
        return q

    def rate(self, q: Tensor) -> Tensor:
        """d angle / dq."""
        return torch.ones_like(q)

    def lam(self, q: Tensor) -> Tensor:
        """lam at q: the inverse of of()."""
        return -torch.tan(self.angle(q)).log()


@dataclass(frozen=True)
class RootAngle(Angle):
    """atan(rho) = pi/2 sin(q)^2, which spreads both ends.

    Data near a surface has a divergence of 1 / angle, and nets see the logarithm of rho.
    """

    def of(self, lam: Tensor) -> Tensor:
        return torch.asin((super().of(lam) / (math.pi / 2)).sqrt())

    def angle(self, q: Tensor) -> Tensor:
        return math.pi / 2 * q.sin() ** 2

    def rate(self, q: Tensor) -> Tensor:
        return math.pi / 2 * (2 * q).sin()


@dataclass(frozen=True)
class Lam(Angle):
    """q = lam."""

    def of(self, lam: Tensor) -> Tensor:
        return lam

    def angle(self, q: Tensor) -> Tensor:
        return torch.exp(-q).atan()

    def rate(self, q: Tensor) -> Tensor:
        return -0.5 / torch.cosh(q)

    def lam(self, q: Tensor) -> Tensor:
        return q


ANGLE = Angle()
ROOT_ANGLE = RootAngle()
LAM = Lam()
