"""Which samples of a source each step takes, and the share of each process."""

import signal
from collections.abc import Generator, Iterable, Sequence
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from sdescore.common.random import generator
from sdescore.data.source import Source, read

__all__ = ["batches", "evenly_spaced", "in_order", "order", "share"]


@lru_cache(maxsize=4)
def _permutation(seed: int, count: int, epoch: int) -> Tensor:
    return torch.randperm(count, generator=generator("order", seed, epoch))


def order(seed: int, count: int, step: int, batch: int) -> Tensor:
    """The indices (batch,) that a step (from 0) takes of `count` samples, over all processes together.

    Each epoch is a permutation of its own, and epochs follow each other without a gap: after k epochs every sample was
    taken k times. The arguments alone decide, so that a resumed run needs no other state.
    """
    position = step * batch
    end = position + batch
    pieces = []
    while position < end:
        epoch, start = divmod(position, count)
        piece = _permutation(seed, count, epoch)[start : start + end - position]
        pieces.append(piece)
        position += len(piece)
    return torch.cat(pieces)


def share(batch: int, rank: int, processes: int) -> slice:
    """The part of a global batch that a process takes; the parts differ by at most one sample."""
    return slice(rank * batch // processes, (rank + 1) * batch // processes)


def evenly_spaced(count: int, most: int) -> list[int]:
    """At most `most` indices below `count`, from the first to the last."""
    return sorted({i * (count - 1) // (most - 1) for i in range(most)})


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
) -> Generator[tuple[Tensor, dict[str, Tensor]], None, None]:
    """This process's share of the batch of each step, and what is known of it by name; in page-locked memory if `pin`.

    If the source is lazy, `workers` processes read ahead. Raises ValueError for a sample that cannot be read.
    """
    mine = share(batch, rank, processes)
    chosen = (order(seed, len(source), step, batch)[mine].tolist() for step in steps)
    yield from _read_all(source, chosen, workers, pin)


def in_order(
    source: Source, size: int, start: int = 0, workers: int = 0
) -> Generator[tuple[Tensor, dict[str, Tensor]], None, None]:
    """All samples from `start` on, so many at a time, and what is known of them by name; otherwise as batches()."""
    count = len(source)
    yield from _read_all(source, (list(range(i, min(i + size, count))) for i in range(start, count, size)), workers)


def _read_all(
    source: Source, chosen: Iterable[list[int]], workers: int, pin: bool = False
) -> Generator[tuple[Tensor, dict[str, Tensor]], None, None]:
    loader = DataLoader(
        cast(Any, _Reading(source)),
        batch_sampler=chosen,
        collate_fn=_unchanged,
        worker_init_fn=_unmoved,
        num_workers=workers if source.lazy else 0,
        pin_memory=pin,
        generator=torch.Generator(),  # its own: workers are seeded from it, and the global one must not be drawn from
    )
    try:
        yield from loader
    except ValueError as error:  # a worker's error carries its traceback in the message
        raise ValueError(str(error).strip().splitlines()[-1].removeprefix("ValueError: ")) from error


class _Reading:
    """What torch's DataLoader reads a source by."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, dict[str, Tensor]]:
        return read(self.source, indices)


def _unmoved(_: int) -> None:
    """Leave it to the process that trains what to do about signals that a terminal or a cluster sends to all processes.

    It would be told of the death of one that reads for it by an error in the middle of a step. A second SIGTERM counts.
    """
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: signal.signal(number, signal.SIG_DFL))


def _unchanged(batch: Any) -> Any:
    return batch
