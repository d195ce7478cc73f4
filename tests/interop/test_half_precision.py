"""Nets of diffusers in bfloat16, which knows 1000 but not 999: every time reaches them in float32, as in pipelines."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_diffusers import saved, unet
from torch import Tensor, nn

from sdescore import Denoiser, encode, log_likelihood, sample
from sdescore.interop import load_diffusers

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers", "ignore::FutureWarning")

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(5))
Call = tuple[Tensor, Tensor, Tensor]


@pytest.fixture
def net(tmp_path: Path) -> Denoiser:
    scheduler = diffusers.DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
    return load_diffusers(saved(tmp_path, unet(), scheduler), dtype=torch.bfloat16)


def calls_of(net: nn.Module, task: Callable[[], Any]) -> tuple[Any, list[Call]]:
    """What a task returns, and x, the time and the output of each of its net calls."""
    calls: list[Call] = []
    with net.register_forward_hook(lambda _, given, output: calls.append((*given, output.sample))):
        return task(), calls


def test_samples_are_those_of_diffusers_loop(net: Denoiser) -> None:
    """With the state in float32, as ours is; the pipelines' own would be in bfloat16."""
    scheduler = diffusers.DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(4)
    assert scheduler.timesteps[0] == 999
    x = X
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(net.net(x.bfloat16(), t).sample.float(), t, x).prev_sample
    times = scheduler.timesteps.double()
    found, calls = calls_of(net.net, lambda: sample(net.sde, net, x=X, solver="ddim", times=times))
    assert [float(t[0]) for _, t, _ in calls] == times.tolist()
    assert float((found - x).abs().max() / x.abs().max()) < 1e-5


@pytest.mark.parametrize("solver", ["heun", "adams", "ddpm", "rk4"])
def test_every_solver_gives_the_net_its_own_type_and_the_time_in_float32(net: Denoiser, solver: str) -> None:
    times = torch.tensor([999.0, 741.3, 257.1, 30.6], dtype=torch.float64)
    _, calls = calls_of(net.net, lambda: sample(net.sde, net, x=X, solver=solver, times=times))
    check(net.net, calls)


def test_likelihoods_and_latents_do_too(net: Denoiser) -> None:
    _, calls = calls_of(net.net, lambda: encode(net.sde, net, X[:1], rtol=1.0, atol=1.0))
    check(net.net, calls)
    _, calls = calls_of(net.net, lambda: log_likelihood(net.sde, net, X[:1], trace="hutchinson", rtol=1.0, atol=1.0))
    check(net.net, calls)


def check(net: nn.Module, calls: list[Call]) -> None:
    """What the net returned is what it returns for a time in float32, which bfloat16 would round."""
    assert calls
    rounded = 0
    with torch.no_grad():
        for x, t, output in calls:
            assert (x.dtype, t.dtype) == (torch.bfloat16, torch.float32)
            rounded += int((t.bfloat16() != t).sum())
            assert torch.equal(net(x, t).sample, output)
    assert rounded > 0
