"""How the predictions of two branches become one, where that is more than extrapolation."""

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from sdescore.common.linear_combinations import Coefficient, dot, expand

__all__ = ["APG", "CFGZero", "Rule"]


class Rule(Protocol):
    """Any rule for guided(): `pair` says as which p x0 + q eps the branches are compared."""

    @property
    def pair(self) -> tuple[float, float]: ...

    def __call__(self, given: Tensor, null: Tensor, scale: Coefficient, rho: Coefficient) -> Tensor:
        """The guided prediction (batch, *shape); scale and rho are numbers or (batch,). At scale 1 it is `given`."""
        ...


@dataclass(frozen=True)
class APG:
    """Adaptive projected guidance, of data predictions (Sadat et al. 2024, algorithm 1, without its momentum).

    given + (scale - 1) times their difference, of which the part along `given`, which saturates colours, counts
    `parallel` times. Momentum would be a memory of earlier calls, which denoisers do not have.
    https://arxiv.org/abs/2410.02416

    Args:
        parallel: The paper's eta; 1 is plain guidance.
        radius: The longest difference, in the norm of a whole sample; longer ones are scaled to it.
    """

    parallel: float = 0.0
    radius: float = math.inf

    pair: ClassVar[tuple[float, float]] = (1.0, 0.0)

    def __post_init__(self) -> None:
        if not math.isfinite(self.parallel) or not self.radius > 0:
            raise ValueError(
                f"parallel={self.parallel}, radius={self.radius}; expected a finite number and a positive one"
            )

    def __call__(self, given: Tensor, null: Tensor, scale: Coefficient, rho: Coefficient) -> Tensor:
        gap = given - null
        size = dot(gap, gap).sqrt()
        gap = expand((self.radius / size).clamp(max=1), gap) * gap
        along = expand(dot(gap, given) / dot(given, given), given) * given
        return given + expand(scale - 1, gap) * (gap + (self.parallel - 1) * along)


@dataclass(frozen=True)
class CFGZero:
    """CFG-Zero*: the null branch is scaled to be nearest to the other one before (Fan et al. 2025, eq. 10 and 12).

    What is compared is eps - x0, the velocity of FlowSDE, on every process; above rho = zero_above it is 0, as the
    paper sets the first steps, where a net says less than nothing. https://arxiv.org/abs/2503.18886
    """

    zero_above: float = math.inf

    pair: ClassVar[tuple[float, float]] = (-1.0, 1.0)

    def __post_init__(self) -> None:
        if not self.zero_above > 0:
            raise ValueError(f"zero_above={self.zero_above}; expected a positive number")

    def __call__(self, given: Tensor, null: Tensor, scale: Coefficient, rho: Coefficient) -> Tensor:
        null = expand(dot(given, null) / dot(null, null), null) * null
        kept = torch.as_tensor(rho <= self.zero_above).to(given)
        return expand(kept, given) * (null + expand(scale, given) * (given - null))
