"""The parts of a U-Net; x is (batch, width, *spatial) with 1, 2 or 3 spatial axes."""

from collections.abc import Callable

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from .conditions import Context

CONVS: dict[int, Callable[..., nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
AXES = {1: "x", 2: "y x", 3: "z y x"}  # the spatial axes in the patterns of einops


def group_norm(width: int, affine: bool = True) -> nn.GroupNorm:
    """Group norm with at most 32 groups, of at least 4 channels each if the width allows it."""
    groups = next(number for number in range(max(1, min(32, width // 4)), 0, -1) if width % number == 0)
    return nn.GroupNorm(groups, width, affine=affine)


def zeroed(layer: nn.Module) -> nn.Module:
    """The layer, with all its parameters set to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def attend(q: Tensor, k: Tensor, v: Tensor, there: Tensor | None = None) -> Tensor:
    """softmax(q k' / sqrt(c)) v for (batch, heads, positions, c) (Vaswani et al. 2017, eq. 1).

    there (batch, 1, 1, positions) says which keys to look at; all by default.

    torch's fused kernels have no forward-mode derivative: there its plain kernel is used. They have no second
    reverse-mode derivative either: take that under torch.nn.attention.sdpa_kernel(SDPBackend.MATH).
    """
    try:
        return F.scaled_dot_product_attention(q, k, v, there)
    except NotImplementedError:
        with sdpa_kernel(SDPBackend.MATH):
            return F.scaled_dot_product_attention(q, k, v, there)


class Attention(nn.Module):
    """Residual self-attention between all positions; the identity at initialisation."""

    def __init__(self, width: int, heads: int, dims: int) -> None:
        super().__init__()
        self.heads = heads
        self.axes = AXES[dims]
        self.norm = group_norm(width)
        self.qkv = CONVS[dims](width, 3 * width, 1)
        self.out = zeroed(CONVS[dims](width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        # torch's fused kernels need the channels last in memory, as they are in a channels-last x.
        rows = rearrange(self.qkv(self.norm(x)), f"b c {self.axes} -> b ({self.axes}) c").contiguous()
        q, k, v = rearrange(rows, "b n (three h c) -> three b h n c", three=3, h=self.heads)
        # The heads are joined while the channels are last, so that a channels-last x stays channels-last.
        joined = rearrange(attend(q, k, v), "b h n c -> b n (h c)")
        sizes = dict(zip(self.axes.split(), x.shape[2:], strict=True))
        y: Tensor = x + self.out(rearrange(joined, f"b ({self.axes}) c -> b c {self.axes}", **sizes))
        return y


class CrossAttention(nn.Module):
    """Attention of rows (batch, n, width) to a context of tokens; zero at initialisation."""

    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(context, 2 * width)
        self.out = zeroed(nn.Linear(width, width))

    def forward(self, rows: Tensor, context: Context) -> Tensor:
        tokens, there = context
        q = rearrange(self.q(self.norm(rows)), "b n (h c) -> b h n c", h=self.heads)
        k, v = rearrange(self.kv(tokens), "b n (two h c) -> two b h n c", two=2, h=self.heads)
        y: Tensor = self.out(rearrange(attend(q, k, v, there), "b h n c -> b n (h c)"))
        return y


class Block(nn.Module):
    """Residual block with scale-shift conditioning (Dhariwal & Nichol 2021, section 3).

    Attention follows if heads > 0, and attention to a context of tokens if `cross`, its number of heads, is above 0.
    The residual branches are zero at initialisation.
    """

    def __init__(
        self, width_in: int, width: int, embedding: int, dropout: float, heads: int, dims: int, cross: int = 0
    ) -> None:
        super().__init__()
        conv = CONVS[dims]
        self.halves = "b (two c) -> two b c" + " 1" * dims
        self.norm1 = group_norm(width_in)
        self.conv1 = conv(width_in, width, 3, padding=1)
        self.affine = nn.Linear(embedding, 2 * width)
        self.norm2 = group_norm(width, affine=False)  # scale and shift come from the embedding
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zeroed(conv(width, width, 3, padding=1))
        self.shortcut = nn.Identity() if width_in == width else conv(width_in, width, 1)
        self.attention = Attention(width, heads, dims) if heads else nn.Identity()
        self.cross = CrossAttention(width, cross, embedding) if cross else None

    def forward(self, x: Tensor, embedded: Tensor, context: Context | None = None) -> Tensor:
        scale, shift = rearrange(self.affine(embedded), self.halves, two=2)
        h = self.norm2(self.conv1(F.silu(self.norm1(x)))) * (1 + scale)
        h.add_(shift)  # not addcmul(), whose backward pass copies its whole input first
        y: Tensor = self.attention(self.shortcut(x) + self.conv2(self.dropout(F.silu(h))))
        if self.cross is None or context is None:
            return y
        found: Tensor = self.cross(y.flatten(2).mT, context)
        return y + found.mT.reshape(y.shape)


class Upsample(nn.Module):
    """Nearest-neighbour interpolation to `size`, then a convolution that changes the width."""

    def __init__(self, width_in: int, width: int, size: tuple[int, ...]) -> None:
        super().__init__()
        self.size = size
        self.conv = CONVS[len(size)](width_in, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(F.interpolate(x, size=self.size, mode="nearest"))
        return y
