"""Checks of arguments, one for each kind, and how errors describe what was given.

A value of another kind raises TypeError, one out of range ValueError; both name the argument.
"""

import math
import operator
from collections.abc import Callable, Hashable, Mapping
from functools import cache
from numbers import Real
from typing import Any, SupportsIndex, TypeVar, get_args, get_type_hints

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "all_finite",
    "as_tensor",
    "check_count",
    "check_device",
    "check_dtype",
    "check_fields",
    "check_finite",
    "check_flag",
    "check_function",
    "check_integer",
    "check_number",
    "check_returned",
    "check_returned_numbers",
    "check_seed",
    "check_states",
    "check_tensor",
    "check_times_of",
    "choose",
    "described",
    "require",
    "unwritten",
]


def described(value: Any) -> tuple[int, ...] | str:
    """The shape of a tensor, or the type of anything else, for the text of an error."""
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__


def check_integer(name: str, value: Any, least: int | None = None) -> int:
    """value as a Python integer, of at least `least`: Python's or NumPy's, but neither a bool nor a tensor."""
    expected = {None: "an integer", 0: "an integer from 0", 1: "a positive integer"}.get(
        least, f"an integer of at least {least}"
    )
    try:
        if isinstance(value, bool | np.bool_ | Tensor):  # NumPy 1's bool is an index
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}={value!r}; expected {expected}") from None
    if least is not None and number < least:
        raise ValueError(f"{name}={value!r}; expected {expected}")
    return number


def check_count(name: str, count: Any) -> int:
    """count, if it is a positive integer that a machine counts to."""
    number = check_integer(name, count, 1)
    if number >= 2**63:
        raise ValueError(f"{name} has {number.bit_length()} bits; expected a positive integer below 2^63")
    return number


def check_seed(seed: Any, index_offset: Any = 0) -> None:
    """Raise unless seed is an integer, and index_offset, the number of the first sample, one from 0."""
    check_integer("seed", seed)
    check_integer("index_offset", index_offset, 0)


def check_number(name: str, value: Any, *, above: float = -math.inf, least: float = -math.inf) -> float:
    """value as a float, if it is a finite number above `above` and of at least `least`; a bool is no number."""
    expected = "a finite number"
    if above > -math.inf or least > -math.inf:
        bound = f"above {above:g}" if above > -math.inf else f"of at least {least:g}"
        expected = "a positive number" if above == 0 else f"a finite number {bound}"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}={value!r}; expected {expected}")
    try:
        number = float(value)
    except OverflowError:  # of an integer
        number = math.inf
    if not (above < number and least <= number and math.isfinite(number)):
        raise ValueError(f"{name}={value!r}; expected {expected}")
    return number


def check_flag(name: str, value: Any) -> bool:
    """value, if it is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}={value!r}; expected True or False")
    return value


def check_dtype(name: str, value: Any) -> torch.dtype:
    """value, if it is a floating-point dtype of torch."""
    if not isinstance(value, torch.dtype) or not value.is_floating_point:
        raise TypeError(f"{name}={value}; expected a floating-point dtype of torch, such as torch.float32")
    return value


# What a field of settings of this annotation may hold, and how errors call it.
FIELDS: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    bool: ("True or False", lambda value: isinstance(value, bool)),
    int: ("an integer", lambda value: isinstance(value, SupportsIndex) and not isinstance(value, bool | Tensor)),
    float: ("a number", lambda value: isinstance(value, Real) and not isinstance(value, bool)),
    str: ("a text", lambda value: isinstance(value, str)),
}


def check_fields(settings: Any) -> None:
    """Raise TypeError for a field of a dataclass that is annotated as a flag, number or text and holds another kind."""
    for name, hint in _hints(type(settings)).items():  # type: ignore[arg-type]  # a class is hashable
        kinds = [kind for kind in get_args(hint) or (hint,) if kind is not type(None)]
        value = getattr(settings, name)
        if len(kinds) != 1 or kinds[0] not in FIELDS or (value is None and type(None) in get_args(hint)):
            continue
        expected, holds = FIELDS[kinds[0]]
        if not holds(value):
            raise TypeError(f"{name}={value!r}; expected {expected}")


@cache
def _hints(settings: Hashable) -> dict[str, Any]:
    return get_type_hints(settings)


def check_device(name: str, value: Any) -> torch.device:
    """value, a device of torch or its name. Raises ValueError for one that torch does not know."""
    if not isinstance(value, str | torch.device):
        raise TypeError(f"{name}={value!r}; expected a torch.device or its name, such as 'cpu'")
    try:
        return torch.device(value)
    except RuntimeError as error:
        raise ValueError(f"{name}={value!r}: {error}") from error


def check_tensor(name: str, value: Any, shape: str, hint: str = "") -> Tensor:
    """value, if it is a floating-point tensor; `shape` and `hint` are for the error's text."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}; expected a tensor {shape}")
    if value.is_meta:
        raise ValueError(f"{name} is on the meta device, without values; expected a tensor {shape}")
    if not value.is_floating_point():
        raise TypeError(f"{name} has dtype {value.dtype}; expected a floating-point tensor {shape}{hint}")
    return value


def as_tensor(
    name: str, value: Any, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> Tensor:
    """value as a tensor, from numbers in any nesting. Raises TypeError for anything else, and ValueError for none."""
    try:
        if isinstance(value, Tensor) and (value.is_meta or value.is_complex()):
            raise ValueError(f"a {value.dtype} on {value.device}")
        if torch.as_tensor(value).dtype == torch.bool:
            raise TypeError("of booleans")
        return torch.as_tensor(value, dtype=dtype, device=device)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(f"{name} is a {type(value).__name__} ({error}); expected real numbers") from error


def all_finite(x: Tensor) -> bool:
    """Whether all numbers of x are finite; it waits for the device of x."""
    # A sum is finite only if all its terms are, and ten times faster; that of finite ones may overflow.
    return bool(x.sum().isfinite()) or bool(x.isfinite().all())


def check_finite(name: str, x: Tensor, row: str = "sample", first: int = 0) -> None:
    """Raise ValueError, with the number of a row, counted from `first`, unless x (rows, *shape) is finite.

    It waits for the device of x.
    """
    if not all_finite(x):
        bad = (~x.isfinite()).reshape(len(x), -1).any(1).nonzero()
        raise ValueError(f"{name} is not finite in {row} {first + int(bad[0])}; expected finite numbers")


def check_states(x: Any, rows: str = "batch", row: str = "sample", name: str = "x") -> Tensor:
    """x, if it is a floating-point tensor (rows, *shape) with at least one row, none of them empty."""
    check_tensor(name, x, f"({rows}, *shape)")
    if x.ndim < 2 or x.numel() == 0:
        raise ValueError(f"{name} has shape {tuple(x.shape)}; expected ({rows}, *shape) with at least one {row}")
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


def check_function(name: str, value: Any) -> Any:
    """Raise TypeError for what cannot be called, and for a class, whose call makes an object of it."""
    if isinstance(value, type) or not callable(value):
        raise TypeError(f"{name} is {value!r}; expected a function of x")
    return value


def unwritten(function: Callable[[Tensor], Any], x: Tensor, name: str) -> Any:
    """function(x). Raises ValueError if it wrote over x, which is the caller's, or the state of a chain.

    Tensors of torch.inference_mode() count no writes: such a function is given a copy.
    """
    check_function(name, function)
    if torch.compiler.is_compiling():
        return function(x)
    if x.is_inference():
        return function(x.clone())
    before = x._version
    value = function(x)
    if x._version != before:
        raise ValueError(f"{name} wrote over its input; expected a function that leaves x as it is")
    return value


def require(condition: bool, message: str) -> None:
    """Raise ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def check_times_of(t: Any, x: Tensor) -> Tensor:
    """t, if it is a tensor () or (batch,) for x (batch, *shape), of any real dtype."""
    if not isinstance(t, Tensor) or t.is_complex() or t.dtype == torch.bool or t.is_meta:
        given = f"has dtype {t.dtype} on {t.device}" if isinstance(t, Tensor) else f"is a {type(t).__name__}"
        raise TypeError(f"t {given}; expected a tensor () or (batch,)")
    if t.ndim > 1 or (t.ndim == 1 and len(t) != len(x)):
        raise ValueError(f"t has shape {tuple(t.shape)}; expected () or ({len(x)},)")
    return t


Choice = TypeVar("Choice")


def choose(table: Mapping[str, Choice], choice: str | Choice, argument: str) -> Choice:
    """The entry of a table by its name; anything but a name as it is. Raises ValueError listing the names."""
    if not isinstance(choice, str):
        return choice
    if choice not in table:
        raise ValueError(f"{argument}={choice!r}; expected {', '.join(map(repr, table))}")
    return table[choice]
