"""Denoising score matching against closed forms: every expectation is exact, by Gauss-Hermite quadrature."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from sdescore import (
    VESDE,
    VPSDE,
    CosineSDE,
    Denoiser,
    FlowSDE,
    GaussianMixture,
    KarrasSDE,
    LinearSDE,
    SubVPSDE,
    denoising_score_matching,
)
from sdescore.objectives import TIME_DISTRIBUTIONS, stratified

PROCESSES = [VPSDE(), SubVPSDE(), VESDE(), CosineSDE(), KarrasSDE(), FlowSDE()]
STD = 0.7
process = pytest.mark.parametrize("sde", PROCESSES, ids=lambda sde: type(sde).__name__)


def plane() -> tuple[Tensor, Tensor, Tensor]:
    """Nodes (x0, eps) and weights for expectations over x0 ~ N(0, STD^2) and eps ~ N(0, 1) in one dimension."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(12)
    x0, noise = (torch.tensor(axis.reshape(-1, 1)) for axis in np.meshgrid(STD * nodes, nodes, indexing="ij"))
    return x0, noise, torch.tensor(np.outer(weights, weights).ravel() / (2 * math.pi))


def expected_loss(denoiser: Denoiser, quantile: float, **options: object) -> float:
    x0, noise, weights = plane()
    u = torch.full((len(x0),), quantile, dtype=torch.float64)
    return float(weights @ denoising_score_matching(denoiser, x0, u=u, eps=noise, **options))  # type: ignore[arg-type]


def weight_of_the_papers(name: str, sde: LinearSDE, t: Tensor, data_std: float) -> float:
    """Each weighting as its paper states it, on the score or on the data, carried over to the noise by hand."""
    alpha, sigma, g = (float(c(t)) for c in (sde.alpha, sde.sigma, sde.g))
    rho = sigma / alpha
    return {
        "simple": sigma**2 / sigma**2,
        "likelihood": g**2 / sigma**2,
        "edm": (rho**2 + data_std**2) / (rho * data_std) ** 2 * rho**2,
        "min-snr": min(1 / rho**2, 5.0) * rho**2,
    }[name]


def test_a_compiled_denoiser_is_one() -> None:
    denoiser = GaussianMixture([[0.0]], STD, dtype=torch.float64).denoiser(VPSDE())
    x0, noise, _ = plane()
    u = torch.full((len(x0),), 0.4, dtype=torch.float64)
    wrapped = torch.compile(denoiser)  # nothing is compiled: the loss asks for its noise
    ours, theirs = (denoising_score_matching(model, x0, u=u, eps=noise) for model in (denoiser, wrapped))
    assert torch.equal(ours, theirs)


@process
@pytest.mark.parametrize("weighting", ["simple", "likelihood", "edm", "min-snr"])
@pytest.mark.parametrize("quantile", [0.02, 0.3, 0.9])
def test_exact_score_attains_the_floor(sde: LinearSDE, weighting: str, quantile: float) -> None:
    denoiser = GaussianMixture([[0.0]], STD, dtype=torch.float64).denoiser(sde)
    t = torch.tensor(sde.t_min + quantile * (sde.T - sde.t_min), dtype=torch.float64)
    signal, noise = float(sde.alpha(t)) ** 2 * STD**2, float(sde.sigma(t)) ** 2
    floor = weight_of_the_papers(weighting, sde, t, denoiser.data_std) / 2 * signal / (signal + noise)
    assert expected_loss(denoiser, quantile, weighting=weighting) == pytest.approx(floor, rel=1e-9)


class Scale(nn.Module):
    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, y: Tensor, c_noise: Tensor) -> Tensor:
        return self.slope * y


@process
@pytest.mark.parametrize("predicts", ["score", "noise", "data", "v", "velocity", "edm"])
def test_the_minimiser_of_a_linear_net_is_the_exact_score(sde: LinearSDE, predicts: str) -> None:
    quantile = 0.4
    t = torch.tensor(sde.t_min + quantile * (sde.T - sde.t_min), dtype=torch.float64)
    nets = [Denoiser(Scale(slope), sde, predicts, data_std=STD) for slope in (-1.0, 0.0, 1.0)]
    left, middle, right = (expected_loss(net, quantile) for net in nets)
    best = (left - right) / (2 * (left - 2 * middle + right))  # vertex of the parabola
    x = torch.tensor([[1.3]], dtype=torch.float64)
    score = Denoiser(Scale(best), sde, predicts, data_std=STD).score(x, t)
    variance = sde.alpha(t) ** 2 * STD**2 + sde.sigma(t) ** 2
    assert float(score) == pytest.approx(float(-x / variance), rel=1e-6)


def test_importance_sampling_of_the_likelihood_weight_is_constant() -> None:
    u = torch.linspace(0, 1, 101, dtype=torch.float64)
    sde = VPSDE()
    t, factor = TIME_DISTRIBUTIONS["importance"].place(sde, u)
    total = factor * (sde.g(t) / sde.sigma(t)) ** 2 * (sde.T - sde.t_min)
    torch.testing.assert_close(total, torch.full_like(u, 23.86447237), rtol=1e-9, atol=0)


@process
def test_importance_sampling_keeps_the_mean_loss(sde: LinearSDE) -> None:
    count = 400_000
    u = (torch.arange(count, dtype=torch.float64) + 0.5) / count

    def mean(times: str) -> float:
        t, factor = TIME_DISTRIBUTIONS[times].place(sde, u)
        signal, noise = sde.alpha(t) ** 2 * STD**2, sde.sigma(t) ** 2
        return float((factor * sde.g(t) ** 2 / noise * signal / (signal + noise)).mean())

    assert mean("importance") == pytest.approx(mean("uniform"), rel=2e-3)


@process
def test_log_normal_times(sde: LinearSDE) -> None:
    u = torch.linspace(0.01, 0.99, 25, dtype=torch.float64)
    t, _ = TIME_DISTRIBUTIONS["log-normal"].place(sde, u)
    ends = -sde.lam(torch.tensor([sde.t_min, sde.T], dtype=torch.float64)).numpy()
    law = stats.truncnorm(*((ends + 1.2) / 1.2), loc=-1.2, scale=1.2)
    np.testing.assert_allclose(law.cdf(-sde.lam(t).numpy()), u.numpy(), atol=1e-9)


def test_low_discrepancy_has_one_time_in_every_stratum() -> None:
    u = stratified(64, torch.Generator().manual_seed(1))
    assert sorted((u * 64).floor().tolist()) == list(range(64))
    assert TIME_DISTRIBUTIONS["low-discrepancy"].draw is stratified


def test_drawn_and_given_noise_agree() -> None:
    denoiser = GaussianMixture([[0.0, 1.0]], STD).denoiser(VPSDE())
    x0 = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    drawn = denoising_score_matching(denoiser, x0, generator=torch.Generator().manual_seed(3))
    own = torch.Generator().manual_seed(3)
    u = torch.rand(5, generator=own)
    noise = torch.randn(5, 2, generator=own)
    torch.testing.assert_close(drawn, denoising_score_matching(denoiser, x0, u=u, eps=noise), rtol=0, atol=0)


def test_the_condition_reaches_the_net() -> None:
    class Shift(nn.Module):
        def forward(self, y: Tensor, c_noise: Tensor, shift: Tensor) -> Tensor:
            return shift.expand_as(y)

    noise, u, x0 = torch.tensor([[1.0], [2.0]]), torch.tensor([0.5, 0.5]), torch.zeros(2, 1)
    denoiser = Denoiser(Shift(), VPSDE(), "noise")
    losses = denoising_score_matching(denoiser, x0, u=u, eps=noise, condition={"shift": torch.tensor([[1.0], [0.0]])})
    torch.testing.assert_close(losses, torch.tensor([0.0, 2.0]), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"weighting": "snr"}, ValueError, "weighting='snr'; expected 'simple'"),
        ({"time_distribution": "normal"}, ValueError, "time_distribution='normal'; expected 'uniform'"),
        ({"u": torch.rand(3)}, ValueError, "u has shape"),
        ({"eps": torch.randn(2, 3)}, ValueError, "eps has shape"),
        ({"u": torch.tensor([0.5, 1.5])}, ValueError, r"u spans \[0.5, 1.5\]"),
    ],
)
def test_bad_arguments(options: dict[str, object], error: type[Exception], message: str) -> None:
    denoiser = GaussianMixture([[0.0, 1.0]]).denoiser(VPSDE())
    with pytest.raises(error, match=message):
        denoising_score_matching(denoiser, torch.zeros(2, 2), **options)  # type: ignore[arg-type]


def test_data_that_is_not_finite_is_refused() -> None:
    denoiser = GaussianMixture([[0.0, 1.0]]).denoiser(VPSDE())
    with pytest.raises(ValueError, match="x0 is not finite"):
        denoising_score_matching(denoiser, torch.full((2, 2), math.nan))
    with pytest.raises(ValueError, match="x0 is not finite"):
        VPSDE().perturb(torch.full((2, 2), math.inf), torch.tensor(0.5), torch.zeros(2, 2))


def test_unscaled_images_are_refused() -> None:
    denoiser = GaussianMixture([[0.0, 1.0]]).denoiser(VPSDE())
    with pytest.raises(TypeError, match=r"x0 has dtype torch.uint8; .*scale it"):
        denoising_score_matching(denoiser, torch.zeros(2, 2, dtype=torch.uint8))
