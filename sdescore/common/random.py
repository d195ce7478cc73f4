"""Random numbers that depend on a key alone, such as the index of a sample."""

import hashlib
from functools import cache

import numpy as np
import torch

from sdescore.common.checks import check_integer

__all__ = ["generator"]

WORDS = slice(24, 24 + 8 * 624)  # where torch keeps the 624 words of a Mersenne Twister, each in 8 bytes
SEED = slice(0, 8)


def generator(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator whose state is a hash of the key: words, and integers of any size.

    torch's CPU generator keeps 32 bits of a seed, which two of 100,000 keys would probably share. So the hash fills its
    whole state of 19,968 bits; generators of other devices keep 64 bits of a seed.
    Raises TypeError for a part of the key that is neither a word nor an integer.
    """
    parts = tuple(part if isinstance(part, str) else check_integer("key", part) for part in key)
    made = torch.Generator(device)
    hashed = hashlib.shake_128(repr(parts).encode())
    if made.device.type != "cpu":
        return made.manual_seed(int.from_bytes(hashed.digest(8), "little"))
    filled = np.frombuffer(hashed.digest(4 * 624), "<u4")
    state = _fresh_state().copy()
    state[WORDS].view(np.uint64)[:] = filled
    state[SEED] = filled[:2].view(np.uint8)
    return made.set_state(torch.from_numpy(state))


@cache
def _fresh_state() -> np.ndarray:
    """The state of a CPU generator before its first draw. Raises RuntimeError for a torch of another layout."""
    state = torch.Generator().manual_seed(0).get_state().numpy()
    if not np.array_equal(state[WORDS].view(np.uint64), np.random.RandomState(0).get_state()[1]):  # type: ignore[index]
        raise RuntimeError(f"torch {torch.__version__} keeps the state of a generator in an unknown layout")
    return state
