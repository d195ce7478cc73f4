"""Posterior denoisers: E[x0 | x_t, y] of a prior's denoiser and a measurement y = A(x0) + noise."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sdescore.common.checks import choose, described
from sdescore.common.linear_combinations import Coefficient, Summand, combine, nonzero
from sdescore.denoisers.conversions import change
from sdescore.denoisers.denoiser import Denoiser
from sdescore.denoisers.guidance import Wrapper
from sdescore.denoisers.posterior_methods import METHODS, Measured, Method
from sdescore.operators import Nonlinear, Operator, as_operator

__all__ = ["Posterior", "check_measurement", "check_noise_std", "posterior"]


def check_measurement(y: Tensor, operator: Operator | Nonlinear, x: Tensor) -> None:
    """Raise ValueError unless y is the shape of what the operator measures of x (batch, *shape)."""
    expected = operator.A(x).shape
    if y.shape != expected:
        raise ValueError(f"measurement is {described(y)}; the operator measures {tuple(expected)}")


def check_noise_std(noise_std: float) -> None:
    """Raise ValueError for a standard deviation that is none."""
    if not 0 <= noise_std < math.inf:
        raise ValueError(f"noise_std={noise_std}; expected numbers from 0 on")


class Posterior(Wrapper):
    """See posterior()."""

    def __init__(
        self,
        denoiser: Denoiser,
        operator: Operator | Nonlinear,
        noise_std: float,
        method: Method,
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
            check_measurement(y, self.operator, data.detach())
            measured = Measured(
                at, data, y.to(data), self.operator, self.noise_std, rho, alpha, self.data_std, self.iterations, wanted
            )
            score = self.method(measured)
        if not wanted:
            data, score = data.detach(), score.detach()
        return nonzero([(x, of_x), (data, of_data), (score, of_score)])


def posterior(
    denoiser: Denoiser,
    operator: Operator | Nonlinear | Callable[[Tensor], Tensor],
    noise_std: float,
    method: str | Method = "mmps",
    *,
    scale: float = 1.0,
    iterations: int = 10,
) -> Posterior:
    """The denoiser of x0 given x_t and a measurement y = A(x0) + noise_std z, for any solver, grid and likelihood.

    The measurement is a condition: sample(sde, posterior(net, Mask(m), 0.05), shape, condition={"measurement": y}).

    Args:
        denoiser: Of the prior. Methods but "ddnm" differentiate it by x.
        operator: On batches: of sdescore.operators, with A, A_adjoint and A_dagger as deepinv's physics, or a function.
        noise_std: Standard deviation of the measurement's noise; "dps" and "lgd" divide by it.
        method: "dps", "lgd" (or an LGD of more draws), "pigdm", "tmpd", "mmps", "ddnm" (which takes y as exact), or a
            function of a Measured. For Gaussian priors and linear operators "mmps" is exact with as many iterations as
            there are measurements, "tmpd" where elements are independent, "pigdm" where they have one variance.
        scale: Factor of the likelihood score, 1 in theory.
        iterations: Most products for a linear system; each costs "mmps" one with the Jacobian.

    Raises TypeError or ValueError for other arguments; when called, for a measurement that is missing or does not fit.
    """
    known = as_operator(operator)
    check_noise_std(noise_std)
    if not isinstance(iterations, int) or iterations < 1:
        raise ValueError(f"iterations={iterations!r}; expected a positive integer")
    return Posterior(denoiser, known, noise_std, choose(METHODS, method, "method"), scale, iterations)
