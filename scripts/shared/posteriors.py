"""Published problems with exact posteriors, and another library's methods on them.

Of azula only the samplers and guidance are imported, so that `pip install --no-deps azula` is enough.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sdescore import Denoiser, LinearSDE
from sdescore.common.random import generator
from sdescore.denoisers import BareDenoiser
from sdescore.operators import Matrix

__all__ = ["AZULA", "LinearProblem", "mcgdiff_problem", "wide_problem"]


@dataclass(frozen=True)
class LinearProblem:
    """A mixture of Gaussians N(mean, variance I), means (components, size), measured once: y = A x + noise_std z.

    As the covariances are equal, its denoiser and posterior are products of small matrices.
    """

    means: Tensor
    weights: Tensor
    operator: Matrix
    y: Tensor
    noise_std: float
    variance: float = 1.0

    @property
    def data_std(self) -> float:
        mean = self.weights @ self.means
        return float((self.variance + self.weights @ (self.means - mean).square()).mean().sqrt())

    def denoiser(self, sde: LinearSDE) -> Denoiser:
        means, log_weights = self.means, self.weights.log()
        squares, own_variance = means.square().sum(1) / 2, self.variance

        def data(x: Tensor, t: Tensor) -> Tensor:
            alpha, sigma = float(sde.alpha(t[0])), float(sde.sigma(t[0]))
            variance = alpha**2 * own_variance + sigma**2
            own = (log_weights + (alpha * (x @ means.T) - alpha**2 * squares) / variance).softmax(1)
            return alpha * own_variance / variance * x + sigma**2 / variance * (own @ means)

        return BareDenoiser(data, sde, "data", self.data_std)

    @cached_property
    def _root(self) -> Tensor:
        matrix = self.operator.matrix
        noise = self.noise_std**2 * torch.eye(len(matrix)).to(matrix)
        return torch.linalg.cholesky(self.variance * matrix @ matrix.T + noise)

    @cached_property
    def shares(self) -> Tensor:
        """The posterior weights of the components."""
        gaps = (self.y - self.operator.A(self.means)).T
        z = torch.linalg.solve_triangular(self._root, gaps, upper=False)
        return (self.weights.log() - z.square().sum(0) / 2).softmax(0)

    def exact(self, n: int, seed: int) -> Tensor:
        """n draws (n, size) of the posterior: of the prior given the component, moved by Kalman's gain."""
        own, matrix = generator("exact posterior", seed), self.operator.matrix
        mode = torch.multinomial(self.shares, n, replacement=True, generator=own)
        x = torch.randn(n, self.means.shape[1], generator=own, dtype=torch.float64)
        x = self.means[mode] + self.variance**0.5 * x
        z = torch.randn(n, len(self.y), generator=own, dtype=torch.float64)
        gap = self.y - (self.operator.A(x) + self.noise_std * z)
        return x + self.variance * torch.cholesky_solve(gap.T, self._root).T @ matrix

    @property
    def mean(self) -> Tensor:
        """Of the posterior."""
        gaps = (self.y - self.operator.A(self.means)).T
        moved = self.variance * torch.cholesky_solve(gaps, self._root).T @ self.operator.matrix
        return self.shares @ (self.means + moved)


def mcgdiff_problem(size: int, measured: int, number: int, noise_std: float | None = 0.1) -> LinearProblem:
    """A problem of MCGDiff's benchmark (Cardoso et al. 2024, appendix B.1).

    25 unit Gaussians at (8i, 8j) repeated, with squared normal weights; A = U diag(sorted U[0, 1]) V^T. Without a
    noise_std it is the paper's own: uniform up to the largest singular value.
    """
    own = generator("mcgdiff", size, measured, number)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=own, dtype=torch.float64)

    means = torch.tensor([[8.0 * i, 8.0 * j] * (size // 2) for i in range(-2, 3) for j in range(-2, 3)]).double()
    weights = randn(25).square()
    weights = weights / weights.sum()
    left, right = torch.linalg.qr(randn(measured, measured)).Q, torch.linalg.qr(randn(size, measured)).Q
    values = torch.rand(measured, generator=own, dtype=torch.float64).sort(descending=True).values
    share = float(torch.rand(1, generator=own, dtype=torch.float64))
    operator = Matrix(left * values @ right.T)
    std = share * float(values[0]) if noise_std is None else noise_std
    mode = int(torch.multinomial(weights, 1, generator=own))
    y = operator.A(means[mode : mode + 1] + randn(1, size))[0] + std * randn(measured)
    return LinearProblem(means, weights, operator, y, std)


def wide_problem(number: int) -> LinearProblem:
    """256 elements, of which 128 sums are measured with a variance of .1, as in arXiv 2609.37227.

    What its authors published of it leaves open is chosen here: 10 equally likely components N(m, I / 2), m ~ N(0, I),
    and entries of A from N(0, 1 / 128). The mean of 256 exact draws then errs by .55; theirs by .543.
    """
    own = generator("wide posterior", number)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=own, dtype=torch.float64)

    means, operator = randn(10, 256), Matrix(randn(128, 256) / 128**0.5)
    x = means[int(torch.randint(10, (1,), generator=own))] + 0.5**0.5 * randn(256)
    y = operator.A(x[None])[0] + 0.1**0.5 * randn(128)
    return LinearProblem(means, torch.full((10,), 0.1).double(), operator, y, 0.1**0.5, 0.5)


# azula ----------------------------------------------------------------------------------------------------------------


def _wrapped(problem: LinearProblem, sde: LinearSDE, times: Tensor) -> Any:
    """The prior's denoiser as azula's, whose time is the share of `times` that is to come."""
    azula, net, steps = importlib.import_module("azula.denoise"), problem.denoiser(sde), len(times) - 1

    class Wrapped(azula.Denoiser):  # type: ignore[name-defined]
        def time(self, share: Tensor) -> Tensor:
            return times[((1 - share) * steps).round().long()]

        def schedule(self, share: Tensor) -> tuple[Tensor, Tensor]:
            return sde.alpha(self.time(share)), sde.sigma(self.time(share))

        def forward(self, x: Tensor, share: Tensor) -> Any:
            return azula.DiracPosterior(mean=net(x, self.time(share)))

    return Wrapped()


Peer = Callable[[LinearProblem, LinearSDE, Tensor, Tensor], Tensor]


def _denoised(name: str, **options: Any) -> Peer:
    """A posterior denoiser of azula under its ancestral sampler."""

    def draw(problem: LinearProblem, sde: LinearSDE, times: Tensor, x: Tensor) -> Tensor:
        guidance, sampling = importlib.import_module("azula.guidance"), importlib.import_module("azula.sample")
        net = _wrapped(problem, sde, times)
        variance = torch.tensor(problem.noise_std**2, dtype=torch.float64)
        noise = {"cov_y": lambda v: variance * v} if name.startswith("MMPS") else {"var_y": variance}
        own = getattr(guidance, name)(net, problem.y, problem.operator.A, **noise, **options)
        return _last(sampling.DDPMSampler(own, steps=len(times) - 1, silent=True, dtype=torch.float64), own, x)

    return draw


def _sampler(name: str, *arguments: str) -> Peer:
    """A sampler of azula that knows the measurement."""

    def draw(problem: LinearProblem, sde: LinearSDE, times: Tensor, x: Tensor) -> Tensor:
        guidance, net = importlib.import_module("azula.guidance"), _wrapped(problem, sde, times)
        given = [getattr(problem.operator, each) for each in arguments]
        own = getattr(guidance, name)(net, problem.y, *given, steps=len(times) - 1, silent=True, dtype=torch.float64)
        return _last(own, net, x)

    return draw


def _tds(particles: int) -> Peer:
    """Its twisted sampler with the twist of PiGDM, a run at a time."""

    def draw(problem: LinearProblem, sde: LinearSDE, times: Tensor, x: Tensor) -> Tensor:
        guidance, net = importlib.import_module("azula.guidance"), _wrapped(problem, sde, times)
        matrix, spread = problem.operator.matrix, problem.data_std**2
        square, unit = matrix @ matrix.T, torch.eye(len(matrix)).double()

        def twist(data: Tensor, rho: Tensor) -> Tensor:
            covariance = problem.noise_std**2 * unit + rho**2 * spread / (rho**2 + spread) * square
            law = torch.distributions.MultivariateNormal(problem.operator.A(data), covariance)
            return law.log_prob(problem.y)[:, None]

        own = guidance.TDSSampler(net, twist, steps=len(times) - 1, silent=True, dtype=torch.float64)
        return torch.cat([_last(own, net, each) for each in x.split(particles)])

    return draw


def _last(sampler: Any, net: Any, x: Tensor) -> Tensor:
    """Its samples at the last of the times, denoised as ours are."""
    return net(sampler(x), torch.tensor(0.0, dtype=torch.float64)).mean


AZULA: dict[str, Peer] = {
    "TDS, PiGDM": _tds(256),
    "MMPS": _denoised("MMPSDenoiser", iterations=4),
    "TMPD": _denoised("TMPDenoiser"),
    "DiffPIR": _denoised("DiffPIRDenoiser", iterations=4),
    "PiGDM": _sampler("PGDMSampler", "A", "A_dagger"),
    "DPS": _sampler("DPSSampler", "A"),
}
