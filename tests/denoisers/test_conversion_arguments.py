"""What a conversion refuses: times at which the process has no noise, or that are none, and anything but tensors."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from sdescore import VPSDE
from sdescore.denoisers import convert

X = torch.ones(3, 2, dtype=torch.float64)


@pytest.mark.parametrize(
    ("changed", "error", "said"),
    [
        ({"t": torch.tensor(0.0)}, ValueError, r"t spans \[0, 0\]"),
        ({"t": torch.tensor(-1.0)}, ValueError, r"t spans \[-1, -1\]"),
        ({"t": torch.tensor(math.nan)}, ValueError, r"t spans \[nan, nan\]"),
        ({"t": torch.tensor([0.5, 0.5])}, ValueError, r"t has shape \(2,\); expected \(\) or \(3,\)"),
        ({"t": 0.5}, TypeError, "t is a float; expected a tensor"),
        ({"t": torch.tensor(1)}, TypeError, r"t has dtype torch\.int64"),
        ({"x": np.ones((3, 2))}, TypeError, "x is a ndarray"),
        ({"prediction": X[:1]}, ValueError, r"prediction has shape \(1, 2\), but x has \(3, 2\)"),
        ({"prediction": X.tolist()}, TypeError, "prediction is a list"),
        ({"data_std": math.inf}, ValueError, "data_std=inf; expected a positive number"),
        ({"data_std": 0}, ValueError, "data_std=0"),
        ({"sde": "vp"}, TypeError, "sde is 'vp'"),
        ({"given": "eps"}, ValueError, "given='eps'"),
    ],
)
def test_refusals(changed: dict[str, Any], error: type[Exception], said: str) -> None:
    arguments = {"prediction": X, "x": X, "t": torch.tensor(0.5), "sde": VPSDE(), "given": "edm", "wanted": "score"}
    with pytest.raises(error, match=said):
        convert(**arguments | changed)  # type: ignore[arg-type]
