"""Autoencoders of diffusers: codes are what their pipelines' nets know, and decoded samples what the pipelines show."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sdescore import sample
from sdescore.interop import find_autoencoder, load_autoencoder, load_diffusers

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import tiny_pipelines  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers", "ignore::FutureWarning")

X = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
SMALL = {"block_out_channels": (8, 8), "norm_num_groups": 4, "latent_channels": 2, "sample_size": 16}
BLOCKS = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}


@torch.no_grad()
def encoded(vae: Any) -> Any:
    return vae.encode(X).latent_dist


@torch.no_grad()
def decoded(vae: Any, codes: Tensor) -> Tensor:
    found: Tensor = vae.decode(codes).sample
    return found


def test_codes_and_data_are_those_of_diffusers(tmp_path: Path) -> None:
    """Of a folder of its own, with Stable Diffusion's factor: equal bits."""
    vae = tiny_pipelines.vae()
    vae.save_pretrained(tmp_path)
    autoencoder = load_autoencoder(tmp_path)
    factor = vae.config.scaling_factor
    assert factor == 0.18215
    codes = encoded(vae).mean * factor
    assert torch.equal(autoencoder.to_codes(X), codes)
    assert torch.equal(autoencoder.to_data(codes), decoded(vae, codes / factor))


def test_factors_of_other_pipelines(tmp_path: Path) -> None:
    """Stable Diffusion 3's shift, and the means and deviations of some of XL's."""
    factors: tuple[dict[str, Any], ...] = (
        {"scaling_factor": 1.5305, "shift_factor": 0.0609},
        {"scaling_factor": 0.5, "latents_mean": (0.5, -2.0), "latents_std": (2.0, 4.0)},
    )
    for number, options in enumerate(factors):
        torch.manual_seed(number)
        vae = diffusers.AutoencoderKL(**SMALL, **BLOCKS, **options).eval()
        vae.save_pretrained(tmp_path / str(number))
        autoencoder = load_autoencoder(tmp_path / str(number))
        mean = encoded(vae).mean
        if number == 0:
            expected = (mean - 0.0609) * 1.5305
        else:
            expected = torch.stack([(mean[:, 0] - 0.5) * 0.5 / 2.0, (mean[:, 1] + 2.0) * 0.5 / 4.0], 1)
        codes = autoencoder.to_codes(X)
        torch.testing.assert_close(codes, expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(autoencoder.to_data(codes), decoded(vae, mean), rtol=1e-4, atol=1e-5)


def test_a_sample_of_the_posterior_has_its_law(tmp_path: Path) -> None:
    vae = tiny_pipelines.vae()
    vae.save_pretrained(tmp_path)
    posterior, factor = encoded(vae), vae.config.scaling_factor
    drawn = load_autoencoder(tmp_path, posterior="sample")
    z = (drawn.to_codes(X) / factor - posterior.mean) / posterior.std
    assert abs(float(z.mean())) < 5 / z.numel() ** 0.5 and abs(float(z.std()) - 1) < 5 / (2 * z.numel()) ** 0.5
    assert drawn.args == {"posterior": "sample"}
    assert drawn.fingerprint() != load_autoencoder(tmp_path).fingerprint()


def test_autoencoders_without_a_posterior(tmp_path: Path) -> None:
    """VQ's and the tiny one, by the factor of their configuration."""
    torch.manual_seed(2)
    quantised = diffusers.VQModel(**{**SMALL, "num_vq_embeddings": 16}, **BLOCKS).eval()
    sides = ("encoder", "decoder")
    blocks = {f"{side}_block_out_channels": (8, 8) for side in sides} | {f"num_{side}_blocks": (1, 1) for side in sides}
    tiny = diffusers.AutoencoderTiny(**blocks).eval()
    for vae in (quantised, tiny):
        place = tmp_path / type(vae).__name__
        vae.save_pretrained(place)
        autoencoder = load_autoencoder(place)
        with torch.no_grad():
            z = vae.encode(X).latents
        codes = z * vae.config.scaling_factor
        assert torch.equal(autoencoder.to_codes(X), codes)
        assert torch.equal(autoencoder.to_data(codes), decoded(vae, codes / vae.config.scaling_factor))


def test_samples_are_the_images_of_a_latent_pipeline(tmp_path: Path) -> None:
    """Class-conditional DiT, without guidance: its own DDIM, and its decoder."""
    pipe = tiny_pipelines.dit(diffusers.DDIMScheduler(clip_sample=False))
    pipe.save_pretrained(tmp_path)
    theirs = pipe(
        class_labels=[3, 7],
        guidance_scale=1.0,
        generator=torch.Generator().manual_seed(3),
        num_inference_steps=5,
        output_type="np",
    ).images
    net, autoencoder = load_diffusers(tmp_path), load_autoencoder(tmp_path)
    x = torch.randn(2, *net.shape, generator=torch.Generator().manual_seed(3))  # type: ignore[misc]
    times, labels = pipe.scheduler.timesteps.double(), torch.tensor([3, 7])
    codes = sample(net.sde, net, x=x, solver="ddim", times=times, condition={"class_labels": labels})
    mine = (autoencoder.to_data(codes) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    assert float((mine - torch.from_numpy(theirs)).abs().max()) < 1e-5
    assert float(mine.std()) > 0.05


def test_what_is_no_autoencoder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="posterior='mode'; expected 'mean', 'sample'"):
        load_autoencoder(tmp_path, posterior="mode")
    with pytest.raises(FileNotFoundError, match=r"has neither model_index\.json nor config\.json"):
        load_autoencoder(tmp_path)
    with pytest.raises(FileNotFoundError, match="'runs/absent' is no folder here, and the Hub gave no such model"):
        load_autoencoder("runs/absent", local_files_only=True)
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel"}))
    with pytest.raises(ValueError, match="_class_name='UNet2DModel'; expected an autoencoder, such as AutoencoderKL"):
        load_autoencoder(tmp_path)
    (tmp_path / "model_index.json").write_text(json.dumps({"unet": ["diffusers", "UNet2DModel"]}))
    with pytest.raises(ValueError, match=r"model_index\.json has unet; expected one of vae, vqvae"):
        load_autoencoder(tmp_path)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"pip install 'sdescore\[interop\]'"):
        load_autoencoder(tmp_path)


OWN = """
import torch
from sdescore.denoisers import Autoencoder

open("ran", "w").close()
pair = (lambda x: 2 * x, lambda z: z / 2)
whole = Autoencoder(*pair, version="7")
number = 5

def made(factor):
    return (lambda x: factor * x, lambda z: z / factor)
"""


def test_one_s_own_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("own_autoencoder.py").write_text(OWN)
    with pytest.raises(ValueError, match="'own_autoencoder:pair' is someone's own code; expected trust_code=True"):
        find_autoencoder("own_autoencoder:pair")
    assert not Path("ran").exists()
    for name, args, factor in (("pair", {}, 2.0), ("whole", {}, 2.0), ("made", {"factor": 4.0}, 4.0)):
        found = find_autoencoder(f"own_autoencoder:{name}", args, trust_code=True)
        assert torch.equal(found.to_codes(X), factor * X) and torch.equal(found.to_data(factor * X), X)
        assert (found.name, found.args) == (f"own_autoencoder:{name}", args)
    for name, args, message in (
        ("pair", {"factor": 4.0}, "is an object, which takes no autoencoder_args"),
        ("made", {"size": 4.0}, "autoencoder_args has size; made takes factor"),
        ("number", {}, "is 5; expected an Autoencoder or a pair of functions"),
    ):
        with pytest.raises(ValueError, match=message):
            find_autoencoder(f"own_autoencoder:{name}", args, trust_code=True)
    tiny_pipelines.vae().save_pretrained("theirs")
    assert find_autoencoder("theirs", {"posterior": "sample"}).args == {"posterior": "sample"}
