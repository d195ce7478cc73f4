"""Nonlinear measurements: any function, with the derivative at a point as a linear operator."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sdescore.operators.singular import Operator

__all__ = ["Derivative", "Nonlinear", "as_operator", "linearised"]


@dataclass(frozen=True)
class Nonlinear:
    """y = function(x), for any function of batches that treats samples apart and that torch can differentiate.

    dagger is an inverse of it, or nearly one, for methods that ask for A_dagger.
    """

    function: Callable[[Tensor], Tensor]
    dagger: Callable[[Tensor], Tensor] | None = None

    def A(self, x: Tensor) -> Tensor:
        return self.function(x)

    def A_dagger(self, y: Tensor) -> Tensor:
        if self.dagger is None:
            raise ValueError(f"operator is {self!r}, without an inverse; expected Nonlinear(function, dagger)")
        return self.dagger(y)


@dataclass(frozen=True)
class Derivative:
    """The derivative of a function at x: products with the Jacobian as A, with its transpose as A_adjoint."""

    function: Callable[[Tensor], Tensor]
    x: Tensor

    def A(self, v: Tensor) -> Tensor:
        # J^T u is linear in u, and its derivative by u is J.
        with torch.enable_grad():
            u = torch.zeros_like(self.function(self.x.detach())).requires_grad_()
            (product,) = torch.autograd.grad(self._pulled(u, True), u, v, create_graph=self._wanted(v))
        return product

    def A_adjoint(self, u: Tensor) -> Tensor:
        with torch.enable_grad():
            return self._pulled(u, self._wanted(u))

    def _pulled(self, u: Tensor, keep: bool) -> Tensor:
        at = self.x if self.x.requires_grad else self.x.detach().requires_grad_()
        (product,) = torch.autograd.grad(self.function(at), at, u, create_graph=keep)
        return product

    def _wanted(self, v: Tensor) -> bool:
        return self.x.requires_grad or v.requires_grad


def as_operator(operator: Any) -> Operator | Nonlinear:
    """An operator as it is, and a function as a Nonlinear one. Raises TypeError for anything else.

    deepinv's nonlinear physics are functions A here: what they call A_adjoint is no adjoint, and they lack A_adjoint_A.
    """
    measures, adjoint, inverse = (callable(getattr(operator, name, None)) for name in ("A", "A_adjoint", "A_dagger"))
    curved = hasattr(operator, "A_vjp") and not hasattr(operator, "A_adjoint_A")
    if isinstance(operator, Nonlinear) or (measures and adjoint and inverse and not curved):
        return operator
    if measures and (curved or not adjoint):
        return Nonlinear(operator.A, operator.A_dagger if inverse else None)
    if callable(operator) and not measures:
        return Nonlinear(operator)
    raise TypeError(f"operator is {operator!r}; expected one with A, A_adjoint and A_dagger, or a function")


def linearised(operator: Operator | Nonlinear, x: Tensor) -> Operator | Derivative:
    """What has A and A_adjoint: a linear operator itself, the derivative of another at x (batch, *shape)."""
    return Derivative(operator.function, x) if isinstance(operator, Nonlinear) else operator
