"""Random numbers that depend on a key alone: each sample has a generator of its own."""

import hashlib
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Noise", "White", "generator"]


def generator(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator seeded by a hash of the key, whose last part is an index below 2^32.

    torch's CPU generator keeps only 32 bits of a seed, of which two in 50,000 would probably collide. So the low bits
    are a one-to-one hash of the index: generators that differ in the index alone are different for certain.
    """
    *stem, index = key
    stem_hash = int.from_bytes(hashlib.blake2b(repr(stem).encode(), digest_size=8).digest(), "little")
    full_hash = int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=4).digest(), "little")
    low = (int(index) + stem_hash) & 0xFFFFFFFF
    for multiplier, shift in ((0x85EBCA6B, 16), (0xC2B2AE35, 13)):  # each line is invertible modulo 2^32
        low ^= low >> shift
        low = low * multiplier & 0xFFFFFFFF
    return torch.Generator(device).manual_seed(full_hash << 32 | (low ^ low >> 16 ^ stem_hash >> 32))


class Noise(Protocol):
    """Unit normals of the shape of x (batch, *shape) for a solver."""

    def __call__(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """The path's noise for the interval from t to s, divided by the square root of its length."""
        ...

    def area(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """What the path's integral over that interval adds to its increment: (integral / h - w / 2) / sqrt(h / 12)."""
        ...

    def fresh(self, x: Tensor) -> Tensor:
        """A draw that belongs to no path."""
        ...

    def take(self, index: Tensor) -> "Noise":
        """The same noise for a selection of the samples."""
        ...


class White:
    """Independent normals; those of sample i depend on (seed, i) and the number of earlier draws alone.

    Args:
        seed: The seed of the whole set of samples.
        indices: Which samples these are.
        device: Where the noise is drawn.
    """

    def __init__(self, seed: int, indices: Sequence[int], device: torch.device | str = "cpu") -> None:
        self._generators = [generator("sample", seed, index, device=device) for index in indices]
        self._block: Tensor | None = None
        self._used = 0

    def __call__(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return self.fresh(x)

    def area(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return self.fresh(x)

    def fresh(self, x: Tensor) -> Tensor:
        # Small samples are drawn several at a time; how many depends on nothing but their shape.
        if self._block is None or self._used == self._block.shape[1]:
            count = min(max(16384 // max(x[0].numel(), 1), 1), 32)
            self._block = x.new_empty(len(x), count, *x.shape[1:])
            for own, row in zip(self._generators, self._block, strict=True):
                row.normal_(generator=own)
            self._used = 0
        self._used += 1
        return self._block[:, self._used - 1]

    def take(self, index: Tensor) -> "White":
        chosen = White.__new__(White)
        chosen._generators = [self._generators[i] for i in index.tolist()]
        chosen._block = None if self._block is None else self._block[index]
        chosen._used = self._used
        return chosen
