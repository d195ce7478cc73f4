"""Presets beside diffusers' schedulers on the same grid, noise and table: equal, or not for a stated reason."""

import importlib
import inspect
import sys
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from peer_pairs import Diffusers, Pair, check, deviations, mixture, multistep, own_table
from torch import Tensor

from sdescore import VPSDE, KarrasSDE, trajectory
from sdescore.sampling import uniform_lambda
from sdescore.sampling.noise import WhiteNoise
from sdescore.solvers import (
    DATA,
    DDIM,
    DDPM,
    DIFFERENCE,
    DPM_2,
    DPM_2_ANCESTRAL,
    DPMPP_2M,
    DPMPP_2S,
    HEUN,
    IPNDM,
    LAM,
    LMS,
    NOISE,
    SA,
    SDE_DPMPP_2M,
    UNIPC,
    UNIPC_BH1,
    UNIPC_BH2,
    Adams,
    ReverseDiffusion,
    RungeKutta,
    ddim_eta,
    tableaux,
)
from sdescore.solvers.targets import IN_LAM

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")  # of NumPy 2, in its schedulers


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
        Adams(2, NOISE, LAM, bh="bh2"),
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
    "UniPC 3, bh1": Pair(replace(UNIPC, bh="bh1"), unipc(3, "bh1"), states=False),
    "UniPC 3, bh2": Pair(replace(UNIPC, bh="bh2"), unipc(3, "bh2"), states=False),
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
    "Flow Heun": Pair(RungeKutta(tableaux.HEUN, DIFFERENCE), Diffusers("FlowMatchHeunDiscrete", stages=2)),
    "EDM Euler": Pair(DDIM, Diffusers("EDMEuler")),
    "EDM DPM++ 2M": Pair(DPMPP_2M, Diffusers("EDMDPMSolverMultistep")),
    "EDM SDE-DPM++ 2M": Pair(SDE_DPMPP_2M, Diffusers("EDMDPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++"})),
}


@pytest.mark.parametrize("name", DIFFUSERS)
def test_diffusers(name: str) -> None:
    check(DIFFUSERS[name], *own_table())


def singlestep(order: int, solver_type: str = "midpoint") -> Diffusers:
    return Diffusers("DPMSolverSinglestep", {"solver_order": order, "solver_type": solver_type})


# Its stages are times of the grid, at halves and thirds of a step where lam is uniform. Neither of its methods of order
# 3 is the paper's (DPMPP_3S), which takes the second stage from the one and the end from the other.
SINGLESTEP = {
    "2S": Pair(DPMPP_2S, singlestep(2), every=2),
    "3S, midpoint": Pair(
        RungeKutta(replace(tableaux.HEUN3, rows=((1,), (0, 1), (1, 0, 1))), DATA, IN_LAM), singlestep(3), 3
    ),
    "3S, heun": Pair(
        RungeKutta(replace(tableaux.HEUN3, rows=((1,), (1, 1), (1, 1, 1))), DATA, IN_LAM),
        singlestep(3, "heun"),
        every=3,
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
    noise = WhiteNoise(2, range(8))
    with patch.object(sys.modules[type(scheduler).__module__], "randn_tensor", lambda *_, **__: noise.randn(x)):
        for k in range(39, 0, -1):
            share = torch.tensor((k + 0.5) / 39, dtype=torch.float64)  # its index is the integer part of 39 times this
            x = scheduler.step_pred(denoiser.score(x, times[39 - k]), share, x).prev_sample
    assert (ours - x).abs().max() < 1e-9


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
    assert states.max() < 2e-4  # of single precision, which an extrapolation of order 3 enlarges
    assert data < 1e-4 or not DIFFUSERS[name].data
