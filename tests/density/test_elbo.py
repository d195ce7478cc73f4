"""The evidence bound: tight for exact scores, below the log-density for others, with an honest error bar."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from sdescore import VPSDE, Denoiser, FlowSDE, GaussianMixture, LinearSDE, elbo, likelihood


def test_the_bound_of_an_exact_denoiser_is_the_log_density(main_sde: LinearSDE, oracle64: GaussianMixture) -> None:
    """The reverse SDE then undoes the forward one, and the bound is tight but for the normal law at t_min.

    That law lacks half of log(1 + rho^2 / s^2) an element, and has its own mean; s is the smallest std of the data.
    """
    x = oracle64.sample(64, seed=5)
    found = elbo(main_sde, oracle64.denoiser(main_sde), x, prior=oracle64.at(main_sde, main_sde.T))
    error = found.log_prob - oracle64.log_prob(x)
    lost = 64 * float(main_sde.rho(torch.tensor(main_sde.t_min, dtype=torch.float64))) ** 2 / 0.2**2
    assert abs(float(error.mean())) < 4 * float(error.std()) / 8 + lost
    assert float(found.stderr.mean()) < 6  # of 64 dimensions
    assert (found.nfe == 8 * 33).all()


def test_error_over_error_bar_follows_students_t(oracle64: GaussianMixture) -> None:
    sde, x = VPSDE(), oracle64.sample(1)
    found = elbo(sde, oracle64.denoiser(sde), x.expand(500, -1), levels=8, prior=oracle64.at(sde, sde.T))
    ratio = (found.log_prob - oracle64.log_prob(x)) / found.stderr
    assert stats.kstest(ratio.numpy(), stats.t(7).cdf).pvalue > 1e-3


class Shrunk(nn.Module):
    """The noise of N(0, s^2) data predicted by one who takes s for `assumed`; data_std of the Denoiser is 1."""

    def __init__(self, assumed: float) -> None:
        super().__init__()
        self.assumed = assumed

    def forward(self, y: Tensor, c_noise: Tensor) -> Tensor:
        rho = torch.exp(4 * c_noise)[:, None]
        return rho * y * (1 + rho**2).sqrt() / (self.assumed**2 + rho**2)


def test_the_bound_is_that_of_the_model_and_not_above_the_ode() -> None:
    """A net that is exact for another Gaussian: bound and ODE both give that Gaussian's density, not the data's."""
    sde = FlowSDE()
    oracle = GaussianMixture(torch.zeros(1, 4), 0.8, dtype=torch.float64)
    x = GaussianMixture(torch.zeros(1, 4), 0.5, dtype=torch.float64).sample(64)
    denoiser, prior = Denoiser(Shrunk(0.8), sde, data_std=1.0), oracle.at(sde, sde.T)
    bound = elbo(sde, denoiser, x, prior=prior)
    ode = likelihood(sde, denoiser, x, trace="exact", prior=prior).log_prob
    torch.testing.assert_close(ode, oracle.log_prob(x), rtol=0, atol=1e-3)
    assert abs(float((bound.log_prob - ode).mean())) < 4 * float(bound.stderr.square().mean().sqrt()) / 8 + 1e-3


class Biased(nn.Module):
    """The noise of N(0, 1) data, with a field added that no density has: it turns the plane."""

    def forward(self, y: Tensor, c_noise: Tensor) -> Tensor:
        rho = torch.exp(4 * c_noise)[:, None]
        turned = torch.stack([-y[:, 1], y[:, 0]], 1)
        return (rho * y + 0.5 * turned) / (1 + rho**2).sqrt()


def test_a_wrong_net_opens_a_gap() -> None:
    """The turning field leaves the flow's density N(0, 1) as it is, but its squared error enters the bound.

    With y = (x0 + rho eps) / sqrt(1 + rho^2) of unit variance, the error is 0.25 |y|^2 / (1 + rho^2) more, on average
    0.5 / (1 + rho^2).
    """
    sde = VPSDE()
    x = torch.randn(400, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    denoiser = Denoiser(Biased(), sde, data_std=1.0)
    bound = elbo(sde, denoiser, x)
    ode = likelihood(sde, denoiser, x, trace="exact", rtol=1e-4, atol=1e-4).log_prob
    lam = sde.lam(torch.tensor([sde.t_min, sde.T], dtype=torch.float64))
    integral = torch.nn.functional.softplus(2 * lam) / 2  # of 1 / (1 + rho^2) over lam
    expected = 0.5 * float(integral[0] - integral[1]) + 0.25  # the last for p(x | x_t) at t_min
    gap = ode - bound.log_prob
    assert expected > 2
    assert float(gap.mean()) == pytest.approx(expected, abs=4 * float(gap.std()) / 20)


def test_a_sample_does_not_feel_the_others(oracle2: GaussianMixture) -> None:
    sde, x = VPSDE(), oracle2.sample(6)
    whole = elbo(sde, oracle2.denoiser(sde), x, levels=4)
    parts = elbo(sde, oracle2.denoiser(sde), x, levels=4, batch_size=4)
    last = elbo(sde, oracle2.denoiser(sde), x[4:], levels=4, index_offset=4)
    torch.testing.assert_close(parts.log_prob, whole.log_prob, rtol=1e-9, atol=0)
    torch.testing.assert_close(last.log_prob, whole.log_prob[4:], rtol=1e-9, atol=0)
    assert elbo(sde, oracle2.denoiser(sde), x, levels=2, groups=1).stderr.isnan().all()


def test_what_cannot_be_computed_is_flagged_and_the_others_are_kept(oracle2: GaussianMixture) -> None:
    sde, x = VPSDE(), oracle2.sample(3)
    with pytest.raises(ValueError, match="levels=0"):
        elbo(sde, oracle2.denoiser(sde), x, levels=0)
    with pytest.raises(ValueError, match=r"log_prob returned \(3, 2\)"):
        elbo(sde, oracle2.denoiser(sde), x, prior=torch.distributions.Normal(0.0, 1.0))

    def breaks(x: Tensor, t: Tensor, bad: Tensor) -> Tensor:
        score = oracle2.denoiser(sde).score(x, t)
        return score.masked_fill((bad & (t > 0.5))[:, None], math.nan)

    bad = torch.tensor([False, True, False])
    with pytest.warns(RuntimeWarning, match=r"bound of sample 6 is NaN: the net is not finite at t = 0\.[5-9]"):
        found = elbo(sde, breaks, x, index_offset=5, condition={"bad": bad})
    good = elbo(sde, breaks, x, index_offset=5, condition={"bad": bad & False})
    assert found.log_prob.isnan().tolist() == found.stderr.isnan().tolist() == bad.tolist()
    torch.testing.assert_close(found.log_prob[[0, 2]], good.log_prob[[0, 2]], rtol=1e-12, atol=0)
