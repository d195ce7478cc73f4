"""The smallest residual of a batch of systems over few products, each row with its own (Saad & Schultz 1986, GMRES)."""

from collections.abc import Callable

import torch
from torch import Tensor

from sdescore.common.linear_combinations import dot, expand

__all__ = ["minimal_residuals"]


def minimal_residuals(apply: Callable[[Tensor], Tensor], b: Tensor, iterations: int) -> Tensor:
    """u of apply(u) = b (batch, *shape) for any map of each row: the smallest residual that so many products reach.

    Exact after as many products as a row has elements, or as the map has eigenvalues.
    """
    count = min(iterations, b[0].numel())
    size = dot(b, b).sqrt()
    basis = [expand(1 / size.where(size > 0, 1.0), b) * b]
    columns = []
    for _ in range(count):
        image = apply(basis[-1])
        scale = dot(image, image)
        column = [torch.zeros_like(size) for _ in range(count + 1)]
        for _ in range(2):  # once more, for what rounding left
            for j, q in enumerate(basis):
                along = dot(q, image)
                column[j] = column[j] + along
                image = image - expand(along, q) * q
        left = dot(image, image)
        new = left > (100 * torch.finfo(b.dtype).eps) ** 2 * scale
        column[len(basis)] = torch.where(new, left.where(new, 1.0).sqrt(), 0.0)
        columns.append(torch.stack(column, 1))
        basis.append(expand(torch.where(new, 1 / left.where(new, 1.0).sqrt(), 0.0), image) * image)
        if not bool(new.any()):
            break
    hessenberg = torch.stack(columns, 2)
    finite = hessenberg.isfinite().all(2).all(1)[:, None, None]  # a row that is not spoils itself alone
    first = torch.linalg.pinv(hessenberg.where(finite, 0.0)).where(finite, torch.nan)[:, :, 0] * size[:, None]
    u = torch.zeros_like(b)
    for k in range(len(columns)):
        u = u + expand(first[:, k], b) * basis[k]
    return u
