"""How far a set of samples is from a set of data."""

from collections.abc import Iterator

import torch
from torch import Tensor

from sdescore.common.checks import check_count, check_integer, check_seed, check_tensor
from sdescore.common.random import generator

__all__ = ["frechet_distance", "kernel_distance", "nearest", "precision_recall", "sliced_wasserstein"]

BLOCK = 512  # rows of the tables of distances, which are never whole


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean (d,) and a factor r (min(n, d), d) of the covariance r' r."""
    mean = x.mean(0)
    return mean, torch.linalg.qr((x - mean) / (len(x) - 1) ** 0.5, mode="r").R


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """The squared Fréchet distance of the Gaussians with the means and covariances of two sets of features.

    |m1 - m2|^2 + tr(C1) + tr(C2) - 2 tr((C1 C2)^(1/2)) (Dowson & Landau 1982; Heusel et al. 2017, eq. 6). Small sets
    are far from everything: compare distances between sets of equal size, each much larger than d.

    first and second are (n, d), n of at least 2, which may differ; ValueError for others and for what is not finite.
    """
    (mean1, root1), (mean2, root2) = map(_moments, _pair((2, 2), first=first, second=second))
    # With C = r' r the last trace is the sum of the singular values of r1 r2': real, and exact for singular ones too.
    shared = torch.linalg.svdvals(root1 @ root2.T).sum()
    separate = (mean1 - mean2).square().sum() + root1.square().sum() + root2.square().sum()
    return max(float(separate - 2 * shared), 0.0)


def _checked(features: Tensor, name: str, least: int) -> Tensor:
    check_tensor(name, features, "(n, d)")
    if features.ndim != 2 or len(features) < least:
        raise ValueError(f"{name} has shape {tuple(features.shape)}; expected (n, d) with n of at least {least}")
    x = features.to(torch.float64)
    bad = int((~x.isfinite()).any(1).sum())
    if bad:
        raise ValueError(f"{name} is not finite in {bad} of its {len(x)} rows")
    return x


def _pair(least: tuple[int, int], **sets: Tensor) -> tuple[Tensor, Tensor]:
    """Two sets in float64 on the device of the first; errors call them what the caller's arguments are called."""
    (name, first), (other, second) = sets.items()
    x, y = _checked(first, name, least[0]), _checked(second, other, least[1]).to(first.device)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"{name} has {x.shape[1]} columns and {other} {y.shape[1]}; expected equal numbers")
    return x, y


def kernel_distance(first: Tensor, second: Tensor, groups: int = 20) -> tuple[float, float]:
    """The unbiased estimate of the squared kernel distance of two sets of features, and its standard error.

    The kernel is (x.y / d + 1)^3 (Binkowski et al. 2018, sec. 4), the estimate the U-statistic over all pairs: its mean
    does not depend on the sizes of the sets, as the Fréchet distance's does, and it may be below 0. The error is the
    jackknife's over `groups` parts of both sets, sample i in part i mod groups.

    Args:
        first, second: Features (n, d); n of at least 2 groups, and may differ between the sets.

    Raises ValueError for other shapes and for features that are not finite.
    """
    check_integer("groups", groups, 2)
    x, y = _pair((2 * groups, 2 * groups), first=first, second=second)
    xx, yy, xy = _kernel_sums(x, x, groups), _kernel_sums(y, y, groups), _kernel_sums(x, y, groups)
    for sums, own in ((xx, x), (yy, y)):  # a sample is no pair with itself
        sums.diagonal().sub_(_group_sums((own.square().sum(1) / own.shape[1] + 1) ** 3, groups))
    n, m = (_group_sums(torch.ones(len(own)).to(own), groups) for own in (x, y))

    def estimate(keep: Tensor) -> float:
        a, b = n[keep].sum(), m[keep].sum()
        within = xx[keep][:, keep].sum() / (a * (a - 1)) + yy[keep][:, keep].sum() / (b * (b - 1))
        return float(within - 2 * xy[keep][:, keep].sum() / (a * b))

    everything = torch.arange(groups, device=x.device)
    without = torch.tensor([estimate(everything[everything != g]) for g in range(groups)], dtype=torch.float64)
    error = ((groups - 1) * without.var(correction=0)) ** 0.5
    return estimate(everything), float(error)


def _group_sums(values: Tensor, groups: int) -> Tensor:
    """Sums (groups, ...) of values (n, ...), i in group i mod groups."""
    where = torch.arange(len(values), device=values.device) % groups
    return values.new_zeros(groups, *values.shape[1:]).index_add_(0, where, values)


def _kernel_sums(x: Tensor, y: Tensor, groups: int) -> Tensor:
    """The kernel summed over the pairs of each group of x with each of y, (groups, groups)."""
    total = x.new_zeros(groups, groups)
    size = BLOCK - BLOCK % groups  # so that numbers within a block have the groups of numbers in the whole
    for a in x.split(size):
        for b in y.split(size):
            kernel = (a @ b.T / x.shape[1] + 1) ** 3
            total += _group_sums(_group_sums(kernel, groups).T, groups).T
    return total


def precision_recall(real: Tensor, samples: Tensor, neighbours: int = 3) -> tuple[float, float]:
    """Precision and recall of samples against real data (Kynkäänniemi et al. 2019, eq. 1-3).

    A set's manifold is taken as the union of balls around its features, each as large as the distance to its k-th
    neighbour in the set. Precision is the share of the samples inside the real manifold, recall that of the real data
    inside the samples'. Both depend on the sizes of the sets: compare sets of one size.

    real and samples are (n, d) with n of more than k, `neighbours`; ValueError for others and for what is not finite.
    """
    check_count("neighbours", neighbours)
    x, y = _pair((neighbours + 1, neighbours + 1), real=real, samples=samples)
    x, y = x - x.mean(0), y - x.mean(0)  # closer to 0, where squared distances round less
    return _inside(y, x, neighbours), _inside(x, y, neighbours)


def _inside(points: Tensor, centres: Tensor, neighbours: int) -> float:
    """The share of points in a ball around some centre that reaches to its k-th neighbour."""
    radii = torch.cat([found[:, -1] for found, _ in _nearest(centres, centres, neighbours, True)])
    slack = 1e-6 * float(radii.max())  # distances by matrix products round: a copy is inside a ball of radius 0
    inside = [(torch.cdist(block, centres) <= radii + slack).any(1) for block in points.split(BLOCK)]
    return float(torch.cat(inside).double().mean())


def _nearest(x: Tensor, y: Tensor, count: int, same: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
    """Distances and numbers (block, count) of the nearest in y of each x, a block at a time; same leaves out itself."""
    for start in range(0, len(x), BLOCK):
        distances = torch.cdist(x[start : start + BLOCK], y)
        if same:
            own = torch.arange(len(distances), device=x.device)
            distances[own, start + own] = float("inf")
        found = distances.topk(count, largest=False)
        yield found.values, found.indices


def nearest(samples: Tensor, data: Tensor, count: int = 1) -> tuple[Tensor, Tensor]:
    """Euclidean distances (n, count), float64, and numbers (n, count) of the samples' nearest neighbours in data.

    samples are (n, d), data (m, d) with m of at least count; ValueError for others and for what is not finite.
    """
    check_count("count", count)
    x, y = _pair((1, count), samples=samples, data=data)
    found = list(_nearest(x, y, count))
    return torch.cat([distances for distances, _ in found]), torch.cat([numbers for _, numbers in found])


def sliced_wasserstein(
    first: Tensor, second: Tensor, projections: int = 1000, seed: int = 0, order: int = 2
) -> tuple[float, float]:
    """The sliced Wasserstein distance (Bonneel et al. 2015), and its standard error over the random projections.

    The p-th root, p the order, of the mean over directions that are uniform on the sphere of the p-th power of the
    p-Wasserstein distance of the projected sets: exact on a line, where sorting solves it, also for sets of different
    sizes.

    Args:
        first, second: (n, d); n may differ between the sets.
        projections: Number of directions.
        seed: Of the directions.
        order: 1 weighs a little mass that is far away less than 2 does.

    Raises ValueError for other shapes and for values that are not finite.
    """
    x, y = _pair((1, 1), first=first, second=second)
    check_integer("projections", projections, 2)
    check_integer("order", order, 1)
    check_seed(seed)
    draw = generator("sliced wasserstein", seed, device="cpu")
    directions = torch.randn(projections, x.shape[1], generator=draw, dtype=torch.float64).to(x.device)
    directions = directions / directions.norm(dim=1, keepdim=True)
    # Between two neighbouring multiples of 1/n or 1/m both quantile functions are constant.
    n, m = len(x), len(y)
    ends = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique()  # times n m, so integers
    widths = torch.diff(ends, prepend=ends.new_zeros(1)).to(x) / (n * m)
    at_x, at_y = ((ends - 1) // m).to(x.device), ((ends - 1) // n).to(x.device)
    powers = []
    for some in directions.split(64):
        u, v = (some @ x.T).sort(1).values, (some @ y.T).sort(1).values
        powers.append(((u[:, at_x] - v[:, at_y]).abs().pow(order) * widths).sum(1))
    power = torch.cat(powers)
    value = float(power.mean()) ** (1 / order)
    return value, float(power.std()) / projections**0.5 / max(order * value ** (order - 1), 1e-300)
