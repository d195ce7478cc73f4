"""Likelihood against the exact density of mixtures."""

import math
import warnings
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FIVE, SIX
from torch import Tensor, nn

from sdescore import (
    VPSDE,
    Denoiser,
    FlowSDE,
    GaussianMixture,
    KarrasSDE,
    LinearSDE,
    Scaling,
    SubVPSDE,
    bits_per_dim,
    dequantize,
    likelihood,
    log_likelihood,
)
from sdescore.density import GaussianFit

process = pytest.mark.parametrize("sde", SIX, ids=lambda sde: type(sde).__name__)


@cache
def mixture(size: int) -> GaussianMixture:
    own = torch.Generator().manual_seed(size)
    means = torch.randn(5, size, generator=own, dtype=torch.float64)
    return GaussianMixture(means, 0.1 + 0.4 * torch.rand(5, generator=own, dtype=torch.float64))


@cache
def errors(sde: LinearSDE, size: int, count: int, tolerance: float) -> Tensor:
    """Of log-densities with the exact trace, (count,)."""
    oracle = mixture(size)
    data = oracle.at(sde, sde.t_min)
    x = data.sample(count, seed=1)
    prior = oracle.at(sde, sde.T)
    found = log_likelihood(sde, oracle.denoiser(sde), x, trace="exact", prior=prior, rtol=tolerance, atol=tolerance)
    return (found - data.log_prob(x)).abs()


CASES = [(sde, *size) for sde in SIX for size in ((2, 64), (64, 16), (768, 1))]


@pytest.mark.parametrize(
    ("sde", "size", "count"),
    # One of the large ones is enough for every run.
    [pytest.param(*case, marks=pytest.mark.slow if case[1] == 768 and i > 3 else ()) for i, case in enumerate(CASES)],
    ids=lambda each: type(each).__name__ if isinstance(each, LinearSDE) else str(each),
)
def test_exact_trace_gives_the_exact_density(sde: LinearSDE, size: int, count: int) -> None:
    """At the default tolerance, to 1e-4 nats a dimension for every sample."""
    error = errors(sde, size, count, 1e-6)
    assert float(error.max()) <= 1e-4 * size and float(error.mean()) <= 1e-5 * size


@process
def test_the_density_has_its_part_in_the_steps(sde: LinearSDE) -> None:
    """A point midway between two modes stays where it is: only the change of its density says how long steps may be."""
    oracle = GaussianMixture([[-1.0, 0.0], [1.0, 0.0]], 0.2, dtype=torch.float64)
    x = torch.zeros(1, 2, dtype=torch.float64)
    found = likelihood(sde, oracle.denoiser(sde), x, trace="exact", prior=oracle.at(sde, sde.T))
    assert float(found.latent.abs().max()) < 1e-9
    assert float(found.log_prob) == pytest.approx(float(oracle.at(sde, sde.t_min).log_prob(x)), abs=1e-5)


@pytest.mark.parametrize("sde", [*FIVE[:2], *(pytest.param(sde, marks=pytest.mark.slow) for sde in SIX[2:])], ids=str)
def test_the_error_falls_with_the_tolerance(sde: LinearSDE) -> None:
    """In proportion: the orders follow the tolerance, so that an error of a step is all of it that is allowed."""
    coarse, default, fine = (float(errors(sde, 2, 64, tolerance).mean()) for tolerance in (1e-4, 1e-6, 1e-8))
    assert default < coarse / 20 and fine < default / 20


def test_the_default_prior_differs_by_the_prior_gap_alone() -> None:
    sde, oracle = VPSDE(), mixture(2)
    x = oracle.at(sde, sde.t_min).sample(8)
    own = likelihood(sde, oracle.denoiser(sde), x, trace="exact")
    exact = likelihood(sde, oracle.denoiser(sde), x, trace="exact", prior=oracle.at(sde, sde.T))
    gap = sde.prior_log_prob(own.latent) - oracle.at(sde, sde.T).log_prob(own.latent)
    torch.testing.assert_close(own.log_prob - exact.log_prob, gap, rtol=0, atol=1e-12)
    assert 1e-6 < float(gap.abs().max()) < 0.1


@process
def test_latents_of_a_gaussian_are_known(sde: LinearSDE) -> None:
    """The flow of N(m, s^2) moves every quantile with the mean and the standard deviation."""
    oracle = GaussianMixture([[0.5, -1.0]], 0.3, dtype=torch.float64)
    start, end = oracle.at(sde, sde.t_min), oracle.at(sde, sde.T)
    x = start.sample(5)
    found = likelihood(sde, oracle.denoiser(sde), x, trace="exact")
    expected = end.means[0] + (x - start.means[0]) / start.stds[0] * end.stds[0]
    torch.testing.assert_close(found.latent, expected, rtol=1e-5, atol=1e-5)


def test_hutchinson_is_unbiased_and_its_error_bar_is_right_in_size() -> None:
    sde, oracle = VPSDE(), mixture(6)
    x = oracle.at(sde, sde.t_min).sample(1, seed=2)
    exact = log_likelihood(sde, oracle.denoiser(sde), x, trace="exact")
    many = likelihood(sde, oracle.denoiser(sde), x.expand(400, -1), probes=4)
    error = many.log_prob - exact
    assert abs(float(error.mean())) < 4 * float(error.std()) / 20
    # The estimated variance of the mean is right on average: to 4 standard errors, about 0.3.
    assert float(many.stderr.square().mean() / error.var()) == pytest.approx(1, abs=0.35)
    assert float(many.stderr.min()) > 0


def test_one_probe_has_no_error_bar_and_the_exact_trace_none_to_show() -> None:
    sde, oracle = VPSDE(), mixture(2)
    x = oracle.at(sde, sde.t_min).sample(2)
    assert likelihood(sde, oracle.denoiser(sde), x).stderr.isnan().all()
    assert (likelihood(sde, oracle.denoiser(sde), x, trace="exact").stderr == 0).all()


@pytest.mark.parametrize("sde", [SubVPSDE(), KarrasSDE()], ids=lambda sde: type(sde).__name__)
def test_a_sample_does_not_feel_the_others(sde: LinearSDE) -> None:
    """Alone, in a batch of 256, in batches of 5 and beside an outlier of 20 times the size."""
    oracle = mixture(3)
    x = oracle.at(sde, sde.t_min).sample(256, seed=3)
    options: dict[str, Any] = {"probes": 2, "prior": oracle.at(sde, sde.T), "rtol": 1e-4, "atol": 1e-4}
    together = log_likelihood(sde, oracle.denoiser(sde), x, **options)
    alone = torch.cat(
        [log_likelihood(sde, oracle.denoiser(sde), x[i : i + 1], index_offset=i, **options) for i in range(4)]
    )
    batches = log_likelihood(sde, oracle.denoiser(sde), x[:12], batch_size=5, **options)
    beside = log_likelihood(sde, oracle.denoiser(sde), torch.cat([x[:4], 20 * x[4:5]]), **options)[:4]
    torch.testing.assert_close(alone, together[:4], rtol=1e-6, atol=0)
    torch.testing.assert_close(beside, together[:4], rtol=1e-6, atol=0)
    torch.testing.assert_close(batches, together[:12], rtol=1e-6, atol=0)


def test_a_net_of_another_process_is_read_at_equal_lam() -> None:
    oracle = mixture(2)
    trained, other = FlowSDE(), KarrasSDE(sigma_min=0.01, sigma_max=50)
    x = oracle.at(other, other.t_min).sample(8)
    prior = oracle.at(other, other.T)
    expected = log_likelihood(other, oracle.denoiser(other), x, trace="exact", prior=prior)
    found = log_likelihood(other, oracle.denoiser(trained), x, trace="exact", prior=prior)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def test_the_net_is_never_called_outside_of_the_process() -> None:
    sde, oracle, seen = VPSDE(), mixture(2), []

    def recorded(x: Tensor, t: Tensor) -> Tensor:
        seen.extend([float(t.min()), float(t.max())])
        return oracle.denoiser(sde).score(x, t)

    log_likelihood(sde, recorded, oracle.sample(4))
    assert min(seen) >= sde.t_min and max(seen) <= sde.T and len(seen) > 20


class FailsFor(nn.Module):
    """A standard normal's noise, but NaN for states whose condition says so once sigma is large."""

    def forward(self, y: Tensor, c_noise: Tensor, bad: Tensor) -> Tensor:
        return torch.where((bad & (c_noise > 0)).reshape(-1, 1), torch.nan, y)


def test_a_failing_sample_is_flagged_and_the_others_are_kept() -> None:
    sde = VPSDE()
    denoiser = Denoiser(FailsFor(), sde, "noise", data_std=1.0)
    x = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    none = torch.zeros(4, dtype=torch.bool)
    good = log_likelihood(sde, denoiser, x, condition={"bad": none})
    one = none.index_fill(0, torch.tensor(2), True)
    with pytest.warns(RuntimeWarning, match=r"likelihood of sample 2 is NaN.*t = 0\.2"):
        whole = likelihood(sde, denoiser, x, condition={"bad": one})
    found = whole.log_prob
    assert found.isnan().tolist() == [False, False, True, False]
    assert whole.latent.isnan().tolist() == [[False] * 2, [False] * 2, [True] * 2, [False] * 2]
    torch.testing.assert_close(found[[0, 1, 3]], good[[0, 1, 3]], rtol=1e-12, atol=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log_likelihood(sde, denoiser, x, condition={"bad": none})


class Rough(nn.Module):
    """The noise of a standard normal, with an error that changes with every digit of c_noise where it is asked for."""

    def forward(self, y: Tensor, c_noise: Tensor, rough: Tensor) -> Tensor:
        jitter = 1e6 * torch.sin(1e18 * c_noise) * rough
        return y * (torch.sigmoid(8 * c_noise).sqrt() + jitter).reshape(-1, 1)


def test_a_tolerance_that_cannot_be_met_is_flagged_and_the_others_are_kept() -> None:
    denoiser = Denoiser(Rough(), VPSDE(), data_std=1.0)
    x, rough = torch.ones(3, 2, dtype=torch.float64), torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    with pytest.warns(
        RuntimeWarning, match=r"likelihood of sample 1 is NaN: its tolerance was not met within \d+ calls"
    ):
        found = likelihood(VPSDE(), denoiser, x, rtol=1e-12, atol=1e-12, condition={"rough": rough})
    assert found.log_prob.isnan().tolist() == [False, True, False]


def test_data_outside_of_the_range_of_training_is_named() -> None:
    sde, scaling = VPSDE(), Scaling(0, 16, 17)
    denoiser = Denoiser(FailsFor(), sde, data_std=1.0, scaling=scaling)
    none = {"bad": torch.zeros(3, dtype=torch.bool)}
    raw = torch.tensor([[0.0, 1.0], [16.0, 3.0], [-1.0, 0.9]])
    with pytest.warns(RuntimeWarning, match=r"in sample 8: by most in sample 8, with 16;.*scaling.to_model"):
        found = log_likelihood(sde, denoiser, raw, condition=none, index_offset=7)
    assert found.isfinite().all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log_likelihood(sde, denoiser, dequantize(scaling.to_model(raw.clamp(0)), scaling), condition=none)


def test_a_float32_module_is_left_as_it_was_and_evaluated() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(2, 2))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net

        def forward(self, y: Tensor, c_noise: Tensor) -> Tensor:
            return self.inner(y)

    denoiser = Denoiser(Net(), VPSDE()).train()
    net[2].bias.requires_grad_(False)
    x = torch.zeros(3, 2)
    first, second = (log_likelihood(VPSDE(), denoiser, x) for _ in range(2))
    assert torch.equal(first, second)  # dropout is off
    assert first.dtype == torch.float64
    assert denoiser.training and net[1].training
    assert [p.requires_grad for p in net.parameters()] == [True, False]


def test_no_gradient_comes_that_would_be_wrong() -> None:
    """The changes of state and density carry none, so that the rest would not be the gradient of the density."""
    sde, oracle = VPSDE(), mixture(2)
    x = oracle.sample(2).requires_grad_()
    found = likelihood(sde, oracle.denoiser(sde), x, trace="exact")
    assert not found.log_prob.requires_grad and not found.latent.requires_grad


def test_bits_per_dim_of_a_known_discrete_distribution() -> None:
    scaling = Scaling(0, 4, levels=5)
    masses = torch.tensor([0.1, 0.2, 0.4, 0.25, 0.05], dtype=torch.float64)
    width = 2 / 4
    raw = torch.arange(5).repeat_interleave(400).reshape(-1, 1)
    x = dequantize(scaling.to_model(raw, torch.float64), scaling, seed=5)
    level = ((x + 1) / width + 0.5).floor().long()
    assert torch.equal(level, raw)  # the noise never leaves its level
    assert float((x + 1).remainder(width).std()) == pytest.approx(width / math.sqrt(12), rel=0.05)
    log_prob = (masses / width).log()[level[:, 0]]
    bits = bits_per_dim(log_prob, (1,), scaling).reshape(5, 400).mean(1)
    entropy = float((masses * bits).sum())
    assert entropy == pytest.approx(-float((masses * masses.log2()).sum()), rel=1e-12)


def test_dequantisation_depends_on_seed_and_index_alone() -> None:
    scaling, x = Scaling(0, 16, 17), torch.zeros(6, 1, 2, 2)
    whole = dequantize(x, scaling, seed=1)
    assert torch.equal(whole[4:], dequantize(x[4:], scaling, seed=1, index_offset=4))
    assert not torch.equal(whole, dequantize(x, scaling, seed=2))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"trace": "full"}, ValueError, "trace='full'; expected 'exact', 'hutchinson', 'gaussian', 'orthogonal'"),
        ({"trace": 3}, TypeError, "trace is 3; expected 'exact'"),
        ({"rtol": 0.0}, ValueError, "rtol=0.0"),
        ({"rtol": math.inf}, ValueError, "rtol=inf; expected a finite number"),
        ({"atol": "1e-3"}, TypeError, "atol='1e-3'; expected a finite number"),
        ({"control": 5}, TypeError, "control is 5; expected GaussianFit"),
        ({"seed": True}, TypeError, "seed=True; expected an integer"),
        ({"index_offset": -1}, ValueError, "index_offset=-1; expected an integer from 0"),
        ({"probes": 0}, ValueError, "probes=0"),
        ({"probes": 2.5}, TypeError, "probes=2.5; expected a positive integer"),
        ({"batch_size": 1.5}, TypeError, "batch_size=1.5; expected a positive integer"),
        ({"control": GaussianFit.of(torch.eye(3))}, ValueError, "control is of 3 elements; samples of x have 2"),
        ({"prior": torch.distributions.Normal(0.0, 1.0)}, ValueError, r"log_prob returned \(3, 2\) for x of shape"),
        ({"x": np.zeros((3, 2))}, TypeError, "x is a ndarray; expected a tensor"),
        ({"x": torch.zeros(3, 0)}, ValueError, r"x has shape \(3, 0\)"),
        ({"prior": 3}, TypeError, "prior is 3; expected anything with log_prob"),
        ({"x": torch.zeros(3, 2, dtype=torch.uint8)}, TypeError, "x has dtype torch.uint8; .*scale it"),
        ({"x": torch.tensor([[0.0, 0.0], [0.0, math.inf]])}, ValueError, "x is not finite in sample 1"),
        ({"x": torch.zeros(3, 5)}, ValueError, r"x has samples of shape \(5,\); the net takes \(2,\)"),
        ({"x": torch.zeros(0, 2)}, ValueError, "at least one sample"),
        ({"condition": {"label": torch.zeros(7)}}, ValueError, "first axis has length 3"),
        ({"sde": "VPSDE"}, TypeError, "expected a LinearSDE"),
    ],
)
def test_bad_arguments(change: dict[str, object], error: type[Exception], message: str) -> None:
    sde = VPSDE()
    arguments = {"sde": sde, "net": mixture(2).denoiser(sde), "x": torch.zeros(3, 2), **change}
    with pytest.raises(error, match=message):
        log_likelihood(**arguments)  # type: ignore[arg-type]
