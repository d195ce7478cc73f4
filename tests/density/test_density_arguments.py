"""What latents and bounds refuse: numbers that are none, other kinds of argument, and seeds that are none."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from sdescore import VPSDE, GaussianMixture, Scaling
from sdescore.density import (
    GaussianFit,
    bits_per_dim,
    decode,
    dequantize,
    elbo,
    encode,
    likelihood,
    quantised_likelihood,
    scale_temperature,
    slerp,
)

SDE = VPSDE()
NET = GaussianMixture(torch.zeros(1, 2)).denoiser(SDE)
X = torch.ones(3, 2)
NAN = torch.full((3, 2), math.nan)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: slerp(NAN, X, 0.5), ValueError, "a is not finite in sample 0"),
        (lambda: slerp(X, NAN, 0.5), ValueError, "b is not finite in sample 0"),
        (lambda: slerp(X, -2 * X.flip(0) + 0.1, math.nan), ValueError, "weight=nan; expected a finite number"),
        (lambda: slerp(X, X, torch.tensor([0.1, 0.2])), ValueError, r"weight=.*\(3,\)"),
        (lambda: slerp(X.numpy(), X, 0.5), TypeError, "a is a ndarray"),  # type: ignore[arg-type]
        (lambda: scale_temperature(NAN, 1.0), ValueError, "z is not finite in sample 0"),
        (lambda: scale_temperature(X, math.nan), ValueError, "temperature=nan"),
        (lambda: scale_temperature(X, math.inf), ValueError, "temperature=inf"),
        (lambda: elbo(SDE, NET, X, prior=5), TypeError, "prior is 5"),  # type: ignore[arg-type]
        (lambda: elbo(SDE, NET, X, seed=3.0), TypeError, r"seed=3\.0"),  # type: ignore[arg-type]
        (lambda: elbo(SDE, NET, X, levels=True), TypeError, "levels=True"),
        (lambda: dequantize(X, Scaling(0, 16, 17), True), TypeError, "seed=True"),
        (lambda: dequantize(X.int(), Scaling(0, 16, 17)), TypeError, r"x has dtype torch\.int32"),
        (lambda: quantised_likelihood(SDE, NET, X, Scaling(0, 16, 17), draws=1.0), TypeError, r"draws=1\.0"),  # type: ignore[arg-type]
        (lambda: bits_per_dim([0.0], (2,), Scaling()), TypeError, "log_prob is a list"),  # type: ignore[arg-type]
        (lambda: GaussianFit.of(np.ones((3, 2))), TypeError, "data is a ndarray"),  # type: ignore[arg-type]
        (lambda: GaussianFit.of(NAN), ValueError, "data is not finite in sample 0"),
        (lambda: GaussianMixture(torch.zeros(1, 2)).sample(3, seed=None), TypeError, "seed=None"),  # type: ignore[arg-type]
        (lambda: GaussianMixture(torch.zeros(1, 2)).sample(True), TypeError, "n=True"),
        (lambda: GaussianMixture(torch.zeros(1, 2)).log_prob(X.numpy()), TypeError, "x is a ndarray"),  # type: ignore[arg-type]
    ],
)
def test_refusals(call: Callable[[], object], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        call()


@pytest.mark.parametrize("how", [likelihood, encode, decode])
def test_a_net_that_draws_random_numbers_is_noticed(how: Callable[..., object]) -> None:
    def noisy(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return -x * (1 + 0.1 * torch.randn_like(x))

    with pytest.raises(ValueError, match="net answers otherwise when it is asked again"):
        how(SDE, noisy, X)


def test_samples_beyond_32_bits_of_their_number_are_others() -> None:
    scaling = Scaling(0, 16, 17)
    firsts = {float(dequantize(X[:1], scaling, 0, offset)[0, 0]) for offset in (0, 1, 2**32, 2**40, 2**41)}
    assert len(firsts) == 5


@pytest.mark.parametrize("wrong", [torch.zeros(0), torch.zeros(2), [], 0, ""], ids=str)
def test_what_is_no_name_is_no_kind_of_prediction(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"predicts=.*; expected 'data', 'noise', 'score'"):
        elbo(SDE, lambda x, t: -x, X, predicts=wrong)  # type: ignore[arg-type]
