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
)
from sdescore.operators.nonlinear import Derivative, Nonlinear, as_operator, linearised
from sdescore.operators.singular import SVD, Operator, Singular, decomposed, matrix_of

__all__ = [
    "SVD",
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
    "Singular",
    "as_operator",
    "decomposed",
    "linearised",
    "matrix_of",
]
