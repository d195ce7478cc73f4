"""What holds for the adapters to torchdiffeq, torchode and torchsde alike, their traps first of all."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from adapter_checks import NEEDS_TORCHODE, exact, last, recorded
from torch import Tensor

from sdescore import VESDE, VPSDE, GaussianMixture, KarrasSDE, LinearSDE, ReverseProcess, karras, sample
from sdescore.solvers import TorchDiffEq, TorchODE, TorchSDE
from sdescore.solvers.torchdiffeq import ADAPTIVE

pytestmark = NEEDS_TORCHODE

ODE: list[Any] = [*(TorchDiffEq(method, 1e-3, 1e-3) for method in (*ADAPTIVE, "rk4", "scipy_solver"))]
ODE += [TorchODE(method, 1e-3, 1e-3) for method in ("dopri5", "heun", "tsit5")]
SDE: list[Any] = [TorchSDE(*each) for each in (("euler",), ("milstein", "diagonal"), ("srk",), ("srk", "diagonal"))]
adaptive = pytest.mark.parametrize("make", [TorchDiffEq, TorchODE])


@pytest.mark.parametrize(
    ("make", "method"),
    [
        *((TorchDiffEq, method) for method in ("bosh3", "dopri5", "dopri8", "scipy_solver")),
        *((TorchODE, method) for method in ("dopri5", "tsit5")),
    ],
)
def test_error_follows_the_tolerance(make: Any, method: str, oracle2: GaussianMixture) -> None:
    sde = KarrasSDE()
    times = karras()(sde, 2)
    x, reverse = oracle2.at(sde, sde.T).sample(16, seed=3), ReverseProcess(sde, oracle2.denoiser(sde))
    want = exact(sde, oracle2, x, times)[-1]
    errors = [float((last(make(method, r, r), reverse, x, times) - want).abs().max()) for r in (1e-3, 1e-5, 1e-7)]
    assert errors[1] < errors[0] / 10
    assert errors[2] < errors[1] / 10
    assert errors[2] < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("solver", ODE, ids=str)
def test_no_call_outside_the_range(
    solver: Any, dtype: torch.dtype, main_sde: LinearSDE, oracle2: GaussianMixture
) -> None:
    mixture = oracle2.to(dtype)
    whole = karras()(main_sde, 3)
    short = main_sde.time(torch.tensor([0.5, 0.500001], dtype=torch.float64))  # less than any first step
    for times in (whole, short):
        net, seen = recorded(main_sde, mixture)
        sample(main_sde, net, x=mixture.at(main_sde, times[0]).sample(4), times=times, solver=solver)
        rounding = 1e-7 if dtype == torch.float32 else 1e-15
        assert len(seen) > 2
        assert float(times[-1]) * (1 - rounding) <= min(seen)
        assert max(seen) <= float(times[0]) * (1 + rounding)


@pytest.mark.parametrize(
    "solver",
    [*(TorchDiffEq(method) for method in ("dopri5", "rk4", "implicit_adams", "scipy_solver")), TorchODE()],
    ids=str,
)
def test_nan_is_reported_with_solver_and_time(solver: Any, oracle2: GaussianMixture) -> None:
    sde, denoiser = VPSDE(), oracle2.denoiser(VPSDE())

    def net(x: Tensor, t: Tensor) -> Tensor:
        score = denoiser.score(x, t)
        return torch.where((t < 0.5)[:, None] & (x[:, :1] == x[:1, :1]), torch.nan, score)

    message = rf"{type(solver).__name__}.*{solver.method}.* not finite at t = 0\.[0-4].* in 1 of 8 samples"
    with pytest.raises(FloatingPointError, match=message):
        sample(sde, net, (8, 2), solver=solver, steps=60, dtype=torch.float64)


@pytest.mark.filterwarnings("ignore:The following arguments have no effect", "ignore:The use of `x.T`")  # torchdiffeq's
@pytest.mark.parametrize(
    "solver",
    [
        TorchDiffEq(options={"max_num_steps": 2}),
        TorchDiffEq("bosh3"),
        TorchDiffEq("scipy_solver", options={"solver": "RK45"}),
        TorchODE(max_steps=200),
    ],
    ids=str,
)
def test_giving_up_is_reported(solver: Any) -> None:
    noise = torch.Generator().manual_seed(0)

    def net(x: Tensor, t: Tensor) -> Tensor:  # no step is small enough for it
        return 1e12 * torch.randn(x.shape, generator=noise, dtype=x.dtype)

    with pytest.raises(FloatingPointError, match=rf"{type(solver).__name__}.* gave up"):
        sample(KarrasSDE(), net, (4, 2), solver=solver, steps=2, predicts="noise", dtype=torch.float64)


@adaptive
def test_single_precision_agrees_with_double(make: Any, main_sde: LinearSDE, oracle2: GaussianMixture) -> None:
    single, times = oracle2.to(torch.float32), TorchDiffEq().grid(main_sde, 40)
    x = oracle2.at(main_sde, main_sde.T).sample(8)
    wide = last(make(rtol=1e-6, atol=1e-6), ReverseProcess(main_sde, oracle2.denoiser(main_sde)), x, times)
    narrow = last(make(rtol=1e-6, atol=1e-6), ReverseProcess(main_sde, single.denoiser(main_sde)), x.float(), times)
    assert narrow.dtype == torch.float32
    assert (narrow - wide).abs().max() < 2e-4


@adaptive
def test_the_tolerance_holds_for_each_sample(make: Any, oracle2: GaussianMixture) -> None:
    """One hard sample among many at rest: a norm over the batch would average its error away."""
    sde = KarrasSDE()
    easy = GaussianMixture(torch.zeros(1, 2, dtype=torch.float64), 1.0).denoiser(sde)
    hard = oracle2.denoiser(sde)

    def net(x: Tensor, t: Tensor) -> Tensor:
        return torch.cat([hard.score(x[:1], t[:1]), easy.score(x[1:], t[1:])])

    x = oracle2.at(sde, sde.T).sample(512)
    times, solver = karras()(sde, 2), make(rtol=1e-5, atol=1e-5)
    want = exact(sde, oracle2, x[:1], times)[-1]
    got = sample(sde, net, x=x, times=times, solver=solver)[:1]
    want = hard(want, times[-1])
    alone = sample(sde, hard, x=x[:1], times=times, solver=solver)
    assert (got - want).abs().max() < 3 * (alone - want).abs().max() + 1e-5


@pytest.mark.parametrize(
    "solver", [TorchDiffEq("rk4"), TorchDiffEq(), TorchODE(), TorchSDE(), TorchSDE("srk")], ids=str
)
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


@pytest.mark.parametrize("solver", [TorchDiffEq("rk4"), TorchODE(), *SDE], ids=str)
def test_a_sample_does_not_depend_on_its_batch(solver: Any, oracle2: GaussianMixture) -> None:
    def draw(size: int) -> Tensor:
        torch.manual_seed(size)  # torchsde draws from torch's global generator; no result may depend on it
        np.random.seed(size)
        net = oracle2.denoiser(VPSDE())
        return sample(VPSDE(), net, (12, 2), solver=solver, steps=12, seed=5, batch_size=size)

    whole = draw(12)
    for size in (1, 7):
        # torchode's sums over a step's stages are rounded as the size of the batch has it.
        torch.testing.assert_close(draw(size), whole, rtol=0, atol=1e-12 if isinstance(solver, TorchODE) else 0.0)


@adaptive
def test_conditions_stay_with_their_samples(make: Any, oracle2: GaussianMixture) -> None:
    sde = VPSDE()
    low, high = GaussianMixture([[-2.0, 0.0]], 0.2, dtype=torch.float64), oracle2
    x = high.at(sde, sde.T).sample(6)
    label = torch.tensor([0, 1, 0, 1, 1, 0])

    def net(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return torch.where(label[:, None] == 0, low.denoiser(sde)(x, t), high.denoiser(sde)(x, t))

    options: dict[str, Any] = {"solver": make(rtol=1e-8, atol=1e-8), "predicts": "data"}
    found = sample(sde, net, x=x, condition={"label": label}, **options)
    for value, target in ((0, low), (1, high)):
        alone = sample(sde, target.denoiser(sde), x=x[label == value], solver=options["solver"])
        torch.testing.assert_close(found[label == value], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "solver"), [("torchdiffeq", TorchDiffEq()), ("torchode", TorchODE()), ("torchsde", TorchSDE())]
)
def test_found_by_name(name: str, solver: Any, oracle2: GaussianMixture) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runs = [sample(VPSDE(), oracle2.denoiser(VPSDE()), (3, 2), solver=each, steps=9) for each in (name, solver)]
    assert torch.equal(*runs)
