"""The oracle itself, against torch.distributions, autograd, quadrature and the laws of its samples."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from sdescore import VPSDE, GaussianMixture, KarrasSDE, LinearSDE


def reference(mixture: GaussianMixture) -> MixtureSameFamily:
    parts = Independent(Normal(mixture.means, mixture.stds), mixture.means.ndim - 1)
    return MixtureSameFamily(Categorical(mixture.weights), parts)


def image_mixture(dtype: torch.dtype = torch.float64) -> GaussianMixture:
    draw = torch.Generator().manual_seed(3)
    means = torch.randn(3, 2, 4, 4, generator=draw, dtype=dtype)
    return GaussianMixture(means, 0.2 + torch.rand(3, 2, 4, 4, generator=draw, dtype=dtype), [1.0, 2.0, 5.0])


@pytest.fixture(params=["oracle2", "oracle64", "image"])
def mixture(request: pytest.FixtureRequest) -> GaussianMixture:
    return image_mixture() if request.param == "image" else request.getfixturevalue(request.param)


def points(mixture: GaussianMixture) -> Tensor:
    """Some from the mixture, some in its tails."""
    x = mixture.sample(64, seed=9)
    return torch.cat([x, 5 * x])


def test_log_prob(mixture: GaussianMixture) -> None:
    x = points(mixture)
    assert torch.allclose(mixture.log_prob(x), reference(mixture).log_prob(x), rtol=1e-12, atol=1e-10)


def test_score_is_the_gradient_of_log_prob(mixture: GaussianMixture) -> None:
    x = points(mixture).requires_grad_()
    (gradient,) = torch.autograd.grad(reference(mixture).log_prob(x).sum(), x)
    assert torch.allclose(mixture.score(x.detach()), gradient, rtol=1e-9, atol=1e-9)


def test_float32(mixture: GaussianMixture) -> None:
    low, x = mixture.to(torch.float32), points(mixture).float()
    assert low.sample(3).dtype == low.log_prob(x).dtype == low.score(x).dtype == torch.float32
    assert torch.allclose(low.log_prob(x).double(), mixture.log_prob(x.double()), rtol=1e-5, atol=1e-3)
    scale = mixture.score(x.double()).abs().max()
    assert float((low.score(x).double() - mixture.score(x.double())).abs().max() / scale) < 1e-5
    assert GaussianMixture([[0.0, 1.0]], dtype=torch.float64).sample(2).dtype == torch.float64
    assert GaussianMixture([[0, 1]]).sample(2).dtype == torch.get_default_dtype()


@pytest.mark.parametrize(
    "stds", [0.5, torch.tensor(0.5), [0.5, 0.2], [[0.5, 0.1, 0.2], [0.3, 0.3, 0.4]]], ids=["float", "()", "(k)", "full"]
)
def test_shapes_of_stds(stds: Any) -> None:
    means = torch.tensor([[0.0, 1.0, 2.0], [3.0, 1.0, -1.0]], dtype=torch.float64)
    mixture = GaussianMixture(means, stds)
    full = torch.as_tensor(stds, dtype=torch.float64)
    full = full.reshape(2, 1) if full.ndim == 1 else full
    expected = MixtureSameFamily(
        Categorical(torch.ones(2, dtype=torch.float64)), Independent(Normal(means, full.expand(2, 3)), 1)
    )
    x = torch.randn(10, 3, dtype=torch.float64)
    assert torch.allclose(mixture.log_prob(x), expected.log_prob(x), rtol=1e-12)
    assert mixture.shape == (3,)


def moments(mixture: GaussianMixture) -> tuple[Tensor, Tensor]:
    """The mean and the covariance of the flattened mixture."""
    means, stds = mixture.means.flatten(1), mixture.stds.flatten(1)
    mean = mixture.weights @ means
    gap = means - mean
    return mean, (gap.T * mixture.weights) @ gap + torch.diag(mixture.weights @ stds.square())


def check_moments(x: Tensor, mixture: GaussianMixture) -> None:
    """Every mean and covariance within 5 standard errors, as estimated from the sample."""
    flat = x.flatten(1)
    mean, covariance = moments(mixture)
    error = flat.std(0) / math.sqrt(len(flat))
    assert float(((flat.mean(0) - mean).abs() / error).max()) < 5
    gap = flat - mean
    products = gap.unsqueeze(1) * gap.unsqueeze(2)
    error = products.std(0) / math.sqrt(len(flat))
    assert float(((products.mean(0) - covariance).abs() / error).max()) < 5


def test_samples_have_its_moments(mixture: GaussianMixture) -> None:
    check_moments(mixture.sample(4_000, seed=1), mixture)


def test_samples_have_its_weights(oracle64: GaussianMixture) -> None:
    """In 64 dimensions the modes are apart: the nearest tells the component."""
    count = 20_000
    nearest = torch.cdist(oracle64.sample(count, seed=2), oracle64.means).argmin(1)
    shares = torch.bincount(nearest, minlength=4) / count
    error = (oracle64.weights * (1 - oracle64.weights) / count).sqrt()
    assert float(((shares - oracle64.weights).abs() / error).max()) < 4


def test_samples_belong_to_the_seed(mixture: GaussianMixture) -> None:
    assert torch.equal(mixture.sample(8, seed=5), mixture.sample(8, seed=5))
    assert not torch.equal(mixture.sample(8, seed=5), mixture.sample(8, seed=6))
    assert mixture.sample(8).shape == (8, *mixture.shape)


def test_noised_mixture_is_the_law_of_noised_samples(sde: LinearSDE, oracle2: GaussianMixture) -> None:
    x0 = oracle2.sample(50_000, seed=3)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    for part in (1e-5, 0.2, 1.0):
        t = torch.tensor(max(part * sde.T, sde.t_min), dtype=torch.float64)
        check_moments(sde.perturb(x0, t, noise), oracle2.at(sde, t))


def test_denoiser_is_the_noised_mixture(sde: LinearSDE, mixture: GaussianMixture) -> None:
    """Score, noise and data from the score of .at(), for t of both shapes, down to t_min."""
    denoiser = mixture.denoiser(sde)
    for part in (1e-5, 0.01, 0.3, 1.0):
        t = torch.tensor(max(part * sde.T, sde.t_min), dtype=torch.float64)
        there = mixture.at(sde, float(t))
        x, sigma = there.sample(32, seed=1), float(sde.sigma(t))
        score = there.score(x)
        for at in (t, t.expand(32)):
            assert torch.allclose(denoiser.score(x, at), score, rtol=1e-9, atol=1e-9 / sigma)
            assert torch.allclose(denoiser.noise(x, at), -sigma * score, rtol=1e-9, atol=1e-9)
            data = (x + sigma**2 * score) / float(sde.alpha(t))
            # x + sigma^2 score cancels where alpha is small; denoiser() does not.
            assert torch.allclose(denoiser(x, at), data, rtol=1e-9, atol=1e-11 / float(sde.alpha(t)))


def test_times_of_each_row(oracle2: GaussianMixture) -> None:
    sde, x = VPSDE(), oracle2.sample(3)
    t = torch.tensor([0.01, 0.3, 0.9], dtype=torch.float64)
    together = oracle2.denoiser(sde)(x, t)
    alone = [oracle2.denoiser(sde)(x[i : i + 1], t[i]) for i in range(3)]
    assert torch.allclose(together, torch.cat(alone), rtol=1e-12)


def test_denoiser_against_quadrature() -> None:
    """E[x0 | x_t] in one dimension, integrated."""
    mixture = GaussianMixture(torch.tensor([[-1.0], [0.5]], dtype=torch.float64), [0.3, 0.1], [0.6, 0.4])
    sde = KarrasSDE()
    x0 = torch.linspace(-5, 5, 20_001, dtype=torch.float64)
    prior = mixture.log_prob(x0.unsqueeze(1)).exp()
    for sigma in (0.1, 0.5, 2.0):
        x = torch.linspace(-2, 2, 9, dtype=torch.float64)
        joint = prior * (-((x.unsqueeze(1) - x0) ** 2) / (2 * sigma**2)).exp()
        expected = (joint * x0).sum(1) / joint.sum(1)
        t = torch.tensor(sigma, dtype=torch.float64)
        assert torch.allclose(mixture.denoiser(sde)(x.unsqueeze(1), t).squeeze(1), expected, rtol=1e-9)


def test_data_std_is_that_of_the_samples(mixture: GaussianMixture) -> None:
    x = mixture.sample(20_000)
    assert mixture.denoiser(VPSDE()).data_std == pytest.approx(float(x.var(0).mean().sqrt()), rel=0.02)
    assert mixture.denoiser(VPSDE()).shape == mixture.shape


def test_denoiser_in_float32(sde: LinearSDE, oracle2: GaussianMixture) -> None:
    low, high = oracle2.to(torch.float32).denoiser(sde), oracle2.denoiser(sde)
    for part in (1e-5, 0.01, 0.3, 1.0):
        t = torch.tensor(max(part * sde.T, sde.t_min), dtype=torch.float64)
        x = oracle2.at(sde, t).sample(64, seed=1).float()
        for method in ("forward", "noise"):
            value = getattr(low, method)(x, t)
            assert value.dtype == torch.float32
            assert torch.allclose(value.double(), getattr(high, method)(x.double(), t), rtol=1e-4, atol=2e-4), part


def test_far_away_is_finite(oracle2: GaussianMixture) -> None:
    x = torch.full((1, 2), 1e4, dtype=torch.float64)
    assert bool(oracle2.score(x).isfinite().all()) and bool(oracle2.log_prob(x).isfinite())
    assert bool(oracle2.denoiser(VPSDE())(x, torch.tensor(0.01)).isfinite().all())


MEANS = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"means": torch.zeros(3)}, r"means has shape \(3,\); expected \(components, \*shape\)"),
        ({"means": MEANS, "stds": 0.0}, "stds must be positive"),
        ({"means": MEANS, "stds": math.inf}, "stds must be positive"),
        ({"means": MEANS, "weights": [1.0] * (len(MEANS) - 1) + [math.inf]}, "weights has shape"),
        ({"means": torch.zeros(0, 2)}, r"means has shape \(0, 2\); .* at least one component"),
        ({"means": MEANS, "stds": torch.ones(len(MEANS), 7)}, "stds must be positive"),
        ({"means": [[math.nan], [1.0]]}, "means is not finite in component 0"),
        ({"means": MEANS, "stds": math.nan}, "stds must be positive"),
        ({"means": MEANS, "stds": [1.0, -1.0]}, "stds must be positive"),
        ({"means": MEANS, "stds": torch.ones(3)}, r"stds must be positive: .*\(components, \*shape\)"),
        ({"means": MEANS, "weights": [1.0]}, "weights has shape"),
        ({"means": MEANS, "weights": [1.0, 0.0]}, "weights has shape"),
        ({"means": MEANS, "weights": [1.0, math.nan]}, "weights has shape"),
    ],
)
def test_bad_parameters(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GaussianMixture(**arguments)


def test_bad_arguments(oracle2: GaussianMixture) -> None:
    for method in (oracle2.log_prob, oracle2.score):
        with pytest.raises(ValueError, match=r"x has shape \(4, 1\); expected \(batch, 2\)"):
            method(torch.zeros(4, 1))
    for t in (0.0, 1.1):
        with pytest.raises(ValueError, match="t spans"):
            oracle2.at(VPSDE(), t)
    with pytest.raises(ValueError, match=r"t has shape \(2,\)"):
        oracle2.at(VPSDE(), torch.tensor([0.1, 0.2]))
