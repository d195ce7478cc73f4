"""Score-based diffusion through stochastic differential equations.

Three things are interchangeable and do not know each other's types: the process (an SDE), the net (any module) and the
solver (any numerical method, found by name through the entry-point group sdescore.solvers). Here are the names that
most users need; the rest is one room away: sdescore.processes, .denoisers, .operators, .sampling, .objectives,
.density, .mcmc, .data, .training, .evaluation, .testing.
"""

from typing import TYPE_CHECKING, Any

from sdescore.common import Scaling
from sdescore.denoisers import Denoiser, Energy, GaussianMixture, NetTerms, classifier_guided, guided, posterior
from sdescore.density import (
    bits_per_dim,
    decode,
    dequantize,
    elbo,
    encode,
    likelihood,
    log_likelihood,
    quantised_likelihood,
)
from sdescore.evaluation import check_net
from sdescore.mcmc import langevin
from sdescore.objectives import denoising_score_matching, implicit_score_matching, sliced_score_matching
from sdescore.processes import SDE, VESDE, VPSDE, CosineSDE, DiscreteSDE, FlowSDE, KarrasSDE, LinearSDE, SubVPSDE
from sdescore.sampling import (
    Brownian,
    Noise,
    OneStep,
    ReverseProcess,
    Solver,
    find_solver,
    fit_solver,
    fit_times,
    karras,
    sample,
    smc,
    trajectory,
)

if TYPE_CHECKING:
    from sdescore.training import TrainConfig, train

__all__ = [
    "SDE",
    "VESDE",
    "VPSDE",
    "Brownian",
    "CosineSDE",
    "Denoiser",
    "DiscreteSDE",
    "Energy",
    "FlowSDE",
    "GaussianMixture",
    "KarrasSDE",
    "LinearSDE",
    "NetTerms",
    "Noise",
    "OneStep",
    "ReverseProcess",
    "Scaling",
    "Solver",
    "SubVPSDE",
    "TrainConfig",
    "bits_per_dim",
    "check_net",
    "classifier_guided",
    "decode",
    "denoising_score_matching",
    "dequantize",
    "elbo",
    "encode",
    "find_solver",
    "fit_solver",
    "fit_times",
    "guided",
    "implicit_score_matching",
    "karras",
    "langevin",
    "likelihood",
    "log_likelihood",
    "posterior",
    "quantised_likelihood",
    "sample",
    "sliced_score_matching",
    "smc",
    "train",
    "trajectory",
]


def __getattr__(name: str) -> Any:
    """train and TrainConfig on access: their room imports accelerate, which no other needs."""
    if name in ("train", "TrainConfig"):
        from sdescore import training

        return getattr(training, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
