"""The adapter to torchode: its methods against exact paths, each sample's own steps, and its traps."""

import sys

import pytest
import torch
from adapter_checks import NEEDS_TORCHODE, UNUSED, check_gradients, exact, recorded
from torch import Tensor

from sdescore import (
    VPSDE,
    GaussianMixture,
    KarrasSDE,
    LinearSDE,
    ReverseProcess,
    find_solver,
    karras,
    sample,
    trajectory,
)
from sdescore.solvers import TorchDiffEq, TorchODE
from sdescore.solvers.torchode import METHODS

pytestmark = NEEDS_TORCHODE


@pytest.mark.parametrize("method", METHODS)
def test_every_method_follows_the_ode_on_every_process(
    method: str, main_sde: LinearSDE, oracle2: GaussianMixture
) -> None:
    times = TorchDiffEq().grid(main_sde, 40)
    x = oracle2.at(main_sde, main_sde.T).sample(8, seed=1)
    want, reverse = exact(main_sde, oracle2, x, times), ReverseProcess(main_sde, oracle2.denoiser(main_sde))
    states = torch.stack(list(TorchODE(method).solve(reverse, x, times, UNUSED)))
    assert states.shape == want[1:].shape
    error = (states - want[1:]) / torch.hypot(main_sde.alpha(times), main_sde.sigma(times))[1:, None, None]
    assert error.abs().max() < 1e-3


def test_its_methods_are_all_offered() -> None:
    import torchode

    adaptive = {name.lower() for name in vars(torchode) if name in ("Dopri5", "Heun", "Tsit5")}
    assert set(METHODS) == adaptive
    assert all(hasattr(torchode, name) for name in METHODS.values())


def test_every_sample_has_steps_of_its_own(oracle2: GaussianMixture) -> None:
    """A hard neighbour does not change a sample by more than rounding, whatever the tolerance; torchdiffeq's would."""
    sde = KarrasSDE()
    easy = GaussianMixture(torch.zeros(1, 2, dtype=torch.float64), 0.3).denoiser(sde)
    hard, x, times = oracle2.denoiser(sde), oracle2.at(sde, sde.T).sample(4), karras()(sde, 2)

    def net(x: Tensor, t: Tensor) -> Tensor:
        return torch.cat([easy.score(x[:1], t[:1]), hard.score(x[1:], t[1:])])

    def moved(solver: TorchODE | TorchDiffEq) -> float:
        alone = sample(sde, easy, x=x[:1], times=times, solver=solver)
        return float((sample(sde, net, x=x, times=times, solver=solver)[:1] - alone).abs().max())

    assert moved(TorchODE(rtol=1e-2, atol=1e-2)) < 1e-12
    assert moved(TorchDiffEq(rtol=1e-2, atol=1e-2)) > 1e-6


def test_times_differ_from_sample_to_sample(oracle2: GaussianMixture) -> None:
    sde, spans = VPSDE(), []
    denoiser = oracle2.denoiser(sde)

    def net(x: Tensor, t: Tensor) -> Tensor:
        spans.append(float(t.max() - t.min()))
        return denoiser.score(x, t)

    sample(sde, net, (16, 2), solver=TorchODE(), dtype=torch.float64)
    assert max(spans) > 0.05


def test_gradients_flow(oracle2: GaussianMixture) -> None:
    check_gradients(TorchODE(rtol=1e-7, atol=1e-7), oracle2)


def test_states_between_are_interpolated_at_no_further_call(oracle2: GaussianMixture) -> None:
    sde = VPSDE()
    ends, fine = karras()(sde, 2), karras()(sde, 30)
    x, counts, lasts = oracle2.at(sde, sde.T).sample(4), [], []
    for times in (ends, fine):
        net, seen = recorded(sde, oracle2)
        states = list(trajectory(sde, net, x=x, times=times, solver=TorchODE()))
        assert len(states) == len(times) + 1
        counts.append(len(seen))
        lasts.append(states[-1])
    assert counts[0] == counts[1]
    torch.testing.assert_close(*lasts, rtol=0, atol=1e-12)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_the_library_does_alone_with_what_is_not_finite(value: float) -> None:
    """It returns, with a status and states that were never written: the adapter has to look."""
    import torchode

    term = torchode.ODETerm(lambda t, y: torch.where(t[:, None] > 0.5, value, -y))
    solver = torchode.AutoDiffAdjoint(torchode.Tsit5(term=term), torchode.IntegralController(1e-5, 1e-5, term=term))
    done = solver.solve(torchode.InitialValueProblem(torch.ones(2, 1), t_eval=torch.linspace(0, 1, 9).expand(2, -1)))
    assert done.status.tolist() == [torchode.Status.INFINITE_NORM.value] * 2
    assert done.stats["n_initialized"].max() < 9


def test_a_limit_of_steps_is_kept(oracle2: GaussianMixture) -> None:
    net, seen = recorded(VPSDE(), oracle2)
    with pytest.raises(FloatingPointError, match=r"TorchODE.*gave up: reached max steps, in 3 of 3 samples"):
        sample(VPSDE(), net, (3, 2), solver=TorchODE(max_steps=4), dtype=torch.float64)
    assert len(seen) <= 2 + 6 * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "euler"}, "method='euler'; expected 'dopri5', 'heun', 'tsit5'"),
        ({"rtol": 0.0}, "rtol=0.0"),
        ({"atol": -1.0}, "atol=-1.0"),
        ({"max_steps": 0}, "max_steps=0"),
    ],
)
def test_bad_settings(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TorchODE(**options)  # type: ignore[arg-type]


def test_it_has_no_budget(oracle2: GaussianMixture) -> None:
    with pytest.raises(ValueError, match="nfe is given, but TorchODE defines no nfe"):
        sample(VPSDE(), oracle2.denoiser(VPSDE()), (2, 2), solver=TorchODE(), nfe=20)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchode", None)
    for make in (TorchODE, lambda: find_solver("torchode")):
        with pytest.raises(ImportError, match=r"pip install 'sdescore\[torchode\]'"):
            make()
