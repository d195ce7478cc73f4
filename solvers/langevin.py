"""Langevin dynamics at a fixed noise level: the corrector, and NCSN's annealed sampler."""

import math
from dataclasses import dataclass

from torch import Tensor

from sdescore.noise import Noise
from sdescore.reverse import Reverse
from sdescore.sde import expand
from sdescore.solver import OneStep

__all__ = ["AnnealedLangevin", "Langevin"]


@dataclass(frozen=True)
class Langevin:
    """x <- x + e score + sqrt(2 e) z with e = 2 (snr sigma)^2, the same for every sample, repeated `repeats` times.

    The step of Song et al. 2021, algorithm 4, with the norms of noise and score replaced by their expectation.
    """

    snr: float = 0.16
    repeats: int = 1

    def __post_init__(self) -> None:
        if not self.snr > 0 or self.repeats < 0:
            raise ValueError(f"snr={self.snr}, repeats={self.repeats}; valid are snr > 0 and repeats >= 0")

    def correct(self, reverse: Reverse, x: Tensor, t: Tensor, noise: Noise) -> Tensor:
        """The state (batch, *shape) nearer to equilibrium at t; `repeats` net calls."""
        sigma = reverse.sde.sigma(t)
        # e score = -2 snr^2 sigma eps, without dividing by sigma.
        drift, spread = expand(-2 * self.snr**2 * sigma, x), expand(2 * self.snr * sigma, x)
        for _ in range(self.repeats):
            x = x + drift * reverse.noise(x, t) + spread * noise.fresh(x)
        return x


@dataclass(frozen=True)
class AnnealedLangevin(OneStep):
    """Langevin dynamics at one noise level after another (Song & Ermon 2019, algorithm 1; 2020 for the constants).

    NCSN's step e_i = step_lr (sigma_i / sigma_L)^2 with sqrt(2 e_i) z is snr = sqrt(step_lr / 2) / sigma_L:
    6.2e-6 at sigma_L = 0.01 is 0.176.
    """

    corrector: Langevin = Langevin(snr=math.sqrt(6.2e-6 / 2) / 0.01, repeats=5)

    def step(self, reverse: Reverse, x: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        sde = reverse.sde
        return self.corrector.correct(reverse, expand(sde.alpha(s) / sde.alpha(t), x) * x, s, noise)

    def calls(self, steps: int) -> int:
        return (steps - 1) * self.corrector.repeats + 1
