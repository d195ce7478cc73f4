"""Time grids: which times a solver visits. A grid is a function (sde, steps) -> decreasing float64 times (steps,).

Those below are frozen dataclasses: karras() is a grid, karras(power=5) another. Each leads from the process's start to
t_min, or to where the noise-to-signal ratio is rho_min if that is earlier. The last net call removes the noise that is
left there, with an error of order rho_min^2.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from sdescore.common.checks import check_number, require
from sdescore.processes.base import LinearSDE

__all__ = [
    "EqualSteps",
    "Grid",
    "approaching",
    "beta_quantile",
    "karras",
    "polynomial_t",
    "two_ends",
    "uniform_angle",
    "uniform_asinh",
    "uniform_lambda",
    "uniform_t",
]

Grid = Callable[[LinearSDE, int], Tensor]


def _check_positive(name: str, value: float, most: float = math.inf) -> None:
    expected = "positive numbers" if most == math.inf else f"positive numbers up to {most:g}"
    require(0 < check_number(name, value) <= most, f"{name}={value}; expected {expected}")


@dataclass(frozen=True)
class EqualSteps(ABC):
    """Equal steps in a variable of the time. A subclass states the variable and its inverse.

    rho_min is the noise-to-signal ratio at which the grid ends, unless the process ends earlier.
    """

    rho_min: float = field(default=0.002, kw_only=True)

    def __post_init__(self) -> None:
        for each in fields(self):
            _check_positive(each.name, getattr(self, each.name))

    @abstractmethod
    def variable(self, sde: LinearSDE, t: Tensor) -> Tensor:
        """The variable at times t, of their shape."""

    @abstractmethod
    def time(self, sde: LinearSDE, q: Tensor) -> Tensor:
        """The times at which the variable is q."""

    def ends(self, sde: LinearSDE) -> Tensor:
        """The first and the last time (2,)."""
        ends = torch.tensor([sde.start, sde.t_min], dtype=torch.float64)
        high, low = sde.rho(ends).tolist()
        expected = f"expected on {type(sde).__name__} positive numbers below {high:.6g}, its rho where sampling begins"
        require(self.rho_min < high, f"rho_min={self.rho_min}; {expected}")
        if low < self.rho_min:
            ends[1] = sde.time(-torch.tensor(self.rho_min, dtype=torch.float64).log()).clamp(sde.t_min, sde.T)
        return ends

    def __call__(self, sde: LinearSDE, steps: int) -> Tensor:
        require(steps >= 1, f"steps={steps}; expected a positive integer")
        ends = self.ends(sde)
        first, last = self.variable(sde, ends).tolist()
        inside = self.time(sde, torch.linspace(first, last, steps, dtype=torch.float64)[1:-1])
        # The ends are kept to the bit: a rounding would leave the process.
        return torch.cat([ends[:1], inside.clamp(ends[1], ends[0]), ends[1:]])[:steps]


@dataclass(frozen=True)
class karras(EqualSteps):
    """Uniform in rho^(1/power), rho the noise-to-signal ratio (Karras et al. 2022, eq. 5)."""

    power: float = 7.0

    def variable(self, sde: LinearSDE, t: Tensor) -> Tensor:
        return sde.rho(t) ** (1 / self.power)

    def time(self, sde: LinearSDE, q: Tensor) -> Tensor:
        return sde.time(-self.power * q.log())


@dataclass(frozen=True)
class uniform_lambda(EqualSteps):
    """Uniform in lam, half the logarithm of the signal-to-noise ratio (Lu et al. 2022)."""

    def variable(self, sde: LinearSDE, t: Tensor) -> Tensor:
        return sde.lam(t)

    def time(self, sde: LinearSDE, q: Tensor) -> Tensor:
        return sde.time(q)


@dataclass(frozen=True)
class uniform_asinh(EqualSteps):
    """Uniform in asinh(scale / rho): in 1 / rho, over which x0 moves the state, while rho is above `scale`, where the
    net has little to say; in lam below."""

    scale: float = 10.0

    def variable(self, sde: LinearSDE, t: Tensor) -> Tensor:
        return (self.scale * sde.lam(t).exp()).asinh()

    def time(self, sde: LinearSDE, q: Tensor) -> Tensor:
        return sde.time((q.sinh() / self.scale).log())


@dataclass(frozen=True)
class approaching:
    """uniform_asinh to a rho that falls with the steps, as 0.38 / steps between rho_max and rho_min.

    Short grids spend no step on the last details. For solvers that extrapolate to the data. The scale may grow with
    the steps, as scale + growth steps^2: see suited().
    """

    scale: float = 5.0
    growth: float = 0.0
    rho_max: float = 0.038
    rho_min: float = 0.002

    def suited(self, predicts: str) -> "approaching":
        """The same for a net that predicts this: nets of the noise or the score get a scale that grows.

        Their data prediction errs in proportion to rho, so that their flow bends at high noise, where that of others
        is straight; the more steps there are, the more that bend weighs against the rest.
        """
        return replace(self, growth=1.6) if predicts in ("noise", "score") else self

    def __post_init__(self) -> None:
        _check_positive("scale", self.scale)
        check_number("growth", self.growth, least=0)
        _check_positive("rho_max", self.rho_max)
        _check_positive("rho_min", self.rho_min, self.rho_max)

    def __call__(self, sde: LinearSDE, steps: int) -> Tensor:
        rho_min = min(self.rho_max, max(self.rho_min, 0.38 / max(steps, 1)))
        return uniform_asinh(self.scale + self.growth * steps**2, rho_min=rho_min)(sde, steps)


@dataclass(frozen=True)
class two_ends:
    """The first and the last time alone, for solvers that find their own steps."""

    def __call__(self, sde: LinearSDE, steps: int) -> Tensor:
        """The times (2,), whatever `steps` says."""
        return karras()(sde, 2)


@dataclass(frozen=True)
class uniform_angle(EqualSteps):
    """Uniform in atan(rho), the angle over which v-prediction integrates (Salimans & Ho 2022)."""

    def variable(self, sde: LinearSDE, t: Tensor) -> Tensor:
        return sde.rho(t).atan()

    def time(self, sde: LinearSDE, q: Tensor) -> Tensor:
        return sde.time(-q.tan().log())


@dataclass(frozen=True)
class polynomial_t(EqualSteps):
    """Uniform in t^(1/power) (Zhang & Chen 2023); 2 is the quadratic grid of Song, Meng & Ermon 2021."""

    power: float = 2.0

    def variable(self, sde: LinearSDE, t: Tensor) -> Tensor:
        return t ** (1 / self.power)

    def time(self, sde: LinearSDE, q: Tensor) -> Tensor:
        return q**self.power


@dataclass(frozen=True)
class uniform_t(polynomial_t):
    """Uniform in t."""

    power: float = field(default=1.0, init=False, repr=False)


@dataclass(frozen=True)
class beta_quantile(EqualSteps):
    """Times at equally spaced quantiles of the Beta(a, b) law on the range of t (Lee et al. 2024).

    Below 1, a crowds the times at the data and b at the noise.
    """

    a: float = 0.6
    b: float = 0.6

    def __post_init__(self) -> None:
        _check_positive("a", self.a, 100)
        _check_positive("b", self.b, 100)
        super().__post_init__()

    def variable(self, sde: LinearSDE, t: Tensor) -> Tensor:
        # Equal steps in probability, which is 1 at the start and 0 at the other end.
        return (t == sde.start).to(t)

    def time(self, sde: LinearSDE, q: Tensor) -> Tensor:
        first, last = self.ends(sde).tolist()
        return last + (first - last) * _quantiles(q, self.a, self.b)


def _quantiles(p: Tensor, a: float, b: float) -> Tensor:
    """Quantiles of Beta(a, b) at probabilities p inside (0, 1)."""
    # The series converges fast in the lower half, and in the mirrored upper one.
    below = p <= _cdf(torch.full_like(p, 0.5), a, b)
    return torch.where(below, _invert(p, a, b), 1 - _invert(1 - p, b, a))


def _invert(p: Tensor, a: float, b: float) -> Tensor:
    low, high = torch.zeros_like(p), torch.full_like(p, 0.5)
    for _ in range(60):
        middle = (low + high) / 2
        above = _cdf(middle, a, b) > p
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return low


def _cdf(x: Tensor, a: float, b: float) -> Tensor:
    """The regularised incomplete beta function for x <= 1/2, by its series (Abramowitz & Stegun 26.5.4)."""
    k = torch.arange(500, dtype=x.dtype)
    series = 1 + ((a + b + k) / (a + 1 + k) * x[:, None]).cumprod(1).sum(1)
    return x**a * (1 - x) ** b * series * math.exp(math.lgamma(a + b) - math.lgamma(a + 1) - math.lgamma(b))
