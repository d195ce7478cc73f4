"""What sample() refuses of arguments of other kinds, by their names, and the data that it warns of."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch

from sdescore import VPSDE, Denoiser, GaussianMixture, sample
from sdescore.nets import MLP
from sdescore.sampling import reverse_sample

SDE = VPSDE()
NET = GaussianMixture(torch.zeros(1, 2)).denoiser(SDE)
CLASSES = Denoiser(MLP(2, width=8, depth=1, classes=3), SDE)


def given(**changed: Any) -> torch.Tensor:
    arguments = {"sde": SDE, "net": NET, "shape": (4, 2), "steps": 4} | changed
    return sample(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "error", "said"),
    [
        ({"x": np.zeros((4, 2)), "shape": None}, TypeError, "x is a ndarray; expected a tensor"),
        ({"x": [[0.0, 0.0]], "shape": None}, TypeError, "x is a list; expected a tensor"),
        ({"condition": {"label": np.zeros(4)}}, ValueError, r"condition\['label'\] is ndarray; expected a tensor"),
        ({"condition": [1, 2, 3, 4]}, TypeError, "condition is a list; expected a dict of tensors by name"),
        ({"condition": {"x": torch.zeros(4)}}, ValueError, "condition has 'x'; expected names other than x, t"),
        ({"condition": {0: torch.zeros(4)}}, ValueError, "condition has 0; expected names"),
        ({"net": CLASSES, "condition": {"label": torch.full((4,), 4)}}, ValueError, "holds 4; expected 0 to 3"),
        ({"net": CLASSES, "condition": {"label": torch.full((4,), -1)}}, ValueError, "holds -1; expected 0 to 3"),
        ({"dtype": np.float32}, TypeError, "dtype=.*numpy.float32.*; expected a floating-point dtype of torch"),
        ({"shape": (True, 2)}, TypeError, r"shape=\(True, 2\); expected \(n, \*sample_shape\), all integers"),
        ({"shape": "42"}, TypeError, "shape='42'"),
        ({"seed": True}, TypeError, "seed=True; expected an integer"),
        ({"seed": 3.0}, TypeError, r"seed=3\.0; expected an integer"),
        ({"seed": None}, TypeError, "seed=None; expected an integer"),
        ({"seed": torch.Generator()}, TypeError, "seed=<torch.*; expected an integer"),
        ({"index_offset": 1.5}, TypeError, r"index_offset=1\.5; expected an integer from 0"),
        ({"index_offset": -1}, ValueError, "index_offset=-1; expected an integer from 0"),
        ({"batch_size": True}, TypeError, "batch_size=True; expected a positive integer"),
    ],
)
def test_refusals(changed: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        given(**changed)


def test_numpys_integers_are_integers() -> None:
    expected = given(seed=3, index_offset=1, batch_size=2)
    found = given(seed=np.int64(3), index_offset=np.int32(1), batch_size=np.uint8(2), shape=(np.int64(4), 2))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("offset", [2**32, 2**40, 2**63, 2**70])
def test_samples_far_along_are_their_own(offset: int) -> None:
    near, far = given(), given(index_offset=offset)
    assert not bool((near == far).any()) and torch.equal(far[1:], given(index_offset=offset + 1)[:3])


@pytest.mark.parametrize("std", [1e-2, 1e-3, 1e-4])
def test_data_narrower_than_the_end_of_the_times_are_warned_of(std: float) -> None:
    """Of Gaussian data the last denoising, at noise rho, leaves (1 + (rho / std)^2)^(-1/2) of the spread."""
    net = GaussianMixture(torch.zeros(1, 2), std).denoiser(SDE)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        x = given(net=net, shape=(4000, 2), steps=60, solver="dpm++")
    kept = (1 + (0.002 / std) ** 2) ** -0.5  # Karras et al.'s grid ends at 0.002
    assert float(x.std()) / std == pytest.approx(kept, abs=0.03)
    wanted = [each for each in caught if "0.002, which is not small against data_std" in str(each.message)]
    assert bool(wanted) == (kept < 0.9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        given(net=net, steps=None, times=torch.tensor([1.0, 0.5, 0.1]))  # chosen by hand


def test_a_plain_callable_says_nothing_of_its_data() -> None:
    narrow = GaussianMixture(torch.zeros(1, 2), 1e-4).denoiser(SDE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        given(net=narrow.score)


@pytest.mark.parametrize(
    ("changed", "error", "said"),
    [
        ({"steps": True}, TypeError, "steps=True; expected a positive integer"),
        ({"steps": 0}, ValueError, "steps=0; expected a positive integer"),
        ({"steps": None, "nfe": 2.0}, TypeError, r"nfe=2\.0; expected a positive integer"),
        ({"times": lambda sde, steps: None}, TypeError, r"times\(sde, steps\) is a NoneType; expected a tensor"),
        ({"times": lambda sde, steps: np.ones(3)}, TypeError, r"times\(sde, steps\) is a ndarray; expected a tensor"),
    ],
)
def test_refusals_of_times(changed: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        given(**changed)


def reversed_from(**changed: Any) -> torch.Tensor:
    arguments = {"sde": SDE, "score": lambda x, t: -x, "shape": (3, 2), "steps": 3} | changed
    return reverse_sample(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "error", "said"),
    [
        ({"seed": True}, TypeError, "seed=True"),
        ({"index_offset": -1}, ValueError, "index_offset=-1"),
        ({"steps": True}, TypeError, "steps=True"),
        ({"steps": 1}, ValueError, "steps=1; expected an integer of at least 2"),
        ({"shape": (3.0, 2)}, TypeError, r"shape=3\.0"),
        ({"shape": 3}, ValueError, "shape=3; expected"),
        ({"dtype": np.float32}, TypeError, "dtype="),
        ({"sde": "vp"}, TypeError, "sde is 'vp'"),
        ({"condition": {"x": torch.zeros(3)}}, ValueError, "condition has 'x'"),
        ({"condition": {"a": torch.zeros(2)}}, ValueError, r"condition\['a'\] is \(2,\)"),
        ({"score": lambda x, t: torch.relu_(x)}, ValueError, "net wrote over its input"),
    ],
)
def test_refusals_where_there_is_no_kernel(changed: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        reversed_from(**changed)
