"""Embeddings of the noise level and of what else a net is given: a label and the conditions of conditions.py."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .checks import check_condition
from .conditions import Conditions, Context, Given

# Angular frequencies for c_noise = ln(rho) / 4, which lies in about -3 ... 2. The slowest makes less than half a turn
# there; the fastest turns by 0.4 rad where rho changes by a tenth, and faster ones would make the net rough in time.
SLOWEST = 0.5
FASTEST = 16.0
COUNT = 16


def fourier(c_noise: Tensor) -> Tensor:
    """Sines and cosines (batch, 2 COUNT) of c_noise (batch,) at geometric frequencies, at least float32."""
    c = c_noise.to(torch.promote_types(c_noise.dtype, torch.float32))
    # Computed, not stored: in a bf16 net a buffer would be rounded with the weights, and every phase with it.
    logs = torch.linspace(math.log(SLOWEST), math.log(FASTEST), COUNT, dtype=c.dtype, device=c.device)
    angles = c[:, None] * logs.exp()
    return torch.cat((angles.sin(), angles.cos()), dim=1)


class Conditioning(nn.Module):
    """Embedding (batch, width) of c_noise (batch,), of label (batch,), which may be None, and of given vectors.

    The label `classes` stands for no label, as None does: a net trained with some labels replaced by it can be used for
    classifier-free guidance (Ho & Salimans 2022, section 3.2).
    """

    def __init__(self, width: int, classes: int | None, conditions: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__()
        self.classes = classes
        self.first = nn.Linear(2 * COUNT, width)
        self.second = nn.Linear(width, width)
        self.label = None if classes is None else nn.Embedding(classes + 1, width)
        self.conditions = Conditions(conditions, width)

    def check(self, x: Tensor, c_noise: Tensor, label: Tensor | None, given: Given) -> None:
        """Raise ValueError unless all that is given fits the batch of x; the values of labels are not read."""
        check_condition(x, c_noise, label, self.classes)
        self.conditions.check(x, given)

    def forward(self, c_noise: Tensor, label: Tensor | None, given: Given) -> Tensor:
        embedded: Tensor = self.second(F.silu(self.first(fourier(c_noise).to(self.first.weight.dtype))))
        if self.label is not None:
            if label is None:
                label = torch.full_like(c_noise, self.label.num_embeddings - 1, dtype=torch.long)
            embedded = embedded + self.label(label)
        return F.silu(self.conditions.embed(given, embedded))

    def beside(self, x: Tensor, given: Given) -> Tensor:
        """x (batch, channels, *spatial) with the given images as further channels."""
        return self.conditions.beside(x, given)

    def context(self, given: Given, batch: int) -> Context | None:
        """The given tokens, for cross-attention; None for a net without such conditions."""
        return self.conditions.context(given, batch)
