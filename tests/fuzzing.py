"""How the fuzzers run: cases in rounds for as long as is asked, each within 10 s of process time."""

import os
import re
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import torch
from hypothesis import HealthCheck, given, seed, settings
from torch import Tensor

# How a call may end otherwise than with an answer: errors that name what is wrong, and results that are not finite.
NAMED = (ValueError, TypeError, FloatingPointError)
LONGEST = 10.0  # seconds of process time


class TooLong(BaseException):
    """A case took longer than it may; nothing in the code may catch it."""


def minutes() -> float:
    """For how long all fuzzers run together: MINUTES of `make fuzz`."""
    return float(os.environ.get("FUZZ_MINUTES", "1"))


@contextmanager
def limited() -> Iterator[None]:
    """End what takes more than LONGEST of process time."""

    def over(*_: object) -> None:
        raise TooLong(f"more than {LONGEST:g} s of process time")

    before = signal.signal(signal.SIGPROF, over)
    signal.setitimer(signal.ITIMER_PROF, LONGEST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def answer(call: Callable[[], Any], names: tuple[str, ...] = ()) -> Any:
    """What a call returns, or the error by which it names one of these arguments or files; others are failures."""
    with limited(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return call()
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, MemoryError) or "allocate memory" in str(error):
                return error  # of a machine that is too small for what is asked
            raise
        except NAMED as error:
            said = str(error)
            if said and (not names or any(re.search(rf"(?<![A-Za-z]){re.escape(name)}", said) for name in names)):
                return error
            raise AssertionError(f"{type(error).__name__} names none of {names}: {said!r}") from error


def fuzz(
    check: Callable[[Any], None], cases: st.SearchStrategy[Any], share: float, name: str, a_round: int = 100
) -> None:
    """Run a check on random cases, so many a round, for a share of the minutes, and note how many there were.

    Each round has a seed of its own, FUZZ_SEED + its number, so that a failure can be run again.
    """
    first = int(os.environ.get("FUZZ_SEED", time.time_ns() % 10**9))
    until = time.monotonic() + 60 * share * minutes()
    done = 0

    @settings(max_examples=a_round, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(cases)
    def round_of(case: Any) -> None:
        nonlocal done
        done += 1
        check(case)

    number = first
    try:
        while time.monotonic() < until or done == 0:
            seed(number)(round_of)()
            number += 1
    finally:
        report = os.environ.get("FUZZ_REPORT")
        if report:
            with open(Path(report), "a") as file:
                file.write(f"{name}\t{done}\tseeds {first} to {number}\n")


def same(one: Any, other: Any) -> bool:
    """Whether two results are the same bits, as far as they are numbers."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.is_meta:
            return other.is_meta
        return one.shape == other.shape and one.dtype == other.dtype and bool(((one == other) | (one != one)).all())
    if isinstance(one, float) and isinstance(other, float):
        return one == other or one != one
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if is_dataclass(one) and not isinstance(one, type) and type(one) is type(other):
        return all(same(getattr(one, each.name), getattr(other, each.name)) for each in fields(one))
    return not isinstance(other, Exception)


def tensors() -> st.SearchStrategy[Any]:
    """Small tensors of any shape, dtype and content, some on no device."""
    shapes = st.sampled_from([(), (0,), (1,), (3,), (3, 2), (3, 0), (1, 2), (2, 2), (3, 1, 2), (1, 1, 1, 1)])
    dtypes = st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32])
    rare = st.sampled_from([torch.uint8, torch.bool, torch.complex64])
    fills = st.sampled_from([0.0, 1.0, -1.0, 0.5, 1e30, float("nan"), float("inf")])
    devices = st.sampled_from(["cpu", "cpu", "cpu", "meta"])

    def made(shape: tuple[int, ...], dtype: torch.dtype, fill: float, device: str) -> torch.Tensor:
        whole = not (dtype.is_floating_point or dtype.is_complex)
        value = int(fill) if whole and abs(fill) < 2 else 1 if whole else fill
        if dtype in (torch.uint8, torch.bool):
            value = abs(value)
        if dtype == torch.float16 and value > 1e4 and value < float("inf"):
            value = 1e4
        return torch.full(shape, value, dtype=dtype, device=device)

    return st.builds(made, shapes, st.one_of(dtypes, dtypes, rare), fills, devices)


def anything() -> st.SearchStrategy[Any]:
    """What someone might give by mistake."""
    import numpy as np

    plain = [None, True, False, 0, 1, 2, 3, -1, 2.5, 0.0, -0.5, 1e-30, 1e30, float("nan"), float("inf"), 2**40, 10**400]
    texts = ["", "x", "no", "adams", "data", "../x"]
    numpys = [np.float64(0.5), np.int64(2), np.bool_(True), np.zeros((3, 2)), np.zeros((3, 2), np.float32), np.float32]
    others: list[Any] = [[], [1.0, 0.5], (3, 2), {}, {"x": 1}, object(), int, len, lambda *_: None, 3j, b"x", range(3)]
    return st.one_of(st.sampled_from([*plain, *texts, *numpys, *others]), tensors())


def describe(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))[-3000:]
