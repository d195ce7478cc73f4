"""What solvers declare: pickles, names and records of them, their grids, their net calls, and who denoises."""

import pickle
from collections.abc import Iterator
from dataclasses import is_dataclass, replace
from typing import Any

import pytest
import torch
from named_solvers import NAMES
from torch import Tensor

from sdescore import VPSDE, GaussianMixture, OneStep, ReverseProcess, find_solver, karras, sample
from sdescore.sampling import approaching, table, uniform_asinh
from sdescore.sampling.grids import EqualSteps
from sdescore.sampling.solver import grid_of, total_nfe
from sdescore.solvers import (
    ADAMS,
    CUBE_ROOT_RHO,
    DATA,
    DDIM,
    DPMPP_2M,
    DPMPP_2S,
    EULER,
    HEUN,
    LAM,
    NOISE,
    SDE_DPMPP_2M,
    UNIPC_BH2,
    Adams,
    EulerMaruyama,
    V,
    ddim_eta,
    er_noise,
)


def drawn(solver: Any, oracle: GaussianMixture) -> Tensor:
    return sample(VPSDE(), oracle.denoiser(VPSDE()), (4, 2), solver=solver, steps=4, seed=1)


@pytest.mark.parametrize("name", NAMES)
def test_a_pickled_solver_is_equal(name: str) -> None:
    solver = find_solver(name)
    again = pickle.loads(pickle.dumps(solver))
    assert again == solver and repr(again) == repr(solver)
    assert " at 0x" not in repr(solver)
    assert is_dataclass(solver)
    assert pickle.loads(pickle.dumps(grid_of(solver))) == grid_of(solver)


@pytest.mark.parametrize(
    "solver",
    [ADAMS, HEUN, DPMPP_2S, Adams(1, DATA, tau=ddim_eta(0.5)), Adams(2, V, CUBE_ROOT_RHO, tau=er_noise())],
    ids=["adams", "heun", "dpm++2s", "ddim eta", "er noise"],
)
def test_a_pickled_solver_samples_the_same_bits(solver: Any, oracle2: GaussianMixture) -> None:
    assert torch.equal(drawn(pickle.loads(pickle.dumps(solver)), oracle2), drawn(solver, oracle2))


def test_what_differs_is_not_equal() -> None:
    assert replace(ADAMS, order=2) != ADAMS
    assert len({DATA, NOISE, V}) == 3 and len({LAM, CUBE_ROOT_RHO}) == 2
    assert karras() == karras(power=7.0) != karras(power=6.0)
    assert uniform_asinh(rho_min=0.01) != uniform_asinh()
    assert approaching() != approaching(scale=11.0)
    assert ddim_eta(0.5) != ddim_eta(0.6)
    assert EULER is DDIM


def test_a_solver_can_be_read() -> None:
    assert "heun" in repr(HEUN)
    assert repr(DPMPP_2M).startswith("Adams(order=2, target=DataTarget(), coordinate=LogSNR()")
    assert repr(karras(power=5)) == "karras(rho_min=0.002, power=5)"


# Names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("dpmpp_2m", DPMPP_2M),
        ("sample_dpmpp_2m_sde", SDE_DPMPP_2M),
        ("DPMSolverMultistepScheduler", DPMPP_2M),
        ("UniPCMultistepScheduler", UNIPC_BH2),
        ("HeunDiscreteScheduler", HEUN),
        ("sample_heun", HEUN),
        ("DDIMScheduler", DDIM),
    ],
)
def test_names_of_other_libraries_are_understood(theirs: str, ours: Any) -> None:
    assert find_solver(theirs) == ours


def test_no_two_solvers_have_one_name_elsewhere() -> None:
    owners: dict[str, Any] = {}
    for name in NAMES:
        solver = find_solver(name)
        for also in getattr(solver, "about", None).also:  # type: ignore[union-attr]
            assert owners.setdefault(also, solver) == solver, also
            assert also == also.lower() and (also not in NAMES or find_solver(also) == solver), also


def test_an_unknown_name_names_the_nearest_first() -> None:
    with pytest.raises(ValueError, match=r"solver='huen' is not installed; expected heun"):
        find_solver("huen")


# The table -----------------------------------------------------------------------------------------------------------


def test_the_table_has_every_solver_with_its_paper() -> None:
    records = {each.name: each for each in table()}
    assert list(records) == NAMES
    for each in records.values():
        assert each.kind in ("ODE", "SDE") and each.order >= 1, each
        assert each.paper and each.use and each.link.startswith("https://"), each
    assert (records["heun"].kind, records["heun"].order, records["heun"].calls) == ("ODE", 2, 2)
    assert (records["adams"].order, records["adams"].calls) == (4, 1)
    assert records["predictor-corrector"].calls == 2
    assert records["dopri5"].calls is None


# Grids and calls -----------------------------------------------------------------------------------------------------


def test_a_grid_without_its_parentheses_is_refused(oracle2: GaussianMixture) -> None:
    with pytest.raises(TypeError, match=r"times is the class karras; a grid is made by calling it: karras\(\)"):
        sample(VPSDE(), oracle2.denoiser(VPSDE()), (2, 2), times=karras)  # type: ignore[arg-type]


def test_every_grid_of_equal_steps_is_listed_with_its_own_fields() -> None:
    for grid in EqualSteps.__subclasses__():
        assert "rho_min" in repr(grid())


class Silent:
    """Declares that it denoises, or not, and yields so many states."""

    def __init__(self, denoises: bool, states: int) -> None:
        self.denoises, self.states = denoises, states

    def solve(self, reverse: ReverseProcess, x: Tensor, times: Tensor, noise: Any) -> Iterator[Tensor]:
        yield from [x + 1] * self.states

    def nfe(self, intervals: int) -> int:
        return 0


@pytest.mark.parametrize(("denoises", "declared"), [(False, 3), (True, 4)])
def test_a_solver_that_yields_what_it_does_not_declare_is_named(
    denoises: bool, declared: int, oracle2: GaussianMixture
) -> None:
    net = oracle2.denoiser(VPSDE())
    for states in (declared - 1, declared + 1):
        with pytest.raises(RuntimeError, match=rf"yielded {states} states on 4 times; it declares {declared}"):
            sample(VPSDE(), net, (2, 2), solver=Silent(denoises, states), steps=4)
    x = torch.zeros(2, 2, dtype=torch.float64)
    found = sample(VPSDE(), net, x=x, solver=Silent(denoises, declared), steps=4)
    assert torch.equal(found, x + 1) == denoises  # else sample() denoises


def test_who_denoises_is_counted_once() -> None:
    assert total_nfe(Silent(True, 4), 4) == 0
    assert total_nfe(Silent(False, 3), 4) == 1
    assert total_nfe(ADAMS, 20) == total_nfe(DPMPP_2M, 20) == total_nfe(EulerMaruyama(), 20) == 20
    assert total_nfe(HEUN, 18) == 35


def test_a_step_is_a_grid_of_one(oracle2: GaussianMixture) -> None:
    """Whoever states coefficients alone has the step, too."""
    sde = VPSDE()
    reverse, x = ReverseProcess(sde, oracle2.denoiser(sde)), oracle2.at(sde, 0.8).sample(5)
    t, s = torch.tensor([0.8, 0.3], dtype=torch.float64)
    alone = DDIM.step(reverse, x, t, s, None)  # type: ignore[arg-type]
    rho, eps = sde.rho(torch.stack([t, s])), reverse.noise(x, t)
    torch.testing.assert_close(
        alone, sde.alpha(s) * (x / sde.alpha(t) + (rho[1] - rho[0]) * eps), rtol=1e-12, atol=1e-12
    )
    assert isinstance(DDIM, OneStep) and not isinstance(ADAMS, OneStep)
