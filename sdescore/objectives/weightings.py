"""Weightings of denoising score matching: the factor of the squared error of the noise."""

from collections.abc import Callable

import torch
from torch import Tensor

from sdescore.processes.base import LinearSDE

__all__ = ["WEIGHTINGS", "Weighting"]

# Of the process, times (batch,) and the standard deviation of the data: weights (batch,).
Weighting = Callable[[LinearSDE, Tensor, float], Tensor]

WEIGHTINGS: dict[str, Weighting] = {
    # sigma^2 on the score: Ho et al. 2020, eq. 14
    "simple": lambda sde, t, data_std: torch.ones_like(t),
    # g^2 on the score: Song et al. 2021b, eq. 7
    "likelihood": lambda sde, t, data_std: (sde.g(t) / sde.sigma(t)) ** 2,
    # unit weight on EDM's network output: Karras et al. 2022, eq. 8
    "edm": lambda sde, t, data_std: 1 + (sde.rho(t) / data_std) ** 2,
    # min(SNR, 5) on the data: Hang et al. 2023, eq. 6 (https://arxiv.org/abs/2303.09556)
    "min-snr": lambda sde, t, data_std: (5 * sde.rho(t) ** 2).clamp(max=1),
}
