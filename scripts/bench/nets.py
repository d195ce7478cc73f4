"""The nets that bench/train.py compares: the library's U-Net and those of other libraries, by size."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sdescore.nets import UNet
from sdescore.nets.embedding import fourier

__all__ = ["SIZES", "builders", "cost"]

# The widths of the levels of diffusers' nets, in images of 32 x 32 x 3 with attention at 16 x 16, two blocks a level;
# and the base width and multipliers that bring ours near them in parameters and operations together, in whole vectors.
SIZES: dict[str, tuple[tuple[int, ...], int, tuple[int, ...]]] = {
    "tiny": ((32, 32), 16, (1, 1)),
    "small": ((32, 64, 64), 32, (1, 2, 2)),
    "full": ((128, 256, 256, 256), 144, (1, 2, 2, 2)),
}


class Diffusers(nn.Module):
    """diffusers' UNet2DModel, with the arguments of ours."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        from diffusers import UNet2DModel

        levels = range(len(widths))
        peer: Any = UNet2DModel
        self.net = peer(
            sample_size=32,
            in_channels=3,
            out_channels=3,
            block_out_channels=widths,
            layers_per_block=2,
            attention_head_dim=None,
            down_block_types=tuple("AttnDownBlock2D" if i == 1 else "DownBlock2D" for i in levels),
            up_block_types=tuple("AttnUpBlock2D" if len(widths) - 1 - i == 1 else "UpBlock2D" for i in levels),
        )

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        y: Tensor = self.net(x, 300 * (c_noise + 1.5), return_dict=False)[0]
        return y


class Azula(nn.Module):
    """azula's UNet, which has no attention, with the embedding of ours."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        from azula.nn.unet import UNet as Peer

        embedding = 4 * widths[0]
        self.embed = nn.Sequential(nn.LazyLinear(embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU())
        self.embed(fourier(torch.zeros(1)))
        self.net = Peer(3, 3, hid_channels=widths, hid_blocks=(2,) * len(widths), mod_features=embedding, norm="group")

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        y: Tensor = self.net(x, self.embed(fourier(c_noise)))
        return y


def builders(size: str) -> dict[str, Callable[[], nn.Module]]:
    """How to make each net of a size: ours, and those of the libraries that are installed."""
    widths, base, multipliers = SIZES[size]
    arguments: dict[str, Any] = {"base_width": base, "multipliers": multipliers, "blocks": 2}
    found: dict[str, Callable[[], nn.Module]] = {"sdescore": lambda: UNet(3, 32, attention=(16,), **arguments)}
    if find_spec("diffusers"):
        found["diffusers"] = lambda: Diffusers(widths)
    if find_spec("azula"):
        found["sdescore, no attention"] = lambda: UNet(3, 32, attention=(), **arguments)
        found["azula, no attention"] = lambda: Azula(widths)
    return found


def cost(build: Callable[[], nn.Module]) -> tuple[float, float]:
    """Millions of parameters, and GFLOP for an image forward and backward, as torch counts them."""
    net = build().to("meta")  # there even the fused kernels of a CPU are counted
    x, c_noise = torch.zeros(2, 3, 32, 32, device="meta"), torch.zeros(2, device="meta")
    with FlopCounterMode(display=False) as counter:
        net(x, c_noise).sum().backward()
    return sum(p.numel() for p in net.parameters()) / 1e6, counter.get_total_flops() / len(x) / 1e9
