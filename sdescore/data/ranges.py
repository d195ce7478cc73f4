"""The scaling that data gets by itself: from its smallest and largest values, or by its means and deviations."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sdescore.common.scaling import Scaling

__all__ = ["SCALES", "check_scale", "find_scaling", "given_scaling"]

SCALES = ("whole", "columns", "standard")
REACH = 2.0  # deviations from the mean to -1 and 1: scaled data then has EDM's standard deviation of .5


@dataclass
class Columns:
    """What pieces of data had in each column or channel, (columns,), in float64."""

    count: int
    low: Tensor
    high: Tensor
    mean: Tensor
    squares: Tensor

    @staticmethod
    def of(piece: Tensor) -> "Columns":
        x = piece.double().reshape(len(piece), piece.shape[1], -1).movedim(1, 0).flatten(1)
        mean = x.mean(1)
        return Columns(x.shape[1], x.amin(1), x.amax(1), mean, (x - mean[:, None]).square().sum(1))

    def joined(self, other: "Columns") -> "Columns":
        """Both together (Chan, Golub & LeVeque 1983), so that a large mean costs no digits of a small deviation."""
        count, difference = self.count + other.count, other.mean - self.mean
        return Columns(
            count,
            self.low.minimum(other.low),
            self.high.maximum(other.high),
            self.mean + difference * (other.count / count),
            self.squares + other.squares + difference.square() * (self.count * other.count / count),
        )


def check_scale(scale: str) -> None:
    """Raise ValueError for an unknown rule."""
    if scale not in SCALES:
        raise ValueError(f"data_scale={scale!r}; expected {', '.join(map(repr, SCALES))}")


def given_scaling(low: Any, high: Any, levels: int | None, scale: str | None) -> Scaling | str | None:
    """The scaling that settings give: numbers, or the name of a rule, or None. Raises ValueError for half of one."""
    if (low, high, levels) == (None, None, None):
        return scale
    if low is None or high is None or scale is not None:
        raise ValueError(
            f"data_low={low}, data_high={high}, data_levels={levels}, data_scale={scale!r}; expected low and high, or "
            "data_scale, or none"
        )
    return Scaling(low, high, levels)


def find_scaling(pieces: Iterable[Tensor], scale: str | None = None, names: tuple[str, ...] | None = None) -> Scaling:
    """The scaling of data that comes in pieces (n, *shape).

    Args:
        pieces: The data, finite.
        scale: "whole": one scale, from the smallest of all values to the largest; "columns": one for each column or
            channel, from its own smallest to its largest; "standard": one for each, by its mean and standard deviation,
            without ends. By default "standard" for tables, (n, columns), and "whole" for all else.
        names: Of the columns.

    Raises ValueError for an unknown rule, and for data or a column of one value everywhere.
    """
    found, table = None, False
    for piece in pieces:
        piece = piece.unsqueeze(1) if piece.ndim == 1 else piece
        table = piece.ndim == 2
        found = Columns.of(piece) if found is None else found.joined(Columns.of(piece))
    assert found is not None
    scale = scale or ("standard" if table else "whole")
    check_scale(scale)
    if scale == "whole":
        low, high = float(found.low.min()), float(found.high.max())
        if low == high:
            raise ValueError(f"x is {low:g} everywhere, without a range; expected data_low and data_high")
        return Scaling(low, high, None, names=names)
    for number in range(len(found.low)):
        if found.low[number] == found.high[number]:
            column = number if names is None else repr(names[number])
            raise ValueError(f"column {column} is {float(found.low[number]):g} everywhere; expected data without it")
    if scale == "columns":
        return Scaling(tuple(found.low.tolist()), tuple(found.high.tolist()), None, names=names)
    reach = REACH * (found.squares / found.count).sqrt()
    lows, highs = ((found.mean + sign * reach).tolist() for sign in (-1, 1))
    return Scaling(tuple(lows), tuple(highs), None, bounded=False, names=names)
