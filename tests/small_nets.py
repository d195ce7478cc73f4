"""Small nets and denoisers, and inputs for them."""

from typing import Any

import torch
from torch import Tensor, nn

from sdescore import VPSDE, Denoiser, LinearSDE
from sdescore.nets import MLP, DiT, UNet


def unet(**changes: Any) -> UNet:
    small: dict[str, Any] = {"channels": 1, "image_size": 8, "base_width": 8, "multipliers": (1, 2), "blocks": 1}
    return UNet(**{**small, "heads": 2, **changes})


def dit(**changes: Any) -> DiT:
    small: dict[str, Any] = {"channels": 1, "image_size": 8, "patch": 4, "width": 12, "depth": 2, "heads": 2}
    return DiT(**{**small, **changes})


def filled(net: nn.Module, std: float = 0.15) -> Any:
    """The net with all parameters drawn at random, so that no branch is zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0, std, generator=generator)
    return net


def inputs(net: Any, batch: int = 3, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, *net.axes.values(), generator=generator, dtype=dtype)
    return x, torch.linspace(-1.7, 1.2, batch, dtype=dtype)


def small(sde: LinearSDE | None = None, **arguments: Any) -> Denoiser:
    return Denoiser(filled(MLP(2, width=8, depth=1)), sde or VPSDE(), **{"shape": (2,), **arguments})


class ConvNet(nn.Module):
    """A small net whose rows are not computed alone."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(
            nn.Conv2d(2, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.SiLU(), nn.Conv2d(16, 1, 3, padding=1)
        )

    def forward(self, y: Tensor, c_noise: Tensor) -> Tensor:
        level = c_noise.to(y).reshape(-1, 1, 1, 1).expand_as(y)
        return self.layers(torch.cat([y, level], 1))


class Recorder(nn.Module):
    """A net in float32 that keeps what it is given, and fails for another dtype, as layers do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.dropout = nn.Dropout(0.5)
        self.given: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        self.given.append((x, time))
        return self.dropout(torch.tanh(x + self.layer(time[:, None])))
