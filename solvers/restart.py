"""Restart: intervals of noise levels that are gone through again and again (Xu et al. 2023, algorithm 1)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sdescore.sampling import About, Noise, OneStep, ReverseProcess, check_one_step

from .renoise import at_rho, renoising
from .runge_kutta import HEUN

__all__ = ["Restart", "RestartInterval"]


class RestartInterval(NamedTuple):
    """Back from the grid's level nearest to rho = low up to rho = high, and down in `steps` times, `repeats` times."""

    low: float
    high: float
    repeats: int
    steps: int


@dataclass(frozen=True)
class Restart:
    """Another method's steps; on the way, noise is added from the lower to the upper end of each interval."""

    method: OneStep = HEUN
    intervals: tuple[RestartInterval, ...] = (RestartInterval(0.06, 0.3, 1, 4),)

    about = About(
        "SDE",
        2,
        "Xu et al. 2023, algorithm 1",
        "https://arxiv.org/abs/2306.14878",
        "an ODE method, with intervals gone through again: repairs the errors of few calls",
        least=30,
    )

    def __post_init__(self) -> None:
        check_one_step(self.method, "method")
        for low, high, repeats, steps in self.intervals:
            if not (0 < low < high and repeats >= 0 and steps >= 2):
                raise ValueError(f"intervals has {(low, high, repeats, steps)}; expected low < high, steps >= 2")

    def solve(self, reverse: ReverseProcess, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        sde, main = reverse.sde, self.method.plan(reverse, times[:-1], times[1:])
        loops = [self._loop(reverse, times[1:], again) for again in self.intervals]
        for i in range(len(times) - 1):
            x = main(i, x, noise)
            for place, grid, repeats in loops:
                if place == i:
                    down = self.method.plan(reverse, grid[:-1], grid[1:])
                    kept, added = map(float, renoising(sde, grid[-1], grid[0]))
                    for _ in range(repeats):
                        x = noise.randn(x, added).add_(x, alpha=kept)
                        for j in range(len(grid) - 1):
                            x = down(j, x, noise)
            yield x

    def _loop(self, reverse: ReverseProcess, times: Tensor, again: RestartInterval) -> tuple[int, Tensor, int]:
        """After which step an interval is gone through, on which grid, and how often."""
        rho = reverse.sde.rho(times)
        apart = (rho.log() - math.log(again.low)).abs().where(rho < again.high, math.inf)
        place = int(apart.argmin())
        if not math.isfinite(float(apart[place])):
            raise ValueError(f"times stay above rho = {float(rho[-1]):.3g}; {again} needs a level below its upper end")
        root = torch.linspace(again.high ** (1 / 7), float(rho[place]) ** (1 / 7), again.steps, dtype=rho.dtype)
        grid = at_rho(reverse.sde, root**7)
        grid[-1] = times[place]
        return place, grid, again.repeats

    def nfe(self, intervals: int) -> int:
        more = sum(again.repeats * self.method.nfe(again.steps - 1) for again in self.intervals)
        return self.method.nfe(intervals) + more
