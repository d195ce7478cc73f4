"""ADM (Dhariwal & Nichol 2021, section 3: https://arxiv.org/abs/2105.05233) as in EDM's checkpoints."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import zeroed
from .edm_blocks import ScaleShiftBlock
from .edm_parts import (
    Geometric,
    check_arguments,
    decoder_stages,
    downsample,
    encoder_stages,
    read_augment,
    read_condition,
    upsample,
)


class DhariwalUNet(nn.Module):
    """U-Net called as net(x, c_noise, label=None, augment=None), for x (batch, channels, image_size, image_size).

    The weights have the names of Karras et al. 2022, appendix F. `config` holds the arguments.

    Args:
        channels: Channels of x.
        image_size: Height and width of x.
        out_channels: Channels of the output; by default those of x.
        base_width: Channels at full resolution, over the first multiplier; the number of features of c_noise.
        multipliers: Channels over base_width of each level, from full resolution down.
        blocks: Residual blocks per level of the encoder; the decoder has one more.
        attention: Resolutions with attention.
        dropout: Probability, inside the residual blocks.
        classes: Number of labels; labels are 0 ... classes - 1, and `classes` itself stands for no label.
        augmentations: Numbers by which `augment` (batch, augmentations) says how an image was augmented; zeros and None
            stand for an image as it is (Karras et al. 2022, appendix F.2).
        embedding_multiplier: Width of the embedding, over base_width.
        head_width: Channels of an attention head; levels of fewer channels have no attention.

    Raises ValueError for an argument out of range and, when called, for an input that does not fit.
    """

    _no_split_modules = ("ScaleShiftBlock",)

    def __init__(
        self,
        channels: int,
        image_size: int,
        *,
        out_channels: int | None = None,
        base_width: int = 192,
        multipliers: Sequence[int] = (1, 2, 3, 4),
        blocks: int = 3,
        attention: Sequence[int] = (32, 16, 8),
        dropout: float = 0.1,
        classes: int | None = None,
        augmentations: int | None = None,
        embedding_multiplier: int = 4,
        head_width: int = 64,
    ) -> None:
        super().__init__()
        self.config = check_arguments(locals())
        self.axes = {"channels": channels, "height": image_size, "width": image_size}
        self.classes = classes
        self.augmentations = augmentations

        width = base_width * embedding_multiplier
        self.map_noise = Geometric(base_width // 2, last=False)
        self.map_augment = nn.Linear(augmentations, base_width, bias=False) if augmentations else None
        self.map_layer0 = nn.Linear(base_width, width)
        self.map_layer1 = nn.Linear(width, width)
        self.map_label = nn.Linear(classes, width, bias=False) if classes else None

        widths = [base_width * each for each in multipliers]
        self.down = encoder_stages(channels, widths[0], widths, blocks, image_size)
        self.up = decoder_stages(self.down, widths, blocks)
        block = partial(ScaleShiftBlock, embedding=width, dropout=dropout)
        resamplings = {"down": downsample, "up": upsample}

        first, *stages = self.down
        self.enc = nn.ModuleDict({first.name: nn.Conv2d(channels, first.width, 3, padding=1)})
        self.dec = nn.ModuleDict()
        for part, inside in ((self.enc, stages), (self.dec, self.up)):
            for stage in inside:
                heads = stage.heads(attention, head_width)
                part[stage.name] = block(*stage.widths, heads=heads, resampling=resamplings.get(stage.role))
        self.out_norm = ScaleShiftBlock.norm(widths[0])
        self.out_conv = zeroed(nn.Conv2d(widths[0], out_channels or channels, 3, padding=1))

    def forward(self, x: Tensor, c_noise: Tensor, label: Tensor | None = None, augment: Tensor | None = None) -> Tensor:
        c_noise, classes = read_condition(x, self.axes, c_noise, label, self.classes)
        embedded = self._embed(c_noise, classes, read_augment(x, augment, self.augmentations))
        first, *stages = self.down
        kept = [self.enc[first.name](x)]
        for stage in stages:
            kept.append(self.enc[stage.name](kept[-1], embedded))
        h = kept[-1]
        for stage in self.up:
            if stage.is_block:
                h = torch.cat((h, kept.pop()), dim=1)
            h = self.dec[stage.name](h, embedded)
        y: Tensor = self.out_conv(F.silu(self.out_norm(h)))
        return y.to(x.dtype)

    def _embed(self, c_noise: Tensor, classes: Tensor, augment: Tensor | None) -> Tensor:
        """The embedding (batch, width) of all that the net is conditioned on."""
        phases = self.map_noise(c_noise)
        dtype = self.map_layer0.weight.dtype
        features = torch.cat((phases.cos(), phases.sin()), dim=1).to(dtype)
        if self.map_augment is not None and augment is not None:
            features = features + self.map_augment(augment.to(dtype))
        embedded = self.map_layer1(F.silu(self.map_layer0(features)))
        if self.map_label is not None:
            embedded = embedded + self.map_label(classes.to(dtype))
        return F.silu(embedded)
