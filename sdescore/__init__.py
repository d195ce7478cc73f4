"""Score-based diffusion through stochastic differential equations.

Three things are interchangeable and do not know each other's types: the process (an SDE), the net (any module) and the
solver (any numerical method, found by name through the entry-point group sdescore.solvers).
"""

from sdescore.denoiser import PREDICTIONS, Denoiser, convert
from sdescore.grids import karras, uniform_lambda, uniform_t
from sdescore.likelihood import Likelihood, bits_per_dim, dequantize, likelihood, log_likelihood
from sdescore.mixture import GaussianMixture
from sdescore.noise import Noise
from sdescore.objectives import denoising_score_matching
from sdescore.processes import VESDE, VPSDE, CosineSDE, DiscreteSDE, FlowSDE, KarrasSDE, SubVPSDE
from sdescore.reverse import Reverse
from sdescore.sampling import sample, trajectory
from sdescore.scaling import Scaling
from sdescore.sde import SDE, LinearSDE
from sdescore.solver import OneStep, Solver, find_solver

__all__ = [
    "PREDICTIONS",
    "SDE",
    "VESDE",
    "VPSDE",
    "CosineSDE",
    "Denoiser",
    "DiscreteSDE",
    "FlowSDE",
    "GaussianMixture",
    "KarrasSDE",
    "Likelihood",
    "LinearSDE",
    "Noise",
    "OneStep",
    "Reverse",
    "Scaling",
    "Solver",
    "SubVPSDE",
    "bits_per_dim",
    "convert",
    "denoising_score_matching",
    "dequantize",
    "find_solver",
    "karras",
    "likelihood",
    "log_likelihood",
    "sample",
    "trajectory",
    "uniform_lambda",
    "uniform_t",
]
