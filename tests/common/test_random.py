"""Generators by key: which parts of a key count, and that no two keys share a stream."""

import hashlib
from typing import Any

import numpy as np
import pytest
import torch

from sdescore.common.random import generator


def words(key: tuple[Any, ...], count: int = 4) -> tuple[int, ...]:
    return tuple(torch.randint(2**32, (count,), generator=generator(*key)).tolist())


def test_the_stream_is_that_of_the_hashed_state_in_numpys_mersenne_twister() -> None:
    state = np.frombuffer(hashlib.shake_128(b"('path', 3, 7)").digest(4 * 624), "<u4").astype(np.uint32)
    twister = np.random.RandomState()
    twister.set_state(("MT19937", state, 624, 0, 0.0))
    expected = twister.randint(0, 2**32, 2000, dtype=np.uint64)
    drawn = torch.empty(1000, dtype=torch.int64).random_(generator=generator("path", 3, 7))  # two words a number
    assert np.array_equal(drawn.numpy().astype(np.uint64), (expected[::2] << 32 | expected[1::2]) & (2**63 - 1))


# Of 200,000 keys ("path", seed below 20, group below 10,000), those whose seeds once agreed in the 32 bits torch keeps.
ONCE_ALIKE = [((7, 4985), (9, 6100)), ((8, 2607), (13, 2671)), ((3, 7421), (15, 9923)), ((1, 2913), (16, 1741))]


@pytest.mark.parametrize(("one", "other"), ONCE_ALIKE)
def test_keys_share_no_stream_for_want_of_bits_in_a_seed(one: tuple[int, int], other: tuple[int, int]) -> None:
    assert words(("path", *one)) != words(("path", *other))


def test_no_two_keys_share_a_stream() -> None:
    assert len({words(("path", seed, group)) for seed in range(4) for group in range(1500)}) == 6000


def test_large_numbers_and_negative_seeds_count_in_full() -> None:
    keys: list[tuple[Any, ...]] = [("path", 0, index) for index in (0, 1, 2**32, 2**40, 2**64, 2**70)]
    keys += [("path", seed, 0) for seed in (-1, 2**32, 2**64, 1)] + [("other", 0, 0), ("path", "0", 0)]
    assert len({words(key) for key in keys}) == len(keys)


@pytest.mark.parametrize("same", [np.int64(3), np.uint8(3), np.array(3)])
def test_integers_of_numpy_are_integers(same: Any) -> None:
    assert words(("path", same, 0)) == words(("path", 3, 0))


@pytest.mark.parametrize("wrong", [True, np.True_, 3.0, None, torch.Generator(), torch.tensor(3), [3], 3j])
def test_other_parts_of_a_key_are_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"key=.*; expected an integer"):
        generator("path", wrong, 0)
