"""A diffusion transformer for series, images and volumes (Peebles & Xie 2023: https://arxiv.org/abs/2212.09748)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .blocks import CONVS, CrossAttention, attend, zeroed
from .checks import AXES, check_input, named_classes, positive, probability, spatial_sizes
from .conditions import Context, stated, waves
from .embedding import Conditioning


class TransformerBlock(nn.Module):
    """Self-attention and a perceptron with adaptive layer norm zero, the identity at initialisation (their figure 3).

    Between the two are its context's tokens, by cross-attention, in a net that is given such.
    """

    def __init__(self, width: int, heads: int, hidden: int, dropout: float, cross: bool) -> None:
        super().__init__()
        self.heads = heads
        self.adapt = zeroed(nn.Linear(width, 6 * width))
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.cross = CrossAttention(width, heads, width) if cross else None
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.first = nn.Linear(width, hidden)
        self.dropout = nn.Dropout(dropout)
        self.second = nn.Linear(hidden, width)

    def forward(self, rows: Tensor, embedded: Tensor, context: Context | None = None) -> Tensor:
        scale1, shift1, gate1, scale2, shift2, gate2 = rearrange(self.adapt(embedded), "b (six c) -> six b 1 c", six=6)
        h = self.norm1(rows) * (1 + scale1) + shift1
        q, k, v = rearrange(self.qkv(h), "b n (three h c) -> three b h n c", three=3, h=self.heads)
        rows = rows + gate1 * self.out(rearrange(attend(q, k, v), "b h n c -> b n (h c)"))
        if self.cross is not None and context is not None:
            rows = rows + self.cross(rows, context)
        h = self.norm2(rows) * (1 + scale2) + shift2
        y: Tensor = rows + gate2 * self.second(self.dropout(F.gelu(self.first(h), approximate="tanh")))
        return y


class DiT(nn.Module):
    """Transformer called as net(x, c_noise, label=None, **conditions): x (batch, channels, *spatial) -> the same shape.

    x is cut into patches, each a row beside which stands its place. Its output is zero at initialisation. The paper's
    sizes S, B, L and XL have width 384, 768, 1024 and 1152, depth 12, 12, 24 and 28, and heads 6, 12, 16 and 16.
    `config` holds the arguments.

    Args:
        channels: Channels of x.
        image_size: Size of every spatial axis, or one size per axis.
        patch: Size of a patch along every spatial axis, of which it must be a divisor.
        width: Hidden width, also that of the embedding.
        depth: Number of blocks.
        heads: Attention heads; must divide the width.
        expansion: Width of the perceptrons over `width`.
        dropout: Probability, inside the perceptrons.
        classes: Number of labels; labels are 0 ... classes - 1, and `classes` itself stands for no label.
        class_names: Their names, to travel with the saved net.
        conditions: What else the net is given, by name, such as {"text": {"kind": "tokens", "size": 768}}; see
            conditions.py. Images, interpolated to the size of x, are channels beside it; vectors enter as labels do;
            tokens by cross-attention in every block.
        dims: Number of spatial axes: 1, 2 or 3.
        checkpointing: Keep only the inputs of each block for the backward pass and recompute the rest.

    Raises ValueError for an argument out of range and, when called, for an input that does not fit.
    """

    _no_split_modules = ("TransformerBlock",)

    def __init__(
        self,
        channels: int,
        image_size: int | Sequence[int],
        *,
        patch: int = 2,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        expansion: int = 4,
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
        sizes = spatial_sizes(image_size, dims)
        self.config: dict[str, Any] = {
            "channels": positive("channels", channels),
            "image_size": sizes,
            "patch": positive("patch", patch),
            "width": positive("width", width),
            "depth": positive("depth", depth),
            "heads": positive("heads", heads),
            "expansion": positive("expansion", expansion),
            "dropout": probability("dropout", dropout),
            "classes": None if classes is None else positive("classes", classes),
            "class_names": named_classes(classes, class_names),
            "conditions": stated(conditions),
            "dims": int(dims),
            "checkpointing": bool(checkpointing),
        }
        if any(size % patch for size in sizes):
            raise ValueError(f"patch={patch} for image_size={sizes}; expected a divisor of every size")
        if width % heads or width % 2:
            raise ValueError(f"width={width} with heads={heads}; expected an even multiple of heads")
        self.axes = {"channels": channels, **dict(zip(AXES[-dims:], sizes, strict=True))}
        # Axes of an array of patches are named by a, b, c, and those inside of a patch by p, q, r.
        outer, inner = "a b c"[: 2 * dims - 1].split(), "p q r"[: 2 * dims - 1].split()
        paired = " ".join(f"({o} {i})" for o, i in zip(outer, inner, strict=True))
        self.cut = f"n k {paired} -> n ({' '.join(outer)}) ({' '.join(inner)} k)"
        self.join = " -> ".join(reversed(self.cut.split(" -> ")))
        self.lengths = dict.fromkeys(inner, patch) | dict(zip(outer, (s // patch for s in sizes), strict=True))
        self.conditioning = Conditioning(width, classes, self.config["conditions"])
        given = self.conditioning.conditions
        self.entry = nn.Linear((channels + given.channels) * patch**dims, width)
        self.register_buffer("places", places([size // patch for size in sizes], width), persistent=False)
        crosses = len(given.tokens) > 0
        self.blocks = nn.ModuleList(
            TransformerBlock(width, heads, expansion * width, dropout, crosses) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.adapt = zeroed(nn.Linear(width, 2 * width))
        self.exit = zeroed(nn.Linear(width, channels * patch**dims))

    def forward(self, x: Tensor, c_noise: Tensor, label: Tensor | None = None, **conditions: Tensor | None) -> Tensor:
        check_input(x, self.axes)
        self.conditioning.check(x, c_noise, label, conditions)
        embedded = self.conditioning(c_noise, label, conditions)
        context = self.conditioning.context(conditions, len(x))
        rows = self.entry(rearrange(self.conditioning.beside(x, conditions), self.cut, **self.lengths))
        rows = rows + self.places.to(rows.dtype)
        for block in self.blocks:
            if self.config["checkpointing"] and torch.is_grad_enabled():
                rows = checkpoint(block, rows, embedded, context, use_reentrant=False)
            else:
                rows = block(rows, embedded, context)
        scale, shift = rearrange(self.adapt(embedded), "b (two c) -> two b 1 c", two=2)
        y: Tensor = rearrange(self.exit(self.norm(rows) * (1 + scale) + shift), self.join, **self.lengths)
        return y.to(x.dtype)


def places(sizes: Sequence[int], width: int) -> Tensor:
    """Sines and cosines of the place of every patch, (positions, width), each axis in a part of the width."""
    axes = torch.meshgrid(*[torch.arange(size) for size in sizes], indexing="ij")
    shares = [2 * (width // 2 * (k + 1) // len(sizes) - width // 2 * k // len(sizes)) for k in range(len(sizes))]
    return torch.cat([waves(axis.flatten(), share) for axis, share in zip(axes, shares, strict=True)], dim=1)
