"""RePaint: replacement with fresh noise, going back and forth over each stretch of the way (Lugmayr et al. 2022)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from sdescore.operators import Operator
from sdescore.sampling import Noise, OneStep, ReverseProcess, karras

from .exponential_euler import DDPM
from .measured import measured
from .renoise import renoising
from .replacement import Replacement

__all__ = ["RePaint"]


@dataclass(frozen=True)
class RePaint:
    """Algorithm 1: every `jump` steps are taken `repeats` times, with noise added back in between.

    condition["measurement"] is y = A x0 + noise_std z; operator, noise_std and method as of Replacement. The more
    repeats, the better the rest fits what is measured, as a Gibbs sampler's would. https://arxiv.org/abs/2201.09865
    """

    operator: Operator
    noise_std: float = 0.0
    method: OneStep = DDPM
    jump: int = 1
    repeats: int = 10

    grid = karras()
    denoises = True

    def __post_init__(self) -> None:
        self._replacement()
        for name, value in (("jump", self.jump), ("repeats", self.repeats)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r}; expected a positive integer")

    def _replacement(self) -> Replacement:
        return Replacement(self.operator, self.noise_std, self.method, math.inf)

    def solve(self, reverse: ReverseProcess, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        inner = self._replacement()
        prior, y = measured(reverse, self.operator, x)
        x = inner.start(prior, y, x, times[0])
        step = inner.plan(prior, y, x, times)
        for i in range(len(times) - 1):
            x = step(i, x, noise)
            if (i + 1) % self.jump == 0:
                first = i + 1 - self.jump
                kept, added = map(float, renoising(prior.sde, times[i + 1], times[first]))
                for _ in range(self.repeats - 1):
                    x = noise.randn(x, added).add_(x, alpha=kept)
                    for j in range(first, i + 1):
                        x = step(j, x, noise)
            yield x
        yield inner.finish(prior, y, x, times[-1])

    def nfe(self, intervals: int) -> int:
        whole = intervals // self.jump
        return self.method.nfe(intervals) + whole * (self.repeats - 1) * self.method.nfe(self.jump) + 1
