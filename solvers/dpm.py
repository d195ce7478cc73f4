"""DPM-Solver++ (2M): second-order multistep in lam on the data prediction (Lu et al. 2022b, algorithm 2)."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from sdescore.noise import Noise
from sdescore.reverse import Reverse

__all__ = ["DPMpp"]


@dataclass(frozen=True)
class DPMpp:
    """x_s = (sigma_s / sigma_t) x_t + alpha_s (1 - e^-h) D, D extrapolated to the middle of the step of h in lam.

    Order 2, one call a step; the first step is of order 1.
    """

    def solve(self, reverse: Reverse, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        sde = reverse.sde
        alpha, sigma, h = sde.alpha(times), sde.sigma(times), sde.lam(times).diff()
        decay, gain = (sigma[1:] / sigma[:-1]).tolist(), (-alpha[1:] * torch.expm1(-h)).tolist()
        ahead = [0.0, *(h[1:] / h[:-1] / 2).tolist()]
        before: Tensor | None = None
        for i, (t, _) in enumerate(pairwise(times.unbind())):
            data = reverse.data(x, t)
            slope = data if before is None else torch.lerp(before, data, 1 + ahead[i])
            x = torch.add(decay[i] * x, slope, alpha=gain[i])
            yield x
            before = data

    def calls(self, steps: int) -> int:
        return steps - 1
