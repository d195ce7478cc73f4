"""The outer loop of lucidrains' denoising-diffusion-pytorch, around a net of ours.

Without torchvision, for which pip may change torch: pip install --no-deps denoising-diffusion-pytorch ema-pytorch
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from sdescore import Denoiser, DiscreteSDE
from sdescore.common.random import generator
from sdescore.data.batches import batches
from sdescore.data.source import Source
from sdescore.training.config import TrainConfig

__all__ = ["fit"]


@contextmanager
def without_torchvision() -> Iterator[None]:
    """Lend its import an empty torchvision where there is none: only their reader of folders uses it."""
    names = ("torchvision", "torchvision.transforms", "torchvision.utils")
    lent = [] if find_spec("torchvision") else names
    sys.modules.update({name: ModuleType(name) for name in lent})
    for name in lent[1:]:
        setattr(sys.modules["torchvision"], name.rpartition(".")[2], sys.modules[name])
    try:
        yield
    finally:
        for name in lent:
            del sys.modules[name]


class AsTheirs(nn.Module):
    """A net of ours as theirs are called: net(x, time step, self-condition)."""

    def __init__(self, net: nn.Module, channels: int) -> None:
        super().__init__()
        self.net, self.channels, self.out_dim, self.self_condition = net, channels, channels, False
        self.levels = torch.zeros(0)

    def forward(self, x: Tensor, t: Tensor, known: Tensor | None = None) -> Tensor:
        y: Tensor = self.net(x, self.levels[t])
        return y


def noise_levels(diffusion: Any) -> Tensor:
    """What the net is told at each of their time steps: ln(sigma / alpha) / 4, as everywhere here."""
    cumulative = diffusion.alphas_cumprod.double()
    return (((1 - cumulative) / cumulative).log() / 8).float()


def fit(own: TrainConfig, source: Source, steps: int) -> Denoiser:
    """The averaged denoiser of images after so many steps.

    The loop is that of their Trainer: GaussianDiffusion at its defaults (v, a sigmoid schedule of 1,000 time steps),
    Adam at a constant rate, gradients clipped at 1, and ema_pytorch's average with their decay. Batch size, learning
    rate and betas are those of the settings, images are not mirrored. Raises ImportError if it is not installed.
    """
    with without_torchvision():
        from denoising_diffusion_pytorch import GaussianDiffusion
        from ema_pytorch import EMA

    torch.manual_seed(generator("train init", own.seed).initial_seed())
    net = AsTheirs(own.build_net(source.shape, None), source.shape[0])
    diffusion: Any = GaussianDiffusion(net, image_size=tuple(source.shape[1:]))
    net.levels = noise_levels(diffusion)
    optimizer = torch.optim.Adam(diffusion.parameters(), lr=own.lr, betas=own.betas)
    ema: Any = EMA(diffusion, beta=0.995, update_every=10)
    torch.manual_seed(own.seed)
    for raw, _ in batches(source, own.seed, own.batch_size, range(steps)):
        diffusion((source.scaling.to_model(raw) + 1) / 2).backward()
        torch.nn.utils.clip_grad_norm_(diffusion.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.update()
    averaged = ema.ema_model.model.net
    sde = DiscreteSDE.from_betas(diffusion.betas.double())
    return Denoiser(averaged, sde, "v", data_std=1.0, shape=source.shape, scaling=source.scaling)
