"""The transition kernels of one-step methods, which sequential Monte Carlo reweights."""

import torch
from torch import Tensor

from sdescore.common.linear_combinations import combine
from sdescore.sampling.reverse import ReverseProcess
from sdescore.sampling.solver import LinearOneStep, Solver

__all__ = ["Kernels"]


class Kernels:
    """N(p x0 + q eps, std^2) of a linear one-step method along times, with the net's x0 and eps at the start of a step.

    `reverse` has conditions of one row, which all particles share. Raises TypeError or ValueError for a method that is
    not stated by p, q and std, or draws no noise.
    """

    def __init__(self, reverse: ReverseProcess, solver: Solver, times: Tensor, batch_size: int | None = None) -> None:
        if not isinstance(solver, LinearOneStep):
            raise TypeError(f"solver is {solver!r}; expected a LinearOneStep with noise, such as 'ddpm'")
        found = solver.coefficients(reverse.sde, times[:-1], times[1:])
        p, q, std = (torch.as_tensor(each, dtype=torch.float64).expand(len(times) - 1) for each in found)
        if not bool((std > 0).all()):
            raise ValueError(f"solver is {solver!r}, which draws no noise; expected a stochastic one, such as 'ddpm'")
        alpha, sigma = reverse.sde.alpha(times[:-1]), reverse.sde.sigma(times[:-1])
        self.reverse = reverse
        self.times = times
        self.batch_size = batch_size
        self.of_x: list[float] = (q / sigma).tolist()
        self.of_data: list[float] = (p - q * alpha / sigma).tolist()
        self.of_score: list[float] = (p * sigma**2 / alpha - q * sigma).tolist()
        self.std: list[float] = std.tolist()

    @property
    def nfe(self) -> int:
        """Net calls for each particle, with one prediction at each time."""
        return int(self.reverse.nfe(self.times).sum())

    def data(self, i: int, x: Tensor) -> Tensor:
        """E[x0 | x] at times[i], of x (rows, *shape)."""
        shared = torch.zeros(len(x), dtype=torch.long, device=x.device)
        return self.reverse.select(shared).data(x, self.times[i])

    def mean(self, i: int, x: Tensor, data: Tensor) -> Tensor:
        """(rows, *shape), of the step from times[i]."""
        return combine([(x, self.of_x[i]), (data, self.of_data[i])])
