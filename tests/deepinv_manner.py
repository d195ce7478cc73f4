"""Measurements with the methods and arguments that objects of deepinv.physics have."""

from typing import Any

import torch
from torch import Tensor, nn


class Physics(nn.Module):
    """The manner of deepinv.physics.LinearPhysics: called, it adds noise; A_dagger takes a start."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)
        self.matrix: Tensor

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        return self.A(x, **kwargs) + torch.randn(1)

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        return x @ self.matrix.T

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        return y @ self.matrix

    def A_dagger(self, y: Tensor, x_init: Tensor | None = None) -> Tensor:
        return y @ torch.linalg.pinv(self.matrix).T

    def A_vjp(self, x: Tensor, v: Tensor) -> Tensor:
        return self.A_adjoint(v)

    def A_adjoint_A(self, x: Tensor, **kwargs: Any) -> Tensor:
        return self.A_adjoint(self.A(x))


class PhasePhysics(nn.Module):
    """The manner of deepinv.physics.PhaseRetrieval, whose A_adjoint is an initial guess and no adjoint."""

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        return x.square()

    def A_dagger(self, y: Tensor, **kwargs: Any) -> Tensor:
        return y.clamp(min=0).sqrt()

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        return self.A_dagger(y)

    def A_vjp(self, x: Tensor, v: Tensor) -> Tensor:
        return 2 * x * v
