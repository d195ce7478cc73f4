"""A .npy file of any size: only the rows of a batch are read."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdescore.common.scaling import Scaling
from sdescore.data.ranges import find_scaling
from sdescore.data.source import Batch, channels_first, checked_labels, from_array

__all__ = ["MemoryMapped", "open_array"]

logger = logging.getLogger(__name__)
CHUNK = 1 << 24  # bytes read at a time to find the range of a file


class MemoryMapped:
    """The rows of a memory-mapped .npy file.

    Args:
        path: File of an array (n, *shape), integers or floating point; images as channels_first takes them.
        labels: File of integers (n,), or None.
        scaling: Of the values, or a rule of find_scaling, for which the file is read once, in pieces. By default 0 to
            255 for uint8, and the rule's default for floating point; other integers need one.

    Raises ValueError, naming the file, for an array that does not fit; and when a row is read, naming the row, for
    values that are not finite or outside the range.
    """

    lazy = True

    def __init__(
        self, path: str | Path, labels: str | Path | None = None, scaling: Scaling | str | None = None
    ) -> None:
        self.path = Path(path)
        self.labels_path = labels
        self.rows = open_array(self.path, "r")
        if self.rows.ndim == 0 or self.rows.size == 0:
            raise ValueError(f"{path} has shape {self.rows.shape}; expected (n, *shape) with at least one sample")
        if self.rows.dtype.kind not in "uif" or self.rows.dtype.itemsize > 8:
            raise ValueError(f"{path} has dtype {self.rows.dtype}; expected integers or floating point")
        self.shape = tuple(self._tensor(self.rows[:1]).shape[1:])
        self.scaling = scaling if isinstance(scaling, Scaling) else self._scaling(scaling)
        self.scaling.check_shape(self.shape)
        self.labels = None if labels is None else _labels(labels, len(self.rows))
        self.classes = None if self.labels is None else int(self.labels.max()) + 1

    def __reduce__(self) -> tuple[Callable[..., "MemoryMapped"], tuple[Any, ...]]:
        # Other processes map the file themselves: pickled as it is, the whole array would be sent to them.
        return MemoryMapped, (self.path, self.labels_path, self.scaling)

    def _tensor(self, rows: np.ndarray) -> Tensor:
        try:
            return channels_first(from_array(np.array(rows)))  # a copy, since the mapped file is read-only
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from error

    def _scaling(self, scale: str | None) -> Scaling:
        dtype = self.rows.dtype
        if scale is None and dtype == np.uint8:
            return Scaling()
        if scale is None and dtype.kind != "f":
            raise ValueError(f"{self.path} has dtype {dtype} and no range; expected data_low and data_high")
        logger.info("reading %s for its range, which data_low and data_high would make unnecessary", self.path)
        size = max(1, CHUNK // max(1, self.rows[0].nbytes))
        try:
            return find_scaling((self._piece(start, size) for start in range(0, len(self.rows), size)), scale)
        except ValueError as error:
            raise ValueError(f"{self.path}: {str(error).removeprefix(f'{self.path}: ')}") from error

    def _piece(self, start: int, size: int) -> Tensor:
        part = self.rows[start : start + size]
        self._check_finite(part, start)
        return self._tensor(part)

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
        raw = self._tensor(rows)
        wrong = self.scaling.outside(raw)
        if wrong is not None:
            raise ValueError(f"{self.path}: row {indices[wrong[0]]} {wrong[1]}")
        return raw, None if self.labels is None else self.labels[torch.as_tensor(indices)]


def _labels(path: str | Path, count: int) -> Tensor:
    try:
        return checked_labels(from_array(open_array(path)), count)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def open_array(path: str | Path, mode: Any = None) -> np.ndarray:
    """The array of a .npy file. Raises ValueError, naming it, if it is missing, damaged or holds Python objects."""
    try:
        array: np.ndarray = np.load(path, mmap_mode=mode, allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(f"there is no file {str(path)!r}") from None
    except Exception as error:  # numpy evaluates the header as Python's literals, which may go wrong in any way
        raise ValueError(f"{path}: {error}") from error
    return array
