"""Checks of arguments and inputs; those of inputs read shapes and types alone and never wait for a device."""

import operator

import torch
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


def check_condition(x: Tensor, c_noise: Tensor, label: Tensor | None, classes: int | None) -> None:
    """Raise ValueError unless c_noise and label fit the batch of x; the values of labels are not read."""
    if c_noise.shape != x.shape[:1] or not c_noise.is_floating_point():
        raise ValueError(
            f"c_noise has shape {tuple(c_noise.shape)}, {c_noise.dtype}; expected ({len(x)},), floating point"
        )
    if label is None:
        return
    if classes is None:
        raise ValueError("label was given to a net without classes; expected None")
    if label.shape != x.shape[:1] or label.dtype != torch.long:
        raise ValueError(
            f"label has shape {tuple(label.shape)}, {label.dtype}; expected ({len(x)},), torch.int64, "
            f"0 to {classes - 1}, or {classes} for no label"
        )
