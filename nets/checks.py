"""Checks of arguments and inputs; those of inputs read shapes and types alone and never wait for a device."""

import operator

from torch import Tensor


def positive(name: str, value: int) -> int:
    """The value as an int of at least 1. Raises ValueError naming the argument."""
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(f"{name} has {value!r}; expected an integer of at least 1")
    return number


def probability(name: str, value: float) -> float:
    """The value as a float in [0, 1). Raises ValueError naming the argument."""
    if not 0 <= value < 1:
        raise ValueError(f"{name}={value!r}; expected a number in [0, 1)")
    return float(value)


def check_input(x: Tensor, axes: dict[str, int]) -> None:
    """Raise ValueError unless x is floating point, of shape (batch, *axes.values())."""
    expected = f"expected (batch, {', '.join(f'{size} {name}' for name, size in axes.items())})"
    if x.ndim != 1 + len(axes):
        raise ValueError(f"x has shape {tuple(x.shape)}, {x.ndim} axes; {expected}")
    for (name, size), given in zip(axes.items(), x.shape[1:], strict=True):
        if given != size:
            raise ValueError(f"x has shape {tuple(x.shape)}, {given} for {name}; {expected}")
    if not x.is_floating_point():
        raise ValueError(f"x has dtype {x.dtype}; expected a floating-point type")
