"""Weak errors of a method: those of means, without any sampling."""

from functools import reduce

import numpy as np
import torch
from noise_doubles import Given
from scipy.interpolate import CubicSpline

from sdescore import GaussianMixture, LinearSDE, OneStep, ReverseProcess


def weak_errors(method: OneStep, sde: LinearSDE, steps: tuple[int, ...], normals: int = 2) -> list[float]:
    """Of the mean of a function of the end, for a mixture in one dimension, without any sampling.

    E[f(end) | x] is carried backwards: at every step an integral over the step's normals, of which there are two or
    three, by Gauss-Hermite quadrature, of a spline.
    """
    mixture = GaussianMixture(torch.tensor([[-0.6], [0.8]], dtype=torch.float64), [0.5, 0.6], [0.4, 0.6])
    reverse, unit, found = ReverseProcess(sde, mixture.denoiser(sde)), np.linspace(-7, 7, 281), []
    nodes, weights = np.polynomial.hermite_e.hermegauss(8 if normals == 2 else 5)
    z, area, *fresh = (
        torch.from_numpy(np.tile(a.ravel(), len(unit))).unsqueeze(1) for a in np.meshgrid(*[nodes] * normals)
    )
    joint = reduce(np.multiply.outer, [weights / weights.sum()] * normals).ravel()
    for count in steps:
        times = sde.time(torch.linspace(-1.0, 1.5, count + 1, dtype=torch.float64))
        scale = torch.hypot(sde.alpha(times), sde.sigma(times))
        value = np.cos(2 * unit) + unit**2
        first, exact = (
            mixture.at(sde, t).log_prob(s * torch.from_numpy(unit).unsqueeze(1)).exp().numpy() * float(s)
            for t, s in zip(times[[0, -1]], scale[[0, -1]], strict=True)
        )
        truth = float(exact @ value) * (unit[1] - unit[0])
        for i in reversed(range(count)):
            x = scale[i] * torch.from_numpy(np.repeat(unit, len(joint))).unsqueeze(1)
            noise = Given(z, area, fresh or [z])
            end = method.step(reverse, x, times[i], times[i + 1], noise) / scale[i + 1]
            value = CubicSpline(unit, value)(end[:, 0].numpy()).reshape(len(unit), -1) @ joint
        found.append(float(abs(first @ value * (unit[1] - unit[0]) - truth)))
    return found
