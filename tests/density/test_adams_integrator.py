"""The adaptive Adams method against known formulas and solutions."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from tensors_and_errors import rms
from torch import Tensor

from sdescore.density.adams import HIGHEST, _newton, integrate_adams
from sdescore.density.runge_kutta import integrate_runge_kutta


def column(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)[:, None]


def circle(t: Tensor, y: Tensor, rows: Tensor) -> Tensor:
    return torch.stack([y[:, 1], -y[:, 0]], 1)


def test_weights_on_equal_steps_are_those_of_the_textbook() -> None:
    """Hairer, Norsett & Wanner, table III.1.1 and equation III.1.9, of order 4."""
    nodes = torch.tensor([[0.0, -1.0, -2.0, -3.0]], dtype=torch.float64)
    explicit, implicit = (_newton(each)[0].sum(0) * 24 for each in (nodes, nodes + 1))
    torch.testing.assert_close(explicit, torch.tensor([55.0, -59, 37, -9], dtype=torch.float64))
    torch.testing.assert_close(implicit, torch.tensor([9.0, 19, -5, 1], dtype=torch.float64))


def test_weights_on_unequal_steps_integrate_polynomials_exactly() -> None:
    """Up to the highest degree that can come up; leaving terms out leaves the nodes first in line."""
    own = torch.Generator().manual_seed(0)
    nodes = torch.rand(5, HIGHEST + 1, generator=own, dtype=torch.float64).cumsum(1).neg() + 1
    terms = _newton(nodes)
    for count in range(1, HIGHEST + 2):
        weights = terms[:, :count].sum(1)
        assert (weights[:, count:] == 0).all()
        for degree in range(count):
            found = (weights * nodes**degree).sum(1)
            torch.testing.assert_close(found, torch.full_like(found, 1 / (degree + 1)), rtol=1e-6, atol=1e-6)


def test_each_row_has_its_own_pace() -> None:
    """dy/dt = -rate y + cos(t), against SciPy's eighth-order method; stiffer rows take more steps."""
    rates = column(0.5, 5, 60)
    found = integrate_adams(
        lambda t, y, rows: -rates[rows] * y + t.cos()[:, None], column(1, 1, 1), 0.0, 3.0, rms(1e-9)
    )
    for rate, value in zip(rates.ravel().tolist(), found.y.ravel().tolist(), strict=True):
        exact = solve_ivp(
            lambda t, y, rate=rate: -rate * y + np.cos(t), (0, 3), [1.0], method="DOP853", rtol=1e-12, atol=1e-13
        )
        assert value == pytest.approx(float(exact.y[0, -1]), abs=1e-7)
    assert found.nfe[0] < found.nfe[1] < found.nfe[2]
    assert (found.time == 3.0).all() and not found.failed.any()


@pytest.mark.parametrize("way", [1.0, -1.0])
def test_the_error_follows_the_tolerance_and_calls_grow_as_of_high_order(way: float) -> None:
    """10^(4 / 9) = 2.8 times the calls for four powers of ten, once round the circle and more, both ways."""
    exact = torch.tensor([[math.sin(10.0), way * math.cos(10.0)]], dtype=torch.float64)
    begun = torch.tensor([[0.0, way]], dtype=torch.float64)
    runs = [integrate_adams(circle, begun, 0.0, way * 10.0, rms(tolerance)) for tolerance in (1e-6, 1e-10)]
    errors = [float((run.y - exact).norm()) for run in runs]
    assert errors[0] < 1e-4 and errors[1] < errors[0] / 1000
    assert int(runs[1].nfe) < 3.2 * int(runs[0].nfe)


def test_it_takes_fewer_calls_than_a_runge_kutta_pair_at_equal_error() -> None:
    def slope(t: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        return (3 * t)[:, None].sin() * y.cos()

    y = torch.linspace(-1, 1, 8, dtype=torch.float64)[:, None]
    exact = integrate_runge_kutta(slope, y, 0.0, 4.0, rms(1e-12)).y
    pair, found = integrate_runge_kutta(slope, y, 0.0, 4.0, rms(1e-6)), integrate_adams(slope, y, 0.0, 4.0, rms(1e-6))
    assert float((found.y - exact).abs().mean()) <= float((pair.y - exact).abs().mean())
    assert float(found.nfe.float().mean()) <= 0.6 * float(pair.nfe.float().mean())


def test_rows_do_not_feel_each_other_and_times_stay_inside() -> None:
    seen: list[float] = []

    def slope(t: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        seen.extend([float(t.min()), float(t.max())])
        return -column(1, 3, 40)[rows] * y * t.sin()[:, None]

    together = integrate_adams(slope, column(1, 2, -3), 0.5, 2.5, rms(1e-6))
    assert min(seen) == 0.5 and max(seen) == 2.5
    for row, number in enumerate((1.0, 2.0, -3.0)):

        def own(t: Tensor, y: Tensor, rows: Tensor, row: int = row) -> Tensor:
            return slope(t, y, rows + row)

        alone = integrate_adams(own, column(number), 0.5, 2.5, rms(1e-6))
        torch.testing.assert_close(alone.y[0], together.y[row], rtol=1e-12, atol=0)
        assert alone.nfe[0] == together.nfe[row]


def test_a_row_without_a_finite_slope_stops_there_and_the_others_go_on() -> None:
    walls = torch.tensor([0.7, 9.0, 0.0], dtype=torch.float64)

    def slope(t: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        return torch.where((t < walls[rows])[:, None], -y, torch.nan)

    found = integrate_adams(slope, column(1, 1, 1), 0.0, 1.0, rms(1e-8))
    assert found.failed.tolist() == [True, False, True] and not found.stuck.any()
    assert found.time.tolist() == pytest.approx([0.7, 1, 0], abs=1e-9)
    assert float(found.y[1]) == pytest.approx(math.exp(-1), abs=1e-7)


def test_a_row_that_has_used_up_its_calls_stops() -> None:
    rates = column(1, 1e5)
    found = integrate_adams(lambda t, y, rows: -rates[rows] * y, column(1, 1), 0.0, 1.0, rms(1e-6), limit=500)
    assert found.stuck.tolist() == found.failed.tolist() == [False, True]
    assert int(found.nfe[1]) == 500 and float(found.time[1]) < 1
    assert float(found.y[0]) == pytest.approx(math.exp(-1), abs=1e-5)
    rough = integrate_adams(lambda t, y, rows: 1e9 * (1e18 * t).sin()[:, None], column(0), 0.0, 1.0, rms(1e-12))
    assert rough.stuck.tolist() == rough.failed.tolist() == [True]
