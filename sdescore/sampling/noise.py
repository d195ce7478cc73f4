"""The noise that solvers draw from, and white noise, whose draws belong to each sample alone."""

from collections.abc import Sequence
from copy import copy
from typing import Protocol

import torch
from torch import Tensor

from sdescore.common.random import generator

__all__ = [
    "Noise",
    "WhiteNoise",
    "group_size",
]


class Noise(Protocol):
    """Normal draws for a solver, which may overwrite them: of the shape of x (batch, *shape), std their deviation."""

    def __call__(self, x: Tensor, t: Tensor, s: Tensor, std: float = 1.0) -> Tensor:
        """The path's noise for the interval from t to s, divided by the square root of its length."""
        ...

    def levy_area(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """The part of the path's integral over the interval that its increment w does not determine.

        It is (integral / h - w / 2) / sqrt(h / 12), for an interval of length h.
        """
        ...

    def randn(self, x: Tensor, std: float = 1.0) -> Tensor:
        """A draw that belongs to no path."""
        ...

    def select(self, index: Tensor) -> "Noise":
        """The noise of a selection of the samples; from then on the solver draws from it alone."""
        ...


class WhiteNoise:
    """Independent draws. Those of sample i depend on (seed, i), the use and the number of earlier draws alone.

    Neighbouring samples share a generator and are drawn together, wanted or not: one generator a sample would take
    longer than small samples themselves.

    Args:
        seed: The seed of the whole set of samples.
        indices: Which samples these are.
        device: Where the noise is drawn.
        use: What they are for; another use has other numbers for the same seed.
    """

    def __init__(
        self, seed: int, indices: Sequence[int], device: torch.device | str = "cpu", use: str = "path"
    ) -> None:
        self._key: tuple[int | str, ...] = (use, seed)
        self._indices, self._device = list(indices), device
        self._size = 0  # samples that share a generator, once their shape is known
        self._generators: dict[int, torch.Generator] = {}
        self._rows: slice | Tensor | None = None  # which of the rows that are drawn are wanted; None for all

    def __call__(self, x: Tensor, t: Tensor, s: Tensor, std: float = 1.0) -> Tensor:
        return self.randn(x, std)

    def levy_area(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return self.randn(x)

    def randn(self, x: Tensor, std: float = 1.0) -> Tensor:
        if not self._generators:
            self._open(self._size or group_size(x[0].numel()))
        drawn = x.new_empty(len(self._generators) * self._size, *x.shape[1:])
        for own, part in zip(self._generators.values(), drawn.chunk(len(self._generators)), strict=True):
            part.normal_(0, std, generator=own)
        return drawn if self._rows is None else drawn[self._rows]

    def _open(self, size: int) -> None:
        """Make the generators, each of `size` samples, and keep those that there are."""
        groups = sorted({i // size for i in self._indices})
        self._generators = {k: self._generators.get(k) or generator(*self._key, k, device=self._device) for k in groups}
        places = {group: place for place, group in enumerate(groups)}
        rows = [places[i // size] * size + i % size for i in self._indices]
        self._size = size
        if rows == list(range(len(groups) * size)):
            self._rows = None
        elif rows == list(range(rows[0], rows[0] + len(rows))):
            self._rows = slice(rows[0], rows[0] + len(rows))
        else:
            self._rows = torch.tensor(rows, device=self._device)

    def select(self, index: Tensor) -> "WhiteNoise":
        """The noise of a selection. Draws from the whole after this are independent of all earlier ones."""
        chosen = copy(self)
        chosen._indices = [self._indices[i] for i in index.tolist()]
        if self._size:
            chosen._open(self._size)
        # The selection and the rest may draw different numbers of times, so that the whole has no state to go on from.
        self._key, self._generators = (*self._key, "after"), {}
        return chosen


def group_size(elements: int) -> int:
    """How many samples of so many elements share a generator: a power of 2, so that few batches split a group.

    A group has at most 2^18 numbers: a GPU draws them by one kernel, a CPU core in one to five milliseconds. A batch
    that needs a part of a group pays for the whole.
    """
    return 1 << (min(max(2**18 // max(elements, 1), 1), 256).bit_length() - 1)
