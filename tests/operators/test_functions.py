"""Functions as measurements: their derivatives, what counts as linear, and objects in the manner of deepinv."""

import math
from typing import Any

import pytest
import torch
from deepinv_manner import PhasePhysics, Physics
from torch import Tensor

from sdescore.operators import Derivative, Matrix, Nonlinear, as_operator, linearised


def phase(x: Tensor) -> Tensor:
    """The moduli of Fourier coefficients, oversampled twice (phase retrieval)."""
    return torch.fft.rfft2(x, s=(2 * x.shape[-2], 2 * x.shape[-1])).abs()


def clipped(x: Tensor) -> Tensor:
    return (1.5 * x).clamp(-1, 1)


def jpeg(x: Tensor) -> Tensor:
    """Cosine coefficients of blocks of 4 x 4, rounded to multiples of 0.2 in a way that has a derivative."""
    k = torch.arange(4, dtype=x.dtype)
    basis = torch.cos(math.pi * k[:, None] * (k + 0.5) / 4)
    blocks = x.unflatten(-2, (-1, 4)).unflatten(-1, (-1, 4)).transpose(-3, -2)
    level = basis @ blocks @ basis.T / 0.2
    return 0.2 * (level - torch.sin(2 * math.pi * level) / (2 * math.pi))


FUNCTIONS = {"phase": phase, "clipping": clipped, "jpeg": jpeg}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_derivative_and_its_adjoint(function: Any) -> None:
    own = torch.Generator().manual_seed(2)
    x, v = torch.randn(2, 3, 1, 8, 8, generator=own, dtype=torch.float64)
    at = linearised(as_operator(function), x)
    assert isinstance(at, Derivative)
    h = 1e-6
    step = (function(x + h * v) - function(x - h * v)) / (2 * h)
    found = at.A(v)
    torch.testing.assert_close(found, step, rtol=1e-6, atol=1e-6)
    u = torch.randn(found.shape, generator=own, dtype=torch.float64)
    left, right = (found * u).flatten(1).sum(1), (v * at.A_adjoint(u)).flatten(1).sum(1)
    torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-10)


def test_objects_of_deepinv_serve_as_they_are() -> None:
    linear, curved = Physics(torch.eye(3)), PhasePhysics()
    assert as_operator(linear) is linear and linearised(linear, torch.zeros(1, 3)) is linear
    known = as_operator(curved)
    assert isinstance(known, Nonlinear)
    x, u = torch.randn(2, 4, 3)
    torch.testing.assert_close(linearised(known, x).A_adjoint(u), curved.A_vjp(x, u))
    torch.testing.assert_close(known.A_dagger(x.square()), x.abs())


def test_what_is_no_operator_is_named() -> None:
    matrix = Matrix(torch.eye(2))
    assert as_operator(matrix) is matrix
    with pytest.raises(TypeError, match="operator is 3; expected one with A, A_adjoint and A_dagger, or a function"):
        as_operator(3)

    class NoInverse:
        def A(self, x: Tensor) -> Tensor:
            return x

        def A_adjoint(self, y: Tensor) -> Tensor:
            return y

    with pytest.raises(TypeError, match="A_dagger"):
        as_operator(NoInverse())
    with pytest.raises(ValueError, match="without an inverse"):
        Nonlinear(clipped).A_dagger(torch.zeros(1))
