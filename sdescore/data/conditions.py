"""What is known of each sample besides its label, by name: what a net may be given."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdescore.data.batches import evenly_spaced
from sdescore.data.memory_mapped import open_array
from sdescore.data.source import Batch, Source, from_array

__all__ = ["Conditioned", "MappedRows", "condition_statistics"]


class MappedRows:
    """The rows of a memory-mapped .npy file, as they are. Raises ValueError, naming the file, if there is none."""

    def __init__(self, path: str | Path) -> None:
        self.path = path
        self.rows = open_array(path, "r")

    def __reduce__(self) -> tuple[Callable[..., "MappedRows"], tuple[Any, ...]]:
        return MappedRows, (self.path,)  # other processes map the file themselves

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        return np.array(self.rows[indices])


class Conditioned:
    """A source with conditions by name beside its samples and labels.

    Args:
        source: The samples.
        known: For each name an array, tensor or MappedRows (n, ...) with a row for each sample, of numbers.

    Raises ValueError for another number of rows, and when rows are read for values that are not finite; a row, or a
    token of a sequence, that is NaN throughout stands for none.
    """

    def __init__(self, source: Source, known: Mapping[str, Any]) -> None:
        for name, rows in known.items():
            if len(rows) != len(source):
                raise ValueError(
                    f"condition {name!r} has {len(rows)} rows; expected {len(source)}, one for each sample"
                )
        self.source = source
        self.known = dict(known)
        self.shape = source.shape
        self.scaling = source.scaling
        self.classes = source.classes
        self.class_names = getattr(source, "class_names", None)
        self.lazy = source.lazy or any(isinstance(rows, MappedRows) for rows in known.values())

    def __len__(self) -> int:
        return len(self.source)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        return self.source.__getitems__(indices)

    def conditions(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The rows of every condition, numbers (n, ...); one number for each sample becomes (n, 1)."""
        return {name: self._rows(name, rows, list(indices)) for name, rows in self.known.items()}

    def _rows(self, name: str, rows: Any, indices: list[int]) -> Tensor:
        found = rows[torch.as_tensor(indices)] if isinstance(rows, Tensor) else from_array(rows[np.asarray(indices)])
        found = found.unsqueeze(1) if found.ndim == 1 else found
        if found.is_floating_point() and not bool(found.isfinite().all()):
            gone = found.isnan().flatten(2 if found.ndim == 3 else 1)  # of a token, or of a row
            bad = (gone.any(-1) & ~gone.all(-1)).reshape(len(found), -1).any(1) | found.isinf().flatten(1).any(1)
            if bool(bad.any()):
                sample = indices[int(bad.nonzero()[0])]
                raise ValueError(
                    f"condition {name!r} of sample {sample} is not finite; expected numbers, or NaN throughout"
                )
        return found


def condition_statistics(source: Source, name: str, axis: int | None, most: int = 4096) -> tuple[Any, Any]:
    """The mean and standard deviation of a condition, along an axis or, if that is None, of all its numbers.

    They are those of at most `most` evenly spaced samples, without those that have none. The standard deviation is 1
    where all numbers are alike.
    """
    total, squares, count = torch.zeros(()), torch.zeros(()), torch.zeros(())
    indices = evenly_spaced(len(source), most)
    for start in range(0, len(indices), 256):
        rows = source.conditions(indices[start : start + 256])[name].double()  # type: ignore[attr-defined]
        numbers = rows.reshape(-1, 1) if axis is None else rows.movedim(axis, -1).reshape(-1, rows.shape[axis])
        count = count + (~numbers.isnan()).sum(0)
        total = total + numbers.nansum(0)
        squares = squares + numbers.square().nansum(0)
    mean = total / count.clamp(min=1)
    variance = (squares / count.clamp(min=1) - mean**2).clamp(min=0)
    std = torch.where(variance > 1e-12 * (mean**2 + 1e-12), variance.sqrt(), 1.0)
    return (mean.item(), std.item()) if axis is None else (mean.tolist(), std.tolist())
