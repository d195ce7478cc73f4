"""What is measured, y = A(x): masks, downsampling, blurs, channels, Fourier coefficients, matrices, their compositions,
and any function. The protocol is that of deepinv's physics, so that such an object serves as it is."""

from sdescore.operators.linear import (
    Blur,
    Channels,
    Composition,
    Downsample,
    Fourier,
    LinearOperator,
    Mask,
    Matrix,
    Operator,
    matrix_of,
)
from sdescore.operators.nonlinear import Derivative, Nonlinear, as_operator, linearised

__all__ = [
    "Blur",
    "Channels",
    "Composition",
    "Derivative",
    "Downsample",
    "Fourier",
    "LinearOperator",
    "Mask",
    "Matrix",
    "Nonlinear",
    "Operator",
    "as_operator",
    "linearised",
    "matrix_of",
]
