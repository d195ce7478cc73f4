"""The law that samples start from: seeds of each sample, and what a wrong one costs."""

import pytest
import torch
from torch import Tensor

from sdescore import VPSDE, GaussianMixture, sample, trajectory
from sdescore.testing import two_sample

# Far enough from 0 for N(0, sigma^2) to be wrong at T: alpha there is .0066.
FAR = GaussianMixture([[300.0, 0.0], [320.0, 30.0]], 2.0, [0.3, 0.7], dtype=torch.float64)


def draw(n: int, **options: object) -> Tensor:
    sde = VPSDE()
    return sample(sde, FAR.denoiser(sde), (n, 2), prior=FAR.at(sde, sde.T), solver="heun", steps=40, **options)  # type: ignore[arg-type]


def test_a_sample_depends_on_its_number_alone() -> None:
    whole = draw(300, seed=2)
    assert torch.equal(draw(20, seed=2, batch_size=7), whole[:20])
    assert torch.equal(draw(10, seed=2, index_offset=250), whole[250:260])
    assert not torch.equal(draw(20, seed=3), whole[:20])
    assert len(whole.unique(dim=0)) == 300
    first = next(trajectory(VPSDE(), FAR.denoiser(VPSDE()), (20, 2), prior=FAR.at(VPSDE(), 1.0), seed=2))
    assert two_sample(whole, FAR.sample(300, 5)) > 1e-3 and len(first) == 20


def test_the_start_decides_the_shares() -> None:
    sde, n = VPSDE(), 2000
    exact, law = FAR.sample(n, 5), FAR.at(sde, sde.T)
    start = trajectory(sde, FAR.denoiser(sde), (n, 2), prior=law, steps=2)
    assert two_sample(next(start), law.sample(n, 7)) > 1e-3
    assert two_sample(draw(n), exact) > 1e-3
    default = sample(sde, FAR.denoiser(sde), (n, 2), solver="heun", steps=40)
    assert two_sample(default, exact) < 1e-6


def test_bad_laws_are_named() -> None:
    sde = VPSDE()
    net = FAR.denoiser(sde)
    with pytest.raises(TypeError, match="prior is 3; expected anything with sample"):
        sample(sde, net, (2, 2), prior=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="x and prior are both given"):
        sample(sde, net, x=torch.zeros(2, 2), prior=FAR)
    with pytest.raises(ValueError, match=r"prior drew \(256, 3\); expected \(256, 2\)"):
        sample(sde, net, (2, 2), prior=GaussianMixture(torch.zeros(1, 3)))
