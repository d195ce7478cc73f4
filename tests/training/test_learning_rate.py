"""The learning rate over a run, against torch's own schedules and closed forms."""

import math

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR

from sdescore.training.learning_rate import learning_rate

STEPS = 80


def rates(decay: str, warmup: int = 0) -> list[float]:
    return [learning_rate(0.3, decay, warmup, step, step / STEPS) for step in range(STEPS)]


@pytest.mark.parametrize("decay", ["cosine", "linear"])
def test_falls_as_torchs_own_schedule(decay: str) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    schedule = {
        "cosine": lambda: CosineAnnealingLR(optimizer, STEPS),
        "linear": lambda: LinearLR(optimizer, 1.0, 0.0, STEPS),
    }[decay]()
    wanted = []
    for _ in range(STEPS):
        wanted.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates(decay) == pytest.approx(wanted, rel=1e-9)


def test_inverse_root_is_karras_et_al_s() -> None:
    """lr / sqrt(max(step / reference, 1)), whatever the end (Karras et al. 2024, eq. 15)."""
    found = [learning_rate(0.3, "inverse-root", 10, step, 0.0) for step in (9, 10, 40, 1000)]
    assert found == pytest.approx([0.3, 0.3, 0.15, 0.03])
    assert rates("inverse-root", 5) == pytest.approx(
        [0.3 * min((k + 1) / 5, 1, math.sqrt(5 / max(k, 1))) for k in range(STEPS)]
    )


@pytest.mark.parametrize("decay", ["cosine", "linear", "inverse-root", "none"])
def test_rises_in_a_line_before(decay: str) -> None:
    without, found = rates(decay, 1), rates(decay, 8)
    assert found[:8] == pytest.approx(
        [min((k + 1) / 8, 1) * (0.3 if decay == "inverse-root" else without[k]) for k in range(8)]
    )
    if decay != "inverse-root":
        assert found[8:] == without[8:]
    assert all(rate > 0 for rate in found)


@pytest.mark.parametrize("decay", ["cosine", "none"])
def test_rises_in_a_tenth_of_a_run_that_is_short(decay: str) -> None:
    without, found = rates(decay, 1), rates(decay, 1000)
    assert found[0] == pytest.approx(without[0] / 1000)  # as long as nothing is done, steps alone are known
    assert found[1:8] == pytest.approx([without[k] * k / 8 for k in range(1, 8)])
    assert found[8:] == without[8:]


def test_ends_at_zero_where_the_time_is_over() -> None:
    assert learning_rate(0.3, "linear", 5, 7, 1.3) == 0 == learning_rate(0.3, "cosine", 5, 7, 1.0)
    assert learning_rate(0.3, "none", 5, 7, 1.3) == 0.3
