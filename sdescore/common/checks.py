"""Checks of arguments, and how errors describe what was given."""

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor

__all__ = [
    "check_count",
    "check_returned",
    "check_returned_numbers",
    "check_states",
    "choose",
    "described",
    "require",
]


def described(value: Any) -> tuple[int, ...] | str:
    """The shape of a tensor, or the type of anything else, for the text of an error."""
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__


def check_count(name: str, count: Any) -> None:
    """Raise ValueError unless count is a positive integer."""
    if not isinstance(count, int) or count < 1:
        raise ValueError(f"{name}={count!r}; expected a positive integer")


def check_states(x: Any, rows: str = "batch", row: str = "sample") -> Tensor:
    """x, if it is a floating-point tensor (rows, *shape) with at least one row. Raises TypeError or ValueError."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        given = f"has dtype {x.dtype}" if isinstance(x, Tensor) else f"is a {type(x).__name__}"
        raise TypeError(f"x {given}; expected a floating-point tensor")
    if x.ndim < 2 or len(x) == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}; expected ({rows}, *shape) with at least one {row}")
    return x


def check_returned(value: Any, x: Tensor, name: str) -> Tensor:
    """What `name` returned for x, if it has the shape of x: another might broadcast. Raises ValueError."""
    if not isinstance(value, Tensor) or value.shape != x.shape:
        given = described(value)
        raise ValueError(f"{name} returned {given} for x of shape {tuple(x.shape)}; it must return that shape")
    return value


def check_returned_numbers(value: Any, x: Tensor, name: str) -> Tensor:
    """What `name` returned for x (batch, *shape), if it has shape (batch,). Raises ValueError."""
    if not isinstance(value, Tensor) or value.shape != x.shape[:1]:
        given = f"{described(value)} for x of shape {tuple(x.shape)}"
        raise ValueError(f"{name} returned {given}; it must return ({len(x)},), one number per sample")
    return value


def require(condition: bool, message: str) -> None:
    """Raise ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


Choice = TypeVar("Choice")


def choose(table: Mapping[str, Choice], choice: str | Choice, argument: str) -> Choice:
    """The entry of a table by its name; anything but a name as it is. Raises ValueError listing the names."""
    if not isinstance(choice, str):
        return choice
    if choice not in table:
        raise ValueError(f"{argument}={choice!r}; expected {', '.join(map(repr, table))}")
    return table[choice]
