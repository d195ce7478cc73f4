"""One check for each kind of argument: what passes, as what, and that everything else is named."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from sdescore.common import checks, scaling

ONE_AND_A_HALF = torch.tensor(1.5)


def test_what_passes_is_returned_as_pythons_own() -> None:
    assert type(checks.check_count("n", np.int64(3))) is int
    assert type(checks.check_number("a", np.float32(0.5), above=0)) is float
    assert checks.check_number("a", 3) == 3.0 and checks.check_integer("n", -3) == -3
    assert checks.check_dtype("dtype", torch.bfloat16) is torch.bfloat16
    assert checks.check_flag("grad", False) is False


@pytest.mark.parametrize("wrong", [True, 2.5, 3.0, "3", None, torch.tensor(3), np.float64(3), [3]])
def test_integers(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"^steps=.*; expected a positive integer$"):
        checks.check_count("steps", wrong)


@pytest.mark.parametrize("wrong", [True, "0.5", None, torch.tensor(0.5), 0.5j, [0.5]])
def test_kinds_of_numbers(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"^a=.*; expected a positive number$"):
        checks.check_number("a", wrong, above=0)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -1.0, 0, 10**400])
def test_ranges_of_numbers(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"^a=.*; expected a positive number$"):
        checks.check_number("a", wrong, above=0)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: checks.check_integer("n", 1, 2), ValueError, "n=1; expected an integer of at least 2"),
        (lambda: checks.check_number("a", -1, least=0), ValueError, "a=-1; expected a finite number of at least 0"),
        (lambda: checks.check_seed(None), TypeError, "seed=None; expected an integer"),
        (lambda: checks.check_seed(0, -1), ValueError, "index_offset=-1; expected an integer from 0"),
        (lambda: checks.check_seed(0, True), TypeError, "index_offset=True"),
        (lambda: checks.check_flag("flips", "no"), TypeError, "flips='no'; expected True or False"),
        (lambda: checks.check_dtype("dtype", np.float32), TypeError, "dtype=<class 'numpy.float32'>; expected"),
        (lambda: checks.check_dtype("dtype", torch.int32), TypeError, r"dtype=torch\.int32; expected"),
        (lambda: checks.check_tensor("x", np.zeros(3), "(n,)"), TypeError, r"x is a ndarray; expected a tensor \(n,\)"),
        (lambda: checks.check_tensor("x", torch.ones(3).bool(), "(n,)"), TypeError, r"x has dtype torch\.bool"),
        (lambda: checks.check_states(torch.zeros(3, 0)), ValueError, r"x has shape \(3, 0\)"),
        (
            lambda: checks.check_finite("x", torch.tensor([[0.0], [math.nan]])),
            ValueError,
            "not finite in sample 1",
        ),
        (lambda: scaling.Scaling(0, math.inf), ValueError, "high=inf"),
        (lambda: scaling.Scaling(math.nan, 1), ValueError, "low=nan"),
        (lambda: scaling.Scaling(0, 0), ValueError, "high=0; expected a positive number"),
        (lambda: scaling.Scaling(0, 1, 2.5), TypeError, "levels=2.5"),  # type: ignore[arg-type]
    ],
)
def test_refusals(call: Callable[[], object], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        call()


@pytest.mark.parametrize("inference", [False, True])
def test_a_function_that_writes_over_its_input_never_reaches_what_is_its_callers(inference: bool) -> None:
    with torch.inference_mode(inference):
        x = torch.tensor([-1.0, 2.0])
        if inference:
            assert torch.equal(checks.unwritten(torch.relu_, x, "net"), torch.tensor([0.0, 2.0]))
            assert torch.equal(x, torch.tensor([-1.0, 2.0]))
        else:
            with pytest.raises(ValueError, match="net wrote over its input"):
                checks.unwritten(torch.relu_, x, "net")


@pytest.mark.parametrize("wrong", [True, [True, False], np.bool_(True), np.zeros(2, bool), torch.ones(2).bool()])
def test_booleans_are_no_numbers(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"weights is a .*; expected real numbers"):
        checks.as_tensor("weights", wrong, torch.float64)
    assert checks.as_tensor("weights", [0.1, 1], torch.float64).tolist() == [0.1, 1.0]  # to the last digit
