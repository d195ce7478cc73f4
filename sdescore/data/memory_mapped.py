"""A .npy file of any size, of which only the rows of a batch are read."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdescore.common.scaling import Scaling
from sdescore.data.source import Batch, channels_first, checked_labels, from_array

__all__ = ["MemoryMapped"]

logger = logging.getLogger(__name__)
CHUNK = 1 << 24  # bytes read at a time where all of a file is looked at


class MemoryMapped:
    """The rows of a .npy file, mapped into memory: never read as a whole, unless its range is to be found.

    Args:
        path: An array (n, *shape): uint8, other integers or floating point; channels last as in npz.
        labels: A .npy file of integers (n,), or None.
        scaling: Range of the values; needed for integers other than uint8. Floating point without one is read once, in
            pieces, for its smallest and largest value.

    Raises ValueError naming the file for an array that does not fit, and the row for values, when their turn comes,
    that are not finite or outside the range.
    """

    lazy = True

    def __init__(self, path: str | Path, labels: str | Path | None = None, scaling: Scaling | None = None) -> None:
        self.path, self.labels_path = Path(path), labels
        self.rows = _opened(self.path, "r")
        if self.rows.ndim == 0 or self.rows.size == 0:
            raise ValueError(f"{path} has shape {self.rows.shape}; expected (n, *shape) with at least one sample")
        if self.rows.dtype.kind not in "uif" or self.rows.dtype.itemsize > 8:
            raise ValueError(f"{path} has dtype {self.rows.dtype}; expected uint8, other integers and floating point")
        self.shape = tuple(self._tensor(self.rows[:1]).shape[1:])
        self.scaling = scaling or self._range()
        self.labels = None if labels is None else checked_labels(from_array(_opened(labels)), len(self.rows))
        self.classes = None if self.labels is None else int(self.labels.max()) + 1

    def __reduce__(self) -> tuple[Callable[..., "MemoryMapped"], tuple[Any, ...]]:
        return MemoryMapped, (
            self.path,
            self.labels_path,
            self.scaling,
        )  # else the whole array would go to other processes

    @staticmethod
    def _tensor(rows: np.ndarray) -> Tensor:
        return channels_first(from_array(np.array(rows)))  # a copy: what is mapped is not to be written to

    def _range(self) -> Scaling:
        dtype = self.rows.dtype
        if dtype == np.uint8:
            return Scaling()
        if dtype.kind != "f":
            raise ValueError(f"{self.path} has dtype {dtype} and no range; state data_low and data_high")
        logger.info("reading %s for its range; data_low and data_high would spare this", self.path)
        low, high = np.inf, -np.inf
        size = max(1, CHUNK // max(1, self.rows[0].nbytes))
        for start in range(0, len(self.rows), size):
            part = self.rows[start : start + size]
            self._check_finite(part, start)
            low, high = min(low, float(part.min())), max(high, float(part.max()))
        if low == high:
            raise ValueError(f"{self.path} is {low:g} everywhere; state its range")
        return Scaling(low, high, None)

    def _check_finite(self, part: np.ndarray, first: int | Sequence[int]) -> None:
        if part.dtype.kind == "f" and not np.isfinite(part).all():
            bad = np.argwhere(~np.isfinite(part))[0]
            row = first + int(bad[0]) if isinstance(first, int) else first[int(bad[0])]
            where = ", ".join(map(str, [row, *bad[1:]]))
            raise ValueError(f"{self.path}: x[{where}] is {part[tuple(bad)]}; expected finite values")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        rows = np.asarray(self.rows[np.asarray(indices)])
        self._check_finite(rows, indices)
        if rows.min() < self.scaling.low or rows.max() > self.scaling.high:
            flat = rows.reshape(len(rows), -1)
            bad = int(np.argmax((flat < self.scaling.low).any(1) | (flat > self.scaling.high).any(1)))
            raise ValueError(
                f"{self.path}: row {indices[bad]} spans [{flat[bad].min():g}, {flat[bad].max():g}]; the range given is "
                f"[{self.scaling.low:g}, {self.scaling.high:g}]"
            )
        return self._tensor(rows), None if self.labels is None else self.labels[torch.as_tensor(indices)]


def _opened(path: str | Path, mode: Any = None) -> np.ndarray:
    """The array of a .npy file. Raises ValueError, naming it, for one that is absent, torn or of Python objects."""
    try:
        array: np.ndarray = np.load(path, mmap_mode=mode, allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(f"there is no file {str(path)!r}") from None
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path}: {error}") from error
    return array
