"""A run of DiffusersScheduler: what it refuses, what it leaves as it was, and what is copied and saved."""

import copy
import pickle
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pushed_schedulers import loop, made, net, start
from torch import Tensor, nn

from sdescore import Noise, ReverseProcess
from sdescore.sampling import karras

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("greenlet")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")  # of NumPy 2, in its schedulers


def begun(solver: Any = "dpm++", **options: Any) -> tuple[Any, Tensor]:
    """A scheduler after two steps of eight, and the state."""
    scheduler, x = made(solver, **options), start()
    scheduler.set_timesteps(8)
    for timestep in scheduler.timesteps[:2]:
        x = scheduler.step(net(scheduler, x, timestep), timestep, x).prev_sample
    return scheduler, x


def go_on(scheduler: Any, x: Tensor, timestep: Any = None) -> Any:
    timestep = scheduler.timesteps[2] if timestep is None else timestep
    return scheduler.step(net(scheduler, x, scheduler.timesteps[2]), timestep, x)


# Order and samples ---------------------------------------------------------------------------------------------------


def test_a_changed_sample_is_refused() -> None:
    scheduler, x = begun()
    assert go_on(scheduler, x.clone()) is not None  # the same numbers
    scheduler, x = begun()
    with pytest.raises(ValueError, match="sample is not what the last step returned"):
        go_on(scheduler, x + 1e-9)
    scheduler, x = begun()
    x.mul_(1.0)
    with pytest.raises(ValueError, match="sample is not what the last step returned"):
        go_on(scheduler, x)
    scheduler, x = begun()
    with pytest.raises(ValueError, match="sample is not what the last step returned"):
        go_on(scheduler, x[:2])


def test_a_batch_that_is_carried_twice_may_have_its_first_half_repeated() -> None:
    """As DiTPipeline does under guidance, where noise makes the halves differ."""
    once, twice = made("ddpm", seed=0), made("ddpm", seed=0)
    x, y = start(), start().repeat(2, 1)
    for scheduler in (once, twice):
        scheduler.set_timesteps(6)
    for timestep in once.timesteps:
        x = once.step(net(once, x, timestep), timestep, x).prev_sample
        y = torch.cat([y[:4], y[:4]])
        y = twice.step(net(twice, y, timestep), timestep, y).prev_sample
    torch.testing.assert_close(y[:4], x)
    assert not torch.equal(y[4:], x)


def test_steps_out_of_order_are_refused() -> None:
    scheduler, x = begun()
    with pytest.raises(ValueError, match=r"timestep=571 is out of order; expected 714"):
        go_on(scheduler, x, scheduler.timesteps[3])
    with pytest.raises(ValueError, match="no times are set"):
        made().step(x, 3, x)
    other = made()
    other.set_timesteps(3)
    with pytest.raises(ValueError, match=r"timestep=7 is not one of timesteps, \[999, 500, 0\]"):
        other.step(x, 7, x)
    x = loop(other, start())
    with pytest.raises(ValueError, match="the run is over; expected a call of set_timesteps"):
        other.step(x, 0, x)
    other.set_timesteps(3)
    assert torch.equal(loop(other, start()), x)


def test_outputs_of_another_shape_are_refused_and_learned_variances_left_out() -> None:
    scheduler, x = begun()
    with pytest.raises(ValueError, match="the net returned"):
        scheduler.step(x[:2], scheduler.timesteps[2], x)
    (output,) = [net(scheduler, x, scheduler.timesteps[2])]
    doubled = scheduler.step(torch.cat([output, 7 * output], 1), scheduler.timesteps[2], x).prev_sample
    assert torch.equal(doubled, go_on(*begun()).prev_sample)


class AsTheSamplesNeed:
    """A solver that says how often it calls the net, and where depends on what it says."""

    def solve(self, reverse: ReverseProcess, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        for t, s in pairwise(times):
            far = reverse.noise(x, t if float(x.abs().max()) < 50 else (t + s) / 2)
            x = x + 0.01 * far
            yield x

    def nfe(self, intervals: int) -> int:
        return intervals


def test_calls_that_were_not_planned_are_refused() -> None:
    scheduler = made(AsTheSamplesNeed())
    scheduler.set_timesteps(4)
    loop(scheduler, start())
    scheduler.set_timesteps(4)
    x = 49.999 * torch.ones(4, 3, dtype=torch.float64)
    output = 100 * torch.ones_like(x)
    with pytest.raises(RuntimeError, match=r"calls the net at t = 499.5 instead of 666"):
        scheduler.step(output, scheduler.timesteps[0], x)


class Faulty:
    def solve(self, reverse: ReverseProcess, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        for t in times[:-1]:
            x = reverse.noise(x, t)
            if bool((x > 1e3).any()):
                raise ZeroDivisionError("in the solver")
            yield x


def test_errors_of_the_solver_come_out_of_the_step() -> None:
    scheduler = made(Faulty())
    scheduler.set_timesteps(4)
    with pytest.raises(ZeroDivisionError, match="in the solver"):
        scheduler.step(torch.full((4, 3), 1e4), scheduler.timesteps[0], torch.zeros(4, 3))


# Gradients -----------------------------------------------------------------------------------------------------------


class Toggling:
    """A solver that calls the net with gradients off, or on, and checks that it finds them so after the call."""

    def __init__(self, on: bool) -> None:
        self.on = on

    def solve(self, reverse: ReverseProcess, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        for t in times[:-1]:
            before = torch.is_grad_enabled()
            with torch.set_grad_enabled(self.on):
                eps = reverse.noise(x, t)
                assert torch.is_grad_enabled() is self.on
            assert torch.is_grad_enabled() is before
            x = x - 0.1 * eps
            yield x


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("inside", [False, True])
def test_gradients_are_on_or_off_on_each_side_for_itself(outside: bool, inside: bool) -> None:
    scheduler, x = made(Toggling(inside)), start()
    scheduler.set_timesteps(5)
    with torch.set_grad_enabled(outside):
        for timestep in scheduler.timesteps:
            x = scheduler.step(net(scheduler, x, timestep), timestep, x).prev_sample
            assert torch.is_grad_enabled() is outside


@pytest.mark.parametrize("outside", [False, True])
def test_a_run_that_is_given_up_leaves_gradients_as_they_are(outside: bool) -> None:
    scheduler, x = made(Toggling(not outside)), start()
    with torch.set_grad_enabled(not outside):
        scheduler.set_timesteps(5)
        scheduler.step(x, scheduler.timesteps[0], x)
    with torch.set_grad_enabled(outside):
        scheduler.set_timesteps(5)
        assert torch.is_grad_enabled() is outside
        scheduler.step(x, scheduler.timesteps[0], x)
        del scheduler
        assert torch.is_grad_enabled() is outside


def test_gradients_flow_through_a_run() -> None:
    x = start().requires_grad_()
    scheduler = made("heun")
    scheduler.set_timesteps(4)
    (slope,) = torch.autograd.grad(loop(scheduler, x).sum(), x)
    step = 1e-6 * torch.ones_like(x)
    with torch.no_grad():
        ends = []
        for sign in (1, -1):
            scheduler.set_timesteps(4)
            ends.append(float(loop(scheduler, x + sign * step).sum()))
    assert abs((ends[0] - ends[1]) / 2e-6 - float(slope.sum())) < 1e-4 * abs(float(slope.sum()))


# Copies and files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_copies_have_no_run(copied: Any) -> None:
    scheduler, x = begun()
    other = copied(scheduler)
    with pytest.raises(ValueError, match="this scheduler is a copy, from the midst of a run"):
        go_on(other, x)
    expected = go_on(scheduler, x).prev_sample  # the original goes on
    other.set_timesteps(8)
    y = start()
    for timestep in other.timesteps[:3]:
        y = other.step(net(other, y, timestep), timestep, y).prev_sample
    assert torch.equal(y, expected)
    fresh = copied(other.__class__.from_config(other.config))
    fresh.set_timesteps(8)
    assert len(fresh.timesteps) == 8


def test_a_configuration_is_saved_and_leads_back(tmp_path: Path) -> None:
    scheduler = made("heun", seed=4, times="solver")
    scheduler.save_pretrained(tmp_path)
    again = type(scheduler).from_pretrained(tmp_path)
    for each in (scheduler, again):
        each.set_timesteps(5)
    assert torch.equal(loop(scheduler, start()), loop(again, start()))
    assert (again.config["solver"], again.config["seed"]) == ("heun", 4)
    back = diffusers.DDIMScheduler.from_config(again.config)
    assert back.config.clip_sample is False
    for options in ({"solver": Toggling(True)}, {"solver": "heun", "times": karras()}):
        with pytest.raises(TypeError, match="which a configuration cannot hold; expected a name"):
            made(**options).save_pretrained(tmp_path)


@pytest.mark.slow
def test_a_pipeline_is_saved_with_it(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    import tiny_pipelines

    scheduler = made("dpm++")
    tiny_pipelines.ddpm(scheduler).save_pretrained(tmp_path)
    pipe = diffusers.DDPMPipeline.from_pretrained(tmp_path)
    assert type(pipe.scheduler) is type(scheduler)
    assert pipe.scheduler.config["solver"] == "dpm++"


# Noise, types and other pipelines ------------------------------------------------------------------------------------


def test_noise_is_the_pipeline_s_or_a_seed_s() -> None:
    peer = diffusers.DDPMScheduler(clip_sample=False)
    ours = made("ddpm", peer.config)
    for make in (
        lambda: torch.Generator().manual_seed(3),
        lambda: [torch.Generator().manual_seed(i) for i in range(4)],
    ):
        found = []
        for scheduler in (ours, peer):
            scheduler.set_timesteps(10)
            found.append(loop(scheduler, start(), generator=make()))
        torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)
    seeded = made("ddpm", peer.config, seed=3)
    runs = []
    for x in (start(), start(), start()[:2]):
        seeded.set_timesteps(10)
        runs.append(loop(seeded, x))
    assert torch.equal(runs[0], runs[1])
    torch.testing.assert_close(runs[2], runs[0][:2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_states_are_kept_in_full_inside(dtype: torch.dtype) -> None:
    scheduler, x, full = made("adams"), start().to(dtype), start().to(dtype).float()
    scheduler.set_timesteps(12)
    outputs = []
    for timestep in scheduler.timesteps:
        outputs.append(net(scheduler, x.double(), timestep).to(dtype))
        x = scheduler.step(outputs[-1], timestep, x).prev_sample
        assert x.dtype == dtype
    scheduler.set_timesteps(12)
    for timestep, output in zip(scheduler.timesteps, outputs, strict=True):
        full = scheduler.step(output.float(), timestep, full).prev_sample
    assert torch.equal(x, full.to(dtype))


def test_score_sde_s_pipeline_of_the_exploding_process() -> None:
    """It calls step_pred, and corrects by itself unless the configuration says otherwise, as ours does."""
    from diffusers.pipelines import ScoreSdeVePipeline

    class Exact(nn.Module):
        config = SimpleNamespace(sample_size=4)
        device = torch.device("cpu")

        def forward(self, x: Tensor, sigma: Tensor) -> Any:
            level = sigma.double().reshape(-1, 1, 1, 1) ** 2
            return SimpleNamespace(sample=(0.5 - x) / (0.04 + level).to(x))  # of data with mean 0.5 and deviation 0.2

    given = diffusers.ScoreSdeVeScheduler(sigma_max=20.0)
    pipe = ScoreSdeVePipeline(Exact(), given)
    pipe.scheduler = made("dpm++", given.config)
    pipe.set_progress_bar_config(disable=True)
    images = torch.from_numpy(
        pipe(400, num_inference_steps=30, generator=torch.manual_seed(0), output_type="np").images
    )
    assert abs(float(images.mean()) - 0.5) < 0.01
    assert abs(float(images.std()) - 0.2) < 0.01


def test_without_the_extra_an_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("sdescore.interop.")]:
        if name.rpartition(".")[2] in ("diffusers_scheduler", "pipeline_run", "pushed"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "greenlet", None)
    with pytest.raises(ImportError, match=r"greenlet.*DiffusersScheduler needs pip install 'sdescore\[interop\]'"):
        from sdescore.interop import DiffusersScheduler  # noqa: F401
