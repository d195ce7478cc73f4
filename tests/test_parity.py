"""Presets beside other libraries' own code on the same grid, noise and table: equal, or not for a stated reason."""

import importlib
import inspect
import math
import sys
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from sdescore import (
    VESDE,
    VPSDE,
    DiscreteSDE,
    GaussianMixture,
    KarrasSDE,
    LinearSDE,
    Noise,
    OneStep,
    Reverse,
    Solver,
    karras,
    trajectory,
    uniform_lambda,
)
from sdescore.noise import White
from sdescore.solvers import (
    BH1,
    BH2,
    DATA,
    DDIM,
    DDPM,
    DIFFERENCE,
    DPM_2,
    DPM_2_ANCESTRAL,
    DPM_3,
    DPMPP_2M,
    DPMPP_2S,
    DPMPP_2S_ANCESTRAL,
    DPMPP_3M,
    EULER_ANCESTRAL,
    HEUN,
    IPNDM,
    LAM,
    LMS,
    NOISE,
    SA,
    SDE_DPMPP_2M,
    SEEDS,
    TRAPEZOID,
    UNIPC,
    UNIPC_BH1,
    UNIPC_BH2,
    Adams,
    Churn,
    Coordinate,
    ReverseDiffusion,
    RungeKutta,
    V,
    ddim_eta,
    k_diffusion_eta,
)
from sdescore.solvers.runge_kutta import THIRDS
from sdescore.solvers.targets import IN_LAM
from sdescore.testing import check_ode_order

SCRIPTS = Path(__file__).parent.parent / "scripts"
if not (SCRIPTS / "peers.py").exists():
    pytest.skip("no scripts beside these tests", allow_module_level=True)
sys.path.append(str(SCRIPTS))  # behind everything else: no script may hide a package
from peers import Azula, Diffusers, KDiffusion, k_diffusion_sampling  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")  # of NumPy 2, in its schedulers

MU = Coordinate("mu", lambda sde, times: DIFFERENCE.mu(sde.lam(times)))


@dataclass(frozen=True)
class Pair:
    """A solver of ours and a peer's, with what of the path is compared.

    Args:
        every: Ours steps on every so many of the peer's times, whose others are its inner stages.
        states: The states at the times are compared; else the last alone, where a peer shows others: not corrected yet,
            or churned.
        data: The samples are compared; not where a peer takes its multistep formula through the step to no noise.
        begun: The data prediction is the same at the first three times: the way in to higher orders does not matter.
    """

    ours: Solver
    peer: Solver
    every: int = 1
    states: bool = True
    data: bool = True
    begun: bool = False


def multistep(order: int, **options: Any) -> Diffusers:
    return Diffusers("DPMSolverMultistep", {"solver_order": order, "lower_order_final": False, **options})


def unipc(order: int, solver_type: str) -> Diffusers:
    options = {"solver_order": order, "solver_type": solver_type, "lower_order_final": False}
    return Diffusers("UniPCMultistep", options, last=False)


DIFFUSERS = {
    "DDIM": Pair(DDIM, Diffusers("DDIM")),
    "DDIM eta 0.5": Pair(replace(DDPM, tau=ddim_eta(0.5)), Diffusers("DDIM", step={"eta": 0.5})),
    "DDIM eta 1": Pair(DDPM, Diffusers("DDIM", step={"eta": 1.0})),
    "DDPM": Pair(DDPM, Diffusers("DDPM")),
    "DPM++ 1": Pair(Adams(1, DATA), multistep(1)),
    "DPM++ 2M": Pair(DPMPP_2M, multistep(2)),
    "DPM++ 2M, heun": Pair(Adams(2, DATA, LAM), multistep(2, solver_type="heun")),
    "DPM 2M": Pair(
        Adams(2, NOISE, LAM, bh=BH2),
        multistep(2, algorithm_type="dpmsolver", final_sigmas_type="sigma_min"),
        data=False,
    ),
    "SDE-DPM++ 1": Pair(Adams(1, DATA, tau=1.0), multistep(1, algorithm_type="sde-dpmsolver++")),
    "SDE-DPM++ 2M": Pair(SDE_DPMPP_2M, multistep(2, algorithm_type="sde-dpmsolver++")),
    "SDE-DPM++ 2M, heun": Pair(
        Adams(2, DATA, LAM, tau=1.0), multistep(2, algorithm_type="sde-dpmsolver++", solver_type="heun")
    ),
    "UniPC 2, bh1": Pair(UNIPC_BH1, unipc(2, "bh1"), states=False),
    "UniPC 2, bh2": Pair(UNIPC_BH2, unipc(2, "bh2"), states=False),
    "UniPC 3, bh1": Pair(replace(UNIPC, bh=BH1), unipc(3, "bh1"), states=False),
    "UniPC 3, bh2": Pair(replace(UNIPC, bh=BH2), unipc(3, "bh2"), states=False),
    "UniPC 3": Pair(UNIPC, unipc(3, "bh2"), states=False, begun=True),
    "SA 3": Pair(
        SA,
        Diffusers(
            "SASolver",
            {"predictor_order": 3, "corrector_order": 4, "lower_order_final": False, "tau_func": lambda t: 1.0},
            last=False,
        ),
        states=False,
        begun=True,
    ),
    "DEIS 2": Pair(Adams(2, NOISE, LAM), Diffusers("DEISMultistep", {"solver_order": 2}), data=False),
    "DEIS 3": Pair(
        Adams(3, NOISE, LAM), Diffusers("DEISMultistep", {"solver_order": 3, "lower_order_final": False}), data=False
    ),
    "Euler": Pair(DDIM, Diffusers("EulerDiscrete")),
    "Euler ancestral": Pair(DDPM, Diffusers("EulerAncestralDiscrete")),
    "Heun": Pair(HEUN, Diffusers("HeunDiscrete", stages=2)),
    "DPM-2": Pair(DPM_2, Diffusers("KDPM2Discrete", stages=2)),
    "DPM-2 ancestral": Pair(DPM_2_ANCESTRAL, Diffusers("KDPM2AncestralDiscrete", stages=2)),
    "LMS": Pair(LMS, Diffusers("LMSDiscrete"), data=False),
    "iPNDM": Pair(IPNDM, Diffusers("IPNDM"), data=False),
    "Flow Euler": Pair(DDIM, Diffusers("FlowMatchEulerDiscrete")),
    "Flow Heun": Pair(RungeKutta(TRAPEZOID, DIFFERENCE), Diffusers("FlowMatchHeunDiscrete", stages=2)),
    "EDM Euler": Pair(DDIM, Diffusers("EDMEuler")),
    "EDM DPM++ 2M": Pair(DPMPP_2M, Diffusers("EDMDPMSolverMultistep")),
    "EDM SDE-DPM++ 2M": Pair(SDE_DPMPP_2M, Diffusers("EDMDPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++"})),
}
K_DIFFUSION = {
    "euler": Pair(DDIM, KDiffusion("euler")),
    "euler, churn": Pair(
        Churn(DDIM, 8.0, 0.1, math.inf, 1.003),
        KDiffusion("euler", {"s_churn": 8.0, "s_tmin": 0.1, "s_noise": 1.003}),
        states=False,
    ),
    "euler ancestral": Pair(DDPM, KDiffusion("euler_ancestral")),
    "euler ancestral, by name": Pair(EULER_ANCESTRAL, KDiffusion("euler_ancestral")),
    "euler ancestral, eta 0.5": Pair(replace(DDPM, tau=ddim_eta(0.5)), KDiffusion("euler_ancestral", {"eta": 0.5})),
    "heun": Pair(HEUN, KDiffusion("heun")),
    "heun, churn": Pair(
        Churn(HEUN, 8.0, 0.1, math.inf, 1.0),
        KDiffusion("heun", {"s_churn": 8.0, "s_tmin": 0.1}),
        states=False,
    ),
    "dpm_2": Pair(DPM_2, KDiffusion("dpm_2")),
    "dpm_2 ancestral": Pair(DPM_2_ANCESTRAL, KDiffusion("dpm_2_ancestral")),
    "lms": Pair(LMS, KDiffusion("lms"), data=False),
    "lms 2": Pair(replace(LMS, order=2), KDiffusion("lms", {"order": 2}), data=False),
    "dpmpp_2s": Pair(DPMPP_2S, KDiffusion("dpmpp_2s_ancestral", {"eta": 0.0})),
    "dpmpp_2s ancestral": Pair(DPMPP_2S_ANCESTRAL, KDiffusion("dpmpp_2s_ancestral")),
    "dpmpp_2s ancestral, eta 0.5": Pair(
        replace(DPMPP_2S_ANCESTRAL, eta=0.5), KDiffusion("dpmpp_2s_ancestral", {"eta": 0.5})
    ),
    "dpmpp_2m": Pair(DPMPP_2M, KDiffusion("dpmpp_2m")),
    "dpmpp_2m_sde": Pair(SDE_DPMPP_2M, KDiffusion("dpmpp_2m_sde")),
    "dpmpp_2m_sde, heun": Pair(Adams(2, DATA, LAM, tau=1.0), KDiffusion("dpmpp_2m_sde", {"solver_type": "heun"})),
    "dpmpp_2m_sde, eta 0.5": Pair(
        replace(SDE_DPMPP_2M, tau=k_diffusion_eta(0.5)), KDiffusion("dpmpp_2m_sde", {"eta": 0.5})
    ),
}
AZULA = {
    "DDPM": Pair(DDPM, Azula("DDPM")),
    # Its eta multiplies a variance where the paper's multiplies a standard deviation.
    "DDIM eta 0.5": Pair(replace(DDPM, tau=ddim_eta(0.5**0.5)), Azula("DDIM", {"eta": 0.5})),
    "Euler": Pair(DDIM, Azula("Euler")),
    "Heun": Pair(HEUN, Azula("Heun")),
    "Itô": Pair(SEEDS, Azula("Ito")),
    "zAB 4": Pair(LMS, Azula("zAB", {"order": 4})),
    "vAB 3": Pair(Adams(3, DIFFERENCE, MU), Azula("vAB", {"order": 3})),
    "zEAB 3": Pair(Adams(3, NOISE, LAM), Azula("zEAB", {"order": 3})),
    "xEAB 2": Pair(Adams(2, DATA, LAM), Azula("xEAB", {"order": 2})),
    "xEAB 3": Pair(DPMPP_3M, Azula("xEAB", {"order": 3})),
}


def mixture() -> GaussianMixture:
    own = torch.Generator().manual_seed(11)
    return GaussianMixture(torch.randn(5, 3, generator=own, dtype=torch.float64), 0.3)


def deviations(pair: Pair, sde: LinearSDE, times: Tensor) -> tuple[Tensor, float]:
    """Largest differences of the states at each time after the first, by their scale there, and of the samples."""
    oracle = mixture()
    denoiser, x = oracle.denoiser(sde), oracle.at(sde, times[0]).sample(8, seed=1)

    def net(x: Tensor, t: Tensor) -> Tensor:
        begun = (t > times[2] + 1e-9) if pair.begun else torch.zeros_like(t, dtype=torch.bool)
        return torch.where(begun[:, None], 0.1, denoiser(x, t))

    ours, theirs = (
        list(trajectory(sde, net, x=x, times=grid, solver=solver, seed=2, predicts="data"))
        for solver, grid in ((pair.ours, times[:: pair.every]), (pair.peer, times))
    )
    assert len(theirs) == len(times) + 1
    theirs = [*theirs[: -1 : pair.every], theirs[-1]]
    kept = times[:: pair.every]
    scale = torch.hypot(sde.alpha(kept), sde.sigma(kept))
    apart = [float((a - b).abs().max() / s) for a, b, s in zip(ours, theirs, scale, strict=False)]
    return torch.tensor(apart[1:]), float((ours[-1] - theirs[-1]).abs().max())


def check(pair: Pair, sde: LinearSDE, times: Tensor) -> None:
    states, data = deviations(pair, sde, times)
    assert states.max() < 1e-9 or not pair.states
    assert states[-1] < 1e-9
    assert data < 1e-9 or not pair.data


def own_table() -> tuple[LinearSDE, Tensor]:
    """The process of diffusers' own float32 table, and the times that it takes in 25 steps."""
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(timestep_spacing="trailing")
    scheduler.set_timesteps(25)
    table = scheduler.alphas_cumprod.double()
    lam = (table.log() - (1 - table).log()) / 2
    return DiscreteSDE(tuple(lam.tolist())), scheduler.timesteps.double()


def own_sigmas() -> Tensor:
    """The noise levels of k-diffusion's own grid, in its float32."""
    if find_spec("k_diffusion") is None:
        pytest.skip("k-diffusion is not installed")
    levels: Tensor = k_diffusion_sampling().get_sigmas_karras(12, 0.02, 50.0)
    return levels[:-1].double()


@pytest.mark.parametrize("name", DIFFUSERS)
def test_diffusers(name: str) -> None:
    check(DIFFUSERS[name], *own_table())


@pytest.mark.parametrize("name", K_DIFFUSION)
def test_k_diffusion(name: str) -> None:
    check(K_DIFFUSION[name], KarrasSDE(), own_sigmas())


@pytest.mark.parametrize("sde", [VPSDE(), VESDE()], ids=["VP", "VE"])
@pytest.mark.parametrize("name", AZULA)
def test_azula(name: str, sde: LinearSDE) -> None:
    pytest.importorskip("azula")
    check(AZULA[name], sde, karras()(sde, 12))


def singlestep(order: int, solver_type: str = "midpoint") -> Diffusers:
    return Diffusers("DPMSolverSinglestep", {"solver_order": order, "solver_type": solver_type})


# Its stages are times of the grid, at halves and thirds of a step where lam is uniform. Neither of its methods of order
# 3 is the paper's (DPMPP_3S), which takes the second stage from the one and the end from the other.
SINGLESTEP = {
    "2S": Pair(DPMPP_2S, singlestep(2), every=2),
    "3S, midpoint": Pair(RungeKutta(replace(THIRDS, rows=((1,), (0, 1), (1, 0, 1))), DATA, IN_LAM), singlestep(3), 3),
    "3S, heun": Pair(
        RungeKutta(replace(THIRDS, rows=((1,), (1, 1), (1, 1, 1))), DATA, IN_LAM), singlestep(3, "heun"), every=3
    ),
}


@pytest.mark.parametrize("name", SINGLESTEP)
def test_diffusers_singlestep(name: str) -> None:
    pytest.importorskip("diffusers")
    sde = VPSDE()
    check(SINGLESTEP[name], sde, uniform_lambda()(sde, 13))


def test_score_sde_predictor() -> None:
    """Its ladder of noise levels from 50 to 0.01, in its float32."""
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.ScoreSdeVeScheduler(sigma_min=0.01, sigma_max=50.0)
    scheduler.set_timesteps(40)
    scheduler.set_sigmas(40)
    scheduler.discrete_sigmas = scheduler.discrete_sigmas.double()
    sde, times, oracle = KarrasSDE(), scheduler.discrete_sigmas.flip(0), mixture()
    denoiser, x = oracle.denoiser(sde), oracle.at(sde, times[0]).sample(8, seed=1)
    ours = list(trajectory(sde, denoiser, x=x, times=times, solver=ReverseDiffusion(), seed=2))[-2]
    noise = White(2, range(8))
    with patch.object(sys.modules[type(scheduler).__module__], "randn_tensor", lambda *_, **__: noise.fresh(x)):
        for k in range(39, 0, -1):
            share = torch.tensor((k + 0.5) / 39, dtype=torch.float64)  # its index is the integer part of 39 times this
            x = scheduler.step_pred(denoiser.score(x, times[39 - k]), share, x).prev_sample
    assert (ours - x).abs().max() < 1e-9


@dataclass(frozen=True)
class DPMSolver3(OneStep):
    """k-diffusion's step of order 3, which it offers on equal steps in lam alone."""

    def step(self, reverse: Reverse, x: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        sde = reverse.sde

        def model(y: Tensor, sigma: Tensor) -> Tensor:
            at = sde.time(-sigma[0].log())
            return reverse.data(sde.alpha(at) * y, at)

        solver = k_diffusion_sampling().DPMSolver(model)
        y, _ = solver.dpm_solver_3_step(x / sde.alpha(t), sde.lam(t), sde.lam(s))
        return sde.alpha(s) * y


def test_dpm_solver_3() -> None:
    check(Pair(DPM_3, DPMSolver3()), KarrasSDE(), own_sigmas())


class Shipped(Diffusers):
    """A scheduler with its own table, in its own precision."""

    def make(self, rho: Tensor) -> Any:
        cls = getattr(importlib.import_module("diffusers"), f"{self.scheduler}Scheduler")
        known = {"timestep_spacing": "trailing", "clip_sample": False, "beta_start": 1e-4, "beta_end": 0.02}
        taken = inspect.signature(cls.__init__).parameters
        scheduler = cls(**{name: value for name, value in known.items() if name in taken}, **self.options)
        scheduler.set_timesteps(len(rho))
        scheduler.is_scale_input_called = True
        return scheduler

    def altered(self, **names: Any) -> Any:
        cls = getattr(importlib.import_module("diffusers"), f"{self.scheduler}Scheduler")
        return super().altered(**names, torch=torch, np=sys.modules[cls.__module__].np)


OWN_GRID = [name for name in DIFFUSERS if not name.startswith(("EDM", "Flow", "iPNDM"))]


@pytest.mark.parametrize("name", OWN_GRID)
def test_the_adapter_to_diffusers_changes_nothing_but_the_precision(name: str) -> None:
    sde, times = own_table()
    peer = DIFFUSERS[name].peer
    assert isinstance(peer, Diffusers)
    shipped = Shipped(peer.scheduler, peer.options, peer.step, peer.last, peer.stages)
    states, data = deviations(Pair(peer, shipped), sde, times)
    assert states.max() < 1e-4
    assert data < 1e-4 or not DIFFUSERS[name].data


# Where a peer is wrong: (ours, peer's, the order it claims, the order it has, earlier states it needs).
WRONG: dict[str, tuple[Solver, Solver, int, int, int]] = {
    "diffusers 3M: D2 lacks a factor 2": (DPMPP_3M, multistep(3), 3, 2, 2),
    "k-diffusion 3M: D2 lacks a factor 2": (DPMPP_3M, KDiffusion("dpmpp_3m_sde", {"eta": 0.0}), 3, 2, 2),
    "azula REAB 2: alpha_s^2 + sigma_t^2 where sigma_s^2 belongs": (
        Adams(2, V, LAM),
        Azula("REAB", {"order": 2}),
        2,
        1,
        1,
    ),
}


def skip_without(peer: Solver) -> None:
    package = {Diffusers: "diffusers", KDiffusion: "k_diffusion", Azula: "azula"}[type(peer)]
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


@pytest.mark.parametrize("name", WRONG)
def test_a_peer_that_is_wrong_fails_the_test_of_its_order(name: str) -> None:
    ours, peer, claimed, true, history = WRONG[name]
    skip_without(peer)
    options: dict[str, Any] = {"history": history, "steps": (32, 64), "starts": 32}
    with pytest.raises(AssertionError, match=rf"of order {claimed}, but measures ({true - 1}\.9|{true}\.[0-3])"):
        check_ode_order(peer, claimed, **options)
    check_ode_order(peer, true, **options)
    check_ode_order(ours, claimed, **options)
    states, _ = deviations(Pair(ours, peer), VPSDE(), karras()(VPSDE(), 12))
    assert states.max() > 1e-3


@pytest.mark.parametrize(
    ("peer", "order", "history"),
    [(multistep(2), 2, 1), (KDiffusion("lms"), 4, 3), (Azula("xEAB", {"order": 3}), 3, 2)],
    ids=["diffusers 2M", "k-diffusion LMS", "azula xEAB 3"],
)
def test_a_peer_that_is_right_passes(peer: Solver, order: int, history: int) -> None:
    skip_without(peer)
    check_ode_order(peer, order, history, steps=(32, 64), starts=32)
