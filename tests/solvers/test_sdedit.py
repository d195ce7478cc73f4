"""SDEdit against the law of a Gaussian prior: the flow from its level is an affine map of the noised guide."""

from typing import Any, cast

import pytest
import torch
from gaussian_measured import COVARIANCE, FULL, MEAN, SDES, own

from sdescore import VPSDE, LinearSDE, sample
from sdescore.solvers import ADAMS, DDPM, HEUN, SDEdit
from sdescore.testing import two_sample

GUIDE = torch.tensor([1.2, -0.8, 0.5, 0.9], dtype=torch.float64)


@pytest.mark.parametrize("sde", SDES, ids=["vp", "karras"])
@pytest.mark.parametrize("rho", [0.4, 2.0])
def test_ends_are_those_of_the_flow(sde: LinearSDE, rho: float) -> None:
    """x0 = m + C^1/2 (C + rho^2)^-1/2 (guide + rho z - m), so that mean and covariance are known."""
    variances, axes = torch.linalg.eigh(COVARIANCE)
    factor = (axes * (variances / (variances + rho**2)).sqrt()) @ axes.T
    z = torch.randn(2000, 4, generator=own, dtype=torch.float64)
    exact = MEAN + (GUIDE + rho * z - MEAN) @ factor
    guide = {"guide": GUIDE.expand(2000, -1)}
    for method in (HEUN, ADAMS):
        found = sample(sde, FULL.denoiser(sde), (2000, 4), solver=SDEdit(rho, method), steps=25, condition=guide)
        assert two_sample(found, exact) > 1e-3
    assert (
        two_sample(
            sample(sde, FULL.denoiser(sde), (2000, 4), solver=SDEdit(1.5 * rho, HEUN), steps=25, condition=guide), exact
        )
        < 1e-3
    )


def test_its_times_begin_at_its_level_and_calls_are_the_methods() -> None:
    sde = VPSDE()
    times = SDEdit(0.7, HEUN).grid(sde, 9)
    assert float(sde.rho(times[0])) == pytest.approx(0.7, rel=1e-9) and len(times) == 9
    assert float(sde.rho(times[-1])) == pytest.approx(0.002, rel=1e-6) and bool((times.diff() < 0).all())
    assert SDEdit(0.7, HEUN).nfe(8) == 17 and SDEdit(0.7, DDPM).nfe(8) == 9


def test_bad_arguments_are_named() -> None:
    sde, net = VPSDE(), FULL.denoiser(VPSDE())
    cases: list[tuple[Any, type[Exception], str]] = [
        (lambda: SDEdit(0.0), ValueError, "rho=0.0"),
        (lambda: SDEdit(1.0, cast(Any, "heun")), TypeError, "method is 'heun'"),
        (lambda: sample(sde, net, (2, 4), solver=SDEdit(1.0)), ValueError, 'condition has no "guide"'),
        (
            lambda: sample(sde, net, (2, 4), solver=SDEdit(1e4), condition={"guide": torch.zeros(2, 4)}),
            ValueError,
            "rho=10000",
        ),
        (
            lambda: sample(sde, net, (2, 4), solver=SDEdit(), condition={"guide": torch.zeros(2, 3)}),
            ValueError,
            r"guide is \(2, 3\); expected \(2, 4\)",
        ),
    ]
    for make, error, word in cases:
        with pytest.raises(error, match=word):
            make()
