"""MCGDiff: transition kernels bridged to a measurement in the coordinates of its singular vectors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.operators import Operator, Singular, decomposed
from sdescore.processes.base import LinearSDE
from sdescore.sampling.grids import Grid
from sdescore.sampling.noise import Noise
from sdescore.sampling.particles import Cloud, in_batches
from sdescore.sampling.smc_kernels import Kernels

__all__ = ["Bridged", "SingularValues", "through"]


@dataclass(frozen=True)
class SingularValues:
    """A measurement along the singular vectors that are `seen`, k coordinates of `svd`.

    x0 there is `value` plus noise of std `ratio`, each (k,). log_scale: log p(y) less the log-density of `value`.
    """

    svd: Singular
    seen: Tensor  # (*coordinates,)
    value: Tensor
    ratio: Tensor
    log_scale: float

    @classmethod
    def of(cls, operator: Operator, y: Tensor, noise_std: float, shape: Sequence[int]) -> "SingularValues":
        """Raises ValueError for an operator that is not linear."""
        svd = decomposed(operator, tuple(shape))
        turned = svd.U_adjoint(y.double()[None])
        mask = svd.mask.to(turned).expand_as(turned)[0]
        seen = mask > 1e-10 * mask.max()
        s = mask[seen]
        log_scale = -float(s.log().sum())
        unseen = y.numel() - len(s)  # there y is noise alone
        if unseen and noise_std > 0:
            square = float((y - svd.U(turned.where(seen, 0.0))[0]).square().sum()) / noise_std**2
            log_scale -= square / 2 + unseen * math.log(2 * math.pi * noise_std**2) / 2
        return cls(svd, seen, turned[0][seen] / s, noise_std / s, log_scale)

    def along(self, x: Tensor) -> Tensor:
        """Coordinates (batch, k) of x (batch, *shape)."""
        return self.svd.V_adjoint(x)[:, self.seen.to(x.device)]

    def back(self, z: Tensor) -> Tensor:
        """What has coordinates (batch, k) and no others."""
        whole = z.new_zeros(len(z), *self.seen.shape)
        whole[:, self.seen.to(z.device)] = z
        return self.svd.V(whole)

    def times(self, sde: LinearSDE, last: float) -> Tensor:
        """When x_t along each vector is known as well as y tells it, (k,); not below `last`."""
        least, most = (float(sde.rho(torch.tensor(t, dtype=torch.float64))) for t in (last, sde.T))
        if float(self.ratio.max()) >= most:
            raise ValueError(
                f"noise_std over the least singular value is {float(self.ratio.max()):.4g}; expected numbers below "
                f"{most:.4g}, rho of {type(sde).__name__} at T"
            )
        found = sde.time(-self.ratio.clamp(min=least).log())
        return torch.where(self.ratio <= least, last, found.clamp(last, sde.T))


def through(grid: Grid, found: SingularValues) -> Grid:
    """The grid with the times of the singular values in it, of as many steps."""

    def made(sde: LinearSDE, steps: int) -> Tensor:
        last = float(grid(sde, 2)[-1])
        own = found.times(sde, last).unique()
        own = own[own > last]
        if len(own) > steps - 2:
            raise ValueError(f"steps={steps}; expected at least {len(own) + 2}, for {len(own)} singular values")
        return torch.cat([grid(sde, steps - len(own)), own]).unique().flip(0)

    return made


class Bridged:
    """MCGDiff (Cardoso et al. 2024, section 2), a Weighting.

    Coordinate i along the singular vectors is tied to alpha_t y_i by the forward process from the time tau_i at which
    x_t is as noisy as y_i, where it is set; below, it is free. The net is not differentiated.
    """

    def __init__(self, kernels: Kernels, first: Tensor, gaussian: bool, found: SingularValues) -> None:
        sde, t = kernels.reverse.sde, kernels.times
        tau = found.times(sde, float(t[-1]))
        self.kernels = kernels
        self.times = t
        self.first = first
        self.gaussian = gaussian
        self.found = found
        self.target = (sde.alpha(t)[:, None] * found.value).to(first)
        variance = sde.sigma(t)[:, None] ** 2 - (sde.alpha(t)[:, None] * found.ratio) ** 2
        self.variance = variance.clamp(min=0).masked_fill(t[:, None] <= tau, 0.0).to(first)
        self.tied = (t[:, None] >= tau).to(first)
        self.log_scale = found.log_scale + float(sde.alpha(tau).log().sum())

    def _tie(self, i: int, mean: Tensor, drawn: Tensor, std: float) -> tuple[Tensor, Tensor]:
        """States at times[i] of a kernel whose draw is mean + drawn, and log of the integral of kernel and bridge."""
        at, free = self.found.along(mean), self.found.along(drawn)
        total = self.variance[i] + std**2
        gain = std**2 / total
        tied = gain * (self.target[i] - at) + (self.variance[i] / total).sqrt() * free
        change = self.found.back(self.tied[i] * (tied - free))
        return mean + drawn + change, self._log_normal(i, at, total)

    def _log_normal(self, i: int, at: Tensor, variance: Tensor) -> Tensor:
        """The log-density of the bridges' targets at times[i], over the coordinates that are tied there."""
        each = (at - self.target[i]).square() / variance + (2 * math.pi * variance).log()
        return -(self.tied[i] * each).double().sum(1) / 2

    def start(self, noise: Noise) -> tuple[Cloud, Tensor]:
        if self.gaussian:
            std = float(self.kernels.reverse.sde.sigma(self.times[0]))
            x, log_weights = self._tie(0, torch.zeros_like(self.first), self.first, std)
            return (x,), log_weights
        return (self.first,), self._log_normal(0, self.found.along(self.first), self.variance[0])

    def move(self, i: int, cloud: Cloud, noise: Noise) -> tuple[Cloud, Tensor]:
        (x,) = cloud
        mean, std = self.kernels.mean(i, x, self._data(i, x)), self.kernels.std[i]
        new, log_weights = self._tie(i + 1, mean, noise(x, self.times[i], self.times[i + 1], std), std)
        # What was tied before and still is; where a coordinate is set, its bridge is a point and all its weight given.
        before = (self.found.along(x) - self.target[i]).square() / self.variance[i]
        before = torch.where(self.tied[i + 1] > 0, before + (2 * math.pi * self.variance[i]).log(), 0.0)
        return (new,), log_weights + before.double().sum(1) / 2

    def finish(self, cloud: Cloud) -> tuple[Tensor, Tensor]:
        (x,) = cloud
        data = self._data(len(self.times) - 1, x)
        return data, data.new_full(data.shape[:1], self.log_scale)

    def _data(self, i: int, x: Tensor) -> Tensor:
        return in_batches(lambda some: (self.kernels.data(i, some),), x, self.kernels.batch_size)[0]
