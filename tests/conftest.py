"""What several test files share: the processes, and Gaussian mixtures whose every answer is known."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sdescore import (
    VESDE,
    VPSDE,
    CosineSDE,
    DiscreteSDE,
    FlowSDE,
    GaussianMixture,
    KarrasSDE,
    LinearSDE,
    SubVPSDE,
)

torch.set_num_threads(1)  # small tensors: threads cost more than they give, and runs side by side fight for cores

FIVE: list[LinearSDE] = [VPSDE(), VESDE(), SubVPSDE(), KarrasSDE(), FlowSDE()]
SEVEN: list[LinearSDE] = [*FIVE, CosineSDE(), DiscreteSDE.from_betas(VPSDE().betas(1000))]


@pytest.fixture(params=FIVE, ids=lambda sde: type(sde).__name__)
def main_sde(request: pytest.FixtureRequest) -> LinearSDE:
    """The processes on which solvers are measured."""
    return request.param


@pytest.fixture(params=SEVEN, ids=lambda sde: type(sde).__name__)
def sde(request: pytest.FixtureRequest) -> LinearSDE:
    """Every process."""
    return request.param


@pytest.fixture
def oracle2() -> GaussianMixture:
    """Three unequal modes in the plane, two of them stretched, in float64."""
    return GaussianMixture(
        torch.tensor([[-1.0, 0.5], [0.8, 1.0], [0.5, -1.2]], dtype=torch.float64),
        torch.tensor([[0.3, 0.2], [0.15, 0.4], [0.25, 0.25]]),
        [0.5, 0.3, 0.2],
    )


@pytest.fixture
def oracle64() -> GaussianMixture:
    """Four unequal modes in 64 dimensions, in float64."""
    draw = torch.Generator().manual_seed(64)
    means = 0.4 * torch.randn(4, 64, generator=draw, dtype=torch.float64)
    stds = 0.2 + 0.3 * torch.rand(4, 64, generator=draw, dtype=torch.float64)
    return GaussianMixture(means, stds, [0.4, 0.3, 0.2, 0.1])


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """A script as a module, by its name."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "scripts"))
    return importlib.import_module
