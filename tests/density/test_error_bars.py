"""Estimated densities have honest error bars, and a control variate makes them small."""

import math
from typing import Any

import pytest
import torch
from conftest import FIVE
from rotated_mixtures import Rotated, wide
from scipy import stats

from sdescore import VPSDE, GaussianMixture, KarrasSDE, LinearSDE, likelihood
from sdescore.density import GaussianFit


def test_a_gaussian_fit_takes_all_noise_off_a_gaussian() -> None:
    sde = KarrasSDE()
    net = Rotated(GaussianMixture(torch.zeros(1, 8), 0.1 + torch.rand(1, 8), dtype=torch.float64), sde)
    x = net.sample(3)
    variances = net.mixture.stds[0].square()
    fit = GaussianFit(torch.zeros(8, dtype=torch.float64), net.basis, variances)
    plain = likelihood(sde, net, x, probes=4)
    found = likelihood(sde, net, x, probes=4, control=fit)
    exact = likelihood(sde, net, x, trace="exact")
    assert float(plain.stderr.min()) > 0.1
    assert float(found.stderr.max()) < 1e-3
    torch.testing.assert_close(found.log_prob, exact.log_prob, rtol=0, atol=1e-3)


def test_a_gaussian_fit_of_samples_finds_their_moments_and_needs_two() -> None:
    net = Rotated(wide(5, 1), VPSDE())
    fit = GaussianFit.of(net.sample(20_000))
    expected = net.basis @ torch.diag(net.mixture.stds[0].square()) @ net.basis.T
    torch.testing.assert_close(fit.basis @ fit.variances.diag() @ fit.basis.T, expected, rtol=0, atol=0.02)
    torch.testing.assert_close(fit.mean, net.basis @ net.mixture.means[0], rtol=0, atol=0.03)
    with pytest.raises(ValueError, match=r"data has shape \(1, 5\).*at least two"):
        GaussianFit.of(net.sample(1))


def test_the_control_variate_leaves_the_mean_and_lowers_the_error() -> None:
    """Two modes of one shape, which the covariance describes but for the direction between them."""
    sde, one = VPSDE(), wide(16, 1)
    net = Rotated(GaussianMixture(torch.cat([one.means, -one.means]), one.stds.expand(2, 16)), sde)
    x = net.sample(1)
    exact = likelihood(sde, net, x, trace="exact").log_prob
    fit = GaussianFit.of(net.sample(2000, seed=1))
    options: dict[str, Any] = {"probes": 4, "rtol": 1e-4, "atol": 1e-4}
    plain = likelihood(sde, net, x.expand(200, -1), **options).log_prob - exact
    controlled = likelihood(sde, net, x.expand(200, -1), control=fit, **options).log_prob - exact
    assert abs(float(controlled.mean())) < 4 * float(controlled.std()) / math.sqrt(200)
    assert float(controlled.std()) < 0.7 * float(plain.std())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("hutchinson", 64), ("gaussian", 64), ("orthogonal", 64)])
def test_error_over_error_bar_follows_students_t(name: str, size: int) -> None:
    """512 seeds at one x, 16 probes: 16 independent estimates, or 4 groups of orthogonal vectors."""
    sde = VPSDE()
    net = Rotated(wide(size), sde)
    x = net.sample(1)
    exact = likelihood(sde, net, x, trace="exact", rtol=1e-7, atol=1e-7).log_prob
    found = likelihood(sde, net, x.expand(512, -1), trace=name, probes=16, rtol=1e-5, atol=1e-5, batch_size=128)
    freedom = 3 if name == "orthogonal" else 15
    ratio = (found.log_prob - exact) / found.stderr
    assert stats.kstest(ratio.numpy(), stats.t(freedom).cdf).pvalue > 1e-3


@pytest.mark.parametrize("sde", [FIVE[0], *(pytest.param(sde, marks=pytest.mark.slow) for sde in FIVE[1:])], ids=str)
def test_error_bar_and_exact_density_in_64_dimensions(sde: LinearSDE, oracle64: GaussianMixture) -> None:
    """512 seeds at one x against the known density, where the solver's error is below 0.05 error bars."""
    x, prior = oracle64.at(sde, sde.t_min).sample(1), oracle64.at(sde, sde.T)
    net, truth = oracle64.denoiser(sde), oracle64.at(sde, sde.t_min).log_prob(x)
    options: dict[str, Any] = {"prior": prior, "rtol": 1e-5, "atol": 1e-5}
    found = likelihood(sde, net, x.expand(512, -1), probes=16, **options)
    solver = float((likelihood(sde, net, x, trace="exact", **options).log_prob - truth).abs())
    assert solver < 0.05 * float(found.stderr.median())
    assert stats.kstest(((found.log_prob - truth) / found.stderr).numpy(), stats.t(15).cdf).pvalue > 1e-3


@pytest.mark.slow
def test_exact_and_estimated_density_in_768_dimensions(main_sde: LinearSDE) -> None:
    net = Rotated(wide(768), main_sde)
    x = net.sample(1, seed=3)
    truth = net.mixture.at(main_sde, main_sde.t_min).log_prob(x @ net.basis)
    exact = likelihood(main_sde, net, x, trace="exact", prior=net)
    assert abs(float(exact.log_prob - truth)) < 1e-4 * 768
    found = likelihood(main_sde, net, x.expand(32, -1), probes=16, prior=net, rtol=1e-4, atol=1e-4)
    ratio = (found.log_prob - truth) / found.stderr
    assert stats.kstest(ratio.numpy(), stats.t(15).cdf).pvalue > 1e-3
