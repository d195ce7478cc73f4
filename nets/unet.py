"""A U-Net for series, images and volumes."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .blocks import CONVS, Block, Upsample, group_norm, zeroed
from .checks import AXES, check_input, named_classes, positive, probability, spatial_sizes
from .conditions import Context, stated
from .embedding import Conditioning

AFFORDABLE = 256  # positions up to which attention costs no more than the convolutions of a level


class UNet(nn.Module):
    """U-Net called as net(x, c_noise, label=None, **conditions): x (batch, channels, *spatial) -> the same shape.

    Residual blocks with group norm and scale-shift conditioning, attention at chosen resolutions, and an output that is
    zero at initialisation (Ho et al. 2020, appendix B; Dhariwal & Nichol 2021, section 3). From level to level each
    spatial axis is halved, rounding up: any size works. `config` holds the arguments.

    Args:
        channels: Channels of x.
        image_size: Size of every spatial axis, or one size per axis.
        base_width: Channels at full resolution; the embedding is four times as wide.
        multipliers: Channels over base_width of each level, from full resolution down.
        blocks: Residual blocks per level, on the way down and again on the way up.
        attention: Resolutions with attention, each the largest axis of a level; by default every level of at most 256
            positions.
        heads: Attention heads; must divide the channels of every level with attention.
        dropout: Probability, inside the residual blocks.
        classes: Number of labels; labels are 0 ... classes - 1, and `classes` itself stands for no label.
        class_names: Their names, to travel with the saved net.
        conditions: What else the net is given, by name, such as {"low": {"kind": "image", "size": 3}}; see
            conditions.py. Images, interpolated to the size of x, are channels beside it; vectors enter as labels do;
            tokens by cross-attention, wherever there is attention and in the middle.
        dims: Number of spatial axes: 1, 2 or 3.
        checkpointing: Keep only the inputs of each block for the backward pass and recompute the rest (Chen et al.
            2016): the same gradients for less memory and a third more time.

    Raises ValueError for an argument out of range and, when called, for an input that does not fit.
    """

    _no_split_modules = ("Block",)  # accelerate's name for modules whose split weights are gathered as one

    def __init__(
        self,
        channels: int,
        image_size: int | Sequence[int],
        *,
        base_width: int = 64,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: int = 2,
        attention: Sequence[int] | None = None,
        heads: int = 4,
        dropout: float = 0.0,
        classes: int | None = None,
        class_names: Sequence[str] | None = None,
        conditions: Mapping[str, Mapping[str, Any]] | None = None,
        dims: int = 2,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if dims not in CONVS:
            raise ValueError(f"dims={dims!r}; expected {', '.join(map(str, CONVS))}")
        self.config: dict[str, Any] = {
            "channels": positive("channels", channels),
            "image_size": spatial_sizes(image_size, dims),
            "base_width": positive("base_width", base_width),
            "multipliers": [positive("multipliers", multiplier) for multiplier in multipliers],
            "blocks": positive("blocks", blocks),
            "attention": None if attention is None else [positive("attention", size) for size in attention],
            "heads": positive("heads", heads),
            "dropout": probability("dropout", dropout),
            "classes": None if classes is None else positive("classes", classes),
            "class_names": named_classes(classes, class_names),
            "conditions": stated(conditions),
            "dims": int(dims),
            "checkpointing": bool(checkpointing),
        }
        widths = [base_width * multiplier for multiplier in self.config["multipliers"]]
        sizes = _level_sizes(self.config["image_size"], len(widths))
        level_heads = _level_heads(self.config["attention"], heads, sizes, widths)
        self.axes = {"channels": channels, **dict(zip(AXES[-dims:], sizes[0], strict=True))}
        conv = CONVS[dims]
        embedding = 4 * base_width

        self.conditioning = Conditioning(embedding, classes, self.config["conditions"])
        crosses = len(self.conditioning.conditions.tokens) > 0
        if crosses and widths[-1] % heads:
            raise ValueError(f"heads={heads} for {widths[-1]} channels in the middle; expected a divisor")

        def block(level: int, inputs: int, middle: bool = False) -> Block:
            width, at = widths[level], level_heads[level]
            cross = (heads if middle else at) if crosses else 0
            return Block(inputs * width, width, embedding, dropout, at, dims, cross)

        # In the order in which x passes, down the levels and up again: entries lead into levels, exits out of them.
        down = range(len(widths))
        up = down[::-1]
        entering = channels + self.conditioning.conditions.channels
        self.entries = nn.ModuleList([conv(entering, widths[0], 3, padding=1)])
        self.entries.extend(conv(above, width, 3, stride=2, padding=1) for above, width in pairwise(widths))
        self.encoder = nn.ModuleList(block(level, inputs=1) for level in down for _ in range(blocks))
        self.middle = nn.ModuleList(block(up[0], inputs=1, middle=True) for _ in range(2))
        self.decoder = nn.ModuleList(block(level, inputs=2) for level in up for _ in range(blocks))
        self.exits = nn.ModuleList(Upsample(widths[i], widths[i - 1], sizes[i - 1]) for i in up[:-1])
        output = zeroed(conv(widths[0], channels, 3, padding=1))
        self.exits.append(nn.Sequential(group_norm(widths[0]), nn.SiLU(), output))

    def forward(self, x: Tensor, c_noise: Tensor, label: Tensor | None = None, **conditions: Tensor | None) -> Tensor:
        check_input(x, self.axes)
        self.conditioning.check(x, c_noise, label, conditions)
        known = self.conditioning(c_noise, label, conditions), self.conditioning.context(conditions, len(x))
        blocks: int = self.config["blocks"]
        h = self.conditioning.beside(x, conditions)
        skips = []
        for i, block in enumerate(self.encoder):
            if i % blocks == 0:
                h = self.entries[i // blocks](h)
            h = self._through(block, known, h)
            skips.append(h)
        for block in self.middle:
            h = self._through(block, known, h)
        for i, block in enumerate(self.decoder, start=1):
            h = self._through(block, known, h, skips.pop())
            if i % blocks == 0:
                h = self.exits[i // blocks - 1](h)
        return h.to(x.dtype)

    def _through(self, block: nn.Module, known: tuple[Tensor, Context | None], *parts: Tensor) -> Tensor:
        """The output of a block for the concatenated parts."""
        if self.config["checkpointing"] and torch.is_grad_enabled():
            y: Tensor = checkpoint(_joined, block, known, *parts, use_reentrant=False)
            return y
        return _joined(block, known, *parts)


def _joined(block: nn.Module, known: tuple[Tensor, Context | None], *parts: Tensor) -> Tensor:
    y: Tensor = block(parts[0] if len(parts) == 1 else torch.cat(parts, dim=1), *known)
    return y


def _level_sizes(image_size: list[int], levels: int) -> list[tuple[int, ...]]:
    """The spatial sizes of every level: halved from one to the next, rounding up."""
    sizes = [tuple(-(-size // 2**level) for size in image_size) for level in range(levels)]
    most = 1 + (max(image_size) - 1).bit_length()
    if not 1 <= levels <= most:
        raise ValueError(f"multipliers has {levels} levels; expected 1 to {most} for image_size={image_size}")
    return sizes


def _level_heads(attention: list[int] | None, heads: int, sizes: list[tuple[int, ...]], widths: list[int]) -> list[int]:
    """The number of heads at every level, 0 where it has no attention."""
    resolutions = [max(size) for size in sizes]
    for resolution in attention or ():
        if resolution not in resolutions:
            raise ValueError(f"attention={attention}; expected resolutions of levels: {resolutions}")
    level_heads = []
    for resolution, size, width in zip(resolutions, sizes, widths, strict=True):
        attends = prod(size) <= AFFORDABLE if attention is None else resolution in attention
        if attends and width % heads:
            raise ValueError(f"heads={heads} for {width} channels at resolution {resolution}; expected a divisor")
        level_heads.append(heads if attends else 0)
    return level_heads
