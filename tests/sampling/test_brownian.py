"""One Brownian path per sample: its law, that all grids share it, and the strong orders that are measured on it."""

import math
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tensors_and_errors import fitted_order
from torch import Tensor

from sdescore import VPSDE, GaussianMixture, KarrasSDE, LinearSDE, OneStep, ReverseProcess, Solver, find_solver, sample
from sdescore.sampling.brownian import Brownian, BrownianPath, snr_clock, time_clock
from sdescore.sampling.noise import WhiteNoise
from sdescore.sampling.nonlinear import ItoEuler, NonlinearReverse
from sdescore.solvers import DATA, IN_LAM, SRA, Adams, EulerMaruyama, Milstein, RungeKutta, tableaux

CLOCKS = {"snr": snr_clock, "time": time_clock}


def places(sde: LinearSDE, depth: int) -> Tensor:
    """The times that a path of this depth tells apart."""
    first, last = sde.lam(torch.tensor([sde.T, sde.t_min], dtype=torch.float64)).tolist()
    lams = torch.linspace(first, last, 2**depth + 1, dtype=torch.float64)
    return sde.time(lams).clamp(sde.t_min, sde.T)


@pytest.mark.parametrize("clock", CLOCKS)
def test_law_and_refinement(clock: str) -> None:
    """Increments and areas are independent unit normals; those of an interval follow from those of its parts."""
    sde, n, cuts = VPSDE(), 500, [0, 3, 4, 10, 11, 32, 33, 64]
    path, times = Brownian(sde, CLOCKS[clock], 6)(0, range(n)), places(sde, 6)
    x = torch.zeros(n, 4, dtype=torch.float64)
    at = CLOCKS[clock](sde, times)
    parts = [(times[i], times[j], float((at[j] - at[i]).abs())) for i, j in pairwise(cuts)]
    draws = [(path(x, t, s), path.levy_area(x, t, s)) for t, s, _ in parts]
    unit = torch.stack([z.flatten() for pair in draws for z in pair], 1)
    torch.testing.assert_close(unit.T @ unit / len(unit), torch.eye(14, dtype=torch.float64), rtol=0, atol=0.1)
    w = integral = torch.zeros_like(x)
    for (z, y), (_, _, h) in zip(draws, parts, strict=True):
        integral = integral + h * w + h * math.sqrt(h) * (z / 2 + y / math.sqrt(12))
        w = w + math.sqrt(h) * z
    h = float((at[-1] - at[0]).abs())
    torch.testing.assert_close(path(x, times[0], times[-1]), w / math.sqrt(h), rtol=1e-9, atol=1e-9)
    area = (integral / h - w / 2) / math.sqrt(h / 12)
    torch.testing.assert_close(path.levy_area(x, times[0], times[-1]), area, rtol=1e-9, atol=1e-9)


def test_a_path_depends_on_seed_and_number_alone() -> None:
    sde, x, (t, s, r) = VPSDE(), torch.zeros(5, 3), torch.tensor([0.9, 0.4, 0.2], dtype=torch.float64)
    path = Brownian(sde)(1, range(5))
    first, second = path(x, t, s), path(x, s, r)
    assert first.dtype == torch.float32 and first.shape == (5, 3)
    # Asked in another order, of other samples, or after other questions.
    other = Brownian(sde)(1, [4, 2])
    assert torch.equal(other(x[:2], s, r), second[[4, 2]]) and torch.equal(other(x[:2], t, s), first[[4, 2]])
    assert torch.equal(path.randn(x), WhiteNoise(1, range(5)).randn(x))
    assert torch.equal(path.select(torch.tensor([3]))(x[:1], t, s), first[3:4])
    assert not torch.equal(Brownian(sde)(2, range(5))(x, t, s), first)
    for wrong in ((s, t), (s, s), (s, s - 1e-7)):
        with pytest.raises(ValueError, match=r"expected t > s in \[t_min, T\]"):
            path(x, *wrong)


def test_samples_on_a_path(oracle2: GaussianMixture) -> None:
    """Through sample(): batches do not matter, and halving the steps moves the samples less and less."""
    sde, net = VPSDE(), oracle2.denoiser(VPSDE())

    def run(steps: int, **options: Any) -> Tensor:
        return sample(sde, net, (64, 2), solver="sra", steps=steps, noise_source=Brownian(sde), **options)

    coarse, middle, fine = run(9), run(17), run(33)
    assert torch.equal(run(9, batch_size=5), coarse)
    # A few paths end in another mode, and would make up all of a mean.
    moves = [float((a - b).abs().median()) for a, b in ((coarse, middle), (middle, fine))]
    assert moves[1] < 0.5 * moves[0] < 0.5
    white = sample(sde, net, (64, 2), solver="sra", steps=9)
    assert float((white - coarse).abs().median()) > moves[1]


# Strong orders: 64 paths of depth 8 on lam in [-1, 1.5], the whole range of the process -----------------------------

SHORT = KarrasSDE(math.exp(-1.5), math.exp(1.0))
# The modes overlap: between separate ones a few paths go the other way, and make up the whole of the error.
ORACLE = GaussianMixture(torch.tensor([[-0.4, 0.0], [0.5, 0.3]], dtype=torch.float64), [0.5, 0.7])


def end(solver: Solver, steps: int, clock: str) -> Tensor:
    path = Brownian(SHORT, CLOCKS[clock], 8)(0, range(64))
    x = ORACLE.at(SHORT, SHORT.T).sample(64)
    *_, last = solver.solve(ReverseProcess(SHORT, ORACLE.denoiser(SHORT)), x, places(SHORT, 8)[:: 256 // steps], path)
    return last


@pytest.fixture(scope="module")
def fine() -> dict[str, Tensor]:
    """The best method's answer on the finest grid, on the path of each clock."""
    return {"snr": end(SRA, 256, "snr"), "time": end(EulerMaruyama(), 256, "time")}


@pytest.mark.parametrize(
    ("solver", "clock", "low", "high"),
    [
        (SRA, "snr", 1.4, 2.2),
        (RungeKutta(tableaux.MIDPOINT, DATA, IN_LAM, tau=1.0), "snr", 0.8, 1.3),
        (EulerMaruyama(), "snr", 0.8, 1.3),
        (EulerMaruyama(), "time", 0.8, 1.3),
        (find_solver("ddpm"), "snr", 0.8, 1.3),
        (find_solver("sde-dpm++"), "snr", 0.8, 1.3),
        (Adams(2, DATA, tau=0.5), "snr", 0.8, 1.3),
    ],
    ids=["sra", "midpoint", "em", "em-time", "ddpm", "sde-dpm++", "half-noise"],
)
def test_strong_order(solver: Solver, clock: str, low: float, high: float, fine: dict[str, Tensor]) -> None:
    exact, steps = fine[clock], (16, 32, 64)
    if isinstance(solver, Adams) and solver.tau == 0.5:  # another equation, with a solution of its own
        exact = end(solver, 256, clock)
    errors = [float((end(solver, count, clock) - exact).square().mean().sqrt()) for count in steps]
    order = fitted_order(steps, errors)
    print(f"strong order {order:.2f}, errors {errors}")
    assert low < order < high


def test_wrong_areas_are_seen(fine: dict[str, Tensor]) -> None:
    """With areas that belong to no path, the order 1.5 is lost."""

    class Guessing(BrownianPath):
        def levy_area(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
            return self.randn(x)

    errors, steps = [], (16, 32, 64)
    for count in steps:
        path = Guessing(Brownian(SHORT, snr_clock, 8), 0, range(64), "cpu")
        x = ORACLE.at(SHORT, SHORT.T).sample(64)
        *_, last = SRA.solve(ReverseProcess(SHORT, ORACLE.denoiser(SHORT)), x, places(SHORT, 8)[:: 256 // count], path)
        errors.append(float((last - fine["snr"]).square().mean().sqrt()))
    assert fitted_order(steps, errors) < 1.3


@pytest.mark.parametrize(("solver", "order"), [(ItoEuler(), 0.5), (Milstein(), 1.0)], ids=["em", "milstein"])
def test_strong_order_where_the_noise_depends_on_the_state(solver: OneStep, order: float) -> None:
    """dx = a x dt + b x dw, whose solution is known (Kloeden & Platen 1992, section 4.4), run as a reverse process."""
    a, b, n = 0.5, 0.8, 4096
    sde: Any = SimpleNamespace(
        drift=lambda x, t: (2 * b**2 - a) * x,  # so that with a score of 0 the reverse drift is -a x
        diffusion=lambda x, t: b * x,
        diffusion_divergence=lambda x, t: 2 * b**2 * x,
    )
    reverse: Any = NonlinearReverse(sde, lambda x, t: torch.zeros_like(x))
    z = torch.randn(256, n, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) / 16
    exact, steps, errors = torch.exp(a - b**2 / 2 + b * z.sum(0)), (16, 32, 64, 128), []
    for count in steps:
        draws = iter(z.reshape(count, -1, n, 1).sum(1) * math.sqrt(count))
        noise: Any = lambda x, t, s, draws=draws: next(draws)  # noqa: E731
        times = torch.linspace(1, 0, count + 1, dtype=torch.float64)
        *_, x = solver.solve(reverse, torch.ones(n, 1, dtype=torch.float64), times, noise)
        errors.append(float((x - exact).square().mean().sqrt()))
    found = fitted_order(steps, errors)
    print(f"strong order {found:.2f}")
    assert found == pytest.approx(order, abs=0.15)


def test_milstein_is_euler_maruyama_where_the_noise_does_not(oracle2: GaussianMixture, main_sde: LinearSDE) -> None:
    start, net = oracle2.at(main_sde, main_sde.T).sample(8), oracle2.denoiser(main_sde)
    both = [sample(main_sde, net, x=start, solver=solver, steps=20) for solver in (Milstein(), EulerMaruyama())]
    torch.testing.assert_close(*both, rtol=1e-9, atol=1e-9)
