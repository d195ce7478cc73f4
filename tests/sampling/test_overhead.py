"""What a solver's loop does beside calling the net: new tensors of the state's size for each call."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from scripting import NEEDS_SCRIPTS
from torch import Tensor

from sdescore import Noise, OneStep, ReverseProcess

pytestmark = NEEDS_SCRIPTS


@pytest.fixture
def bench(script: Callable[[str], Any]) -> Any:
    return script("bench.overhead")


class Three(OneStep):
    """Three new tensors a step, and one more that is smaller."""

    def step(self, reverse: ReverseProcess, x: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        x[:1].exp()
        return (reverse.noise(x, t) + x).mul(2).sin()


def test_new_tensors_are_counted(bench: Any) -> None:
    assert bench.allocations(Three(), torch.randn(16, 3, 32, 32)) == pytest.approx(6)  # three in the prediction


@pytest.mark.parametrize("name", ["ddim", "dpm++", "heun", "midpoint", "dpm2", "dpm++2s"])
def test_solvers_up_to_order_2_make_few(name: str, bench: Any) -> None:
    assert bench.allocations(name, torch.randn(16, 3, 32, 32)) <= 4
