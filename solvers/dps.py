"""DPS: steps of another method, each followed by one down the measurement's error (Chung et al. 2023, algorithm 1)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.operators import Nonlinear, Operator, as_operator
from sdescore.sampling import LinearOneStep, Noise, ReverseProcess, karras

from .exponential_euler import DDPM
from .measured import measured

__all__ = ["DPS"]


@dataclass(frozen=True)
class DPS:
    """x_s = step(x_t) - zeta grad |y - A(x0)|, with the gradient by x_t through the net, of each sample's own.

    condition["measurement"] is y. How strong the measurement is depends on zeta and on the number of steps, and not on
    its noise, so that this samples no posterior; `posterior(..., method="dps")` is the estimate that it stands for.
    https://arxiv.org/abs/2209.14687

    Args:
        operator: Linear, or a function.
        zeta: Length of the second steps: the paper's zeta', times 2.
        method: A step that is linear in the net's predictions; DDPM in the paper.
    """

    operator: Operator | Nonlinear | Callable[[Tensor], Tensor]
    zeta: float = 1.0
    method: LinearOneStep = DDPM

    grid = karras()
    denoises = True

    def __post_init__(self) -> None:
        as_operator(self.operator)
        if not self.zeta >= 0:
            raise ValueError(f"zeta={self.zeta}; expected numbers from 0 on")
        if not isinstance(self.method, LinearOneStep):
            raise TypeError(f"method is {self.method!r}; expected a LinearOneStep, such as DDPM")

    def solve(self, reverse: ReverseProcess, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        prior, y = measured(reverse, as_operator(self.operator), x)
        sde, t, s = prior.sde, times[:-1], times[1:]
        steps = [torch.as_tensor(c).expand(t.shape).tolist() for c in self.method.coefficients(sde, t, s)]
        alphas, sigmas = sde.alpha(times).tolist(), sde.sigma(times).tolist()
        for i, (p, q, std) in enumerate(zip(*steps, strict=True)):
            data, gradient = self._slope(prior, y, x, t[i])
            x = p * data + q / sigmas[i] * (x - alphas[i] * data) - self.zeta * gradient
            if std:
                x = x + noise(x, t[i], s[i], std)
            yield x
        yield prior.data(x, times[-1])

    def _slope(self, prior: ReverseProcess, y: Tensor, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """x0, and the gradient of the measurement's error by x."""
        wanted = x.requires_grad and torch.is_grad_enabled()
        with torch.enable_grad():
            at = x if wanted else x.detach().requires_grad_()
            data = prior.data(at, t)
            error = (y - as_operator(self.operator).A(data)).flatten(1).norm(dim=1).sum()
            (gradient,) = torch.autograd.grad(error, at, create_graph=wanted)
        return (data if wanted else data.detach()), gradient

    def nfe(self, intervals: int) -> int:
        return intervals + 1
