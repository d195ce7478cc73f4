"""What several test files share: the processes, and Gaussian mixtures whose every answer is known."""

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from finished_runs import FinishedRuns
from scripting import SCRIPTS, Refusal, refused

from sdescore import VESDE, VPSDE, CosineSDE, DiscreteSDE, FlowSDE, GaussianMixture, KarrasSDE, LinearSDE, SubVPSDE
from sdescore.training.config import TrainConfig

torch.set_num_threads(1)  # small tensors: threads cost more than they give, and runs side by side fight for cores

FIVE: list[LinearSDE] = [VPSDE(), VESDE(), SubVPSDE(), KarrasSDE(), FlowSDE()]
SIX: list[LinearSDE] = [*FIVE, CosineSDE()]
SEVEN: list[LinearSDE] = [*SIX, DiscreteSDE.from_betas(VPSDE().betas(1000))]


def name_of(parameter: object) -> str:
    """How a test's parameter is shown: names and numbers as they are, a process by its class."""
    return str(parameter) if isinstance(parameter, (str, int)) else type(parameter).__name__


@pytest.fixture(params=FIVE, ids=name_of)
def main_sde(request: pytest.FixtureRequest) -> LinearSDE:
    """The processes on which solvers are measured."""
    return request.param


@pytest.fixture(params=SEVEN, ids=name_of)
def sde(request: pytest.FixtureRequest) -> LinearSDE:
    """Every process."""
    return request.param


@pytest.fixture(scope="session")
def oracle2() -> GaussianMixture:
    """Three unequal modes in the plane, two of them stretched, in float64."""
    return GaussianMixture(
        torch.tensor([[-1.0, 0.5], [0.8, 1.0], [0.5, -1.2]], dtype=torch.float64),
        torch.tensor([[0.3, 0.2], [0.15, 0.4], [0.25, 0.25]]),
        [0.5, 0.3, 0.2],
    )


@pytest.fixture(scope="session")
def oracle3() -> GaussianMixture:
    """Four narrow modes in space, in float64."""
    own = torch.Generator().manual_seed(3)
    return GaussianMixture(torch.randn(4, 3, generator=own, dtype=torch.float64), 0.2)


@pytest.fixture(scope="session")
def oracle64() -> GaussianMixture:
    """Four unequal modes in 64 dimensions, in float64."""
    draw = torch.Generator().manual_seed(64)
    means = 0.4 * torch.randn(4, 64, generator=draw, dtype=torch.float64)
    stds = 0.2 + 0.3 * torch.rand(4, 64, generator=draw, dtype=torch.float64)
    return GaussianMixture(means, stds, [0.4, 0.3, 0.2, 0.1])


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """A script as a module, by its name."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """Every test is as if alone in its process: fresh global generators, no accelerator, which would keep the precision
    of the first in a process, and no module from another's folder."""
    torch.default_generator.manual_seed(0)
    np.random.seed(0)
    AcceleratorState._reset_state(reset_partial_state=True)
    path, modules = sys.path[:], set(sys.modules)
    yield
    added = set(sys.path).difference(path)
    sys.path[:] = path
    for name in set(sys.modules) - modules if added else ():
        if str(Path(getattr(sys.modules[name], "__file__", None) or "nowhere").parent) in added:
            del sys.modules[name]


@pytest.fixture
def float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    """A small run that uses everything random: dropout, flips, dropped labels, the data's order."""
    return TrainConfig(
        data="digits",
        flips=True,
        conditional=True,
        drop=0.3,
        net="UNet",
        net_args={"base_width": 8, "multipliers": [1, 2], "blocks": 1, "heads": 2, "dropout": 0.2},
        sde="VPSDE",
        predicts="noise",
        weighting="simple",
        time_distribution="low-discrepancy",
        steps=6,
        batch_size=10,
        accumulation=2,
        lr=1e-3,
        warmup=4,
        decay="none",
        betas=(0.9, 0.999),
        weight_decay=0.01,
        ema_halflives=(60, 25),
        ema_warmup=0.5,
        ema_widths=(0.1,),
        save_every=2,
        log_every=3,
        sample_every=0,
        tracker="none",
        progress=False,
        out=str(tmp_path / "run"),
    )


@pytest.fixture
def small(tmp_path: Path) -> TrainConfig:
    """Eight steps of a small net on training_runs.SOURCE."""
    return TrainConfig(
        net="MLP",
        net_args={"width": 8},
        steps=8,
        batch_size=5,
        sample_every=1000,
        sample_count=2,
        sample_steps=2,
        tracker="none",
        progress=False,
        out=str(tmp_path / "run"),
    )


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> FinishedRuns:
    return FinishedRuns(tmp_path_factory.mktemp)


@pytest.fixture
def plain(config: TrainConfig) -> TrainConfig:
    """Nothing random but times and noise, and no parts: what can be computed by hand."""
    args = {**config.net_args, "dropout": 0.0}
    return replace(config, flips=False, conditional=False, accumulation=1, net_args=args)


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Refusal:
    """Runs a command, named with its arguments, that it refuses; returns the last line that it says."""
    from sdescore.cli import main

    return lambda *arguments: refused(main, list(arguments), capsys)
