"""Noise added on the way: from time t back to a noisier u. Churn, ancestral steps and restarts are made of it."""

from torch import Tensor

from sdescore.processes import LinearSDE

__all__ = ["at_rho", "renoising"]


def renoising(sde: LinearSDE, t: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """kept and added, of the shape of t, of x_u = kept x_t + added z: from the law at t to that at u >= t."""
    alpha = sde.alpha(u)
    return alpha / sde.alpha(t), alpha * (sde.rho(u) ** 2 - sde.rho(t) ** 2).clamp(min=0).sqrt()


def at_rho(sde: LinearSDE, rho: Tensor) -> Tensor:
    """The times of noise-to-signal ratios, of their shape, or the nearest in [t_min, T]."""
    lowest = sde.rho(rho.new_tensor(sde.t_min))
    return sde.time(-rho.maximum(lowest).log()).clamp(sde.t_min, sde.T)
