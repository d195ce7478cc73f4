"""Energy nets: their score, their use in sampling and likelihood, and their density, on energies that are known."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sdescore import VPSDE, Denoiser, GaussianMixture, KarrasSDE, LinearSDE, log_likelihood, sample
from sdescore.denoisers.denoiser import BareDenoiser
from sdescore.denoisers.energy import Distance, Energy, log_density
from sdescore.nets import MLP
from sdescore.objectives.denoising import denoising_score_matching
from sdescore.training.config import TrainConfig

SDE = VPSDE()
MEAN, STD = 0.4, 0.6


class Quadratic(nn.Module):
    """The energy of x_t for x0 ~ N(MEAN, STD^2), at (x, t): (x - alpha MEAN)^2 / (2 (alpha^2 STD^2 + sigma^2))."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = SDE.alpha(t), SDE.sigma(t)
        gap = (x - alpha[:, None] * MEAN).square().sum(1)
        return gap / (2 * (alpha**2 * STD**2 + sigma**2))


class Scalar(nn.Module):
    """A smooth scalar net of (x, c)."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(2)
        self.inner = nn.Parameter(torch.randn(3, 8, generator=draw, dtype=torch.float64))
        self.outer = nn.Parameter(torch.randn(8, generator=draw, dtype=torch.float64))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return torch.tanh(torch.cat([x, c[:, None]], 1) @ self.inner) @ self.outer + x.square().sum(1) / 2


def gaussian() -> GaussianMixture:
    return GaussianMixture([[MEAN, MEAN]], STD, dtype=torch.float64)


def test_score_of_a_quadratic_and_its_temperature() -> None:
    x, t = torch.randn(6, 2, dtype=torch.float64), torch.full((6,), 0.3, dtype=torch.float64)
    noised = gaussian().at(SDE, 0.3)
    torch.testing.assert_close(Energy(Quadratic())(x, t), noised.score(x))
    cold = Energy(Quadratic(), beta=4.0)
    torch.testing.assert_close(cold(x, t), 4 * noised.score(x))
    torch.testing.assert_close(cold.force(x, t), noised.score(x))
    gap = cold.log_density(x, t) / 4 - noised.log_prob(x)
    torch.testing.assert_close(gap, gap[:1].expand(6))  # the constant of normalisation


def test_samples_of_a_known_energy_are_its_gaussian() -> None:
    energy = Energy(Quadratic())
    n = 4000
    x = sample(SDE, energy, (n, 2), solver="rk4", steps=20, dtype=torch.float64)
    exact = sample(SDE, gaussian().denoiser(SDE), (n, 2), solver="rk4", steps=20)
    torch.testing.assert_close(x, exact, rtol=0, atol=1e-9)
    assert float((x.mean(0) - MEAN).abs().max()) < 4 * STD / math.sqrt(n)
    assert float((x.std(0) / STD - 1).abs().max()) < 4 / math.sqrt(2 * n) + 2e-3
    assert not x.requires_grad


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_likelihood_of_a_known_energy_is_its_gaussian(trace: str) -> None:
    x = gaussian().sample(5, seed=3)
    prior = gaussian().at(SDE, SDE.T)
    found = log_likelihood(SDE, Energy(Quadratic()), x, trace=trace, prior=prior)
    # The Jacobian of this flow is a multiple of the identity, of which signs give the trace without error.
    torch.testing.assert_close(found, gaussian().at(SDE, SDE.t_min).log_prob(x), rtol=0, atol=1e-5)


def test_the_score_differentiates_by_input_and_parameters() -> None:
    net, t = Scalar(), torch.tensor([0.1, 0.5], dtype=torch.float64)
    energy = Energy(net, beta=1.5)
    x = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: energy(x, t), (x,))

    def by_parameter(value: Tensor) -> Tensor:
        return torch.func.functional_call(energy, {"net.outer": value}, (x.detach(), t))

    assert torch.autograd.gradcheck(by_parameter, (net.outer.detach().clone().requires_grad_(),))
    with torch.no_grad():
        plain = energy(x, t)
    assert not plain.requires_grad
    torch.testing.assert_close(plain, energy(x, t).detach())


@pytest.mark.parametrize("predicts", ["score", "noise", "data", "v", "velocity", "edm"])
@pytest.mark.parametrize("bare", [False, True])
def test_log_density_of_a_denoiser_has_its_score_as_gradient(predicts: str, bare: bool) -> None:
    kind = BareDenoiser if bare else Denoiser
    denoiser = kind(Energy(Scalar(), beta=0.7), SDE, predicts, data_std=0.8)
    x = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    for t in (torch.tensor(0.4, dtype=torch.float64), torch.linspace(0.1, 0.9, 6, dtype=torch.float64)):
        value = log_density(denoiser, x, t)
        assert value.shape == (6,)
        (gradient,) = torch.autograd.grad(value.sum(), x)
        torch.testing.assert_close(gradient, denoiser.score(x, t).detach())


def test_an_energy_trains_by_denoising() -> None:
    """The gradient of the loss by a parameter equals finite differences: the double backward is right."""
    shift = Shift()
    denoiser = Denoiser(Energy(Distance(shift)), SDE, "noise", data_std=STD)
    x0, noise = gaussian().sample(64, 0), torch.randn(64, 2, dtype=torch.float64)
    u = torch.linspace(0.1, 0.9, 64, dtype=torch.float64)

    def loss() -> Tensor:
        return denoising_score_matching(denoiser, x0, u=u, eps=noise).mean()

    (gradient,) = torch.autograd.grad(loss(), shift.weight)
    with torch.no_grad():
        ends = []
        for step in (1e-5, -2e-5):
            shift.weight.add_(step)
            ends.append(float(loss()))
    assert float(gradient) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6)


@pytest.mark.parametrize("sde", [VPSDE(0.2, 15.0), KarrasSDE(0.02, 4.0)], ids=lambda sde: type(sde).__name__)
def test_a_saved_energy_samples_and_scores_as_before(sde: LinearSDE, tmp_path: Path) -> None:
    torch.manual_seed(0)
    mlp = MLP(2, width=8, depth=1)
    for parameter in mlp.parameters():
        nn.init.normal_(parameter, 0, 0.3)
    denoiser = Denoiser(Energy(Distance(mlp), beta=0.5), sde, "score", data_std=0.7, shape=(2,))
    denoiser.save_pretrained(tmp_path)
    loaded = Denoiser.from_pretrained(tmp_path)
    assert isinstance(loaded.net, Energy) and loaded.net.beta == 0.5 and loaded.sde == sde
    assert isinstance(loaded.net.net, Distance) and isinstance(loaded.net.net.net, MLP)
    x = torch.randn(3, 2)
    t = torch.tensor(0.5)
    assert torch.equal(log_density(loaded, x, t), log_density(denoiser, x, t))
    drawn = [sample(sde, net, (3, 2), steps=5) for net in (denoiser, loaded)]
    assert torch.equal(*drawn) and bool(drawn[0].isfinite().all())
    scores = [log_likelihood(sde, net, x, trace="exact") for net in (denoiser, loaded)]
    assert torch.equal(*scores) and bool(scores[0].isfinite().all())


def test_a_training_run_can_name_an_energy() -> None:
    inner = {"module": {"name": "MLP", "config": {"width": 8, "depth": 1}}}
    distance = {"module": {"name": "Distance", "config": {"net": inner}}}
    net = TrainConfig(net="Energy", net_args={"net": distance, "beta": 2.0}).build_net((3,), None)
    assert isinstance(net, Energy) and net.beta == 2 and net(torch.zeros(4, 3), torch.zeros(4)).shape == (4, 3)
    with pytest.raises(ValueError, match="net='Energy' takes net, beta: missing a required argument: 'net'"):
        TrainConfig(net="Energy", net_args={}).build_net((3,), None)


def test_an_energy_of_an_unregistered_net_is_loaded_into_one_that_is_given(tmp_path: Path) -> None:
    saved = Denoiser(Energy(Distance(Shift())), SDE)
    saved.save_pretrained(tmp_path / "new")
    with pytest.raises(ValueError, match="does not describe a denoiser"):
        Denoiser.from_pretrained(tmp_path / "new")
    loaded = Denoiser.from_pretrained(tmp_path / "new", net=Energy(Distance(Shift())))
    x = torch.ones(2, 3)
    assert torch.equal(loaded(x, torch.tensor(0.5)), saved(x, torch.tensor(0.5)))


def test_an_energy_that_is_the_same_everywhere_has_no_force() -> None:
    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.new_ones(len(x))

    assert torch.equal(Energy(Flat())(torch.ones(3, 2)), torch.zeros(3, 2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_dtype_and_a_single_sample(dtype: torch.dtype) -> None:
    x = torch.full((1, 2, 2), 0.5, dtype=dtype)
    score = Energy(Distance(nn.Linear(2, 2).to(dtype)))(x)
    assert score.dtype == dtype and score.shape == x.shape and bool(score.isfinite().all())


class Shift(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return self.weight * torch.sin(x + c[:, None])


def known() -> Denoiser:
    return Denoiser(Energy(Distance(Shift())), SDE)


@pytest.mark.parametrize(
    ("call", "error", "word"),
    [
        (lambda: Energy(Scalar(), beta=0), ValueError, "beta=0"),
        (lambda: Energy(Scalar(), beta=math.nan), ValueError, "beta=nan"),
        (lambda: Energy(torch.sum), TypeError, "net is a builtin"),  # type: ignore[arg-type]
        (lambda: Distance({"net": "MLP"}), TypeError, "net is a dict"),  # type: ignore[arg-type]
        (lambda: Energy(nn.Identity())(torch.zeros(3, 2)), ValueError, r"returned \(3, 2\)"),
        (
            lambda: log_density(Denoiser(nn.Identity(), SDE), torch.zeros(3, 2), torch.tensor(0.5)),
            TypeError,
            "Identity",
        ),
        (lambda: log_density(known(), torch.zeros(3, 2), torch.tensor(7.0)), ValueError, "t spans"),
        (lambda: log_density(known(), torch.zeros(3, 2), torch.zeros(2)), ValueError, "t has shape"),
        (
            lambda: Denoiser(Energy(Shift()), SDE)(torch.zeros(3, 2), torch.tensor(0.5)),
            ValueError,
            "one number per sample",
        ),
    ],
)
def test_bad_input_is_named(call: Callable[[], object], error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        call()


def test_inference_mode_is_named() -> None:
    with torch.inference_mode(), pytest.raises(RuntimeError, match="no_grad"):
        Energy(Quadratic())(torch.zeros(3, 2), torch.full((3,), 0.5))
