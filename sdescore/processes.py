"""The forward processes. To add one: a frozen dataclass with alpha and sigma, and closed forms where they are known."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from sdescore.sde import LinearSDE

__all__ = [
    "PROCESSES",
    "VESDE",
    "VPSDE",
    "CosineSDE",
    "DiscreteSDE",
    "FlowSDE",
    "KarrasSDE",
    "SubVPSDE",
]


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _sigma_dot(sde: LinearSDE, t: Tensor) -> Tensor:
    """d sigma / dt where alpha^2 + sigma^2 = 1, without the cancellation of sigma f + g^2 / (2 sigma) near T."""
    return -(sde.alpha(t) ** 2) * sde.f(t) / sde.sigma(t)


@dataclass(frozen=True)
class VPSDE(LinearSDE):
    """Variance preserving: beta(t) rises linearly; DDPM's limit (Song et al. 2021, eq. 11 and appendix C)."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        _check(
            0 < self.beta_min <= self.beta_max < math.inf,
            f"beta_min={self.beta_min}, beta_max={self.beta_max}; valid are 0 < beta_min <= beta_max < inf",
        )

    def beta(self, t: Tensor) -> Tensor:
        """The rate of noise."""
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def integral(self, t: Tensor) -> Tensor:
        """B(t), the integral of beta from 0 to t."""
        return (self.beta_min + (self.beta_max - self.beta_min) / 2 * t) * t

    def _time_of_integral(self, integral: Tensor) -> Tensor:
        slope = self.beta_max - self.beta_min
        return 2 * integral / (self.beta_min + (self.beta_min**2 + 2 * slope * integral).sqrt())

    def betas(self, steps: int) -> Tensor:
        """DDPM's table of `steps` betas, float64 (Ho et al. 2020)."""
        return torch.linspace(self.beta_min / steps, self.beta_max / steps, steps, dtype=torch.float64)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-self.integral(t) / 2)

    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(-self.integral(t))).sqrt()

    def lam(self, t: Tensor) -> Tensor:
        return -torch.expm1(self.integral(t)).log() / 2

    def f(self, t: Tensor) -> Tensor:
        return -self.beta(t) / 2

    def g(self, t: Tensor) -> Tensor:
        return self.beta(t).sqrt()

    def sigma_dot(self, t: Tensor) -> Tensor:
        return _sigma_dot(self, t)

    def time(self, lam: Tensor) -> Tensor:
        return self._time_of_integral(torch.nn.functional.softplus(-2 * lam, threshold=40.0))


@dataclass(frozen=True)
class SubVPSDE(VPSDE):
    """Variance below the VP process of the same beta at every t (Song et al. 2021, eq. 12)."""

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self.integral(t))

    def lam(self, t: Tensor) -> Tensor:
        return -(2 * torch.sinh(self.integral(t) / 2)).log()

    def g(self, t: Tensor) -> Tensor:
        return (-self.beta(t) * torch.expm1(-2 * self.integral(t))).sqrt()

    def sigma_dot(self, t: Tensor) -> Tensor:
        return self.beta(t) * self.alpha(t) ** 2

    def time(self, lam: Tensor) -> Tensor:
        return self._time_of_integral(2 * torch.asinh(torch.exp(-lam) / 2))


@dataclass(frozen=True)
class VESDE(LinearSDE):
    """Variance exploding: sigma rises geometrically to sigma_max, NCSN's limit (Song et al. 2021, eq. 9).

    sigma(t) is the kernel's standard deviation in NCSN's convention: sigma(0) = sigma_min, not 0.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        _check(
            0 < self.sigma_min < self.sigma_max < math.inf,
            f"sigma_min={self.sigma_min}, sigma_max={self.sigma_max}; valid are 0 < sigma_min < sigma_max < inf",
        )

    @property
    def _log_ratio(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def sigmas(self, steps: int) -> Tensor:
        """NCSN's ladder of `steps` rising noise levels, float64 (Song & Ermon 2019)."""
        return self.sigma(torch.linspace(0, 1, steps, dtype=torch.float64))

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * torch.exp(self._log_ratio * t)

    def lam(self, t: Tensor) -> Tensor:
        return -math.log(self.sigma_min) - self._log_ratio * t

    def f(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def g(self, t: Tensor) -> Tensor:
        return math.sqrt(2 * self._log_ratio) * self.sigma(t)

    def time(self, lam: Tensor) -> Tensor:
        return -(lam + math.log(self.sigma_min)) / self._log_ratio


@dataclass(frozen=True)
class CosineSDE(LinearSDE):
    """alpha(t) = cos(u) / cos(u0) with u = (t + offset) / (1 + offset) pi / 2 (Nichol & Dhariwal 2021, eq. 17)."""

    offset: float = 0.008

    def __post_init__(self) -> None:
        _check(0 <= self.offset < 1, f"offset={self.offset}; valid are 0 <= offset < 1")

    @property
    def T(self) -> float:
        return 0.999

    @property
    def _rate(self) -> float:
        return math.pi / 2 / (1 + self.offset)

    @property
    def _start(self) -> float:
        return self._rate * self.offset

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(self._start + self._rate * t) / math.cos(self._start)

    def sigma(self, t: Tensor) -> Tensor:
        # 1 - cos(u)^2/cos(u0)^2 without its cancellation at small t.
        turn = self._rate * t
        return (torch.sin(turn) * torch.sin(turn + 2 * self._start)).sqrt() / math.cos(self._start)

    def f(self, t: Tensor) -> Tensor:
        return -self._rate * torch.tan(self._start + self._rate * t)

    def g(self, t: Tensor) -> Tensor:
        return (-2 * self.f(t)).sqrt()

    def sigma_dot(self, t: Tensor) -> Tensor:
        return _sigma_dot(self, t)

    def time(self, lam: Tensor) -> Tensor:
        cos0, sin0 = math.cos(self._start), math.sin(self._start)
        cos = cos0 * torch.sigmoid(2 * lam).sqrt()
        noise = cos0**2 * torch.sigmoid(-2 * lam)
        sin = (sin0**2 + noise).sqrt()
        return torch.atan2(noise / (sin * cos0 + cos * sin0), cos * cos0 + sin * sin0) / self._rate


@dataclass(frozen=True)
class KarrasSDE(LinearSDE):
    """alpha = 1, sigma = t: EDM's process (Karras et al. 2022, table 1)."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        _check(
            0 < self.sigma_min < self.sigma_max < math.inf,
            f"sigma_min={self.sigma_min}, sigma_max={self.sigma_max}; valid are 0 < sigma_min < sigma_max < inf",
        )

    @property
    def T(self) -> float:
        return self.sigma_max

    @property
    def t_min(self) -> float:
        return self.sigma_min

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def f(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def g(self, t: Tensor) -> Tensor:
        return (2 * t).sqrt()

    def time(self, lam: Tensor) -> Tensor:
        return torch.exp(-lam)


@dataclass(frozen=True)
class FlowSDE(LinearSDE):
    """alpha = 1 - t, sigma = t: the straight path of flow matching (Lipman et al. 2023; Liu et al. 2023)."""

    @property
    def T(self) -> float:
        return 0.999

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def f(self, t: Tensor) -> Tensor:
        return -1 / (1 - t)

    def g(self, t: Tensor) -> Tensor:
        return (2 * t / (1 - t)).sqrt()

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def time(self, lam: Tensor) -> Tensor:
        return torch.sigmoid(-lam)


@dataclass(frozen=True)
class DiscreteSDE(LinearSDE):
    """A variance-preserving table of noise levels, continuous in between: t is the index into the table.

    `lambdas` are the table's values of lam, strictly decreasing; t runs from 0 to len(lambdas) - 1, so that a net
    trained on integer steps can be called with t as it is. Between entries lam is the monotone rational quadratic of
    Gregory & Delbourgo (1982), which is once differentiable and has a closed-form inverse.
    """

    lambdas: tuple[float, ...]

    def __post_init__(self) -> None:
        _check(
            len(self.lambdas) >= 2 and all(math.inf > a > b > -math.inf for a, b in pairwise(self.lambdas)),
            "lambdas must be at least two finite, strictly decreasing values",
        )
        object.__setattr__(self, "lambdas", tuple(self.lambdas))

    @classmethod
    def from_betas(cls, betas: Sequence[float] | Tensor) -> "DiscreteSDE":
        """The process whose alpha^2 at index i is the product of 1 - beta up to i (Ho et al. 2020, section 2)."""
        table = torch.as_tensor(betas, dtype=torch.float64)
        _check(
            table.ndim == 1 and len(table) >= 2 and bool(((table > 0) & (table < 1)).all()),
            "betas must be at least two values in (0, 1)",
        )
        lam = -torch.expm1(-torch.log1p(-table).cumsum(0)).log() / 2
        return cls(tuple(lam.tolist()))

    @property
    def T(self) -> float:
        return float(len(self.lambdas) - 1)

    @property
    def t_min(self) -> float:
        return 0.0

    def _piece(self, t: Tensor) -> tuple[Tensor, ...]:
        t = t if t.is_floating_point() else t.to(torch.get_default_dtype())
        values, slopes = _table(self.lambdas, t.dtype, t.device)
        index = t.detach().floor().long().clamp(0, len(self.lambdas) - 2)
        # take() and not [index], which reads an index of shape () back from the device.
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

    def g(self, t: Tensor) -> Tensor:
        return (-2 * self.f(t)).sqrt()

    def sigma_dot(self, t: Tensor) -> Tensor:
        return _sigma_dot(self, t)

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
    """The values and the slopes at the table's entries: harmonic means inside, the secants at both ends."""
    values = torch.tensor(lambdas, dtype=torch.float64)
    secants = values.diff()
    inner = 2 * secants[1:] * secants[:-1] / (secants[1:] + secants[:-1])
    slopes = torch.cat([secants[:1], inner, secants[-1:]])
    return values.to(device, dtype), slopes.to(device, dtype)


PROCESSES: dict[str, type[LinearSDE]] = {
    cls.__name__: cls for cls in (VPSDE, SubVPSDE, VESDE, CosineSDE, KarrasSDE, FlowSDE, DiscreteSDE)
}
