"""The trace of a Jacobian from its products with vectors: which vectors, and how the products are computed.

Hutchinson 1990: https://doi.org/10.1080/03610919008812866. Yu et al. 2016: https://arxiv.org/abs/1610.09072.
Meyer et al. 2021: https://arxiv.org/abs/2010.09649. Chen & Hallman 2023: https://arxiv.org/abs/2205.01736.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from sdescore.common.checks import check_count, choose
from sdescore.common.random import generator

__all__ = ["DERIVATIVES", "TRACES", "Trace", "find_trace", "hutch_plus_plus", "orthogonal"]

# Vectors whose products are computed together: more take memory and save no time.
CHUNK = 64

Function = Callable[[Tensor], Tensor]
# Of vectors w (count, rows, *shape): the function's value, and J' w or J w with the Jacobian J of each row. Either has
# the trace of J.
Product = Callable[[Tensor], tuple[Tensor, Tensor]]


def quadratic(product: Product, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """The value, and the sums (rows, groups) of v' J v over groups of vectors (groups, members, rows, *shape)."""
    parts = []
    for some in vectors.flatten(0, 1).split(CHUNK):
        value, images = product(some)
        parts.append((images * some).flatten(2).sum(2))
    return value, torch.cat(parts).unflatten(0, vectors.shape[:2]).sum(1).T


@dataclass(frozen=True)
class Trace:
    """An estimator of the trace of a Jacobian J: the mean of the estimates of independent groups of vectors.

    Args:
        draw: draw(size, probes, generator) gives the vectors (groups, members, size) of a sample with `size` elements.
            For the default estimate they need E[sum v v'] = I over each group.
        exact: Whether the estimate has no noise; the vectors then do not depend on the generator.
        estimate: estimate(product, vectors) gives the function's value, and from vectors (groups, members, rows,
            *shape) an estimate (rows, groups) of each group: by default the sum of v' J v.
    """

    draw: Callable[[int, int, torch.Generator], Tensor]
    exact: bool = False
    estimate: Callable[[Product, Tensor], tuple[Tensor, Tensor]] = quadratic

    def vectors(self, seed: int, first: int, like: Tensor, probes: int) -> Tensor:
        """Vectors (groups, members, batch, *shape) for samples `like` (batch, *shape), numbered from `first` on.

        Those of a sample depend on (seed, its number) alone.
        """
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
    """Groups of probes / groups orthogonal vectors, of length sqrt(size / members) and uniform over rotations.

    A group as large as the space is exact, a much smaller one gains little (Yu et al. 2016 on such frames). Drawing
    raises ValueError for probes that do not divide evenly, or for more than `size` of them in a group.
    """
    check_count("groups", groups)

    def draw(size: int, probes: int, generator: torch.Generator) -> Tensor:
        members = probes // groups
        if members * groups != probes or not 1 <= members <= size:
            raise ValueError(
                f"probes={probes}; orthogonal vectors come in {groups} groups of 1 to {size}: expected multiples of "
                f"{groups} up to {groups * size}"
            )
        # QR does not fix signs, on which v' J v does not depend.
        frames = torch.linalg.qr(torch.randn(groups, size, members, generator=generator, dtype=torch.float64)).Q
        return frames.mT * math.sqrt(size / members)

    return Trace(draw)


def _deflated(product: Product, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """As quadratic(), for Hutch++: half of a group's vectors find the large directions of J, half sample the rest.

    For a block S, the span of S and J S has the image of S under J - c I for every c. So the multiple of the identity
    in J, which the flow of a denoiser always has, hides no direction.
    """
    groups, half, rows = len(vectors), vectors.shape[1] // 2, vectors.shape[2]
    value, images = product(vectors[:, :half].flatten(0, 1))
    first, second, rest = vectors[:, :half], images.reshape(vectors[:, :half].shape), vectors[:, half:]
    # Normal vectors, made orthogonal to the others and to each other, are uniform over the remaining directions.
    found = torch.cat([first, second, rest], 1).flatten(3).permute(0, 2, 3, 1)
    frames = torch.linalg.qr(found).Q[..., half:].permute(0, 3, 1, 2).reshape(vectors.shape).flatten(0, 1)
    forms = (product(frames)[1] * frames).flatten(2).sum(2).reshape(groups, 2, half, rows).sum(2)
    known = (first * second).flatten(3).sum((1, 3)) + forms[:, 0]
    return value, (known + (vectors[0, 0, 0].numel() - 2 * half) / half * forms[:, 1]).T


def hutch_plus_plus(groups: int = 4) -> Trace:
    """The exact trace on a block Krylov space of J, and an unbiased estimate of the rest, in independent groups.

    Hutch++ (Meyer et al. 2021, algorithm 1) on the space of Chen & Hallman (2023): k = probes / (3 groups) directions,
    their images, and k directions orthogonal to both. Exact if J is a multiple of the identity plus a matrix of rank k,
    and good if J is close to that: with 48 products, on data near a space of 3 in 32 dimensions, it had 0.44 of the
    noise of signs. On a net of 8 x 8 digits signs had less. Drawing raises ValueError for probes that are not
    3 k groups, with 3 k at most the size of a sample.
    """
    check_count("groups", groups)

    def draw(size: int, probes: int, generator: torch.Generator) -> Tensor:
        third = probes // (3 * groups)
        if 3 * groups * third != probes or not 1 <= third <= size // 3:
            raise ValueError(
                f"probes={probes}; Hutch++ needs three products for each direction, in {groups} groups: expected "
                f"multiples of {3 * groups} up to {size // 3 * 3 * groups}"
            )
        drawn = torch.randn(groups, 2 * third, size, generator=generator)
        return torch.cat([torch.linalg.qr(drawn[:, :third].mT.double()).Q.mT, drawn[:, third:]], 1)

    return Trace(draw, estimate=_deflated)


TRACES: dict[str, Trace] = {
    "exact": Trace(_identity, exact=True),
    "hutchinson": Trace(_rademacher),  # Hutchinson 1990: signs have the least variance of independent entries
    "gaussian": Trace(_gaussian),  # Skilling 1989
    "orthogonal": orthogonal(),
    "hutch++": hutch_plus_plus(),
}


def find_trace(trace: str | Trace, probes: int) -> Trace:
    """A trace by its name, or as it is. Raises TypeError or ValueError for anything else, and for bad probes."""
    chosen = choose(TRACES, trace, "trace")
    if not isinstance(chosen, Trace):
        raise TypeError(f"trace is {trace!r}; expected {', '.join(map(repr, TRACES))} or a Trace")
    check_count("probes", probes)
    return chosen


def _reverse(function: Function, z: Tensor) -> Product:
    if torch.is_inference_mode_enabled():
        raise RuntimeError("a divergence is a derivative, and torch.inference_mode() has none; use no_grad()")
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        value = function(z)

    def product(vectors: Tensor) -> tuple[Tensor, Tensor]:
        if len(vectors) == 1:  # batched gradients take longer
            return value.detach(), torch.autograd.grad(value, z, vectors[0], retain_graph=True)[0][None]
        return value.detach(), torch.autograd.grad(value, z, vectors, is_grads_batched=True, retain_graph=True)[0]

    return product


def _forward(function: Function, z: Tensor) -> Product:
    def product(vectors: Tensor) -> tuple[Tensor, Tensor]:
        images = []
        # The fused kernels of attention have no forward derivative.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            for vector in vectors:
                try:
                    value, image = torch.func.jvp(function, (z,), (vector,))[:2]
                except NotImplementedError as error:
                    raise ValueError(
                        f"derivative='forward', but the net cannot: {error}; expected 'reverse'"
                    ) from error
                images.append(image)
        return value, torch.stack(images)

    return product


# From a function and z (rows, *shape), the products with the Jacobian of the function at z.
DERIVATIVES: Mapping[str, Callable[[Function, Tensor], Product]] = {
    "reverse": _reverse,  # vector-Jacobian products, all from one graph
    "forward": _forward,  # Jacobian-vector products, without a graph: slower, in less memory
}
