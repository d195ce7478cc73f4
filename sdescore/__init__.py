"""Score-based diffusion through stochastic differential equations.

Three things are interchangeable and do not know each other's types: the process (an SDE), the net (any module) and the
solver (any numerical method, found by name through the entry-point group sdescore.solvers).
"""

from sdescore.bound import Evidence, evidence_bound
from sdescore.brownian import Brownian
from sdescore.chains import Chains, annealed_langevin, effective_sample_size, hmc, langevin, mala
from sdescore.denoiser import PREDICTIONS, Denoiser, convert
from sdescore.energy import Distance, Energy, log_density
from sdescore.fitting import fit_times
from sdescore.general import CIRSDE, FlowHeun, GeneralReverse, reverse_sample, simulate
from sdescore.grids import (
    approaching,
    beta_quantile,
    karras,
    polynomial_t,
    uniform_angle,
    uniform_asinh,
    uniform_lambda,
    uniform_t,
)
from sdescore.latent import decode, encode, slerp, temper
from sdescore.likelihood import Likelihood, likelihood, log_likelihood
from sdescore.mixture import GaussianMixture
from sdescore.noise import Noise
from sdescore.objectives import denoising_score_matching
from sdescore.processes import VESDE, VPSDE, CosineSDE, DiscreteSDE, FlowSDE, KarrasSDE, SubVPSDE
from sdescore.quantised import Quantised, bits_per_dim, dequantize, quantised_likelihood
from sdescore.reverse import Reverse
from sdescore.sampling import sample, trajectory
from sdescore.scaling import Scaling
from sdescore.score_matching import (
    explicit_score_matching,
    finite_difference_energy_matching,
    finite_difference_score_matching,
    implicit_score_matching,
    sliced_score_matching,
    variance_reduced_score_matching,
)
from sdescore.sde import SDE, LinearSDE
from sdescore.solver import OneStep, Solver, find_solver
from sdescore.traces import GaussianFit, hutch_plus_plus, orthogonal

__all__ = [
    "CIRSDE",
    "PREDICTIONS",
    "SDE",
    "VESDE",
    "VPSDE",
    "Brownian",
    "Chains",
    "CosineSDE",
    "Denoiser",
    "DiscreteSDE",
    "Distance",
    "Energy",
    "Evidence",
    "FlowHeun",
    "FlowSDE",
    "GaussianFit",
    "GaussianMixture",
    "GeneralReverse",
    "KarrasSDE",
    "Likelihood",
    "LinearSDE",
    "Noise",
    "OneStep",
    "Quantised",
    "Reverse",
    "Scaling",
    "Solver",
    "SubVPSDE",
    "annealed_langevin",
    "approaching",
    "beta_quantile",
    "bits_per_dim",
    "convert",
    "decode",
    "denoising_score_matching",
    "dequantize",
    "effective_sample_size",
    "encode",
    "evidence_bound",
    "explicit_score_matching",
    "find_solver",
    "finite_difference_energy_matching",
    "finite_difference_score_matching",
    "fit_times",
    "hmc",
    "hutch_plus_plus",
    "implicit_score_matching",
    "karras",
    "langevin",
    "likelihood",
    "log_density",
    "log_likelihood",
    "mala",
    "orthogonal",
    "polynomial_t",
    "quantised_likelihood",
    "reverse_sample",
    "sample",
    "simulate",
    "slerp",
    "sliced_score_matching",
    "temper",
    "trajectory",
    "uniform_angle",
    "uniform_asinh",
    "uniform_lambda",
    "uniform_t",
    "variance_reduced_score_matching",
]
