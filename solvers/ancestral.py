"""Ancestral steps: beyond the next level by a one-step method, and back by adding noise (Crowson's k-diffusion)."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sdescore.common.linear_combinations import combine, per_step
from sdescore.processes import LinearSDE
from sdescore.sampling import About, OneStep, PlannedOneStep, ReverseProcess, Step, check_one_step, drawn

from .exponential_euler import DDIM
from .renoise import at_rho, renoising
from .runge_kutta import DPM_2, DPMPP_2S

__all__ = ["CONSISTENCY", "DPMPP_2S_ANCESTRAL", "DPM_2_ANCESTRAL", "Ancestral"]


@dataclass(frozen=True)
class Ancestral(PlannedOneStep):
    """From t to rho_down = rho_s sqrt(1 - min(1, eta^2 (1 - rho_s^2 / rho_t^2))) by a method for the ODE, then to s.

    eta = 1 is DDPM's step, for a method of order 1, and eta = 0 the method itself. The law at each time is exact but
    for the method's own error, so that its order is the weak order too. Levels below the process's are not reached.
    """

    method: OneStep
    eta: float = 1.0
    about: About | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_one_step(self.method, "method")
        if not self.eta >= 0:
            raise ValueError(f"eta={self.eta}; expected numbers from 0 on")

    def plan(self, reverse: ReverseProcess, t: Tensor, s: Tensor) -> Step:
        down, *factors = self._parts(reverse.sde, t, s)
        step = self.method.plan(reverse, t, down)
        kept, added = map(per_step, factors)
        return lambda i, x, noise: combine([(step(i, x, noise), kept[i])], drawn(noise, x, t[i], s[i], added[i]))

    def _parts(self, sde: LinearSDE, t: Tensor, s: Tensor) -> tuple[Tensor, ...]:
        """The time that the method goes to, and the factors of the state there and of the noise that leads back."""
        ratio = sde.rho(s) / sde.rho(t)
        below = torch.where(ratio < 1, self.eta**2 * (1 - ratio**2), 0.0).clamp(max=1)  # eta may be infinite
        down = torch.where(below > 0, at_rho(sde, sde.rho(s) * (1 - below).sqrt()), s)
        return down, *renoising(sde, down, s)

    def nfe(self, intervals: int) -> int:
        return self.method.nfe(intervals)


CROWSON = "https://github.com/crowsonkb/k-diffusion"
DPM_2_ANCESTRAL = Ancestral(
    DPM_2,
    about=About(
        "SDE",
        2,
        "Crowson's k-diffusion, on Lu et al. 2022a",
        CROWSON,
        "DPM-Solver-2's step beyond the next level, and noise back to it",
        ("dpm-2-ancestral", "kdpm2ancestraldiscrete"),
        least=30,
    ),
)
DPMPP_2S_ANCESTRAL = Ancestral(
    DPMPP_2S,
    about=About(
        "SDE",
        2,
        "Crowson's k-diffusion, on Lu et al. 2022b",
        CROWSON,
        "DPM-Solver++ (2S)'s step beyond the next level, and noise back to it",
        ("dpmpp-2s-ancestral",),
    ),
)
CONSISTENCY = Ancestral(
    DDIM,
    math.inf,
    about=About(
        "SDE",
        1,
        "Song et al. 2023, algorithm 1",
        "https://arxiv.org/abs/2303.01469",
        "consistency models, whose prediction is a sample: to the data, and back with fresh noise",
        ("lcm", "consistencymodel"),
    ),
)
