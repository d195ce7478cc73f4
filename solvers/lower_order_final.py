"""Steps of one method, and last steps of lower order (Lu et al. 2022a: DPM-Solver-fast)."""

from dataclasses import dataclass, field

from torch import Tensor

from sdescore.sampling import (
    About,
    Grid,
    Noise,
    OneStep,
    ReverseProcess,
    Step,
    approaching,
    check_one_step,
    uniform_lambda,
)

from .exponential_euler import DDIM
from .runge_kutta import DPM_2, DPM_3

__all__ = ["DPM_FAST", "LowerOrderFinal"]


@dataclass(frozen=True)
class LowerOrderFinal(OneStep):
    """Every step by `method` but the last ones, near the data, where methods of fewer calls do.

    Args:
        method: Of the steps before.
        last: Of the last steps, in their order; grids of fewer steps take the last of them.
        grid: The times by default.
        about: What it says of itself in the table of solvers.
    """

    method: OneStep
    last: tuple[OneStep, ...]
    grid: Grid = uniform_lambda()
    about: About | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        for method in (self.method, *self.last):
            check_one_step(method, "method")

    def _methods(self, count: int) -> list[OneStep]:
        return [self.method] * (count - len(self.last)) + list(self.last[max(len(self.last) - count, 0) :])

    def plan(self, reverse: ReverseProcess, t: Tensor, s: Tensor) -> Step:
        methods = self._methods(len(t))
        plans = {method: method.plan(reverse, t, s) for method in methods}
        return lambda i, x, noise: plans[methods[i]](i, x, noise)

    def step(self, reverse: ReverseProcess, x: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        return self.method.step(reverse, x, t, s, noise)

    def nfe(self, intervals: int) -> int:
        return sum(method.nfe(1) for method in self._methods(intervals))


DPM_FAST = LowerOrderFinal(
    DPM_3,
    (DPM_2, DDIM),
    grid=approaching(),
    about=About(
        "ODE",
        3,
        "Lu et al. 2022a, as implemented by Crowson for multiples of 3 calls",
        "https://arxiv.org/abs/2206.00927",
        "DPM-Solver-fast: DPM-Solver-3, and last steps of lower order",
    ),
)
