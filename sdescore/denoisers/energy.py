"""Energy nets: a scalar E(x, ...) whose negative gradient is a score."""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sdescore.common.checks import check_returned_numbers
from sdescore.common.linear_combinations import expand
from sdescore.denoisers.conversions import PREDICTIONS
from sdescore.denoisers.denoiser import Denoiser, per_sample, state_like

__all__ = ["Distance", "Energy", "log_density"]


def _module(net: nn.Module) -> nn.Module:
    if not isinstance(net, nn.Module):
        raise TypeError(
            f"net is a {type(net).__name__}; expected a torch module, which can be trained, moved and saved"
        )
    return net


def differentiable_twice(wanted: bool) -> AbstractContextManager[None]:
    """A context for nets whose gradient is differentiated again: fused attention has no second derivative."""
    return sdpa_kernel(SDPBackend.MATH) if wanted else nullcontext()


class Energy(nn.Module):
    """A scalar net as a score net: p(x) ~ exp(-beta E(x)), force = -grad E and score = beta force.

    Called with the arguments of the scalar net, it returns the score, of the shape of x, and serves as any score net
    does: energy(x), energy(x, t), Denoiser(energy, sde), sample(sde, energy), log_likelihood(sde, energy, x). The score
    can be differentiated again, by x and by the parameters, unless gradients are switched off.

    Args:
        net: Maps x (batch, *shape) and further arguments to energies (batch,); no row may depend on another.
        beta: The inverse temperature, positive: above 1 the samples concentrate at low energies.

    Raises TypeError for a net that is no module and ValueError for a beta that is not positive. When called, raises
    ValueError if the net returns another shape, and RuntimeError under torch.inference_mode(), which has no gradients.
    """

    predicts = "score"

    def __init__(self, net: nn.Module, beta: float = 1.0) -> None:
        super().__init__()
        if not 0 < beta < math.inf:
            raise ValueError(f"beta={beta}; expected a positive inverse temperature")
        self.net = _module(net)
        self.beta = float(beta)

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments, for saving."""
        return {"net": self.net, "beta": self.beta}

    def energy(self, x: Tensor, *args: Any, **condition: Any) -> Tensor:
        """E(x), (batch,)."""
        return check_returned_numbers(self.net(x, *args, **condition), x, "the energy net")

    def log_density(self, x: Tensor, *args: Any, **condition: Any) -> Tensor:
        """-beta E(x), (batch,): the natural-log density up to a constant that does not depend on x."""
        return -self.beta * self.energy(x, *args, **condition)

    def force(self, x: Tensor, *args: Any, **condition: Any) -> Tensor:
        """-grad E(x), of the shape of x."""
        if torch.is_inference_mode_enabled():
            raise RuntimeError("an Energy's score is a gradient, and torch.inference_mode() has none; use no_grad()")
        wanted = torch.is_grad_enabled()
        with torch.enable_grad(), differentiable_twice(wanted):
            # x stays in the caller's graph if it is in one; otherwise the gradient needs a leaf of its own.
            at = x if x.requires_grad and wanted else x.detach().requires_grad_()
            total = self.energy(at, *args, **condition).sum()
            if not total.requires_grad:  # an energy that is the same everywhere
                return torch.zeros_like(x)
            (gradient,) = torch.autograd.grad(total, at, create_graph=wanted, allow_unused=True, materialize_grads=True)
        return -gradient

    def forward(self, x: Tensor, *args: Any, **condition: Any) -> Tensor:
        return self.beta * self.force(x, *args, **condition)


class Distance(nn.Module):
    """The scalar ||x - f(x, ...)||^2 / 2 of a net f whose output has the shape of x (Salimans & Ho 2021, section 3)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = _module(net)

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments, for saving."""
        return {"net": self.net}

    def forward(self, x: Tensor, *args: Any, **condition: Any) -> Tensor:
        return (x - self.net(x, *args, **condition)).flatten(1).square().sum(1) / 2


def log_density(denoiser: Denoiser, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
    """Unnormalised log p_t(x), (batch,), of a denoiser around an Energy, whatever it predicts; one call of the energy.

    Its gradient by x is denoiser.score(x, t), which is linear in x and in the energy's gradient and so integrable. x is
    (batch, *shape), t is () or (batch,). Raises TypeError for another net, ValueError for times and shapes that do not
    fit.
    """
    energy = denoiser.net
    if not isinstance(energy, Energy):
        raise TypeError(f"denoiser.net is a {type(energy).__name__}; expected an Energy, whose score is a gradient")
    denoiser.check(x, t)
    coefficients = denoiser.coefficients(t, *PREDICTIONS["score"](denoiser.sde, t, denoiser.data_std))
    scale, level, of_x, of_net = (per_sample(c, x) for c in coefficients)
    like = state_like(energy)
    y = (expand(scale, x) * x).to(x.dtype if like is None else like.dtype)
    return of_x * x.flatten(1).square().sum(1) / 2 + of_net / scale * energy.log_density(y, level, **condition).to(x)
