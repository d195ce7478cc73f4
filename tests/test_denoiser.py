"""Denoisers: every prediction from every other, on every process, and a net of one process on another."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sdescore import (
    PREDICTIONS,
    SDE,
    VPSDE,
    Denoiser,
    GaussianMixture,
    KarrasSDE,
    LinearSDE,
    Reverse,
    SubVPSDE,
    convert,
    sample,
)

KINDS = ["data", "noise", "score", "v", "velocity", "edm"]
DATA_STD = 0.6

Terms = tuple[Tensor, Tensor]  # what multiplies x, and what multiplies the prediction


def coefficients(sde: LinearSDE, t: Tensor) -> dict[str, Tensor]:
    """alpha, sigma and their derivatives by autograd."""
    values = {"alpha": sde.alpha(t), "sigma": sde.sigma(t)}
    for name in ("alpha", "sigma"):
        with torch.enable_grad():
            u = t.detach().requires_grad_()
            (slope,) = torch.autograd.grad((getattr(sde, name)(u) + 0 * u).sum(), u)
        values[f"{name}_dot"] = slope
    return values


def table(kind: str, alpha: Tensor, sigma: Tensor, alpha_dot: Tensor, sigma_dot: Tensor) -> tuple[Terms, Terms]:
    """The table of conversions, written out: x0 and eps of each prediction."""
    zero, one = torch.zeros_like(alpha), torch.ones_like(alpha)
    s2 = alpha**2 + sigma**2
    rho, norm = sigma / alpha, ((sigma / alpha) ** 2 + DATA_STD**2).sqrt()
    c_skip, c_out = DATA_STD**2 / norm**2, rho * DATA_STD / norm
    wronskian = sigma * alpha_dot - alpha * sigma_dot
    return {
        "noise": ((1 / alpha, -sigma / alpha), (zero, one)),
        "data": ((zero, one), (1 / sigma, -alpha / sigma)),
        "v": ((alpha / s2, -sigma / s2), (sigma / s2, alpha / s2)),
        "score": ((1 / alpha, sigma**2 / alpha), (zero, -sigma)),
        "velocity": (
            (-sigma_dot / wronskian, sigma / wronskian),
            (alpha_dot / wronskian, -alpha / wronskian),
        ),
        "edm": ((c_skip / alpha, c_out), (rho / norm**2 / alpha, -DATA_STD / norm)),
    }[kind]


def combined(p: Tensor, q: Tensor, x0: Terms, eps: Terms) -> Terms:
    return p * x0[0] + q * eps[0], p * x0[1] + q * eps[1]


def wanted_terms(kind: str, given: str, sde: LinearSDE, t: Tensor) -> Terms:
    """The wanted prediction in terms of x and of the given one, by its own definition."""
    c = coefficients(sde, t)
    alpha, sigma = c["alpha"], c["sigma"]
    zero, one = torch.zeros_like(alpha), torch.ones_like(alpha)
    if kind == given:
        return zero, one
    x0, eps = table(given, **c)
    # From F = (x0 - c_skip y) / c_out with y = x0 + rho eps.
    rho, norm = sigma / alpha, ((sigma / alpha) ** 2 + DATA_STD**2).sqrt()
    p, q = {
        "data": (one, zero),
        "noise": (zero, one),
        "score": (zero, -1 / sigma),
        "v": (-sigma, alpha),
        "velocity": (c["alpha_dot"], c["sigma_dot"]),
        "edm": (rho / (DATA_STD * norm), -DATA_STD / norm),
    }[kind]
    return combined(p, q, x0, eps)


def times(sde: LinearSDE, count: int = 40) -> Tensor:
    """t_min, and log-spaced from 1e-5 (or from a later t_min) to T."""
    first = max(sde.t_min, 1e-5)
    t = torch.logspace(math.log10(first), math.log10(sde.T), count, dtype=torch.float64).clamp(first, sde.T)
    return torch.cat([t.new_tensor([sde.t_min]), t])


def test_the_kinds() -> None:
    assert sorted(PREDICTIONS) == sorted(KINDS)


@pytest.mark.parametrize("given", KINDS)
@pytest.mark.parametrize("wanted", KINDS)
def test_conversion_table(sde: LinearSDE, given: str, wanted: str) -> None:
    """The map (x, prediction) -> wanted has the coefficients that the definitions give, to 1e-10 of the larger."""
    t = times(sde)
    one, zero = torch.ones_like(t).unsqueeze(1), torch.zeros_like(t).unsqueeze(1)
    of_prediction = convert(one, zero, t, sde, given, wanted, DATA_STD).squeeze(1)
    of_x = convert(zero, one, t, sde, given, wanted, DATA_STD).squeeze(1)
    expected_x, expected_prediction = wanted_terms(wanted, given, sde, t)
    # A state's size is that of s; a prediction's as its definition says. Errors count against the larger term.
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    size = (alpha**2 + sigma**2).sqrt() * expected_x.abs() + typical(given, sde, t) * expected_prediction.abs()
    assert float(((of_x - expected_x).abs() * (alpha**2 + sigma**2).sqrt() / size).max()) < 1e-10
    gap = (of_prediction - expected_prediction).abs() * typical(given, sde, t)
    assert float((gap / size).max()) < 1e-10


def typical(kind: str, sde: LinearSDE, t: Tensor) -> Tensor:
    """The size of a prediction for x0 and eps of unit size."""
    c = coefficients(sde, t)
    return {
        "data": torch.ones_like(t),
        "noise": torch.ones_like(t),
        "score": 1 / c["sigma"],
        "v": torch.hypot(c["alpha"], c["sigma"]),
        "velocity": torch.hypot(c["alpha_dot"], c["sigma_dot"]),
        "edm": torch.ones_like(t),
    }[kind]


@pytest.mark.parametrize("given", KINDS)
@pytest.mark.parametrize("wanted", KINDS)
def test_conversion_in_float32(sde: LinearSDE, given: str, wanted: str) -> None:
    """float32 gives what float64 gives for the same float32 inputs, to 1e-5 of the larger term, at every t.

    Going through x0 instead loses .12 of the noise on sub-VP at t = 1e-5.
    """
    draw = torch.Generator().manual_seed(0)
    t = times(sde).float().clamp(max=sde.T)
    exact_t = t.double()
    x0, eps = torch.randn(2, len(t), 8, dtype=torch.float64, generator=draw)
    x = sde.perturb(x0, exact_t, eps).float()
    prediction = convert(eps, x.double(), exact_t, sde, "noise", given, DATA_STD).float()
    value = convert(prediction, x, t, sde, given, wanted, DATA_STD)
    exact = convert(prediction.double(), x.double(), exact_t, sde, given, wanted, DATA_STD)
    of_x, of_prediction = wanted_terms(wanted, given, sde, exact_t)
    size = of_x.abs().unsqueeze(1) * x.double().abs() + of_prediction.abs().unsqueeze(1) * prediction.double().abs()
    assert value.dtype == torch.float32
    assert float(((value.double() - exact).abs() / size).max()) < 1e-5


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
    """A raw net whose answers are the oracle's: it undoes the preconditioning, and predicts what it is told to."""

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
    """Reverse reads a state of any process with a net of another, exactly."""
    reverse = Reverse(sde, Denoiser(ExactNet(oracle2, own, kind), own, kind, DATA_STD))
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
    assert reverse.calls.count == 4 * 9


def test_net_of_another_process_samples_the_same(sde: LinearSDE, oracle2: GaussianMixture) -> None:
    """A whole sampling run with a VP net is the run with the process's own oracle."""
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
        ((torch.zeros(2, 3),), "net returned tuple"),
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
    with pytest.raises(ValueError, match="predicts='epsilon'; valid are 'data', 'noise', 'score'"):
        Denoiser(net, sde, "epsilon")
    for std in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="data_std"):
            Denoiser(net, sde, data_std=std)
    with pytest.raises(TypeError, match="sde is a NotLinear"):
        Denoiser(net, NotLinear())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="kind='x0'; valid are"):
        Denoiser(net, sde).predict("x0", x, t)
    with pytest.raises(ValueError, match="given='x0'; valid are"):
        convert(x, x, t, sde, "x0", "noise")
    with pytest.raises(ValueError, match="wanted='x0'; valid are"):
        convert(x, x, t, sde, "noise", "x0")
    with pytest.raises(ValueError, match="kind='x0'; valid are"):
        Reverse(sde, Denoiser(net, sde)).predict("x0", x, t)
    with pytest.raises(ValueError, match="predicts='score', but the Denoiser's net predicts 'noise'"):
        sample(sde, Denoiser(net, sde), (2, 3), predicts="score")
    assert not net.given


def test_take_selects_the_condition() -> None:
    net = Recorder()
    reverse = Reverse(VPSDE(), Denoiser(net, VPSDE()), {"label": torch.arange(5)})
    chosen = reverse.take(torch.tensor([4, 1]))
    chosen.data(torch.zeros(2, 3), torch.tensor(0.5))
    assert net.given[0][2]["label"].tolist() == [4, 1]
    assert reverse.calls.count == 1


@pytest.mark.parametrize(
    ("x", "t", "message"),
    [
        (torch.zeros(2, 3), torch.tensor(1.5), r"t spans \[1\.5, 1\.5\], but VPSDE is used on"),
        (torch.zeros(2, 3), torch.tensor([0.5, -1.0]), r"t spans \[-1, 0\.5\]"),
        (torch.zeros(2, 3), torch.full((3,), 0.5), r"t has shape \(3,\); valid are \(\) and \(2,\)"),
        (torch.zeros(2, 4), torch.tensor(0.5), r"x has samples of shape \(4,\); valid is \(3,\)"),
    ],
)
@pytest.mark.parametrize("kind", ["data", "score"])
def test_what_does_not_fit_a_denoiser_is_refused(x: Tensor, t: Tensor, message: str, kind: str) -> None:
    denoiser = GaussianMixture(torch.zeros(1, 3)).denoiser(VPSDE())
    with pytest.raises(ValueError, match=message):
        denoiser(x, t) if kind == "data" else denoiser.score(x, t)
