"""All registered solvers but two sample a mixture's exact posterior, from the law of x_T given y."""

import pytest
import torch
from named_solvers import NAMES

from sdescore import VPSDE, GaussianMixture, find_solver, sample
from sdescore.operators import Matrix
from sdescore.testing import two_sample

PRIOR = GaussianMixture(
    torch.tensor([[-1.5, 0.3], [1.2, 1.0], [0.6, -1.3]], dtype=torch.float64),
    [[0.3, 0.5], [0.5, 0.25], [0.3, 0.3]],
    [0.5, 0.3, 0.2],
)
EXACT = PRIOR.posterior(Matrix(torch.tensor([[1.0, 0.5]])), torch.tensor([0.1], dtype=torch.float64), 0.5)
N = 1500
# A consistency model's prediction is a sample, which a mean is not; annealed Langevin steps have a size, and with it a
# bias, that more levels do not change.
OTHERS = {"consistency", "annealed-langevin"}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name not in OTHERS])
def test_every_solver_samples_the_posterior(name: str) -> None:
    sde = VPSDE()
    about = getattr(find_solver(name), "about", None)
    steps = 60 if about is not None and about.kind == "ODE" else 300
    start = EXACT.at(sde, sde.T).sample(N)
    found = sample(sde, EXACT.denoiser(sde), x=start, solver=name, steps=steps)
    assert two_sample(found, EXACT.sample(N, 1)) > 1e-3
    assert two_sample(found, PRIOR.sample(N, 1)) < 1e-4  # the test can fail
