"""Distributions of training times, by their quantiles."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.processes.base import LinearSDE

__all__ = ["TIME_DISTRIBUTIONS", "TimeDistribution", "log_normal", "stratified"]


def independent(count: int, generator: torch.Generator | None = None, device: torch.device | None = None) -> Tensor:
    """`count` independent quantiles in [0, 1)."""
    return torch.rand(count, generator=generator, device=device)


def stratified(count: int, generator: torch.Generator | None = None, device: torch.device | None = None) -> Tensor:
    """`count` quantiles at equal distances in [0, 1), with one random shift (Kingma et al. 2021, I.1)."""
    shift = torch.rand(1, generator=generator, device=device)
    return (shift + torch.arange(count, device=device) / count) % 1


@dataclass(frozen=True)
class TimeDistribution:
    """A distribution of training times.

    Args:
        place: place(sde, u) gives the times (batch,) of quantiles u (batch,) in [0, 1], and factors (batch,) of the
            loss: those that keep the mean loss of uniform times, or ones.
        draw: draw(count, generator, device) gives the quantiles (count,).
    """

    place: Callable[[LinearSDE, Tensor], tuple[Tensor, Tensor]]
    draw: Callable[[int, torch.Generator | None, torch.device | None], Tensor] = independent


def _uniform(sde: LinearSDE, u: Tensor) -> tuple[Tensor, Tensor]:
    return (sde.t_min + (sde.T - sde.t_min) * u).clamp(sde.t_min, sde.T), torch.ones_like(u)


def _lam_ends(sde: LinearSDE) -> tuple[float, float]:
    first, last = sde.lam(torch.tensor([sde.t_min, sde.T], dtype=torch.float64)).tolist()
    return first, last


def _importance(sde: LinearSDE, u: Tensor) -> tuple[Tensor, Tensor]:
    # g^2 / sigma^2 = -2 dlam/dt on every linear process, so its distribution is uniform in lam.
    first, last = _lam_ends(sde)
    t = sde.time(first + (last - first) * u).clamp(sde.t_min, sde.T)
    return t, 2 * (first - last) / (sde.T - sde.t_min) * (sde.sigma(t) / sde.g(t)) ** 2


def log_normal(mean: float = -1.2, std: float = 1.2) -> TimeDistribution:
    """ln(rho) ~ N(mean, std^2), truncated to the process's range (Karras et al. 2022, table 1)."""

    def place(sde: LinearSDE, u: Tensor) -> tuple[Tensor, Tensor]:
        low, high = (0.5 * math.erfc((mean + lam) / (std * math.sqrt(2))) for lam in _lam_ends(sde))
        lam = -mean - std * torch.special.ndtri(low + (high - low) * u)
        return sde.time(lam).clamp(sde.t_min, sde.T), torch.ones_like(u)

    return TimeDistribution(place)


TIME_DISTRIBUTIONS: dict[str, TimeDistribution] = {
    "uniform": TimeDistribution(_uniform),
    "importance": TimeDistribution(_importance),
    "log-normal": log_normal(),
    "low-discrepancy": TimeDistribution(_uniform, stratified),
}
