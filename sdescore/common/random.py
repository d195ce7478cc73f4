"""Random numbers that depend on a key alone, such as the index of a sample."""

import hashlib

import torch

__all__ = ["generator"]


def generator(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator seeded by a hash of the key, whose last part is an index below 2^32.

    torch's CPU generator keeps only 32 bits of a seed: among 50,000 random ones two would probably be equal. So the low
    bits are a one-to-one hash of the index, and keys that differ in their index alone never share a generator.
    """
    *stem, index = key
    stem_hash = int.from_bytes(hashlib.blake2b(repr(stem).encode(), digest_size=8).digest(), "little")
    full_hash = int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=4).digest(), "little")
    low = (int(index) + stem_hash) & 0xFFFFFFFF
    for multiplier, shift in ((0x85EBCA6B, 16), (0xC2B2AE35, 13)):  # each line is invertible modulo 2^32
        low ^= low >> shift
        low = low * multiplier & 0xFFFFFFFF
    return torch.Generator(device).manual_seed(full_hash << 32 | (low ^ low >> 16 ^ stem_hash >> 32))
