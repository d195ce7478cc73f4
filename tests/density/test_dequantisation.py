"""Bits per dimension and bounds against distributions over levels that are known."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sdescore import VPSDE, GaussianMixture, KarrasSDE, LinearSDE, Scaling, bits_per_dim, quantised_likelihood
from sdescore.density import QuantisedLikelihood, Trace
from sdescore.density.traces import TRACES

SCALING = Scaling(-3, 13, levels=9)
LEVELS = SCALING.to_model(torch.linspace(-3, 13, 9, dtype=torch.float64), torch.float64)

# All probes make one estimate.
ONE_GROUP = Trace(lambda size, probes, own: torch.randn(1, probes, size, generator=own) / math.sqrt(probes))


def masses(means: Tensor, stds: Tensor, weights: Tensor) -> Tensor:
    """The probability that a one-dimensional mixture gives each of the nine levels, from the normal integral."""
    edges = torch.cat([LEVELS - 0.125, LEVELS[-1:] + 0.125])
    below = torch.special.ndtr((edges[:, None] - means) / stds)
    return (below.diff(dim=0) * weights).sum(1)


@pytest.mark.parametrize("sde", [VPSDE(), pytest.param(KarrasSDE(), marks=pytest.mark.slow)], ids=["VP", "Karras"])
def test_the_bound_reaches_the_entropy_of_a_known_distribution(sde: LinearSDE) -> None:
    oracle = GaussianMixture([[-0.4], [0.3]], [0.08, 0.15], [0.3, 0.7], dtype=torch.float64)
    mass = masses(oracle.means[:, 0], oracle.stds[:, 0], oracle.weights)
    assert float(mass.sum()) == pytest.approx(1, abs=1e-4)
    entropy = -float((mass * mass.log2()).sum())
    options: dict[str, Any] = {"trace": "exact", "prior": oracle.at(sde, sde.T), "rtol": 1e-3, "atol": 1e-3}

    def bounds(repeats: int, **more: Any) -> QuantisedLikelihood:
        x = LEVELS[:, None].repeat_interleave(repeats, 0)
        return quantised_likelihood(sde, oracle.denoiser(sde), x, SCALING, **options, **more)

    one = bounds(40)
    bits = one.bits_per_dim.reshape(9, 40)
    cross, error = (mass * bits.mean(1)).sum(), (mass * bits.std(1)).square().sum().sqrt() / math.sqrt(40)
    assert float(cross) > entropy - 3 * float(error)
    assert float(cross) > entropy + 0.02  # one draw leaves a gap
    many = bounds(16, draws=16, seed=1)
    bits, stderr = many.bits_per_dim.reshape(9, 16).mean(1), many.stderr.reshape(9, 16).square().mean(1).sqrt()
    error = (mass * stderr).square().sum().sqrt() / math.sqrt(16) / math.log(2)
    assert float(error) < 0.025
    assert float((mass * bits).sum()) == pytest.approx(entropy, abs=0.005 + 3 * float(error))
    assert one.stderr.isnan().all() and (one.nfe > 20).all() and (many.nfe > 16 * 20).all()


def test_the_truncation_at_t_min_is_corrected() -> None:
    """A Gaussian d^2 under noise s^2, denoised with noise of std s again: its variance is d^4 / (d^2 + s^2) + s^2.

    The noise of t_min is as wide here as the data, so that the density at t_min is far off.
    """
    sde, d, s = KarrasSDE(sigma_min=0.2), 0.2, 0.2
    oracle = GaussianMixture([[0.1]], d, dtype=torch.float64)
    variance = torch.tensor([d**4 / (d**2 + s**2) + s**2], dtype=torch.float64)
    expected = masses(oracle.means[:, 0], variance.sqrt(), torch.ones(1)).log()[3:7]
    options: dict[str, Any] = {"trace": "exact", "prior": oracle.at(sde, sde.T), "rtol": 1e-4, "atol": 1e-4}
    x = LEVELS[3:7, None].repeat_interleave(25, 0)
    found = quantised_likelihood(sde, oracle.denoiser(sde), x, SCALING, draws=16, **options)
    mean, error = found.log_prob.reshape(4, 25).exp().mean(1).log(), found.stderr.reshape(4, 25).mean(1) / math.sqrt(25)
    assert float(error.max()) < 0.1
    assert float(((mean - expected) / error).abs().max()) < 4


def test_noisy_probes_do_not_raise_the_bound() -> None:
    """With the trace exact and estimated: the excess of the latter, over many samples, is not above zero.

    Two probes have so much noise that the excess would be 0.4, four standard errors, if nothing were taken off.
    """
    sde = VPSDE()
    own = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=own, dtype=torch.float64)).Q
    oracle = GaussianMixture(torch.zeros(1, 4), [[0.1, 0.2, 0.4, 0.6]], dtype=torch.float64)
    denoiser = oracle.denoiser(sde)

    def net(x: Tensor, t: Tensor) -> Tensor:
        return denoiser.score(x @ turn, t) @ turn.T

    x = LEVELS[torch.randint(2, 7, (64, 4), generator=own)]
    options: dict[str, Any] = {"draws": 8, "rtol": 1e-3, "atol": 1e-3}
    exact = quantised_likelihood(sde, net, x, SCALING, trace="exact", **options).log_prob
    noisy = quantised_likelihood(sde, net, x, SCALING, probes=2, **options).log_prob
    excess = noisy - exact
    assert float(excess.std()) > 0.1
    assert float(excess.mean()) < 3 * float(excess.std()) / 8


@pytest.mark.parametrize("levels", [2, 5, 256])
def test_bits_do_not_depend_on_the_range_of_the_raw_data(levels: int) -> None:
    """A uniform density on all levels has log2(levels) bits; half a level sticks out on either side."""
    for low, high in ((0.0, 255.0), (-3.0, 5.0)):
        scaling = Scaling(low, high, levels)
        log_prob = -12 * torch.tensor([math.log(2 + 2 / (levels - 1))], dtype=torch.float64)
        assert float(bits_per_dim(log_prob, (3, 2, 2), scaling)) == pytest.approx(math.log2(levels), rel=1e-12)


def test_a_sample_does_not_feel_the_others() -> None:
    sde, oracle = VPSDE(), GaussianMixture(torch.zeros(1, 2), 0.3, dtype=torch.float64)
    x = LEVELS[torch.tensor([[2, 3], [4, 5], [6, 4]])]
    options: dict[str, Any] = {"draws": 2, "trace": "exact", "seed": 4, "rtol": 1e-4, "atol": 1e-4}
    whole = quantised_likelihood(sde, oracle.denoiser(sde), x, SCALING, **options)
    parts = quantised_likelihood(sde, oracle.denoiser(sde), x, SCALING, batch_size=2, **options)
    last = quantised_likelihood(sde, oracle.denoiser(sde), x[2:], SCALING, index_offset=2, **options)
    named = quantised_likelihood(sde, oracle.denoiser(sde), x, SCALING, **{**options, "trace": TRACES["exact"]})
    assert torch.equal(named.log_prob, whole.log_prob)
    torch.testing.assert_close(parts.log_prob, whole.log_prob, rtol=1e-6, atol=0)
    torch.testing.assert_close(last.log_prob, whole.log_prob[2:], rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"draws": 0}, "draws=0"),
        ({"draws": 2}, "draws=2 need probes of at least 2"),
        ({"draws": 2, "probes": 4, "trace": ONE_GROUP}, "draws=2 need probes of at least 2, in at least two groups"),
        ({"x": LEVELS[:2, None] + 0.05}, "sample 0 that are none of the 9 levels"),
        ({"x": torch.tensor([[0.0], [1.25]])}, "sample 1 that are none of the 9 levels"),
        ({"scaling": Scaling(0, 1, None)}, "scaling.levels is None"),
    ],
)
def test_bad_arguments(change: dict[str, object], message: str) -> None:
    denoiser = GaussianMixture([[0.0]], dtype=torch.float64).denoiser(VPSDE())
    arguments = {"sde": VPSDE(), "net": denoiser, "x": LEVELS[:, None], "scaling": SCALING, **change}
    with pytest.raises(ValueError, match=message):
        quantised_likelihood(**arguments)  # type: ignore[arg-type]


def test_a_failing_sample_is_flagged_and_the_others_are_kept() -> None:
    sde, oracle = VPSDE(), GaussianMixture(torch.zeros(1, 2), 0.3, dtype=torch.float64)

    def breaks(x: Tensor, t: Tensor, until: Tensor) -> Tensor:
        return oracle.denoiser(sde).score(x, t).masked_fill((t > until)[:, None], torch.nan)

    x, whole = LEVELS[torch.tensor([[2, 3], [4, 5], [6, 4]])], torch.full((3,), 2.0, dtype=torch.float64)
    options: dict[str, Any] = {"trace": "exact", "rtol": 1e-4, "atol": 1e-4}
    good = quantised_likelihood(sde, breaks, x, SCALING, condition={"until": whole}, **options)
    some = torch.tensor([2.0, 0.5, 0.0], dtype=torch.float64)
    with pytest.warns(RuntimeWarning) as caught:
        found = quantised_likelihood(sde, breaks, x, SCALING, condition={"until": some}, **options)
    messages = " ".join(str(each.message) for each in caught)
    assert "sample 1 is NaN: its flow is not finite at t = 0.5" in messages
    assert "sample 2 is NaN: the net is not finite at t_min" in messages
    assert found.log_prob.isnan().tolist() == [False, True, True]
    torch.testing.assert_close(found.log_prob[0], good.log_prob[0], rtol=1e-12, atol=0)
