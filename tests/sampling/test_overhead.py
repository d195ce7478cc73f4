"""What a solver's loop does beside calling the net: new tensors of the state's size for each call."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from scripting import NEEDS_SCRIPTS
from torch import Tensor

from sdescore import Noise, OneStep, ReverseProcess
from sdescore.common.checks import all_finite

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


def test_what_a_short_call_costs_above_its_steps(bench: Any) -> None:
    """Of calls that take 3 ms and 0.25 ms a step, beside peers that take twice as long."""
    best = {}
    for peer, (_, _, name) in bench.DIFFUSERS.items():
        best[f"sdescore {name}"] = {n: 3 + 0.25 * n for n in bench.WHOLE}
        best[f"diffusers {peer}"] = {n: 6 + 0.5 * n for n in bench.WHOLE}
    for row in bench.whole_rows(best):
        assert row["ms above its steps"] == "3.00" and row["÷ counterpart at 10"] == "0.50"


def test_whole_calls_take_the_calls_they_say(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, list[int]] = {}
    monkeypatch.setattr(bench, "our_call", lambda name, x, output, nfe: asked.setdefault(name, []).append(nfe))
    assert set(bench.whole_calls(torch.zeros(1, 2), rounds=2, peers=False)["sdescore ddim"]) == set(bench.WHOLE)
    assert asked["ddim"] == [*bench.WHOLE, *bench.WHOLE]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_found_by_a_sum(bad: float) -> None:
    x = torch.full((3, 4), 3e38)
    assert all_finite(x)  # whose sum overflows
    x[1, 2] = bad
    assert not all_finite(x)
    x = torch.tensor([float("inf"), -float("inf")])
    assert not all_finite(x)
