"""Gaussian mixtures: exact scores, densities and samples under every linear process."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sdescore.common.checks import (
    as_tensor,
    check_count,
    check_dtype,
    check_finite,
    check_number,
    check_seed,
    check_tensor,
)
from sdescore.common.linear_combinations import Coefficient, Summand, expand
from sdescore.common.random import generator
from sdescore.denoisers.denoiser import Denoiser
from sdescore.operators import Operator, matrix_of
from sdescore.processes.base import LinearSDE, check_linear

__all__ = ["GaussianMixture"]


class GaussianMixture:
    """p(x) = sum_k weight_k N(x; mean_k, C_k), an oracle for tests, benchmarks and lessons.

    C_k is diag(std_k^2), or with axes V_k, whose columns are orthonormal, V_k diag(std_k^2) V_k^T.

    Args:
        means: (components, *shape).
        stds: Standard deviations: a number, (components,) or (components, *shape).
        weights: (components,), positive; normalised. Equal by default.
        dtype: Of everything it returns; by default that of `means`.
        labels: Class of each component, (components,) integers from 0; by default there are none.
        axes: Principal axes of each component, (components, size, size) with size elements in a sample: stds are then
            those along the axes. By default the elements are independent.
    """

    def __init__(
        self,
        means: Tensor | Sequence[object],
        stds: Tensor | Sequence[object] | float = 1.0,
        weights: Tensor | Sequence[float] | None = None,
        dtype: torch.dtype | None = None,
        labels: Tensor | Sequence[int] | None = None,
        axes: Tensor | None = None,
    ) -> None:
        if dtype is not None:
            check_dtype("dtype", dtype)
        self.means = as_tensor("means", means, dtype)
        if not self.means.is_floating_point():
            self.means = self.means.to(torch.get_default_dtype())
        if self.means.ndim < 2 or self.means.numel() == 0:
            raise ValueError(
                f"means has shape {tuple(self.means.shape)}; expected (components, *shape) with at least one component"
            )
        check_finite("means", self.means, "component")
        count = len(self.means)
        stds = as_tensor("stds", stds, self.means.dtype, self.means.device)
        if stds.ndim == 1 and len(stds) == count:
            stds = stds.reshape(-1, *(1,) * (self.means.ndim - 1))
        fits = stds.ndim == 0 or all(a in (1, b) for a, b in zip(stds.shape, self.means.shape, strict=False))
        if stds.ndim not in (0, self.means.ndim) or not fits or not bool(((stds > 0) & stds.isfinite()).all()):
            raise ValueError("stds must be positive: a number, (components,) or (components, *shape)")
        self.stds = stds.expand(self.means.shape)
        given = as_tensor("weights", [1.0] * count if weights is None else weights, self.means.dtype)
        if given.shape != (count,) or not bool(((given > 0) & given.isfinite()).all()):
            raise ValueError(f"weights has shape {tuple(given.shape)}; expected {count} positive numbers")
        given = given.to(self.means.device)
        self.weights = given / given.sum()
        self.labels = None if labels is None else as_tensor("labels", labels, device=self.means.device)
        if self.labels is not None and (self.labels.shape != (count,) or self.labels.is_floating_point()):
            raise ValueError(f"labels has shape {tuple(self.labels.shape)}; expected {count} integers")
        self.axes = None if axes is None else axes.to(self.means)
        size = self.means[0].numel()
        if self.axes is not None and self.axes.shape != (count, size, size):
            raise ValueError(f"axes has shape {tuple(self.axes.shape)}; expected {(count, size, size)}")

    @staticmethod
    def of_covariances(
        means: Tensor, covariances: Tensor, weights: Tensor | Sequence[float] | None = None
    ) -> "GaussianMixture":
        """The mixture of means (components, *shape) and covariances (components, size, size), positive definite."""
        variances, axes = torch.linalg.eigh(covariances.to(means))
        if not bool((variances > 0).all()):
            raise ValueError("covariances are not positive definite")
        return GaussianMixture(means, variances.sqrt().reshape(means.shape), weights, axes=axes)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(self.means.shape[1:])

    def to(self, *args: object) -> "GaussianMixture":
        """The same mixture with another device or dtype; arguments as for Tensor.to."""
        means, stds, weights = (each.to(*args) for each in (self.means, self.stds, self.weights))  # type: ignore
        return GaussianMixture(means, stds, weights, labels=self.labels, axes=self.axes)

    def given(self, label: int) -> "GaussianMixture":
        """The mixture of one class. Raises ValueError for a label that no component has."""
        own = torch.zeros_like(self.weights, dtype=torch.bool) if self.labels is None else self.labels == label
        if not bool(own.any()):
            raise ValueError(f"label={label}; no component has it")
        axes = None if self.axes is None else self.axes[own]
        return GaussianMixture(self.means[own], self.stds[own], self.weights[own], axes=axes)

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """n independent exact samples, (n, *shape)."""
        check_count("n", n)
        check_seed(seed)
        own = generator("mixture", seed, device=self.means.device)
        component = torch.multinomial(self.weights, n, replacement=True, generator=own)
        z = torch.randn(n, *self.shape, generator=own, device=self.means.device, dtype=self.means.dtype)
        axes = None if self.axes is None else self.axes[component]
        return self.means[component] + _rotate(axes, self.stds[component] * z, lead=1)

    def log_joint(self, x: Tensor) -> Tensor:
        """log(weight_k N(x; ...)) of each component, (batch, components). Raises ValueError for another shape of x."""
        if tuple(check_tensor("x", x, "(batch, *shape)").shape[1:]) != self.shape:
            raise ValueError(f"x has shape {tuple(x.shape)}; expected (batch, {', '.join(map(str, self.shape))})")
        z = (_rotate(self.axes, x.unsqueeze(1) - self.means, back=True) / self.stds).flatten(2)
        size = (self.stds.log() + math.log(2 * math.pi) / 2).flatten(1).sum(1)
        return self.weights.log() - size - z.square().sum(2) / 2

    def log_prob(self, x: Tensor) -> Tensor:
        """Natural-log density (batch,) at x (batch, *shape)."""
        return self.log_joint(check_tensor("x", x, "(batch, *shape)").to(self.means)).logsumexp(1)

    def score(self, x: Tensor) -> Tensor:
        """The gradient of log_prob at x, of the shape of x."""
        own = self.log_joint(x).softmax(1).reshape(len(x), -1, *(1,) * (x.ndim - 1))
        pull = _rotate(self.axes, self.means - x.unsqueeze(1), back=True) / self.stds.square()
        return (own * _rotate(self.axes, pull)).sum(1)

    def at(self, sde: LinearSDE, t: float | Tensor) -> "GaussianMixture":
        """The distribution of x_t for x0 from this mixture: again a mixture. Raises ValueError outside [t_min, T]."""
        check_linear(sde)
        time = as_tensor("t", t, torch.float64)
        if time.ndim:
            raise ValueError(f"t has shape {tuple(time.shape)}; expected one time for the whole distribution")
        sde.check_times(time)
        alpha, sigma = float(sde.alpha(time)), float(sde.sigma(time))
        stds = (alpha**2 * self.stds**2 + sigma**2).sqrt()
        return GaussianMixture(alpha * self.means, stds, self.weights, labels=self.labels, axes=self.axes)

    def posterior(self, operator: Operator, y: Tensor, noise_std: float) -> "GaussianMixture":
        """The law of x given one measurement y = A x + noise_std z: again a mixture, with full covariances.

        Its exact denoiser is .denoiser(sde); the exact likelihood score grad log p(y | x_t) is the difference of the
        scores of .at(sde, t) of the posterior and of this prior.

        Args:
            operator: A linear measurement of batches of samples.
            y: (*measured,), without a batch.
            noise_std: Standard deviation of the noise, positive.

        Raises ValueError for a noise_std that is not positive, and for a y of another shape.
        """
        check_number("noise_std", noise_std, above=0)
        measured = operator.A(self.means)
        if y.shape != measured.shape[1:]:
            raise ValueError(f"y has shape {tuple(y.shape)}; the operator measures {tuple(measured.shape[1:])}")
        matrix = matrix_of(operator, self.shape, self.means.dtype).to(self.means)
        gap = (y.to(self.means) - measured).flatten(1)
        covariances = self._covariances()
        cross = covariances @ matrix.T
        noise = noise_std**2 * torch.eye(len(matrix)).to(matrix)
        root = torch.linalg.cholesky(matrix @ cross + noise)
        gain = torch.cholesky_solve(cross.mT, root).mT
        means = self.means + (gain @ gap.unsqueeze(2)).reshape(self.means.shape)
        # Joseph's form of the covariance stays positive definite.
        left = torch.eye(matrix.shape[1]).to(matrix) - gain @ matrix
        after = left @ covariances @ left.mT + noise_std**2 * gain @ gain.mT
        z = torch.linalg.solve_triangular(root, gap.unsqueeze(2), upper=False).squeeze(2)
        evidence = -z.square().sum(1) / 2 - root.diagonal(dim1=1, dim2=2).log().sum(1)
        weights = (self.weights.log() + evidence).softmax(0)
        kept = weights > 0  # what underflows has no part
        return GaussianMixture.of_covariances(means[kept], ((after + after.mT) / 2)[kept], weights[kept])

    @property
    def variances(self) -> Tensor:
        """Those of each component's elements, (components, *shape)."""
        squares = self.stds.square()
        return squares if self.axes is None else _rotate(self.axes.square(), squares, lead=1)

    def _covariances(self) -> Tensor:
        """(components, size, size)."""
        stds = self.stds.flatten(1)
        if self.axes is None:
            return torch.diag_embed(stds.square())
        return (self.axes * stds.square().unsqueeze(1)) @ self.axes.mT

    def denoiser(self, sde: LinearSDE) -> Denoiser:
        """The exact denoiser under a process; every row of a batch is computed by itself.

        Given condition={"label": (batch,)}, it is that of each sample's class.
        """
        return MixtureDenoiser(self, sde)


class MixtureDenoiser(Denoiser):
    """E[x0 | x_t] and all the rest of a Gaussian mixture in closed form."""

    def __init__(self, mixture: GaussianMixture, sde: LinearSDE) -> None:
        mean = (mixture.weights.reshape(-1, *(1,) * len(mixture.shape)) * mixture.means).sum(0)
        spread = mixture.variances + (mixture.means - mean).square()
        variance = (mixture.weights.reshape(-1, *(1,) * len(mixture.shape)) * spread).sum(0).mean()
        super().__init__(nn.Identity(), sde, "data", float(variance.sqrt()), shape=mixture.shape)
        self.means: Tensor
        self.stds: Tensor
        self.log_weights: Tensor
        self.labels: Tensor | None
        self.axes: Tensor | None
        self.register_buffer("means", mixture.means)
        self.register_buffer("stds", mixture.stds)
        self.register_buffer("log_weights", mixture.weights.log())
        self.register_buffer("labels", mixture.labels)
        self.register_buffer("axes", mixture.axes)

    def coefficients(self, t: Tensor, p: Coefficient, q: Coefficient) -> tuple[Any, ...]:
        return self.sde.alpha(t), self.sde.sigma(t), p, q

    def summands(self, coefficients: tuple[Any, ...], x: Tensor, **condition: Tensor) -> list[Summand]:
        at = x.unsqueeze(1)
        alpha, sigma, p, q = (expand(c, at) for c in coefficients)
        variance = alpha**2 * self.stds.square() + sigma**2
        gap = _rotate(self.axes, at - alpha * self.means, back=True)
        joint = self.log_weights - (gap.square() / variance + variance.log()).flatten(2).sum(2) / 2
        if self.labels is not None and "label" in condition:
            joint = joint.masked_fill(self.labels != condition["label"].to(x.device)[:, None], -torch.inf)
        own = joint.softmax(1).reshape(*joint.shape, *(1,) * (x.ndim - 1))
        of_gap = (p * alpha * self.stds.square() + q * sigma) / variance
        return [((own * (p * self.means + _rotate(self.axes, of_gap * gap))).sum(1).to(x.dtype), 1.0)]


def _rotate(axes: Tensor | None, z: Tensor, lead: int = 2, back: bool = False) -> Tensor:
    """From coordinates along the axes of each component to the elements, or back; `lead` axes of z are no sample's."""
    if axes is None:
        return z
    matrix = axes.mT if back else axes
    return (matrix @ z.flatten(lead).unsqueeze(-1)).reshape(z.shape)
