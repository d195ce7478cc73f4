"""Paths of any process forwards in time, by torchsde (Li et al. 2020)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.common.checks import check_finite, check_seed, check_states, check_tensor
from sdescore.common.random import generator
from sdescore.processes.base import SDE

__all__ = ["simulate"]


@dataclass
class _Forward:
    """A process for torchsde, whose time n counts the intervals of a grid, so that every step ends on the grid."""

    sde: SDE
    shape: tuple[int, ...]
    times: Tensor

    noise_type = "diagonal"
    sde_type = "ito"

    def _at(self, n: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # Milstein's correction asks at the end of an interval too: n at the last time belongs to the last interval.
        k = min(int(n), len(self.times) - 2)
        width = self.times[k + 1] - self.times[k]
        return y.reshape(self.shape), self.times[k] + (float(n) - k) * width, width

    def f(self, n: Tensor, y: Tensor) -> Tensor:
        x, t, width = self._at(n, y)
        return (float(width) * self.sde.drift(x, t)).flatten(1)

    def g(self, n: Tensor, y: Tensor) -> Tensor:
        x, t, width = self._at(n, y)
        return (math.sqrt(width) * self.sde.diffusion(x, t).expand_as(x)).flatten(1)


@dataclass
class _Steps:
    """A Brownian motion for torchsde, which asks once for each unit interval."""

    like: Tensor
    noise: torch.Generator
    levy_area_approximation = "none"

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.like.shape)

    def __call__(self, ta: Tensor, tb: Tensor) -> Tensor:
        like = self.like
        return torch.randn(like.shape, generator=self.noise, device=like.device, dtype=like.dtype)


@torch.no_grad()
def simulate(sde: SDE, x0: Tensor, times: Tensor, *, method: str = "milstein", seed: int = 0) -> Tensor:
    """States (times, batch, *shape) of the forward process from x0 (batch, *shape) at times[0].

    Args:
        sde: Any process.
        x0: Floating-point states at times[0].
        times: An increasing vector within [t_min, T]; there is one step for each interval.
        method: "milstein", of strong order 1 where each element's diffusion depends on that element alone, or "euler".
        seed: Seed of the noise.

    Raises:
        TypeError, ValueError: For other arguments.
        FloatingPointError: For a path that is not finite.
    """
    check_tensor("times", times, "(times,)")
    check_finite("x0", check_states(x0, name="x0"))
    check_seed(seed)
    if not isinstance(sde, SDE):
        raise TypeError(f"sde is {sde!r}; expected an SDE")
    if method not in ("euler", "milstein"):
        raise ValueError(f"method={method!r}; expected 'euler' or 'milstein'")
    grid = times.detach().to("cpu", torch.float64)
    if grid.ndim != 1 or len(grid) < 2 or not bool((grid.diff() > 0).all()):
        raise ValueError(f"times has shape {tuple(times.shape)}; expected at least two times, in increasing order")
    sde.check_times(grid, "times")
    from torchsde import sdeint  # imported where it runs: it takes a while to load

    flat = x0.flatten(1)
    brownian = _Steps(flat, generator("simulate", seed, device=x0.device))
    counts = torch.arange(len(grid), dtype=torch.float64)
    with torch.enable_grad() if method == "milstein" else torch.no_grad():  # its correction differentiates g
        path = sdeint(_Forward(sde, tuple(x0.shape), grid), flat, counts, bm=brownian, method=method, dt=1.0)
    if not bool(path.isfinite().all()):
        raise FloatingPointError(f"simulate: a path of {type(sde).__name__} is not finite; more times may help")
    return path.detach().reshape(len(grid), *x0.shape)
