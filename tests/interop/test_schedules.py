"""Schedules read from configurations, beside diffusers' own tables, preconditioning and states."""

from typing import Any

import pytest
import torch

from sdescore import DiscreteSDE, FlowSDE, KarrasSDE
from sdescore.denoisers import convert
from sdescore.interop import read_schedule

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")  # of NumPy 2, in its schedulers

TABLES = ("DDPM", "DDIM", "PNDM", "EulerDiscrete", "DPMSolverMultistep", "UniPCMultistep")
LATENT = {"beta_start": 0.00085, "beta_end": 0.012}


@pytest.fixture(scope="module")
def diffusers() -> Any:
    return pytest.importorskip("diffusers")


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("betas", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_tables_are_those_of_diffusers(diffusers: Any, name: str, betas: str) -> None:
    scheduler = getattr(diffusers, f"{name}Scheduler")(beta_schedule=betas, **LATENT)
    sde = read_schedule(scheduler.config).process
    square = sde.alpha(torch.arange(1000, dtype=torch.float64)) ** 2
    torch.testing.assert_close(square, scheduler.alphas_cumprod.double(), rtol=1e-12, atol=0)


def test_trained_betas_and_ddpm_s_sigmoid(diffusers: Any) -> None:
    for options in ({"trained_betas": [0.1, 0.2, 0.5]}, {"beta_schedule": "sigmoid", **LATENT}):
        scheduler = diffusers.DDPMScheduler(**options)
        schedule = read_schedule(scheduler.config)
        square = schedule.process.alpha(torch.arange(schedule.count, dtype=torch.float64)) ** 2
        torch.testing.assert_close(square, scheduler.alphas_cumprod.double(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["DDIM", "DPM"])
@pytest.mark.parametrize("ends", [False, True])
def test_the_shifted_tables_of_cogvideox(diffusers: Any, name: str, ends: bool) -> None:
    options = {"rescale_betas_zero_snr": ends, "prediction_type": "v_prediction"}
    scheduler = getattr(diffusers, f"CogVideoX{name}Scheduler")(**options)
    square = read_schedule(scheduler.config).process.alpha(torch.arange(1000, dtype=torch.float64)) ** 2
    kept = slice(-1 if ends else None)  # theirs ends at 0
    torch.testing.assert_close(
        square[kept], scheduler.alphas_cumprod.double()[kept], rtol=1e-3 if ends else 1e-4, atol=1e-7
    )


@pytest.mark.parametrize("betas", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_a_table_without_signal_ends_as_in_diffusers_euler(diffusers: Any, betas: str) -> None:
    options = {"beta_schedule": betas, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction", **LATENT}
    scheduler = diffusers.EulerDiscreteScheduler(**options)
    schedule = read_schedule(scheduler.config)
    square = schedule.process.alpha(torch.arange(1000, dtype=torch.float64)) ** 2
    # It goes through the betas and back, which rounds once more.
    torch.testing.assert_close(square, scheduler.alphas_cumprod.double(), rtol=3e-6, atol=0)
    assert schedule.terms.predicts == "v"
    with pytest.raises(ValueError, match="prediction_type='epsilon' with a table that ends without signal"):
        read_schedule({**scheduler.config, "prediction_type": "epsilon"})


def test_predictions_and_clipping_are_read() -> None:
    plain = {"_class_name": "DDIMScheduler", "beta_schedule": "linear"}
    kinds = {kind: read_schedule({**plain, "prediction_type": kind}).terms.predicts for kind in ("epsilon", "sample")}
    assert kinds == {"epsilon": "noise", "sample": "data"}
    assert read_schedule(plain).clip is None
    clip = read_schedule({**plain, "clip_sample": True, "clip_sample_range": 2.0}).clip
    assert clip is not None
    assert clip(torch.tensor([[-3.0, 1.5]])).tolist() == [[-2.0, 1.5]]


def test_dynamic_clipping_is_that_of_diffusers(diffusers: Any) -> None:
    scheduler = diffusers.DDPMScheduler(thresholding=True, sample_max_value=1.7, dynamic_thresholding_ratio=0.8)
    clip = read_schedule(scheduler.config).clip
    assert clip is not None
    data = torch.randn(4, 3, 5, 5) * torch.tensor([0.3, 1.0, 1.3, 3.0]).reshape(4, 1, 1, 1)
    torch.testing.assert_close(clip(data), scheduler._threshold_sample(data))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", ["EDMEuler", "EDMDPMSolverMultistep"])
def test_edm_has_the_preconditioning_of_diffusers(diffusers: Any, name: str, kind: str) -> None:
    scheduler = getattr(diffusers, f"{name}Scheduler")(sigma_max=60.0, sigma_data=0.7, prediction_type=kind)
    schedule = read_schedule(scheduler.config)
    assert schedule.process == KarrasSDE(0.002, 60.0)
    x, output = torch.randn(2, 3, 4, dtype=torch.float64)
    for sigma in torch.tensor([0.002, 1.0, 60.0], dtype=torch.float64):
        theirs = scheduler.precondition_outputs(x, output, sigma)
        ours = convert(
            output / schedule.terms.output_scale, x, sigma, schedule.process, "edm", "data", schedule.data_std
        )
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(schedule.net_time(sigma), scheduler.precondition_noise(sigma))


def test_stable_video_s_euler_is_edm_s(diffusers: Any) -> None:
    """Timesteps that are ln(sigma) / 4 tell of it; sigmas and the preconditioning are then EDM's for unit data."""
    scheduler = diffusers.EulerDiscreteScheduler(
        prediction_type="v_prediction",
        timestep_type="continuous",
        use_karras_sigmas=True,
        sigma_min=0.002,
        sigma_max=700.0,
    )
    scheduler.set_timesteps(5)
    schedule = read_schedule(scheduler.config)
    torch.testing.assert_close(schedule.net_time(scheduler.sigmas[:-1]), scheduler.timesteps)
    x, output = torch.randn(2, 1, 4)
    theirs = scheduler.step(output, scheduler.timesteps[0], x).pred_original_sample
    sigma = scheduler.sigmas[0]
    ours = convert(output / schedule.terms.output_scale, x, sigma, schedule.process, "edm", "data", schedule.data_std)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", ["FlowMatchEulerDiscrete", "FlowMatchHeunDiscrete", "UniPCMultistep"])
def test_flows_are_straight_and_timed_by_the_thousand(diffusers: Any, name: str) -> None:
    options = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"} if name.startswith("UniPC") else {}
    scheduler = getattr(diffusers, f"{name}Scheduler")(**options)
    schedule = read_schedule(scheduler.config)
    assert schedule.process == FlowSDE()
    assert schedule.terms.predicts == "velocity"
    scheduler.set_timesteps(4)
    sigmas = scheduler.sigmas[1:-1]
    rtol, atol = (0.0, 1.0) if name.startswith("UniPC") else (1e-6, 1e-6)  # it rounds
    torch.testing.assert_close(schedule.net_time(sigmas), scheduler.timesteps[1:].to(sigmas), rtol=rtol, atol=atol)


def test_the_exploding_process_is_read(diffusers: Any) -> None:
    scheduler = diffusers.ScoreSdeVeScheduler(sigma_min=0.02, sigma_max=90.0)
    schedule = read_schedule(scheduler.config)
    scheduler.set_timesteps(7)
    scheduler.set_sigmas(7)
    times = scheduler.timesteps.double()
    torch.testing.assert_close(schedule.process.sigma(times), scheduler.sigmas.double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(schedule.net_time(times), scheduler.sigmas.double(), rtol=1e-6, atol=0)
    assert schedule.terms.predicts == "score"


def test_what_is_unknown_is_refused() -> None:
    with pytest.raises(ValueError, match="_class_name='VQDiffusionScheduler' with neither"):
        read_schedule({"_class_name": "VQDiffusionScheduler", "num_vec_classes": 7})
    with pytest.raises(ValueError, match="beta_schedule='cubic'; expected 'linear'"):
        read_schedule({"beta_schedule": "cubic"})
    with pytest.raises(ValueError, match="prediction_type='x'; expected 'epsilon'"):
        read_schedule({"beta_schedule": "linear", "prediction_type": "x"})
    with pytest.raises(ValueError, match="CosineDPMSolverMultistepScheduler"):
        read_schedule({"sigma_schedule": "exponential", "solver_order": 2, "sigma_data": 1.0})
    with pytest.raises(ValueError, match="invert_sigmas=True"):
        read_schedule({"_class_name": "FlowMatchEulerDiscreteScheduler", "invert_sigmas": True})


def test_the_time_of_a_table_is_its_index() -> None:
    schedule = read_schedule({"beta_schedule": "linear"})
    assert isinstance(schedule.process, DiscreteSDE)
    t = torch.tensor([3.0, 999.0])
    assert torch.equal(schedule.net_time(t), t)
