"""Checks of solvers that hand over to other libraries: exact paths, nets that note their times, gradients."""

from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from sdescore import VPSDE, GaussianMixture, LinearSDE, ReverseProcess, sample
from sdescore.sampling.noise import WhiteNoise

UNUSED = WhiteNoise(0, ())
# Not imported to find out: it takes as long as half of torch.
NEEDS_TORCHODE = pytest.mark.skipif(find_spec("torchode") is None, reason="torchode is not installed")


@torch.no_grad()
def last(solver: Any, reverse: ReverseProcess, x: Tensor, times: Tensor, noise: Any = UNUSED) -> Tensor:
    return list(solver.solve(reverse, x, times, noise))[-1]


def exact(sde: LinearSDE, mixture: GaussianMixture, x: Tensor, times: Tensor) -> Tensor:
    """States (times, *x.shape) of dx / dlam = sigma^2 (score - 2 f x / g^2), by SciPy, from the mixture's own score.

    Integrated once for one start and one grid.
    """
    return _exact(sde, mixture, tuple(x.flatten().tolist()), x.shape, tuple(times.tolist()))


@cache
def _exact(
    sde: LinearSDE, mixture: GaussianMixture, x: tuple[float, ...], shape: torch.Size, times: tuple[float, ...]
) -> Tensor:
    def slope(lam: float, y: np.ndarray) -> np.ndarray:
        t = sde.time(torch.tensor(lam, dtype=torch.float64)).clamp(sde.t_min, sde.T)
        state = torch.from_numpy(y).view(shape)
        change = mixture.at(sde, t).score(state) - 2 * sde.f(t) / sde.g(t) ** 2 * state
        return (sde.sigma(t) ** 2 * change).flatten().numpy()

    lam = sde.lam(torch.tensor(times, dtype=torch.float64)).numpy()
    path = solve_ivp(slope, lam[[0, -1]], x, "DOP853", lam, rtol=1e-9, atol=1e-9)
    return torch.from_numpy(path.y.T).reshape(-1, *shape)


def recorded(sde: LinearSDE, mixture: GaussianMixture) -> tuple[Any, list[float]]:
    denoiser, seen = mixture.denoiser(sde), []

    def net(x: Tensor, t: Tensor) -> Tensor:
        seen.append(float(t[0]))
        return denoiser.score(x, t)

    return net, seen


def check_gradients(solver: Any, oracle: GaussianMixture, steps: int | None = None) -> None:
    """Through a whole run in the plane, against central differences."""
    sde, denoiser = VPSDE(), oracle.denoiser(VPSDE())
    x = oracle.at(sde, sde.T).sample(4)

    def final(scale: Tensor, grad: bool) -> Tensor:
        # What is added vanishes with the noise: steps chosen for the path then also suit its derivative.
        net = lambda x, t: denoiser(x, t) + scale * sde.sigma(t)[:, None]  # noqa: E731
        return sample(sde, net, x=x, solver=solver, steps=steps, predicts="data", grad=grad).sum()

    at, h = torch.tensor(0.1, dtype=torch.float64, requires_grad=True), 1e-3
    (slope,) = torch.autograd.grad(final(at, True), at)
    with torch.no_grad():
        difference = (final(at + h, False) - final(at - h, False)) / (2 * h)
    assert float(slope) == pytest.approx(float(difference), rel=1e-3)
    assert not final(at, False).requires_grad
