"""SDEdit: a guide noised to some level, and any method from there (Meng et al. 2022, algorithm 1)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.processes import LinearSDE
from sdescore.sampling import Noise, ReverseProcess, Solver, karras
from sdescore.sampling.solver import denoises

from .exponential_euler import DDPM
from .measured import without
from .renoise import at_rho

__all__ = ["SDEdit", "below"]


@dataclass(frozen=True)
class below:
    """The grid of karras() from the noise-to-signal ratio `rho` down."""

    rho: float
    power: float = 7.0

    def __call__(self, sde: LinearSDE, steps: int) -> Tensor:
        whole = karras()(sde, 2)
        high, low = sde.rho(whole).tolist()
        if not low < self.rho <= high:
            raise ValueError(f"rho={self.rho}; expected on {type(sde).__name__} above {low:.4g}, up to {high:.6g}")
        roots = torch.linspace(self.rho ** (1 / self.power), low ** (1 / self.power), steps, dtype=torch.float64)
        times = at_rho(sde, roots**self.power)
        return torch.cat([times[:-1], whole[1:]]) if steps > 1 else times


@dataclass(frozen=True)
class SDEdit:
    """condition["guide"], such as a stroke painting (batch, *shape), is noised to `rho` and made data again.

    The higher rho, the more like data and the less like the guide. The default times begin there; others do where they
    are told to. https://arxiv.org/abs/2108.01073
    """

    rho: float = 1.0
    method: Solver = DDPM

    denoises = True

    def __post_init__(self) -> None:
        if not 0 < self.rho < math.inf:
            raise ValueError(f"rho={self.rho}; expected positive numbers")
        if not isinstance(self.method, Solver) or isinstance(self.method, type):
            raise TypeError(f"method is {self.method!r}; expected a solver")

    @property
    def grid(self) -> below:
        return below(self.rho)

    def solve(self, reverse: ReverseProcess, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        """x is sigma z at times[0], as sample() draws it."""
        prior, guide = without(reverse, "guide", "an x0 for each sample")
        if guide.shape != x.shape:
            raise ValueError(f"guide is {tuple(guide.shape)}; expected {tuple(x.shape)}, as the samples are")
        x = x + float(prior.sde.alpha(times[0])) * guide.to(x)
        for state in self.method.solve(prior, x, times, noise):
            x = state
            yield x
        if not denoises(self.method):
            yield prior.data(x, times[-1])

    def nfe(self, intervals: int) -> int:
        inner: int = self.method.nfe(intervals)  # type: ignore[attr-defined]
        return inner + (not denoises(self.method))
