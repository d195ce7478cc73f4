"""Steps of one method and last ones of others (Lu et al. 2022a: DPM-Solver-fast)."""

from dataclasses import dataclass, field

from torch import Tensor

from sdescore.sampling import Noise, OneStep, ReverseProcess, uniform_lambda
from sdescore.sampling.grids import Grid
from sdescore.sampling.solver import Step

from .runge_kutta import DPM_2, DPM_3, EULER

__all__ = ["DPM_FAST", "LowerOrderFinal"]


@dataclass(frozen=True)
class LowerOrderFinal(OneStep):
    """Every step by `method` but the last ones, near the data, where methods of fewer calls do.

    Args:
        method: Of the steps before.
        last: Of the last steps, in their order; grids of fewer steps take the last of them.
        grid: The times that are used unless sample() is told others.
    """

    method: OneStep
    last: tuple[OneStep, ...]
    grid: Grid = field(default=uniform_lambda(), repr=False)

    def _methods(self, count: int) -> list[OneStep]:
        return [self.method] * (count - len(self.last)) + list(self.last[max(len(self.last) - count, 0) :])

    def prepare(self, reverse: ReverseProcess, t: Tensor, s: Tensor) -> Step:
        methods = self._methods(len(t))
        steps = {id(method): method.prepare(reverse, t, s) for method in methods}
        return lambda i, x, noise: steps[id(methods[i])](i, x, noise)

    def step(self, reverse: ReverseProcess, x: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        return self.method.step(reverse, x, t, s, noise)

    def calls(self, steps: int) -> int:
        return 1 + sum(method.calls(2) - 1 for method in self._methods(steps - 1))


# Lu et al. 2022a, as implemented by Crowson where the calls are a multiple of 3.
DPM_FAST = LowerOrderFinal(DPM_3, (DPM_2, EULER))
