"""The numerical methods. To add one: a file here, its name below, and a line under sdescore.solvers in pyproject.

Which there are, of what order and what for: table(), or the command `sdescore solvers`.
"""

from sdescore.sampling import table

from . import tableaux
from .adams import Adams
from .adaptive import BOSH3, DOPRI5, TSIT5, Adaptive, CallRecord
from .adaptive_sde import AdaptiveSDE
from .ancestral import CONSISTENCY, DPM_2_ANCESTRAL, DPMPP_2S_ANCESTRAL, Ancestral
from .cfg_plus_plus import CFGPlusPlus
from .churn import Churn
from .coordinates import CUBE_ROOT_RHO, INDEX, LAM, NOISE_SHARE, RHO, TIME, Coordinate
from .daps import DAPS
from .ddrm import DDRM
from .diffpir import DiffPIR
from .dps import DPS
from .euler_maruyama import EulerMaruyama
from .exponential_euler import DDIM, DDPM, EULER, SEEDS, ExponentialEuler
from .langevin import AnnealedLangevin, Langevin
from .langevin_variants import BatchMeanLangevin, MetropolisLangevin
from .lower_order_final import DPM_FAST, LowerOrderFinal
from .milstein import Milstein
from .predictor_corrector import Corrector, PredictorCorrector
from .presets import (
    ADAMS,
    DEIS,
    DPMPP_2M,
    DPMPP_3M,
    ER_SDE,
    IPNDM,
    LMS,
    SA,
    SDE_DPMPP_2M,
    SDE_DPMPP_3M,
    UNIPC,
    UNIPC_BH1,
    UNIPC_BH2,
)
from .repaint import RePaint
from .replacement import Replacement
from .restart import Restart, RestartInterval
from .reverse_diffusion import ReverseDiffusion
from .runge_kutta import (
    DPM_2,
    DPM_3,
    DPMPP_2S,
    DPMPP_3S,
    HEUN,
    MIDPOINT,
    RK4,
    SDE_DPMPP_2S,
    SDE_DPMPP_3S,
    SEEDS_2,
    SEEDS_3,
    SRA,
    RungeKutta,
)
from .sdedit import SDEdit
from .tableaux import Tableau
from .targets import DATA, DIFFERENCE, IN_LAM, NOISE, Spacing, Target, V
from .tau import Tau, ddim_eta, er_noise, k_diffusion_eta
from .torchdiffeq import TorchDiffEq
from .torchode import TorchODE
from .torchsde import TorchSDE

__all__ = [
    "ADAMS",
    "BOSH3",
    "CONSISTENCY",
    "CUBE_ROOT_RHO",
    "DAPS",
    "DATA",
    "DDIM",
    "DDPM",
    "DDRM",
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
    "DPM_FAST",
    "DPS",
    "ER_SDE",
    "EULER",
    "HEUN",
    "INDEX",
    "IN_LAM",
    "IPNDM",
    "LAM",
    "LMS",
    "MIDPOINT",
    "NOISE",
    "NOISE_SHARE",
    "RHO",
    "RK4",
    "SA",
    "SDE_DPMPP_2M",
    "SDE_DPMPP_2S",
    "SDE_DPMPP_3M",
    "SDE_DPMPP_3S",
    "SEEDS",
    "SEEDS_2",
    "SEEDS_3",
    "SRA",
    "TIME",
    "TSIT5",
    "UNIPC",
    "UNIPC_BH1",
    "UNIPC_BH2",
    "Adams",
    "Adaptive",
    "AdaptiveSDE",
    "Ancestral",
    "AnnealedLangevin",
    "BatchMeanLangevin",
    "CFGPlusPlus",
    "CallRecord",
    "Churn",
    "Coordinate",
    "Corrector",
    "DiffPIR",
    "EulerMaruyama",
    "ExponentialEuler",
    "Langevin",
    "LowerOrderFinal",
    "MetropolisLangevin",
    "Milstein",
    "PredictorCorrector",
    "RePaint",
    "Replacement",
    "Restart",
    "RestartInterval",
    "ReverseDiffusion",
    "RungeKutta",
    "SDEdit",
    "Spacing",
    "Tableau",
    "Target",
    "Tau",
    "TorchDiffEq",
    "TorchODE",
    "TorchSDE",
    "V",
    "ddim_eta",
    "er_noise",
    "k_diffusion_eta",
    "table",
    "tableaux",
]
