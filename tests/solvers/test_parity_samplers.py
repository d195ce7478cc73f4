"""Presets beside k-diffusion's and azula's samplers on the same grid and noise: equal."""

import math
from dataclasses import dataclass, replace

import pytest
from peer_pairs import Azula, KDiffusion, Pair, check, k_diffusion_sampling, own_sigmas
from torch import Tensor

from sdescore import VESDE, VPSDE, KarrasSDE, LinearSDE, Noise, OneStep, ReverseProcess, karras
from sdescore.solvers import (
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
    EULER,
    HEUN,
    LAM,
    LMS,
    NOISE,
    NOISE_SHARE,
    SDE_DPMPP_2M,
    SEEDS,
    Adams,
    Ancestral,
    Churn,
    ddim_eta,
    k_diffusion_eta,
)

K_DIFFUSION = {
    "euler": Pair(DDIM, KDiffusion("euler")),
    "euler, churn": Pair(
        Churn(DDIM, 8.0, 0.1, math.inf, 1.003),
        KDiffusion("euler", {"s_churn": 8.0, "s_tmin": 0.1, "s_noise": 1.003}),
        states=False,
    ),
    "euler ancestral": Pair(DDPM, KDiffusion("euler_ancestral")),
    "euler ancestral, as a step of Euler's": Pair(Ancestral(EULER), KDiffusion("euler_ancestral")),
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
    "vAB 3": Pair(Adams(3, DIFFERENCE, NOISE_SHARE), Azula("vAB", {"order": 3})),
    "zEAB 3": Pair(Adams(3, NOISE, LAM), Azula("zEAB", {"order": 3})),
    "xEAB 2": Pair(Adams(2, DATA, LAM), Azula("xEAB", {"order": 2})),
    "xEAB 3": Pair(DPMPP_3M, Azula("xEAB", {"order": 3})),
}


@pytest.mark.parametrize("name", K_DIFFUSION)
def test_k_diffusion(name: str) -> None:
    check(K_DIFFUSION[name], KarrasSDE(), own_sigmas())


@pytest.mark.parametrize("sde", [VPSDE(), VESDE()], ids=["VP", "VE"])
@pytest.mark.parametrize("name", AZULA)
def test_azula(name: str, sde: LinearSDE) -> None:
    pytest.importorskip("azula")
    check(AZULA[name], sde, karras()(sde, 12))


@dataclass(frozen=True)
class DPMSolver3(OneStep):
    """k-diffusion's step of order 3, which it offers on equal steps in lam alone."""

    def step(self, reverse: ReverseProcess, x: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        sde = reverse.sde

        def model(y: Tensor, sigma: Tensor) -> Tensor:
            at = sde.time(-sigma[0].log())
            return reverse.data(sde.alpha(at) * y, at)

        solver = k_diffusion_sampling().DPMSolver(model)
        y, _ = solver.dpm_solver_3_step(x / sde.alpha(t), sde.lam(t), sde.lam(s))
        return sde.alpha(s) * y


def test_dpm_solver_3() -> None:
    check(Pair(DPM_3, DPMSolver3()), KarrasSDE(), own_sigmas())
