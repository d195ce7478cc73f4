"""The adapters to torchdiffeq and torchsde: against SciPy, exact moments and our own solvers."""

import math
import warnings
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torchdiffeq
from scipy.integrate import solve_ivp
from torch import Tensor

from sdescore import VESDE, VPSDE, GaussianMixture, KarrasSDE, LinearSDE, Reverse, karras, sample, trajectory
from sdescore.noise import White
from sdescore.solvers import EulerMaruyama, TorchDiffEq, TorchSDE
from sdescore.solvers.torchdiffeq import ADAPTIVE, FIXED, METHODS

# Largest error over 8 samples at 40 times, and at rtol = atol = 1e-5: what the method's order gives, not what it gave.
TOLERANCE = {
    **{"euler": 0.1, "midpoint": 0.01, "heun2": 0.01, "heun3": 1e-3, "rk4": 1e-4, "explicit_adams": 1e-2},
    **{"adaptive_heun": 1e-3, "fehlberg2": 0.02, "bosh3": 1e-3, "dopri5": 1e-3, "dopri8": 1e-3},
    **{"implicit_adams": 1e-3, "fixed_adams": 1e-3, "scipy_solver": 1e-3},
}
SDE_METHODS = [(method, noise) for method in ("euler", "milstein", "srk") for noise in ("additive", "diagonal")]
UNUSED = White(0, ())


@torch.no_grad()
def last(solver: Any, reverse: Reverse, x: Tensor, times: Tensor, noise: Any = UNUSED) -> Tensor:
    return list(solver.solve(reverse, x, times, noise))[-1]


def exact(sde: LinearSDE, mixture: GaussianMixture, x: Tensor, times: Tensor) -> Tensor:
    """States (times, *x.shape) of dx / dlam = sigma^2 (score - 2 f x / g^2), by SciPy, from the mixture's own score."""

    def slope(lam: float, y: np.ndarray) -> np.ndarray:
        t = sde.time(torch.tensor(lam, dtype=torch.float64)).clamp(sde.t_min, sde.T)
        state = torch.from_numpy(y).view(x.shape)
        change = mixture.at(sde, t).score(state) - 2 * sde.f(t) / sde.g(t) ** 2 * state
        return (sde.sigma(t) ** 2 * change).flatten().numpy()

    lam = sde.lam(times).numpy()
    path = solve_ivp(slope, lam[[0, -1]], x.flatten().numpy(), "DOP853", lam, rtol=1e-9, atol=1e-9)
    return torch.from_numpy(path.y.T).reshape(-1, *x.shape)


@pytest.mark.filterwarnings("ignore:Functional iteration did not converge")
def test_every_method_follows_the_ode_on_every_process(main_sde: LinearSDE, oracle2: GaussianMixture) -> None:
    times = TorchDiffEq().grid(main_sde, 40)
    x = oracle2.at(main_sde, main_sde.T).sample(8, seed=1)
    want, reverse = exact(main_sde, oracle2, x, times), Reverse(main_sde, oracle2.denoiser(main_sde))
    for method in METHODS:
        states = torch.stack(list(TorchDiffEq(method).solve(reverse, x, times, UNUSED)))
        assert states.shape == want[1:].shape
        # At the early times x is large: errors count relative to its scale there.
        error = (states - want[1:]) / torch.hypot(main_sde.alpha(times), main_sde.sigma(times))[1:, None, None]
        assert error.abs().max() < TOLERANCE[method], method


def test_methods_are_those_of_torchdiffeq() -> None:
    with pytest.raises(ValueError, match="Must be one of") as raised:
        torchdiffeq.odeint(lambda t, y: y, torch.ones(1), torch.tensor([0.0, 1.0]), method="no such method")
    assert {name for name in METHODS if f'"{name}"' in str(raised.value)} == set(METHODS)
    assert str(raised.value).count('", "') + 1 == len(METHODS)


@pytest.mark.parametrize(
    ("method", "order"),
    [("euler", 1), ("midpoint", 2), ("heun2", 2), ("heun3", 3), ("rk4", 4), ("explicit_adams", 4)],
)
def test_order_of_fixed_steps(method: str, order: int, oracle2: GaussianMixture) -> None:
    sde = VPSDE()
    ends = sde.time(torch.tensor([-1.0, 1.5], dtype=torch.float64))
    x, reverse = oracle2.at(sde, ends[0]).sample(64, seed=2), Reverse(sde, oracle2.denoiser(sde))
    fine = last(TorchDiffEq("dopri8", rtol=1e-12, atol=1e-12), reverse, x, ends)
    steps, errors = [64, 128, 256], []
    for count in steps:
        first, end = sde.rho(ends).atan().tolist()
        times = sde.time(-torch.linspace(first, end, count + 1, dtype=torch.float64).tan().log())
        errors.append(float((last(TorchDiffEq(method), reverse, x, times) - fine).square().mean().sqrt()))
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert -slope > order - 0.15


@pytest.mark.parametrize("method", ["bosh3", "dopri5", "dopri8", "scipy_solver"])
def test_error_follows_the_tolerance(method: str, oracle2: GaussianMixture) -> None:
    sde = KarrasSDE()
    times = karras()(sde, 2)
    x, reverse = oracle2.at(sde, sde.T).sample(16, seed=3), Reverse(sde, oracle2.denoiser(sde))
    want = exact(sde, oracle2, x, times)[-1]
    errors = [
        float((last(TorchDiffEq(method, r, r), reverse, x, times) - want).abs().max()) for r in (1e-3, 1e-5, 1e-7)
    ]
    assert errors[1] < errors[0] / 10
    assert errors[2] < errors[1] / 10
    assert errors[2] < 1e-5


def test_the_path_is_the_same_on_every_process(main_sde: LinearSDE, oracle2: GaussianMixture) -> None:
    rho = torch.linspace(1.4, 0.01, 25, dtype=torch.float64).tan()
    z = oracle2.sample(8) + rho[0] * torch.randn(8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def run(sde: LinearSDE) -> Tensor:
        times = sde.time(-rho.log())
        x = last(TorchDiffEq("rk4"), Reverse(sde, oracle2.denoiser(sde)), sde.alpha(times[0]) * z, times)
        return x / sde.alpha(times[-1])

    assert torch.allclose(run(main_sde), run(KarrasSDE()), rtol=0, atol=1e-9)


def recorded(sde: LinearSDE, mixture: GaussianMixture) -> tuple[Any, list[float]]:
    denoiser, seen = mixture.denoiser(sde), []

    def net(x: Tensor, t: Tensor) -> Tensor:
        seen.append(float(t[0]))
        return denoiser.score(x, t)

    return net, seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", [*ADAPTIVE, "rk4", "scipy_solver"])
def test_no_call_outside_the_range(
    method: str, dtype: torch.dtype, main_sde: LinearSDE, oracle2: GaussianMixture
) -> None:
    mixture = oracle2.to(dtype)
    whole = karras()(main_sde, 3)
    short = main_sde.time(torch.tensor([0.5, 0.500001], dtype=torch.float64))  # less than any first step
    for times in (whole, short):
        net, seen = recorded(main_sde, mixture)
        x = mixture.at(main_sde, times[0]).sample(4)
        sample(main_sde, net, x=x, times=times, solver=TorchDiffEq(method, rtol=1e-3, atol=1e-3))
        rounding = 1e-7 if dtype == torch.float32 else 1e-15
        assert len(seen) > 2
        assert float(times[-1]) * (1 - rounding) <= min(seen)
        assert max(seen) <= float(times[0]) * (1 + rounding)


def test_the_recorder_sees_what_the_library_does_alone(oracle2: GaussianMixture) -> None:
    """Without the adapter torchdiffeq goes beyond the end: the test above would notice."""
    seen: list[float] = []
    odeint_times = torch.tensor([1.0, 0.1], dtype=torch.float64)
    torchdiffeq.odeint(lambda t, y: seen.append(float(t)) or -y, torch.ones(1), odeint_times, method="dopri5")  # type: ignore
    assert min(seen) < 0.1


@pytest.mark.parametrize("method", ["dopri5", "rk4", "implicit_adams", "scipy_solver"])
def test_nan_is_reported_with_solver_and_time(method: str, oracle2: GaussianMixture) -> None:
    sde, denoiser = VPSDE(), oracle2.denoiser(VPSDE())

    def net(x: Tensor, t: Tensor) -> Tensor:
        score = denoiser.score(x, t)
        return torch.where((t < 0.5)[:, None] & (x[:, :1] == x[:1, :1]), torch.nan, score)

    with pytest.raises(
        FloatingPointError, match=rf"TorchDiffEq.*{method}.* not finite at t = 0\.[0-4].* in 1 of 8 samples"
    ):
        sample(sde, net, (8, 2), solver=TorchDiffEq(method), steps=60, dtype=torch.float64)


@pytest.mark.filterwarnings("ignore:The following arguments have no effect", "ignore:The use of `x.T`")  # torchdiffeq's
@pytest.mark.parametrize(
    "solver",
    [
        TorchDiffEq(options={"max_num_steps": 2}),
        TorchDiffEq("bosh3"),
        TorchDiffEq("scipy_solver", options={"solver": "RK45"}),
    ],
    ids=str,
)
def test_giving_up_is_reported(solver: TorchDiffEq) -> None:
    noise = torch.Generator().manual_seed(0)

    def net(x: Tensor, t: Tensor) -> Tensor:  # no step is small enough for it
        return 1e12 * torch.randn(x.shape, generator=noise, dtype=x.dtype)

    with pytest.raises(FloatingPointError, match=r"TorchDiffEq.* gave up"):
        sample(KarrasSDE(), net, (4, 2), solver=solver, steps=2, predicts="noise", dtype=torch.float64)


def test_the_nets_own_assertions_pass_through() -> None:
    def net(x: Tensor, t: Tensor) -> Tensor:
        raise AssertionError("mine")

    with pytest.raises(AssertionError, match="mine"):
        sample(VPSDE(), net, (4, 2), solver=TorchDiffEq())


@pytest.mark.filterwarnings("ignore:Functional iteration did not converge")
@pytest.mark.parametrize("method", [*FIXED, "dopri5", "implicit_adams"])
def test_gradients_flow(method: str, oracle2: GaussianMixture) -> None:
    sde, denoiser = VPSDE(), oracle2.denoiser(VPSDE())
    x = oracle2.at(sde, sde.T).sample(4)

    def final(scale: Tensor, grad: bool) -> Tensor:
        solver = TorchDiffEq(method, 1e-9, 1e-9)
        # What is added vanishes with the noise: steps chosen for the path then also suit its derivative.
        net = lambda x, t: denoiser(x, t) + scale * sde.sigma(t)[:, None]  # noqa: E731
        return sample(sde, net, x=x, solver=solver, steps=30, predicts="data", grad=grad).sum()

    at, h = torch.tensor(0.1, dtype=torch.float64, requires_grad=True), 1e-3
    (slope,) = torch.autograd.grad(final(at, True), at)
    with torch.no_grad():
        difference = (final(at + h, False) - final(at - h, False)) / (2 * h)
    assert float(slope) == pytest.approx(float(difference), rel=1e-3)
    assert not final(at, False).requires_grad


def test_single_precision_agrees_with_double(main_sde: LinearSDE, oracle2: GaussianMixture) -> None:
    single = oracle2.to(torch.float32)
    for method in ("dopri5", "rk4"):
        solver = TorchDiffEq(method)
        times = solver.grid(main_sde, 40)
        x = oracle2.at(main_sde, main_sde.T).sample(8)
        wide = last(solver, Reverse(main_sde, oracle2.denoiser(main_sde)), x, times)
        narrow = last(solver, Reverse(main_sde, single.denoiser(main_sde)), x.float(), times)
        assert narrow.dtype == torch.float32
        assert (narrow - wide).abs().max() < 2e-4


def test_the_tolerance_holds_for_each_sample(oracle2: GaussianMixture) -> None:
    """One hard sample among many at rest: a norm over the batch would average its error away."""
    sde = KarrasSDE()
    easy = GaussianMixture(torch.zeros(1, 2, dtype=torch.float64), 1.0).denoiser(sde)
    hard = oracle2.denoiser(sde)

    def net(x: Tensor, t: Tensor) -> Tensor:
        return torch.cat([hard.score(x[:1], t[:1]), easy.score(x[1:], t[1:])])

    x = oracle2.at(sde, sde.T).sample(512)
    times, solver = karras()(sde, 2), TorchDiffEq(rtol=1e-5, atol=1e-5)
    want = exact(sde, oracle2, x[:1], times)[-1]
    got = sample(sde, net, x=x, times=times, solver=solver)[:1]
    want = hard(want, times[-1])
    alone = sample(sde, hard, x=x[:1], times=times, solver=solver)
    assert (got - want).abs().max() < 3 * (alone - want).abs().max() + 1e-5


@pytest.mark.parametrize("method", FIXED)
def test_net_calls_of_fixed_steps(method: str, oracle2: GaussianMixture) -> None:
    sde, solver = VPSDE(), TorchDiffEq(method)
    for steps in (2, 3, 4, 9):
        reverse = Reverse(sde, oracle2.denoiser(sde))
        last(solver, reverse, oracle2.at(sde, sde.T).sample(2), solver.grid(sde, steps))
        assert reverse.calls.count == solver.calls(steps) - 1
    net, seen = recorded(sde, oracle2)
    sample(sde, net, (2, 2), solver=solver, nfe=21)
    assert 21 - 4 < len(seen) <= 21


@pytest.mark.parametrize("method", sorted(set(METHODS) - set(FIXED)))
def test_adaptive_methods_have_no_budget(method: str, oracle2: GaussianMixture) -> None:
    with pytest.raises(ValueError, match=f"nfe is given, but method='{method}'.* rtol and atol.*'rk4'"):
        sample(VPSDE(), oracle2.denoiser(VPSDE()), (2, 2), solver=TorchDiffEq(method), nfe=20)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TorchDiffEq("rk5"), "method='rk5'; valid are 'euler', .*'dopri5'"),
        (lambda: TorchDiffEq(rtol=0), "rtol=0"),
        (lambda: TorchDiffEq("rk4", options={"step_size": 0.1}), "options has .'step_size'."),
        (lambda: TorchDiffEq("explicit_adams", options={"max_order": 2}), "max_order=2; valid are 4 to 12"),
        (lambda: TorchSDE("heun"), "method='heun'; valid are 'euler', 'milstein', 'srk'"),
        (lambda: TorchSDE(noise_type="general"), "noise_type='general'; valid are 'additive', 'diagonal'"),
    ],
)
def test_bad_settings(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_adams_refuses_unequal_steps(oracle2: GaussianMixture) -> None:
    net, seen = recorded(VPSDE(), oracle2)
    with pytest.raises(ValueError, match=r"times: explicit_adams needs equal steps"):
        sample(VPSDE(), net, (2, 2), solver=TorchDiffEq("explicit_adams"), times=karras(), steps=10)
    assert not seen


@pytest.mark.parametrize("solver", [TorchDiffEq("rk4"), TorchDiffEq(), TorchSDE(), TorchSDE("srk")], ids=str)
def test_any_shape(solver: Any) -> None:
    sde = VESDE()
    means = torch.randn(3, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def draw(shape: tuple[int, ...]) -> Tensor:
        denoiser = GaussianMixture(means.view(3, *shape), 0.3).denoiser(sde)
        return sample(sde, denoiser, (5, *shape), solver=solver, steps=20, seed=4)

    flat = draw((16,))
    for shape in ((4, 4), (1, 4, 4), (2, 2, 2, 2)):
        x = draw(shape)
        assert x.shape == (5, *shape)
        assert torch.allclose(x.flatten(1), flat, rtol=0, atol=1e-9)


@pytest.mark.parametrize("solver", [TorchDiffEq("rk4"), *(TorchSDE(*each) for each in SDE_METHODS)], ids=str)
def test_a_sample_does_not_depend_on_its_batch(solver: Any, oracle2: GaussianMixture) -> None:
    def draw(size: int) -> Tensor:
        torch.manual_seed(size)  # torchsde draws from torch's global generator; no result may depend on it
        np.random.seed(size)
        net = oracle2.denoiser(VPSDE())
        return sample(VPSDE(), net, (20, 2), solver=solver, steps=12, seed=5, batch_size=size)

    whole = draw(20)
    for size in (1, 7):
        assert torch.equal(draw(size), whole)


def test_a_sample_depends_on_its_batch_within_the_tolerance(oracle2: GaussianMixture) -> None:
    runs = [
        sample(VPSDE(), oracle2.denoiser(VPSDE()), (64, 2), solver=TorchDiffEq(rtol=1e-7, atol=1e-7), batch_size=size)
        for size in (7, 64)
    ]
    assert (runs[0] - runs[1]).abs().max() < 1e-4


@pytest.mark.parametrize(("method", "noise_type"), [each for each in SDE_METHODS if each[0] != "srk"])
def test_euler_and_milstein_are_euler_maruyama(
    method: str, noise_type: str, sde: LinearSDE, oracle2: GaussianMixture
) -> None:
    ours, theirs = (
        torch.stack(list(trajectory(sde, oracle2.denoiser(sde), (6, 2), solver=solver, steps=25, seed=6)))
        for solver in (EulerMaruyama(), TorchSDE(method, noise_type))
    )
    assert torch.allclose(theirs, ours, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("solver", "steps"), [(TorchSDE(), 250), (TorchSDE("srk"), 80)], ids=str)
def test_samples_follow_the_law(solver: TorchSDE, steps: int, main_sde: LinearSDE, oracle2: GaussianMixture) -> None:
    """First and second moments against the mixture's own, within 4 standard errors of 4,000 samples."""
    times = karras()(main_sde, steps)
    x = oracle2.at(main_sde, times[0]).sample(4000, seed=7)
    x = last(solver, Reverse(main_sde, oracle2.denoiser(main_sde)), x, times, White(8, range(len(x))))
    law = oracle2.at(main_sde, times[-1])
    squares = law.means[:, :, None] * law.means[:, None] + torch.diag_embed(law.stds**2)
    want = torch.cat([law.weights @ law.means, torch.einsum("k,kij->ij", law.weights, squares).flatten()])
    features = torch.cat([x, (x[:, :, None] * x[:, None]).flatten(1)], dim=1)
    z = (features.mean(0) - want) / (features.std(0) / math.sqrt(len(x)))
    assert z.abs().max() < 4


class Path:
    """A Brownian path on fine cells, each with its increment and its integral, seen through the Noise protocol."""

    def __init__(self, x: Tensor, cells: Tensor) -> None:
        draw = torch.Generator().manual_seed(9)
        h = -cells.diff()[:, None, None]
        z = torch.randn(2, len(h), *x.shape, generator=draw, dtype=x.dtype)
        self.cells, self.w = cells, h.sqrt() * z[0]
        self.u = h**1.5 * (z[0] / 2 + z[1] / math.sqrt(12))

    def __call__(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        inside = (self.cells[:-1] <= t + 1e-12) & (self.cells[1:] >= s - 1e-12)
        h, w, u = t - s, self.w[inside], self.u[inside]
        widths = -self.cells.diff()[inside][:, None, None]
        before = w.cumsum(0) - w
        self.z = w.sum(0) / h.sqrt()
        self.integral = (u + widths * before).sum(0) / h**1.5  # the integral of W over the interval, scaled to length 1
        return self.z

    def area(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return (self.integral - self.z / 2) * math.sqrt(12)

    def fresh(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def take(self, index: Tensor) -> "Path":
        raise NotImplementedError


@pytest.mark.parametrize("noise_type", ["additive", "diagonal"])
@pytest.mark.parametrize(("method", "order"), [("euler", 1.0), ("srk", 1.5)])
def test_strong_order(method: str, order: float, noise_type: str) -> None:
    # Modes that overlap: where paths part, a few of them would hold all of the error.
    sde, mixture = VPSDE(), GaussianMixture(torch.tensor([[-0.5, 0.2], [0.5, 0.3], [0.1, -0.6]]).double(), 0.6)
    first, end = sde.time(torch.tensor([-1.0, 1.5], dtype=torch.float64)).tolist()
    cells = torch.linspace(first, end, 513, dtype=torch.float64)
    x, reverse = mixture.at(sde, first).sample(64, seed=10), Reverse(sde, mixture.denoiser(sde))
    path = Path(x, cells)
    fine = last(TorchSDE("srk"), reverse, x, cells, path)
    steps = [16, 32, 64]
    errors = [
        float((last(TorchSDE(method, noise_type), reverse, x, cells[:: 512 // n], path) - fine).square().mean().sqrt())
        for n in steps
    ]
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert -slope > order - 0.15


@pytest.mark.parametrize(("method", "order"), [("euler", 0.5), ("milstein", 1.0), ("srk", 1.5)])
def test_strong_order_where_the_noise_depends_on_the_state(method: str, order: float) -> None:
    """dx = a x dt + b x dw, whose solution is known (Kloeden & Platen 1992, section 4.4), run as a reverse process."""
    a, b = 0.5, 0.8
    reverse: Any = SimpleNamespace(sde=SimpleNamespace(diffusion=lambda x, t: b * x), drift=lambda x, t: -a * x)
    x = torch.ones(256, 2, dtype=torch.float64)
    cells = torch.linspace(1.0, 0.0, 257, dtype=torch.float64)
    path = Path(x, cells)
    want = torch.exp(a - b**2 / 2 + b * path.w.sum(0))
    steps = [16, 32, 64, 128]
    errors = [
        float((last(TorchSDE(method, "diagonal"), reverse, x, cells[:: 256 // n], path) - want).square().mean().sqrt())
        for n in steps
    ]
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert order - 0.15 < -slope < order + 0.3


@pytest.mark.parametrize(("method", "noise_type"), SDE_METHODS)
def test_net_calls_and_times_of_torchsde(method: str, noise_type: str, oracle2: GaussianMixture) -> None:
    sde, solver = VPSDE(), TorchSDE(method, noise_type)
    times = karras()(sde, 12)
    net, seen = recorded(sde, oracle2)
    sample(sde, net, (3, 2), solver=solver, times=times, dtype=torch.float64)
    assert len(seen) == solver.calls(12)
    assert set(times.tolist()) <= set(seen)  # every step starts on a node, the last denoising included
    assert min(seen) == times[-1]
    assert max(seen) == times[0]
    assert all(any(s <= t <= r for r, s in pairwise(times.tolist())) for t in seen)


def test_srk_costs_two_calls_a_step() -> None:
    assert TorchSDE("srk").calls(11) == 21
    assert TorchSDE("srk", "diagonal").calls(11) == 41


def test_torchsde_gradients_are_ours(oracle2: GaussianMixture) -> None:
    sde, denoiser = VPSDE(), oracle2.denoiser(VPSDE())

    def slope(solver: Any) -> float:
        scale = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
        x = sample(sde, lambda x, t: scale * denoiser.score(x, t), (4, 2), solver=solver, steps=12, grad=True)
        return float(torch.autograd.grad(x.sum(), scale)[0])

    assert slope(TorchSDE()) == pytest.approx(slope(EulerMaruyama()), rel=1e-4)
    assert slope(TorchSDE("milstein", "diagonal")) == pytest.approx(slope(EulerMaruyama()), rel=1e-4)


@pytest.mark.parametrize(("name", "solver"), [("torchdiffeq", TorchDiffEq()), ("torchsde", TorchSDE())])
def test_found_by_name(name: str, solver: Any, oracle2: GaussianMixture) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runs = [sample(VPSDE(), oracle2.denoiser(VPSDE()), (3, 2), solver=each, steps=9) for each in (name, solver)]
    assert torch.equal(*runs)
