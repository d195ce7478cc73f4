"""Raw samples by index, and how they are scaled."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from sdescore.common.scaling import Scaling
from sdescore.data.ranges import find_scaling

__all__ = [
    "Arrays",
    "Batch",
    "Source",
    "channels_first",
    "checked_labels",
    "from_array",
    "read",
    "scaling_of",
    "signed",
]

Batch = tuple[Tensor, Tensor | None]
MOST_CLASSES = 2**20
WIDER = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}


@runtime_checkable
class Source(Protocol):
    """Raw samples by index.

    Attributes:
        shape: Shape of one sample.
        scaling: Between raw values and [-1, 1].
        classes: Number of labels; None without labels.
        lazy: Whether reading takes long enough to be worth worker processes.

    A source may also have `class_names`, a list of the labels' names, and `conditions(indices)`: see Conditioned.
    """

    shape: tuple[int, ...]
    scaling: Scaling
    classes: int | None
    lazy: bool

    def __len__(self) -> int: ...

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Raw samples (n, *shape), and their labels (n,), int64, or None. The name is that of torch's DataLoader."""
        ...


class Arrays:
    """A source in memory.

    Args:
        raw: (n, *shape), integers or floating point; (n,) becomes (n, 1).
        labels: Integers (n,) from 0.
        scaling: Of the raw values, or a rule of find_scaling by which they give it. By default 0 to 255 in 256 levels
            for uint8, and the rule's default for floating point; other integers need one.

    Raises ValueError for values that are not finite or outside the range, saying where, and for labels that do not fit.
    """

    lazy = False
    class_names: list[str] | None = None

    def __init__(self, raw: Tensor, labels: Tensor | None = None, scaling: Scaling | str | None = None) -> None:
        for name, given in (("x", raw), ("labels", labels)):
            if not isinstance(given, Tensor) and (name == "x" or given is not None):
                raise TypeError(f"{name} is a {type(given).__name__}; expected a tensor")
        if raw.ndim == 0 or raw.numel() == 0:
            raise ValueError(f"x has shape {tuple(raw.shape)}; expected (n, *shape) with at least one sample")
        if raw.is_complex() or raw.dtype == torch.bool:
            raise ValueError(f"x has dtype {raw.dtype}; expected integers or floating point")
        _check_finite(raw)
        raw = signed(raw)
        self.raw = raw.unsqueeze(1) if raw.ndim == 1 else raw
        self.scaling = scaling if isinstance(scaling, Scaling) else scaling_of(raw, scaling)
        wrong = self.scaling.outside(self.raw)
        if wrong is not None:
            raise ValueError(f"x: sample {wrong[0]} {wrong[1]}")
        self.labels = None if labels is None else checked_labels(labels, len(raw))
        self.shape = tuple(self.raw.shape[1:])
        self.classes = None if self.labels is None else int(self.labels.max()) + 1

    def __len__(self) -> int:
        return len(self.raw)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        index = torch.as_tensor(indices)
        return self.raw[index], None if self.labels is None else self.labels[index]


def read(source: Source, indices: Sequence[int]) -> tuple[Tensor, dict[str, Tensor]]:
    """Raw samples (n, *shape), and what is known of them by name: "label" (n,), and the source's conditions."""
    raw, labels = source.__getitems__(indices)
    conditions = getattr(source, "conditions", None)
    known = {} if conditions is None else conditions(indices)
    return raw, known if labels is None else {"label": labels, **known}


def from_array(array: np.ndarray) -> Tensor:
    """An array as a tensor, in the machine's byte order and by signed(); copied only where these need it."""
    return signed(torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False)))


def signed(raw: Tensor) -> Tensor:
    """The same numbers, but unsigned ones of 16 bits or more in a wider signed type: torch can do little with them.

    Raises ValueError for numbers from 2^63 on, for which there is none.
    """
    wide = raw.to(WIDER.get(raw.dtype, raw.dtype))
    if raw.dtype == torch.uint64 and bool((wide < 0).any()):
        raise ValueError("values from 2^63 on; expected integers below")
    return wide


def _check_finite(raw: Tensor) -> None:
    if raw.is_floating_point() and not bool(raw.isfinite().all()):
        bad = (~raw.isfinite()).nonzero()
        where = ", ".join(map(str, bad[0].tolist()))
        raise ValueError(f"x[{where}] is {raw[tuple(bad[0])]}; {len(bad)} of {raw.numel()} values are not finite")


def scaling_of(raw: Tensor, scale: str | None, names: tuple[str, ...] | None = None) -> Scaling:
    """The scaling of raw values (n, *shape) by a rule of find_scaling, or the default. Raises ValueError."""
    if scale is None and raw.dtype == torch.uint8:
        return Scaling(names=names)
    if scale is None and not raw.is_floating_point():
        raise ValueError(f"x has dtype {raw.dtype} and no range; expected a scaling, uint8 or floating point")
    return find_scaling([raw], scale, names)


def channels_first(raw: Tensor) -> Tensor:
    """Raw samples (n, ...) as (n, *shape), images with their channels first.

    A tensor of four axes is taken as (n, height, width, channels) if its last axis has 1, 3 or 4 entries and its second
    has not; uint8 of three axes as grey images; (n,) becomes (n, 1). Anything else stays as it is.
    """
    if raw.ndim == 4 and raw.shape[3] in (1, 3, 4) and raw.shape[1] not in (1, 3, 4):
        return raw.movedim(3, 1).contiguous()
    return raw.unsqueeze(1) if raw.ndim == 1 or (raw.ndim == 3 and raw.dtype == torch.uint8) else raw


def checked_labels(labels: Tensor, count: int) -> Tensor:
    """Labels (count,) as int64. Raises ValueError unless they are integers from 0."""
    if labels.shape != (count,) or labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"labels have shape {tuple(labels.shape)}, {labels.dtype}; expected {count} integers")
    labels = signed(labels)
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= MOST_CLASSES:  # a net has weights for each number up to the largest
        raise ValueError(f"labels have {low if low < 0 else high}; expected integers from 0 to {MOST_CLASSES - 1}")
    return labels.long()
