"""The 20-layer residual net for CIFAR-10 of He et al. 2016, section 4.2, whose 64 last features judge images."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ResNet20"]

# Of the colours of ImageNet, by which its inputs are scaled.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Block(nn.Module):
    """Two convolutions beside a way past them; where it narrows, every other pixel, and new channels of zeros."""

    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride, self.added = stride, (channels - before) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        past = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.added, self.added))
        return F.relu(y + past)


def level(before: int, channels: int, stride: int) -> nn.Sequential:
    """Three blocks, the first of which narrows."""
    return nn.Sequential(Block(before, channels, stride), Block(channels, channels, 1), Block(channels, channels, 1))


class ResNet20(nn.Module):
    """Classes of images (n, 3, 32, 32) in [-1, 1]; features() are what it decides by, (n, 64)."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = level(16, 16, 1)
        self.layer2 = level(16, 32, 2)
        self.layer3 = level(32, 64, 2)
        self.linear = nn.Linear(64, 10)
        self.register_buffer("mean", torch.tensor(MEAN).reshape(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).reshape(3, 1, 1), persistent=False)

    def features(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(((x + 1) / 2 - self.mean) / self.std)))
        y = self.layer3(self.layer2(self.layer1(y)))
        found: Tensor = y.mean((2, 3))
        return found

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(self.features(x))
        return y
