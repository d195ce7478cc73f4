"""sample() and trajectory(): how often the net is called, and what comes out."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from named_solvers import FIXED, NAMES, NoCalls
from small_nets import ConvNet
from torch import Tensor, nn

from sdescore import VPSDE, Denoiser, GaussianMixture, ReverseProcess, Solver, find_solver, sample, trajectory
from sdescore.sampling import karras
from sdescore.sampling.noise import WhiteNoise
from sdescore.sampling.solver import denoises, total_nfe
from sdescore.sampling.times import time_grid


class Counting(nn.Module):
    """A denoiser's score as a bare function that counts its calls, times and rows."""

    predicts = "score"

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.inner = denoiser
        self.times: list[float] = []
        self.rows: list[int] = []

    def forward(self, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        self.times.append(float(t[0]))
        self.rows.append(len(x))
        return self.inner.score(x, t)


# How often the net is called ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIXED)
def test_calls_are_what_the_solver_says(name: str, oracle2: GaussianMixture) -> None:
    sde = VPSDE()
    solver: Any = find_solver(name)
    for steps in (2, 3, 9):
        net = Counting(oracle2.denoiser(sde))
        sample(sde, net, (3, 2), solver=name, steps=steps)
        assert len(net.times) == total_nfe(solver, steps)
        reverse = ReverseProcess(sde, oracle2.denoiser(sde))
        times = time_grid(sde, solver, steps)
        states = list(solver.solve(reverse, torch.zeros(3, 2, dtype=torch.float64), times, WhiteNoise(0, range(3))))
        assert (len(states) == steps) == denoises(solver)  # else sample() denoises, by one call more
        assert reverse.net_calls.count == solver.nfe(steps - 1) == total_nfe(solver, steps) - (not denoises(solver))


@pytest.mark.parametrize("name", FIXED)
def test_nfe_takes_the_longest_grid_that_fits(name: str, oracle2: GaussianMixture) -> None:
    sde = VPSDE()
    solver = find_solver(name)
    for budget in (12, 20, 31):
        net = Counting(oracle2.denoiser(sde))
        steps = len(list(trajectory(sde, net, (2, 2), solver=name, nfe=budget))) - 1
        assert len(net.times) <= budget < total_nfe(solver, steps + 1)
    least = total_nfe(solver, 2)
    assert len(list(trajectory(sde, net, (2, 2), solver=name, nfe=least))) == 3
    with pytest.raises(ValueError, match=rf"nfe={least - 1} is too small: .* {least} net calls"):
        sample(sde, net, (2, 2), solver=name, nfe=least - 1)


def test_a_batch_is_never_larger_than_the_set(oracle2: GaussianMixture) -> None:
    net = Counting(oracle2.denoiser(VPSDE()))
    sample(VPSDE(), net, (8, 2), steps=3, batch_size=256)
    assert net.rows == [8, 8, 8]


def test_one_step_is_the_denoiser_at_the_prior(oracle2: GaussianMixture) -> None:
    sde, net = VPSDE(), oracle2.denoiser(VPSDE())
    start, end = trajectory(sde, net, (5, 2), steps=1)
    assert torch.equal(end, net(start, torch.tensor(1.0, dtype=torch.float64)))


class Reusing(NoCalls):
    """A method that calls the net at every other step."""

    def nfe(self, intervals: int) -> int:
        return (intervals + 1) // 2


def test_steps_may_cost_less_than_a_call() -> None:
    assert len(time_grid(VPSDE(), Reusing(), nfe=8)) == 15


# What comes out -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIXED)
def test_trajectory_ends_with_the_sample(name: str, oracle2: GaussianMixture) -> None:
    sde, net = VPSDE(), oracle2.denoiser(VPSDE())
    states, copies = [], []
    for x in trajectory(sde, net, (4, 2), solver=name, steps=7, seed=2):
        states.append(x)
        copies.append(x.clone())
    assert len(states) == 8
    assert torch.equal(states[-1], sample(sde, net, (4, 2), solver=name, steps=7, seed=2))
    # A yielded state is never written again, nor is it memory that another one shares.
    assert all(torch.equal(a, b) for a, b in zip(states, copies, strict=True))
    assert len({x.untyped_storage().data_ptr() for x in states}) == 8
    denoised = net(states[-2], time_grid(sde, find_solver(name), 7)[-1])
    extrapolates = getattr(find_solver(name), "end", 1) > 1
    assert torch.equal(states[-1], denoised) != extrapolates
    # What the end adds is of order rho^2: denoising errs by so much where the grid ends.
    rho = float(sde.rho(time_grid(sde, find_solver(name), 7)[-1]))
    torch.testing.assert_close(states[-1], denoised, rtol=0, atol=20 * rho**2 + 1e-6)


def test_times_as_a_tensor(oracle2: GaussianMixture) -> None:
    sde = VPSDE()
    net = Counting(oracle2.denoiser(sde))
    times = torch.tensor([0.9, 0.5, 0.4, 0.01])
    x = sample(sde, net, (3, 2), solver="euler", times=times)
    assert net.times == pytest.approx(times.tolist())
    # A function of (sde, steps) is a grid as well.
    again = sample(sde, net, (3, 2), solver="euler", steps=4, times=lambda sde, steps: torch.linspace(0.9, 0.1, steps))
    assert net.times[4:] == pytest.approx(torch.linspace(0.9, 0.1, 4).tolist())
    assert x.shape == again.shape
    # The initial state has the standard deviation of times[0], not of T.
    low = next(trajectory(sde, net, (4000, 2), times=torch.tensor([0.1, 0.05])))
    assert float(low.std()) == pytest.approx(float(sde.sigma(torch.tensor(0.1))), rel=0.05)


def test_starting_state(oracle2: GaussianMixture) -> None:
    sde, net = VPSDE(), oracle2.denoiser(VPSDE())
    start = oracle2.at(sde, 0.5).sample(10)
    times = torch.linspace(0.5, 0.01, 8)
    first, *_, last = trajectory(sde, net, x=start, times=times)
    assert torch.equal(first, start)
    assert torch.equal(sample(sde, net, x=start, times=times, batch_size=3), last)
    assert torch.equal(start, oracle2.at(sde, 0.5).sample(10))


def test_dtype_of_the_state(oracle2: GaussianMixture) -> None:
    sde = VPSDE()
    low = oracle2.to(torch.float32).denoiser(sde)
    assert sample(sde, low, (2, 2), steps=3).dtype == torch.float32
    assert sample(sde, low, (2, 2), steps=3, dtype=torch.float64).dtype == torch.float64
    assert sample(sde, oracle2.denoiser(sde), (2, 2), steps=3).dtype == torch.float64
    assert sample(sde, lambda x, t: -x, (2, 2), steps=3).dtype == torch.float32
    assert sample(sde, lambda x, t: -x, x=torch.zeros(2, 2, dtype=torch.float64), steps=3).dtype == torch.float64
    half = Denoiser(ConvNet().bfloat16(), sde)
    assert sample(sde, half, (2, 1, 4, 4), steps=3).dtype == torch.float32


class Labelled(nn.Module):
    """A bare net of which the score depends on a label and a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[list[int], tuple[int, ...]]] = []

    def forward(self, x: Tensor, t: Tensor, *, label: Tensor, other: Tensor) -> Tensor:
        self.seen.append((label.tolist(), tuple(other.shape)))
        return -(x - label.to(x).unsqueeze(1) - other.mean(1, keepdim=True))


@pytest.mark.parametrize("name", ["heun", "predictor-corrector"])
def test_condition_goes_with_its_sample(name: str) -> None:
    sde, net = VPSDE(), Labelled()
    condition = {"label": torch.arange(5), "other": torch.randn(5, 3)}
    whole = sample(sde, net, (5, 2), solver=name, steps=4, condition=condition)
    assert {tuple(label) for label, _ in net.seen} == {(0, 1, 2, 3, 4)}
    net.seen.clear()
    parts = sample(sde, net, (5, 2), solver=name, steps=4, condition=condition, batch_size=2)
    # The last batch is padded with copies of the last sample.
    assert [label for label, _ in net.seen[:: len(net.seen) // 3]] == [[0, 1], [2, 3], [4, 4]]
    assert {shape for _, shape in net.seen} == {(2, 3)}
    assert torch.equal(parts, whole)
    other = sample(
        sde, net, (5, 2), solver=name, steps=4, condition={**condition, "label": torch.tensor([0, 1, 9, 3, 4])}
    )
    assert torch.equal(other[[0, 1, 3, 4]], whole[[0, 1, 3, 4]]) and not torch.equal(other[2], whole[2])


def test_bare_callables(oracle2: GaussianMixture) -> None:
    """A function of (x, t) is a score, or what `predicts` says: its own attribute or the argument."""
    sde, denoiser = VPSDE(), oracle2.denoiser(VPSDE())
    grid = karras()  # the default grid depends on what is predicted
    expected = sample(sde, denoiser, (6, 2), steps=6, times=grid)

    def noise(x: Tensor, t: Tensor) -> Tensor:
        assert t.shape == (len(x),)
        return denoiser.noise(x, t)

    class Velocity:
        predicts = "velocity"

        def __call__(self, x: Tensor, t: Tensor) -> Tensor:
            return denoiser.velocity(x, t)

    calls: list[tuple[Any, str | None]] = [
        (lambda x, t: denoiser.score(x, t), None),
        (noise, "noise"),
        (Velocity(), None),
        (lambda x, t: denoiser(x, t), "data"),
    ]
    for net, predicts in calls:
        value = sample(sde, net, (6, 2), steps=6, times=grid, predicts=predicts, dtype=torch.float64)
        assert float((value - expected).abs().max()) < 1e-9
    wrong = sample(sde, Velocity(), (6, 2), steps=6, times=grid, predicts="score", dtype=torch.float64)
    assert float((wrong - expected).abs().max()) > 0.1


def test_solver_objects(oracle2: GaussianMixture) -> None:
    """Any object with solve() will do; what is found by name is the same."""
    sde, net = VPSDE(), oracle2.denoiser(VPSDE())

    class Mine:
        def solve(self, reverse: ReverseProcess, x: Tensor, times: Tensor, noise: Any) -> Iterator[Tensor]:
            for t, s in pairwise(times):
                x = x + (s - t) * reverse.velocity(x, t)
                yield x

    assert bool(sample(sde, net, (3, 2), solver=Mine(), steps=50).isfinite().all())
    for name in NAMES:
        assert find_solver(find_solver(name)) is not None
        assert isinstance(find_solver(name), Solver)
