"""What the U-Nets of EDM's checkpoints share: stages by name, resampling, and what they are conditioned on."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .checks import check_condition, check_input, positive, probability

COUNTS = {"channels", "image_size", "base_width", "blocks", "head_width"}
OPTIONAL_COUNTS = {"out_channels", "classes", "augmentations", "noise_multiplier", "embedding_multiplier"}

Resampling = Callable[[Tensor, Tensor], Tensor]  # of x, by a filter (1, 1, taps, taps)


class Stage(NamedTuple):
    """One module of an encoder or a decoder, and the name that checkpoints have for it."""

    size: int
    role: str
    width_in: int
    width: int

    @property
    def name(self) -> str:
        return self.beside(self.role)

    def beside(self, role: str) -> str:
        """The name of another module of the same size."""
        return f"{self.size}x{self.size}_{role}"

    @property
    def widths(self) -> tuple[int, int]:
        return self.width_in, self.width

    @property
    def is_block(self) -> bool:
        """In a decoder, those are the stages that are given what the encoder kept."""
        return self.role.startswith("block")

    def heads(self, resolutions: Sequence[int], head_width: int) -> int:
        """Of attention, in ADM and EDM2: at the start of the decoder and in the blocks of these resolutions."""
        attends = self.role == "in0" or (self.is_block and self.size in resolutions)
        return self.width // head_width if attends else 0


def encoder_stages(channels: int, first: int, widths: Sequence[int], blocks: int, size: int) -> list[Stage]:
    """A convolution to `first` channels, then for each level its blocks, after halving the size of the one before."""
    stages = [Stage(size, "conv", channels, first)]
    for level, width in enumerate(widths):
        last = stages[-1].width
        if level:
            stages.append(Stage(size >> level, "down", last, last))
        stages += [Stage(size >> level, f"block{i}", last if i == 0 else width, width) for i in range(blocks)]
    return stages


def decoder_stages(encoder: Sequence[Stage], widths: Sequence[int], blocks: int) -> list[Stage]:
    """From the lowest level up, one block more on each than in the encoder: each takes one of the encoder's outputs."""
    kept = [stage.width for stage in encoder]
    last = widths[-1]
    lowest = encoder[-1].size
    stages = [Stage(lowest, "in0", last, last), Stage(lowest, "in1", last, last)]
    for up, width in enumerate(reversed(widths)):
        if up:
            stages.append(Stage(lowest << up, "up", last, last))
        for i in range(blocks + 1):
            stages.append(Stage(lowest << up, f"block{i}", last + kept.pop(), width))
            last = width
    return stages


def check_arguments(local: Mapping[str, Any], **choices: Sequence[str]) -> dict[str, Any]:
    """A U-Net's arguments as JSON holds them, from the locals() of __init__. Raises ValueError for one out of range."""
    given = {name: value for name, value in local.items() if name not in ("self", "__class__")}
    for name, known in choices.items():
        if given[name] not in known:
            raise ValueError(f"{name}={given[name]!r}; expected {', '.join(map(repr, known))}")
    for name in COUNTS.intersection(given):
        positive(name, given[name])
    for name in OPTIONAL_COUNTS.intersection(given):
        if given[name] is not None:
            positive(name, given[name])
    for multiplier in given["multipliers"]:
        positive("multipliers", multiplier)
    probability("dropout", given["dropout"])
    levels = len(given["multipliers"])
    if not levels or given["image_size"] % 2 ** (levels - 1):
        raise ValueError(
            f"image_size={given['image_size']}, multipliers has {levels} levels; expected at least one, and a size "
            "that can be halved from each to the next"
        )
    return {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}


def filter_of(taps: Sequence[float]) -> Tensor:
    """The separable filter (1, 1, taps, taps) of sum 1. Raises ValueError for an odd number of taps, or of sum 0."""
    total = sum(taps)
    if len(taps) < 2 or len(taps) % 2 or not total:
        raise ValueError(f"taps={list(taps)}; expected an even number of weights, of a sum that is not 0")
    return torch.tensor([[[[a * b / total**2 for a in taps] for b in taps]]], dtype=torch.float32)


def downsample(x: Tensor, kernel: Tensor) -> Tensor:
    """x (batch, channels, height, width) filtered, and at half its size."""
    width = x.shape[1]
    every = kernel.to(x.dtype).expand(width, -1, -1, -1)
    return F.conv2d(x, every, stride=2, padding=(kernel.shape[-1] - 1) // 2, groups=width)


def upsample(x: Tensor, kernel: Tensor) -> Tensor:
    """x (batch, channels, height, width) at twice its size: the transpose of downsample(), 4 times as large."""
    width = x.shape[1]
    every = 4 * kernel.to(x.dtype).expand(width, -1, -1, -1)
    return F.conv_transpose2d(x, every, stride=2, padding=(kernel.shape[-1] - 1) // 2, groups=width)


class Resample(nn.Module):
    """Resampling alone."""

    resample_filter: Tensor

    def __init__(self, resampling: Resampling, taps: Sequence[float]) -> None:
        super().__init__()
        self.resampling = resampling
        self.register_buffer("resample_filter", filter_of(taps))

    def forward(self, x: Tensor) -> Tensor:
        return self.resampling(x, self.resample_filter)


class ResampledConv(nn.Conv2d):
    """Resampling, then a convolution."""

    resample_filter: Tensor

    def __init__(self, width_in: int, width: int, size: int, resampling: Resampling, taps: Sequence[float]) -> None:
        super().__init__(width_in, width, size, padding=size // 2)
        self.resampling = resampling
        self.register_buffer("resample_filter", filter_of(taps))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.resampling(x, self.resample_filter))


class ConvDownsample(nn.Conv2d):
    """A convolution, then downsampling, on an edge of zeros that both together read."""

    resample_filter: Tensor

    def __init__(self, width_in: int, width: int, size: int, taps: Sequence[float]) -> None:
        super().__init__(width_in, width, size, padding=size // 2 + (len(taps) - 1) // 2)
        self.register_buffer("resample_filter", filter_of(taps))

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        every = self.resample_filter.to(y.dtype).expand(y.shape[1], -1, -1, -1)
        return F.conv2d(y, every, stride=2, groups=y.shape[1])


def conv(
    width_in: int, width: int, size: int, resampling: Resampling | None = None, taps: Sequence[float] = (1, 1)
) -> nn.Module:
    """A convolution that keeps the image's size, after resampling where that is wanted; size 0 is resampling alone."""
    if resampling is None:
        return nn.Conv2d(width_in, width, size, padding=size // 2)
    return ResampledConv(width_in, width, size, resampling, taps) if size else Resample(resampling, taps)


class Geometric(nn.Module):
    """Angles (batch, count) of c_noise (batch,) at frequencies from 1 down to 1/10,000 (Vaswani et al. 2017).

    The lowest is the last one's, or that of one more.
    """

    def __init__(self, count: int, last: bool) -> None:
        super().__init__()
        self.count = count
        self.steps = max(1, count - last)

    def forward(self, c_noise: Tensor) -> Tensor:
        # Computed, not stored: checkpoints do not have it.
        powers = torch.arange(self.count, dtype=c_noise.dtype, device=c_noise.device) / self.steps
        return torch.outer(c_noise, (1 / 10000) ** powers)


class Frequencies(nn.Module):
    """Angles (batch, count) of c_noise (batch,) at random frequencies, drawn once (Tancik et al. 2020)."""

    freqs: Tensor

    def __init__(self, count: int, std: float = 16.0) -> None:
        super().__init__()
        self.register_buffer("freqs", nn.init.normal_(torch.empty(count), std=std))

    def forward(self, c_noise: Tensor) -> Tensor:
        return torch.outer(c_noise, 2 * math.pi * self.freqs.to(c_noise.dtype))


def read_condition(
    x: Tensor, axes: dict[str, int], c_noise: Tensor, label: Tensor | None, classes: int | None
) -> tuple[Tensor, Tensor]:
    """c_noise (batch,), at least float32, and the label as one-hot rows (batch, classes), of zeros for no label.

    Raises ValueError for what does not fit.
    """
    # An index comes as an integer.
    c_noise = c_noise.to(torch.promote_types(c_noise.dtype, torch.float32))
    check_input(x, axes)
    check_condition(x, c_noise, label, classes)
    if label is None or classes is None:
        return c_noise, c_noise.new_zeros(len(x), classes or 0)
    return c_noise, F.one_hot(label, classes + 1)[:, :classes].to(c_noise.dtype)


def read_augment(x: Tensor, augment: Tensor | None, augmentations: int | None) -> Tensor | None:
    """How the images were augmented, (batch, augmentations). Raises ValueError for what does not fit."""
    if augment is not None and (augmentations is None or augment.shape != (len(x), augmentations)):
        expected = "None" if augmentations is None else f"None or ({len(x)}, {augmentations})"
        raise ValueError(f"augment has shape {tuple(augment.shape)}; expected {expected}")
    return augment
