"""The images of bench/gpu.py: those of scripts/bench/gpu_pack.py, or made up where there are none."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from shared.resnet20 import ResNet20
from torch import Tensor

from sdescore import Scaling

__all__ = ["Images"]


@dataclass(frozen=True)
class Images:
    """Raw images (n, 3, 32, 32) in uint8, and whose features judge samples."""

    raw: Tensor
    raw_test: Tensor
    origin: str
    judge: ResNet20

    @classmethod
    def of(cls, pack: Path, small: bool) -> "Images":
        """Those that are packed; a few of them suffice for a rehearsal."""
        torch.manual_seed(0)
        judge = ResNet20().eval().requires_grad_(False)
        weights = pack / "resnet20.safetensors"
        if weights.exists():
            from safetensors.torch import load_file

            judge.load_state_dict(load_file(weights))
        known = "resnet20" if weights.exists() else "a net that has learnt nothing"
        if (pack / "cifar10.npz").exists():
            with np.load(pack / "cifar10.npz") as file:
                train, test = (torch.from_numpy(file[name]).permute(0, 3, 1, 2) for name in ("train", "test"))
            origin = "CIFAR-10"
        else:
            train, test = made_up(2000), made_up(1024)
            origin = "made up"
        if small:
            train, test = train[:200], test[:70]
        return cls(train, test, f"{len(train):,} of {origin}, features of {known}", judge)

    @property
    def train(self) -> Tensor:
        return Scaling().to_model(self.raw)

    @property
    def test(self) -> Tensor:
        return Scaling().to_model(self.raw_test)


def made_up(count: int) -> Tensor:
    """Smooth random colours."""
    coarse = torch.rand(count, 3, 4, 4)
    fine = torch.nn.functional.interpolate(coarse, scale_factor=8, mode="bilinear")
    return (255 * fine).round().to(torch.uint8)
