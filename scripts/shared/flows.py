"""Exact flows: starting states, where they end, and the times with which a solver comes near."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sdescore import Denoiser, GaussianMixture, KarrasSDE, LinearSDE, Solver, fit_times, karras, sample
from sdescore.sampling import approaching
from sdescore.sampling.fitting import REFERENCE, distances
from sdescore.sampling.grids import Grid
from sdescore.testing import exact_flow

__all__ = ["BATCH", "Problem", "of_mixture", "of_model"]

BATCH = 500  # a mixture's denoiser then works in the cache
PILOTS = 64
DRAWN, FARTHEST = 4096, 128  # pilots for the root mean square: drawn, and those that are farthest


@dataclass(frozen=True)
class Problem:
    """Starting states x at T, and where the exact flow takes them.

    Times are fitted to others: to `pilots`, states and their ends, for the typical distance, and to the farthest of the
    states `many` for the root mean square.
    """

    text: str
    sde: LinearSDE
    denoiser: Denoiser
    x: Tensor
    exact: Tensor
    pilots: tuple[Tensor, Tensor]
    many: Tensor

    def fitted(self, solver: Solver) -> Grid:
        """The times that suit a solver here."""
        x, exact = self.pilots
        return lambda sde, steps: fit_times(sde, self.denoiser, solver=solver, steps=steps, x=x, exact=exact)

    @cached_property
    def _ends(self) -> Tensor:
        """Of the many: to fit to, an approximation does."""
        return sample(self.sde, self.denoiser, x=self.many, solver="adams", nfe=REFERENCE, batch_size=BATCH)

    def farthest(self, solver: Solver) -> Grid:
        """The times that keep a solver's farthest samples near."""

        def grid(sde: LinearSDE, steps: int) -> Tensor:
            given: dict[str, Any] = dict(solver=solver, times=approaching(), steps=steps)
            found = sample(sde, self.denoiser, x=self.many, batch_size=BATCH, **given)
            far = distances(found, self._ends).argsort(descending=True)[:FARTHEST]
            return fit_times(sde, self.denoiser, x=self.many[far], exact=self._ends[far], power=2.0, **given)

        return grid


def of_mixture(text: str, sde: LinearSDE, mixture: GaussianMixture, count: int, seed: int) -> Problem:
    """The flow of a mixture, down to noise-to-signal 1e-7."""
    start = torch.tensor(sde.T, dtype=torch.float64)
    lams = torch.tensor([float(sde.lam(start)), math.log(1e7)], dtype=torch.float64)
    x, pilots, many = (mixture.at(sde, sde.T).sample(n, seed + i) for i, n in enumerate((count, PILOTS, DRAWN)))
    exact, ends = (exact_flow(KarrasSDE(1e-8, 1e4), mixture, y / sde.alpha(start), lams)[1] for y in (x, pilots))
    return Problem(text, sde, mixture.denoiser(sde), x, exact, (pilots, ends), many)


def of_model(folder: str, count: int, seed: int) -> Problem:
    """The flow of a saved net, by 200 steps of the classic Runge-Kutta method."""
    denoiser = Denoiser.from_pretrained(folder)
    if denoiser.shape is None:
        raise ValueError(f"model={folder!r} does not say the shape of its samples")
    own = torch.Generator().manual_seed(seed)
    x = denoiser.sde.prior_sample((count + PILOTS, *denoiser.shape), generator=own)
    exact = sample(denoiser.sde, denoiser, x=x, solver="rk4", steps=200, times=karras(), progress=True)
    text, pilots = f"{folder}, {type(denoiser.sde).__name__}", x[count:]  # to follow more would cost too much
    return Problem(text, denoiser.sde, denoiser, x[:count], exact[:count], (pilots, exact[count:]), many=pilots)
