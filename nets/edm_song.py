"""DDPM++ and NCSN++ (Song et al. 2021, appendix H: https://arxiv.org/abs/2011.13456) as in EDM's checkpoints."""

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import zeroed
from .edm_blocks import ShiftBlock
from .edm_parts import (
    ConvDownsample,
    Frequencies,
    Geometric,
    Resample,
    check_arguments,
    decoder_stages,
    downsample,
    encoder_stages,
    read_augment,
    read_condition,
    upsample,
)

CHOICES = {
    "embedding": ("positional", "fourier"),
    "encoder": ("standard", "skip", "residual"),
    "decoder": ("standard", "skip"),
}


class SongUNet(nn.Module):
    """U-Net called as net(x, c_noise, label=None, augment=None), for x (batch, channels, image_size, image_size).

    The defaults are DDPM++'s; NCSN++ has embedding="fourier", noise_multiplier=2, encoder="residual" and
    taps=(1, 3, 3, 1). The weights have the names of Karras et al. 2022, appendix F. `config` holds the arguments.

    Args:
        channels: Channels of x.
        image_size: Height and width of x.
        out_channels: Channels of the output; by default those of x.
        base_width: Channels at full resolution.
        multipliers: Channels over base_width of each level, from full resolution down.
        blocks: Residual blocks per level of the encoder; the decoder has one more.
        attention: Resolutions with attention.
        dropout: Probability, inside the residual blocks.
        classes: Number of labels; labels are 0 ... classes - 1, and `classes` itself stands for no label.
        augmentations: Numbers by which `augment` (batch, augmentations) says how an image was augmented; zeros and None
            stand for an image as it is (appendix F.2).
        embedding: Features of c_noise, "positional" or "fourier".
        noise_multiplier: Number of these features, over base_width.
        embedding_multiplier: Width of the embedding, over base_width.
        encoder: "standard", or how smaller versions of x enter each level: "skip" or "residual".
        decoder: "standard", or "skip", where each level adds to the output.
        taps: Weights of the filter by which smaller versions are made.

    Raises ValueError for an argument out of range and, when called, for an input that does not fit.
    """

    _no_split_modules = ("ShiftBlock",)

    def __init__(
        self,
        channels: int,
        image_size: int,
        *,
        out_channels: int | None = None,
        base_width: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 4,
        attention: Sequence[int] = (16,),
        dropout: float = 0.1,
        classes: int | None = None,
        augmentations: int | None = None,
        embedding: str = "positional",
        noise_multiplier: int = 1,
        embedding_multiplier: int = 4,
        encoder: str = "standard",
        decoder: str = "standard",
        taps: Sequence[float] = (1, 1),
    ) -> None:
        super().__init__()
        self.config = check_arguments(locals(), **CHOICES)
        self.axes = {"channels": channels, "height": image_size, "width": image_size}
        self.classes = classes
        self.augmentations = augmentations
        self.encoder = encoder

        features = base_width * noise_multiplier
        width = base_width * embedding_multiplier
        self.map_noise = Frequencies(features // 2) if embedding == "fourier" else Geometric(features // 2, last=True)
        self.map_label = nn.Linear(classes, features) if classes else None
        self.map_augment = nn.Linear(augmentations, features, bias=False) if augmentations else None
        self.map_layer0 = nn.Linear(features, width)
        self.map_layer1 = nn.Linear(width, width)

        widths = [base_width * each for each in multipliers]
        self.down = encoder_stages(channels, base_width, widths, blocks, image_size)
        self.up = decoder_stages(self.down, widths, blocks)
        block = partial(ShiftBlock, embedding=width, dropout=dropout, taps=taps)
        first, *stages = self.down
        self.enc = nn.ModuleDict({first.name: nn.Conv2d(channels, base_width, 3, padding=1)})
        side = channels
        for stage in stages:
            down = stage.role == "down"
            heads = int(stage.is_block and stage.size in attention)
            self.enc[stage.name] = block(*stage.widths, heads=heads, resampling=downsample if down else None)
            if down and encoder == "skip":
                self.enc[stage.beside("aux_down")] = Resample(downsample, taps)
                self.enc[stage.beside("aux_skip")] = nn.Conv2d(side, stage.width, 1)
            if down and encoder == "residual":
                self.enc[stage.beside("aux_residual")] = ConvDownsample(side, stage.width, 3, taps)
                side = stage.width
        self.dec = nn.ModuleDict()
        self.exits = {f"{image_size}x{image_size}_block{blocks}"}  # after which stages there is an output
        if decoder == "skip":
            self.exits = {stage.beside(f"block{blocks}") for stage in self.up}
        for stage in self.up:
            up = stage.role == "up"
            # Attention at the start of the decoder, and in the last block of a level.
            heads = int(stage.role == "in0" or (stage.role == f"block{blocks}" and stage.size in attention))
            self.dec[stage.name] = block(*stage.widths, heads=heads, resampling=upsample if up else None)
            if up and decoder == "skip":
                self.dec[stage.beside("aux_up")] = Resample(upsample, taps)
            if stage.name in self.exits:
                self.dec[stage.beside("aux_norm")] = ShiftBlock.norm(stage.width)
                last = zeroed(nn.Conv2d(stage.width, out_channels or channels, 3, padding=1))
                self.dec[stage.beside("aux_conv")] = last

    def forward(self, x: Tensor, c_noise: Tensor, label: Tensor | None = None, augment: Tensor | None = None) -> Tensor:
        c_noise, classes = read_condition(x, self.axes, c_noise, label, self.classes)
        embedded = self._embed(c_noise, classes, read_augment(x, augment, self.augmentations))
        kept = self._encode(x, embedded)
        h = kept[-1]
        output: Tensor | None = None
        for stage in self.up:
            if stage.is_block:
                h = torch.cat((h, kept.pop()), dim=1)
            h = self.dec[stage.name](h, embedded)
            if stage.name in self.exits:
                part = self.dec[stage.beside("aux_conv")](F.silu(self.dec[stage.beside("aux_norm")](h)))
                output = part if output is None else part + self.dec[stage.beside("aux_up")](output)
        assert output is not None
        return output.to(x.dtype)

    def _embed(self, c_noise: Tensor, classes: Tensor, augment: Tensor | None) -> Tensor:
        """The embedding (batch, width) of all that the net is conditioned on."""
        phases = self.map_noise(c_noise)
        weight = self.map_layer0.weight
        features = torch.cat((phases.sin(), phases.cos()), dim=1).to(weight.dtype)
        if self.map_label is not None:
            # So that a one-hot row has the size of the features.
            features = features + self.map_label(math.sqrt(classes.shape[1]) * classes.to(weight.dtype))
        if self.map_augment is not None and augment is not None:
            features = features + self.map_augment(augment.to(weight.dtype))
        return F.silu(self.map_layer1(F.silu(self.map_layer0(features))))

    def _encode(self, x: Tensor, embedded: Tensor) -> list[Tensor]:
        """What each stage of the encoder leaves for the decoder."""
        first, *stages = self.down
        side = x
        kept = [self.enc[first.name](x)]
        for stage in stages:
            h = self.enc[stage.name](kept[-1], embedded)
            if stage.role == "down" and self.encoder == "skip":
                side = self.enc[stage.beside("aux_down")](side)
                h = h + self.enc[stage.beside("aux_skip")](side)
            if stage.role == "down" and self.encoder == "residual":
                h = math.sqrt(0.5) * (h + self.enc[stage.beside("aux_residual")](side))
                side = h
            kept.append(h)
        return kept
