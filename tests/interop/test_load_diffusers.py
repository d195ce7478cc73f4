"""Nets of diffusers' pipelines and models: predictions and samples equal those of diffusers' own code."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_diffusers import conditional, dit, saved, series, unet

from sdescore import FlowSDE, KarrasSDE, guided, sample
from sdescore.denoisers import Clipped
from sdescore.interop import load_diffusers
from sdescore.sampling import WhiteNoise

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers", "ignore::FutureWarning")

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(5))


def close(mine: torch.Tensor, theirs: torch.Tensor, rtol: float = 1e-5) -> None:
    assert mine.shape == theirs.shape
    assert float((mine - theirs).abs().max() / theirs.abs().max()) < rtol


TABLES: dict[str, dict[str, Any]] = {
    "linear": {},
    "scaled linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "trained": {"trained_betas": [0.001, 0.01, 0.05, 0.1, 0.2, 0.4], "num_train_timesteps": 6},
    "short": {"num_train_timesteps": 40, "beta_end": 0.3},
}


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("table", TABLES)
def test_data_predictions_are_those_of_the_scheduler(table: str, kind: str, tmp_path: Path) -> None:
    net = unet()
    scheduler = diffusers.DDPMScheduler(prediction_type=kind, clip_sample=False, **TABLES[table])
    denoiser = load_diffusers(saved(tmp_path, net, scheduler))
    assert denoiser.shape == (3, 8, 8) and not denoiser.training
    for index in (0, 2, scheduler.config.num_train_timesteps - 1):
        with torch.no_grad():
            output = net(X, index).sample
            theirs = scheduler.step(output, index, X).pred_original_sample
            close(denoiser(X, torch.tensor(float(index))), theirs, 2e-5)


@pytest.mark.parametrize("clip", [{"clip_sample_range": 0.4}, {"thresholding": True, "sample_max_value": 1.5}])
def test_what_the_scheduler_clips_is_clipped(clip: dict[str, Any], tmp_path: Path) -> None:
    net = unet()
    scheduler = diffusers.DDPMScheduler(**clip)
    denoiser = load_diffusers(saved(tmp_path, net, scheduler))
    assert isinstance(denoiser, Clipped)
    t = torch.tensor(700.0)
    with torch.no_grad():
        theirs = scheduler.step(net(X, 700).sample, 700, X).pred_original_sample
        close(denoiser(X, t), theirs)
        assert float(denoiser.inner(X, t).abs().max()) > 2 * float(theirs.abs().max())
        alpha, sigma = denoiser.sde.alpha(t), denoiser.sde.sigma(t)
        torch.testing.assert_close(alpha * denoiser(X, t) + sigma * denoiser.noise(X, t), X)


class Drawn(WhiteNoise):
    """The draws that a pipeline makes after its first with a generator of seed 3."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.generator = torch.Generator().manual_seed(3)
        torch.randn(2, 3, 8, 8, generator=self.generator)

    def __call__(self, x: torch.Tensor, t: torch.Tensor, s: torch.Tensor, std: float = 1.0) -> torch.Tensor:
        return std * torch.randn(x.shape, generator=self.generator)


PIPELINES: dict[str, tuple[str, dict[str, Any]]] = {
    "DDIM": ("ddim", {}),  # which clips the data by default, and goes on with the net's own noise
    "DDIM, without clipping": ("ddim", {"clip_sample": False}),
    "DDIM, dynamic thresholds": ("ddim", {"thresholding": True, "sample_max_value": 1.5}),
    "DDPM": ("ddpm", {}),  # which clips by default, and goes on from the clipped data
    "DDPM, without clipping": ("ddpm", {"clip_sample": False}),
}


@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.parametrize("table", ["linear", "cosine"])
def test_samples_are_the_images_of_the_pipeline(table: str, name: str, tmp_path: Path) -> None:
    """From its noise, at its times, with the clipping that its scheduler's configuration says."""
    solver, options = PIPELINES[name]
    net, kind = unet(), name[:4]
    pipeline = getattr(diffusers, f"{kind}Pipeline")(
        net, getattr(diffusers, f"{kind}Scheduler")(**options, **TABLES[table])
    )
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        batch_size=2, generator=torch.Generator().manual_seed(3), num_inference_steps=8, output_type="numpy"
    ).images
    pipeline.save_pretrained(tmp_path)
    denoiser = load_diffusers(tmp_path)
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    given: dict[str, Any] = {"x": x, "solver": solver, "noise_source": Drawn}
    mine = sample(denoiser.sde, denoiser, times=pipeline.scheduler.timesteps.double(), **given)
    close((mine / 2 + 0.5).clamp(0, 1), torch.from_numpy(theirs).permute(0, 3, 1, 2))


@pytest.mark.parametrize("table", ["linear", "scaled linear", "cosine"])
def test_a_table_without_signal(table: str, tmp_path: Path) -> None:
    """Its last alpha^2 is 2^-24 here and 0 in DDIM: the first step agrees to 1e-3, the others as ever."""
    options = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "clip_sample": False, **TABLES[table]}
    scheduler = diffusers.DDIMScheduler(prediction_type="v_prediction", **options)
    net = unet()
    denoiser = load_diffusers(saved(tmp_path, net, scheduler))
    scheduler.set_timesteps(5)
    times, x = scheduler.timesteps, X
    assert int(times[0]) == 999
    with torch.no_grad():
        for now, (t, s) in enumerate(pairwise(times)):
            theirs = scheduler.step(net(x, t).sample, t, x).prev_sample
            data, noise = denoiser(x, t.double()), denoiser.noise(x, t.double())
            mine = (denoiser.sde.alpha(s.double()) * data + denoiser.sde.sigma(s.double()) * noise).float()
            close(mine, theirs, 1e-3 if now == 0 else 1e-5)
            x = theirs
    epsilon = diffusers.DDIMScheduler(**options).config
    with pytest.raises(ValueError, match="prediction_type='epsilon' with a table that ends without signal"):
        load_diffusers(tmp_path, scheduler={**epsilon, "_class_name": "DDIMScheduler"})


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_edm(kind: str, tmp_path: Path) -> None:
    """The data prediction of EDMEulerScheduler, at each of its levels."""
    net, scheduler = unet(), diffusers.EDMEulerScheduler(prediction_type=kind, sigma_data=0.7)
    denoiser = load_diffusers(saved(tmp_path, net, scheduler))
    assert denoiser.sde == KarrasSDE(0.002, 80.0) and denoiser.data_std == 0.7
    scheduler.set_timesteps(6)
    for sigma, t in zip(scheduler.sigmas[:-1], scheduler.timesteps, strict=True):
        x = X * sigma
        with torch.no_grad():
            output = net(scheduler.scale_model_input(x, t), t).sample
            theirs = scheduler.step(output, t, x).pred_original_sample
            close(denoiser(x, sigma.double()), theirs)


def test_flow_matching(tmp_path: Path) -> None:
    """Euler's method of FlowMatchEulerDiscreteScheduler, at its levels."""
    net, scheduler = unet(), diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    denoiser = load_diffusers(saved(tmp_path, net, scheduler))
    assert denoiser.sde == FlowSDE() and denoiser.predicts == "velocity"
    scheduler.set_timesteps(6)
    x = X
    for number, t in enumerate(scheduler.timesteps):
        with torch.no_grad():
            theirs = scheduler.step(net(x, t).sample if t.ndim else net(x, t.expand(1)).sample, t, x).prev_sample
            sigma, after = scheduler.sigmas[number : number + 2]
            mine = x + (after - sigma) * denoiser.velocity(x, sigma.clamp(max=denoiser.sde.T))
        close(mine, theirs, 1e-2 if sigma > denoiser.sde.T else 1e-5)  # FlowSDE ends at .999
        x = theirs


def test_exploding(tmp_path: Path) -> None:
    """The predictor of ScoreSdeVeScheduler, without its noise, for a net given the logarithm of sigma."""
    net = unet(time_embedding_type="fourier")
    scheduler = diffusers.ScoreSdeVeScheduler(sigma_max=40.0)
    denoiser = load_diffusers(saved(tmp_path, net, scheduler))
    scheduler.set_timesteps(5)
    scheduler.set_sigmas(5)
    for t in (scheduler.timesteps[0], scheduler.timesteps[3]):
        index = int(t * 4)
        sigma = scheduler.discrete_sigmas[index]
        x = sigma * X
        with torch.no_grad():
            score = net(x, sigma * torch.ones(2)).sample
            close(denoiser.score(x, denoiser.sde.time(-sigma.double().log())), score)
            mean = scheduler.step_pred(score, t, x).prev_sample_mean
            before = scheduler.discrete_sigmas[index - 1]
            close(x + (sigma**2 - before**2) * denoiser.score(x, denoiser.sde.time(-sigma.double().log())), mean)


def test_a_class_conditional_transformer_with_a_learned_variance(tmp_path: Path) -> None:
    """DiT: the classes by diffusers' name, guidance with its null class, and half of the channels."""
    net = dit()
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    denoiser = load_diffusers(saved(tmp_path, net, scheduler))
    assert denoiser.shape == (4, 8, 8) and denoiser.terms.learned_variance
    x = torch.randn(2, 4, 8, 8)
    labels, null, t = torch.tensor([1, 4]), torch.tensor([10, 10]), torch.tensor(300)
    with torch.no_grad():
        known = net(x, t.expand(2), class_labels=labels).sample[:, :4]
        none = net(x, t.expand(2), class_labels=null).sample[:, :4]
        scheduler.set_timesteps(1000)
        theirs = scheduler.step(none + 4 * (known - none), t, x).pred_original_sample
        mine = guided(denoiser, 4.0, null={"class_labels": 10})(x, t.float(), class_labels=labels)
    close(mine, theirs)
    drawn = sample(denoiser.sde, denoiser, (2, 4, 8, 8), nfe=3, condition={"class_labels": labels})
    assert drawn.shape == (2, 4, 8, 8)


def test_a_net_that_is_given_texts(tmp_path: Path) -> None:
    net = conditional()
    denoiser = load_diffusers(saved(tmp_path, net, diffusers.PNDMScheduler(skip_prk_steps=True)))
    x, texts, t = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 8), torch.tensor(300)
    with torch.no_grad():
        theirs = net(x, t, encoder_hidden_states=texts).sample
        close(denoiser.noise(x, t.float(), encoder_hidden_states=texts), theirs)


def test_series(tmp_path: Path) -> None:
    net = series()
    net.save_pretrained(tmp_path)
    diffusers.DDPMScheduler(clip_sample=False).save_pretrained(tmp_path)
    denoiser = load_diffusers(tmp_path)
    assert denoiser.shape == (2, 16)
    x = torch.randn(3, 2, 16)
    with torch.no_grad():
        close(denoiser.noise(x, torch.tensor(40.0)), net(x, 40).sample)
