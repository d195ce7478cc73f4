"""The exponential Euler method: the target is held over a step. DDIM, DDPM's ancestral sampling and SEEDS-1."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sdescore.common.linear_combinations import Coefficient
from sdescore.processes import LinearSDE
from sdescore.sampling import About, LinearOneStep

from .exponential import interval
from .targets import DATA, NOISE, Target
from .tau import Tau, tau_squared

__all__ = ["DDIM", "DDPM", "EULER", "SEEDS", "ExponentialEuler"]


@dataclass(frozen=True)
class ExponentialEuler(LinearOneStep):
    """x_s is exact where the target is constant over the step: order 1, one net call a step.

    Args:
        target: What is held.
        tau: Noise: 0 for the ODE, 1 for the reverse SDE; a number, or a function of lam and the step h in lam.
        about: What it says of itself in the table of solvers.
    """

    target: Target = NOISE
    tau: Tau = 0.0
    about: About | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        tau_squared(self.tau, torch.zeros(1), torch.ones(1))

    def coefficients(self, sde: LinearSDE, t: Tensor, s: Tensor) -> tuple[Coefficient, Coefficient, Coefficient]:
        kept, _, measure, spread, _ = interval(self.target, sde, t.flatten(), s.flatten(), self.tau)
        kept, weight, std = (each.reshape(t.shape) for each in (kept, measure.sum(1), spread))
        p, q = self.target.pair(sde.lam(t))
        return kept * sde.alpha(t) + weight * p, kept * sde.sigma(t) + weight * q, 0.0 if self.tau == 0 else std


DDIM = EULER = ExponentialEuler(
    about=About(
        "ODE",
        1,
        "Song, Meng & Ermon 2021, eq. 12 at eta = 0",
        "https://arxiv.org/abs/2010.02502",
        "the plain baseline: Euler's method in rho",
        ("euler", "ddimscheduler", "eulerdiscretescheduler", "flowmatcheulerdiscretescheduler", "k-euler"),
    )
)
DDPM = ExponentialEuler(
    DATA,
    tau=1.0,
    about=About(
        "SDE",
        1,
        "Ho et al. 2020, eq. 6-7, with the posterior variance",
        "https://arxiv.org/abs/2006.11239",
        "ancestral sampling, diverse samples from many calls; Crowson's Euler ancestral is the same step",
        ("euler-ancestral", "ddpm", "eulerancestraldiscrete"),
    ),
)
SEEDS = ExponentialEuler(
    NOISE,
    tau=1.0,
    about=About(
        "SDE",
        1,
        "Gonzalez et al. 2023, SEEDS-1",
        "https://arxiv.org/abs/2305.14267",
        "the reverse SDE with the noise prediction held",
        least=16,
    ),
)
