"""How near samples are to the training data: a check of what a model has memorised."""

from pathlib import Path

import torch
from torch import Tensor

from sdescore.common.scaling import Scaling
from sdescore.evaluation.metrics import nearest
from sdescore.evaluation.pictures import save_grid

__all__ = ["Neighbourhood"]

COPY = 1e-3  # of the distance to the second neighbour: what is nearer is the same sample, but for rounding
SHOWN, AROUND = 8, 5  # samples of each kind in a picture, and neighbours of each


class Neighbourhood:
    """How near samples are to the training data, beside how near other real data are.

    Args:
        training, reference: Model values as vectors (n, d), in [-1, 1].

    `usual` is the median distance from the reference to the training data, None where most of it is in them.
    """

    def __init__(self, training: Tensor, reference: Tensor) -> None:
        self.training = training
        distances, _ = nearest(reference, training, 2)
        copies = bool((distances[:, 0] < COPY * distances[:, 1]).double().mean() > 0.5)
        self.usual = None if copies else float(distances[:, 0].quantile(0.5))

    def measure(self, x: Tensor) -> dict[str, float]:
        """Of samples x (n, d): the median distance to the nearest training sample, in units of the reference's; and
        the share that has one at less than a third of the distance to the second (Yoon et al. 2023).

        Without the first where most of the reference is in the training data itself, whose distance is none.
        """
        distances, _ = nearest(x, self.training, 2)
        near = float(distances[:, 0].quantile(0.5))
        memorised = float((distances[:, 0] < distances[:, 1] / 3).double().mean())
        found = {"memorised": memorised}
        return found if self.usual is None else {"nearest": near / self.usual, **found}

    def picture(self, path: Path, x: Tensor, shape: tuple[int, ...]) -> None:
        """The samples nearest to the training data for their surroundings, and the first ones; neighbours beside."""
        distances, numbers = nearest(x, self.training, AROUND)
        suspicious = (distances[:, 0] / distances[:, 1].clamp_min(1e-12)).argsort()[:SHOWN].tolist()
        chosen = [*suspicious, *range(min(SHOWN, len(x)))]
        rows = torch.cat([torch.cat([x[i : i + 1], self.training[numbers[i]]]) for i in chosen])
        save_grid(path, rows.reshape(-1, *shape), Scaling(-1.0, 1.0, None), AROUND + 1)
