"""EDM2's U-Net, whose layers keep magnitudes (Karras et al. 2024: https://arxiv.org/abs/2312.02696, appendix B)."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import attend
from .edm_parts import check_arguments, decoder_stages, encoder_stages, read_condition

SILU_MAGNITUDE = 0.596  # of silu(z) for a standard normal z (eq. 81)
EPS = 1e-4


def unit(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """x over its root mean square along the axes (eq. 26)."""
    norm = torch.linalg.vector_norm(x, dim=axes, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
    size = math.prod([x.shape[axis] for axis in axes])
    return x / (EPS + norm / math.sqrt(size)).to(x.dtype)


def silu(x: Tensor) -> Tensor:
    """Of about the magnitude of x (eq. 81)."""
    return F.silu(x) / SILU_MAGNITUDE


def blend(a: Tensor, b: Tensor, balance: float) -> Tensor:
    """The sum of a and b, with `balance` of it b, of their magnitude (eq. 88)."""
    return torch.lerp(a, b, balance) / math.hypot(1 - balance, balance)


def join(a: Tensor, b: Tensor, balance: float) -> Tensor:
    """a and b along the channels, with `balance` of the result's magnitude b's (eq. 103)."""
    widths = (a.shape[1], b.shape[1])
    scale = math.sqrt(sum(widths)) / math.hypot(1 - balance, balance)
    factors = ((1 - balance) / math.sqrt(widths[0]), balance / math.sqrt(widths[1]))
    return torch.cat((scale * factors[0] * a, scale * factors[1] * b), dim=1)


class Weight(nn.Module):
    """A convolution, or a linear layer, by weights of unit norm per output (eq. 47).

    In training mode a call also writes the normalised weights back (eq. 66).
    """

    def __init__(self, width_in: int, width: int, *size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.normal_(torch.empty(width, width_in, *size)))

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        axes = tuple(range(1, self.weight.ndim))
        if self.training:
            with torch.no_grad():
                self.weight.copy_(unit(self.weight, axes))
        weight = unit(self.weight.to(torch.promote_types(self.weight.dtype, torch.float32)), axes)
        weight = (weight * (gain / math.sqrt(weight[0].numel()))).to(x.dtype)
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2) if weight.ndim == 4 else F.linear(x, weight)


class Features(nn.Module):
    """Cosines (batch, count) of c_noise (batch,) at random frequencies and phases, of magnitude 1 (eq. 75)."""

    freqs: Tensor
    phases: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("freqs", nn.init.normal_(torch.empty(count), std=2 * math.pi))
        self.register_buffer("phases", nn.init.uniform_(torch.empty(count), 0.0, 2 * math.pi))

    def forward(self, c_noise: Tensor) -> Tensor:
        angles = torch.outer(c_noise, self.freqs.to(c_noise.dtype)) + self.phases.to(c_noise.dtype)
        return math.sqrt(2) * angles.cos()


class Block(nn.Module):
    """A residual block and self-attention of given balances (figure 21); the subclasses say what comes first."""

    def __init__(
        self,
        width_in: int,
        width: int,
        residual_in: int,
        embedding: int,
        *,
        resampling: str | None,
        heads: int,
        dropout: float,
        residual_balance: float,
        attention_balance: float,
        clip: float | None,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.resampling = resampling
        self.residual_balance = residual_balance
        self.attention_balance = attention_balance
        self.clip = clip
        self.emb_gain = nn.Parameter(torch.zeros(()))
        self.conv_res0 = Weight(residual_in, width, 3, 3)
        self.emb_linear = Weight(embedding, width)
        self.dropout = nn.Dropout(dropout)
        self.conv_res1 = Weight(width, width, 3, 3)
        self.conv_skip = nn.Identity() if width_in == width else Weight(width_in, width, 1, 1)
        self.attn_qkv = Weight(width, 3 * width, 1, 1) if heads else None
        self.attn_proj = Weight(width, width, 1, 1) if heads else None

    def resampled(self, x: Tensor) -> Tensor:
        """x at half or twice its size, by the mean of four and by the nearest."""
        if self.resampling == "down":
            return F.avg_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2.0, mode="nearest") if self.resampling == "up" else x

    def merged(self, skip: Tensor, x: Tensor, embedded: Tensor) -> Tensor:
        """The block's output, from what skips its residual branch and what enters it."""
        scale = 1 + self.emb_linear(embedded, self.emb_gain)
        h = silu(self.conv_res0(silu(x)) * scale[..., None, None])
        y = blend(skip, self.conv_res1(self.dropout(h)), self.residual_balance)
        if self.attn_qkv is not None and self.attn_proj is not None:
            rows = rearrange(self.attn_qkv(y), "b (h c three) y x -> three b h (y x) c", three=3, h=self.heads)
            q, k, v = unit(rows, (-1,))
            joined = rearrange(attend(q, k, v), "b h (y x) c -> b (h c) y x", y=y.shape[2])
            y = blend(y, self.attn_proj(joined), self.attention_balance)
        return y if self.clip is None else y.clamp(-self.clip, self.clip)


class EncoderBlock(Block):
    """Pixels are normalised before the two branches part."""

    def __init__(self, width_in: int, width: int, embedding: int, **settings: Any) -> None:
        super().__init__(width_in, width, width, embedding, **settings)

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        x = unit(self.conv_skip(self.resampled(x)), (1,))
        return self.merged(x, x, embedded)


class DecoderBlock(Block):
    """The residual branch sees all channels."""

    def __init__(self, width_in: int, width: int, embedding: int, **settings: Any) -> None:
        super().__init__(width_in, width, width_in, embedding, **settings)

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        x = self.resampled(x)
        return self.merged(self.conv_skip(x), x, embedded)


class EDM2UNet(nn.Module):
    """U-Net called as net(x, c_noise, label=None), for x (batch, channels, image_size, image_size).

    The weights have the names of EDM2's checkpoints. `config` holds the arguments.

    Args:
        channels: Channels of x.
        image_size: Height and width of x.
        base_width: Channels at full resolution, over the first multiplier.
        multipliers: Channels over base_width of each level, from full resolution down.
        blocks: Residual blocks per level of the encoder; the decoder has one more.
        attention: Resolutions with attention.
        dropout: Probability, inside the residual blocks.
        classes: Number of labels; labels are 0 ... classes - 1, and `classes` itself stands for no label.
        noise_multiplier: Number of the features of c_noise, over base_width; by default the first of `multipliers`.
        embedding_multiplier: Width of the embedding, over base_width; by default the largest of `multipliers`.
        head_width: Channels of an attention head; levels of fewer channels have no attention.
        label_balance, concat_balance, residual_balance, attention_balance: What part of a sum is the label's, the
            encoder's, the residual branch's and the attention's.
        clip: Bound of every block's output; None is none.

    Raises ValueError for an argument out of range and, when called, for an input that does not fit.
    """

    _no_split_modules = ("EncoderBlock", "DecoderBlock")

    def __init__(
        self,
        channels: int,
        image_size: int,
        *,
        base_width: int = 192,
        multipliers: Sequence[int] = (1, 2, 3, 4),
        blocks: int = 3,
        attention: Sequence[int] = (16, 8),
        dropout: float = 0.0,
        classes: int | None = None,
        noise_multiplier: int | None = None,
        embedding_multiplier: int | None = None,
        head_width: int = 64,
        label_balance: float = 0.5,
        concat_balance: float = 0.5,
        residual_balance: float = 0.3,
        attention_balance: float = 0.3,
        clip: float | None = 256.0,
    ) -> None:
        super().__init__()
        self.config = check_arguments(locals())
        self.axes = {"channels": channels, "height": image_size, "width": image_size}
        self.classes = classes
        self.label_balance = label_balance
        self.concat_balance = concat_balance

        features = base_width * (noise_multiplier or multipliers[0])
        width = base_width * (embedding_multiplier or max(multipliers))
        self.emb_fourier = Features(features)
        self.emb_noise = Weight(features, width)
        self.emb_label = Weight(classes, width) if classes else None

        widths = [base_width * each for each in multipliers]
        self.down = encoder_stages(channels + 1, widths[0], widths, blocks, image_size)
        self.up = decoder_stages(self.down, widths, blocks)
        shared: dict[str, Any] = {
            "embedding": width,
            "dropout": dropout,
            "residual_balance": residual_balance,
            "attention_balance": attention_balance,
            "clip": clip,
        }
        first, *stages = self.down
        self.enc = nn.ModuleDict({first.name: Weight(*first.widths, 3, 3)})
        self.dec = nn.ModuleDict()
        for part, block, inside in ((self.enc, EncoderBlock, stages), (self.dec, DecoderBlock, self.up)):
            for stage in inside:
                heads = stage.heads(attention, head_width)
                resampling = stage.role if stage.role in ("down", "up") else None
                part[stage.name] = block(*stage.widths, heads=heads, resampling=resampling, **shared)
        self.out_conv = Weight(widths[0], channels, 3, 3)
        self.out_gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        c_noise, classes = read_condition(x, self.axes, c_noise, label, self.classes)
        embedded = self.emb_noise(self.emb_fourier(c_noise))
        if self.emb_label is not None:
            rows = math.sqrt(classes.shape[1]) * classes
            embedded = blend(embedded, self.emb_label(rows), self.label_balance)
        embedded = silu(embedded).to(x.dtype)

        first, *stages = self.down
        # A channel of ones stands for the biases that no layer has.
        kept = [self.enc[first.name](torch.cat((x, torch.ones_like(x[:, :1])), dim=1))]
        for stage in stages:
            kept.append(self.enc[stage.name](kept[-1], embedded))
        h = kept[-1]
        for stage in self.up:
            if stage.is_block:
                h = join(h, kept.pop(), self.concat_balance)
            h = self.dec[stage.name](h, embedded)
        y: Tensor = self.out_conv(h, self.out_gain)
        return y
