"""The residual blocks of DDPM++, NCSN++ and ADM, under the names that EDM's checkpoints have for their layers."""

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import attend, zeroed
from .edm_parts import Resampling, conv


class Block(nn.Module):
    """A residual block, resampled where that is wanted, then attention if there are heads; see the subclasses."""

    eps: float  # of its norms
    modulations: int  # vectors that it takes from the embedding
    shrink: float  # factor of every residual sum
    skip_size: int  # of the skip's convolution where the width stays; 0 is none

    def __init__(
        self,
        width_in: int,
        width: int,
        embedding: int,
        *,
        heads: int = 0,
        dropout: float = 0.0,
        resampling: Resampling | None = None,
        taps: Sequence[float] = (1, 1),
    ) -> None:
        super().__init__()
        self.heads = heads
        self.norm0 = self.norm(width_in)
        self.conv0 = conv(width_in, width, 3, resampling, taps)
        self.affine = nn.Linear(embedding, self.modulations * width)
        self.norm1 = self.norm(width)
        self.dropout = nn.Dropout(dropout)
        self.conv1 = zeroed(nn.Conv2d(width, width, 3, padding=1))
        self.skip: nn.Module = nn.Identity()
        if resampling is not None or width != width_in:
            self.skip = conv(width_in, width, self.skip_size if width == width_in else 1, resampling, taps)
        if heads:
            self.norm2 = self.norm(width)
            self.qkv = nn.Conv2d(width, 3 * width, 1)
            self.proj = zeroed(nn.Conv2d(width, width, 1))

    @classmethod
    def norm(cls, width: int) -> nn.GroupNorm:
        """At most 32 groups, of at least 4 channels; raises ValueError for channels that do not fill them."""
        return nn.GroupNorm(max(1, min(32, width // 4)), width, eps=cls.eps)

    def modulated(self, h: Tensor, vectors: Tensor) -> Tensor:
        """h (batch, width, height, width) normalised under what the embedding says (batch, modulations width, 1, 1)."""
        raise NotImplementedError

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        vectors = self.affine(embedded)[..., None, None]
        h = F.silu(self.modulated(self.conv0(F.silu(self.norm0(x))), vectors))
        y: Tensor = self.shrink * (self.skip(x) + self.conv1(self.dropout(h)))
        return self.shrink * (y + self._attention(y)) if self.heads else y

    def _attention(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(self.norm2(x)), "b (h c three) y x -> three b h (y x) c", three=3, h=self.heads)
        joined = rearrange(attend(q, k, v), "b h (y x) c -> b (h c) y x", y=x.shape[2])
        y: Tensor = self.proj(joined)
        return y


class ShiftBlock(Block):
    """The embedding is added before the norm; sums keep their variance (Song et al. 2021, appendix H)."""

    eps = 1e-6
    modulations = 1
    shrink = math.sqrt(0.5)
    skip_size = 1

    def modulated(self, h: Tensor, vectors: Tensor) -> Tensor:
        y: Tensor = self.norm1(h + vectors)
        return y


class ScaleShiftBlock(Block):
    """The embedding scales and shifts after the norm (Dhariwal & Nichol 2021, section 3)."""

    eps = 1e-5
    modulations = 2
    shrink = 1.0
    skip_size = 0

    def modulated(self, h: Tensor, vectors: Tensor) -> Tensor:
        scale, shift = vectors.chunk(2, dim=1)
        return torch.addcmul(shift, self.norm1(h), 1 + scale)
