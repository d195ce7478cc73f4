"""Denoisers saved for diffusers: DDPMPipeline reads them, and what comes back is what went in."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_diffusers import unet

from sdescore import VPSDE, CosineSDE, Denoiser, DiscreteSDE, NetTerms, guided
from sdescore.denoisers import Clip, Clipped
from sdescore.interop import load_diffusers, save_diffusers
from sdescore.nets import UNet

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers", "ignore::FutureWarning")

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(5))
SCHEDULERS: dict[str, dict[str, Any]] = {
    "DDPMScheduler": {"variance_type": "fixed_large", "clip_sample_range": 1.3},
    "DDIMScheduler": {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"},
    "PNDMScheduler": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
}


def images(path: Path) -> torch.Tensor:
    pipeline = diffusers.DDPMPipeline.from_pretrained(path)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(1)
    drawn = pipeline(batch_size=2, generator=generator, num_inference_steps=4, output_type="numpy").images
    return torch.from_numpy(drawn)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_from_diffusers_and_back_the_bits_are_equal(name: str, tmp_path: Path) -> None:
    """The pipeline's images, and our predictions."""
    net = unet()
    diffusers.DDPMPipeline(net, getattr(diffusers, name)(**SCHEDULERS[name])).save_pretrained(tmp_path / "a")
    loaded = load_diffusers(tmp_path / "a")
    save_diffusers(loaded, tmp_path / "b")
    if name != "PNDMScheduler":  # which takes no generator, as DDPMPipeline has it: saved as a DDPMScheduler
        assert torch.equal(images(tmp_path / "b"), images(tmp_path / "a"))
    assert images(tmp_path / "b").shape == (2, 8, 8, 3)
    again = load_diffusers(tmp_path / "b")
    assert type(again) is type(loaded) and again.sde == loaded.sde and again.terms == loaded.terms
    with torch.no_grad():
        for t in (torch.tensor(7.0), torch.tensor(900.0)):
            assert torch.equal(again(X, t), loaded(X, t))
    assert not list((tmp_path / "b").rglob("*.bin")) and list((tmp_path / "b").rglob("*.safetensors"))


@pytest.mark.parametrize("predicts", ["noise", "data", "v"])
@pytest.mark.parametrize(("clip", "keeps_noise"), [(None, False), (0.5, False), (0.5, True)])
def test_a_denoiser_of_ours_becomes_a_pipeline(
    predicts: str, clip: float | None, keeps_noise: bool, tmp_path: Path
) -> None:
    """Of a table that diffusers has no name for: its float32 betas multiply to the same alphas within 1e-5."""
    betas = VPSDE(0.3, 12.0).betas(50)
    sde = DiscreteSDE.from_betas(betas)
    denoiser = Denoiser(unet(), sde, predicts, terms="ddpm").eval()
    whole = denoiser if clip is None else Clipped(denoiser, Clip(clip), keeps_noise)
    save_diffusers(whole, tmp_path)
    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path)
    torch.testing.assert_close(pipeline.scheduler.alphas_cumprod.double(), (1 - betas).cumprod(0), rtol=1e-5, atol=0)
    pipeline.scheduler.set_timesteps(50)
    with torch.no_grad():
        for index in (0, 20, 49):
            output = pipeline.unet(X, index).sample
            theirs = pipeline.scheduler.step(output, index, X).pred_original_sample
            torch.testing.assert_close(whole(X, torch.tensor(float(index))), theirs, rtol=1e-4, atol=1e-4)
    again = load_diffusers(tmp_path)
    assert again.predicts == predicts and isinstance(again, Clipped) == (clip is not None)
    assert getattr(again, "keeps_noise", False) == keeps_noise
    assert images(tmp_path).shape == (2, 8, 8, 3)


def test_a_learned_variance_is_said(tmp_path: Path) -> None:
    terms = NetTerms("state", "index", learned_variance=True)
    save_diffusers(Denoiser(unet(out_channels=6), DiscreteSDE.from_betas(VPSDE().betas(50)), terms=terms), tmp_path)
    config = json.loads((tmp_path / "scheduler" / "scheduler_config.json").read_text())
    assert config["variance_type"] == "learned_range"
    assert load_diffusers(tmp_path).terms == terms
    assert images(tmp_path).shape == (2, 8, 8, 3)


def test_saving_again_replaces_the_pipeline_and_a_failure_leaves_the_index_for_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sde = DiscreteSDE.from_betas(VPSDE().betas(50))
    denoiser = Denoiser(unet(), sde, terms="ddpm")
    save_diffusers(denoiser, tmp_path)
    save_diffusers(Denoiser(denoiser.net, sde, "v", terms="ddpm"), tmp_path)
    assert load_diffusers(tmp_path).predicts == "v"
    monkeypatch.setattr("os.replace", lambda source, target: (_ for _ in ()).throw(OSError("No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        save_diffusers(denoiser, tmp_path)
    assert not (tmp_path / "model_index.json").exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda sde: Denoiser(UNet(3, 8, base_width=8, heads=2), sde, terms="ddpm"), "a Denoiser of a UNet; expected"),
        (
            lambda sde: guided(Denoiser(unet(), sde, terms="ddpm"), 2.0),
            "a Guided of a UNet2DModel; expected a Deno",
        ),
        (lambda sde: Denoiser(unet(), CosineSDE(), terms="score-sde"), "sde is a CosineSDE; expected a DiscreteSDE"),
        (lambda sde: Denoiser(unet(), sde), r"terms are NetTerms\(x='unit'.*; expected NetTerms\(\"state\", \"index\""),
        (lambda sde: Denoiser(unet(), sde, "score", terms="ddpm"), 'with predicts "noise", "data" or "v"'),
    ],
)
def test_what_diffusers_could_not_sample_is_not_saved(make: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        save_diffusers(make(DiscreteSDE.from_betas(VPSDE().betas(50))), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_without_diffusers_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    for attempt in (lambda: load_diffusers(tmp_path), lambda: save_diffusers(None, tmp_path)):  # type: ignore[arg-type]
        with pytest.raises(ImportError, match=r"pip install 'sdescore\[interop\]'"):
            attempt()
