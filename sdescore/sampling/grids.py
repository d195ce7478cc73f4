"""Time grids: which times a solver visits. A grid is a function (sde, steps) -> decreasing float64 times.

Every grid leads from T to t_min, or to where the noise-to-signal ratio is rho_min if that is earlier. What is left of
the noise there the last call removes, with an error of order rho_min^2.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sdescore.common.checks import require
from sdescore.processes.base import LinearSDE

__all__ = [
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
Map = Callable[[LinearSDE, Tensor], Tensor]


def _ends(sde: LinearSDE, rho_min: float) -> Tensor:
    """The first and the last time (2,) of a grid."""
    ends = torch.tensor([sde.T, sde.t_min], dtype=torch.float64)
    high, low = sde.rho(ends).tolist()
    expected = f"expected on {type(sde).__name__} positive numbers below {high:.6g}, its rho at T"
    require(rho_min < high, f"rho_min={rho_min}; {expected}")
    if low < rho_min:
        ends[1] = sde.time(-torch.tensor(rho_min, dtype=torch.float64).log()).clamp(sde.t_min, sde.T)
    return ends


def _equal_steps(rho_min: float, to: Map, back: Map) -> Grid:
    """Equal steps in a variable of the time: to(sde, t), whose inverse is back."""
    require(0 < rho_min < math.inf, f"rho_min={rho_min}; expected positive numbers")

    def grid(sde: LinearSDE, steps: int) -> Tensor:
        require(steps >= 1, f"steps={steps}; expected positive integers")
        ends = _ends(sde, rho_min)
        first, last = to(sde, ends).tolist()
        inside = back(sde, torch.linspace(first, last, steps, dtype=torch.float64)[1:-1])
        # The ends are kept to the bit: a rounding would leave the process.
        return torch.cat([ends[:1], inside.clamp(ends[1], ends[0]), ends[1:]])[:steps]

    return grid


def _positive(name: str, value: float, most: float = math.inf) -> None:
    valid = "positive numbers" if most == math.inf else f"positive numbers up to {most:g}"
    require(0 < value <= most and value < math.inf, f"{name}={value}; expected {valid}")


def karras(power: float = 7.0, rho_min: float = 0.002) -> Grid:
    """Uniform in rho^(1/power), rho the noise-to-signal ratio (Karras et al. 2022, eq. 5)."""
    _positive("power", power)
    return _equal_steps(rho_min, lambda sde, t: sde.rho(t) ** (1 / power), lambda sde, q: sde.time(-power * q.log()))


def uniform_lambda(rho_min: float = 0.002) -> Grid:
    """Uniform in lam, the logarithm of the signal-to-noise ratio (Lu et al. 2022)."""
    return _equal_steps(rho_min, lambda sde, t: sde.lam(t), lambda sde, q: sde.time(q))


def uniform_asinh(scale: float = 10.0, rho_min: float = 0.002) -> Grid:
    """Uniform in asinh(scale / rho): in 1 / rho, over which x0 moves the state, while rho is above `scale`, where the
    net has little to say; in lam below."""
    _positive("scale", scale)
    return _equal_steps(rho_min, lambda sde, t: to_asinh(sde, t, scale), lambda sde, q: from_asinh(sde, q, scale))


def to_asinh(sde: LinearSDE, t: Tensor, scale: float) -> Tensor:
    """asinh(scale / rho) at times t, of their shape."""
    return (scale * sde.lam(t).exp()).asinh()


def from_asinh(sde: LinearSDE, q: Tensor, scale: float) -> Tensor:
    """The times at which asinh(scale / rho) is q."""
    return sde.time((q.sinh() / scale).log())


def approaching(scale: float = 10.0, rho_max: float = 0.038, rho_min: float = 0.002) -> Grid:
    """uniform_asinh to a rho that falls with the steps, as 0.38 / steps between the two: short grids spend no step on
    the last details. For solvers that extrapolate to the data."""
    uniform_asinh(scale)
    _positive("rho_max", rho_max)
    _positive("rho_min", rho_min, rho_max)
    return lambda sde, steps: uniform_asinh(scale, min(rho_max, max(rho_min, 0.38 / steps)))(sde, steps)


def two_ends(sde: LinearSDE, steps: int) -> Tensor:
    """The first and the last time alone (2,), whatever `steps` says: for solvers that find their own steps."""
    return karras()(sde, 2)


def uniform_angle(rho_min: float = 0.002) -> Grid:
    """Uniform in atan(rho), the angle over which v-prediction integrates (Salimans & Ho 2022)."""
    return _equal_steps(rho_min, lambda sde, t: sde.rho(t).atan(), lambda sde, q: sde.time(-q.tan().log()))


def uniform_t(rho_min: float = 0.002) -> Grid:
    """Uniform in t."""
    return polynomial_t(1.0, rho_min)


def polynomial_t(power: float = 2.0, rho_min: float = 0.002) -> Grid:
    """Uniform in t^(1/power) (Zhang & Chen 2023); 2 is the quadratic grid of Song, Meng & Ermon 2021."""
    _positive("power", power)
    return _equal_steps(rho_min, lambda sde, t: t ** (1 / power), lambda sde, q: q**power)


def beta_quantile(a: float = 0.6, b: float = 0.6, rho_min: float = 0.002) -> Grid:
    """Times at equally spaced quantiles of the Beta(a, b) law on the range of t (Lee et al. 2024).

    Below 1, a crowds the times at the data and b at the noise.
    """
    _positive("a", a, 100)
    _positive("b", b, 100)

    def back(sde: LinearSDE, q: Tensor) -> Tensor:
        first, last = _ends(sde, rho_min).tolist()
        return last + (first - last) * _quantiles(q, a, b)

    # Equal steps in probability, which is 1 at T and 0 at the other end.
    return _equal_steps(rho_min, lambda sde, t: (t == sde.T).to(t), back)


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
