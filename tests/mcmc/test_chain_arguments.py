"""Chains leave the caller's tensors alone, and refuse what is no number, seed or state."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sdescore.mcmc import annealed_langevin, effective_sample_size, hmc, langevin, mala


def overwriting(x: Tensor) -> Tensor:
    return nn.ReLU(inplace=True)(x)


def test_a_score_that_writes_over_the_states_is_refused() -> None:
    x = -torch.ones(3, 2)
    with pytest.raises(ValueError, match="score wrote over its input"):
        langevin(overwriting, x, step=0.1, steps=3)
    with pytest.raises(ValueError, match="score wrote over its input"):
        annealed_langevin(lambda x, level: overwriting(x), -torch.ones(3, 2), torch.tensor([1.0]), step=0.1, repeats=1)


def test_a_density_that_writes_over_its_input_changes_nothing() -> None:
    """It is given a copy, since autograd can follow the writing."""

    def plain(x: Tensor) -> Tensor:
        return (-2 * x).square().sum(1) / -2

    def writes(x: Tensor) -> Tensor:
        return x.mul_(-2).square().sum(1) / -2

    x = torch.linspace(-1, 1, 6).reshape(3, 2)
    kept = x.clone()
    expected = hmc(plain, x, step=0.3, steps=5, seed=1)
    found = hmc(writes, x, step=0.3, steps=5, seed=1)
    assert torch.equal(x, kept) and torch.equal(found.trace, expected.trace)


@pytest.mark.parametrize(
    ("changed", "error", "said"),
    [
        ({"seed": True}, TypeError, "seed=True; expected an integer"),
        ({"seed": 3.0}, TypeError, r"seed=3\.0"),
        ({"seed": None}, TypeError, "seed=None"),
        ({"seed": torch.Generator()}, TypeError, "seed=<torch"),
        ({"steps": True}, TypeError, "steps=True; expected a positive integer"),
        ({"thin": 2.5}, TypeError, r"thin=2\.5"),
        ({"step": "0.1"}, TypeError, r"step='0\.1'; expected a positive number"),
        ({"step": float("inf")}, ValueError, "step=inf"),
        ({"x": np.zeros((3, 2))}, TypeError, "x is a ndarray"),
        ({"x": torch.zeros(3, 0)}, ValueError, r"x has shape \(3, 0\)"),
        ({"x": torch.full((3, 2), float("nan"))}, ValueError, "x is not finite in chain 0"),
    ],
)
@pytest.mark.parametrize("chain", [langevin, mala, hmc])
def test_refusals(chain: Callable[..., Any], changed: dict[str, Any], error: type[Exception], said: str) -> None:
    arguments = {"x": torch.zeros(3, 2), "step": 0.1, "steps": 1} | changed

    def value(x: Tensor) -> Tensor:
        return -x if chain is langevin else -x.sum(1)

    with pytest.raises(error, match=said):
        chain(value, **arguments)


def test_numpys_integers_are_seeds() -> None:
    def draw(seed: Any) -> Tensor:
        return langevin(torch.neg, torch.zeros(3, 2), step=0.1, steps=2, seed=seed).x

    assert torch.equal(draw(np.int64(3)), draw(3)) and not torch.equal(draw(2**32 + 3), draw(3))


def test_refusals_of_traces() -> None:
    with pytest.raises(TypeError, match="trace is a ndarray"):
        effective_sample_size(np.zeros((8, 2, 1)))  # type: ignore[arg-type]
    chains = langevin(torch.neg, torch.zeros(3, 2), step=0.1, steps=8)
    with pytest.raises(TypeError, match="burn=True"):
        chains.effective_sample_size(True)


@pytest.mark.parametrize("wrong", [np.float32, torch.float32, 3], ids=str)
def test_what_is_no_function_is_no_density(wrong: Any) -> None:
    for chain in (hmc, mala):
        with pytest.raises(TypeError, match=r"log_density is .*expected a function of x"):
            chain(wrong, torch.zeros(3, 2), step=0.1, steps=1)
