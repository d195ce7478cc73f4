"""Linear measurements y = A x: masks, downsampling, blurs, channels, Fourier coefficients, matrices, and compositions.

The protocol is that of deepinv's physics: A, A_adjoint and A_dagger on batches, so that such an object serves as it is.
To add one: a frozen class with A and A_adjoint, and A_dagger and svd where they have a closed form.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sdescore.common.checks import check_count
from sdescore.common.linear_combinations import dot, expand
from sdescore.operators.singular import SVD, hartley, unchanged, with_rows

__all__ = [
    "Blur",
    "Channels",
    "Composition",
    "Downsample",
    "Fourier",
    "LinearOperator",
    "Mask",
    "Matrix",
]


class LinearOperator(ABC):
    """A linear measurement of each sample of a batch. `P @ Q` measures by Q, and the result by P."""

    @abstractmethod
    def A(self, x: Tensor) -> Tensor:
        """The measurement (batch, *measured) of x (batch, *shape). Raises ValueError for samples that do not fit."""

    @abstractmethod
    def A_adjoint(self, y: Tensor) -> Tensor:
        """The adjoint: <A x, y> = <x, A_adjoint y>, of the shape of x."""

    def A_dagger(self, y: Tensor) -> Tensor:
        """The pseudo-inverse: the smallest x of those nearest to y, by conjugate gradients (Björck 1996, 7.4)."""
        residual = y
        direction = s = self.A_adjoint(y)
        x = torch.zeros_like(s)
        size = start = dot(s, s)
        for _ in range(s[0].numel()):
            if bool((size <= torch.finfo(s.dtype).eps ** 1.5 * start).all()):
                break
            image = self.A(direction)
            step = size / dot(image, image).clamp(min=torch.finfo(s.dtype).tiny)
            x = x + expand(step, x) * direction
            residual = residual - expand(step, image) * image
            s = self.A_adjoint(residual)
            before, size = size, dot(s, s)
            direction = s + expand(size / before.clamp(min=torch.finfo(s.dtype).tiny), s) * direction
        return x

    def __matmul__(self, other: "LinearOperator") -> "Composition":
        return Composition(self, other)


def _check(fits: bool, operator: LinearOperator, x: Tensor, expected: str) -> None:
    if not fits:
        raise ValueError(f"x has samples of shape {tuple(x.shape[1:])}; {type(operator).__name__} expects {expected}")


def _ones(shape: tuple[int, ...]) -> Tensor:
    return torch.ones(1, *shape, dtype=torch.float64)


def _coordinates(operator: LinearOperator, shape: tuple[int, ...], value: float) -> SVD:
    """Of an operator whose measurements are the coordinates, all of one singular value."""
    values = torch.full_like(operator.A(_ones(shape))[0], value)
    return SVD(operator, values, lambda z: operator.A_adjoint(z) / value, lambda x: operator.A(x) / value)


@dataclass(frozen=True)
class Composition(LinearOperator):
    """outer after inner."""

    outer: LinearOperator
    inner: LinearOperator

    def A(self, x: Tensor) -> Tensor:
        return self.outer.A(self.inner.A(x))

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.inner.A_adjoint(self.outer.A_adjoint(y))


@dataclass(frozen=True, eq=False)
class Matrix(LinearOperator):
    """y = matrix x, with matrix (measured, elements) and x flattened to vectors; vectors have one axis."""

    matrix: Tensor

    def __post_init__(self) -> None:
        if self.matrix.ndim != 2 or not bool(self.matrix.isfinite().all()):
            raise ValueError(f"matrix has shape {tuple(self.matrix.shape)}; expected (measured, elements), finite")

    def A(self, x: Tensor) -> Tensor:
        _check(x.ndim == 2 and x.shape[1] == self.matrix.shape[1], self, x, f"({self.matrix.shape[1]},)")
        return x @ self.matrix.to(x).T

    def A_adjoint(self, y: Tensor) -> Tensor:
        return y @ self.matrix.to(y)

    def A_dagger(self, y: Tensor) -> Tensor:
        return y @ torch.linalg.pinv(self.matrix.to(y)).T

    @cached_property
    def _singular(self) -> tuple[Tensor, Tensor]:
        return torch.linalg.svd(self.matrix.double(), full_matrices=False)[1:]

    def svd(self, shape: tuple[int, ...]) -> SVD:
        return with_rows(self, shape, *self._singular)


@dataclass(frozen=True, eq=False)
class Mask(LinearOperator):
    """y = mask x: known where mask is 1 and 0 elsewhere, of a sample's shape or one that broadcasts to it."""

    mask: Tensor

    def __post_init__(self) -> None:
        if not isinstance(self.mask, Tensor) or self.mask.is_meta or self.mask.is_complex():
            raise TypeError(f"mask is a {type(self.mask).__name__}; expected a tensor of zeros and ones, or booleans")
        if not bool(((self.mask == 0) | (self.mask == 1)).all()):
            raise ValueError("mask has other values; expected zeros and ones, or booleans")

    def A(self, x: Tensor) -> Tensor:
        fits = self.mask.ndim <= x.ndim - 1 and all(
            m in (1, n) for m, n in zip(reversed(self.mask.shape), reversed(x.shape), strict=False)
        )
        _check(fits, self, x, f"what its mask {tuple(self.mask.shape)} broadcasts to")
        return self.mask.to(x) * x

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.mask.to(y) * y

    def A_dagger(self, y: Tensor) -> Tensor:
        return self.mask.to(y) * y

    def svd(self, shape: tuple[int, ...]) -> SVD:
        return SVD(self, self.A(_ones(shape))[0], unchanged, unchanged)


@dataclass(frozen=True)
class Downsample(LinearOperator):
    """y = means over blocks of factor x factor x ... elements of the axes after the channels."""

    factor: int

    def __post_init__(self) -> None:
        check_count("factor", self.factor)

    def A(self, x: Tensor) -> Tensor:
        sizes = x.shape[2:]
        fits = len(sizes) > 0 and all(size % self.factor == 0 for size in sizes)
        _check(fits, self, x, f"(channels, *sizes), sizes that are multiples of {self.factor}")
        parts = [part for size in sizes for part in (size // self.factor, self.factor)]
        return x.reshape(*x.shape[:2], *parts).mean(tuple(range(3, 3 + 2 * len(sizes), 2)))

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.A_dagger(y) / self.factor ** (y.ndim - 2)

    def A_dagger(self, y: Tensor) -> Tensor:
        for axis in range(2, y.ndim):
            y = y.repeat_interleave(self.factor, axis)
        return y

    def svd(self, shape: tuple[int, ...]) -> SVD:
        return _coordinates(self, shape, self.factor ** (-(len(shape) - 1) / 2))


@dataclass(frozen=True, eq=False)
class Blur(LinearOperator):
    """y = kernel * x, a circular convolution over the axes after the channels; the kernel's middle is its origin."""

    kernel: Tensor

    def _response(self, x: Tensor) -> Tensor:
        """The kernel's Fourier transform at the sizes of x."""
        sizes, kernel = x.shape[2:], self.kernel.to(x)
        fits = kernel.ndim == len(sizes) and all(k <= n for k, n in zip(kernel.shape, sizes, strict=False))
        _check(fits, self, x, f"(channels, *sizes) with sizes of at least {tuple(kernel.shape)}")
        whole = x.new_zeros(sizes)
        whole[tuple(slice(k) for k in kernel.shape)] = kernel
        shifts = [-(k // 2) for k in kernel.shape]
        return torch.fft.fftn(whole.roll(shifts, tuple(range(len(sizes)))))

    def _filtered(self, x: Tensor, response: Tensor) -> Tensor:
        axes = tuple(range(2, x.ndim))
        return torch.fft.ifftn(torch.fft.fftn(x, dim=axes) * response, dim=axes).real

    def A(self, x: Tensor) -> Tensor:
        return self._filtered(x, self._response(x))

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self._filtered(y, self._response(y).conj())

    def A_dagger(self, y: Tensor) -> Tensor:
        response = self._response(y)
        least = math.sqrt(torch.finfo(y.dtype).eps) * response.abs().max()
        return self._filtered(y, torch.where(response.abs() > least, 1 / response, 0.0))

    def svd(self, shape: tuple[int, ...]) -> SVD:
        return SVD(self, self._response(_ones(shape)).abs().expand(shape), hartley, hartley)


@dataclass(frozen=True)
class Channels(LinearOperator):
    """y = the weighted sum of the channels, as one channel; by default grey from colour (ITU-R BT.601)."""

    weights: tuple[float, ...] = (0.299, 0.587, 0.114)

    def _factors(self, x: Tensor) -> Tensor:
        return x.new_tensor(self.weights).reshape(-1, *(1,) * (x.ndim - 2))

    def A(self, x: Tensor) -> Tensor:
        _check(x.ndim > 1 and x.shape[1] == len(self.weights), self, x, f"{len(self.weights)} channels first")
        return (self._factors(x) * x).sum(1, keepdim=True)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self._factors(y) * y

    def A_dagger(self, y: Tensor) -> Tensor:
        return self.A_adjoint(y) / sum(weight**2 for weight in self.weights)

    def svd(self, shape: tuple[int, ...]) -> SVD:
        return _coordinates(self, shape, math.hypot(*self.weights))


@dataclass(frozen=True, eq=False)
class Fourier(LinearOperator):
    """y = the unitary Fourier transform over the axes after the channels, where mask is 1: (batch, 2, *shape).

    The second axis holds real and imaginary parts.
    """

    mask: Tensor

    def A(self, x: Tensor) -> Tensor:
        _check(self.mask.shape == x.shape[2:], self, x, f"(channels, {', '.join(map(str, self.mask.shape))})")
        found = torch.fft.fftn(x, dim=tuple(range(2, x.ndim)), norm="ortho") * self.mask.to(x)
        return torch.stack([found.real, found.imag], 1)

    def A_adjoint(self, y: Tensor) -> Tensor:
        found = torch.complex(y[:, 0], y[:, 1]) * self.mask.to(y)
        return torch.fft.ifftn(found, dim=tuple(range(2, found.ndim)), norm="ortho").real

    def svd(self, shape: tuple[int, ...]) -> SVD:
        """A real x has a coefficient and its mirror image at once: together they count as two measurements of half."""
        kept = self.mask.to(_ones(shape))
        axes = tuple(range(kept.ndim))
        mirrored = kept.flip(axes).roll((1,) * kept.ndim, axes)
        return SVD(self, ((kept**2 + mirrored**2) / 2).sqrt().expand(shape), hartley, hartley)
