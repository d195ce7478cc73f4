"""Posterior denoisers: E[x0 | x_t, y] of a prior's denoiser and a measurement y = A x0 + noise.

Each method estimates the likelihood score S = grad log p(y | x_t); x0 and eps follow as x0 + sigma^2 S / alpha and
eps - sigma S. To add one: a function of a Measured, and a line in METHODS.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sdescore.common.checks import choose, described
from sdescore.common.linear_combinations import Coefficient, Summand, combine, expand, nonzero
from sdescore.denoisers.conversions import change
from sdescore.denoisers.denoiser import Denoiser
from sdescore.denoisers.guidance import Wrapper
from sdescore.operators import Operator

__all__ = ["METHODS", "Measured", "Posterior", "posterior"]


@dataclass(frozen=True)
class Measured:
    """What a method knows at (x, t): the data prediction and its derivative, the measurement, and the noise level."""

    x: Tensor
    data: Tensor
    y: Tensor
    operator: Operator
    noise_std: float
    rho: Coefficient  # sigma / alpha, () or (batch,)
    alpha: Coefficient
    data_std: float
    iterations: int

    @property
    def residual(self) -> Tensor:
        """y - A x0."""
        return self.y - self.operator.A(self.data)

    def back(self, v: Tensor) -> Tensor:
        """J^T v, with the Jacobian J of the data prediction by x_t: symmetric for an exact one."""
        (product,) = torch.autograd.grad(
            self.data, self.x, v, retain_graph=True, create_graph=self.x.grad_fn is not None
        )
        return product

    def solve(self, covariance: Callable[[Tensor], Tensor]) -> Tensor:
        """u of (noise_std^2 + A C A^T) u = y - A x0 for the covariance C of x0 given x_t, by conjugate gradients.

        Each sample has its own; at most `iterations`.
        """

        def apply(u: Tensor) -> Tensor:
            return self.noise_std**2 * u + self.operator.A(covariance(self.operator.A_adjoint(u)))

        residual = direction = self.residual
        u = torch.zeros_like(residual)
        size = start = _dot(residual, residual)
        tiny = torch.finfo(u.dtype).tiny
        for _ in range(self.iterations):
            image = apply(direction)
            step = size / _dot(direction, image).clamp(min=tiny)
            u = u + expand(step, u) * direction
            residual = residual - expand(step, u) * image
            before, size = size, _dot(residual, residual)
            direction = residual + expand(size / before.clamp(min=tiny), u) * direction
            if bool((size <= 1e-20 * start).all()):
                break
        return u


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


def pigdm(at: Measured) -> Tensor:
    """C = r^2 I, that of data N(m, data_std^2 I): r^2 = s^2 rho^2 / (s^2 + rho^2) (Song et al. 2023, eq. 7)."""
    square = torch.as_tensor(at.rho) ** 2
    r = square * at.data_std**2 / (square + at.data_std**2)
    return at.back(at.operator.A_adjoint(at.solve(lambda v: expand(r, v) * v)))


def tmpd(at: Measured) -> Tensor:
    """C = the row sums of Tweedie's covariance sigma^2 / alpha J, as a diagonal (Boys et al. 2024, eq. 15)."""
    rows = at.back(torch.ones_like(at.data)) * _tweedie(at)
    rows = rows.clamp(min=0)
    return at.back(at.operator.A_adjoint(at.solve(lambda v: rows * v)))


def mmps(at: Measured) -> Tensor:
    """C = Tweedie's covariance sigma^2 / alpha J, by a product with J an iteration (Rozet et al. 2024, eq. 20)."""
    factor = _tweedie(at)
    return at.back(at.operator.A_adjoint(at.solve(lambda v: factor * at.back(v))))


def _tweedie(at: Measured) -> Any:
    return expand(torch.as_tensor(at.rho) ** 2 * at.alpha, at.x)


def ddnm(at: Measured) -> Tensor:
    """x0 + A_dagger (y - A x0): the measured part replaced, without a derivative (Wang et al. 2023, eq. 15)."""
    correction = at.operator.A_dagger(at.residual)
    return correction / expand(torch.as_tensor(at.rho) ** 2 * at.alpha, correction)


METHODS: dict[str, Callable[[Measured], Tensor]] = {
    "pigdm": pigdm,
    "tmpd": tmpd,
    "mmps": mmps,
    "ddnm": ddnm,
}


class Posterior(Wrapper):
    """See posterior()."""

    def __init__(
        self,
        denoiser: Denoiser,
        operator: Operator,
        noise_std: float,
        method: Callable[[Measured], Tensor],
        scale: float,
        iterations: int,
    ) -> None:
        super().__init__(denoiser, scale)
        self.operator = operator
        self.noise_std = noise_std
        self.method = method
        self.iterations = iterations

    def coefficients(self, t: Tensor, p: Coefficient, q: Coefficient) -> tuple[Any, ...]:
        alpha, sigma = self.sde.alpha(t), self.sde.sigma(t)
        of_x, of_data = change((1.0, 0.0), (p, q), alpha, sigma)
        of_score = self.scale * (p * sigma**2 / alpha - q * sigma)
        return self.inner.coefficients(t, 1.0, 0.0), of_x, of_data, of_score, alpha, sigma / alpha

    def summands(self, coefficients: tuple[Any, ...], x: Tensor, **condition: Tensor) -> list[Summand]:
        own, of_x, of_data, of_score, alpha, rho = coefficients
        y = condition.pop("measurement", None)
        if y is None:
            raise ValueError('condition has no "measurement"; expected the y of each sample')
        wanted = x.requires_grad and torch.is_grad_enabled()
        with torch.enable_grad():
            at = x if wanted else x.detach().requires_grad_()
            data = combine(self.inner.summands(own, at, **condition))
            expected = self.operator.A(data.detach()).shape
            if y.shape != expected:
                raise ValueError(f"measurement is {described(y)}; the operator measures {tuple(expected)}")
            measured = Measured(
                at, data, y.to(data), self.operator, self.noise_std, rho, alpha, self.data_std, self.iterations
            )
            score = self.method(measured)
        if not wanted:
            data, score = data.detach(), score.detach()
        return nonzero([(x, of_x), (data, of_data), (score, of_score)])


def posterior(
    denoiser: Denoiser,
    operator: Operator,
    noise_std: float,
    method: str | Callable[[Measured], Tensor] = "mmps",
    *,
    scale: float = 1.0,
    iterations: int = 10,
) -> Posterior:
    """The denoiser of x0 given x_t and a measurement y = A x0 + noise_std z, for any solver, grid and likelihood.

    The measurement is a condition: sample(sde, posterior(net, Mask(m), 0.05), shape, condition={"measurement": y}).

    Args:
        denoiser: Of the prior. Methods but "ddnm" differentiate it by x.
        operator: Linear, on batches: of sdescore.operators, or with A, A_adjoint and A_dagger as deepinv's physics.
        noise_std: Standard deviation of the measurement's noise.
        method: "pigdm", "tmpd", "mmps", "ddnm" (which takes y as exact), or a function of a Measured. For Gaussian
            priors "mmps" is exact with as many iterations as there are measurements, "tmpd" where elements are
            independent, "pigdm" where they have one variance.
        scale: Factor of the likelihood score, 1 in theory.
        iterations: Most conjugate gradients; each costs "mmps" a product with the Jacobian.

    Raises TypeError or ValueError for other arguments; when called, for a measurement that is missing or does not fit.
    """
    for name in ("A", "A_adjoint", "A_dagger"):
        if not callable(getattr(operator, name, None)):
            raise TypeError(f"operator is {operator!r}; expected one with A, A_adjoint and A_dagger")
    if not 0 <= noise_std < math.inf:
        raise ValueError(f"noise_std={noise_std}; expected numbers from 0 on")
    if not isinstance(iterations, int) or iterations < 1:
        raise ValueError(f"iterations={iterations!r}; expected a positive integer")
    return Posterior(denoiser, operator, noise_std, choose(METHODS, method, "method"), scale, iterations)
