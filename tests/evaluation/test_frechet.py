"""The Fréchet distance against closed forms, scipy's matrix square root and its invariances."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from sdescore.evaluation.metrics import frechet_distance


def with_moments(mean: Tensor, covariance: Tensor, count: int = 200, seed: int = 0) -> Tensor:
    """Features (count, d) that have exactly this mean and covariance."""
    own = torch.Generator().manual_seed(seed)
    x = torch.randn(count, len(mean), generator=own, dtype=torch.float64)
    x = torch.linalg.qr(x - x.mean(0)).Q * (count - 1) ** 0.5
    values, vectors = torch.linalg.eigh(covariance)
    return mean + x @ (vectors * values.clamp(min=0).sqrt()).T


def rotation(size: int, seed: int) -> Tensor:
    own = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, size, generator=own, dtype=torch.float64)).Q


def covariance(size: int, seed: int) -> Tensor:
    own = torch.Generator().manual_seed(seed)
    a = torch.randn(size, size, generator=own, dtype=torch.float64)
    return a @ a.T / size


def test_commuting_covariances_have_a_closed_form() -> None:
    q, a, b = rotation(3, 1), torch.tensor([4.0, 1.0, 0.25]).double(), torch.tensor([1.0, 9.0, 0.25]).double()
    shift = torch.tensor([3.0, 0.0, 4.0], dtype=torch.float64)
    first = with_moments(torch.zeros(3, dtype=torch.float64), q * a @ q.T, seed=2)
    second = with_moments(shift, q * b @ q.T, count=70, seed=3)
    # |m|^2 + sum of (sqrt(a) - sqrt(b))^2 = 25 + 1 + 4 + 0
    assert frechet_distance(first, second) == pytest.approx(30, rel=1e-12)


@pytest.mark.parametrize("size", [2, 16, 64])
def test_covariances_that_do_not_commute_agree_with_scipy(size: int) -> None:
    one, two = covariance(size, 4), covariance(size, 5)
    mean = torch.zeros(size, dtype=torch.float64)
    root = np.trace(sqrtm((one @ two).numpy())).real
    expected = float(one.trace() + two.trace()) - 2 * root
    assert frechet_distance(with_moments(mean, one), with_moments(mean + 1, two)) == pytest.approx(size + expected)


def test_singular_covariances_and_fewer_samples_than_features() -> None:
    # Two lines at an angle: |m|^2 + a + b - 2 sqrt(a b) |cos|.
    angle, mean = 0.7, torch.zeros(2, dtype=torch.float64)
    u, v = torch.tensor([1.0, 0.0]).double(), torch.tensor([math.cos(angle), math.sin(angle)]).double()
    first, second = with_moments(mean, 4 * torch.outer(u, u)), with_moments(mean, 9 * torch.outer(v, v))
    assert frechet_distance(first, second) == pytest.approx(4 + 9 - 12 * math.cos(angle), rel=1e-7)
    # Embedding the plane in many more dimensions than there are samples changes nothing.
    few = torch.randn(8, 2, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    wide = rotation(50, 7)[:, :2]
    assert frechet_distance(few @ wide.T, second @ wide.T) == pytest.approx(frechet_distance(few, second), rel=1e-9)


def test_invariances() -> None:
    one, two = (
        with_moments(torch.zeros(5).double(), covariance(5, 8)),
        with_moments(torch.ones(5).double(), covariance(5, 9)),
    )
    distance, q = frechet_distance(one, two), rotation(5, 10)
    assert frechet_distance(two, one) == pytest.approx(distance)
    assert frechet_distance(one @ q + 7, two @ q + 7) == pytest.approx(distance)
    assert frechet_distance(3 * one, 3 * two) == pytest.approx(9 * distance)
    assert frechet_distance(one.float(), two.float()) == pytest.approx(distance, rel=1e-5)
    assert frechet_distance(one, one.flip(0)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (torch.zeros(4), torch.zeros(4, 1), "first has shape"),
        (torch.zeros(4, 2), torch.zeros(1, 2), "second has shape"),
        (torch.zeros(4, 2), torch.zeros(4, 3), "first has 2 columns and second 3"),
        (torch.zeros(4, 2), torch.tensor([[0.0, math.nan], [0.0, 0.0]]), "second is not finite in 1 of its 2 rows"),
    ],
)
def test_bad_input_is_named(first: Tensor, second: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        frechet_distance(first, second)
