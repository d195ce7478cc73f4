"""The numerical methods. To add one: a file here, and a line under sdescore.solvers in pyproject.toml."""

from .adams import INDEX, LAM, LAM_LINEAR, QUARTER_RHO, RHO, TIME, Adams, Coordinate, Tau
from .adaptive import BOSH3, DOPRI5, TSIT5, Adaptive, Spent
from .adaptive_sde import AdaptiveSDE
from .ancestral import DPM_2_ANCESTRAL, DPMPP_2S_ANCESTRAL, EULER_ANCESTRAL, Ancestral
from .churn import Churn
from .euler_maruyama import EulerMaruyama
from .langevin import AnnealedLangevin, Langevin
from .langevin_variants import BatchMeanLangevin, MetropolisLangevin
from .milstein import Milstein
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
from .restart import Again, Restart
from .reverse_diffusion import ReverseDiffusion
from .runge_kutta import (
    DPM_2,
    DPM_3,
    DPMPP_2S,
    DPMPP_3S,
    EULER,
    HEUN,
    MIDDLE,
    MIDPOINT,
    RALSTON,
    RK4,
    SIMPSON,
    SRA,
    THIRDS,
    TRAPEZOID,
    RungeKutta,
    Stages,
)
from .targets import DATA, DIFFERENCE, IN_LAM, NOISE, Spacing, Target, V
from .torchdiffeq import TorchDiffEq
from .torchode import TorchODE
from .torchsde import TorchSDE

__all__ = [
    "ADAMS",
    "BOSH3",
    "DATA",
    "DDIM",
    "DDPM",
    "DEIS",
    "DIFFERENCE",
    "DOPRI5",
    "DPMPP_2M",
    "DPMPP_2S",
    "DPMPP_2S_ANCESTRAL",
    "DPMPP_3M",
    "DPMPP_3S",
    "DPM_2",
    "DPM_2_ANCESTRAL",
    "DPM_3",
    "EULER",
    "EULER_ANCESTRAL",
    "HEUN",
    "INDEX",
    "IN_LAM",
    "IPNDM",
    "LAM",
    "LAM_LINEAR",
    "LMS",
    "MIDDLE",
    "MIDPOINT",
    "NOISE",
    "QUARTER_RHO",
    "RALSTON",
    "RHO",
    "RK4",
    "SA",
    "SDE_DPMPP_2M",
    "SIMPSON",
    "SRA",
    "THIRDS",
    "TIME",
    "TRAPEZOID",
    "TSIT5",
    "UNIPC",
    "Adams",
    "Adaptive",
    "AdaptiveSDE",
    "Again",
    "Ancestral",
    "AnnealedLangevin",
    "BatchMeanLangevin",
    "Churn",
    "Coordinate",
    "Corrector",
    "EulerMaruyama",
    "Langevin",
    "MetropolisLangevin",
    "Milstein",
    "PredictorCorrector",
    "Restart",
    "ReverseDiffusion",
    "RungeKutta",
    "Spacing",
    "Spent",
    "Stages",
    "Target",
    "Tau",
    "TorchDiffEq",
    "TorchODE",
    "TorchSDE",
    "V",
    "ddim_eta",
    "k_diffusion_eta",
]
