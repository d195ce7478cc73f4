"""DAPS: at each level, data by the flow, a chain given the measurement, and fresh noise (Zhang et al. 2024, alg. 1)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.denoisers.posterior import check_noise_std
from sdescore.operators import Nonlinear, Operator, as_operator, linearised
from sdescore.sampling import Noise, OneStep, ReverseProcess, check_one_step, karras

from .exponential_euler import DDIM
from .measured import measured
from .renoise import at_rho

__all__ = ["DAPS"]


@dataclass(frozen=True)
class DAPS:
    """x_t at successive levels are not a path: each is noised data that was drawn given the one before and y.

    condition["measurement"] is y = A(x0) + noise_std z. p(x0 | x_t) is taken for N(x0, rho^2 I) about the end x0 of the
    flow from x_t; the chain is Langevin's, without a Metropolis test. https://arxiv.org/abs/2407.01521

    Args:
        operator: Linear, or a function.
        noise_std: Standard deviation of the measurement's noise, positive.
        calls: Net calls from each level to the data; 1 takes the net's x0.
        method: How the flow is followed.
        langevin: Steps of the chain at each level, which call no net.
        step: Length of a chain's step, in units of 1 / (1 / rho^2 + gain^2 / noise_std^2).
        gain: The operator's largest singular value, or a bound on it.
    """

    operator: Operator | Nonlinear | Callable[[Tensor], Tensor]
    noise_std: float
    calls: int = 5
    method: OneStep = DDIM
    langevin: int = 100
    step: float = 0.2
    gain: float = 1.0

    grid = karras()
    denoises = True

    def __post_init__(self) -> None:
        as_operator(self.operator)
        check_noise_std(self.noise_std)
        check_one_step(self.method, "method")
        if self.noise_std == 0:
            raise ValueError("noise_std=0; expected a positive number: the chain divides by it")
        if self.calls < 1 or self.langevin < 1:
            raise ValueError(f"calls={self.calls}, langevin={self.langevin}; expected positive integers")
        if not 0 < self.step < 1 or not self.gain > 0:
            raise ValueError(f"step={self.step}, gain={self.gain}; expected 0 < step < 1 and gain > 0")

    def solve(self, reverse: ReverseProcess, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        prior, y = measured(reverse, as_operator(self.operator), x)
        sde = prior.sde
        alphas, sigmas, rhos = (each.tolist() for each in (sde.alpha(times), sde.sigma(times), sde.rho(times)))
        for i, t in enumerate(times):
            data = self._chain(self._flow(prior, x, t, times[-1], noise), y, rhos[i], noise)
            if i + 1 < len(times):
                x = noise.randn(x, sigmas[i + 1]).add_(data, alpha=alphas[i + 1])
                yield x
        yield data

    def _flow(self, prior: ReverseProcess, x: Tensor, t: Tensor, last: Tensor, noise: Noise) -> Tensor:
        """Data from x at t by `calls` net calls."""
        if self.calls > 1 and t > last:
            high, low = prior.sde.rho(torch.stack([t, last])).tolist()
            roots = torch.linspace(high ** (1 / 7), low ** (1 / 7), self.calls, dtype=torch.float64)
            inside = at_rho(prior.sde, roots[1:-1] ** 7)
            grid = torch.cat([t[None], inside, last[None]])
            step = self.method.plan(prior, grid[:-1], grid[1:])
            for i in range(len(grid) - 1):
                x = step(i, x, noise)
            t = last
        return prior.data(x, t)

    def _chain(self, centre: Tensor, y: Tensor, rho: float, noise: Noise) -> Tensor:
        """A draw about N(centre, rho^2 I) p(y | x0), by Langevin steps from the centre."""
        operator, precision = as_operator(self.operator), self.noise_std**-2
        size = self.step / (rho**-2 + self.gain**2 * precision)
        x = centre
        for _ in range(self.langevin):
            pull = linearised(operator, x).A_adjoint(y - operator.A(x)) * precision
            x = x + size * (pull + (centre - x) * rho**-2) + noise.randn(x, (2 * size) ** 0.5)
        return x

    def nfe(self, intervals: int) -> int:
        each = self.method.nfe(self.calls - 1) + 1
        return intervals * each + 1
