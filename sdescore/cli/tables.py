"""Results as text."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

__all__ = ["markdown", "mean_and_error"]


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with equal keys as a Markdown table; the first column is text, the rest to the right."""
    cells = [list(rows[0]), *(["–" if value is None else str(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    first, *rest = widths
    lines = [
        " | ".join([texts[0].ljust(first), *(text.rjust(width) for text, width in zip(texts[1:], rest, strict=True))])
        for texts in cells
    ]
    lines.insert(1, " | ".join(["-" * first, *("-" * (width - 1) + ":" for width in rest)]))
    return "\n".join(f"| {line} |" for line in lines)


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """The mean of values (n,), and its standard error; NaN for one value."""
    error = values.std() / len(values) ** 0.5 if len(values) > 1 else math.nan
    return float(values.mean()), float(error)
