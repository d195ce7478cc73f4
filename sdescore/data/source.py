"""Training data: raw samples by index, how they are scaled, and which of them each step takes."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from sdescore.common.random import generator
from sdescore.common.scaling import Scaling

__all__ = [
    "Arrays",
    "Batch",
    "Source",
    "batches",
    "channels_first",
    "checked_labels",
    "checksum",
    "evenly_spaced",
    "from_array",
    "order",
    "share",
    "signed",
]

Batch = tuple[Tensor, Tensor | None]
WIDER = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}


@runtime_checkable
class Source(Protocol):
    """Raw samples by index.

    shape is that of one sample; scaling takes raw values to [-1, 1]; classes is the number of labels, None without
    labels; lazy says that reading costs enough to be worth processes of its own.
    """

    shape: tuple[int, ...]
    scaling: Scaling
    classes: int | None
    lazy: bool

    def __len__(self) -> int: ...

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Raw samples (n, *shape) and their labels (n,), int64, or None; named so for torch's DataLoader."""
        ...


class Arrays:
    """A source in memory.

    Args:
        raw: (n, *shape), uint8, other integers or floating point; vectors (n,) become (n, 1).
        labels: Integers (n,) from 0.
        scaling: Range of the raw values; needed for integers other than uint8. Otherwise 0 to 255 in 256 levels for
            uint8, and the smallest to the largest value for floating point.

    Raises ValueError for values that are not finite or outside the range, saying where, and for labels that do not fit.
    """

    lazy = False

    def __init__(self, raw: Tensor, labels: Tensor | None = None, scaling: Scaling | None = None) -> None:
        if raw.ndim == 0 or raw.numel() == 0:
            raise ValueError(f"x has shape {tuple(raw.shape)}; expected (n, *shape) with at least one sample")
        if raw.is_complex() or raw.dtype == torch.bool:
            raise ValueError(f"x has dtype {raw.dtype}; expected uint8, other integers and floating point")
        _check_finite(raw)
        raw = signed(raw)
        self.raw = raw.unsqueeze(1) if raw.ndim == 1 else raw
        self.scaling = scaling or _default_scaling(raw)
        low, high = float(raw.min()), float(raw.max())
        if low < self.scaling.low or high > self.scaling.high:
            outside = (self.raw < self.scaling.low) | (self.raw > self.scaling.high)
            raise ValueError(
                f"x spans [{low:g}, {high:g}]; the range given is [{self.scaling.low}, {self.scaling.high}], left "
                f"first in sample {int(outside.flatten(1).any(1).nonzero()[0])}"
            )
        self.labels = None if labels is None else checked_labels(labels, len(raw))
        self.shape = tuple(self.raw.shape[1:])
        self.classes = None if self.labels is None else int(self.labels.max()) + 1

    def __len__(self) -> int:
        return len(self.raw)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        index = torch.as_tensor(indices)
        return self.raw[index], None if self.labels is None else self.labels[index]


def from_array(array: np.ndarray) -> Tensor:
    """An array as a tensor: in this machine's order of bytes, and signed where torch needs it; a copy only for that."""
    return signed(torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False)))


def signed(raw: Tensor) -> Tensor:
    """The same numbers, in a wider type where they are unsigned of 16 bits or more: torch can do little with those."""
    return raw.to(WIDER.get(raw.dtype, raw.dtype))


def _check_finite(raw: Tensor) -> None:
    if raw.is_floating_point() and not bool(raw.isfinite().all()):
        bad = (~raw.isfinite()).nonzero()
        where = ", ".join(map(str, bad[0].tolist()))
        raise ValueError(f"x[{where}] is {raw[tuple(bad[0])]}; {len(bad)} of {raw.numel()} values are not finite")


def _default_scaling(raw: Tensor) -> Scaling:
    if raw.dtype == torch.uint8:
        return Scaling()
    if not raw.is_floating_point():
        raise ValueError(f"x has dtype {raw.dtype} and no range; state it, or give uint8 and floating point")
    if raw.min() == raw.max():
        raise ValueError(f"x is {raw.min():g} everywhere; state its range")
    return Scaling(float(raw.min()), float(raw.max()), None)


def channels_first(raw: Tensor) -> Tensor:
    """Raw samples (n, ...) as (n, *shape), images with their channels first.

    Four axes whose last has 1, 3 or 4 entries, and whose second has another number, are (n, height, width, channels);
    uint8 with three axes are grey images; numbers (n,) become vectors (n, 1). Anything else stays.
    """
    if raw.ndim == 4 and raw.shape[3] in (1, 3, 4) and raw.shape[1] not in (1, 3, 4):
        return raw.movedim(3, 1).contiguous()
    return raw.unsqueeze(1) if raw.ndim == 1 or (raw.ndim == 3 and raw.dtype == torch.uint8) else raw


def checked_labels(labels: Tensor, count: int) -> Tensor:
    """Labels as int64. Raises ValueError unless they are `count` integers from 0."""
    if labels.shape != (count,) or labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"labels have shape {tuple(labels.shape)}, {labels.dtype}; expected {count} integers")
    labels = signed(labels)
    if labels.min() < 0:
        raise ValueError(f"labels have {int(labels.min())}; expected integers from 0")
    return labels.long()


def evenly_spaced(count: int, most: int) -> list[int]:
    """At most so many numbers below `count`, from the first to the last."""
    return sorted({i * (count - 1) // (most - 1) for i in range(most)})


def checksum(source: Source) -> str:
    """A checksum of 16 samples and labels, evenly spaced: other data may be as many, of one shape and range."""
    raw, labels = source.__getitems__(evenly_spaced(len(source), 16))
    digest = hashlib.sha256(raw.cpu().contiguous().view(torch.uint8).numpy().tobytes())  # NumPy has no bf16
    if labels is not None:
        digest.update(labels.cpu().numpy().tobytes())
    return digest.hexdigest()


@lru_cache(maxsize=4)
def _permutation(seed: int, count: int, epoch: int) -> Tensor:
    return torch.randperm(count, generator=generator("order", seed, epoch))


def order(seed: int, count: int, step: int, batch: int) -> Tensor:
    """Which of `count` samples the step (from 0) takes, (batch,), for all processes together.

    Epochs follow each other without a gap, each a permutation of its own: after k epochs every sample was taken k
    times. Nothing but the arguments decides, so that a resumed run needs no other state.
    """
    position, end, pieces = step * batch, (step + 1) * batch, []
    while position < end:
        epoch, start = divmod(position, count)
        piece = _permutation(seed, count, epoch)[start : start + end - position]
        pieces.append(piece)
        position += len(piece)
    return torch.cat(pieces)


def share(batch: int, rank: int, processes: int) -> slice:
    """The part of a global batch that a process takes; parts differ by at most one sample."""
    return slice(rank * batch // processes, (rank + 1) * batch // processes)


def batches(
    source: Source,
    seed: int,
    batch: int,
    steps: range,
    *,
    rank: int = 0,
    processes: int = 1,
    workers: int = 0,
    pin: bool = False,
) -> Iterator[Batch]:
    """This process's share of the batch of each step; `workers` processes read ahead from a lazy source.

    Raises ValueError for a sample that cannot be read.
    """
    mine = share(batch, rank, processes)
    chosen = (order(seed, len(source), step, batch)[mine].tolist() for step in steps)
    loader = DataLoader(
        cast(Any, source),
        batch_sampler=chosen,
        collate_fn=_as_it_is,
        num_workers=workers if source.lazy else 0,
        pin_memory=pin,
        generator=torch.Generator(),  # its own, since workers are seeded from it
    )
    try:
        yield from loader
    except ValueError as error:  # that of a worker comes with the traceback in its message
        raise ValueError(str(error).strip().splitlines()[-1].removeprefix("ValueError: ")) from error


def _as_it_is(batch: Any) -> Any:
    return batch
