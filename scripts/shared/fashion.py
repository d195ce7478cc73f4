"""The judge of generated clothes: features and a classifier, fitted on Fashion-MNIST's training images alone.

Both take model values (n, 1, 28, 28) in [-1, 1], as `sdescore evaluate` hands them over. The data is that of the
Debian package dataset-fashion-mnist. The net is trained once per process: seconds on a core.
"""

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdescore.data.idx import idx

FOLDER = "/usr/share/datasets/fashion-mnist"
EPOCHS, BATCH = 3, 128


@lru_cache
@torch.enable_grad()
def _net() -> nn.Sequential:
    """Two strided convolutions, 64 features and ten classes; about 89 % of the test images are told apart."""
    source = idx(FOLDER)
    assert source.labels is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        convolutions = [nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten()]
        net = nn.Sequential(*convolutions, nn.Linear(32 * 7 * 7, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
        for _ in range(EPOCHS):
            for chosen in torch.randperm(len(source)).split(BATCH):
                x = source.scaling.to_model(source.raw[chosen])
                F.cross_entropy(net(x), source.labels[chosen]).backward()
                optimizer.step()
                optimizer.zero_grad()
    return net.eval()


def _checked(x: Tensor) -> Tensor:
    if tuple(x.shape[1:]) != (1, 28, 28):
        raise ValueError(f"samples have shape {tuple(x.shape)}; the judge of Fashion-MNIST takes (n, 1, 28, 28)")
    return x.to("cpu", torch.float32)


@torch.no_grad()
def features(x: Tensor) -> Tensor:
    """The 64 hidden units of a net that tells the classes apart, (n, 64)."""
    x = _checked(x)
    y: Tensor = _net()[:-1](x)
    return y


@torch.no_grad()
def probabilities(x: Tensor) -> Tensor:
    """The probability of each of the ten classes, (n, 10)."""
    x = _checked(x)
    y: Tensor = _net()(x)
    return y.softmax(1)
