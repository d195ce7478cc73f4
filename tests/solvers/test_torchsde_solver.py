"""The adapter to torchsde: exact steps, law, strong orders, and its traps."""

import math
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from adapter_checks import last, recorded
from conftest import FIVE
from tensors_and_errors import fitted_order
from torch import Tensor

from sdescore import VPSDE, GaussianMixture, LinearSDE, ReverseProcess, karras, sample, trajectory
from sdescore.sampling.noise import WhiteNoise
from sdescore.sampling.solver import total_nfe
from sdescore.solvers import EulerMaruyama, TorchSDE

SDE_METHODS = [(method, noise) for method in ("euler", "milstein", "srk") for noise in ("additive", "diagonal")]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TorchSDE("heun"), "method='heun'; expected 'euler', 'milstein', 'srk'"),
        (lambda: TorchSDE(noise_type="general"), "noise_type='general'; expected 'additive', 'diagonal'"),
    ],
)
def test_bad_settings(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(("method", "noise_type"), [each for each in SDE_METHODS if each[0] != "srk"])
def test_euler_and_milstein_are_euler_maruyama(
    method: str, noise_type: str, sde: LinearSDE, oracle2: GaussianMixture
) -> None:
    ours, theirs = (
        torch.stack(list(trajectory(sde, oracle2.denoiser(sde), (6, 2), solver=solver, steps=25, seed=6)))
        for solver in (EulerMaruyama(), TorchSDE(method, noise_type))
    )
    assert torch.allclose(theirs, ours, rtol=1e-12, atol=1e-12)


# Euler's steps are Euler and Maruyama's on every process, as the test above holds: their law is tested on one.
LAWS = [(TorchSDE(), 250, VPSDE()), *((TorchSDE("srk"), 80, sde) for sde in FIVE)]


@pytest.mark.parametrize(("solver", "steps", "sde"), LAWS, ids=str)
def test_samples_follow_the_law(solver: TorchSDE, steps: int, sde: LinearSDE, oracle2: GaussianMixture) -> None:
    """First and second moments against the mixture's own, within 4 standard errors of 4,000 samples."""
    times = karras()(sde, steps)
    x = oracle2.at(sde, times[0]).sample(4000, seed=7)
    x = last(solver, ReverseProcess(sde, oracle2.denoiser(sde)), x, times, WhiteNoise(8, range(len(x))))
    law = oracle2.at(sde, times[-1])
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

    def __call__(self, x: Tensor, t: Tensor, s: Tensor, std: float = 1.0) -> Tensor:
        inside = (self.cells[:-1] <= t + 1e-12) & (self.cells[1:] >= s - 1e-12)
        h, w, u = t - s, self.w[inside], self.u[inside]
        widths = -self.cells.diff()[inside][:, None, None]
        before = w.cumsum(0) - w
        self.z = w.sum(0) / h.sqrt()
        self.integral = (u + widths * before).sum(0) / h**1.5  # the integral of W over the interval, scaled to length 1
        return std * self.z

    def levy_area(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return (self.integral - self.z / 2) * math.sqrt(12)

    def randn(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def select(self, index: Tensor) -> "Path":
        raise NotImplementedError


@pytest.fixture(scope="module")
def ends_on_paths() -> Callable[[TorchSDE, int], Tensor]:
    """A solver's ends on 64 paths in so many steps."""
    # Modes that overlap: where paths part, a few of them would hold all of the error.
    sde, mixture = VPSDE(), GaussianMixture(torch.tensor([[-0.5, 0.2], [0.5, 0.3], [0.1, -0.6]]).double(), 0.6)
    first, end = sde.time(torch.tensor([-1.0, 1.5], dtype=torch.float64)).tolist()
    cells = torch.linspace(first, end, 513, dtype=torch.float64)
    x, reverse = mixture.at(sde, first).sample(64, seed=10), ReverseProcess(sde, mixture.denoiser(sde))
    path = Path(x, cells)
    return cache(lambda solver, steps: last(solver, reverse, x, cells[:: 512 // steps], path))


@pytest.mark.parametrize("noise_type", ["additive", "diagonal"])
@pytest.mark.parametrize(("method", "order"), [("euler", 1.0), ("srk", 1.5)])
def test_strong_order(
    method: str, order: float, noise_type: str, ends_on_paths: Callable[[TorchSDE, int], Tensor]
) -> None:
    fine, solver, steps = ends_on_paths(TorchSDE("srk"), 512), TorchSDE(method, noise_type), [16, 32, 64]
    errors = [float((ends_on_paths(solver, n) - fine).square().mean().sqrt()) for n in steps]
    assert fitted_order(steps, errors) > order - 0.15


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
    assert order - 0.15 < fitted_order(steps, errors) < order + 0.3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("method", "noise_type"), SDE_METHODS)
def test_net_calls_and_times(method: str, noise_type: str, dtype: torch.dtype, oracle2: GaussianMixture) -> None:
    """Alone, torchsde steps by multiples of dt whatever the times, and float32 sums of them add a sliver of a step."""
    sde, solver = VPSDE(), TorchSDE(method, noise_type)
    times = karras()(sde, 12)
    net, seen = recorded(sde, oracle2.to(dtype))
    sample(sde, net, (3, 2), solver=solver, times=times, dtype=dtype)
    assert len(seen) == total_nfe(solver, 12)
    times, seen = times.to(dtype).double(), [float(torch.tensor(t, dtype=dtype)) for t in seen]
    assert set(times.tolist()) <= set(seen)  # every step starts on a node, the last denoising included
    assert min(seen) == times[-1]
    assert max(seen) == times[0]
    assert all(any(s <= t <= r for r, s in pairwise(times.tolist())) for t in seen)


def test_srk_costs_two_calls_a_step() -> None:
    assert TorchSDE("srk").nfe(10) == 20
    assert TorchSDE("srk", "diagonal").nfe(10) == 40


def test_gradients_are_ours(oracle2: GaussianMixture) -> None:
    sde, denoiser = VPSDE(), oracle2.denoiser(VPSDE())

    def slope(solver: Any) -> float:
        scale = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
        x = sample(
            sde,
            lambda x, t: scale * denoiser.score(x, t),
            (4, 2),
            solver=solver,
            steps=12,
            grad=True,
            dtype=torch.float32,
        )
        return float(torch.autograd.grad(x.sum(), scale)[0])

    assert slope(TorchSDE()) == pytest.approx(slope(EulerMaruyama()), rel=1e-4)
    assert slope(TorchSDE("milstein", "diagonal")) == pytest.approx(slope(EulerMaruyama()), rel=1e-4)
