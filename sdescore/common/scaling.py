"""The scaling between raw data and the net's data."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sdescore.common.checks import check_flag, check_integer, check_number

__all__ = ["Scaling", "level_width"]

WIDE = (torch.float64, torch.int64)  # whose numbers may differ by less than float32 tells apart


@dataclass(frozen=True)
class Scaling:
    """Raw data from low to high <-> model data from -1 to 1.

    Args:
        low, high: Numbers, or one for each column or channel: the first axis of a sample.
        levels: The number of equally spaced raw values if the data is quantised, else None.
        bounded: Whether low and high are ends; otherwise values beyond them are scaled alike, and nothing is cut off.
        names: The names of the columns or channels, if they have any.

    Raises TypeError for other kinds, and ValueError unless low < high are finite, of one length, there are at least 2
    levels, and names differ.
    """

    low: float | tuple[float, ...] = 0.0
    high: float | tuple[float, ...] = 255.0
    levels: int | None = 256
    bounded: bool = True
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("low", "high", "names"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        check_flag("bounded", self.bounded)
        if self.levels is not None:
            check_integer("levels", self.levels, 2)
        if self.names is not None and not (
            isinstance(self.names, tuple) and all(isinstance(each, str) for each in self.names)
        ):
            raise TypeError(f"names={self.names!r}; expected texts")
        if self.names is not None and len(set(self.names)) < len(self.names):
            raise ValueError(f"names={self.names!r}; expected names that differ")
        if len(set(self._lengths())) > 1 or 0 in self._lengths():
            raise ValueError(f"low, high and names have lengths {self._lengths()}; expected equal ones, of at least 1")
        for low, high in self._pairs():  # as they were given
            check_number("high", high, above=check_number("low", low))
        for name in ("low", "high"):
            value = getattr(self, name)
            object.__setattr__(self, name, tuple(map(float, value)) if isinstance(value, tuple) else float(value))

    def _lengths(self) -> list[int]:
        return [len(each) for each in (self.low, self.high, self.names) if isinstance(each, tuple)]

    def _pairs(self) -> list[tuple[float, float]]:
        """low and high of each column; one pair if they serve all."""
        count = max((len(each) for each in (self.low, self.high) if isinstance(each, tuple)), default=1)
        lows, highs = (each if isinstance(each, tuple) else (each,) * count for each in (self.low, self.high))
        return list(zip(lows, highs, strict=True))

    def check_shape(self, shape: Sequence[int]) -> None:
        """Raise ValueError for samples of another number of columns or channels."""
        count = next(iter(self._lengths()), None)
        if count is not None and (not shape or shape[0] != count):
            raise ValueError(f"samples have shape {tuple(shape)}; the scaling has {count} columns or channels")

    def _limits(self, like: Tensor) -> tuple[Any, Any]:
        """low and high as they are broadcast with data (n, *shape); numbers where they serve all columns."""
        if not isinstance(self.low, tuple) and not isinstance(self.high, tuple):
            return self.low, self.high
        self.check_shape(like.shape[1:])
        pairs = torch.tensor(self._pairs(), dtype=torch.float64).to(like.device, like.dtype)
        low, high = pairs.T.reshape(2, -1, *[1] * (like.ndim - 2))
        return low, high

    def outside(self, raw: Tensor) -> tuple[int, str] | None:
        """The first sample of raw data (n, *shape) that leaves the range, and what is wrong with it, if there is one.

        Raises ValueError for another number of columns or channels than the scaling has.
        """
        columns = isinstance(self.low, tuple) or isinstance(self.high, tuple)
        wide = raw.double() if columns else raw
        low, high = self._limits(wide)
        if not self.bounded or not raw.numel() or (not columns and low <= raw.min() and raw.max() <= high):
            return None
        beyond = (wide < low) | (wide > high)
        if not bool(beyond.any()):
            return None
        row, *rest = beyond.nonzero()[0].tolist() if raw.ndim else [0]
        if columns:
            (one, other), name = self._pairs()[rest[0]], self.column(rest[0])
            value = f"has {float(wide[(row, *rest)]):g} in {name}"
        else:
            one, other, found = low, high, wide[row] if raw.ndim else wide
            value = f"spans [{float(found.min()):g}, {float(found.max()):g}]"
        return row, f"{value}; expected values in the given range [{one:g}, {other:g}]"

    def column(self, number: int) -> str:
        """What errors call a column."""
        return f"column {number if self.names is None else repr(self.names[number])}"

    def to_model(self, raw: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Scale raw data (n, *shape), integer or floating point, to [-1, 1].

        One scale for all columns serves any shape. Raises ValueError for another number of columns, and, on the CPU,
        for data outside the range: on another device the check would wait for it.
        """
        if not isinstance(raw, Tensor) or raw.is_complex():
            given = f"has dtype {raw.dtype}" if isinstance(raw, Tensor) else f"is a {type(raw).__name__}"
            raise TypeError(f"raw {given}; expected a tensor of real numbers")
        wrong = self.outside(raw) if raw.device.type == "cpu" else None
        if wrong is not None:
            raise ValueError(f"raw: sample {wrong[0]} {wrong[1]}")
        return self.unchecked(raw.to(torch.float64 if raw.dtype in WIDE else dtype)).to(dtype)

    def unchecked(self, raw: Tensor) -> Tensor:
        """to_model() of floating point (n, *shape), of its dtype and wherever it lies."""
        low, high = self._limits(raw)
        return (raw - low) * (2 / (high - low)) - 1

    def to_data(self, x: Tensor) -> Tensor:
        """Scale model data (n, *shape) back, rounded to the nearest level if there are levels.

        What leaves [-1, 1] is cut off there, unless the scaling is not bounded.
        """
        unit = ((x.clamp(-1, 1) if self.bounded else x) + 1) / 2
        if self.levels is not None:
            unit = (unit * (self.levels - 1)).round() / (self.levels - 1)
        low, high = self._limits(x)
        return low + (high - low) * unit

    def log_volume(self, shape: Sequence[int]) -> float:
        """What is added to the log-density of a sample of model data for that of raw data: log |det of to_model()|.

        Each element of a sample of this shape adds log(2 / (high - low)).
        """
        self.check_shape(shape)
        logs = [math.log(2) - math.log(high - low) for low, high in self._pairs()]
        return math.prod(shape) * math.fsum(logs) / len(logs)


def level_width(scaling: Scaling) -> float:
    """The distance between two levels of model data. Raises ValueError for data that is not quantised."""
    if not isinstance(scaling, Scaling):
        raise TypeError(f"scaling is a {type(scaling).__name__}; expected a Scaling")
    if scaling.levels is None:
        raise ValueError(
            "scaling.levels is None; expected quantised data, without which there are no bits per dimension"
        )
    return 2 / (scaling.levels - 1)
