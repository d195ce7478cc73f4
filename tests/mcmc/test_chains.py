"""Langevin and Hamiltonian chains against stationary laws in closed form."""

import math
from collections.abc import Callable

import pytest
import torch
from scipy import stats
from torch import Tensor

from sdescore import VESDE, GaussianMixture
from sdescore.mcmc import Chains, annealed_langevin, effective_sample_size, hmc, langevin, mala

STD = 0.8
TARGET = GaussianMixture([[1.5]], STD, dtype=torch.float64)


def start(chains: int) -> Tensor:
    return TARGET.sample(chains, seed=9)


def assert_variance(x: Tensor, wanted: float) -> None:
    """The variance of independent normal values is within 4.5 standard errors of what is wanted."""
    assert float(x.var()) == pytest.approx(wanted, rel=4.5 * math.sqrt(2 / x.numel()))


def test_unadjusted_langevin_is_the_autoregression_of_its_docstring() -> None:
    step, chains = 0.5, 40_000
    run = langevin(TARGET.score, start(chains), step=step, steps=12)
    slope = 1 - step / STD**2
    assert_variance(run.x, STD**2 / (1 - step / (2 * STD**2)))  # far from STD^2: 64 % too large
    assert float(run.x.mean()) == pytest.approx(1.5, abs=4.5 * float(run.x.std()) / math.sqrt(chains))
    before, after = run.trace[-2] - 1.5, run.trace[-1] - 1.5
    measured = float((before * after).mean() / before.square().mean())
    assert measured == pytest.approx(slope, abs=4.5 / math.sqrt(chains))
    assert torch.equal(run.acceptance, torch.ones(chains, dtype=torch.float64))


@pytest.mark.parametrize(
    "run",
    [
        lambda x: mala(TARGET.log_prob, x, step=0.5, steps=25),
        lambda x: hmc(TARGET.log_prob, x, step=0.7, leapfrog=3, steps=12),
    ],
    ids=["mala", "hmc"],
)
def test_adjusted_chains_keep_the_law_at_the_same_step(run: Callable[[Tensor], Chains]) -> None:
    chains = run(start(40_000))
    assert_variance(chains.x, STD**2)
    assert 0.3 < float(chains.acceptance.mean()) < 0.98  # the test does reject
    assert stats.kstest(chains.x[:, 0].numpy(), stats.norm(1.5, STD).cdf).pvalue > 1e-3


def test_adjusted_chains_find_the_law_of_a_mixture() -> None:
    mixture = GaussianMixture([[-1.0, 0.0], [1.0, 0.5]], [0.7, 0.6], [0.3, 0.7], dtype=torch.float64)
    x = hmc(mixture.log_prob, torch.zeros(8_000, 2, dtype=torch.float64), step=0.35, leapfrog=5, steps=60).x

    exact = mixture.sample(2_000_000, seed=1)
    for of in (lambda x: x[:, 0], lambda x: x[:, 1], lambda x: x[:, 0] ** 2, lambda x: (x[:, 0] > 0).double()):
        ours = of(x)
        error = 4.5 * float(ours.std()) / math.sqrt(8_000)
        assert float(ours.mean()) == pytest.approx(float(of(exact).mean()), abs=error)


def test_mala_accepts_by_the_ratio_of_its_proposals() -> None:
    """min(1, p(y) q(x|y) / (p(x) q(y|x))) with q(y|x) = N(x + step score(x), 2 step) written out, by Monte Carlo."""
    step, n = 0.9, 60_000
    normal = GaussianMixture([[0.0]], 1.0, dtype=torch.float64)
    x0 = torch.full((n, 1), 1.2, dtype=torch.float64)
    run = mala(normal.log_prob, x0, step=step, steps=1)
    z = torch.randn(2_000_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = 1.2 * (1 - step) + math.sqrt(2 * step) * z
    forward = (y - (1 - step) * 1.2) ** 2 / (4 * step)
    backward = (1.2 - (1 - step) * y) ** 2 / (4 * step)
    ratio = (1.2**2 - y**2) / 2 + forward - backward
    wanted = float(ratio.exp().clamp(max=1).mean())
    share = float(run.acceptance.mean())
    assert share == pytest.approx(wanted, abs=4.5 * math.sqrt(wanted * (1 - wanted) / n))
    moved = (run.x != x0).double().mean()
    assert float(moved) == share


def test_a_proposal_outside_the_support_is_rejected() -> None:
    def half_normal(x: Tensor) -> Tensor:
        return torch.where(x > 0, -(x**2) / 2, -torch.inf).sum(1)

    x = hmc(half_normal, torch.ones(20_000, 1, dtype=torch.float64), step=0.5, leapfrog=4, steps=60).x
    assert float(x.min()) > 0
    assert stats.kstest(x[:, 0].numpy(), stats.halfnorm.cdf).pvalue > 1e-3


def test_annealed_langevin_ends_near_the_last_level_and_uses_its_steps() -> None:
    """At each level of a Gaussian the chain is an autoregression; after many steps its variance is the biased one."""
    sigmas = VESDE(0.1, 10.0).sigmas(12).flip(0)

    def score(x: Tensor, sigma: Tensor) -> Tensor:
        return (0.5 - x) / (0.05**2 + sigma[:, None] ** 2)

    step, n = 0.002, 5_000
    run = annealed_langevin(score, 10 * torch.randn(n, 1, dtype=torch.float64), sigmas, step=step, repeats=60)
    assert run.trace.shape == (12, n, 1)
    for level in (3, 11):
        sigma = float(sigmas[level])
        variance = 0.05**2 + sigma**2
        own = step * (sigma / float(sigmas[-1])) ** 2
        assert_variance(run.trace[level], variance / (1 - own / (2 * variance)))


@pytest.mark.parametrize("slope", [0.9, 0.5, 0.0, -0.4])
def test_effective_sample_size_of_an_autoregression(slope: float) -> None:
    """n chains (1 - slope) / (1 + slope) for x_i = slope x_{i-1} + noise."""
    n, chains = 4000, 16
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(chains, 2, generator=draw, dtype=torch.float64) / math.sqrt(1 - slope**2)
    trace = []
    for _ in range(n):
        x = slope * x + torch.randn(chains, 2, generator=draw, dtype=torch.float64)
        trace.append(x)
    size = effective_sample_size(torch.stack(trace))
    assert size.shape == (2,)
    wanted = n * chains * (1 - slope) / (1 + slope)
    assert size.tolist() == pytest.approx([wanted, wanted], rel=0.08)


def test_chains_in_separate_modes_are_worth_few() -> None:
    draw = torch.Generator().manual_seed(3)
    trace = torch.randn(1000, 4, 1, generator=draw) + torch.tensor([0.0, 0.0, 10.0, 10.0])[:, None]
    assert float(effective_sample_size(trace)) < 10
    assert float(effective_sample_size(torch.ones(10, 2, 1))) == 1


def test_chains_depend_on_seed_and_number_alone() -> None:
    x = start(6)
    for run in (
        lambda x, seed: langevin(TARGET.score, x, step=0.1, steps=40, seed=seed),
        lambda x, seed: mala(TARGET.log_prob, x, step=0.3, steps=40, seed=seed),
        lambda x, seed: hmc(TARGET.log_prob, x, step=0.3, steps=40, seed=seed),
    ):
        whole = run(x, 0)
        assert torch.equal(run(x[:2], 0).trace, whole.trace[:, :2])
        assert not torch.equal(run(x, 1).x, whole.x)
        assert not whole.x.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_a_single_chain(dtype: torch.dtype) -> None:
    x = torch.zeros(1, 2, dtype=dtype)
    for chains in (
        langevin(lambda x: -x, x, step=0.1, steps=4),
        hmc(lambda x: -x.square().sum(1) / 2, x, step=0.3, steps=4),
    ):
        assert chains.x.dtype == dtype and chains.trace.shape == (4, 1, 2) and bool(chains.x.isfinite().all())


def test_thinning_keeps_every_nth_state() -> None:
    whole, thin = (langevin(TARGET.score, start(3), step=0.1, steps=10, thin=thin).trace for thin in (1, 3))
    assert torch.equal(thin, whole[2::3])


@pytest.mark.parametrize(
    ("call", "error", "word"),
    [
        (lambda x: langevin(TARGET.score, x, step=0, steps=1), ValueError, "step=0"),
        (lambda x: langevin(TARGET.score, x, step=0.1, steps=0), ValueError, "steps=0"),
        (lambda x: langevin(TARGET.score, x.long(), step=0.1, steps=1), TypeError, "x has dtype"),
        (lambda x: langevin(TARGET.score, x.tolist(), step=0.1, steps=1), TypeError, "x is a list"),
        (lambda x: langevin(TARGET.score, x[:, 0], step=0.1, steps=1), ValueError, "x has shape"),
        (lambda x: langevin(TARGET.score, x, step=50.0, steps=300), FloatingPointError, "smaller step"),
        (lambda x: langevin(lambda x: x / 0, x, step=0.1, steps=1), FloatingPointError, "not finite"),
        (lambda x: langevin(lambda x: x[:, 0], x, step=0.1, steps=1), ValueError, "score returned"),
        (lambda x: langevin(TARGET.score, x / 0, step=0.1, steps=1), ValueError, "x is not finite in chain 0"),
        (lambda x: langevin(TARGET.score, x, step=0.1, steps=1, thin=0), ValueError, "thin=0"),
        (lambda x: hmc(TARGET.log_prob, x, step=math.nan, steps=1), ValueError, "step=nan"),
        (lambda x: hmc(lambda x: torch.ones(3), x, step=0.1, steps=1), ValueError, "no gradient by x"),
        (
            lambda x: hmc(lambda x: x.log().sum(1), -x.abs(), step=0.1, steps=1),
            ValueError,
            "not finite at x of chain 0",
        ),
        (lambda x: effective_sample_size(x.log().expand(9, 3, 1) * math.nan), ValueError, "trace is not finite"),
        (
            lambda x: annealed_langevin(lambda x, s: -x, x, torch.tensor([2.0, 1.0]), step=0.1, repeats=0),
            ValueError,
            "repeats=0",
        ),
        (lambda x: mala(TARGET.log_prob, x, step=-1, steps=1), ValueError, "step=-1"),
        (lambda x: hmc(TARGET.score, x, step=0.1, steps=1), ValueError, "log_density returned"),
        (lambda x: hmc(TARGET.log_prob, x, step=0.1, steps=1, leapfrog=0), ValueError, "leapfrog=0"),
        (lambda x: hmc(TARGET.log_prob, x / 0, step=0.1, steps=1), ValueError, "x is not finite in chain 0"),
        (lambda x: effective_sample_size(x), ValueError, "trace has shape"),
        (lambda x: effective_sample_size([x, x, x, x]), TypeError, "trace is a list"),  # type: ignore[arg-type]
        (
            lambda x: annealed_langevin(lambda x, s: -x, x, [2.0, 1.0], step=0.1, repeats=1),  # type: ignore[arg-type]
            TypeError,
            "sigmas is a list",
        ),
        (
            lambda x: langevin(TARGET.score, x, step=0.1, steps=9).effective_sample_size(burn=-2),
            ValueError,
            "burn=-2",
        ),
        (
            lambda x: annealed_langevin(lambda x, s: -x, x, torch.tensor([1.0, 2.0]), step=0.1, repeats=1),
            ValueError,
            "sigmas",
        ),
    ],
)
def test_bad_input_is_named(call: Callable[[Tensor], object], error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        call(start(3))
