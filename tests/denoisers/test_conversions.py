"""Every prediction from every other, on every process."""

import math

import pytest
import torch
from prediction_kinds import DATA_STD, KINDS, coefficients
from torch import Tensor

from sdescore import LinearSDE
from sdescore.denoisers import PREDICTIONS, convert

Terms = tuple[Tensor, Tensor]  # what multiplies x, and what multiplies the prediction


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
