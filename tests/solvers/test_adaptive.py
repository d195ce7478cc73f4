"""Adaptive solvers: tolerance in, calls of each sample out, nobody waits for another, and no call outside the times."""

import math
from collections.abc import Callable
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sdescore import VESDE, VPSDE, Denoiser, GaussianMixture, LinearSDE, ReverseProcess, find_solver, karras, sample
from sdescore.density.runge_kutta import BOGACKI_SHAMPINE, DORMAND_PRINCE, TSITOURAS, EmbeddedPair
from sdescore.sampling.noise import WhiteNoise
from sdescore.solvers import HEUN, Adaptive, AdaptiveSDE, CallRecord
from sdescore.solvers.adaptive_sde import RejectedNoise
from sdescore.testing import exact_flow, two_sample

PAIRS = {"bosh3": BOGACKI_SHAMPINE, "dopri5": DORMAND_PRINCE, "tsit5": TSITOURAS}


class Watched(nn.Module):
    """A score that records at which times and for how many rows it is asked."""

    predicts = "score"

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.inner = denoiser
        self.low, self.high, self.rows = math.inf, -math.inf, 0

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.low, self.high = min(self.low, float(t.min())), max(self.high, float(t.max()))
        self.rows += len(x)
        return self.inner.score(x, t)


@pytest.mark.parametrize("name", PAIRS)
def test_order_conditions_of_the_pairs(name: str) -> None:
    """Of all trees with up to three nodes, for the method and for the embedded one; and the quadrature of the rest."""
    pair = PAIRS[name]
    a = np.array([[0.0] * len(pair.b), *([*row, *[0.0] * (len(pair.b) - len(row))] for row in pair.a)])
    c, b = np.array(pair.c), np.array(pair.b)
    np.testing.assert_allclose(a.sum(1), c, atol=1e-12)
    np.testing.assert_array_equal(a[-1], b)  # the last stage is the first of the next step
    for weights, order in ((b, pair.order), (b - np.array(pair.error), pair.order - 1)):
        for power in range(order):
            assert weights @ c**power == pytest.approx(1 / (power + 1), abs=1e-11)
        if order >= 3:
            assert weights @ a @ c == pytest.approx(1 / 6, abs=1e-11)
        assert abs(weights @ c**order - 1 / (order + 1)) > 1e-4  # and no more than that
    if name != "tsit5":  # whose coefficients are decimal
        assert all(abs(Fraction(w).limit_denominator(10**6) - Fraction(w)) < 1e-12 for w in pair.b)


@pytest.fixture(scope="module")
def start_and_end(oracle2: GaussianMixture) -> list[Tensor]:
    """Of 64 exact paths on VP, from the first to the last time."""
    sde = VPSDE()
    return exact_flow(sde, oracle2, oracle2.at(sde, sde.T).sample(64), sde.lam(karras()(sde, 2)))


@pytest.mark.parametrize("name", PAIRS)
def test_error_is_proportional_to_the_tolerance(
    name: str, oracle2: GaussianMixture, start_and_end: list[Tensor]
) -> None:
    sde, tolerances = VPSDE(), [1e-3, 1e-4, 1e-5, 1e-6]
    x, exact = start_and_end
    errors, calls = [], []
    for tolerance in tolerances:
        record = CallRecord()
        method = Adaptive(PAIRS[name], tolerance, tolerance, record)
        (end,) = method.solve(ReverseProcess(sde, oracle2.denoiser(sde)), x, karras()(sde, 2), WhiteNoise(0, range(64)))
        errors.append(float((end - exact).square().mean().sqrt()))
        calls.append(float(record.nfe.double().mean()))
    slope = float(np.polyfit(np.log(tolerances), np.log(errors), 1)[0])
    growth = float(np.polyfit(np.log(tolerances), np.log(calls), 1)[0])
    print(f"{name}: errors {errors}, slope {slope:.2f}; calls {calls}, slope {growth:.3f}")
    assert 0.7 < slope < 1.3
    assert all(error < 20 * tolerance for error, tolerance in zip(errors, tolerances, strict=True))
    # In the limit a method of order p takes steps of length tolerance^(1 / p).
    assert 0.5 < -growth * PAIRS[name].order < 1.1


METHODS: dict[str, Callable[[CallRecord], Adaptive | AdaptiveSDE]] = {
    **{name: partial(Adaptive, pair, 1e-3, 1e-3) for name, pair in PAIRS.items()},
    "adaptive-sde": partial(AdaptiveSDE, 0.05, 0.05),
}


@pytest.mark.parametrize("sde", [VPSDE(), VESDE()], ids=["VP", "VE"])
@pytest.mark.parametrize("name", METHODS)
def test_samples_are_on_their_own(name: str, sde: LinearSDE, oracle2: GaussianMixture) -> None:
    net, record = Watched(oracle2.denoiser(sde)), CallRecord()
    x = oracle2.at(sde, sde.T).sample(32)
    whole = sample(sde, net, x=x, solver=METHODS[name](record))
    # Every row that the net was given is a call of one sample, or the last denoising's.
    assert net.rows == int(record.nfe.sum()) + 32
    assert len(set(record.nfe.tolist())) > 1
    first, last = karras()(sde, 2).tolist()
    assert last <= net.low and net.high <= first
    for i in (0, 4):
        alone = CallRecord()
        value = sample(sde, net.inner, x=x[i : i + 1], index_offset=i, solver=METHODS[name](alone))
        # Times are of each sample: exponentials of one number and of several may round differently.
        torch.testing.assert_close(value[0], whole[i], rtol=1e-9, atol=1e-9)
        assert int(alone.nfe) == int(record.nfe[i])


@pytest.mark.parametrize("name", ["dopri5", "adaptive-sde"])
def test_batches_and_stops_are_counted_together(name: str, oracle2: GaussianMixture) -> None:
    sde, record, whole = VPSDE(), CallRecord(), CallRecord()
    times = torch.tensor([1.0, 0.5, 0.01], dtype=torch.float64)
    some, all_ = (
        sample(sde, oracle2.denoiser(sde), (5, 2), solver=METHODS[name](record), times=times, batch_size=size)
        for record, size in ((record, 2), (whole, 5))
    )
    torch.testing.assert_close(some, all_, rtol=1e-9, atol=1e-9)
    assert record.nfe[:5].tolist() == whole.nfe.tolist() and len(record.nfe) == 6


@pytest.mark.parametrize("sde", [VPSDE(), VESDE()], ids=["VP", "VE"])
def test_law_of_the_adaptive_sde(sde: LinearSDE, oracle2: GaussianMixture) -> None:
    record, x = CallRecord(), oracle2.at(sde, sde.T).sample(2000, 1)
    end = sample(sde, oracle2.denoiser(sde), x=x, solver=AdaptiveSDE(record=record), seed=1)
    p = two_sample(end, oracle2.sample(2000, 2))
    print(f"{float(record.nfe.double().mean()):.0f} calls, p = {p:.2g}")
    assert p > 1e-3


def test_held_noise_is_a_brownian_path() -> None:
    """A rejected step of width 1 is split by later ones: their increments are independent, of the right variances."""
    n = 20_000
    z = torch.randn(5, n, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    held, found, widths = RejectedNoise(z[0]), [], (1.0, 0.5, 0.3, 0.7, 0.9)
    whole, _ = held.draw(torch.ones(n, dtype=torch.float64), z[0])[1], None
    held.put(torch.ones(n, dtype=torch.bool), torch.ones(n, dtype=torch.float64), whole)
    for want, expected, draw in zip(widths[1:], (0.5, 0.3, 0.2, 0.9), z[1:], strict=True):
        width, w = held.draw(torch.full((n,), want, dtype=torch.float64), draw)
        torch.testing.assert_close(width, torch.full_like(width, expected))
        found.append(w[:, 0] / expected**0.5)
    torch.testing.assert_close(0.5**0.5 * found[0] + 0.3**0.5 * found[1] + 0.2**0.5 * found[2], whole[:, 0])
    covariance = torch.cov(torch.stack(found))
    torch.testing.assert_close(covariance, torch.eye(4, dtype=torch.float64), atol=5 / n**0.5, rtol=0)


def test_a_sample_that_fails_is_not_a_number_and_stops_nobody(oracle2: GaussianMixture) -> None:
    sde = VPSDE()

    class Bad(nn.Module):
        def forward(self, x: Tensor, t: Tensor, bad: Tensor) -> Tensor:
            return torch.where(((t < 0.5) & bad).unsqueeze(1), math.nan, inner.score(x, t))

    inner, bad = oracle2.denoiser(sde), torch.tensor([False, True, False])
    for name in ("bosh3", "adaptive-sde"):
        with pytest.raises(FloatingPointError, match=r"in sample 1$"):
            sample(sde, Bad(), (3, 2), solver=METHODS[name](CallRecord()), condition={"bad": bad}, dtype=torch.float64)
    with pytest.raises(FloatingPointError, match=r"in sample 0, 1, 2$"):
        sample(sde, inner, (3, 2), solver=AdaptiveSDE(1e-3, 1e-3, limit=10))


@pytest.mark.parametrize("make", [Adaptive, AdaptiveSDE])
def test_bad_tolerances(make: Callable[..., object]) -> None:
    for options in ({"rtol": 0.0}, {"atol": -1.0}, {"rtol": math.nan}, {"rtol": math.inf}):
        with pytest.raises(ValueError, match="expected positive, finite numbers"):
            make(**options)
    with pytest.raises(ValueError, match="expected embedded pairs"):
        Adaptive(EmbeddedPair(a=((1.0,),), b=(0.5, 0.5), c=(0.0, 1.0), error=(), order=2))
    assert find_solver("heun") is HEUN


@pytest.mark.parametrize("rtol", [0.05, 1e6])
def test_gradients_through_adaptive_steps_are_those_of_the_steps_taken(rtol: float, oracle2: GaussianMixture) -> None:
    """Steps that differ with the start have no finite differences: at the large tolerance all are as long as may be."""
    sde = VPSDE()
    denoiser = oracle2.denoiser(sde)
    x = torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(4, 2)

    def end(shift: Tensor) -> Tensor:
        solver = AdaptiveSDE(rtol=rtol, atol=rtol)
        return sample(sde, lambda x, t: denoiser.score(x + shift, t), x=x, solver=solver, seed=1, grad=True).sum(0)

    shift = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(end(shift)[0], shift)
    assert bool(gradient.isfinite().all())
    if rtol > 1:
        step = torch.tensor([1e-6, 0.0], dtype=torch.float64)
        assert float(gradient[0]) == pytest.approx(float((end(step) - end(-step))[0]) / 2e-6, rel=1e-4)
