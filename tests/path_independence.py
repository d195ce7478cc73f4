"""What a solver does is the same on every process, where the process enters by lam alone."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sdescore import GaussianMixture, LinearSDE, Solver, trajectory


def assert_same_on(
    processes: Sequence[LinearSDE], solver: str | Solver, mixture: GaussianMixture, lams: Tensor, z: Tensor
) -> None:
    """States x / sqrt(alpha^2 + sigma^2) at each lam, from z at the first with one seed, and the samples."""
    paths = []
    for sde in processes:
        times = sde.time(lams)
        scale = torch.hypot(sde.alpha(times), sde.sigma(times))
        *states, data = trajectory(sde, mixture.denoiser(sde), x=scale[0] * z, solver=solver, times=times, seed=2)
        paths.append(torch.stack([*(x / s for x, s in zip(states, scale, strict=True)), data]))
    for path in paths[1:]:
        torch.testing.assert_close(path, paths[0], rtol=0, atol=1e-10)
