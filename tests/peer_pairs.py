"""Solvers of ours beside peers', on the peers' own grids."""

import sys
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from scripting import SCRIPTS
from torch import Tensor

from sdescore import DiscreteSDE, GaussianMixture, LinearSDE, Solver, trajectory

if not SCRIPTS.exists():
    pytest.skip("no scripts beside these tests", allow_module_level=True)
sys.path.append(str(SCRIPTS))  # behind everything else: no script may hide a package
from shared.peers import Azula, Diffusers, KDiffusion, k_diffusion_sampling

__all__ = [
    "Azula",
    "Diffusers",
    "KDiffusion",
    "Pair",
    "check",
    "deviations",
    "k_diffusion_sampling",
    "mixture",
    "multistep",
    "own_sigmas",
    "own_table",
]


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


@cache
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


@cache
def own_table() -> tuple[LinearSDE, Tensor]:
    """The process of diffusers' own float32 table, and the times that it takes in 25 steps."""
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(timestep_spacing="trailing")
    scheduler.set_timesteps(25)
    table = scheduler.alphas_cumprod.double()
    lam = (table.log() - (1 - table).log()) / 2
    return DiscreteSDE(tuple(lam.tolist())), scheduler.timesteps.double()


@cache
def own_sigmas() -> Tensor:
    """The noise levels of k-diffusion's own grid, in its float32."""
    if find_spec("k_diffusion") is None:
        pytest.skip("k-diffusion is not installed")
    levels: Tensor = k_diffusion_sampling().get_sigmas_karras(12, 0.02, 50.0)
    return levels[:-1].double()
