"""Samples of tilted laws by Feynman-Kac correctors, against densities by quadrature in the plane."""

from typing import Any

import pytest
import torch
from tensors_and_errors import fitted_order
from torch import Tensor

from sdescore import VPSDE, GaussianMixture, KarrasSDE, guided, sample
from sdescore.sampling import feynman_kac
from sdescore.testing import two_sample

PRIOR = GaussianMixture(
    [[-1.0, 0.3], [1.1, -0.4], [0.2, 1.0]],
    [[0.5, 0.7], [0.6, 0.4], [0.4, 0.4]],
    [0.3, 0.4, 0.3],
    dtype=torch.float64,
    labels=[0, 1, 1],
)
GIVEN = PRIOR.given(1)
AXIS = torch.linspace(-5, 5, 801, dtype=torch.float64)
GRID = torch.cartesian_prod(AXIS, AXIS)


def features(x: Tensor) -> Tensor:
    return torch.cat([x, x.square(), (x[:, :1] > 0.7).to(x)], 1)


def tilted(w: float, power: float = 1.0) -> tuple[float, Tensor, Tensor]:
    """log-mass of (p^(1-w) p_c^w)^power, the mean features, and 4,000 draws, by quadrature."""
    log_density = power * ((1 - w) * PRIOR.log_prob(GRID) + w * GIVEN.log_prob(GRID))
    share = log_density.softmax(0)
    drawn = torch.multinomial(share, 4000, replacement=True, generator=torch.Generator().manual_seed(1))
    cell = AXIS[1] - AXIS[0]
    jitter = cell * (torch.rand(4000, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64) - 0.5)
    log_mass = float(log_density.logsumexp(0) + 2 * cell.log())
    return log_mass, (share[:, None] * features(GRID)).sum(0), GRID[drawn] + jitter


def run(w: float, power: float = 1.0, n: int = 4000, **options: Any) -> Any:
    given: dict[str, Any] = dict(particles=1000, steps=150, condition={"label": torch.tensor([1])}) | options
    return feynman_kac(VPSDE(), guided(PRIOR.denoiser(VPSDE()), w), (n, 2), power=power, **given)


@pytest.mark.parametrize(("w", "power"), [(0.5, 1.0), (3.0, 1.0), (1.0, 1.5)])
def test_means_and_mass(w: float, power: float) -> None:
    """Within four standard errors between runs, and what the steps err by."""
    log_mass, truth, _ = tilted(w, power)
    found = run(w, power, n=2000, particles=500, steps=250)
    mean, error = found.mean(features)
    assert bool(((mean - truth).abs() < 4 * error + 0.03).all()), (mean - truth, error)
    value, stderr = found.evidence()
    assert abs(value - log_mass) < 4 * stderr + 0.05
    assert found.nfe == 250 * (1 if w == 1 else 2)


def test_samples_have_the_tilted_law_and_guided_ones_another() -> None:
    _, _, exact = tilted(3.0)
    found = run(3.0, n=600, particles=2400, steps=200)
    assert two_sample(found.samples, exact) > 1e-3
    label = torch.ones(4000, dtype=torch.long)
    plain = sample(VPSDE(), guided(PRIOR.denoiser(VPSDE()), 3.0), (4000, 2), steps=40, condition={"label": label})
    assert two_sample(plain, exact) < 1e-6


def test_it_converges_in_steps_and_particles() -> None:
    _, truth, _ = tilted(0.5)
    counts = (24, 48, 96)
    errors = [float((run(0.5, steps=n).mean(features)[0] - truth).norm()) for n in counts]
    assert 0.8 < fitted_order(counts, errors) < 1.6, errors
    spread = []
    for particles in (16, 64, 256):
        found = run(0.5, n=40 * particles, particles=particles, steps=60)
        each = (found.weights[:, :, None] * features(found.particles.flatten(0, 1)).unflatten(0, (40, -1))).sum(1)
        spread.append(float(each.std(0).norm()))
    assert abs(fitted_order((16, 64, 256), spread) - 0.5) < 0.12, spread


@pytest.mark.slow
def test_a_large_scale_converges() -> None:
    """Where few particles carry the weight."""
    _, truth, _ = tilted(3.0)
    errors = []
    for steps, particles in ((100, 500), (400, 2000), (1600, 8000)):
        found = run(3.0, n=4 * particles, particles=particles, steps=steps)
        errors.append(float((found.mean(features)[0] - truth).norm()))
    print(errors)
    assert errors[0] > 2 * errors[1] and errors[1] > 2 * errors[2] and errors[2] < 0.05


def test_a_scale_of_one_is_the_class_and_of_nought_the_rest() -> None:
    """Nothing is to be corrected: all weights are equal."""
    for w, law in ((1.0, GIVEN), (0.0, PRIOR)):
        found = run(w, n=1000, steps=200)
        assert float(found.ess.min()) > 999.9 and found.nfe == 200
        assert two_sample(found.samples, law.sample(1000, 1)) > 1e-3


def test_another_net_as_the_null_branch_and_another_process() -> None:
    """Two laws multiplied, one of them seen on another process."""
    other = GaussianMixture([[0.5, 0.5]], 1.5, dtype=torch.float64)
    log_density = 2 * GIVEN.log_prob(GRID) - other.log_prob(GRID)
    truth = (log_density.softmax(0)[:, None] * features(GRID)).sum(0)
    net = guided(GIVEN.denoiser(VPSDE()), 2.0, weak=other.denoiser(KarrasSDE()))
    found = feynman_kac(VPSDE(), net, (4000, 2), particles=1000, steps=150)
    mean, error = found.mean(features)
    assert bool(((mean - truth).abs() < 4 * error + 0.03).all()), (mean - truth, error)


def test_a_run_depends_on_its_number_alone() -> None:
    whole = run(2.0, n=96, particles=32, steps=12)
    assert torch.equal(run(2.0, n=96, particles=32, steps=12, batch_size=33).samples, whole.samples)
    later = run(2.0, n=32, particles=32, steps=12, index_offset=2)
    assert torch.equal(later.particles, whole.particles[2:]) and later.run.unique().tolist() == [2]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"scale": -1.0}, "scale=-1.0"),
        ({"scale": 2.0, "rescale": 0.5}, "rescale=0.5"),
        ({"scale": 2.0, "interval": (0.1, 1.0)}, r"interval=\(0.1, 1.0\)"),
    ],
)
def test_other_guidance_is_refused(options: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        feynman_kac(VPSDE(), guided(PRIOR.denoiser(VPSDE()), **options), (4, 2))
    with pytest.raises(ValueError, match="power=0"):
        run(2.0, power=0)
