"""The probability-flow ODE: one equation, whatever the coordinate."""

import pickle

import pytest
import torch

from sdescore import VPSDE, GaussianMixture, ReverseProcess
from sdescore.density import ProbabilityFlowODE
from sdescore.density.coordinates import ANGLE, LAM, ROOT_ANGLE, Angle
from sdescore.density.flow import finite_slope, transport

COORDINATES = [ANGLE, ROOT_ANGLE, LAM]
SDE = VPSDE()
TIMES = torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)


@pytest.mark.parametrize("coordinate", COORDINATES, ids=repr)
def test_a_coordinate_has_its_inverse_and_its_rate_and_is_data(coordinate: Angle) -> None:
    lam = torch.linspace(-6, 6, 41, dtype=torch.float64)
    q = coordinate.of(lam).requires_grad_()
    torch.testing.assert_close(coordinate.lam(q), lam, rtol=0, atol=1e-11)
    angle = coordinate.angle(q)
    torch.testing.assert_close(angle, torch.exp(-lam).atan(), rtol=1e-12, atol=0)
    torch.testing.assert_close(coordinate.rate(q), torch.autograd.grad(angle.sum(), q)[0], rtol=1e-10, atol=0)
    assert pickle.loads(pickle.dumps(coordinate)) == coordinate


def test_states_are_carried_to_the_same_end_in_every_coordinate(oracle2: GaussianMixture) -> None:
    reverse, x = ReverseProcess(SDE, oracle2.denoiser(SDE)), oracle2.at(SDE, 0.4).sample(4)
    ends = [transport(reverse, x, 0.4, 0.01, 1e-7, 1e-7, coordinate=each).y for each in COORDINATES]
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-5)
    torch.testing.assert_close(ends[0], ends[2], rtol=0, atol=1e-5)
    assert float((ends[0] - x).abs().max()) > 0.1


def test_times_stay_inside_whatever_q_is(oracle2: GaussianMixture) -> None:
    ode = ProbabilityFlowODE(ReverseProcess(SDE, oracle2.denoiser(SDE)), TIMES, ANGLE)
    high, middle, low = ode.nodes.tolist()
    q = torch.tensor([-1.0, low - 1e-3, middle, high + 1e-3, 9.0], dtype=torch.float32)
    found = ode.time(q)
    assert found.tolist() == pytest.approx([0.1, 0.1, 0.5, 0.9, 0.9], abs=1e-6)
    assert float(found.min()) >= 0.1 and float(found.max()) <= 0.9


def test_a_slope_that_is_not_finite_is_named(oracle2: GaussianMixture) -> None:
    ode = ProbabilityFlowODE(ReverseProcess(SDE, oracle2.denoiser(SDE)), TIMES)
    z = torch.tensor([[0.0, 0.0], [torch.nan, 0.0]], dtype=torch.float64)
    with pytest.raises(FloatingPointError, match=r"mine: values are not finite at t = 0\.9, in 1 of 2 samples"):
        finite_slope(ode, "mine")(ode.nodes[0], z)
