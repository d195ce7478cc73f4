"""The trace of a Jacobian from products with vectors: what the vectors are, and how the products are made."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from sdescore.noise import generator

__all__ = ["DERIVATIVES", "TRACES", "GaussianFit", "Trace", "orthogonal"]

# Vectors whose products are made at the same time: more cost memory and save nothing.
CHUNK = 64


@dataclass(frozen=True)
class Trace:
    """An estimator: the mean over independent groups of the sum of v' J v over the group's vectors v.

    draw(size, probes, generator) gives the vectors (groups, members, size) of one sample, with E[sum v v'] = I for
    every group; where it is exact they do not depend on the generator.
    """

    draw: Callable[[int, int, torch.Generator], Tensor]
    exact: bool = False

    def vectors(self, seed: int, first: int, like: Tensor, probes: int) -> Tensor:
        """(groups, members, batch, *shape) for the samples `like`; those of a sample depend on (seed, its number)."""
        count = 1 if self.exact else len(like)
        own = (generator("probe", seed, first + i) for i in range(count))
        drawn = torch.stack([self.draw(like[0].numel(), probes, each) for each in own], 2)
        return drawn.to(like).reshape(*drawn.shape[:3], *like.shape[1:]).expand(-1, -1, *like.shape)


def _identity(size: int, probes: int, generator: torch.Generator) -> Tensor:
    return torch.eye(size).unsqueeze(0)


def _rademacher(size: int, probes: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, (probes, 1, size), generator=generator) * 2.0 - 1


def _gaussian(size: int, probes: int, generator: torch.Generator) -> Tensor:
    return torch.randn(probes, 1, size, generator=generator)


def orthogonal(groups: int = 4) -> Trace:
    """Independent frames of orthogonal vectors of length sqrt(size), uniform over rotations; probes / groups each.

    A frame as large as the space is exact, one much smaller gains little (Yu et al. 2016 on such frames).
    """

    def draw(size: int, probes: int, generator: torch.Generator) -> Tensor:
        members = probes // groups
        if members * groups != probes or not 1 <= members <= size:
            raise ValueError(
                f"probes={probes}; orthogonal vectors come in {groups} groups of 1 to {size}: valid are multiples of "
                f"{groups} up to {groups * size}"
            )
        # The signs that QR leaves open do not matter to v' J v.
        frames = torch.linalg.qr(torch.randn(groups, size, members, generator=generator, dtype=torch.float64)).Q
        return frames.mT * math.sqrt(size / members)

    return Trace(draw)


TRACES: dict[str, Trace] = {
    "exact": Trace(_identity, exact=True),
    "hutchinson": Trace(_rademacher),  # Hutchinson 1990: signs have the least variance of independent entries
    "gaussian": Trace(_gaussian),  # Skilling 1989
    "orthogonal": orthogonal(),
}


Products = Callable[[Callable[[Tensor], Tensor], Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def _reverse(function: Callable[[Tensor], Tensor], z: Tensor, vectors: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        value = function(z)
    products = []
    for start in range(0, len(vectors), CHUNK):
        chunk = vectors[start : start + CHUNK, rows]
        single, last = len(chunk) == 1, start + CHUNK >= len(vectors)
        # One vector needs no batching of gradients, which costs time.
        given = chunk[0] if single else chunk
        (gradient,) = torch.autograd.grad(value, z, given, is_grads_batched=not single, retain_graph=not last)
        products.append((gradient * chunk).flatten(2).sum(2))
    return value.detach(), torch.cat(products)


def _forward(function: Callable[[Tensor], Tensor], z: Tensor, vectors: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    products = []
    # The fused kernels of attention have no forward derivative.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        for vector in vectors:
            chosen = vector[rows]
            try:
                value, product = torch.func.jvp(function, (z,), (chosen,))[:2]
            except NotImplementedError as error:
                raise ValueError(f"derivative='forward', but the net cannot: {error}; valid is 'reverse'") from error
            products.append((product * chosen).flatten(1).sum(1))
    return value, torch.stack(products)


# function(z) (rows, *shape) and v' J v (vectors, rows) for the rows of vectors (vectors, batch, *shape).
DERIVATIVES: Mapping[str, Products] = {
    "reverse": _reverse,  # one graph, a vector-Jacobian product for each vector
    "forward": _forward,  # a Jacobian-vector product for each vector, without a graph: slower, in less memory
}


@dataclass(frozen=True)
class GaussianFit:
    """The normal distribution with the mean and the covariance of data, for which all that is estimated is known.

    What the estimate would be for it, less what it is known to be, is a control variate: it leaves the mean as it is
    and takes off the noise that the covariance explains, at no net call.

    Args:
        mean: (size,), size the elements of a sample.
        basis: (size, size), its columns the principal directions.
        variances: (size,), those along the directions.
    """

    mean: Tensor
    basis: Tensor
    variances: Tensor

    @staticmethod
    def of(data: Tensor) -> "GaussianFit":
        """Fit to data (batch, *shape) in model scale. Raises ValueError for fewer than two samples."""
        if data.ndim < 2 or len(data) < 2:
            raise ValueError(f"data has shape {tuple(data.shape)}; valid is (batch, *shape) with at least two samples")
        rows = data.flatten(1).to(torch.float64)
        variances, basis = torch.linalg.eigh(rows.T.cov().reshape(rows.shape[1], -1))
        # Too few samples leave directions without variance, which no net believes.
        return GaussianFit(rows.mean(0), basis, variances.clamp(min=1e-4 * float(variances.mean())))

    def excess(self, vectors: Tensor, start: float, stop: float) -> Tensor:
        """By how much each group (groups, batch) of vectors overestimates the log-volume change from lam to lam."""
        near, far = (self._variance(lam) for lam in (start, stop))
        growth = (far / near).log() / 2
        along = (vectors.flatten(3).to(self.basis) @ self.basis).square()
        return (along @ growth).sum(1) - growth.sum()

    def _variance(self, lam: float) -> Tensor:
        share = torch.sigmoid(torch.tensor(2 * lam, dtype=torch.float64))
        return share * self.variances + (1 - share)
