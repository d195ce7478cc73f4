"""Copies and files of DiffusersScheduler, its noise and types, and what it needs."""

import copy
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pushed_schedulers import begun, go_on, loop, made, net, start
from torch import Tensor, nn

from sdescore.sampling import karras
from sdescore.solvers import DDIM

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("greenlet")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")  # of NumPy 2, in its schedulers

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
    for options in ({"solver": DDIM}, {"solver": "heun", "times": karras()}):
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
    with pytest.raises(TypeError, match="seed='3'; expected an integer"):
        made("ddpm", seed="3")


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


@pytest.mark.parametrize("missing", ["greenlet", "diffusers"])
def test_without_the_extra_an_error_names_it(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    for name in [name for name in sys.modules if name.startswith(("sdescore.interop.", f"{missing}."))]:
        if name.rpartition(".")[2] in ("diffusers_scheduler", "pipeline_run", "pushed") or name.startswith(missing):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=rf"{missing}.*DiffusersScheduler needs pip install 'sdescore\[interop\]'"):
        from sdescore.interop import DiffusersScheduler  # noqa: F401


@pytest.mark.parametrize("times", [None, "solver"])
def test_no_steps_are_refused(times: Any) -> None:
    with pytest.raises(ValueError, match="steps=0; expected"):
        made("dpm++", times=times).set_timesteps(0)
