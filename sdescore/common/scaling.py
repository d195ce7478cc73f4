"""The scaling between raw data and the net's data."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.common.checks import check_integer, check_number

__all__ = ["Scaling"]


@dataclass(frozen=True)
class Scaling:
    """Raw data in [low, high] <-> model data in [-1, 1].

    `levels` is the number of equally spaced raw values if the data is quantised, else None. Raises TypeError for other
    kinds, and ValueError unless low < high are finite and there are at least 2 levels.
    """

    low: float = 0.0
    high: float = 255.0
    levels: int | None = 256

    def __post_init__(self) -> None:
        check_number("high", self.high, above=check_number("low", self.low))
        if self.levels is not None:
            check_integer("levels", self.levels, 2)

    def to_model(self, raw: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Scale raw data of any shape, integer or floating point, to [-1, 1].

        Raises ValueError for data outside [low, high] on the CPU; on another device the check would wait for it.
        """
        if not isinstance(raw, Tensor) or raw.is_complex():
            given = f"has dtype {raw.dtype}" if isinstance(raw, Tensor) else f"is a {type(raw).__name__}"
            raise TypeError(f"raw {given}; expected a tensor of real numbers")
        if raw.device.type == "cpu" and raw.numel() and not (self.low <= raw.min() and raw.max() <= self.high):
            raise ValueError(f"raw spans [{raw.min():g}, {raw.max():g}]; expected [{self.low:g}, {self.high:g}]")
        return (raw.to(dtype) - self.low) * (2 / (self.high - self.low)) - 1

    def to_data(self, x: Tensor) -> Tensor:
        """Scale model data back to [low, high]: clamped, and rounded to the nearest level if there are levels."""
        unit = (x.clamp(-1, 1) + 1) / 2
        if self.levels is not None:
            unit = (unit * (self.levels - 1)).round() / (self.levels - 1)
        return self.low + (self.high - self.low) * unit


def level_width(scaling: Scaling) -> float:
    """The distance between two levels of model data. Raises ValueError for data that is not quantised."""
    if not isinstance(scaling, Scaling):
        raise TypeError(f"scaling is a {type(scaling).__name__}; expected a Scaling")
    if scaling.levels is None:
        raise ValueError(
            "scaling.levels is None; expected quantised data, without which there are no bits per dimension"
        )
    return 2 / (scaling.levels - 1)
