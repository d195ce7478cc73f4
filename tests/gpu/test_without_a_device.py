"""What tells on a CPU how a GPU will fare: on the meta device nothing has a value that could be read back."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from accelerate.state import PartialState
from devices import Copies
from named_solvers import FIXED, NAMES
from noise_doubles import Constant
from torch import Tensor

from sdescore import VPSDE, Denoiser, Noise, OneStep, ReverseProcess, find_solver
from sdescore.denoisers.folders import build_net
from sdescore.nets import MLP
from sdescore.sampling.run import solver_states
from sdescore.sampling.times import time_grid
from sdescore.training.accelerator import build_accelerator
from sdescore.training.config import TrainConfig
from sdescore.training.default_net import default_net
from sdescore.training.trainer import Trainer

META = torch.device("meta")


def states(solver: Any) -> Iterator[Tensor]:
    sde = VPSDE()
    net = Denoiser(MLP(2, width=8, depth=1), sde).to(META)
    times = time_grid(sde, solver, 4, None, None, net)
    return solver_states(ReverseProcess(sde, net), solver, torch.empty(4, 2, device=META), times, Constant(0.5))


@torch.no_grad()
def copies(solver: Any) -> Copies:
    prepared = states(solver)
    with Copies() as found:
        for state in prepared:
            assert state.is_meta
    return found


@pytest.mark.filterwarnings("ignore:.*net calls")
@pytest.mark.parametrize("name", FIXED)
def test_no_step_of_sampling_would_wait(name: str) -> None:
    assert copies(find_solver(name)).waiting == []


@pytest.mark.slow
def test_those_that_choose_their_steps_read_their_errors() -> None:
    for name in set(NAMES) - set(FIXED):
        with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
            copies(find_solver(name))


class Waits(OneStep):
    """Brings the time to the device at each step."""

    def step(self, reverse: ReverseProcess, x: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        return x + t.to(x.device, x.dtype) * reverse.noise(x, t)


class Reads(OneStep):
    def step(self, reverse: ReverseProcess, x: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        return x / float(x.norm())


def test_what_waits_is_found() -> None:
    assert copies(Waits()).waiting == ["aten._to_copy.default"] * 3
    with pytest.raises(RuntimeError, match="meta"):
        copies(Reads())


@pytest.fixture
def on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training goes to the meta device, past the checks that refuse it."""
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setattr("sdescore.training.draws.generator", lambda *key, device: None)
    for name in ("objectives.denoising.check_tensor", "denoisers.denoiser.check_tensor"):
        monkeypatch.setattr(f"sdescore.{name}", lambda *given: None)
    monkeypatch.setattr("sdescore.denoisers.denoiser.check_times_of", lambda *given: None)


def test_a_training_step_brings_over_the_samples_alone(config: TrainConfig, on_meta: None) -> None:
    """In two parts, with flips, labels that are dropped, dropout, dequantised data and three averages."""
    args = {**config.net_args, "multipliers": [1]}
    config = replace(config, dequantize=True, net_args=args, batch_size=4, mixed_precision="no")
    accelerator = build_accelerator("no", "none", config.out)
    PartialState._shared_state["device"] = META  # accelerate takes it from there
    accelerator.state.device = META
    source = config.build_source()
    trainer = Trainer(config, source, accelerator, 0.5)
    raw, labels = source.__getitems__(range(4))
    assert labels is not None
    with Copies() as found:
        loss, norm = trainer.update(raw, {"label": labels})
    assert loss.is_meta and norm.is_meta
    assert found.waiting == []
    assert len(found.not_waiting) == 2 * config.accumulation  # samples and labels of each part


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 96), (5,)])
def test_the_default_nets_compile_whole(shape: tuple[int, ...]) -> None:
    """As for a GPU: fullgraph raises where the graph would break."""
    torch._dynamo.reset()
    name, arguments = default_net(shape, 50_000, "cuda")
    known = {"channels": shape[0], "image_size": list(shape[1:]), "dims": len(shape) - 1, "features": shape[0]}
    with META:
        net = build_net(name, arguments, known)
    x, c_noise = torch.empty(2, *shape, device=META), torch.empty(2, device=META)
    assert torch.compile(net.forward, backend="eager", fullgraph=True)(x, c_noise).shape == x.shape


@pytest.mark.slow
def test_a_training_step_compiles_once(plain: TrainConfig) -> None:
    """No graph breaks, and none is compiled again for other values, steps or times."""
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    torch._dynamo.reset()
    compile = torch.compile
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", lambda forward: compile(forward, backend=counter, fullgraph=True))
        patch.setenv("ACCELERATE_USE_CPU", "true")
        accelerator = build_accelerator("no", "none", plain.out)
        trainer = Trainer(replace(plain, compile=True), plain.build_source(), accelerator, 0.5)
        raw, labels = trainer.source.__getitems__(range(plain.batch_size))
        assert labels is not None
        for _ in range(4):
            trainer.update(raw, {"label": labels})
    assert counter.frame_count == 1
