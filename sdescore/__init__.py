"""Score-based diffusion through stochastic differential equations.

Three things are interchangeable and do not know each other's types: the process (an SDE), the net (any module) and the
solver (any numerical method, found by name through the entry-point group sdescore.solvers).
"""

from sdescore.denoiser import PREDICTIONS, Denoiser, convert
from sdescore.grids import karras, uniform_lambda, uniform_t
from sdescore.mixture import GaussianMixture
from sdescore.noise import Noise
from sdescore.processes import CosineSDE, DiscreteSDE, FlowSDE, KarrasSDE, SubVPSDE, VESDE, VPSDE
from sdescore.reverse import Reverse
from sdescore.sampling import sample, trajectory
from sdescore.scaling import Scaling
from sdescore.sde import SDE, LinearSDE
from sdescore.solver import OneStep, Solver, find_solver

__all__ = [
    "PREDICTIONS",
    "SDE",
    "CosineSDE",
    "Denoiser",
    "DiscreteSDE",
    "FlowSDE",
    "GaussianMixture",
    "KarrasSDE",
    "LinearSDE",
    "Noise",
    "OneStep",
    "Reverse",
    "Scaling",
    "Solver",
    "SubVPSDE",
    "VESDE",
    "VPSDE",
    "convert",
    "find_solver",
    "karras",
    "sample",
    "trajectory",
    "uniform_lambda",
    "uniform_t",
]
