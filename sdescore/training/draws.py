"""The random numbers of a training step.

They depend on (seed, step, index in the global batch): each process draws them for the whole batch and takes its share.
Only dropout depends on (seed, step, rank).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sdescore.common.random import generator
from sdescore.objectives import TIME_DISTRIBUTIONS
from sdescore.training.config import TrainConfig

__all__ = ["Draws", "draw", "in_training"]


class Draws(NamedTuple):
    """The random numbers of a step, for each sample of a batch.

    Attributes:
        u: Quantiles of the times, (batch,).
        eps: Noise, (batch, *shape).
        flip: Whether to mirror the sample, (batch,).
        drop: Whether to withhold each of config.drops(), (batch, names).
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
    drop = _withheld(config, own, device)
    shift = torch.zeros(batch, *(1,) * len(shape), device=device)
    if config.dequantize:
        shift = torch.rand(eps.shape, generator=own("shift"), device=device) - 0.5
    return Draws(u, eps, flip, drop, shift)


def _withheld(config: TrainConfig, own: Callable[[str], torch.Generator], device: torch.device | str) -> Tensor:
    """Whether each condition is withheld, (batch, names): with a share s, half of it from all of them together.

    So that nets can be guided away from no condition at all, and away from one of several: all are withheld where one
    number is below s / 2, and each where a number of its own is below (s / 2) / (1 - s / 2), s in all.
    """
    batch = config.batch_size
    together = torch.rand(batch, generator=own("drop all"), device=device)
    columns = []
    for name, share in config.drops().items():
        alone = torch.rand(batch, generator=own(f"drop {name}"), device=device)
        columns.append((together < share / 2) | (alone < share / (2 - share)))
    return torch.stack(columns, dim=1) if columns else torch.zeros(batch, 0, dtype=torch.bool, device=device)


def in_training(given: dict[str, Tensor], draws: Draws, config: TrainConfig, classes: int | None) -> dict[str, Tensor]:
    """What a net is given in training: mirrored as its sample is, or withheld, as the label `classes` or as NaN."""
    condition = {}
    for column, (name, rows) in enumerate(given.items()):
        if config.flips and config.conditions.get(name) == "image":
            rows = torch.where(draws.flip.reshape(-1, 1, 1, 1), rows.flip(-1), rows)
        null = float("nan") if classes is None or name != "label" else classes
        condition[name] = torch.where(draws.drop[:, column].reshape(-1, *[1] * (rows.ndim - 1)), null, rows)
    return condition
