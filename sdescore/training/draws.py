"""The random numbers of a training step.

They depend on (seed, step, index in the global batch): each process draws them for the whole batch and takes its share.
Only dropout depends on (seed, step, rank).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from sdescore.common.random import generator
from sdescore.objectives import TIME_DISTRIBUTIONS
from sdescore.training.config import TrainConfig

__all__ = ["Draws", "draw"]


class Draws(NamedTuple):
    """The random numbers of a step, for each sample of a batch.

    Attributes:
        u: Quantiles of the times, (batch,).
        eps: Noise, (batch, *shape).
        flip: Whether to mirror the sample, (batch,).
        drop: Whether to withhold its label, (batch,).
        shift: Uniform in [-1/2, 1/2), in levels of the data, (batch, *shape); broadcastable zeros without dequantize.
    """

    u: Tensor
    eps: Tensor
    flip: Tensor
    drop: Tensor
    shift: Tensor

    def select(self, where: slice) -> "Draws":
        """The numbers of a part of the batch."""
        return Draws(*(each[where] for each in self))


def draw(config: TrainConfig, step: int, shape: tuple[int, ...], device: torch.device | str = "cpu") -> Draws:
    """The random numbers of a step (from 0) for the whole global batch; no setting changes what another one draws."""
    batch = config.batch_size

    def own(name: str) -> torch.Generator:
        return generator(f"train {name}", config.seed, step, device=device)

    u = TIME_DISTRIBUTIONS[config.time_distribution].draw(batch, own("times"), torch.device(device))
    eps = torch.randn(batch, *shape, generator=own("noise"), device=device)
    flip = torch.rand(batch, generator=own("flip"), device=device) < (0.5 if config.flips else 0.0)
    drop = torch.rand(batch, generator=own("drop"), device=device) < config.label_drop
    shift = torch.zeros(batch, *(1,) * len(shape), device=device)
    if config.dequantize:
        shift = torch.rand(eps.shape, generator=own("shift"), device=device) - 0.5
    return Draws(u, eps, flip, drop, shift)
