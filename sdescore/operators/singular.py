"""Singular value decompositions A = U diag(s) V^T of linear measurements, in closed form or by the operator's matrix.

The names are those of deepinv's DecomposablePhysics, `mask` for s among them, so that such an object serves as it is.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

__all__ = ["SVD", "Operator", "Singular", "decomposed", "hartley", "matrix_of", "unchanged", "with_rows"]


class Operator(Protocol):
    """What measures: x (batch, *shape) to y (batch, *measured), its adjoint and its pseudo-inverse."""

    def A(self, x: Tensor) -> Tensor: ...

    def A_adjoint(self, y: Tensor) -> Tensor: ...

    def A_dagger(self, y: Tensor) -> Tensor: ...


@runtime_checkable
class Singular(Protocol):
    """Coordinates z (batch, *coordinates) in which A multiplies by `mask`: A x = U(mask * V_adjoint(x))."""

    @property
    def mask(self) -> Tensor:
        """The singular values, of the shape of z or one that broadcasts to it."""
        ...

    def U(self, z: Tensor) -> Tensor: ...

    def U_adjoint(self, y: Tensor) -> Tensor: ...

    def V(self, z: Tensor) -> Tensor: ...

    def V_adjoint(self, x: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class SVD:
    """A decomposition of an operator from `mask`, V and V_adjoint; U follows, and is 0 along z where mask is.

    The columns of V are orthonormal. They need not be complete: A is 0 on what is orthogonal to them.
    """

    operator: Operator
    mask: Tensor
    V: Callable[[Tensor], Tensor]
    V_adjoint: Callable[[Tensor], Tensor]

    def U(self, z: Tensor) -> Tensor:
        return self.operator.A(self.V(self._over(z)))

    def U_adjoint(self, y: Tensor) -> Tensor:
        return self._over(self.V_adjoint(self.operator.A_adjoint(y)))

    def _over(self, z: Tensor) -> Tensor:
        mask = self.mask.to(z)
        seen = mask > 1e-10 * mask.max()  # less is rounding
        return torch.where(seen, z / mask.where(seen, 1.0), 0.0)


def unchanged(x: Tensor) -> Tensor:
    return x


def hartley(x: Tensor) -> Tensor:
    """The Hartley transform over the axes after the channels: real, orthonormal, and its own inverse (Hartley 1942).

    Convolutions with a symmetric kernel are diagonal in it.
    """
    found = torch.fft.fftn(x, dim=tuple(range(2, x.ndim)), norm="ortho")
    return found.real - found.imag


def matrix_of(operator: Operator, shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    """The matrix (measured, elements) of a linear operator on samples of a shape. Raises ValueError for another.

    It measures every unit vector at once: for small problems.
    """
    size = math.prod(shape)
    unit = torch.eye(size, dtype=dtype)
    found = operator.A(unit.reshape(size, *shape)).flatten(1).to(dtype).T
    probe = torch.linspace(-1, 2, size, dtype=dtype)
    direct = operator.A(probe.reshape(1, *shape)).flatten()
    if not torch.allclose(found @ probe, direct.to(dtype), rtol=1e-4, atol=1e-6):
        raise ValueError(f"operator is {operator!r}, which is not linear")
    return found


def decomposed(operator: Operator, shape: tuple[int, ...]) -> Singular:
    """The decomposition of a linear operator on samples of a shape.

    By svd(shape), or by its own U, U_adjoint, V, V_adjoint and mask if V keeps lengths; otherwise by its matrix, for
    small problems. Raises ValueError for an operator that is not linear.
    """
    if hasattr(operator, "svd"):
        found: Singular = operator.svd(shape)
        return found
    if isinstance(operator, Singular) and _keeps_lengths(operator, shape):
        return operator
    matrix = matrix_of(operator, shape, _dtype(operator)).double()
    return with_rows(operator, shape, *torch.linalg.svd(matrix, full_matrices=False)[1:])


def _dtype(operator: object) -> torch.dtype:
    """What deepinv's physics compute in, which they have buffers of."""
    held = [each.dtype for each in operator.buffers()] if isinstance(operator, nn.Module) else []
    return held[0] if held else torch.float64


def with_rows(operator: Operator, shape: tuple[int, ...], values: Tensor, rows: Tensor) -> SVD:
    """The decomposition with singular values (k,) and right singular vectors (k, elements)."""
    return SVD(operator, values, lambda z: (z @ rows.to(z)).reshape(-1, *shape), lambda x: x.flatten(1) @ rows.to(x).T)


def _keeps_lengths(operator: Singular, shape: tuple[int, ...]) -> bool:
    """Half a spectrum, which deepinv has for blurs, does not."""
    z = operator.V_adjoint(torch.linspace(-1, 2, math.prod(shape)).reshape(1, *shape))
    return not z.is_complex() and torch.allclose(operator.V(z).norm(), z.norm(), rtol=1e-4)
