"""What DiffusersScheduler makes of an exact net's outputs, beside sample() and diffusers' own schedulers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from named_solvers import FIXED
from pushed_schedulers import MIXTURE, loop, made, net, start
from torch import Tensor

from sdescore import sample
from sdescore.sampling import find_solver, karras
from sdescore.sampling.fitted_solver import linear_map
from sdescore.solvers import Churn

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("greenlet")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")  # of NumPy 2, in its schedulers

PLAIN = {"clip_sample": False, "timestep_spacing": "linspace"}


def close(ours: Tensor, theirs: Tensor, *, bound: float = 1e-5) -> bool:
    return float((ours - theirs).abs().max() / theirs.abs().max()) < bound


def peer(name: str, **options: Any) -> Any:
    return getattr(diffusers, f"{name}Scheduler")(**options)


@pytest.mark.parametrize("name", FIXED)
def test_every_name_gives_what_sample_gives(name: str) -> None:
    """The solver is pushed there and pulled here; also nothing that it handed out is written over."""
    if name in ("torchsde", "torchode"):
        pytest.importorskip(name)
    scheduler, given = made(name, seed=3), peer("DDIM", **PLAIN)
    for each in (scheduler, given):
        each.set_timesteps(8)
    x, seen = start(), []
    for timestep in scheduler.timesteps:
        x = scheduler.step(net(scheduler, x, timestep), timestep, x).prev_sample
        seen.append((x, x.clone()))
    sde = scheduler.schedule.process
    expected = sample(sde, MIXTURE.denoiser(sde), x=start(), times=given.timesteps.double(), solver=name, seed=3)
    # Times between those of the table reach the net in float32.
    torch.testing.assert_close(x, expected, rtol=1e-6, atol=1e-6)
    assert all(torch.equal(a, b) for a, b in seen)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
def test_every_prediction_and_spacing_is_that_of_ddim(kind: str, spacing: str) -> None:
    theirs = peer("DDIM", prediction_type=kind, timestep_spacing=spacing, steps_offset=1, clip_sample=False)
    ours = made("ddim", theirs.config)
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(10)
    assert torch.equal(ours.timesteps, theirs.timesteps)
    # Its steps all jump over 100 entries, where the spacing of linspace is 111.
    if spacing != "linspace":
        assert close(loop(ours, start()), loop(theirs, start()))


@pytest.mark.parametrize("karras", [False, True])
@pytest.mark.parametrize(
    ("solver", "name"), [("heun", "HeunDiscrete"), ("euler", "EulerDiscrete"), ("lms", "LMSDiscrete")]
)
def test_times_are_those_of_the_configuration(solver: str, name: str, karras: bool) -> None:
    """Karras' levels lie between the entries of the table, and the net is given the index that diffusers gives it."""
    theirs = peer(name, use_karras_sigmas=karras, timestep_spacing="trailing")
    ours = made(solver, theirs.config)
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(8)
    torch.testing.assert_close(ours.timesteps.float(), theirs.timesteps.float())
    torch.testing.assert_close(ours.sigmas, theirs.sigmas, rtol=1e-5, atol=1e-6)
    assert (ours.order, ours.num_inference_steps) == (theirs.order, 8)


@pytest.mark.parametrize(
    "name", ["DDPM", "EulerDiscrete", "DPMSolverMultistep", "UniPCMultistep", "FlowMatchHeunDiscrete"]
)
def test_schedulers_made_in_memory_are_told_by_their_options(name: str) -> None:
    """Only files name the class."""
    theirs = peer(name)
    again = theirs if name.startswith("Flow") else type(theirs).from_config(peer("DDIM").config)
    assert made("ddim", theirs.config).config["replaces"] == f"{name}Scheduler"
    assert made("ddim", again.config).config["replaces"] == f"{name}Scheduler"


@pytest.mark.parametrize(("solver", "name"), [("ddpm", "DDPM"), ("ddim", "DDIM")])
def test_clipping_is_that_of_diffusers(solver: str, name: str) -> None:
    """DDIM's too, which clips the data and goes on with the noise of the data before."""
    theirs = peer(name, clip_sample_range=0.5)
    ours, free = made(solver, theirs.config), made(solver, {**theirs.config, "clip_sample": False})
    found = []
    for scheduler in (ours, theirs, free):
        scheduler.set_timesteps(10)
        found.append(loop(scheduler, 3 * start(), generator=torch.Generator().manual_seed(2)))
    assert close(found[0], found[1])
    assert not close(found[2], found[1], bound=0.01)


def test_dynamic_clipping_is_that_of_diffusers() -> None:
    theirs = peer("DDPM", thresholding=True, sample_max_value=1.3)
    ours = made("ddpm", theirs.config)
    x, output = torch.randn(2, 2, 3, 4, 4)
    found = []
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(10)
        found.append(scheduler.step(output, scheduler.timesteps[0], x, generator=torch.Generator().manual_seed(2))[0])
    assert close(*found)


def test_without_signal_at_the_end_of_the_table() -> None:
    options = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}
    for name, bound in (("DPMSolverMultistep", 1e-5), ("DDIM", 1e-3)):
        theirs = peer(name, **options, **({"clip_sample": False} if name == "DDIM" else {}))
        ours = made("ddim" if name == "DDIM" else "dpm++", theirs.config)
        for scheduler in (ours, theirs):
            scheduler.set_timesteps(10)
        x, first = start(), ours.timesteps[0]
        output = net(ours, x, first)
        assert close(*(each.step(output, first, x).prev_sample for each in (ours, theirs)), bound=bound)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("solver", "name"), [("euler", "EDMEuler"), ("dpm++", "EDMDPMSolverMultistep")])
def test_edm_s_states_and_inputs(solver: str, name: str, kind: str) -> None:
    theirs = peer(name, prediction_type=kind, sigma_data=0.6)
    ours = made(solver, theirs.config)
    found = []
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(9)
        found.append(loop(scheduler, start() * float(scheduler.init_noise_sigma)))
    assert close(*found)
    assert torch.equal(ours.timesteps, theirs.timesteps)


def test_flows_with_shifts_of_the_pipeline() -> None:
    """As Flux and its kind call it: sigmas, and a shift that depends on the size of the image."""
    theirs = peer("FlowMatchEulerDiscrete", use_dynamic_shifting=True)
    ours = made("euler", theirs.config)
    found = []
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / 7, 7).tolist(), mu=0.8)
        found.append(loop(scheduler, start()))
    assert close(*found)
    assert torch.equal(ours.timesteps, theirs.timesteps)
    torch.testing.assert_close(ours.sigmas, theirs.sigmas, rtol=0, atol=1.1e-6)
    with pytest.raises(ValueError, match="mu"):
        ours.set_timesteps(7)


def test_custom_times() -> None:
    chosen = [999, 700, 400, 100]
    for name in ("DPMSolverMultistep", "DDPM", "DDIM"):
        ours = made("ddim", peer(name).config)
        ours.set_timesteps(timesteps=chosen)
        assert ours.timesteps.tolist() == chosen
    with pytest.raises(ValueError, match="sigmas is given, but the times are DDIMScheduler's, which takes none"):
        made("ddim").set_timesteps(sigmas=[3.0, 1.0])
    with pytest.raises(ValueError, match=r"timesteps are \[100, 999\]; expected falling ones"):
        made("ddim").set_timesteps(timesteps=[100, 999])
    with pytest.raises(ValueError, match="num_inference_steps, sigmas and timesteps are all None"):
        made("ddim").set_timesteps()


@pytest.mark.parametrize("times", [karras(), "solver", torch.tensor([900.0, 300.0, 40.5])])
def test_grids_of_ours(times: Any) -> None:
    scheduler = made("adams", times=times)
    scheduler.set_timesteps(9)
    sde = scheduler.schedule.process
    grid = None if isinstance(times, str) else times
    steps = None if isinstance(times, Tensor) else 9
    expected = sample(sde, MIXTURE.denoiser(sde), x=start(), steps=steps, times=grid, solver="adams")
    torch.testing.assert_close(loop(scheduler, start()), expected, rtol=1e-4, atol=1e-4)  # float32 times


def test_a_fitted_solver_keeps_its_times(tmp_path: Path) -> None:
    """A preset as the linear map that it is stands for one; as an object, and as its file."""
    preset, x = made("dpm++"), start()
    preset.set_timesteps(8)
    sde = preset.schedule.process
    levels = preset.timesteps[[0, 2, 3, 5, 6, 7]].double()
    fitted = linear_map(find_solver("dpm++"), sde, levels)
    fitted.save(tmp_path / "fitted.json")
    expected = sample(sde, MIXTURE.denoiser(sde), x=x, times=levels, solver="dpm++")
    for solver in (fitted, str(tmp_path / "fitted.json")):
        scheduler = made(solver)
        scheduler.set_timesteps(6)
        torch.testing.assert_close(loop(scheduler, x), expected, rtol=1e-5, atol=1e-5)
        with pytest.raises(ValueError, match="steps=7; expected 6, to which this solver was fitted"):
            scheduler.set_timesteps(7)


# From images ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [True, False])
@pytest.mark.parametrize(
    ("solver", "name"),
    [("ddim", "DDIM"), ("dpm++", "DPMSolverMultistep"), ("unipc-bh2", "UniPCMultistep"), ("heun", "HeunDiscrete")],
)
def test_image_to_image(solver: str, name: str, said: bool) -> None:
    """From the middle of the times, whether the pipeline says so or begins there."""
    theirs = peer(name, timestep_spacing="leading", **({"clip_sample": False} if name == "DDIM" else {}))
    ours, found, data, eps = made(solver, theirs.config), [], start(5), start(6)
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(10)
        skip = 4 * scheduler.order
        if said and hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(skip)
        x = scheduler.add_noise(data, eps, scheduler.timesteps[skip : skip + 1].repeat(4))
        if name == "HeunDiscrete":  # states x0 + sigma eps
            level = float(theirs.sigmas[skip]) if scheduler is theirs else 0.0
            found.append(x / (1 + level**2) ** 0.5)
        else:
            found.append(x)
        found.append(loop(scheduler, x, skip))
    assert close(found[0], found[2])
    assert close(found[1], found[3])


def test_flows_and_edm_from_images() -> None:
    for name in ("FlowMatchEulerDiscrete", "EDMEuler"):
        theirs, data, eps = peer(name), start(5), start(6)
        ours, found = made("euler", theirs.config), []
        for scheduler in (ours, theirs):
            scheduler.set_timesteps(10)
            scheduler.set_begin_index(3)
            noisy = getattr(scheduler, "scale_noise", None) or scheduler.add_noise
            t = scheduler.timesteps[3:4].repeat(4)
            x = noisy(data, t, eps) if name.startswith("Flow") else scheduler.add_noise(data, eps, t)
            found.append(loop(scheduler, x, 3))
        assert close(*found)


def test_noise_for_training_at_any_index() -> None:
    theirs, t = peer("DDIM"), torch.tensor([0, 17, 500, 999])
    ours = made("ddim", theirs.config)
    torch.testing.assert_close(ours.add_noise(start(), start(1), t), theirs.add_noise(start(), start(1), t))


def test_a_solver_whose_steps_differ_does_not_begin_in_the_midst() -> None:
    scheduler = made(Churn(amount=2.0))  # which it divides among its steps
    scheduler.set_timesteps(12)
    with pytest.raises(ValueError, match=r"solver=Churn\(.*\) cannot begin at timestep=\d+, call 5"):
        scheduler.set_begin_index(5)
        loop(scheduler, start(), 5)
