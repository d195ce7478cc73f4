"""The adapter to torchdiffeq: its methods' orders, and what is its own among the libraries' traps."""

from typing import Any

import pytest
import torch
import torchdiffeq
from adapter_checks import UNUSED, check_gradients, exact, last, recorded
from tensors_and_errors import fitted_order
from torch import Tensor

from sdescore import VPSDE, GaussianMixture, KarrasSDE, LinearSDE, ReverseProcess, karras, sample
from sdescore.solvers import TorchDiffEq
from sdescore.solvers.torchdiffeq import FIXED, METHODS

# Largest error over 8 samples at 40 times, and at rtol = atol = 1e-5: what the method's order gives, not what it gave.
TOLERANCE = {
    **{"euler": 0.1, "midpoint": 0.01, "heun2": 0.01, "heun3": 1e-3, "rk4": 1e-4, "explicit_adams": 1e-2},
    **{"adaptive_heun": 1e-3, "fehlberg2": 0.02, "bosh3": 1e-3, "dopri5": 1e-3, "dopri8": 1e-3},
    **{"implicit_adams": 1e-3, "fixed_adams": 1e-3, "scipy_solver": 1e-3},
}


@pytest.mark.filterwarnings("ignore:Functional iteration did not converge")
def test_every_method_follows_the_ode_on_every_process(main_sde: LinearSDE, oracle2: GaussianMixture) -> None:
    times = TorchDiffEq().grid(main_sde, 40)
    x = oracle2.at(main_sde, main_sde.T).sample(8, seed=2)
    want, reverse = exact(main_sde, oracle2, x, times), ReverseProcess(main_sde, oracle2.denoiser(main_sde))
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


@pytest.fixture(scope="module")
def start_and_end(oracle2: GaussianMixture) -> tuple[Tensor, Tensor]:
    """Of 64 exact paths on VP, at lam = -1 and 1.5."""
    sde = VPSDE()
    ends = sde.time(torch.tensor([-1.0, 1.5], dtype=torch.float64))
    x, solver = oracle2.at(sde, ends[0]).sample(64, seed=2), TorchDiffEq("dopri8", rtol=1e-12, atol=1e-12)
    return x, last(solver, ReverseProcess(sde, oracle2.denoiser(sde)), x, ends)


@pytest.mark.parametrize(
    ("method", "order"),
    [("euler", 1), ("midpoint", 2), ("heun2", 2), ("heun3", 3), ("rk4", 4), ("explicit_adams", 4)],
)
def test_order_of_fixed_steps(
    method: str, order: int, oracle2: GaussianMixture, start_and_end: tuple[Tensor, Tensor]
) -> None:
    sde = VPSDE()
    ends = sde.time(torch.tensor([-1.0, 1.5], dtype=torch.float64))
    reverse = ReverseProcess(sde, oracle2.denoiser(sde))
    x, fine = start_and_end
    steps, errors = [32, 64, 128], []
    for count in steps:
        first, end = sde.rho(ends).atan().tolist()
        times = sde.time(-torch.linspace(first, end, count + 1, dtype=torch.float64).tan().log())
        errors.append(float((last(TorchDiffEq(method), reverse, x, times) - fine).square().mean().sqrt()))
    assert fitted_order(steps, errors) > order - 0.15


def test_the_path_is_the_same_on_every_process(main_sde: LinearSDE, oracle2: GaussianMixture) -> None:
    rho = torch.linspace(1.4, 0.01, 25, dtype=torch.float64).tan()
    z = oracle2.sample(8) + rho[0] * torch.randn(8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def run(sde: LinearSDE) -> Tensor:
        times = sde.time(-rho.log())
        x = last(TorchDiffEq("rk4"), ReverseProcess(sde, oracle2.denoiser(sde)), sde.alpha(times[0]) * z, times)
        return x / sde.alpha(times[-1])

    assert torch.allclose(run(main_sde), run(KarrasSDE()), rtol=0, atol=1e-9)


def test_the_recorder_sees_what_the_library_does_alone(oracle2: GaussianMixture) -> None:
    """Without the adapter torchdiffeq goes beyond the end: the test of all libraries would notice."""
    seen: list[float] = []
    odeint_times = torch.tensor([1.0, 0.1], dtype=torch.float64)
    torchdiffeq.odeint(lambda t, y: seen.append(float(t)) or -y, torch.ones(1), odeint_times, method="dopri5")  # type: ignore
    assert min(seen) < 0.1


def test_the_nets_own_assertions_pass_through() -> None:
    def net(x: Tensor, t: Tensor) -> Tensor:
        raise AssertionError("mine")

    with pytest.raises(AssertionError, match="mine"):
        sample(VPSDE(), net, (4, 2), solver=TorchDiffEq())


@pytest.mark.filterwarnings("ignore:Functional iteration did not converge")
@pytest.mark.parametrize("method", [*FIXED, "dopri5", "implicit_adams"])
def test_gradients_flow(method: str, oracle2: GaussianMixture) -> None:
    check_gradients(TorchDiffEq(method, 1e-7, 1e-7), oracle2, steps=30)


@pytest.mark.parametrize("method", FIXED)
def test_net_calls_of_fixed_steps(method: str, oracle2: GaussianMixture) -> None:
    sde, solver = VPSDE(), TorchDiffEq(method)
    for intervals in (1, 2, 3, 8):
        reverse = ReverseProcess(sde, oracle2.denoiser(sde))
        last(solver, reverse, oracle2.at(sde, sde.T).sample(2), solver.grid(sde, intervals + 1))
        assert reverse.net_calls.count == solver.nfe(intervals)
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
        (lambda: TorchDiffEq("rk5"), "method='rk5'; expected 'euler', .*'dopri5'"),
        (lambda: TorchDiffEq(rtol=0), "rtol=0"),
        (lambda: TorchDiffEq("rk4", options={"step_size": 0.1}), "options has .'step_size'."),
        (lambda: TorchDiffEq("explicit_adams", options={"max_order": 2}), "max_order=2; expected 4 to 12"),
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


def test_a_sample_depends_on_its_batch_within_the_tolerance(oracle2: GaussianMixture) -> None:
    runs = [
        sample(VPSDE(), oracle2.denoiser(VPSDE()), (32, 2), solver=TorchDiffEq(rtol=1e-7, atol=1e-7), batch_size=size)
        for size in (7, 32)
    ]
    assert (runs[0] - runs[1]).abs().max() < 1e-4
