"""Embeddings of the noise level and, if a net has classes, of the label."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
    """Embedding (batch, width) of c_noise (batch,) and of label (batch,), which may be None.

    The label `classes` stands for no label, as None does: a net trained with some labels replaced by it can be used for
    classifier-free guidance (Ho & Salimans 2022, section 3.2).
    """

    def __init__(self, width: int, classes: int | None) -> None:
        super().__init__()
        self.classes = classes
        self.first = nn.Linear(2 * COUNT, width)
        self.second = nn.Linear(width, width)
        self.label = None if classes is None else nn.Embedding(classes + 1, width)

    def check(self, x: Tensor, c_noise: Tensor, label: Tensor | None) -> None:
        """Raise ValueError unless c_noise and label fit the batch of x; the values of labels are not read."""
        if c_noise.shape != x.shape[:1] or not c_noise.is_floating_point():
            raise ValueError(
                f"c_noise has shape {tuple(c_noise.shape)}, {c_noise.dtype}; expected ({len(x)},), floating point"
            )
        if label is None:
            return
        if self.classes is None:
            raise ValueError("label was given to a net without classes; expected None")
        if label.shape != x.shape[:1] or label.dtype != torch.long:
            raise ValueError(
                f"label has shape {tuple(label.shape)}, {label.dtype}; expected ({len(x)},), torch.int64, "
                f"0 to {self.classes - 1}, or {self.classes} for no label"
            )

    def forward(self, c_noise: Tensor, label: Tensor | None) -> Tensor:
        embedded: Tensor = self.second(F.silu(self.first(fourier(c_noise).to(self.first.weight.dtype))))
        if self.label is not None:
            if label is None:
                label = torch.full_like(c_noise, self.label.num_embeddings - 1, dtype=torch.long)
            embedded = embedded + self.label(label)
        return F.silu(embedded)
