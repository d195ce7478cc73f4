"""What a net may predict, and the coefficients that converting it takes, by autograd."""

import torch
from torch import Tensor

from sdescore import LinearSDE

KINDS = ["data", "noise", "score", "v", "velocity", "edm"]
DATA_STD = 0.6


def coefficients(sde: LinearSDE, t: Tensor) -> dict[str, Tensor]:
    """alpha, sigma and their derivatives by autograd."""
    values = {"alpha": sde.alpha(t), "sigma": sde.sigma(t)}
    for name in ("alpha", "sigma"):
        with torch.enable_grad():
            u = t.detach().requires_grad_()
            (slope,) = torch.autograd.grad((getattr(sde, name)(u) + 0 * u).sum(), u)
        values[f"{name}_dot"] = slope
    return values
