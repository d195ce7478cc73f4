"""What the tests of samplers share: solvers by their names, one that tells no calls, and a net of images."""

from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Any

import torch
from torch import Tensor, nn

from sdescore import OneStep, ReverseProcess, find_solver
from sdescore.sampling.solver import calls_of


def knows_its_calls(name: str) -> bool:
    try:
        calls_of(find_solver(name))(3)
    except ValueError:
        return False
    return True


NAMES = sorted({entry.name for entry in entry_points(group="sdescore.solvers")})
FIXED = [name for name in NAMES if knows_its_calls(name)]


def one_step(name: str) -> OneStep:
    solver = find_solver(name)
    assert isinstance(solver, OneStep)
    return solver


class NoCalls:
    def solve(self, reverse: ReverseProcess, x: Tensor, times: Tensor, noise: Any) -> Iterator[Tensor]:
        yield x


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
