"""Processes against the published ladders and tables."""

from collections.abc import Callable
from decimal import Decimal

import pytest
import torch
from tensors_and_errors import double, relative
from torch import Tensor

from sdescore import VESDE, VPSDE, DiscreteSDE, SubVPSDE

COLUMNS: list[Callable[[Tensor], Tensor]] = [
    VPSDE().alpha,
    VPSDE().sigma,
    SubVPSDE().sigma,
    SubVPSDE().g,
    VESDE().sigma,
    VESDE().g,
]
TABLE = {
    1e-5: ".9999994995 .001000497126 1.000994499e-6 4.478807824e-4 .01000085176 .04127625023",
    1e-3: ".9999450265 .01048541634 1.099439557e-4 .005134502047 .01008553568 .04162576394",
    0.1: ".9467217988 .3220525355 .1037178356 .6411377458 .02343672912 .09672979055",
    0.5: ".2811828808 .9596542021 .9209361875 3.160249449 .7071067812 2.918423066",
    1.0: ".006571586495 .9999784069 .9999568143 4.472135951 50 206.3636740",
}


def printed(value: float | Tensor, digits: str) -> bool:
    """Whether a value rounds to what is printed; a number printed without decimals is exact."""
    unit = 10.0 ** int(Decimal(digits).as_tuple().exponent) if "." in digits else 1e-10
    return abs(float(value) - float(digits)) <= 0.5000001 * unit


@pytest.mark.parametrize("t", TABLE)
def test_published_values(t: float) -> None:
    for column, digits in zip(COLUMNS, TABLE[t].split(), strict=True):
        assert printed(column(double(t)), digits), (column, t, float(column(double(t))), digits)


def test_ncsn_ladder() -> None:
    sigmas = VESDE(0.01, 50.0).sigmas(1000)
    ratio = sigmas[1:] / sigmas[:-1]
    exact = 0.01 * (50 / 0.01) ** (torch.arange(1000, dtype=torch.float64) / 999)
    assert relative(sigmas, exact) < 3e-15
    assert printed(ratio[0], "1.0085621664")
    assert relative(ratio, torch.full_like(ratio, 5000 ** (1 / 999))) < 3e-15
    assert sigmas[0] == 0.01


def test_ddpm_table() -> None:
    betas = VPSDE().betas(1000)
    assert relative(betas, torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)) < 1e-14
    at = torch.tensor([0, 99, 499, 999], dtype=torch.float64)
    squared = DiscreteSDE.from_betas(betas).alpha(at) ** 2
    facts = ["0.9999", "0.897018145675", "0.0785872428818", "4.03582976538e-5"]
    for value, digits in zip(squared, facts, strict=True):
        assert printed(value, digits) or (digits == "0.9999" and abs(value - 0.9999) < 1e-14), (value, digits)
    assert abs(squared[0] - 0.9999) < 1e-14
    assert printed(VPSDE().alpha(double(1.0)) ** 2, "4.318574906e-5")


def test_importance_normaliser() -> None:
    vp = VPSDE()
    ends = vp.integral(double(1e-5, 1.0)).expm1().log()
    assert printed(ends[1] - ends[0], "23.86447237")
    # The same from g^2 / sigma^2 itself, by quadrature in log t.
    t = torch.logspace(-5, 0, 200_001, dtype=torch.float64)
    assert float(torch.trapezoid(vp.g(t) ** 2 / vp.sigma(t) ** 2 * t, t.log())) == pytest.approx(23.86447237, rel=1e-8)


def test_ve_variance_from_zero() -> None:
    """The SDE adds sigma^2 - sigma_min^2: the integral of g^2."""
    ve = VESDE()
    t = torch.linspace(0, 0.5, 100_001, dtype=torch.float64)
    added = torch.trapezoid(ve.g(t) ** 2, t)
    assert float(added) == pytest.approx(float(ve.sigma(t[-1]) ** 2 - 0.01**2), rel=1e-8)
