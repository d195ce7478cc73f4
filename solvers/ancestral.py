"""Ancestral steps of any method: beyond the next level, and back by adding noise (Crowson's k-diffusion samplers)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.common.linear_combinations import total
from sdescore.processes import LinearSDE
from sdescore.sampling import Noise, OneStep, ReverseProcess
from sdescore.sampling.solver import Step

from .renoise import at_rho, renoising
from .runge_kutta import DPM_2, DPMPP_2S, EULER

__all__ = ["CONSISTENCY", "DPMPP_2S_ANCESTRAL", "DPM_2_ANCESTRAL", "Ancestral"]


@dataclass(frozen=True)
class Ancestral(OneStep):
    """From t to rho_down = rho_s sqrt(1 - min(1, eta^2 (1 - rho_s^2 / rho_t^2))) by a method for the ODE, then to s.

    eta = 1 is DDPM's step, for a method of order 1, and eta = 0 the method itself. The law at each time is exact but
    for the method's own error, so that its order is the weak order too. Levels below the process's are not reached.
    """

    method: OneStep
    eta: float = 1.0

    def __post_init__(self) -> None:
        if not self.eta >= 0:
            raise ValueError(f"eta={self.eta}; expected numbers from 0 on")

    def prepare(self, reverse: ReverseProcess, t: Tensor, s: Tensor) -> Step:
        down, *pair = self._parts(reverse.sde, t, s)
        step, (kept, added) = self.method.prepare(reverse, t, down), (factor.tolist() for factor in pair)
        return lambda i, x, noise: total([(step(i, x, noise), kept[i])], noise(x, t[i], s[i], added[i]))

    def step(self, reverse: ReverseProcess, x: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        down, kept, added = self._parts(reverse.sde, t, s)
        return total([(self.method.step(reverse, x, t, down, noise), kept), (noise(x, t, s), added)])

    def _parts(self, sde: LinearSDE, t: Tensor, s: Tensor) -> tuple[Tensor, ...]:
        """The time that the method goes to, and the factors of the state there and of the noise that leads back."""
        ratio = sde.rho(s) / sde.rho(t)
        below = torch.where(ratio < 1, self.eta**2 * (1 - ratio**2), 0.0).clamp(max=1)  # eta may be infinite
        down = torch.where(below > 0, at_rho(sde, sde.rho(s) * (1 - below).sqrt()), s)
        return down, *renoising(sde, down, s)

    def calls(self, steps: int) -> int:
        return self.method.calls(steps)


DPM_2_ANCESTRAL = Ancestral(DPM_2)
DPMPP_2S_ANCESTRAL = Ancestral(DPMPP_2S)
# Song et al. 2023, algorithm 1: to the data and back with fresh noise, for nets whose prediction is a sample of it.
CONSISTENCY = Ancestral(EULER, math.inf)
