"""Langevin dynamics at a fixed noise level: the corrector, and NCSN's annealed sampler."""

import math
from dataclasses import dataclass, field

from torch import Tensor

from sdescore.common.linear_combinations import expand
from sdescore.sampling import About, Noise, OneStep, ReverseProcess

__all__ = ["AnnealedLangevin", "Langevin", "check_langevin"]


@dataclass(frozen=True)
class Langevin:
    """x <- x + e score + sqrt(2 e) z with e = 2 (snr sigma)^2, the same for every sample, repeated `repeats` times.

    The step of Song et al. 2021, algorithm 4, with the norms of noise and score replaced by their expectation.

    Args:
        snr: Size of a step in units of sigma.
        repeats: Steps, of one net call each.
        data_std: Standard deviations of the data's elements, a number or of the shape of a sample: the preconditioner
            is then alpha^2 data_std^2 + sigma^2 instead of sigma^2, so that wide directions are not the slow ones.
    """

    snr: float = 0.16
    repeats: int = 1
    data_std: Tensor | float = field(default=0.0, compare=False)

    def __post_init__(self) -> None:
        check_langevin(self.snr, self.repeats)

    def correct(self, reverse: ReverseProcess, x: Tensor, t: Tensor, noise: Noise) -> Tensor:
        """The state (batch, *shape) nearer to equilibrium at t; `repeats` net calls."""
        sigma, alpha = expand(reverse.sde.sigma(t), x), expand(reverse.sde.alpha(t), x)
        wide = (alpha * self.data_std) ** 2 + sigma**2
        # e score = -2 snr^2 wide eps / sigma, which is of the size of sigma for an isotropic step.
        drift, spread = -2 * self.snr**2 * wide / sigma, 2 * self.snr * wide**0.5
        for _ in range(self.repeats):
            x = x + drift * reverse.noise(x, t) + spread * noise.randn(x)
        return x

    @property
    def nfe(self) -> int:
        """Net calls of correct()."""
        return self.repeats


def check_langevin(snr: float, repeats: int) -> None:
    """Raise ValueError for steps that are none."""
    if not snr > 0 or repeats < 0:
        raise ValueError(f"snr={snr}, repeats={repeats}; expected snr > 0 and repeats >= 0")


@dataclass(frozen=True)
class AnnealedLangevin(OneStep):
    """Langevin dynamics at one noise level after another (Song & Ermon 2019, algorithm 1; 2020 for the constants).

    NCSN's step e_i = step_lr (sigma_i / sigma_L)^2 with sqrt(2 e_i) z is snr = sqrt(step_lr / 2) / sigma_L:
    6.2e-6 at sigma_L = 0.01 is 0.176.
    """

    corrector: Langevin = Langevin(snr=math.sqrt(6.2e-6 / 2) / 0.01, repeats=5)
    about = About(
        "SDE",
        1,
        "Song & Ermon 2019, algorithm 1",
        "https://arxiv.org/abs/1907.05600",
        "NCSN's sampler, on a ladder of noise levels: hundreds of calls",
        least=100,
    )

    def step(self, reverse: ReverseProcess, x: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        sde = reverse.sde
        return self.corrector.correct(reverse, expand(sde.alpha(s) / sde.alpha(t), x) * x, s, noise)

    def nfe(self, intervals: int) -> int:
        return intervals * self.corrector.nfe
