"""Twisted sequential Monte Carlo: transition kernels that look ahead at the measurement, and their correction."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.common.conjugate_gradients import conjugate_gradients
from sdescore.common.linear_combinations import combine
from sdescore.denoisers.posterior_methods import Measured
from sdescore.operators import Nonlinear, Operator
from sdescore.sampling.noise import Noise
from sdescore.sampling.particles import Cloud, in_batches
from sdescore.sampling.smc_kernels import Kernels

__all__ = ["TWISTS", "Twist", "Twisted", "gaussian_twist", "moment_twist"]

ITERATIONS = 50  # of conjugate gradients, which cost no net call here

# From a Measured to log psi (rows,), up to what does not depend on x, and a score (rows, *shape) that guides.
Twist = Callable[[Measured], tuple[Tensor, Tensor]]


def gaussian_twist(at: Measured) -> tuple[Tensor, Tensor]:
    """psi = N(y; A x0, noise_std^2 + r^2 A A^T), with the r of data of one variance (Song et al. 2023a, eq. 7)."""
    linear, variance, residual = at.linear, float(at.variance), at.residual

    def covariance(u: Tensor) -> Tensor:
        return at.noise_std**2 * u + variance * linear.A(linear.A_adjoint(u))

    solution = conjugate_gradients(covariance, residual, at.iterations)
    return -(residual * solution).flatten(1).sum(1) / 2, at.back(linear.A_adjoint(solution))


def moment_twist(at: Measured) -> tuple[Tensor, Tensor]:
    """psi = N(y; A x0, noise_std^2 + A C A^T), with Tweedie's covariance C = sigma^2 / alpha J.

    Boys et al. 2024. A product with the Jacobian for each measurement; the score leaves out that of C.
    """
    linear, residual = at.linear, at.residual
    flat = residual.flatten(1)
    count = flat.shape[1]
    units = torch.eye(count).to(flat).reshape(count, 1, *residual.shape[1:]).expand(-1, *residual.shape)
    rows = [at.back(linear.A_adjoint(each)).detach() for each in units]  # of A J
    product = float(at.tweedie) * torch.stack([linear.A(row).flatten(1) for row in rows], 1)
    root = _root((product + product.mT) / 2, at.noise_std)
    solution = torch.cholesky_solve(flat.unsqueeze(2), root).squeeze(2)
    log_size = root.diagonal(dim1=1, dim2=2).log().sum(1)
    return -(flat * solution).sum(1) / 2 - log_size, combine(list(zip(rows, solution.T, strict=True)))


def _root(covariance: Tensor, noise_std: float) -> Tensor:
    """The Cholesky root of noise_std^2 + covariance (rows, count, count), negative values of which count as 0."""
    noise = noise_std**2 * torch.eye(covariance.shape[1]).to(covariance)
    root, failed = torch.linalg.cholesky_ex(covariance + noise)
    wrong = failed > 0
    if bool(wrong.any()):  # of a net
        values, axes = torch.linalg.eigh(covariance[wrong])
        root[wrong] = torch.linalg.cholesky((axes * values.clamp(min=0).unsqueeze(1)) @ axes.mT + noise)
    return root


TWISTS: dict[str, Twist] = {"pigdm": gaussian_twist, "mmps": moment_twist}


@dataclass(frozen=True)
class Twisted:
    """Twisted sequential Monte Carlo (Wu et al. 2023, algorithm 1), a Weighting.

    The proposal is the kernel with the twist's score; weights are psi_s kernel / (psi_t proposal), and in the end
    p(y | x0) / psi.
    """

    kernels: Kernels
    first: Tensor
    operator: Operator | Nonlinear
    y: Tensor  # (*measured,)
    noise_std: float
    twist: Twist

    @property
    def times(self) -> Tensor:
        return self.kernels.times

    def look(self, i: int, x: Tensor) -> Cloud:
        """x, data, score and log psi at times[i]."""
        reverse, t = self.kernels.reverse, self.times[i]
        alpha, rho, std = float(reverse.sde.alpha(t)), float(reverse.sde.rho(t)), reverse.denoiser.data_std

        def each(x: Tensor) -> Cloud:
            with torch.enable_grad():
                at = x.detach().requires_grad_()
                data = self.kernels.data(i, at)
                y = self.y.to(data).expand(len(x), *self.y.shape)
                measured = Measured(at, data, y, self.operator, self.noise_std, rho, alpha, std, ITERATIONS, False)
                log_twist, score = self.twist(measured)
            return x, data.detach(), score.detach(), log_twist.detach()

        return in_batches(each, x, self.kernels.batch_size)

    def start(self, noise: Noise) -> tuple[Cloud, Tensor]:
        cloud = self.look(0, self.first)
        return cloud, cloud[3]

    def move(self, i: int, cloud: Cloud, noise: Noise) -> tuple[Cloud, Tensor]:
        x, data, score, log_twist = cloud
        std, shift = self.kernels.std[i], self.kernels.of_score[i] * score
        drawn = noise(x, self.times[i], self.times[i + 1], std)
        after = self.look(i + 1, self.kernels.mean(i, x, data) + shift + drawn)
        ratio = -(shift * (shift / 2 + drawn)).flatten(1).double().sum(1) / std**2
        return after, after[3] - log_twist + ratio

    def finish(self, cloud: Cloud) -> tuple[Tensor, Tensor]:
        _, data, _, log_twist = cloud
        gap = ((self.y.to(data) - self.operator.A(data)) / self.noise_std).flatten(1).double()
        size = gap.shape[1] * math.log(2 * math.pi * self.noise_std**2) / 2
        return data, -gap.square().sum(1) / 2 - size - log_twist
