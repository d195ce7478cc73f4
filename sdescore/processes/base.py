"""Stochastic differential equations: the base class for any drift, and that of linear ones with a Gaussian kernel."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from sdescore.common.checks import check_tensor, check_times_of
from sdescore.common.linear_combinations import expand

__all__ = ["SDE", "LinearSDE", "VariancePreserving", "check_linear"]


class SDE(ABC):
    """A forward process dx = drift(x, t) dt + diffusion(x, t) dw, from data at t = 0 to noise at t = T.

    x is (batch, *shape), t is () or (batch,); diffusion is the diagonal of the noise matrix, broadcastable to x.
    """

    @property
    def T(self) -> float:
        """The time of pure noise."""
        return 1.0

    @property
    def t_min(self) -> float:
        """The earliest time at which the process is used."""
        return 1e-5

    @abstractmethod
    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """Of the shape of x."""

    @abstractmethod
    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        """Broadcastable to x."""

    def diffusion_divergence(self, x: Tensor, t: Tensor) -> Tensor:
        """The divergence of g g^T: the derivative of g_i^2 by x_i for each element i, of the shape of x.

        By autograd, with one backward pass for each element; override it where there is a closed form.
        """
        size = x[0].numel()
        unit = torch.eye(size, dtype=x.dtype, device=x.device).reshape(size, 1, *x.shape[1:]).expand(size, *x.shape)
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            square = self.diffusion(at, t).square().expand_as(at)
            if not square.requires_grad:
                return torch.zeros_like(x)
            (rows,) = torch.autograd.grad(square, at, unit, is_grads_batched=True)
        return (rows * unit).sum(0)

    @abstractmethod
    def prior_sample(
        self,
        shape: tuple[int, ...],
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Draw `shape`, (batch, *sample_shape), from the prior: the approximation of the distribution of x_T."""

    @abstractmethod
    def prior_log_prob(self, x: Tensor) -> Tensor:
        """Natural-log density (batch,) of the prior at x (batch, *shape)."""

    def check_times(self, t: Tensor, name: str = "t") -> None:
        """Raise ValueError, naming the argument, unless every t lies in [t_min, T] up to rounding."""
        if not t.numel():
            raise ValueError(f"{name} has shape {tuple(t.shape)}; expected at least one time")
        low, high = float(t.min()), float(t.max())
        slack = 1e-6 * self.T
        if not (self.t_min * (1 - 1e-6) - 1e-12 <= low and high <= self.T + slack):
            raise ValueError(
                f"{name} spans [{low:g}, {high:g}], but {type(self).__name__} is used on [{self.t_min:g}, {self.T:g}]"
            )


class LinearSDE(SDE):
    """dx = f(t) x dt + g(t) dw, so that x_t = alpha(t) x0 + sigma(t) eps with eps ~ N(0, I).

    A subclass states alpha and sigma. The rest follows by differentiation and bisection, where it does not override
    that by closed forms. Every function maps t of any shape to the same shape and dtype (Song et al. 2021, section 3;
    Kingma et al. 2021, section 3).
    """

    @property
    def start(self) -> float:
        """Where sampling begins by default: T, or earlier where no noise is missing from what T adds."""
        return self.T

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Scale of the data in x_t."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise in x_t."""

    def lam(self, t: Tensor) -> Tensor:
        """log(alpha / sigma), half the log signal-to-noise ratio; strictly decreasing in t."""
        return self.alpha(t).log() - self.sigma(t).log()

    def rho(self, t: Tensor) -> Tensor:
        """Noise-to-signal ratio, sigma / alpha."""
        return torch.exp(-self.lam(t))

    def f(self, t: Tensor) -> Tensor:
        """Drift coefficient, d log(alpha) / dt."""
        return torch.func.jvp(lambda u: self.alpha(u).log(), (t,), (torch.ones_like(t),))[1]

    def g(self, t: Tensor) -> Tensor:
        """Diffusion coefficient, from g^2 = -2 sigma^2 d lam / dt."""
        slope = torch.func.jvp(self.lam, (t,), (torch.ones_like(t),))[1]
        return self.sigma(t) * (-2 * slope).sqrt()

    def alpha_dot(self, t: Tensor) -> Tensor:
        """d alpha / dt."""
        return self.alpha(t) * self.f(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        """d sigma / dt."""
        sigma = self.sigma(t)
        return sigma * self.f(t) + self.g(t) ** 2 / (2 * sigma)

    def time(self, lam: Tensor) -> Tensor:
        """The t with lam(t) = lam, by bisection on [t_min, T]."""
        low, high = torch.full_like(lam, self.t_min), torch.full_like(lam, self.T)
        for _ in range(64):
            middle = (low + high) / 2
            later = self.lam(middle) > lam
            low, high = torch.where(later, middle, low), torch.where(later, high, middle)
        return (low + high) / 2

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return expand(self.f(t), x) * x

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.as_tensor(expand(self.g(t), x))

    def diffusion_divergence(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def perturb(self, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """x_t = alpha x0 + sigma eps (batch, *shape), for x0 and eps (batch, *shape) and t () or (batch,).

        Raises TypeError for data that is not floating point, and ValueError for data that is not finite, times outside
        [t_min, T] and other shapes.
        """
        check_tensor("x0", x0, "(batch, *shape)", ": scale it first, to [-1, 1] for images")
        check_tensor("eps", eps, "(batch, *shape)")
        if not bool(x0.isfinite().all()):
            raise ValueError("x0 is not finite")
        if eps.shape != x0.shape:
            raise ValueError(f"eps has shape {tuple(eps.shape)}, but x0 has {tuple(x0.shape)}")
        check_times_of(t, x0)
        self.check_times(t)
        return expand(self.alpha(t), x0) * x0 + expand(self.sigma(t), x0) * eps

    @property
    def prior_std(self) -> float:
        """Standard deviation of the Gaussian prior: sigma(T)."""
        return float(self.sigma(torch.tensor(self.T, dtype=torch.float64)))

    def prior_sample(
        self,
        shape: tuple[int, ...],
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        return self.prior_std * torch.randn(shape, generator=generator, device=device, dtype=dtype)

    def prior_log_prob(self, x: Tensor) -> Tensor:
        z = x.flatten(1) / self.prior_std
        return -(z.square() / 2 + math.log(self.prior_std) + math.log(2 * math.pi) / 2).sum(1)


class VariancePreserving(LinearSDE):
    """alpha^2 + sigma^2 = 1, so that f determines g and the slope of sigma."""

    def g(self, t: Tensor) -> Tensor:
        return (-2 * self.f(t)).sqrt()

    def sigma_dot(self, t: Tensor) -> Tensor:
        # The general formula, sigma f + g^2 / (2 sigma), cancels near T.
        return -(self.alpha(t) ** 2) * self.f(t) / self.sigma(t)


def check_linear(sde: object) -> None:
    """Raise TypeError for anything but a LinearSDE."""
    if not isinstance(sde, LinearSDE):
        raise TypeError(f"sde is {sde!r}; expected a LinearSDE, such as VPSDE()")
