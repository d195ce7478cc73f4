"""A small net of the handwritten digits with their labels, trained in about a minute of one processor."""

import torch
from torch import Tensor

from sdescore import Denoiser, KarrasSDE, denoising_score_matching
from sdescore.data.load import digits
from sdescore.nets import UNet

from .experiment import fit

CLASSES, DROPPED = 10, 0.2  # of the labels, so that the net can do without

__all__ = ["CLASSES", "digit_denoiser", "some_digits"]


def some_digits(split: str, count: int | None = None) -> tuple[Tensor, Tensor]:
    """Digits (count, 1, 8, 8) in [-1, 1] and their labels (count,)."""
    source = digits(split)
    raw, labels = source.__getitems__(range(len(source) if count is None else count))
    assert labels is not None
    return source.scaling.to_model(raw), labels


def digit_denoiser(steps: int = 1000) -> Denoiser:
    """A denoiser of digits, called with label=... or without."""
    data, labels = some_digits("train")
    net = UNet(1, 8, base_width=20, multipliers=(1, 2), blocks=1, attention=[], dropout=0.1, classes=CLASSES)
    denoiser = Denoiser(net, KarrasSDE(), "edm", data_std=float(data.std()), shape=(1, 8, 8))

    def loss() -> Tensor:
        rows = torch.randint(len(data), (64,))
        x0 = data[rows] + (torch.rand(64, 1, 8, 8) - 0.5) / 8  # the digits have 17 levels
        label = torch.where(torch.rand(64) < DROPPED, CLASSES, labels[rows])
        return denoising_score_matching(
            denoiser, x0, weighting="edm", time_distribution="log-normal", condition={"label": label}
        ).mean()

    fit(denoiser, loss, steps, rate=3e-3, name="training")
    return denoiser.eval().requires_grad_(False)
