"""The numerical methods. To add one: a file here, and a line under sdescore.solvers in pyproject.toml."""

from .ancestral import DDPM
from .churn import Churn
from .dpm import DPMpp
from .euler import Euler
from .euler_maruyama import EulerMaruyama
from .langevin import AnnealedLangevin, Langevin
from .predictor_corrector import Corrector, PredictorCorrector
from .reverse_diffusion import ReverseDiffusion
from .runge_kutta import CLASSIC, HEUN, RK4, Heun, RungeKutta, Tableau
from .targets import DATA, DIFFERENCE, NOISE, Target, V

__all__ = [
    "CLASSIC",
    "DATA",
    "DDPM",
    "DIFFERENCE",
    "HEUN",
    "NOISE",
    "RK4",
    "AnnealedLangevin",
    "Churn",
    "Corrector",
    "DPMpp",
    "Euler",
    "EulerMaruyama",
    "Heun",
    "Langevin",
    "PredictorCorrector",
    "ReverseDiffusion",
    "RungeKutta",
    "Tableau",
    "Target",
    "V",
]
