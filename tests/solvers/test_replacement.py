"""Replacement and RePaint: exact where coordinates are independent, and by how much they miss elsewhere."""

import math
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from sdescore import VPSDE, GaussianMixture, KarrasSDE, LinearSDE, sample, trajectory
from sdescore.operators import Downsample, Fourier, Mask, Matrix
from sdescore.solvers import DDPM, HEUN, RePaint, Replacement
from sdescore.testing import two_sample

SEEN = Mask(torch.tensor([1, 0, 0, 1]))
HIDDEN = SEEN.mask == 0
# The modes differ in what is hidden alone, so that it is independent of what is seen.
MODES = torch.tensor([[0.3, -1.2, 0.4, -0.5], [0.3, 1.0, 0.9, -0.5], [0.3, 0.4, -1.3, -0.5]], dtype=torch.float64)
APART = GaussianMixture(MODES, [[0.5, 0.3, 0.2, 0.4], [0.5, 0.2, 0.4, 0.4], [0.5, 0.3, 0.3, 0.4]], [0.5, 0.3, 0.2])
own = torch.Generator().manual_seed(4)
# Each element correlates by 0.8 with each other.
EQUAL = 0.3 * (0.2 * torch.eye(4, dtype=torch.float64) + 0.8)
TOGETHER = GaussianMixture.of_covariances(MODES[:1], EQUAL[None])
Y = torch.tensor([0.9, 0.0, 0.0, -0.8], dtype=torch.float64)
N = 2000


def drawn(prior: GaussianMixture, solver: Any, sde: LinearSDE, y: Tensor, steps: int, n: int = N) -> Tensor:
    start = prior.at(sde, sde.T).sample(n)
    condition = {"measurement": y.expand(n, *y.shape)}
    return sample(sde, prior.denoiser(sde), x=start, solver=solver, steps=steps, condition=condition)


@pytest.mark.parametrize("tau", [0.0, 1.0, math.inf])
@pytest.mark.parametrize("method", [DDPM, HEUN], ids=["ddpm", "heun"])
def test_exact_for_independent_coordinates(method: Any, tau: float) -> None:
    found = drawn(APART, Replacement(SEEN, 0.0, method, tau), VPSDE(), Y, 100)
    torch.testing.assert_close(found[:, ~HIDDEN], Y[~HIDDEN].expand(N, -1), rtol=0, atol=1e-12)
    assert two_sample(found[:, HIDDEN], APART.sample(N, 1)[:, HIDDEN]) > 1e-3


def test_exact_for_independent_coordinates_with_noise() -> None:
    """What is seen ends as its posterior by a method that is exact in law."""
    std = 0.3
    exact = APART.posterior(SEEN, Y, std).sample(N, 1)
    for noise_std, same in ((std, True), (std / 4, False), (0.0, False)):
        found = drawn(APART, Replacement(SEEN, noise_std, DDPM), VPSDE(), Y, 200)
        assert (two_sample(found, exact) > 1e-3) == same


def test_noise_counts_by_the_singular_value_of_the_operator() -> None:
    """Means of two halve the variance of an isotropic prior's noise."""
    prior, mean, std = GaussianMixture(torch.zeros(1, 1, 4, dtype=torch.float64), 0.7), Downsample(2), 0.4
    y = torch.tensor([[0.9, -0.6]], dtype=torch.float64)
    found = drawn(prior, Replacement(mean, std), KarrasSDE(), y, 250)
    assert two_sample(found, prior.posterior(mean, y, std).sample(N, 1)) > 1e-3
    assert two_sample(found, prior.posterior(mean, y, std * 1.5).sample(N, 1)) < 1e-3


@pytest.mark.parametrize("tau", [0.0, 1.0, 2.0, math.inf])
def test_noise_of_what_is_seen_is_a_path(tau: float) -> None:
    """From level to level it is kept by (u_s / u_t)^(tau^2 / 2), and its variance is that of the forward process."""
    sde, std, n = KarrasSDE(), 0.2, 4000
    times = torch.tensor([8.0, 4.0, 1.0, 0.5, 0.21], dtype=torch.float64)
    states = list(
        trajectory(
            sde,
            TOGETHER.denoiser(sde),
            x=8 * torch.randn(n, 4, generator=own, dtype=torch.float64),
            times=times,
            solver=Replacement(SEEN, std, tau=tau),
            condition={"measurement": Y.expand(n, -1)},
        )
    )
    u = times**2 - std**2
    z = [(x[:, 0] - Y[0]) / level.sqrt() for x, level in zip(states, u, strict=False)]
    for i in range(1, 5):
        assert float(z[i].var()) == pytest.approx(1, abs=0.1)  # four and a half standard errors
        kept = float((z[i] * z[i - 1]).mean())
        assert kept == pytest.approx(float((u[i] / u[i - 1]) ** (tau**2 / 2)), abs=0.08)


def bias(found: Tensor, exact: GaussianMixture) -> tuple[float, float]:
    """How far the mean of what is hidden is off, in the posterior's deviations, and the ratio of the variances."""
    wrong = (found.mean(0) - exact.means[0]) / exact.variances[0].sqrt()
    return float(wrong[HIDDEN].norm()), float((found.var(0) / exact.variances[0])[HIDDEN].mean())


def test_bias_for_dependent_coordinates_and_how_repeats_lessen_it() -> None:
    """Standard errors are 0.03 of the mean and 0.02 of the variance."""
    sde, exact = VPSDE(), TOGETHER.posterior(SEEN, Y, 1e-3)
    solvers = [Replacement(SEEN, 0.0, HEUN, tau) for tau in (1.0, math.inf)]
    plain = [bias(drawn(TOGETHER, solver, sde, Y, 40), exact) for solver in solvers]
    few, many = (bias(drawn(TOGETHER, RePaint(SEEN, 0.0, HEUN, repeats=n), sde, Y, 40, 1500), exact) for n in (3, 10))
    print(f"off by deviations, and ratio of variances: replacement {plain}, RePaint {few}, {many}")
    assert all(0.2 < mean < 0.5 and 1.5 < variance < 2.5 for mean, variance in plain)
    assert 0.1 < few[0] < 0.25 and 1.1 < few[1] < 1.5
    assert many[0] < 0.1 and abs(many[1] - 1) < 0.13


def test_repaint_once_is_replacement_with_fresh_noise() -> None:
    one, other = RePaint(SEEN, repeats=1), Replacement(SEEN, tau=math.inf)
    assert torch.equal(*(drawn(TOGETHER, solver, VPSDE(), Y, 10, n=8) for solver in (one, other)))


@pytest.mark.parametrize(
    ("solver", "calls"),
    [(Replacement(SEEN), 12), (Replacement(SEEN, method=HEUN), 23), (RePaint(SEEN, jump=4, repeats=3), 12 + 2 * 8)],
    ids=["replacement", "replacement by heun", "repaint"],
)
def test_net_calls(solver: Any, calls: int) -> None:
    sde, counted = VPSDE(), 0
    prior = TOGETHER.denoiser(sde)

    def net(x: Tensor, t: Tensor) -> Tensor:
        nonlocal counted
        counted += 1
        return prior.score(x, t[0].double())

    sample(sde, net, (3, 4), solver=solver, steps=12, condition={"measurement": Y.expand(3, -1).float()})
    assert counted == calls == solver.nfe(11)


def test_samples_are_their_own_whatever_the_batch() -> None:
    sde, net, y = VPSDE(), TOGETHER.denoiser(VPSDE()), torch.randn(5, 4, generator=own, dtype=torch.float64)
    for solver in (Replacement(SEEN, 0.1), RePaint(SEEN, 0.1, repeats=2)):
        whole, parts = (
            sample(sde, net, (5, 4), solver=solver, steps=8, condition={"measurement": y}, batch_size=size)
            for size in (None, 2)
        )
        torch.testing.assert_close(whole, parts, rtol=1e-12, atol=1e-12)


def test_bad_arguments_are_named() -> None:
    replace, repaint = cast(Any, Replacement), cast(Any, RePaint)
    for make, error, word in (
        (lambda: replace(torch.tanh), TypeError, "expected a linear one"),
        (lambda: replace(3), TypeError, "operator is 3"),
        (lambda: Replacement(SEEN, -1.0), ValueError, "noise_std=-1.0"),
        (lambda: Replacement(SEEN, tau=-1.0), ValueError, "tau=-1.0"),
        (lambda: replace(SEEN, method="heun"), TypeError, "method is 'heun'"),
        (lambda: RePaint(SEEN, repeats=0), ValueError, "repeats=0"),
        (lambda: repaint(SEEN, jump=1.5), ValueError, "jump=1.5"),
    ):
        with pytest.raises(error, match=word):
            make()


def test_bad_measurements_are_named() -> None:
    sde, net = VPSDE(), TOGETHER.denoiser(VPSDE())
    with pytest.raises(ValueError, match='condition has no "measurement"'):
        sample(sde, net, (3, 4), solver=Replacement(SEEN))
    with pytest.raises(ValueError, match=r"measurement is \(3, 3\); the operator measures \(3, 4\)"):
        sample(sde, net, (3, 4), solver=Replacement(SEEN), condition={"measurement": torch.zeros(3, 3)})
    with pytest.raises(ValueError, match="Fourier expects"):
        sample(sde, net, (3, 4), solver=RePaint(Fourier(SEEN.mask)), condition={"measurement": torch.zeros(3, 4)})
    uneven = Replacement(Matrix(torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0]))), 0.1)
    with pytest.raises(ValueError, match="expected an operator with A A_adjoint a multiple of the identity"):
        sample(sde, net, (3, 4), solver=uneven, condition={"measurement": torch.zeros(3, 4)})
