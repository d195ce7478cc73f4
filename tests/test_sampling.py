"""sample() and trajectory(): which bits belong to a sample, how often the net is called, and what is refused."""

import math
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sdescore import (
    SDE,
    VESDE,
    VPSDE,
    Denoiser,
    FlowSDE,
    GaussianMixture,
    KarrasSDE,
    LinearSDE,
    OneStep,
    Reverse,
    Solver,
    find_solver,
    sample,
    trajectory,
)
from sdescore.noise import White, generator
from sdescore.sampling import time_grid
from sdescore.solver import calls_of
from sdescore.solvers import AnnealedLangevin, EulerMaruyama, Langevin


def knows_its_calls(name: str) -> bool:
    try:
        calls_of(find_solver(name))(3)
    except ValueError:
        return False
    return True


NAMES = sorted({entry.name for entry in entry_points(group="sdescore.solvers")})
FIXED = [name for name in NAMES if knows_its_calls(name)]
BUILT_IN = {
    "euler",
    "heun",
    "rk4",
    "dpm++",
    "ddpm",
    "euler-maruyama",
    "reverse-diffusion",
    "predictor-corrector",
    "annealed-langevin",
}


def image_oracle() -> GaussianMixture:
    draw = torch.Generator().manual_seed(5)
    return GaussianMixture(torch.randn(3, 1, 4, 4, generator=draw), [0.2, 0.3, 0.4], [0.2, 0.3, 0.5])


class Counting(nn.Module):
    """A denoiser's score as a bare function that counts its calls, times and rows."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.inner = denoiser
        self.times: list[float] = []
        self.rows: list[int] = []

    def forward(self, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        self.times.append(float(t[0]))
        self.rows.append(len(x))
        return self.inner.score(x, t)


class ConvNet(nn.Module):
    """A small net whose rows are not computed alone."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(
            nn.Conv2d(2, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.SiLU(), nn.Conv2d(16, 1, 3, padding=1)
        )

    def forward(self, y: Tensor, c_noise: Tensor) -> Tensor:
        level = c_noise.to(y).reshape(-1, 1, 1, 1).expand_as(y)
        return self.layers(torch.cat([y, level], 1))


# Which bits belong to a sample ----------------------------------------------------------------------------------------


def test_names() -> None:
    assert set(NAMES) >= BUILT_IN and set(FIXED) >= BUILT_IN


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", FIXED)
def test_batch_size_changes_no_bit(name: str, dtype: torch.dtype, oracle2: GaussianMixture) -> None:
    sde = VPSDE()
    for mixture, count in ((oracle2.to(dtype), 67), (image_oracle().to(dtype), 9)):
        net = mixture.denoiser(sde)
        shape = (count, *mixture.shape)
        whole = sample(sde, net, shape, solver=name, steps=5)
        assert whole.shape == shape and whole.dtype == dtype
        for size in (7, 64):
            assert torch.equal(sample(sde, net, shape, solver=name, steps=5, batch_size=size), whole), size
        ones = sample(sde, net, (9, *mixture.shape), solver=name, steps=5, batch_size=1)
        assert torch.equal(ones, whole[:9])


@pytest.mark.parametrize("name", FIXED)
def test_processes_share_a_set(name: str) -> None:
    """Each process takes whole batches, the last one padded: the parts are the whole."""
    sde, net = KarrasSDE(), image_oracle().denoiser(KarrasSDE())
    whole = sample(sde, net, (10, 1, 4, 4), solver=name, steps=5, seed=3, batch_size=4)
    parts = [
        sample(sde, net, (count, 1, 4, 4), solver=name, steps=5, seed=3, batch_size=4, first=first)
        for first, count in ((0, 4), (4, 4), (8, 2))
    ]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-10)], ids=str)
@pytest.mark.parametrize("name", ["heun", "dpm++", "euler-maruyama"])
def test_batch_size_with_a_convolutional_net(name: str, dtype: torch.dtype, tolerance: float) -> None:
    sde, net = VPSDE(), ConvNet().to(dtype)
    whole = sample(sde, Denoiser(net, sde), (20, 1, 8, 8), solver=name, steps=10)
    for size in (1, 7):
        part = sample(sde, Denoiser(net, sde), (20, 1, 8, 8), solver=name, steps=10, batch_size=size)
        assert float((part - whole).abs().max() / whole.abs().max()) < tolerance


@pytest.mark.parametrize("name", ["heun", "euler-maruyama"])
def test_seeds_differ(name: str, oracle2: GaussianMixture) -> None:
    sde, net = VPSDE(), oracle2.denoiser(VPSDE())
    one, same, two = (sample(sde, net, (50, 2), solver=name, steps=5, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not bool((one == two).any())
    assert len(one.unique(dim=0)) == 50
    # The samples of one seed are not those of another, moved along.
    assert not any(torch.equal(one[i:], two[: 50 - i]) or torch.equal(two[i:], one[: 50 - i]) for i in range(49))


def test_numbers_continue(oracle2: GaussianMixture) -> None:
    sde, net = VPSDE(), oracle2.denoiser(VPSDE())
    longer, shorter = (sample(sde, net, (n, 2), solver="ddpm", steps=5, first=2) for n in (9, 4))
    assert torch.equal(longer[:4], shorter)


def test_initial_state_is_the_prior(sde: LinearSDE) -> None:
    oracle = image_oracle()
    first = next(trajectory(sde, oracle.denoiser(sde), (2000, 1, 4, 4), steps=2))
    expected = float(sde.sigma(torch.tensor(sde.T, dtype=torch.float64)))
    assert float(first.std()) == pytest.approx(expected, rel=5 / math.sqrt(2 * first.numel()))


def test_global_state_is_left_alone(oracle2: GaussianMixture) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    sample(VPSDE(), oracle2.denoiser(VPSDE()), (5, 2), solver="euler-maruyama", steps=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_no_two_generators_are_alike() -> None:
    """Not even in the 32 bits that torch keeps of a seed, of which two in 100,000 would probably be alike by chance."""
    count = 100_000
    for seed in (0, 1):
        kept = {generator("sample", seed, i).initial_seed() & 0xFFFFFFFF for i in range(count)}
        assert len(kept) == count
    draws = {torch.randint(2**62, (1,), generator=generator("sample", 0, i)).item() for i in range(20_000)}
    assert len(draws) == 20_000
    # Other seeds and other uses of the same number are other streams.
    others = [generator(use, seed, 7).initial_seed() for use in ("sample", "mixture") for seed in range(2000)]
    assert len(set(others)) == 4000


def test_generators_are_independent() -> None:
    """The first draws of 20,000 generators in a row are as 20,000 draws of one: mean, spread and neighbours."""
    x = torch.stack([torch.randn(2, generator=generator("sample", 0, i)) for i in range(20_000)]).double()
    error = 1 / math.sqrt(20_000)
    assert float(x.mean(0).abs().max()) < 4.5 * error
    assert float((x.var(0) - 1).abs().max()) < 4.5 * math.sqrt(2) * error
    assert float((x[1:] * x[:-1]).mean(0).abs().max()) < 4.5 * error
    assert abs(float((x[:, 0] * x[:, 1]).mean())) < 4.5 * error


def test_noise_does_not_depend_on_the_selection() -> None:
    whole, x = White(0, range(5)), torch.zeros(5, 3)
    t = torch.tensor(0.5)
    draws = [whole.fresh(x), whole(x, t, t), whole.fresh(x)]
    some = White(0, [4, 1])
    again = [some(x[:2], t, t), some.fresh(x[:2]), some.fresh(x[:2])]
    for a, b in zip(draws, again, strict=True):
        assert torch.equal(a[[4, 1]], b)
    full = White(0, range(5))
    full.fresh(x)
    taken = full.take(torch.tensor([4, 1]))
    assert torch.equal(taken.fresh(x[:2]), draws[1][[4, 1]])


# How often the net is called ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIXED)
def test_calls_are_what_the_solver_says(name: str, oracle2: GaussianMixture) -> None:
    sde = VPSDE()
    solver = find_solver(name)
    calls = calls_of(solver)
    for steps in (2, 3, 9):
        net = Counting(oracle2.denoiser(sde))
        sample(sde, net, (3, 2), solver=name, steps=steps)
        assert len(net.times) == calls(steps)
        reverse = Reverse(sde, oracle2.denoiser(sde))
        times = time_grid(sde, solver, steps)
        states = list(solver.solve(reverse, torch.zeros(3, 2, dtype=torch.float64), times, White(0, range(3))))
        denoised = len(states) == steps  # by the solver; else sample() does it, with one call more
        assert reverse.calls.count == calls(steps) - (not denoised)


@pytest.mark.parametrize("name", FIXED)
def test_nfe_takes_the_longest_grid_that_fits(name: str, oracle2: GaussianMixture) -> None:
    sde = VPSDE()
    calls = calls_of(find_solver(name))
    for budget in (12, 20, 31):
        net = Counting(oracle2.denoiser(sde))
        steps = len(list(trajectory(sde, net, (2, 2), solver=name, nfe=budget))) - 1
        assert len(net.times) <= budget < calls(steps + 1)
    least = calls(2)
    assert len(list(trajectory(sde, net, (2, 2), solver=name, nfe=least))) == 3
    with pytest.raises(ValueError, match=rf"nfe={least - 1} is too small: .* {least} net calls"):
        sample(sde, net, (2, 2), solver=name, nfe=least - 1)


def test_one_step_is_the_denoiser_at_the_prior(oracle2: GaussianMixture) -> None:
    sde, net = VPSDE(), oracle2.denoiser(VPSDE())
    start, end = trajectory(sde, net, (5, 2), steps=1)
    assert torch.equal(end, net(start, torch.tensor(1.0, dtype=torch.float64)))


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
    expected = sample(sde, denoiser, (6, 2), steps=6)

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
        value = sample(sde, net, (6, 2), steps=6, predicts=predicts, dtype=torch.float64)
        assert float((value - expected).abs().max()) < 1e-9
    wrong = sample(sde, Velocity(), (6, 2), steps=6, predicts="score", dtype=torch.float64)
    assert float((wrong - expected).abs().max()) > 0.1


def test_solver_objects(oracle2: GaussianMixture) -> None:
    """Any object with solve() will do; what is found by name is the same."""
    sde, net = VPSDE(), oracle2.denoiser(VPSDE())

    class Mine:
        def solve(self, reverse: Reverse, x: Tensor, times: Tensor, noise: Any) -> Iterator[Tensor]:
            for t, s in pairwise(times):
                x = x + (s - t) * reverse.velocity(x, t)
                yield x

    assert bool(sample(sde, net, (3, 2), solver=Mine(), steps=50).isfinite().all())
    for name in NAMES:
        assert find_solver(find_solver(name)) is not None
        assert isinstance(find_solver(name), Solver)


# Gradients and modes --------------------------------------------------------------------------------------------------


class Scaled(nn.Module):
    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.1, dtype=torch.float64))
        self.inner = denoiser.requires_grad_(False)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.scale * self.inner.score(x, t)


def test_gradients(oracle2: GaussianMixture) -> None:
    """Through the whole run, for the net's parameter and the starting state, against central differences."""
    sde = VPSDE()
    net = Scaled(oracle2.denoiser(sde))
    start = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()

    def run(x: Tensor) -> Tensor:
        return sample(sde, net, x=x, solver="euler", steps=8, batch_size=3, grad=True).square().sum()

    run(start).backward()
    step = 1e-6
    with torch.no_grad():
        value = net.scale.clone()
        ends = []
        for sign in (1, -1):
            net.scale.copy_(value + sign * step)
            ends.append(float(run(start)))
        net.scale.copy_(value)
        assert net.scale.grad is not None and start.grad is not None
        assert float(net.scale.grad) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6)
        for i, j in ((0, 0), (3, 1)):
            ends = []
            for sign in (1, -1):
                moved = start.detach().clone()
                moved[i, j] += sign * step
                ends.append(float(run(moved)))
            assert float(start.grad[i, j]) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("name", FIXED)
def test_gradients_through_every_solver(name: str, oracle2: GaussianMixture) -> None:
    net = Scaled(oracle2.denoiser(VPSDE()))
    sample(VPSDE(), net, (3, 2), solver=name, steps=4, grad=True).sum().backward()
    assert net.scale.grad is not None and float(net.scale.grad) != 0


@pytest.mark.parametrize("name", FIXED)
def test_gradient_mode_stays_the_callers(name: str, oracle2: GaussianMixture) -> None:
    net = Scaled(oracle2.denoiser(VPSDE()))
    assert not sample(VPSDE(), net, (3, 2), solver=name, steps=3).requires_grad
    for outside in (True, False):
        for grad in (True, False):
            with torch.set_grad_enabled(outside):
                for step, x in enumerate(trajectory(VPSDE(), net, (3, 2), solver=name, steps=4, grad=grad)):
                    assert torch.is_grad_enabled() is outside
                    assert x.requires_grad is (grad and step > 0)
                assert torch.is_grad_enabled() is outside


class Flattening(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, y: Tensor, c_noise: Tensor) -> Tensor:
        return self.net(y, c_noise).flatten()


def test_training_mode_is_restored() -> None:
    sde = VPSDE()

    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop, self.frozen = nn.Dropout(0.5), nn.Dropout(0.5)
            self.modes: set[bool] = set()

        def forward(self, y: Tensor, c_noise: Tensor) -> Tensor:
            self.modes |= {self.drop.training, self.frozen.training, self.training}
            return self.drop(y)

    net = Dropping()
    denoiser = Denoiser(net, sde).train()
    net.frozen.eval()
    sample(sde, denoiser, (3, 2), steps=3)
    assert net.modes == {False}
    assert (denoiser.training, net.training, net.drop.training, net.frozen.training) == (True, True, True, False)
    # Given up halfway, or stopped by an error.
    states = trajectory(sde, denoiser, (3, 2), steps=5)
    next(states), next(states)
    states.close()  # type: ignore[attr-defined]
    assert net.drop.training and not net.frozen.training
    with pytest.raises(ValueError, match="net returned"):
        sample(sde, Denoiser(Flattening(net), sde).train(), (3, 2), steps=3)
    assert net.drop.training


# Progress and failure -------------------------------------------------------------------------------------------------


def test_progress_goes_to_stderr(capsys: pytest.CaptureFixture[str], oracle2: GaussianMixture) -> None:
    sde, net = VPSDE(), oracle2.denoiser(VPSDE())
    quiet = sample(sde, net, (5, 2), steps=4, batch_size=2)
    assert capsys.readouterr() == ("", "")
    loud = sample(sde, net, (5, 2), steps=4, batch_size=2, progress=True)
    out, err = capsys.readouterr()
    assert out == "" and "adams" in err and "12/12" in err
    assert torch.equal(quiet, loud)


class Breaking(nn.Module):
    """A score that is not finite for rows beyond a value, from a time on."""

    def __init__(self, below: float, value: float) -> None:
        super().__init__()
        self.below, self.value, self.calls = below, value, 0

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        self.calls += 1
        bad = (t < self.below) & (label == 1)
        return torch.where(bad.unsqueeze(1), self.value, -x)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["heun", "euler-maruyama"])
def test_values_that_are_not_finite(name: str, value: float) -> None:
    """The error names the solver, the step, its time, and the samples by their number in the set."""
    sde, net = VPSDE(), Breaking(0.55, value)
    label = torch.zeros(6)
    label[4] = 1
    times = torch.linspace(0.9, 0.1, 5)  # 0.9, 0.7, 0.5, 0.3, 0.1
    with pytest.raises(FloatingPointError, match=f"^{name}: ") as caught:
        sample(sde, net, (6, 2), solver=name, times=times, condition={"label": label}, batch_size=2, first=100)
    # The net is first bad at 0.5: Heun meets it on the step that ends there, Euler-Maruyama on the next one.
    step, t = (2, 0.5) if name == "heun" else (3, 0.3)
    assert f"from step {step} of 5 (t = {t:g}) on, in sample 104" in str(caught.value)


def test_the_last_denoising_can_fail() -> None:
    net = Breaking(0.15, math.nan)
    condition = {"label": torch.ones(2)}
    with pytest.raises(FloatingPointError, match=r"from step 5 of 5 \(the last denoising\) on, in sample 0, 1"):
        sample(VPSDE(), net, (2, 2), times=torch.linspace(0.9, 0.1, 5), condition=condition, solver="euler-maruyama")


def test_padding_does_not_fail_for_the_samples() -> None:
    """The copies that fill the last batch have noise of their own; nobody asked for them."""
    sde = VPSDE()

    def net(x: Tensor, t: Tensor) -> Tensor:
        return torch.where((torch.arange(len(x)) == 1).unsqueeze(1), math.nan, -x)

    assert sample(sde, net, (1, 2), steps=3, batch_size=2).shape == (1, 2)
    with pytest.raises(FloatingPointError, match=r"in sample 1$"):
        sample(sde, net, (2, 2), steps=3, batch_size=2)


class NotLinear(SDE):
    drift = diffusion = prior_sample = prior_log_prob = lambda *_: torch.zeros(1)  # type: ignore[assignment]


class NoCalls:
    def solve(self, reverse: Reverse, x: Tensor, times: Tensor, noise: Any) -> Iterator[Tensor]:
        yield x


class Reusing(NoCalls):
    """A method that calls the net at every other step."""

    def calls(self, steps: int) -> int:
        return steps // 2 + 1


def test_steps_may_cost_less_than_a_call() -> None:
    assert len(time_grid(VPSDE(), Reusing(), nfe=8)) == 15


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"solver": "hein"}, ValueError, r"solver='hein' is not installed; valid are .*euler.*heun"),
        ({"solver": OneStep}, TypeError, r"solver is .*; valid are a name or an object"),
        ({"solver": 3}, TypeError, "solver is 3; valid are a name or an object with solve"),
        ({"sde": NotLinear()}, TypeError, "valid is a LinearSDE"),
        ({"sde": "VPSDE"}, TypeError, "sde is 'VPSDE'; valid is a LinearSDE"),
        ({"net": "net"}, TypeError, "net is a str; valid are a Denoiser or a callable"),
        ({"predicts": "epsilon"}, ValueError, "predicts='epsilon'; valid are 'data'"),
        ({"shape": None}, ValueError, r"give one of shape, \(n, \*sample_shape\), and x"),
        ({"x": torch.zeros(4, 2)}, ValueError, "give one of shape"),
        ({"shape": None, "x": torch.zeros(4, 2, dtype=torch.long)}, TypeError, "x has dtype torch.int64"),
        (
            {"shape": None, "x": torch.tensor([[0.0, 0.0], [0.0, math.nan]])},
            ValueError,
            "x is not finite in sample 1",
        ),
        ({"shape": (4,)}, ValueError, r"shape=\(4,\); valid is \(n, \*sample_shape\)"),
        ({"shape": (0, 2)}, ValueError, r"shape=\(0, 2\); valid is .* positive numbers"),
        ({"shape": (4, -1)}, ValueError, r"shape=\(4, -1\)"),
        ({"steps": 0}, ValueError, "steps=0; valid are positive integers"),
        ({"steps": 5, "nfe": 10}, ValueError, "steps=5 and nfe=10 are both given"),
        ({"nfe": 2, "solver": "heun"}, ValueError, "nfe=2 is too small"),
        ({"nfe": 8, "solver": AnnealedLangevin(Langevin(repeats=0))}, ValueError, "nfe=8 sets no limit"),
        ({"nfe": 9, "solver": NoCalls()}, ValueError, r"NoCalls defines no calls\(steps\)"),
        ({"times": torch.tensor([0.9, 0.5]), "steps": 2}, ValueError, "leave steps and nfe out"),
        ({"times": torch.tensor([0.9, 0.5]), "nfe": 9}, ValueError, "leave steps and nfe out"),
        ({"times": torch.tensor([0.5, 0.9])}, ValueError, "strictly decreasing times"),
        ({"times": torch.tensor([0.5, 0.5])}, ValueError, "strictly decreasing times"),
        ({"times": torch.tensor([[0.5, 0.1]])}, ValueError, r"times has shape \(1, 2\)"),
        ({"times": torch.tensor([])}, ValueError, r"times has shape \(0,\)"),
        ({"times": torch.tensor([0.5, math.nan])}, ValueError, "strictly decreasing times"),
        ({"times": torch.tensor([0.5, 0.0])}, ValueError, r"times spans \[0, 0.5\], but VPSDE is used on \[1e-05, 1\]"),
        ({"times": torch.tensor([1.1, 0.5])}, ValueError, r"times spans \[0.5, 1.1\]"),
        ({"times": lambda sde, steps: torch.linspace(2, 1, steps)}, ValueError, "times spans"),
        ({"condition": {"label": torch.zeros(3)}}, ValueError, r"condition\['label'\] is \(3,\); .* length 4"),
        ({"condition": {"label": torch.tensor(1)}}, ValueError, r"condition\['label'\] is \(\)"),
        ({"condition": {"label": [1, 2, 3, 4]}}, ValueError, r"condition\['label'\] is list"),
        ({"batch_size": 0}, ValueError, "batch_size=0; valid are positive integers"),
    ],
)
def test_bad_input(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    called = []

    def net(x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        called.append(t)
        return -x

    given: dict[str, Any] = {"sde": VPSDE(), "net": net, "shape": (4, 2), **arguments}
    with pytest.raises(error, match=message):
        sample(**given)
    if "batch_size" not in given:
        with pytest.raises(error, match=message):
            trajectory(**given)  # at the call, not at the first state
    assert not called


def test_a_net_of_another_shape(oracle2: GaussianMixture) -> None:
    with pytest.raises(ValueError, match=r"shape=\(4, 3\) asks for samples \(3,\); the net makes \(2,\)"):
        sample(VPSDE(), oracle2.denoiser(VPSDE()), (4, 3))
    with pytest.raises(ValueError, match=r"shape=\(4, 3\) asks for samples"):
        sample(VPSDE(), oracle2.denoiser(VPSDE()), x=torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"net returned \(4, 1\) for x of shape \(4, 2\)"):
        sample(VPSDE(), lambda x, t: x[:, :1], (4, 2))


def test_levels_that_the_net_was_not_trained_on(oracle2: GaussianMixture) -> None:
    """VE noise reaches beyond the VP process's: both ranges are named, and times inside are accepted."""
    net = oracle2.denoiser(KarrasSDE(0.01, 20.0))
    with pytest.raises(ValueError, match=r"VESDE span lam in \[-3.91.*trained on KarrasSDE with lam in \[-2.99.*, 4.6"):
        sample(VESDE(), net, (4, 2))
    inside = VESDE().time(torch.linspace(-2.9, 4.5, 10))
    assert bool(sample(VESDE(), net, (4, 2), times=inside).isfinite().all())
    with pytest.raises(ValueError, match="FlowSDE span lam"):
        sample(FlowSDE(), net, (4, 2))


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Installs, as far as Python's metadata goes, a package that registers a solver."""

    def install(package: str, name: str) -> None:
        folder = tmp_path / package
        (folder / f"{package}-1.0.dist-info").mkdir(parents=True)
        (folder / f"{package}-1.0.dist-info" / "METADATA").write_text(f"Name: {package}\nVersion: 1.0\n")
        entry = f"[sdescore.solvers]\n{name} = {package}_module:Halving\n"
        (folder / f"{package}-1.0.dist-info" / "entry_points.txt").write_text(entry)
        (folder / f"{package}_module.py").write_text(
            "from sdescore import OneStep\n\n\n"
            "class Halving(OneStep):\n"
            "    def step(self, reverse, x, t, s, noise):\n"
            "        return x / 2\n"
        )
        monkeypatch.syspath_prepend(folder)

    return install


def test_a_plugin_is_found_by_its_name(plugins: Callable[..., None]) -> None:
    plugins("outside", "halving")
    states = list(trajectory(VPSDE(), lambda x, t: -x, (4, 2), solver="halving", steps=4))
    assert torch.equal(states[3], states[0] / 8)


def test_two_plugins_of_one_name(plugins: Callable[..., None]) -> None:
    plugins("first", "halving")
    plugins("second", "halving")
    plugins("third", "heun")
    with pytest.raises(ValueError, match=r"'halving' is claimed more than once: by first_mod.*first, second_.*second"):
        find_solver("halving")
    with pytest.raises(
        ValueError, match=r"'heun' is claimed more than once: by sdescore\.solvers:HEUN of package sdescore"
    ):
        sample(VPSDE(), lambda x, t: -x, (4, 2), solver="heun")
    assert find_solver("euler") is not None


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"shape": 5}, TypeError, r"shape=5; valid is \(n, \*sample_shape\)"),
        ({"shape": (2.0, 2)}, TypeError, r"shape=\(2\.0, 2\)"),
        ({"times": [1.0, 0.5]}, TypeError, "times is a list"),
        ({"steps": 2.5}, TypeError, r"steps=2\.5"),
        ({"nfe": "7"}, TypeError, "nfe='7'"),
        ({"batch_size": 1.5}, ValueError, r"batch_size=1\.5"),
        ({"dtype": torch.int32}, TypeError, r"dtype=torch\.int32"),
    ],
)
def test_arguments_of_a_wrong_type_are_named(options: dict[str, Any], error: type[Exception], message: str) -> None:
    def never(x: Tensor, t: Tensor) -> Tensor:
        raise AssertionError("the net was called")

    with pytest.raises(error, match=message):
        sample(VPSDE(), never, **{"shape": (2, 2), **options})


def test_a_solver_that_is_an_object_is_named_with_its_settings() -> None:
    with pytest.raises(FloatingPointError, match=r"^EulerMaruyama\(\): values are not finite from step 1 of 4"):
        sample(VPSDE(), lambda x, t: x * math.nan, (2, 2), solver=EulerMaruyama(), steps=4)
