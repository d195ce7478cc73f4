"""A run of DiffusersScheduler: what it refuses, what it leaves as it was, and what is copied and saved."""

from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from pushed_schedulers import begun, go_on, loop, made, net, start
from torch import Tensor

from sdescore import Noise, ReverseProcess

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("greenlet")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")  # of NumPy 2, in its schedulers

# Order and samples ---------------------------------------------------------------------------------------------------


def test_a_changed_sample_is_refused() -> None:
    scheduler, x = begun()
    assert go_on(scheduler, x.clone()) is not None  # the same numbers
    scheduler, x = begun()
    with pytest.raises(ValueError, match="sample is not what the last step returned"):
        go_on(scheduler, x + 1e-9)
    scheduler, x = begun()
    x.mul_(1.0)
    with pytest.raises(ValueError, match="sample is not what the last step returned"):
        go_on(scheduler, x)
    scheduler, x = begun()
    with pytest.raises(ValueError, match="sample is not what the last step returned"):
        go_on(scheduler, x[:2])


def test_a_batch_that_is_carried_twice_may_have_its_first_half_repeated() -> None:
    """As DiTPipeline does under guidance, where noise makes the halves differ."""
    once, twice = made("ddpm", seed=0), made("ddpm", seed=0)
    x, y = start(), start().repeat(2, 1)
    for scheduler in (once, twice):
        scheduler.set_timesteps(6)
    for timestep in once.timesteps:
        x = once.step(net(once, x, timestep), timestep, x).prev_sample
        y = torch.cat([y[:4], y[:4]])
        y = twice.step(net(twice, y, timestep), timestep, y).prev_sample
    torch.testing.assert_close(y[:4], x)
    assert not torch.equal(y[4:], x)


def test_steps_out_of_order_are_refused() -> None:
    scheduler, x = begun()
    with pytest.raises(ValueError, match=r"timestep=571 is out of order; expected 714"):
        go_on(scheduler, x, scheduler.timesteps[3])
    with pytest.raises(ValueError, match="no times are set"):
        made().step(x, 3, x)
    other = made()
    other.set_timesteps(3)
    with pytest.raises(ValueError, match=r"timestep=7 is not one of timesteps, \[999, 500, 0\]"):
        other.step(x, 7, x)
    x = loop(other, start())
    with pytest.raises(ValueError, match="the run is over; expected a call of set_timesteps"):
        other.step(x, 0, x)
    other.set_timesteps(3)
    assert torch.equal(loop(other, start()), x)


def test_outputs_of_another_shape_are_refused_and_learned_variances_left_out() -> None:
    scheduler, x = begun()
    with pytest.raises(ValueError, match="the net returned"):
        scheduler.step(x[:2], scheduler.timesteps[2], x)
    (output,) = [net(scheduler, x, scheduler.timesteps[2])]
    doubled = scheduler.step(torch.cat([output, 7 * output], 1), scheduler.timesteps[2], x).prev_sample
    assert torch.equal(doubled, go_on(*begun()).prev_sample)


class AsTheSamplesNeed:
    """A solver that says how often it calls the net, and where depends on what it says."""

    def solve(self, reverse: ReverseProcess, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        for t, s in pairwise(times):
            far = reverse.noise(x, t if float(x.abs().max()) < 50 else (t + s) / 2)
            x = x + 0.01 * far
            yield x

    def nfe(self, intervals: int) -> int:
        return intervals


def test_calls_that_were_not_planned_are_refused() -> None:
    scheduler = made(AsTheSamplesNeed())
    scheduler.set_timesteps(4)
    loop(scheduler, start())
    scheduler.set_timesteps(4)
    x = 49.999 * torch.ones(4, 3, dtype=torch.float64)
    output = 100 * torch.ones_like(x)
    with pytest.raises(RuntimeError, match=r"calls the net at t = 499.5 instead of 666"):
        scheduler.step(output, scheduler.timesteps[0], x)


class Faulty:
    def solve(self, reverse: ReverseProcess, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        for t in times[:-1]:
            x = reverse.noise(x, t)
            if bool((x > 1e3).any()):
                raise ZeroDivisionError("in the solver")
            yield x


def test_errors_of_the_solver_come_out_of_the_step() -> None:
    scheduler = made(Faulty())
    scheduler.set_timesteps(4)
    with pytest.raises(ZeroDivisionError, match="in the solver"):
        scheduler.step(torch.full((4, 3), 1e4), scheduler.timesteps[0], torch.zeros(4, 3))


# Gradients -----------------------------------------------------------------------------------------------------------


class Toggling:
    """A solver that calls the net with gradients off, or on, and checks that it finds them so after the call."""

    def __init__(self, on: bool) -> None:
        self.on = on

    def solve(self, reverse: ReverseProcess, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        for t in times[:-1]:
            before = torch.is_grad_enabled()
            with torch.set_grad_enabled(self.on):
                eps = reverse.noise(x, t)
                assert torch.is_grad_enabled() is self.on
            assert torch.is_grad_enabled() is before
            x = x - 0.1 * eps
            yield x


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("inside", [False, True])
def test_gradients_are_on_or_off_on_each_side_for_itself(outside: bool, inside: bool) -> None:
    scheduler, x = made(Toggling(inside)), start()
    scheduler.set_timesteps(5)
    with torch.set_grad_enabled(outside):
        for timestep in scheduler.timesteps:
            x = scheduler.step(net(scheduler, x, timestep), timestep, x).prev_sample
            assert torch.is_grad_enabled() is outside


@pytest.mark.parametrize("outside", [False, True])
def test_a_run_that_is_given_up_leaves_gradients_as_they_are(outside: bool) -> None:
    scheduler, x = made(Toggling(not outside)), start()
    with torch.set_grad_enabled(not outside):
        scheduler.set_timesteps(5)
        scheduler.step(x, scheduler.timesteps[0], x)
    with torch.set_grad_enabled(outside):
        scheduler.set_timesteps(5)
        assert torch.is_grad_enabled() is outside
        scheduler.step(x, scheduler.timesteps[0], x)
        del scheduler
        assert torch.is_grad_enabled() is outside


def test_gradients_flow_through_a_run() -> None:
    x = start().requires_grad_()
    scheduler = made("heun")
    scheduler.set_timesteps(4)
    (slope,) = torch.autograd.grad(loop(scheduler, x).sum(), x)
    step = 1e-6 * torch.ones_like(x)
    with torch.no_grad():
        ends = []
        for sign in (1, -1):
            scheduler.set_timesteps(4)
            ends.append(float(loop(scheduler, x + sign * step).sum()))
    assert abs((ends[0] - ends[1]) / 2e-6 - float(slope.sum())) < 1e-4 * abs(float(slope.sum()))
