"""What the tests of the adapters to other libraries share: exact paths, and a net that notes when it is called."""

from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from sdescore import GaussianMixture, LinearSDE, Reverse
from sdescore.noise import White

UNUSED = White(0, ())


@torch.no_grad()
def last(solver: Any, reverse: Reverse, x: Tensor, times: Tensor, noise: Any = UNUSED) -> Tensor:
    return list(solver.solve(reverse, x, times, noise))[-1]


def exact(sde: LinearSDE, mixture: GaussianMixture, x: Tensor, times: Tensor) -> Tensor:
    """States (times, *x.shape) of dx / dlam = sigma^2 (score - 2 f x / g^2), by SciPy, from the mixture's own score."""

    def slope(lam: float, y: np.ndarray) -> np.ndarray:
        t = sde.time(torch.tensor(lam, dtype=torch.float64)).clamp(sde.t_min, sde.T)
        state = torch.from_numpy(y).view(x.shape)
        change = mixture.at(sde, t).score(state) - 2 * sde.f(t) / sde.g(t) ** 2 * state
        return (sde.sigma(t) ** 2 * change).flatten().numpy()

    lam = sde.lam(times).numpy()
    path = solve_ivp(slope, lam[[0, -1]], x.flatten().numpy(), "DOP853", lam, rtol=1e-9, atol=1e-9)
    return torch.from_numpy(path.y.T).reshape(-1, *x.shape)


def recorded(sde: LinearSDE, mixture: GaussianMixture) -> tuple[Any, list[float]]:
    denoiser, seen = mixture.denoiser(sde), []

    def net(x: Tensor, t: Tensor) -> Tensor:
        seen.append(float(t[0]))
        return denoiser.score(x, t)

    return net, seen
