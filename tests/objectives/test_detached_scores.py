"""A score that hides how it depends on x would lose its divergence, and the loss its sign: it is refused."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sdescore.objectives import (
    explicit_score_matching,
    finite_difference_energy_matching,
    finite_difference_score_matching,
    implicit_score_matching,
    sliced_score_matching,
    variance_reduced_score_matching,
)

LOSSES = [implicit_score_matching, sliced_score_matching, variance_reduced_score_matching]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("learned", [False, True])
def test_a_score_that_detaches_x_is_refused(loss: Callable[..., Tensor], learned: bool) -> None:
    scale = nn.Parameter(torch.tensor(1.0)) if learned else 1.0
    with pytest.raises(ValueError, match="the score depends on x without a derivative by it"):
        loss(lambda x: -scale * x.detach(), torch.randn(5, 2))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_score_that_is_the_same_everywhere_has_the_slope_0(loss: Callable[..., Tensor]) -> None:
    constant = nn.Parameter(torch.tensor([1.0, -2.0]))
    v = {} if loss is implicit_score_matching else {"v": torch.tensor([[1.0, 1.0]]).expand(5, 2)}
    value = loss(lambda x: constant.expand_as(x), torch.randn(5, 2), **v)
    expected = 0.5 if loss is sliced_score_matching else 2.5
    torch.testing.assert_close(value, torch.full((5,), expected))


def test_scores_and_energies_leave_the_callers_data_alone() -> None:
    x = -torch.ones(4, 2)
    with pytest.raises(ValueError, match="the score wrote over its input"):
        explicit_score_matching(torch.relu_, x, torch.zeros(4, 2))
    with pytest.raises(ValueError, match="log_density wrote over its input"):
        finite_difference_energy_matching(lambda x: torch.relu_(x).sum(1), x, v=torch.ones(4, 2))
    kept = torch.randn(4, 2)
    again = kept.clone()
    found = implicit_score_matching(lambda x: -x.mul_(1.0), kept)  # which autograd can follow, in a copy
    torch.testing.assert_close(found, -2 + kept.square().sum(1) / 2)
    assert torch.equal(kept, again)


@pytest.mark.parametrize("wrong", [torch.float32, np.float32, 3], ids=str)
def test_what_is_no_function_is_no_score(wrong: Any) -> None:
    x = torch.zeros(3, 2)
    for loss in (sliced_score_matching, implicit_score_matching, finite_difference_score_matching):
        with pytest.raises(TypeError, match=r"score is .*expected a function of x"):
            loss(wrong, x)
