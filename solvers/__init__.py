"""The numerical methods. To add one: a file here, and a line under sdescore.solvers in pyproject.toml."""

from .adams import INDEX, LAM, LAM_LINEAR, QUARTER_RHO, RHO, TIME, Adams, Coordinate, Tau
from .adaptive import DormandPrince
from .churn import Churn
from .euler_maruyama import EulerMaruyama
from .langevin import AnnealedLangevin, Langevin
from .predictor_corrector import Corrector, PredictorCorrector
from .presets import (
    ADAMS,
    DDIM,
    DDPM,
    DEIS,
    DPMPP_2M,
    DPMPP_3M,
    IPNDM,
    LMS,
    SA,
    SDE_DPMPP_2M,
    UNIPC,
    ddim_eta,
    k_diffusion_eta,
)
from .reverse_diffusion import ReverseDiffusion
from .runge_kutta import CLASSIC, HEUN, RK4, Heun, RungeKutta, Tableau
from .targets import DATA, DIFFERENCE, NOISE, Target, V
from .torchdiffeq import TorchDiffEq
from .torchsde import TorchSDE

__all__ = [
    "ADAMS",
    "CLASSIC",
    "DATA",
    "DDIM",
    "DDPM",
    "DEIS",
    "DIFFERENCE",
    "DPMPP_2M",
    "DPMPP_3M",
    "HEUN",
    "INDEX",
    "IPNDM",
    "LAM",
    "LAM_LINEAR",
    "LMS",
    "NOISE",
    "QUARTER_RHO",
    "RHO",
    "RK4",
    "SA",
    "SDE_DPMPP_2M",
    "TIME",
    "UNIPC",
    "Adams",
    "AnnealedLangevin",
    "Churn",
    "Coordinate",
    "Corrector",
    "DormandPrince",
    "EulerMaruyama",
    "Heun",
    "Langevin",
    "PredictorCorrector",
    "ReverseDiffusion",
    "RungeKutta",
    "Tableau",
    "Target",
    "Tau",
    "TorchDiffEq",
    "TorchSDE",
    "V",
    "ddim_eta",
    "k_diffusion_eta",
]
