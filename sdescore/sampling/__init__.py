"""From noise to data: sample(), the reverse process, the solver protocol, noise, grids of times, fitted times."""

from sdescore.sampling.brownian import Brownian
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
from sdescore.sampling.nonlinear import FlowHeun, NonlinearReverse, reverse_sample
from sdescore.sampling.reverse import ReverseProcess
from sdescore.sampling.sample import sample, trajectory
from sdescore.sampling.solver import OneStep, Solver, Step, find_solver

__all__ = [
    "Brownian",
    "FlowHeun",
    "Grid",
    "Noise",
    "NonlinearReverse",
    "OneStep",
    "ReverseProcess",
    "Solver",
    "Step",
    "WhiteNoise",
    "approaching",
    "beta_quantile",
    "find_solver",
    "fit_times",
    "karras",
    "polynomial_t",
    "reverse_sample",
    "sample",
    "trajectory",
    "two_ends",
    "uniform_angle",
    "uniform_asinh",
    "uniform_lambda",
    "uniform_t",
]
