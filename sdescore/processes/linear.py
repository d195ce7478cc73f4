"""The linear processes of the literature: each states alpha and sigma, and closed forms where they are known.

Nichol & Dhariwal 2021: https://arxiv.org/abs/2102.09672. Lipman et al. 2023: https://arxiv.org/abs/2210.02747.
Liu et al. 2023: https://arxiv.org/abs/2209.03003.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.common.checks import check_number, require
from sdescore.processes.base import LinearSDE, VariancePreserving

__all__ = ["VESDE", "VPSDE", "CosineSDE", "FlowSDE", "KarrasSDE", "SubVPSDE"]


@dataclass(frozen=True)
class VPSDE(VariancePreserving):
    """Variance preserving, with beta(t) linear: DDPM's limit (Song et al. 2021, eq. 11 and appendix C)."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        for name in ("beta_min", "beta_max"):
            check_number(name, getattr(self, name))
        require(
            0 < self.beta_min <= self.beta_max < math.inf,
            f"beta_min={self.beta_min}, beta_max={self.beta_max}; expected 0 < beta_min <= beta_max < inf",
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
        """DDPM's table of `steps` betas, float64 (Ho et al. 2020). Raises ValueError where one would reach 1."""
        require(steps > self.beta_max, f"steps={steps}; expected an integer above beta_max={self.beta_max}")
        return torch.linspace(self.beta_min / steps, self.beta_max / steps, steps, dtype=torch.float64)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-self.integral(t) / 2)

    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(-self.integral(t))).sqrt()

    def lam(self, t: Tensor) -> Tensor:
        return -torch.expm1(self.integral(t)).log() / 2

    def f(self, t: Tensor) -> Tensor:
        return -self.beta(t) / 2

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
class VarianceExploding(LinearSDE):
    """alpha = 1, and sigma from sigma_min to sigma_max, which subclasses give their defaults."""

    sigma_min: float
    sigma_max: float

    def __post_init__(self) -> None:
        for name in ("sigma_min", "sigma_max"):
            check_number(name, getattr(self, name))
        require(
            0 < self.sigma_min < self.sigma_max < math.inf,
            f"sigma_min={self.sigma_min}, sigma_max={self.sigma_max}; expected 0 < sigma_min < sigma_max < inf",
        )

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def f(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)


@dataclass(frozen=True)
class VESDE(VarianceExploding):
    """Variance exploding, with sigma geometric from sigma_min to sigma_max: NCSN's limit (Song et al. 2021, eq. 9).

    sigma(t) is the kernel's standard deviation in NCSN's convention: sigma(0) = sigma_min, not 0.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    @property
    def _log_ratio(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def sigmas(self, steps: int) -> Tensor:
        """NCSN's `steps` noise levels, increasing, float64 (Song & Ermon 2019)."""
        return self.sigma(torch.linspace(0, 1, steps, dtype=torch.float64))

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * torch.exp(self._log_ratio * t)

    def lam(self, t: Tensor) -> Tensor:
        return -math.log(self.sigma_min) - self._log_ratio * t

    def g(self, t: Tensor) -> Tensor:
        return math.sqrt(2 * self._log_ratio) * self.sigma(t)

    def time(self, lam: Tensor) -> Tensor:
        return -(lam + math.log(self.sigma_min)) / self._log_ratio


@dataclass(frozen=True)
class CosineSDE(VariancePreserving):
    """alpha(t) = cos(u) / cos(u0) with u = (t + offset) / (1 + offset) pi / 2 (Nichol & Dhariwal 2021, eq. 17)."""

    offset: float = 0.008

    def __post_init__(self) -> None:
        check_number("offset", self.offset)
        require(0 <= self.offset < 1, f"offset={self.offset}; expected 0 <= offset < 1")

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

    def time(self, lam: Tensor) -> Tensor:
        cos0, sin0 = math.cos(self._start), math.sin(self._start)
        cos = cos0 * torch.sigmoid(2 * lam).sqrt()
        noise = cos0**2 * torch.sigmoid(-2 * lam)
        sin = (sin0**2 + noise).sqrt()
        return torch.atan2(noise / (sin * cos0 + cos * sin0), cos * cos0 + sin * sin0) / self._rate


@dataclass(frozen=True)
class KarrasSDE(VarianceExploding):
    """alpha = 1, sigma = t: EDM's process (Karras et al. 2022, table 1)."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0

    @property
    def T(self) -> float:
        return self.sigma_max

    @property
    def t_min(self) -> float:
        return self.sigma_min

    def sigma(self, t: Tensor) -> Tensor:
        return t

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
