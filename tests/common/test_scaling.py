"""Scalings: one for all values, and one for each column or channel."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sdescore.common.scaling import Scaling
from sdescore.data.ranges import find_scaling

SPREADS = np.array([1e-6, 3.0, 2e5])


def table(rows: int = 400) -> np.ndarray:
    """Columns of very different units; the mean of the last is large beside its deviation."""
    return np.random.default_rng(0).standard_normal((rows, 3)) * SPREADS + np.array([0.0, -7.0, 1e9])


@pytest.mark.parametrize("scale", ["whole", "columns", "standard"])
def test_pieces_give_what_the_whole_gives(scale: str) -> None:
    x = table()
    found = find_scaling([torch.from_numpy(piece) for piece in np.array_split(x, 7)], scale)
    low, high = (np.broadcast_to(np.array(each), 3) for each in (found.low, found.high))
    wanted = {
        "whole": (x.min(), x.max()),
        "columns": (x.min(0), x.max(0)),
        "standard": (x.mean(0) - 2 * x.std(0), x.mean(0) + 2 * x.std(0)),
    }[scale]
    spread = high - low
    assert (abs(low - wanted[0]) < 1e-9 * spread).all() and (abs(high - wanted[1]) < 1e-9 * spread).all()
    assert found.bounded == (scale != "standard")


def test_a_standard_table_has_deviation_one_half_in_every_column() -> None:
    raw = torch.from_numpy(table())
    scaling = find_scaling([raw])
    x = scaling.to_model(raw)
    assert x.dtype == torch.float32
    assert x.mean(0).abs().max() < 1e-6 and (x.std(0, correction=0) - 0.5).abs().max() < 1e-6
    back = scaling.to_data(x.double())
    assert ((back - raw).abs() < torch.from_numpy(1e-6 * SPREADS)).all()


def test_channels_of_series_have_their_own_scale() -> None:
    raw = torch.from_numpy(np.random.default_rng(1).standard_normal((30, 2, 9)) * np.array([[1.0], [1e4]]))
    scaling = find_scaling([raw], "columns")
    x = scaling.to_model(raw, torch.float64)
    assert x.amin((0, 2)).tolist() == pytest.approx([-1, -1]) and x.amax((0, 2)).tolist() == pytest.approx([1, 1])
    assert torch.allclose(scaling.to_data(x), raw, rtol=1e-12)


def test_the_volume_is_the_jacobian_of_the_scaling() -> None:
    """Autograd's determinant, of a scaling with one end for all columns and of one for each."""
    for scaling, shape in (
        (Scaling(-3.0, 5.0, None), (2, 3)),
        (Scaling((0.0, -1.0), (1e-3, 50.0), None, bounded=False), (2, 3)),
        (Scaling(0.0, (2.0, 4.0), None), (2,)),
    ):

        def flat(raw: Tensor, scaling: Scaling = scaling, shape: tuple[int, ...] = shape) -> Tensor:
            return scaling.unchecked(raw.reshape(1, *shape)).flatten()

        jacobian: Any = torch.autograd.functional.jacobian(flat, torch.full((math.prod(shape),), 1e-4).double())
        assert scaling.log_volume(shape) == pytest.approx(float(torch.linalg.slogdet(jacobian).logabsdet), rel=1e-9)


def test_what_leaves_the_range() -> None:
    scaling = Scaling((0.0, 0.0), (1.0, 9.0), None, names=("age", "height"))
    with pytest.raises(ValueError, match=r"raw: sample 1 has 9.5 in column 'height'; expected .* range \[0, 9\]"):
        scaling.to_model(torch.tensor([[0.5, 3.0], [0.5, 9.5]]))
    assert scaling.to_data(torch.tensor([[2.0, 0.0]])).tolist() == [[1.0, 4.5]]
    free = Scaling((0.0, 0.0), (1.0, 9.0), None, bounded=False)
    assert free.to_model(torch.tensor([[0.5, 18.0]])).tolist() == [[0.0, 3.0]]
    assert free.to_data(torch.tensor([[0.0, 3.0]])).tolist() == [[0.5, 18.0]]


def test_refused() -> None:
    for arguments, said in (
        ({"low": (0.0, 1.0), "high": (1.0, 1.0)}, r"high=1.0; expected a finite number above 1"),
        ({"low": (0.0, 1.0), "high": (1.0,)}, r"lengths \[2, 1\]"),
        ({"low": 0.0, "high": 1.0, "names": ("a", "a")}, "names that differ"),
    ):
        with pytest.raises(ValueError, match=said):
            Scaling(levels=None, **arguments)
    with pytest.raises(ValueError, match=r"shape \(3,\); the scaling has 2 columns"):
        Scaling((0.0, 0.0), 1.0, None).to_model(torch.zeros(4, 3))
    with pytest.raises(ValueError, match="column 1 is 4 everywhere"):
        find_scaling([torch.tensor([[1.0, 4.0], [2.0, 4.0]])])
    with pytest.raises(ValueError, match="data_scale='mean'; expected 'whole'"):
        find_scaling([torch.rand(3, 2)], "mean")
