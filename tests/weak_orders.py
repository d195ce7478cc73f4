"""Weak errors of a method: those of means, without any sampling."""

from collections.abc import Sequence
from functools import reduce
from itertools import pairwise

import numpy as np
import torch
from noise_doubles import Given
from scipy.interpolate import CubicSpline
from tensors_and_errors import fitted_order

from sdescore import GaussianMixture, LinearSDE, OneStep, ReverseProcess


def weak_errors(method: OneStep, sde: LinearSDE, steps: Sequence[int], normals: int = 1) -> np.ndarray:
    """Errors (steps, 4) of the means of x, x^2, x^4 and cos 2x at the end, for a mixture in one dimension.

    E[f(end) | x] is carried backwards: at every step an integral over the step's normals, of which there are one to
    three, by Gauss-Hermite quadrature, of a spline.
    """
    mixture = GaussianMixture(torch.tensor([[-1.0], [0.8]], dtype=torch.float64), [0.3, 0.5], [0.4, 0.6])
    reverse, unit, found = ReverseProcess(sde, mixture.denoiser(sde)), np.linspace(-7, 7, 281), []
    nodes, weights = np.polynomial.hermite_e.hermegauss(5 if normals == 3 else 8)
    draws = [torch.from_numpy(np.tile(a.ravel(), len(unit))).unsqueeze(1) for a in np.meshgrid(*[nodes] * normals)]
    joint = reduce(np.multiply.outer, [weights / weights.sum()] * normals).ravel()
    functions = np.stack([unit, unit**2, unit**4, np.cos(2 * unit)], axis=1)
    for count in steps:
        times = sde.time(torch.linspace(-1.0, 1.5, count + 1, dtype=torch.float64))
        scale = torch.hypot(sde.alpha(times), sde.sigma(times))
        first, exact = (
            mixture.at(sde, t).log_prob(s * torch.from_numpy(unit).unsqueeze(1)).exp().numpy() * float(s)
            for t, s in zip(times[[0, -1]], scale[[0, -1]], strict=True)
        )
        value = functions
        for (t, s), (before, after) in reversed(list(zip(pairwise(times), pairwise(scale), strict=True))):
            x = before * torch.from_numpy(np.repeat(unit, len(joint))).unsqueeze(1)
            noise = Given(draws[0], draws[normals > 1], draws[2:] or draws[:1])
            end = method.step(reverse, x, t, s, noise) / after
            value = joint @ CubicSpline(unit, value)(end[:, 0].numpy()).reshape(len(unit), len(joint), -1)
        found.append((first @ value - exact @ functions) * (unit[1] - unit[0]))
    return np.array(found)


def overall_order(steps: Sequence[int], errors: np.ndarray) -> float:
    return fitted_order(steps, np.linalg.norm(errors, axis=1).tolist())
