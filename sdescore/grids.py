"""Time grids: which times a solver visits. A grid is a function (sde, steps) -> decreasing float64 times."""

from collections.abc import Callable

import torch
from torch import Tensor

from sdescore.sde import LinearSDE

__all__ = ["Grid", "karras", "uniform_lambda", "uniform_t"]

Grid = Callable[[LinearSDE, int], Tensor]


def _ends(sde: LinearSDE, rho_min: float) -> tuple[float, float]:
    """The largest and the smallest noise-to-signal ratio of a grid: the process's own, but not below rho_min."""
    first, last = sde.rho(torch.tensor([sde.T, sde.t_min], dtype=torch.float64)).tolist()
    return first, max(last, rho_min)


def _in_time(sde: LinearSDE, lam: Tensor) -> Tensor:
    return sde.time(lam).clamp(sde.t_min, sde.T)


def karras(power: float = 7.0, rho_min: float = 0.002) -> Grid:
    """Uniform in rho^(1/power), rho the noise-to-signal ratio (Karras et al. 2022, eq. 5)."""

    def grid(sde: LinearSDE, steps: int) -> Tensor:
        first, last = _ends(sde, rho_min)
        root = torch.linspace(first ** (1 / power), last ** (1 / power), steps, dtype=torch.float64)
        return _in_time(sde, -power * root.log())

    return grid


def uniform_lambda(rho_min: float = 0.002) -> Grid:
    """Uniform in lam, the logarithm of the signal-to-noise ratio (Lu et al. 2022)."""

    def grid(sde: LinearSDE, steps: int) -> Tensor:
        first, last = torch.tensor(_ends(sde, rho_min), dtype=torch.float64).log().neg().tolist()
        return _in_time(sde, torch.linspace(first, last, steps, dtype=torch.float64))

    return grid


def uniform_t(rho_min: float = 0.002) -> Grid:
    """Uniform in t."""

    def grid(sde: LinearSDE, steps: int) -> Tensor:
        last = -torch.tensor(_ends(sde, rho_min)[1], dtype=torch.float64).log()
        return torch.linspace(sde.T, float(_in_time(sde, last)), steps, dtype=torch.float64)

    return grid
