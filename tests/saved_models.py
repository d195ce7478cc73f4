"""Tiny models in folders, as training leaves them."""

from pathlib import Path

import torch

from sdescore import Denoiser, KarrasSDE, Scaling
from sdescore.nets import UNet

STD = 0.75


def saved(
    path: Path, *, classes: int | None = None, active: bool = True, shape: tuple[int, ...] | None = (1, 8, 8)
) -> str:
    """An untrained model of the digits: the exact denoiser of N(0, STD^2) unless it is active."""
    torch.manual_seed(0)
    net = UNet(1, 8, base_width=8, multipliers=(1,), blocks=1, attention=(), heads=1, classes=classes)
    if active:
        for parameter in net.exits.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    Denoiser(net, KarrasSDE(), "edm", STD, shape=shape, scaling=Scaling(0, 16, 17)).save_pretrained(path)
    return str(path)
