"""DDRM: exact where its conditions hold, by its own three cases elsewhere, and how far off these are."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from gaussian_measured import (
    AXES,
    FULL,
    LEFT,
    MEAN,
    STD,
    VALUES,
    A,
    Law,
    N,
    Y,
    assert_moments,
    drawn,
)

from sdescore import VPSDE, GaussianMixture, LinearSDE, sample
from sdescore.operators import Blur, Downsample, Mask, Matrix
from sdescore.sampling import karras
from sdescore.solvers import DDRM
from sdescore.testing import two_sample

ALONE = GaussianMixture.of_covariances(
    MEAN[None], (AXES.T @ torch.diag(torch.tensor([0.3, 0.5, 0.4, 0.2]).double()) @ AXES)[None]
)


def hidden_modes() -> GaussianMixture:
    """Modes that differ along the coordinates alone that A does not see."""
    apart = torch.tensor([[0.0, 0.0, -1.2, 0.4], [0.0, 0.0, 0.8, -0.9]], dtype=torch.float64) @ AXES
    spread = torch.tensor([[0.5, 0.6, 0.3, 0.2], [0.5, 0.6, 0.4, 0.3]], dtype=torch.float64)
    return GaussianMixture(MEAN + apart, spread, [0.6, 0.4], axes=AXES.T.expand(2, 4, 4))


def test_ddrm_is_exact_without_noise_for_independent_coordinates_and_without_eta() -> None:
    prior, sde = hidden_modes(), VPSDE()
    exact = prior.posterior(Matrix(A), Y, 1e-6).sample(N, 1)
    found = drawn(DDRM(Matrix(A), eta=0.0), sde, 200, prior)
    torch.testing.assert_close(found @ A.T, Y.expand(N, -1), rtol=1e-9, atol=1e-9)
    assert two_sample(found @ AXES[2:].T, exact @ AXES[2:].T) > 1e-3
    # Each condition counts: independence here, eta and the noise below.
    mixed = FULL.posterior(Matrix(A), Y, 1e-6).sample(N, 1)
    assert two_sample(drawn(DDRM(Matrix(A), eta=0.0), sde, 100) @ AXES[2:].T, mixed @ AXES[2:].T) < 1e-4


def one_coordinate(
    sde: LinearSDE, steps: int, mean: float, variance: float, y: float, level: float, eta: float, eta_b: float
) -> tuple[float, float]:
    """Mean and variance of a coordinate by the paper's three cases, for a Gaussian prior, in x / alpha."""
    rhos = [*sde.rho(karras()(sde, steps)).tolist(), 0.0]
    m, v = (y, rhos[0] ** 2) if level < rhos[0] else (0.0, rhos[0] ** 2)
    for rho, after in pairwise(rhos):
        kept = variance / (variance + rho**2)
        data_mean, data_variance = mean + kept * (m - mean), kept**2 * v
        if level == torch.inf:
            share = (1 - eta**2) ** 0.5 * after / rho
            factor = kept + share * (1 - kept)
            m, v = data_mean + share * (m - data_mean), factor**2 * v + (eta * after) ** 2
        elif after < level:
            share = (1 - eta**2) ** 0.5 * after / level
            m, v = (1 - share) * data_mean + share * y, (1 - share) ** 2 * data_variance + (eta * after) ** 2
        else:
            m = (1 - eta_b) * data_mean + eta_b * y
            v = (1 - eta_b) ** 2 * data_variance + after**2 - (level * eta_b) ** 2
    return m, v


@pytest.mark.parametrize(("eta", "eta_b"), [(0.85, 1.0), (0.3, 0.6)])
def test_ddrm_has_the_moments_of_its_cases(eta: float, eta_b: float) -> None:
    sde, steps = VPSDE(), 20
    found = drawn(DDRM(Matrix(A), STD, eta, eta_b), sde, steps, ALONE) @ AXES.T
    seen = [(y, STD / s) for y, s in zip((LEFT.T @ Y / VALUES).tolist(), VALUES.tolist(), strict=True)]
    laws = [
        one_coordinate(sde, steps, mean, variance, y, level, eta, eta_b)
        for mean, variance, (y, level) in zip(
            (AXES @ MEAN).tolist(), (0.3, 0.5, 0.4, 0.2), [*seen, (0.0, torch.inf), (0.0, torch.inf)], strict=True
        )
    ]
    mean, variance = (torch.tensor(each, dtype=torch.float64) for each in zip(*laws, strict=True))
    assert_moments(found, Law(mean, torch.diag(variance)))
    with pytest.raises(AssertionError):
        assert_moments(
            drawn(DDRM(Matrix(A), STD / 4, eta, eta_b), sde, steps, ALONE) @ AXES.T, Law(mean, torch.diag(variance))
        )


def test_bias_of_ddrm_with_noise_or_eta() -> None:
    """In one coordinate by 800 steps: one that is seen with noise, and one that is not seen."""
    sde, variance, y, level = VPSDE(), 0.5, 0.8, 0.4
    exact = (variance * y / (variance + level**2), variance * level**2 / (variance + level**2))
    seen = {eta: one_coordinate(sde, 800, 0.0, variance, y, level, eta, 1.0) for eta in (0.0, 0.85)}
    unseen = {eta: one_coordinate(sde, 800, 0.0, variance, 0.0, torch.inf, eta, 1.0)[1] for eta in (0.0, 0.85)}
    print(f"DDRM's mean and variance: with noise {seen}, exact {exact}; variance of what is unseen {unseen}, exact 0.5")
    assert all(mean - exact[0] > 0.3 * exact[1] ** 0.5 and spread < 0.1 * exact[1] for mean, spread in seen.values())
    assert unseen[0.0] == pytest.approx(variance, rel=0.03)
    assert 0.5 * variance < unseen[0.85] < 0.9 * variance


def test_ddrm_of_images() -> None:
    """Means of blocks are kept to the bit of float32."""
    sde, small = VPSDE(), Downsample(2)
    prior = GaussianMixture(torch.zeros(1, 1, 4, 4), 0.5)
    y = small.A(prior.sample(3, 2))
    found = sample(sde, prior.denoiser(sde), (3, 1, 4, 4), solver=DDRM(small), steps=10, condition={"measurement": y})
    torch.testing.assert_close(small.A(found), y, rtol=0, atol=1e-5)


def test_ddrm_of_large_images_needs_no_matrix_and_is_the_same_by_one() -> None:
    """What half of a blurred spectrum is, by a decomposition in closed form and by that of the matrix."""
    sde, blur = VPSDE(), Blur(torch.tensor([[0.1, 0.2, 0.3], [0.0, 0.2, 0.2]]))
    prior = GaussianMixture(torch.zeros(1, 1, 4, 6, dtype=torch.float64), 0.5)
    y = blur.A(prior.sample(3, 2))

    class Plain:
        A, A_adjoint, A_dagger = blur.A, blur.A_adjoint, blur.A_dagger

    given: dict[str, Any] = dict(steps=10, condition={"measurement": y})
    closed, by_matrix = (
        sample(sde, prior.denoiser(sde), (3, 1, 4, 6), solver=DDRM(each, 0.1), **given) for each in (blur, Plain())
    )
    torch.testing.assert_close(closed, by_matrix, rtol=1e-6, atol=1e-6)
    flat = GaussianMixture(torch.zeros(1, 3, 64, 64), 0.5)
    seen = Mask(torch.arange(64) % 2 == 0)
    y = seen.A(flat.sample(2, 1))
    given = dict(steps=4, condition={"measurement": y})
    found = sample(sde, flat.denoiser(sde), (2, 3, 64, 64), solver=DDRM(seen), **given)
    torch.testing.assert_close(seen.A(found), y, rtol=0, atol=1e-5)
