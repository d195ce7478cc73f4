"""The integrator against known solutions."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate as scipy_integrate
from tensors_and_errors import rms
from torch import Tensor

from sdescore.density.runge_kutta import DORMAND_PRINCE, TSITOURAS, EmbeddedPair, integrate_runge_kutta


def test_integrator_follows_each_row_at_its_own_pace() -> None:
    """dy/dt = -rate y + cos(t), against SciPy's eighth-order method; stiffer rows take more steps."""
    rates = torch.tensor([[0.5], [5.0], [60.0]], dtype=torch.float64)
    y0 = torch.ones(3, 1, dtype=torch.float64)

    def slope(t: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        return -rates[rows] * y + torch.cos(t)[:, None]

    found = integrate_runge_kutta(slope, y0, 0.0, 3.0, rms(1e-9))
    for rate, value in zip(rates.ravel().tolist(), found.y.ravel().tolist(), strict=True):
        exact = scipy_integrate.solve_ivp(
            lambda t, y, rate=rate: -rate * y + np.cos(t), (0, 3), [1.0], method="DOP853", rtol=1e-12, atol=1e-13
        )
        assert value == pytest.approx(float(exact.y[0, -1]), abs=1e-7)
    assert found.nfe[0] < found.nfe[1] < found.nfe[2]
    assert (found.time == 3.0).all() and not found.failed.any()


@pytest.mark.parametrize("pair", [DORMAND_PRINCE, TSITOURAS], ids=["Dormand-Prince", "Tsitouras"])
def test_integrator_is_of_fifth_order_in_the_tolerance(pair: EmbeddedPair) -> None:
    """Calls grow as tolerance^(-1/5): a factor 10 for 5 powers of ten, where the first steps no longer matter."""

    def slope(t: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        return torch.stack([y[:, 1], -y[:, 0]], 1)

    y0 = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    runs = [
        integrate_runge_kutta(slope, y0, 0.0, 20.0, rms(tolerance), pair, limit=100_000) for tolerance in (1e-6, 1e-11)
    ]
    assert 6 < float(runs[1].nfe) / float(runs[0].nfe) < 14
    torch.testing.assert_close(
        runs[1].y, torch.tensor([[math.sin(20.0), math.cos(20.0)]], dtype=torch.float64), rtol=0, atol=1e-8
    )


def test_integrator_stops_a_row_that_has_used_up_its_calls() -> None:
    rates = torch.tensor([[1.0], [1e5]], dtype=torch.float64)
    found = integrate_runge_kutta(
        lambda t, y, rows: -rates[rows] * y, torch.ones(2, 1, dtype=torch.float64), 0.0, 1.0, rms(1e-6), limit=500
    )
    assert found.stuck.tolist() == found.failed.tolist() == [False, True]
    assert 500 <= int(found.nfe[1]) < 510 and float(found.time[1]) < 1
    assert float(found.y[0]) == pytest.approx(math.exp(-1), abs=1e-5)
