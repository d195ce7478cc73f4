"""Adaptive Runge-Kutta on the probability-flow ODE: the 5(4) pair of Dormand & Prince (1980), steps of each sample."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from sdescore.flow import transport
from sdescore.grids import karras
from sdescore.noise import Noise
from sdescore.ode import DORMAND_PRINCE
from sdescore.reverse import Reverse
from sdescore.sde import LinearSDE

__all__ = ["DormandPrince"]


@dataclass(frozen=True)
class DormandPrince:
    """Every sample takes the steps that its own tolerance asks for, so that none depends on those beside it.

    rtol and atol bound the root mean square of a step's error in x / sqrt(alpha^2 + sigma^2). A sample whose flow is
    not finite, or whose tolerance cannot be met, becomes NaN.
    """

    rtol: float = 1e-4
    atol: float = 1e-4

    def __post_init__(self) -> None:
        if not (self.rtol > 0 and self.atol > 0):
            raise ValueError(f"rtol={self.rtol}, atol={self.atol}; valid are positive numbers")

    def grid(self, sde: LinearSDE, steps: int) -> Tensor:
        """The two ends, whatever `steps` says: a solution that finds its own steps needs no others."""
        return karras()(sde, 2)

    def solve(self, reverse: Reverse, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        for start, stop in pairwise(times.tolist()):
            done = transport(reverse, x, start, stop, self.rtol, self.atol, tableau=DORMAND_PRINCE)
            x = done.y.masked_fill(done.failed.reshape(-1, *(1,) * (x.ndim - 1)), torch.nan)
            yield x
