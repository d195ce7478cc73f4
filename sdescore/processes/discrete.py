"""The process of a trained table of noise levels, continuous in between."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from sdescore.common.checks import as_tensor, require
from sdescore.processes.base import VariancePreserving

__all__ = ["DiscreteSDE"]

RHO_START = 1000.0


@dataclass(frozen=True)
class DiscreteSDE(VariancePreserving):
    """A variance-preserving table of noise levels, continuous in between.

    t is the index into the table, from 0 to len(lambdas) - 1, so that a net trained on integer steps can be called with
    t as it is. Between entries lam is a monotone rational quadratic, which is differentiable and has an inverse in
    closed form (Gregory & Delbourgo 1982: https://doi.org/10.1093/imanum/2.2.123).

    Args:
        lambdas: The table's values of lam, strictly decreasing. Raises ValueError for others.
    """

    lambdas: tuple[float, ...]

    def __post_init__(self) -> None:
        require(
            len(self.lambdas) >= 2 and all(math.inf > a > b > -math.inf for a, b in pairwise(self.lambdas)),
            f"lambdas has {len(self.lambdas)} values; expected at least two, finite and strictly decreasing",
        )
        object.__setattr__(self, "lambdas", tuple(self.lambdas))

    @classmethod
    def from_betas(cls, betas: Sequence[float] | Tensor) -> "DiscreteSDE":
        """The process whose alpha^2 at index i is the product of 1 - beta up to i (Ho et al. 2020, section 2).

        betas is (steps,). Raises ValueError unless there are at least two, between 0 and 1.
        """
        table = as_tensor("betas", betas, torch.float64)
        require(
            table.ndim == 1 and len(table) >= 2 and bool(((table > 0) & (table < 1)).all()),
            f"betas has shape {tuple(table.shape)}; expected at least two values between 0 and 1",
        )
        lam = -torch.expm1(-torch.log1p(-table).cumsum(0)).log() / 2
        return cls(tuple(lam.tolist()))

    @property
    def T(self) -> float:
        return float(len(self.lambdas) - 1)

    @property
    def t_min(self) -> float:
        return 0.0

    @property
    def start(self) -> float:
        """The last entry whose rho is at most RHO_START, if there is one: beyond, tables leap to a rho of 1e4 in a few
        entries, between which no net was trained. N(0, sigma^2) is there within |x0| / RHO_START of a std."""
        allowed = [i for i, lam in enumerate(self.lambdas) if lam >= -math.log(RHO_START)]
        return float(allowed[-1]) if len(allowed) > 1 else self.T

    def _piece(self, t: Tensor) -> tuple[Tensor, ...]:
        t = t if t.is_floating_point() else t.to(torch.get_default_dtype())
        values, slopes = _table(self.lambdas, t.dtype, t.device)
        index = t.detach().floor().long().clamp(0, len(self.lambdas) - 2)
        # Not values[index], which reads an index of shape () back from the device.
        value, slope = values.take(index), slopes.take(index)
        return t - index, value, values.take(index + 1) - value, slope, slopes.take(index + 1)

    def lam(self, t: Tensor) -> Tensor:
        u, value, rise, left, right = self._piece(t)
        v = u * (1 - u)
        return value + rise * (rise * u * u + left * v) / (rise + (left + right - 2 * rise) * v)

    def _slope(self, t: Tensor) -> Tensor:
        u, _, rise, left, right = self._piece(t)
        v = u * (1 - u)
        numerator = rise**2 * (right * u * u + 2 * rise * v + left * (1 - u) ** 2)
        return numerator / (rise + (left + right - 2 * rise) * v) ** 2

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sigmoid(2 * self.lam(t)).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sigmoid(-2 * self.lam(t)).sqrt()

    def f(self, t: Tensor) -> Tensor:
        return self._slope(t) * torch.sigmoid(-2 * self.lam(t))

    def time(self, lam: Tensor) -> Tensor:
        values, slopes = _table(self.lambdas, lam.dtype, lam.device)
        index = (torch.searchsorted(-values, -lam.detach(), right=True) - 1).clamp(0, len(self.lambdas) - 2)
        value, left = values.take(index), slopes.take(index)
        fall, rise = lam - value, values.take(index + 1) - value
        bend = left + slopes.take(index + 1) - 2 * rise
        # The root in [0, 1] of a u^2 + b u + c = 0, in the form without cancellation.
        a, b, c = rise * (rise - left) + fall * bend, rise * left - fall * bend, -fall * rise
        return index - 2 * c / (b + (b * b - 4 * a * c).clamp(min=0).sqrt())


@lru_cache(maxsize=32)
def _table(lambdas: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Values and slopes at the table's entries. Slopes are harmonic means of both secants, the secant at an end."""
    values = torch.tensor(lambdas, dtype=torch.float64)
    secants = values.diff()
    inner = 2 * secants[1:] * secants[:-1] / (secants[1:] + secants[:-1])
    slopes = torch.cat([secants[:1], inner, secants[-1:]])
    return values.to(device, dtype), slopes.to(device, dtype)
