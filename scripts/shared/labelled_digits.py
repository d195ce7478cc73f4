"""A small net of the handwritten digits with their labels, trained in about a minute of one processor."""

from collections.abc import Callable

import torch
from torch import Tensor

from sdescore import Denoiser, KarrasSDE, denoising_score_matching
from sdescore.data.load import digits
from sdescore.nets import UNet

from .experiment import fit

CLASSES, DROPPED = 10, 0.2  # of the labels, so that the net can do without

__all__ = ["CLASSES", "digit_denoiser", "some_digits", "tinted", "unchanged"]


def some_digits(split: str, count: int | None = None) -> tuple[Tensor, Tensor]:
    """Digits (count, 1, 8, 8) in [-1, 1] and their labels (count,)."""
    source = digits(split)
    raw, labels = source.__getitems__(range(len(source) if count is None else count))
    assert labels is not None
    return source.scaling.to_model(raw), labels


def unchanged(x: Tensor) -> Tensor:
    return x


def tinted(x: Tensor) -> Tensor:
    """Digits (batch, 3, 8, 8) from grey ones, each in a pale colour of its own; the brightest channel is the digit."""
    hue = 6 * torch.rand(len(x), 1, 1, 1) + torch.tensor([0.0, 4.0, 2.0]).reshape(3, 1, 1)
    colour = 0.3 + 0.7 * ((hue % 6 - 3).abs() - 1).clamp(0, 1)
    return (x + 1) * colour - 1


def digit_denoiser(steps: int = 1000, images: Callable[[Tensor], Tensor] = unchanged) -> Denoiser:
    """A denoiser of images made of digits, called with label=... or without."""
    data, labels = some_digits("train")
    whole = images(data)
    shape = tuple(whole.shape[1:])
    net = UNet(shape[0], 8, base_width=20, multipliers=(1, 2), blocks=1, attention=[], dropout=0.1, classes=CLASSES)
    denoiser = Denoiser(net, KarrasSDE(), "edm", data_std=float(whole.std()), shape=shape)

    def loss() -> Tensor:
        rows = torch.randint(len(data), (64,))
        x0 = images(data[rows] + (torch.rand(64, 1, 8, 8) - 0.5) / 8)  # the digits have 17 levels
        label = torch.where(torch.rand(64) < DROPPED, CLASSES, labels[rows])
        return denoising_score_matching(
            denoiser, x0, weighting="edm", time_distribution="log-normal", condition={"label": label}
        ).mean()

    fit(denoiser, loss, steps, rate=3e-3, name="training")
    return denoiser.eval().requires_grad_(False)
