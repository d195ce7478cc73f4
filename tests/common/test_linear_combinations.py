"""Sums of tensors with factors, and whose memory they may write to."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from named_solvers import FIXED
from torch import Tensor, nn

from sdescore import VPSDE, Denoiser, ReverseProcess, Solver, sample, trajectory
from sdescore.common.linear_combinations import Coefficient, Summand, combine, materialise, weight
from sdescore.solvers import Adams

X, Y, Z = torch.randn(3, 5, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
EACH = torch.tensor([1.0, -2.0, 0.0, 0.5, 3.0], dtype=torch.float64)


def expected(terms: Iterable[Summand]) -> Tensor:
    return sum((torch.as_tensor(a).reshape(-1, 1, 1) * x for x, a in terms), start=torch.zeros_like(X))


SUMS: dict[str, list[Summand]] = {
    "one": [(X, 1.0)],
    "one, scaled": [(X, 0.3)],
    "one for each sample": [(X, EACH)],
    "two": [(X, 1.0), (Y, -2.0)],
    "two, scaled": [(X, 0.3), (Y, -2.0)],
    "three, one of them 0": [(X, 0.3), (Y, 0.0), (Z, 2.0)],
    "the first again": [(X, 0.3), (Y, -2.0), (X, 0.7)],
    "the first alone again": [(X, 0.3), (X, 0.7)],
    "the second again": [(X, 0.3), (Y, -2.0), (Y, 0.7)],
    "each sample's own": [(X, EACH), (Y, 2.0), (X, 0.5), (Z, EACH)],
}


@pytest.mark.parametrize("name", SUMS)
def test_a_sum_is_new_or_added_to_what_it_may_overwrite(name: str) -> None:
    terms, before = SUMS[name], [x.clone() for x in (X, Y, Z)]
    found, onto = combine(terms), X + Y
    torch.testing.assert_close(found, expected(terms))
    torch.testing.assert_close(combine(terms, onto), X + Y + expected(terms))
    found.zero_()
    assert all(torch.equal(x, y) for x, y in zip((X, Y, Z), before, strict=True))


def test_sums_of_sums() -> None:
    weights: list[Coefficient] = [2.0, EACH, 5.0]
    terms = weight(weights, [[(X, 0.5), (Y, 1.0)], [(Z, -1.0)]])
    torch.testing.assert_close(combine(terms), X + 2 * Y - expected([(Z, EACH)]))


@pytest.mark.parametrize("name", ["one", "one, scaled", "two, scaled", "three, one of them 0", "the first again"])
def test_a_sum_in_one(name: str) -> None:
    term = materialise(SUMS[name])
    torch.testing.assert_close(expected([term]), expected(SUMS[name]))
    assert all(term[0].data_ptr() != x.data_ptr() for x, _ in SUMS[name])


class Bending(nn.Module):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.sin(2 * x + t.unsqueeze(1))


def test_a_state_and_a_prediction_made_of_it_are_one_term() -> None:
    """What a step takes of x directly and by x0 = (x - sigma eps) / alpha is added once: here nothing is left of it."""
    sde, t = VPSDE(), torch.tensor([0.5], dtype=torch.float64)
    reverse = ReverseProcess(sde, Denoiser(Bending(), sde, "noise"))
    x = torch.full((2, 3), 1e8)
    [(state, of_x), (output, of_net)] = reverse.summands(t, 1.0, 0.0)(0, x)
    assert state is x and of_x == pytest.approx(1 / float(sde.alpha(t)))
    assert torch.equal(combine([(x, -of_x), (x, of_x), (output, of_net)]), combine([(output, of_net)]))


class Reusing(nn.Module):
    """A net that returns the same memory at every call, as one that is replayed from a CUDA graph does."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.output = net, torch.empty(0)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        found = self.net(x, t)
        if self.output.shape != found.shape:
            self.output = torch.empty_like(found)
        return self.output.copy_(found)


SOLVERS: dict[str, str | Solver] = {
    **{name: name for name in FIXED},
    **{f"order {order}, end 3": Adams(order, end=3) for order in (1, 2, 3)},
    "order 1, corrected": Adams(1, corrector=True),
}


@pytest.mark.parametrize("predicts", ["noise", "data", "v", "score", "velocity"])
@pytest.mark.parametrize("name", SOLVERS)
def test_a_net_may_return_the_same_memory_again(name: str, predicts: str) -> None:
    """Within a run, and between the steps of two that take turns."""
    sde, found = VPSDE(), []
    for net in (Bending(), Reusing(Bending())):
        denoiser = Denoiser(net, sde, predicts)
        run: dict[str, Any] = dict(solver=SOLVERS[name], steps=6, dtype=torch.float64)
        turns = zip(*(trajectory(sde, denoiser, (3, 2), seed=seed, **run) for seed in (0, 1)), strict=True)
        *_, last = [[state.clone() for state in states] for states in turns]
        found.append([sample(sde, denoiser, (6, 2), batch_size=3, **run), *last])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
