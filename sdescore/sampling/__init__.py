"""From noise to data: sample(), the reverse process, the solver protocol and table, noise, grids of times."""

from sdescore.sampling.brownian import Brownian
from sdescore.sampling.feynman_kac import feynman_kac
from sdescore.sampling.fit_solver import fit_solver
from sdescore.sampling.fitted_solver import FittedSolver
from sdescore.sampling.fitting import fit_times
from sdescore.sampling.grids import (
    Grid,
    approaching,
    beta_quantile,
    karras,
    polynomial_t,
    two_ends,
    uniform_angle,
    uniform_asinh,
    uniform_lambda,
    uniform_t,
)
from sdescore.sampling.noise import Noise, WhiteNoise
from sdescore.sampling.nonlinear import FlowHeun, ItoEuler, NonlinearReverse, reverse_sample
from sdescore.sampling.particles import Particles
from sdescore.sampling.reverse import ReverseProcess, drift_pair
from sdescore.sampling.sample import sample, trajectory
from sdescore.sampling.smc import smc
from sdescore.sampling.solver import (
    About,
    LinearOneStep,
    OneStep,
    PlannedOneStep,
    Solver,
    Step,
    check_one_step,
    drawn,
    find_solver,
)
from sdescore.sampling.table import SolverRecord, table

__all__ = [
    "About",
    "Brownian",
    "FittedSolver",
    "FlowHeun",
    "Grid",
    "ItoEuler",
    "LinearOneStep",
    "Noise",
    "NonlinearReverse",
    "OneStep",
    "Particles",
    "PlannedOneStep",
    "ReverseProcess",
    "Solver",
    "SolverRecord",
    "Step",
    "WhiteNoise",
    "approaching",
    "beta_quantile",
    "check_one_step",
    "drawn",
    "drift_pair",
    "feynman_kac",
    "find_solver",
    "fit_solver",
    "fit_times",
    "karras",
    "polynomial_t",
    "reverse_sample",
    "sample",
    "smc",
    "table",
    "trajectory",
    "two_ends",
    "uniform_angle",
    "uniform_asinh",
    "uniform_lambda",
    "uniform_t",
]
