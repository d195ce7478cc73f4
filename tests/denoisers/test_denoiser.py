"""Denoisers: the predictions of a net of each kind, of one process on another, and what a net is given."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from prediction_kinds import DATA_STD, KINDS, coefficients
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from sdescore import (
    SDE,
    VPSDE,
    Denoiser,
    GaussianMixture,
    KarrasSDE,
    LinearSDE,
    ReverseProcess,
    SubVPSDE,
    sample,
)
from sdescore.denoisers import convert


def in_terms_of(kind: str, sde: LinearSDE, t: Tensor, x: Tensor, score: Tensor) -> Tensor:
    """The prediction of a kind, by its definition, from the score."""
    c = coefficients(sde, t)
    alpha, sigma = c["alpha"], c["sigma"]
    noise = -sigma * score
    data = (x + sigma**2 * score) / alpha
    rho, norm = sigma / alpha, ((sigma / alpha) ** 2 + DATA_STD**2).sqrt()
    return {
        "data": data,
        "noise": noise,
        "score": score,
        "v": alpha * noise - sigma * data,
        "velocity": c["alpha_dot"] * data + c["sigma_dot"] * noise,
        "edm": (data - DATA_STD**2 / norm**2 * x / alpha) / (rho * DATA_STD / norm),
    }[kind]


class ExactNet(nn.Module):
    """A raw net with the oracle's predictions of a kind: it undoes the preconditioning."""

    def __init__(self, oracle: GaussianMixture, sde: LinearSDE, kind: str) -> None:
        super().__init__()
        self.oracle, self.sde, self.kind = oracle, sde, kind

    def forward(self, y: Tensor, c_noise: Tensor) -> Tensor:
        assert c_noise.shape == (len(y),)
        t = self.sde.time(-4 * c_noise[0]).clamp(self.sde.t_min, self.sde.T)
        x = y * (self.sde.alpha(t) ** 2 * DATA_STD**2 + self.sde.sigma(t) ** 2).sqrt()
        return in_terms_of(self.kind, self.sde, t, x, self.oracle.at(self.sde, t).score(x))


@pytest.mark.parametrize("kind", KINDS)
def test_exact_net_of_each_kind(sde: LinearSDE, kind: str, oracle2: GaussianMixture) -> None:
    denoiser = Denoiser(ExactNet(oracle2, sde, kind), sde, kind, DATA_STD)
    for part in (0.05, 0.3, 0.7, 1.0):
        t = torch.tensor(part * sde.T, dtype=torch.float64)
        there = oracle2.at(sde, t)
        x = there.sample(64, seed=1)
        score = there.score(x)
        methods: dict[str, Callable[..., Tensor]] = {
            "data": denoiser,
            "noise": denoiser.noise,
            "score": denoiser.score,
            "v": denoiser.v,
            "velocity": denoiser.velocity,
        }
        for name, method in methods.items():
            expected = in_terms_of(name, sde, t, x, score)
            assert float((method(x, t) - expected).abs().max() / expected.abs().max()) < 1e-9, (name, part)
        assert torch.allclose(denoiser.predict(kind, x, t.expand(64)), in_terms_of(kind, sde, t, x, score), rtol=1e-8)


@pytest.mark.parametrize("kind", ["noise", "score", "velocity", "edm"])
@pytest.mark.parametrize("own", [VPSDE(), SubVPSDE(), KarrasSDE(1e-4, 500.0)], ids=lambda sde: type(sde).__name__)
def test_net_of_one_process_on_another(sde: LinearSDE, own: LinearSDE, kind: str, oracle2: GaussianMixture) -> None:
    """ReverseProcess reads a state of any process with a net of another, exactly."""
    reverse = ReverseProcess(sde, Denoiser(ExactNet(oracle2, own, kind), own, kind, DATA_STD))
    for lam in (-3.0, -1.0, 1.0, 3.0):
        t = sde.time(torch.tensor(lam, dtype=torch.float64))
        there = oracle2.at(sde, t)
        x = there.sample(64, seed=1)
        score = there.score(x)
        predictions = {"data": reverse.data, "noise": reverse.noise, "score": reverse.score}
        for name, method in {**predictions, "velocity": reverse.velocity}.items():
            expected = in_terms_of(name, sde, t, x, score)
            for at in (t, t.expand(64)):
                assert float((method(x, at) - expected).abs().max() / expected.abs().max()) < 1e-9, (name, lam)
        drift = sde.f(t) * x - sde.g(t) ** 2 * score
        assert float((reverse.drift(x, t) - drift).abs().max() / drift.abs().max()) < 1e-9
    assert reverse.net_calls.count == 4 * 9


def test_net_of_another_process_samples_the_same(sde: LinearSDE, oracle2: GaussianMixture) -> None:
    """Sampling with a net of another process equals sampling with the process's own oracle."""
    other = KarrasSDE(1e-4, 500.0)
    net = Denoiser(ExactNet(oracle2, other, "noise"), other, "noise", DATA_STD)
    lam = torch.linspace(-2.5, 3.5, 12, dtype=torch.float64)
    times = sde.time(lam).clamp(sde.t_min, sde.T)
    mine = sample(sde, net, (16, 2), times=times, dtype=torch.float64)
    exact = sample(sde, oracle2.denoiser(sde), (16, 2), times=times)
    assert float((mine - exact).abs().max()) < 1e-8


class Recorder(nn.Module):
    """A net that keeps what it is given."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=dtype))
        self.given: list[tuple[Tensor, Tensor, dict[str, Any]]] = []

    def forward(self, y: Tensor, c_noise: Tensor, **condition: Any) -> Tensor:
        self.given.append((y, c_noise, condition))
        return self.weight * y


def test_what_the_net_is_given(sde: LinearSDE, oracle2: GaussianMixture) -> None:
    """y of unit variance, c_noise = ln(rho) / 4 of shape (batch,), and the condition by name."""
    std = float(oracle2.denoiser(sde).data_std)
    net = Recorder()
    denoiser = Denoiser(net, sde, "v", std)
    label = torch.arange(20_000)
    for part in (1e-5, 0.1, 0.5, 1.0):
        t = torch.tensor(max(part * sde.T, sde.t_min), dtype=torch.float64)
        denoiser(oracle2.at(sde, t).sample(20_000).float(), t, label=label)
        y, c_noise, condition = net.given.pop()
        assert y.shape == (20_000, 2) and y.dtype == torch.float32
        assert float(y.double().var(0).mean()) == pytest.approx(1, abs=0.03), part
        assert c_noise.shape == (20_000,) and c_noise.dtype == torch.float32
        assert torch.allclose(c_noise.double(), (sde.sigma(t) / sde.alpha(t)).log() / 4, rtol=1e-5, atol=1e-6)
        assert list(condition) == ["label"] and condition["label"] is label


def test_times_of_each_sample() -> None:
    sde, net = VPSDE(), Recorder()
    t = torch.tensor([0.1, 0.5, 0.9])
    x = torch.randn(3, 2, 4, 4)
    Denoiser(net, sde)(x, t)
    y, c_noise, _ = net.given[0]
    assert torch.allclose(c_noise, sde.rho(t).log() / 4, rtol=1e-5)
    scale = (sde.alpha(t) ** 2 / 4 + sde.sigma(t) ** 2).sqrt()
    assert torch.allclose(y * scale.reshape(3, 1, 1, 1), x, rtol=1e-5)


def test_low_precision_net_leaves_the_state_alone() -> None:
    """A bfloat16 net is fed bfloat16; the state, its coefficients and the result stay float32."""
    sde, net = VPSDE(), Recorder(torch.bfloat16)
    denoiser = Denoiser(net, sde, "noise")
    x, t = torch.randn(4, 3), torch.tensor(1e-3)
    assert denoiser(x, t).dtype == torch.float32
    y, c_noise, _ = net.given[0]
    assert y.dtype == torch.bfloat16 and c_noise.dtype == torch.float32
    # At t = 1e-3 the data is the state less sigma = 0.01 of the prediction: bfloat16 of the state would lose 4e-3.
    scale = (sde.alpha(t) ** 2 / 4 + sde.sigma(t) ** 2).sqrt()
    exact = (x - sde.sigma(t) * x / scale) / sde.alpha(t)
    assert float((denoiser(x, t) - exact).detach().abs().max()) < 1e-3
    assert sample(sde, denoiser, (4, 3), steps=3).dtype == torch.float32


def test_gradients_reach_the_net() -> None:
    net = Recorder()
    Denoiser(net, VPSDE(), "v")(torch.randn(2, 3), torch.tensor(0.5)).sum().backward()
    assert net.weight.grad is not None and float(net.weight.grad) != 0


class Fixed(nn.Module):
    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, y: Tensor, c_noise: Tensor) -> Any:
        return self.output


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (torch.zeros(2, 1), r"net returned \(2, 1\) for x of shape \(2, 3\)"),
        (torch.zeros(2, 2, 3), r"net returned \(2, 2, 3\)"),
        ((torch.zeros(2, 2),), r"net returned \(2, 2\) for x of shape \(2, 3\); it must return \(2, 3\)$"),
        (torch.zeros(2, 6), r"it must return \(2, 3\): half of it may be a learned variance, see NetTerms"),
        ({"sample": torch.zeros(2, 3)}, "net returned dict"),
    ],
)
def test_output_of_another_shape(output: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Denoiser(Fixed(output), VPSDE())(torch.zeros(2, 3), torch.tensor(0.5))


class NotLinear(SDE):
    drift = diffusion = prior_sample = prior_log_prob = lambda *_: torch.zeros(1)  # type: ignore[assignment]


def test_bad_arguments() -> None:
    net, sde = Recorder(), VPSDE()
    x, t = torch.zeros(2, 3), torch.tensor(0.5)
    with pytest.raises(ValueError, match="predicts='epsilon'; expected 'data', 'noise', 'score'"):
        Denoiser(net, sde, "epsilon")
    for std in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="data_std"):
            Denoiser(net, sde, data_std=std)
    with pytest.raises(TypeError, match="sde is a NotLinear"):
        Denoiser(net, NotLinear())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="kind='x0'; expected"):
        Denoiser(net, sde).predict("x0", x, t)
    with pytest.raises(ValueError, match="given='x0'; expected"):
        convert(x, x, t, sde, "x0", "noise")
    with pytest.raises(ValueError, match="wanted='x0'; expected"):
        convert(x, x, t, sde, "noise", "x0")
    with pytest.raises(ValueError, match="kind='x0'; expected"):
        ReverseProcess(sde, Denoiser(net, sde)).predict("x0", x, t)
    with pytest.raises(ValueError, match="predicts='score', but the Denoiser's net predicts 'noise'"):
        sample(sde, Denoiser(net, sde), (2, 3), predicts="score")
    assert not net.given


def test_take_selects_the_condition() -> None:
    net = Recorder()
    reverse = ReverseProcess(VPSDE(), Denoiser(net, VPSDE()), {"label": torch.arange(5)})
    chosen = reverse.select(torch.tensor([4, 1]))
    chosen.data(torch.zeros(2, 3), torch.tensor(0.5))
    assert net.given[0][2]["label"].tolist() == [4, 1]
    assert reverse.net_calls.count == 1


@pytest.mark.parametrize(
    ("x", "t", "message"),
    [
        (torch.zeros(2, 3), torch.tensor(1.5), r"t spans \[1\.5, 1\.5\], but VPSDE is used on"),
        (torch.zeros(2, 3), torch.tensor([0.5, -1.0]), r"t spans \[-1, 0\.5\]"),
        (torch.zeros(2, 3), torch.full((3,), 0.5), r"t has shape \(3,\); expected \(\) or \(2,\)"),
        (torch.zeros(2, 4), torch.tensor(0.5), r"x has samples of shape \(4,\); expected \(3,\)"),
    ],
)
@pytest.mark.parametrize("kind", ["data", "score"])
def test_what_does_not_fit_a_denoiser_is_refused(x: Tensor, t: Tensor, message: str, kind: str) -> None:
    denoiser = GaussianMixture(torch.zeros(1, 3)).denoiser(VPSDE())
    with pytest.raises(ValueError, match=message):
        denoiser(x, t) if kind == "data" else denoiser.score(x, t)


@pytest.mark.parametrize(
    "wrap", [torch.compile, AveragedModel, nn.DataParallel], ids=["compile", "average", "parallel"]
)
def test_a_wrapped_denoiser_is_found(wrap: Callable[[nn.Module], nn.Module], oracle2: GaussianMixture) -> None:
    sde = VPSDE()
    denoiser = Denoiser(Affine(), sde).double()
    plain = sample(sde, denoiser, (4, 2), nfe=5, dtype=torch.float64)
    assert torch.equal(sample(sde, wrap(denoiser), (4, 2), nfe=5, dtype=torch.float64), plain)


class Affine(nn.Module):
    """A small net of vectors in the plane."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, y: Tensor, c_noise: Tensor) -> Tensor:
        return self.layer(y)


def test_a_net_that_writes_over_its_input_is_noticed() -> None:
    def net(x: Tensor, t: Tensor) -> Tensor:
        return x.relu_() - 1

    for solver in ("adams", "euler-maruyama"):
        with pytest.raises(ValueError, match="net wrote over its input, which is the state"):
            sample(VPSDE(), net, (4, 2), nfe=5, solver=solver)
    inside = Denoiser(nn.Sequential(), VPSDE())  # what a Denoiser hands out is a scaled copy
    inside.net.forward = lambda y, c_noise: y.relu_() - 1
    assert bool(sample(VPSDE(), inside, (4, 2), nfe=5).isfinite().all())
