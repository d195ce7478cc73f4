"""Runs of sequential Monte Carlo: what they depend on, what they cost, and what they refuse."""

from typing import Any

import pytest
import torch
from measured_mixture import METHODS, PRIOR, STD, A, Y, run
from torch import Tensor, nn

from sdescore import VPSDE, Denoiser, smc
from sdescore.operators import Mask
from sdescore.sampling import karras
from sdescore.sampling.particles import systematic

# Runs and bits --------------------------------------------------------------------------------------------------------


class Counting(nn.Module):
    """A denoiser's data prediction that counts the rows that it is called with."""

    predicts = "data"

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.inner = denoiser
        self.rows: list[int] = []

    def forward(self, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        self.rows.append(len(x))
        return self.inner(x, t, **condition)


@pytest.mark.parametrize("name", METHODS)
def test_a_run_depends_on_its_number_alone(name: str) -> None:
    options = METHODS[name] | {"particles": 32, "steps": 12}
    whole = run(n=150, **options)
    assert whole.particles.shape == (5, 32, 2) and whole.weights.shape == (5, 32) and whole.ess.shape == (5, 12)
    assert whole.log_evidence.shape == (5,) and whole.samples.shape == (150, 2)
    assert whole.run.bincount().tolist() == [30] * 5
    for size in (33, 64):
        part = run(n=150, batch_size=size, **options)
        assert all(torch.equal(getattr(part, key), getattr(whole, key)) for key in ("samples", "weights", "ess"))
    later = run(n=64, index_offset=3, **options)
    assert later.run.unique().tolist() == [3, 4]
    assert torch.equal(later.particles, whole.particles[3:]) and torch.equal(later.ess, whole.ess[3:])
    assert torch.equal(later.log_evidence, whole.log_evidence[3:])
    other = run(n=150, seed=1, **options)
    assert not bool((other.particles == whole.particles).any())


@pytest.mark.parametrize("name", METHODS)
def test_net_calls_are_counted(name: str) -> None:
    sde, net = VPSDE(), Counting(PRIOR.denoiser(VPSDE()))
    found = smc(
        sde, net, A, Y, noise_std=STD, n=40, particles=20, dtype=torch.float64, **(METHODS[name] | {"steps": 9})
    )
    assert sum(net.rows) == 40 * found.nfe == 40 * 9


def test_samples_are_the_particles_by_weight() -> None:
    found = run(n=1001, particles=500, steps=20)
    assert found.run.bincount().tolist() == [334, 334, 333]
    for r in range(3):
        own = found.samples[found.run == r]
        copies = (own[:, None] == found.particles[r]).all(2).sum(0)
        assert bool(((copies - len(own) * found.weights[r]).abs() <= 1 + 1e-9).all())


def test_systematic_resampling() -> None:
    weights = torch.rand(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) ** 4
    weights[:, 2], weights[:, 6] = 0.0, 0.0
    weights = weights / weights.sum(1, keepdim=True)
    total = torch.zeros(3, 7, dtype=torch.float64)
    for u in torch.arange(400) / 400 + 1 / 800:
        counts = torch.stack([row.bincount(minlength=7) for row in systematic(weights, u.expand(3), 10)])
        assert bool(((counts - 10 * weights).abs() < 1 + 1e-9).all())
        total += counts
    torch.testing.assert_close(total / 400, 10 * weights, rtol=0, atol=0.01)
    assert systematic(torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([1 - 1e-12]), 4).unique().tolist() == [1]


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "word"),
    [
        ({"noise_std": -0.1}, ValueError, "noise_std=-0.1"),
        ({"noise_std": 0.0}, ValueError, "noise_std=0; expected a positive number, or method='mcgdiff'"),
        ({"n": 0}, ValueError, "n=0"),
        ({"particles": 0}, ValueError, "particles=0"),
        ({"threshold": 1.5}, ValueError, "threshold=1.5"),
        ({"method": "pf"}, ValueError, "method='pf'; expected 'tds', 'mcgdiff'"),
        ({"twist": "dps"}, ValueError, "twist='dps'; expected 'pigdm', 'mmps'"),
        ({"solver": "heun"}, TypeError, "expected a LinearOneStep with noise"),
        ({"solver": "euler"}, ValueError, "draws no noise; expected a stochastic one"),
        ({"condition": {"label": torch.tensor([1, 1])}}, ValueError, r"first axis has length 1"),
        ({"method": "mcgdiff", "steps": 2}, ValueError, "steps=2; expected at least 3"),
        ({"method": "mcgdiff", "noise_std": 1e6}, ValueError, "noise_std over the least singular value"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        run(**options)


def test_bad_measurements_are_named() -> None:
    sde = VPSDE()
    net = Counting(PRIOR.denoiser(sde))
    given: dict[str, Any] = dict(noise_std=0.1, n=4)
    with pytest.raises(ValueError, match=r"y is \(2,\); the operator measures \(1,\) of a sample \(2,\)"):
        smc(sde, PRIOR.denoiser(sde), A, Y.repeat(2), **given)
    with pytest.raises(ValueError, match=r"y is \(2,\); expected the shape of what Matrix"):
        smc(sde, net, A, Y.repeat(2), **given)
    with pytest.raises(ValueError, match="net says no shape of its samples"):
        smc(sde, net, torch.square, Y.repeat(2), **given)
    with pytest.raises(TypeError, match="prior is 3"):
        smc(sde, net, A, Y, prior=3, **given)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Mask expects"):
        smc(sde, PRIOR.denoiser(sde), Mask(torch.ones(3)), torch.zeros(3), **given)
    with pytest.raises(ValueError, match="not linear"):
        smc(sde, PRIOR.denoiser(sde), torch.square, torch.ones(2), method="mcgdiff", **given)
    assert not net.rows
    with pytest.raises(ValueError, match="no derivative by x"):
        smc(sde, lambda x, t: -x.detach(), A, Y, **given)


def test_dead_particles_are_named() -> None:
    far = torch.tensor([1e200], dtype=torch.float64)
    with pytest.raises(FloatingPointError, match=r"all particles are dead at t = 1 in run 0, 1: "):
        smc(VPSDE(), PRIOR.denoiser(VPSDE()), A, far, noise_std=0.1, n=8, particles=4)

    def broken(x: Tensor, t: Tensor) -> Tensor:
        return x / (x[:, :1] < 0).to(x)

    # A part of the particles may be lost.
    found = smc(VPSDE(), broken, A, Y, noise_std=STD, n=50, particles=50, steps=2, times=karras(), predicts="data")
    assert bool(found.samples.isfinite().all()) and float(found.ess[0, 0]) < 40
