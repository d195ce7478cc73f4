"""Nine small real sets, with held-out samples and features in which to compare samples with them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from shared.fashion import FOLDER
from torch import Tensor, nn
from torch.nn import functional as F

from sdescore.cli import digits_judge
from sdescore.cli.sources import all_values
from sdescore.common.scaling import Scaling
from sdescore.data.idx import idx
from sdescore.data.images import Images
from sdescore.data.load import digits, npz
from sdescore.data.source import Arrays, Source

__all__ = ["SETS", "VECTORS", "SmallSet", "fourier_features"]

HOURS, MONTH = 32, 30 * 24  # of a window of the series
PICTURES = 600


@dataclass(frozen=True)
class SmallSet:
    """A set to train on.

    Attributes:
        train: What is trained on.
        test: Held-out raw samples.
        features: Of model values (n, *shape), rows (n, d).
        unit: What to add to a log-density of model values to have that of the columns at unit variance.
    """

    train: Source
    test: Arrays
    features: Callable[[Tensor], Tensor]
    unit: float = 0.0


def fourier_features(x: Tensor, count: int = 32, most: int = 16) -> Callable[[Tensor], Tensor]:
    """Random cosines of the principal components of data x (n, *shape), at most so many of them, at unit variance.

    Their wavelengths go from the data's spread down to a quarter of it (random features: Rahimi & Recht 2007).
    """
    flat = x.flatten(1).double()
    mean = flat.mean(0)
    values, vectors = torch.linalg.eigh((flat - mean).T @ (flat - mean) / len(flat))
    kept = values.flip(0)[:most]
    basis = vectors.flip(1)[:, :most] / kept.clamp_min(1e-6 * float(kept[0])).sqrt()
    draw = torch.Generator().manual_seed(0)
    directions = torch.randn(len(kept), count, generator=draw, dtype=torch.float64) / len(kept) ** 0.5
    directions = directions * torch.logspace(0, 2, count, base=2, dtype=torch.float64)
    phases = 2 * math.pi * torch.rand(count, generator=draw, dtype=torch.float64)
    return lambda x: ((x.flatten(1).double() - mean) @ basis @ directions + phases).cos()


def class_features(source: Arrays, epochs: int = 3, most: int = 10_000) -> Callable[[Tensor], Tensor]:
    """The 32 hidden units of a small net that tells the classes of images apart, fitted on at most so many of them."""
    assert source.labels is not None
    channels, height, width = source.shape
    draw = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        convolutions = [nn.Conv2d(channels, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, 2, 1), nn.ReLU()]
        size = 32 * math.ceil(height / 4) * math.ceil(width / 4)
        head = [nn.Flatten(), nn.Linear(size, 32), nn.ReLU(), nn.Linear(32, int(source.classes or 1))]
        net = nn.Sequential(*convolutions, *head)
        optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
        for _ in range(epochs):
            for chosen in torch.randperm(len(source), generator=draw)[:most].split(100):
                raw, labels = source.raw[chosen], source.labels[chosen]
                F.cross_entropy(net(source.scaling.to_model(raw)), labels).backward()
                optimizer.step()
                optimizer.zero_grad()
    hidden = net[:-1].requires_grad_(False)
    return lambda x: hidden(x)


def of_table(train: np.ndarray, test: np.ndarray) -> SmallSet:
    """Rows of columns (n, columns), with the scaling that tables get by default."""
    mean, std = train.mean(0), train.std(0)
    one, other = (torch.from_numpy((each - mean) / std).float() for each in (train, test))
    source = Arrays(one)
    held_out = Arrays(other, None, source.scaling)
    unit = source.scaling.log_volume(source.shape)
    return SmallSet(source, held_out, fourier_features(all_values(source)), unit)


def of_series(train: np.ndarray, test: np.ndarray) -> SmallSet:
    """Series (n, columns, length), in one range, that of the largest value of columns at unit variance."""
    mean, std = (f(train, axis=(0, 2), keepdims=True)[0] for f in (np.mean, np.std))
    one, other = (torch.from_numpy((each - mean) / std).float() for each in (train, test))
    largest = float(torch.cat([one, other]).abs().max())
    scaling = Scaling(-largest, largest, None)
    source = Arrays(one, None, scaling)
    unit = -source.raw[0].numel() * math.log(largest)
    return SmallSet(source, Arrays(other, None, scaling), fourier_features(all_values(source)), unit)


def shuffled(rows: np.ndarray, train: int, test: int) -> tuple[np.ndarray, np.ndarray]:
    """So many training and test rows, drawn once and for all."""
    order = np.random.default_rng(0).permutation(len(rows))
    return rows[order[:train]], rows[order[train : train + test]]


def moons(root: Path, made: Path) -> SmallSet:
    from sklearn.datasets import make_moons

    return of_table(*shuffled(make_moons(3000, noise=0.06, random_state=0)[0], 2000, 1000))


def cancer(root: Path, made: Path) -> SmallSet:
    """569 × 30."""
    from sklearn.datasets import load_breast_cancer

    return of_table(*shuffled(load_breast_cancer().data, 400, 169))


def wine(root: Path, made: Path) -> SmallSet:
    """178 × 13."""
    from sklearn.datasets import load_wine

    return of_table(*shuffled(load_wine().data, 120, 58))


def of_digits(root: Path, made: Path) -> SmallSet:
    return SmallSet(digits("train"), digits("test"), digits_judge.features)


def etth1(root: Path, made: Path) -> SmallSet:
    """Windows of 32 hours of 7 columns: those of a year to train on, those of the four months after it held out."""
    values = np.loadtxt(root / "ETTh1.csv", delimiter=",", skiprows=1, usecols=range(1, 8))

    def windows(first: int, last: int, stride: int) -> np.ndarray:
        starts = range(first, last - HOURS + 1, stride)
        return np.stack([values[start : start + HOURS].T for start in starts])

    train, test = windows(0, 12 * MONTH, 4), windows(12 * MONTH, 16 * MONTH, 16)
    return of_series(train, test)


def volumes(root: Path, made: Path) -> SmallSet:
    """Four slices of 8 × 8 pixels, each another image of one digit."""

    def stacked(source: Arrays, count: int) -> Arrays:
        draw = torch.Generator().manual_seed(0)
        assert source.labels is not None
        own = [(source.labels == label).nonzero().flatten() for label in range(10)]
        chosen = [own[i % 10][torch.randperm(len(own[i % 10]), generator=draw)[:4]] for i in range(count)]
        return Arrays(torch.stack([source.raw[each, 0] for each in chosen]).unsqueeze(1), None, source.scaling)

    train, test = stacked(digits("train"), 1500), stacked(digits("test"), 256)
    return SmallSet(train, test, fourier_features(all_values(train)))


def halved(source: Arrays) -> Arrays:
    """Images of half the size, each pixel the mean of four."""
    small = F.avg_pool2d(source.raw.float(), 2).round().to(torch.uint8)
    return Arrays(small, source.labels, source.scaling)


@lru_cache
def of_cifar10(root: Path, half: bool) -> tuple[Arrays, Arrays, Callable[[Tensor], Tensor]]:
    pair = [npz(root / f"cifar10_{part}.npz") for part in ("train", "test")]
    train, test = (halved(each) if half else each for each in pair if isinstance(each, Arrays))
    return train, test, class_features(train)


def cifar10(root: Path, made: Path) -> SmallSet:
    train, test, features = of_cifar10(root, False)
    return SmallSet(train, some(test, 1000), features)


def pictures(root: Path, made: Path) -> SmallSet:
    """A folder of 600 files: CIFAR-10's cars at half their size. Features are of all ten classes."""
    train, test, features = of_cifar10(root, True)
    assert train.labels is not None and test.labels is not None
    folder = made / "pictures"
    if not (folder / f"{PICTURES - 1}.png").exists():
        folder.mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(train.raw[train.labels == 1][:PICTURES]):
            Image.fromarray(image.movedim(0, 2).numpy()).save(folder / f"{number}.png")
    return SmallSet(Images(folder), Arrays(test.raw[test.labels == 1], None, test.scaling), features)


def fashion(root: Path, made: Path) -> SmallSet:
    train, test = idx(FOLDER), idx(FOLDER, "test")
    return SmallSet(train, some(test, 1000), class_features(train))


def some(source: Arrays, count: int) -> Arrays:
    """So many samples, drawn once and for all."""
    chosen = torch.randperm(len(source), generator=torch.Generator().manual_seed(0))[:count]
    return Arrays(source.raw[chosen], None, source.scaling)


# By name, the cheapest first. `root` has the files of CIFAR-10 and ETTh1; what has to be written is written to `made`.
SETS: dict[str, Callable[[Path, Path], SmallSet]] = {
    "moons": moons,
    "wine": wine,
    "cancer": cancer,
    "digits": of_digits,
    "etth1": etth1,
    "pictures": pictures,
    "volumes": volumes,
    "fashion": fashion,
    "cifar10": cifar10,
}
VECTORS = ("moons", "wine", "cancer")
