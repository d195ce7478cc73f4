"""Posterior samples by sequential Monte Carlo, against the exact posterior and evidence of a mixture."""

import math
from typing import Any

import pytest
import torch
from conftest import name_of
from measured_mixture import EXACT, MEANS, METHODS, PRIOR, STD, STDS, TRUTH, A, Y, features, log_evidence, run
from named_solvers import FIXED
from tensors_and_errors import fitted_order
from torch import Tensor

from sdescore import VPSDE, GaussianMixture, KarrasSDE, LinearSDE, find_solver, sample, smc
from sdescore.operators import Downsample, Matrix
from sdescore.sampling import uniform_lambda
from sdescore.sampling.smc_bridged import SingularValues
from sdescore.testing import two_sample

# The truth ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sde"), [*((name, VPSDE()) for name in METHODS), ("mcgdiff", KarrasSDE())], ids=name_of
)
def test_mean_modes_and_evidence(name: str, sde: LinearSDE) -> None:
    """Within four standard errors between runs, and what the steps err by. MCGDiff's evidence has heavy tails."""
    counts = {"n": 8000, "particles": 1000, "steps": 150} if name == "mcgdiff" else {"n": 3000, "steps": 80}
    options: dict[str, Any] = counts | METHODS[name]
    found = run(sde, threshold=0.9, **options)
    mean, error = found.mean(features)
    assert bool(((mean - TRUTH).abs() < 4 * error + 0.015).all()), (mean - TRUTH, error)
    value, stderr = found.evidence()
    assert abs(value - log_evidence(PRIOR, Y, STD)) < 4 * stderr + (0.1 if name == "mcgdiff" else 0.05)
    assert float(error.max()) < 0.05 and stderr < (0.3 if name == "mcgdiff" else 0.05)
    # Without the weights the particles are others, which is what there is to correct.
    plain = run(sde, threshold=0.0, steps=80, **METHODS[name])
    unweighted = features(plain.particles.flatten(0, 1)).mean(0)
    assert float((unweighted - TRUTH).abs().max()) > 0.05


@pytest.mark.parametrize("name", METHODS)
def test_samples_have_the_posteriors_law(name: str) -> None:
    found = run(particles=2400, n=600, threshold=0.3, **METHODS[name])
    assert two_sample(found.samples, EXACT.sample(1000, 1)) > 1e-3
    other = run(particles=600, n=600, steps=60, noise_std=1.2, **METHODS[name])
    assert two_sample(other.samples, EXACT.sample(1000, 1)) < 1e-3


def test_steps_cost_little() -> None:
    """The chain's law is another than the process's, by an error that falls faster than the steps grow."""
    counts = (16, 32, 64)
    means = [run(steps=n, n=4000, particles=1000).mean(features)[0] for n in counts]
    errors = [float((mean - TRUTH).norm()) for mean in means]
    assert 0.9 < fitted_order(counts, errors) < 2 and errors[-1] < 0.08, errors


def late(sde: LinearSDE, steps: int) -> Tensor:
    """Levels at which something is decided: from the exact p_t at the first, three times fewer steps do as well."""
    return sde.time(torch.linspace(-math.log(5.0), -math.log(0.05), steps, dtype=torch.float64))


def means_of_runs(count: int, runs: int, steps: int) -> Tensor:
    """Of modes and mean, (runs, 5)."""
    sde = VPSDE()
    start = PRIOR.at(sde, late(sde, 2)[0])
    given: dict[str, Any] = dict(n=runs * count, particles=count, steps=steps, times=late, prior=start)
    found = smc(sde, PRIOR.denoiser(sde), A, Y, noise_std=STD, batch_size=2**16, **given)
    return (found.weights[:, :, None] * features(found.particles.flatten(0, 1)).unflatten(0, (runs, -1))).sum(1)


def test_error_falls_as_the_root_of_the_particles() -> None:
    counts = (16, 64, 256)
    errors = [rms(means_of_runs(count, 32, 60) - TRUTH) for count in counts]
    assert abs(fitted_order(counts, errors) - 0.5) < 0.1, errors


def rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


@pytest.mark.slow
def test_error_falls_as_the_root_of_the_particles_and_steps_cost_little() -> None:
    """Eight minutes of one core."""
    counts, steps = tuple(2**k for k in range(4, 13)), 400
    each = {count: means_of_runs(count, 64, steps) for count in counts}
    errors = {count: rms(means - TRUTH) for count, means in each.items()}
    doubled = means_of_runs(counts[-1], 64, 2 * steps)
    change = rms(doubled.mean(0) - each[counts[-1]].mean(0))
    print(f"errors {errors}, of means over runs by doubling the steps {change}")
    assert abs(fitted_order(counts[2:], [errors[count] for count in counts[2:]]) - 0.5) < 0.1
    assert change < errors[counts[-1]] / 4


def test_exact_measurements() -> None:
    """Without noise MCGDiff sets what is measured, and the rest follows the conditional law."""
    exact = PRIOR.posterior(A, Y, 1e-4).sample(100_000, 1)
    found = run(method="mcgdiff", noise_std=0.0, particles=750, n=6000, steps=120)
    torch.testing.assert_close(A.A(found.samples), Y.expand(6000, 1), rtol=0, atol=1e-3)

    def moments(x: Tensor) -> Tensor:
        return torch.cat([features(x), x.square()], 1)

    mean, error = found.mean(moments)
    assert bool(((mean - moments(exact).mean(0)).abs() < 4 * error + 0.02).all())


def test_unequal_singular_values_and_a_deficient_rank() -> None:
    """The coordinates are tied at times of their own, and what measures nothing counts in the evidence."""
    rows = torch.tensor([[2.0, 0.0], [0.0, 0.8], [0.0, 0.0]], dtype=torch.float64)
    y = torch.tensor([2.0, 0.6, 0.1], dtype=torch.float64)
    law = torch.distributions.MultivariateNormal(
        MEANS @ rows.T, (rows * STDS.double().square()[:, None]) @ rows.T + 0.09 * torch.eye(3).double()
    )
    exact = float((law.log_prob(y) + PRIOR.weights.log()).logsumexp(0))
    sde, prior = VPSDE(), PRIOR.denoiser(VPSDE())
    for name, particles in (("tds", 500), ("mcgdiff", 1500)):
        given = dict[str, Any](n=4 * particles, particles=particles, steps=80) | METHODS[name]
        found = smc(sde, prior, Matrix(rows), y, noise_std=0.3, **given)
        value, stderr = found.evidence()
        assert abs(value - exact) < 4 * stderr + 0.1
        truth, (mean, error) = PRIOR.posterior(Matrix(rows), y, 0.3).sample(100_000).mean(0), found.mean()
        assert bool(((mean - truth).abs() < 4 * error + 0.01).all())


def test_a_measurement_along_singular_vectors_is_the_same() -> None:
    draw = torch.Generator().manual_seed(2)
    matrix = torch.randn(4, 2, generator=draw, dtype=torch.float64) @ torch.randn(2, 6, generator=draw).double()
    y, x = torch.randn(4, generator=draw, dtype=torch.float64), torch.randn(3, 6, generator=draw, dtype=torch.float64)
    exact = torch.distributions.Normal(x @ matrix.T, 0.3).log_prob(y).sum(1)
    found = SingularValues.of(Matrix(matrix), y, 0.3, (6,))
    assert found.value.shape == (2,)
    along = torch.distributions.Normal(found.along(x), found.ratio).log_prob(found.value).sum(1)
    torch.testing.assert_close(along + found.log_scale, exact)


def test_a_class_for_all_particles() -> None:
    one = PRIOR.given(1)
    found = run(condition={"label": torch.tensor([1])}, n=3000, particles=500, steps=80)
    assert abs(found.evidence()[0] - log_evidence(one, Y, STD)) < 4 * found.evidence()[1] + 0.1
    mean, error = found.mean()
    assert bool(((mean - one.posterior(A, Y, STD).sample(100_000).mean(0)).abs() < 4 * error + 0.01).all())


def test_a_law_of_the_start() -> None:
    """N(0, sigma^2) is wrong at T where it decides between modes that the measurement does not tell apart."""
    far = GaussianMixture([[-300.0, 0.0], [300.0, 0.0]], 2.0, [0.3, 0.7], dtype=torch.float64)
    sde, second = VPSDE(), Matrix(torch.tensor([[0.0, 1.0]], dtype=torch.float64))

    def share(x: Tensor) -> Tensor:
        return (x[:, 0] > 0).double()

    for name in ("tds", "mcgdiff"):
        given = dict[str, Any](noise_std=STD, n=3000, particles=500, steps=60) | METHODS[name]
        found = smc(sde, far.denoiser(sde), second, Y, prior=far.at(sde, sde.T), **given)
        value, error = found.mean(share)
        assert abs(float(value) - 0.7) < 4 * float(error) < 0.15
        wrong, error = smc(sde, far.denoiser(sde), second, Y, **given).mean(share)
        assert abs(float(wrong) - 0.7) > 4 * float(error)


@pytest.mark.parametrize("method", ["tds"])
def test_nonlinear_measurements(method: str) -> None:
    """Of x^2, the posterior by quadrature."""
    sde, std, y = VPSDE(), 0.5, torch.tensor([1.0, 2.0], dtype=torch.float64)
    axis = torch.linspace(-5, 5, 801, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    log_joint = PRIOR.log_prob(grid) - ((grid.square() - y) / std).square().sum(1) / 2 - math.log(2 * math.pi * std**2)
    exact = float(log_joint.logsumexp(0) + 2 * (axis[1] - axis[0]).log())
    truth = (log_joint.softmax(0)[:, None] * grid).sum(0)
    given = dict[str, Any](n=3000, particles=750, steps=60, method=method)
    found = smc(sde, PRIOR.denoiser(sde), torch.square, y, noise_std=std, **given)
    mean, error = found.mean()
    assert bool(((mean - truth).abs() < 4 * error + 0.02).all())
    assert abs(found.evidence()[0] - exact) < 4 * found.evidence()[1] + 0.1


def test_images() -> None:
    """Means over blocks of images that a net sees on another process."""
    draw = torch.Generator().manual_seed(3)
    prior = GaussianMixture(torch.randn(3, 1, 4, 4, generator=draw, dtype=torch.float64), 0.5)
    operator, sde = Downsample(2), KarrasSDE()
    y = operator.A(prior.sample(1, 1))[0]
    truth = prior.posterior(operator, y, 0.3).sample(20_000).mean(0)
    for options in METHODS.values():
        given = dict[str, Any](n=500, particles=125, steps=50) | options
        found = smc(sde, prior.denoiser(VPSDE()), operator, y, noise_std=0.3, **given)
        mean, error = found.mean()
        assert found.samples.shape == (500, 1, 4, 4)
        assert float(((mean - truth) / (4 * error + 0.03)).abs().max()) < 1
        assert float((prior.sample(20_000).mean(0) - truth).abs().max()) > 0.3


# The exact likelihood score -------------------------------------------------------------------------------------------

ODE_AND_SDE = ["adams", "heun", "sde-dpm++", "ddpm", "euler-maruyama"]
REST = [name for name in FIXED if name not in ODE_AND_SDE]


@pytest.mark.parametrize("name", [*ODE_AND_SDE, *(pytest.param(name, marks=pytest.mark.slow) for name in REST)])
def test_solvers_sample_the_posterior_from_its_start(name: str) -> None:
    """With the exact likelihood score, and from p_T(x | y)."""
    sde, n = VPSDE(), 1000
    steps = 60 if find_solver(name).about.kind == "ODE" else 250  # type: ignore[attr-defined]
    given: dict[str, Any] = dict(solver=name, steps=steps, times=uniform_lambda())
    found = sample(sde, EXACT.denoiser(sde), (n, 2), prior=EXACT.at(sde, sde.T), **given)
    assert two_sample(found, EXACT.sample(n, 1)) > 1e-3
    assert two_sample(found, PRIOR.sample(n, 1)) < 1e-6
