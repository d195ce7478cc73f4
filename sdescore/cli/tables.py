"""Results as text."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor

__all__ = ["markdown", "mean_and_error"]


def markdown(rows: Sequence[Mapping[str, Any]], text: Collection[str] = ()) -> str:
    """Rows with equal keys as a Markdown table; the first column and those of `text` to the left, the rest right."""
    lines = [list(rows[0]), *(["–" if value is None else str(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    left = [not i or name in text for i, name in enumerate(rows[0])]
    columns = list(zip(widths, left, strict=True))
    lines.insert(1, ["-" * width if to_left else "-" * (width - 1) + ":" for width, to_left in columns])
    for line in lines:
        line[:] = [f"{cell:{'<>'[not to_left]}{width}}" for cell, (width, to_left) in zip(line, columns, strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """The mean of values (n,), and its standard error; NaN for one value."""
    error = values.std() / len(values) ** 0.5 if len(values) > 1 else math.nan
    return float(values.mean()), float(error)
