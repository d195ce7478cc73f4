"""Where a diffusers model and its scheduler are found, and what is refused, without running anything."""

import json
import pickle
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from tiny_diffusers import saved, unet
from tiny_pipelines import vae

from sdescore import DiscreteSDE
from sdescore.denoisers import Clipped
from sdescore.interop import load_diffusers

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers", "ignore::FutureWarning")

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(5))


def test_folders_as_people_lay_them_out(tmp_path: Path) -> None:
    """A pipeline, a pipeline in a subfolder, its net alone, and all in one folder, as in 2022."""
    net, scheduler = unet(), diffusers.DDPMScheduler(clip_sample=False)
    saved(tmp_path / "a", net, scheduler)
    net.save_pretrained(tmp_path / "flat")
    scheduler.save_pretrained(tmp_path / "flat")
    (tmp_path / "flat" / "model_index.json").write_text(json.dumps({"unet": ["diffusers", "UNet2DModel"]}))
    t = torch.tensor(30.0)
    loaded = [load_diffusers(tmp_path / "a"), load_diffusers(tmp_path / "flat")]
    loaded += [load_diffusers(tmp_path, "a"), load_diffusers(str(tmp_path / "a"), "unet")]
    loaded += [load_diffusers(tmp_path / "a" / "unet", scheduler=scheduler.config)]
    with torch.no_grad():
        for denoiser in loaded:
            assert torch.equal(denoiser(X, t), loaded[0](X, t))
    half = load_diffusers(tmp_path / "a", dtype=torch.bfloat16)
    assert half.net.dtype == torch.bfloat16


def test_what_a_file_leaves_out_is_the_default_of_its_scheduler(tmp_path: Path) -> None:
    saved(tmp_path, unet(), diffusers.DDIMScheduler())
    (tmp_path / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "DDIMScheduler"}')
    assert isinstance(load_diffusers(tmp_path), Clipped)


def test_a_repository_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a Hub that is a local folder."""
    saved(tmp_path / "a", unet(), diffusers.DDPMScheduler(clip_sample=False))
    asked: list[tuple[Any, ...]] = []

    def snapshot_download(repo_id: str, *, allow_patterns: list[str], revision: str) -> str:
        asked.append((repo_id, allow_patterns, revision))
        return str(tmp_path / "a")

    def from_pretrained(source: str, subfolder: str, revision: str, **options: Any) -> Any:
        asked.append((source, subfolder, revision))
        return original(str(tmp_path / "a"), subfolder=subfolder)

    original = diffusers.UNet2DModel.from_pretrained
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(diffusers.UNet2DModel, "from_pretrained", from_pretrained)
    denoiser = load_diffusers("someone/model", revision="main")
    assert isinstance(denoiser.sde, DiscreteSDE)
    assert asked == [("someone/model", ["*.json"], "main"), ("someone/model", "unet", "main")]


def test_weights_are_never_unpickled_as_code(tmp_path: Path) -> None:
    """A .bin of tensors is read; one that would run a command is refused, and nothing runs."""
    net = unet()
    saved(tmp_path, net, diffusers.DDPMScheduler(clip_sample=False))
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    path = tmp_path / "unet" / "diffusion_pytorch_model.bin"
    torch.save(net.state_dict(), path)
    assert torch.equal(load_diffusers(tmp_path)(X, torch.tensor(5.0)), load_diffusers(tmp_path)(X, torch.tensor(5.0)))

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    for content in (pickle.dumps(Evil()), None):
        if content is None:
            torch.save({"weights": Evil()}, path)
        else:
            path.write_bytes(content)
        with pytest.raises(OSError, match="Unable to load weights"):
            load_diffusers(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "AutoencoderKL_"}, "_class_name='AutoencoderKL_'; expected a model of diffusers"),
        ({"_class_name": "os"}, "_class_name='os'; expected a model of diffusers"),
        ({"in_channels": 9}, "in_channels=9, out_channels=3; expected equal ones"),
    ],
)
def test_models_that_will_not_do(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    saved(tmp_path, unet(), diffusers.DDPMScheduler())
    path = tmp_path / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ValueError, match=message):
        load_diffusers(tmp_path)


def test_folders_that_will_not_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has neither model_index\.json nor config\.json"):
        load_diffusers(tmp_path)
    with pytest.raises(FileNotFoundError, match="'runs/absent' is no folder here, and the Hub gave no such model"):
        load_diffusers("runs/absent", local_files_only=True)
    saved(tmp_path, unet(), diffusers.DDPMScheduler())
    (tmp_path / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no scheduler_config\.json; expected one, or scheduler="):
        load_diffusers(tmp_path)
    (tmp_path / "unet" / "config.json").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        load_diffusers(tmp_path)
    (tmp_path / "model_index.json").write_text('{"vae": ["diffusers", "AutoencoderKL"]}')
    with pytest.raises(ValueError, match=r"model_index\.json has vae; expected one of unet, transformer"):
        load_diffusers(tmp_path)


def test_a_net_that_is_not_given_the_time_second_is_refused(tmp_path: Path) -> None:
    """An autoencoder would take it for whether to sample, and some transformers for embedded texts."""
    vae().save_pretrained(tmp_path / "vae")
    with pytest.raises(
        ValueError, match=r"'AutoencoderKL', called as \(sample, sample_posterior, .* called as \(sample, timestep"
    ):
        load_diffusers(tmp_path / "vae", scheduler=diffusers.DDPMScheduler().config)
