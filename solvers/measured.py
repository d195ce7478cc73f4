"""What loops that know a measurement share: the measurement is a condition that the net is not given."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from sdescore.denoisers.posterior import check_measurement
from sdescore.operators import Nonlinear, Operator, as_operator
from sdescore.sampling import ReverseProcess

__all__ = ["check_linear_operator", "measured", "without"]


def without(reverse: ReverseProcess, name: str, expected: str) -> tuple[ReverseProcess, Tensor]:
    """The reverse process of the net alone, and the condition that the solver keeps to itself."""
    condition = dict(reverse.condition)
    if name not in condition:
        raise ValueError(f'condition has no "{name}"; expected {expected}')
    own = condition.pop(name)
    return replace(reverse, condition=condition), own


def measured(reverse: ReverseProcess, operator: Operator | Nonlinear, x: Tensor) -> tuple[ReverseProcess, Tensor]:
    """The same of condition["measurement"], like x. Raises ValueError where it, or x, does not fit the operator."""
    prior, y = without(reverse, "measurement", "the y of each sample")
    check_measurement(y, operator, x)
    return prior, y.to(x)


def check_linear_operator(operator: Any) -> None:
    """Raise TypeError for what is no linear operator."""
    if isinstance(as_operator(operator), Nonlinear):
        raise TypeError(f"operator is {operator!r}; expected a linear one, with A, A_adjoint and A_dagger")
