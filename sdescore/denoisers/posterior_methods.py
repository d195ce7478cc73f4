"""Estimates of the likelihood score S = grad log p(y | x_t) of a measurement y = A(x0) + noise.

x0 and eps given y follow as x0 + sigma^2 S / alpha and eps - sigma S. To add one: a function of a Measured, and a line
in METHODS. A function A is replaced by its derivative at x0 where a method needs its adjoint.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sdescore.common.checks import check_count
from sdescore.common.conjugate_gradients import conjugate_gradients
from sdescore.common.linear_combinations import Coefficient, expand
from sdescore.common.minimal_residuals import minimal_residuals
from sdescore.common.random import generator
from sdescore.operators import Derivative, Nonlinear, Operator, linearised

__all__ = ["LGD", "METHODS", "Measured", "Method"]

Solve = Callable[[Callable[[Tensor], Tensor], Tensor, int], Tensor]


@dataclass(frozen=True)
class Measured:
    """What a method knows at (x, t): the data prediction and its derivative, the measurement, and the noise level."""

    x: Tensor
    data: Tensor
    y: Tensor
    operator: Operator | Nonlinear
    noise_std: float
    rho: Coefficient  # sigma / alpha, () or (batch,)
    alpha: Coefficient
    data_std: float
    iterations: int
    graph: bool  # whether the caller is to differentiate the result

    @property
    def fixed(self) -> Tensor:
        """x0 without the graph that the result does not need."""
        return self.data if self.graph else self.data.detach()

    @property
    def residual(self) -> Tensor:
        """y - A(x0)."""
        return self.y - self.operator.A(self.fixed)

    @property
    def linear(self) -> Operator | Derivative:
        """A, or its derivative at x0."""
        return linearised(self.operator, self.fixed)

    @property
    def variance(self) -> Tensor:
        """Of x0 given x_t for data N(m, data_std^2 I), () or (batch,)."""
        square = torch.as_tensor(self.rho) ** 2
        return square * self.data_std**2 / (square + self.data_std**2)

    @property
    def tweedie(self) -> Any:
        """sigma^2 / alpha: times the Jacobian, it is the covariance of x0 given x_t."""
        return expand(torch.as_tensor(self.rho) ** 2 * self.alpha, self.x)

    @property
    def precision(self) -> float:
        """1 / noise_std^2. Raises ValueError for exact measurements."""
        if self.noise_std == 0:
            raise ValueError("noise_std=0; expected a positive number for a method that divides by it")
        return self.noise_std**-2

    def back(self, v: Tensor) -> Tensor:
        """J^T v, with the Jacobian J of the data prediction by x_t: symmetric for an exact one."""
        return self.gradient(self.data, v)

    def gradient(self, value: Tensor, v: Tensor | None = None) -> Tensor:
        """The gradient of <v, value> by x_t."""
        (found,) = torch.autograd.grad(value, self.x, v, retain_graph=True, create_graph=self.graph)
        return found

    def pull(self, covariance: Callable[[Tensor], Tensor], solve: Solve = conjugate_gradients) -> Tensor:
        """J^T A^T (noise_std^2 + A C A^T)^-1 (y - A(x0)) for the covariance C of x0 given x_t.

        The inverse is by at most `iterations` products for each sample.
        """
        linear = self.linear

        def apply(u: Tensor) -> Tensor:
            return self.noise_std**2 * u + linear.A(covariance(linear.A_adjoint(u)))

        return self.back(linear.A_adjoint(solve(apply, self.residual, self.iterations)))


Method = Callable[[Measured], Tensor]


def dps(at: Measured) -> Tensor:
    """C = 0, as if x0 were certain (Chung et al. 2023, theorem 1): far too strong where noise_std is small.

    Algorithm 1 of the paper takes steps of another length: sdescore.solvers.DPS. https://arxiv.org/abs/2209.14687
    """
    return at.back(at.linear.A_adjoint(at.residual) * at.precision)


@dataclass(frozen=True)
class LGD:
    """The gradient of log mean_k p(y | x0 + r z_k), which for many draws is "pigdm" (Song et al. 2023b, LGD-MC).

    The z_k are the same at every call, so that this is a function of (x, t). The more is measured, the more draws it
    takes. https://proceedings.mlr.press/v202/song23k.html
    """

    draws: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("draws", self.draws)

    def __call__(self, at: Measured) -> Tensor:
        own = generator("lgd", self.seed)
        z = torch.randn(self.draws, *at.x.shape[1:], generator=own).to(at.data)
        near = at.data.unsqueeze(1) + expand(at.variance.sqrt(), at.data.unsqueeze(1)) * z
        gap = at.y.repeat_interleave(self.draws, 0) - at.operator.A(near.flatten(0, 1))
        loss = gap.flatten(1).square().sum(1).reshape(-1, self.draws) * (at.precision / 2)
        return at.gradient((-loss).logsumexp(1).sum())


def pigdm(at: Measured) -> Tensor:
    """C = r^2 I, that of data N(m, data_std^2 I): r^2 = s^2 rho^2 / (s^2 + rho^2) (Song et al. 2023a, eq. 7)."""
    return at.pull(lambda v: expand(at.variance, v) * v)


def tmpd(at: Measured) -> Tensor:
    """C = the row sums of Tweedie's covariance sigma^2 / alpha J, as a diagonal (Boys et al. 2024, eq. 15)."""
    rows = (at.back(torch.ones_like(at.data)) * at.tweedie).clamp(min=0)
    return at.pull(lambda v: rows * v)


def mmps(at: Measured) -> Tensor:
    """C = Tweedie's covariance sigma^2 / alpha J, by a product with J an iteration (Rozet et al. 2024, eq. 20).

    A net's J is neither symmetric nor positive, so that residuals are minimised: conjugate gradients may diverge.
    """
    return at.pull(lambda v: at.tweedie * at.back(v), minimal_residuals)


def ddnm(at: Measured) -> Tensor:
    """x0 + A_dagger (y - A x0): the measured part replaced, without a derivative (Wang et al. 2023, eq. 15).

    For an A that is not linear, x0 + A_dagger(y) - A_dagger(A(x0)).
    """
    dagger = at.operator.A_dagger
    correction = dagger(at.y) - dagger(at.operator.A(at.data))
    return correction / at.tweedie


METHODS: dict[str, Method] = {
    "dps": dps,
    "lgd": LGD(),
    "pigdm": pigdm,
    "tmpd": tmpd,
    "mmps": mmps,
    "ddnm": ddnm,
}
