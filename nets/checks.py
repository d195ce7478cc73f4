"""Checks of arguments and inputs; those of inputs read shapes and types alone and never wait for a device."""

import operator
from collections.abc import Sequence

import torch
from torch import Tensor

AXES = ("depth", "height", "width")  # a series has a width, an image a height and a width


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


def spatial_sizes(image_size: int | Sequence[int], dims: int) -> list[int]:
    """One size per spatial axis. Raises ValueError for another number of them."""
    sizes = list(image_size) if isinstance(image_size, Sequence) else [image_size] * dims
    if len(sizes) != dims:
        raise ValueError(f"image_size={image_size!r} for dims={dims}; expected an integer or {dims} of them")
    return [positive("image_size", size) for size in sizes]


def named_classes(classes: int | None, names: Sequence[str] | None) -> list[str] | None:
    """The names of labels. Raises ValueError unless there are as many as classes, all different."""
    if names is None:
        return None
    if len(names) != classes or len(set(names)) != classes or not all(isinstance(name, str) for name in names):
        raise ValueError(f"class_names={list(names)!r}; expected {classes or 'no'} different names, as many as classes")
    return list(names)


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
