"""diffusers' models in and out: a folder or repository as a Denoiser, a Denoiser as a folder of DDPMPipeline."""

import inspect
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from sdescore.common.checks import require
from sdescore.common.files import read_json
from sdescore.denoisers.clipping import Clip, Clipped
from sdescore.denoisers.denoiser import Denoiser
from sdescore.denoisers.descriptions import bare
from sdescore.denoisers.folders import STAGING
from sdescore.denoisers.terms import NetTerms
from sdescore.interop.schedules import PREDICTION_TYPES, read_schedule
from sdescore.processes import DiscreteSDE, LinearSDE

__all__ = ["DiffusersDenoiser", "load_diffusers", "save_diffusers"]

INDEX = "model_index.json"
CONFIG = "config.json"
SCHEDULER = "scheduler_config.json"
NETS = ("unet", "transformer", "model", "prior", "decoder")  # what pipelines call their net


class DiffusersDenoiser(Denoiser):
    """A Denoiser that remembers the configuration of its scheduler, so that it is saved as it came."""

    def __init__(
        self,
        net: Any,
        sde: LinearSDE,
        predicts: str | None = None,
        data_std: float = 0.5,
        *,
        scheduler_config: Mapping[str, Any],
        terms: NetTerms,
        shape: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(net, sde, predicts, data_std, terms=terms, shape=shape)
        self.scheduler_config = dict(scheduler_config)


def diffusers_library() -> Any:
    try:
        import diffusers
    except ImportError as error:
        raise ImportError(f"diffusers is not installed; pip install 'sdescore[interop]' ({error})") from error
    return diffusers


def load_diffusers(
    source: str | Path,
    subfolder: str | None = None,
    *,
    scheduler: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    variant: str | None = None,
    **hub: Any,
) -> Denoiser:
    """The net of a diffusers pipeline or model, with its process: on the CPU, in evaluation mode.

    Any model that is called as (sample, timestep, ...) will do: UNet2DModel, UNet2DConditionModel, UNet1DModel,
    DiTTransformer2DModel. Its other arguments are conditions by the names that they have in diffusers, such as
    condition={"class_labels": labels} or {"encoder_hidden_states": embedded_texts}. Where the scheduler clips, so does
    the denoiser, as that scheduler does: DDIM's keeps the net's own noise, others' follows from the clipped data. Its
    `inner` does not clip.

    Weights are read from safetensors, or else from a .bin file by torch's unpickler of weights alone.

    Args:
        source: A folder, or a repository "owner/name" of the Hub: of a pipeline, or of a model with its scheduler.
        subfolder: Where in it the net or the pipeline is; by default what model_index.json says.
        scheduler: The scheduler's configuration, where no scheduler_config.json is found or another is wanted.
        dtype: Of the weights; float32 by default.
        variant: Of the weights' files, such as "fp16".
        hub: Further arguments of huggingface_hub.snapshot_download, such as revision and token.

    Raises:
        FileNotFoundError: If there is no such model or no scheduler's configuration.
        ValueError: For a net that needs more than x_t and a time, or a schedule that read_schedule() refuses.
        ImportError: Without diffusers.
    """
    diffusers = diffusers_library()
    folder = json_folder(source, **hub)
    place = _net_folder(folder, subfolder)
    config = read_json(place / CONFIG)
    cls = model_class(diffusers, config.get("_class_name"), place / CONFIG)
    called = list(inspect.signature(cls.forward).parameters)[1:]
    require(
        called[1:2] in (["timestep"], ["timesteps"]),
        f"{place / CONFIG} has _class_name={cls.__name__!r}, called as ({', '.join(called[:3])}, ...); expected a net "
        "called as (sample, timestep, ...): others are to be called in a function of one's own",
    )
    found = _complete(diffusers, _scheduler(folder, place) if scheduler is None else dict(scheduler))
    schedule = read_schedule(found)
    shape, learned = _sample_shape(config, place / CONFIG)
    inside = place.relative_to(folder).as_posix()
    net = cls.from_pretrained(
        str(source), subfolder=None if inside == "." else inside, torch_dtype=dtype, variant=variant, **hub
    )
    denoiser = DiffusersDenoiser(
        net.eval(),
        schedule.process,
        data_std=schedule.data_std,
        scheduler_config=found,
        terms=replace(schedule.terms, learned_variance=learned),
        shape=shape,
    )
    return denoiser.eval() if schedule.clip is None else Clipped(denoiser, schedule.clip, schedule.keeps_noise).eval()


def json_folder(source: str | Path, **hub: Any) -> Path:
    """The folder itself, or the Hub's JSON files in the local cache."""
    if Path(source).is_dir():
        return Path(source)
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(str(source), allow_patterns=["*.json"], **hub))
    except (ImportError, OSError, ValueError) as error:  # the errors of the Hub are OSErrors and ValueErrors
        raise FileNotFoundError(
            f"{str(source)!r} is no folder here, and the Hub gave no such model: {error}"
        ) from error


def _net_folder(folder: Path, subfolder: str | None) -> Path:
    """Where the net's config.json is."""
    place = folder if subfolder is None else folder / subfolder
    if (place / INDEX).is_file():
        index = read_json(place / INDEX)
        names = [name for name in NETS if name in index]
        require(
            bool(names), f"{place / INDEX} has {', '.join(index)}; expected one of {', '.join(NETS)}, or a subfolder="
        )
        # Repositories of 2022 have the net beside model_index.json.
        place = place / names[0] if (place / names[0]).is_dir() else place
    if not (place / CONFIG).is_file():
        raise FileNotFoundError(
            f"{place} has neither {INDEX} nor {CONFIG}; expected a pipeline or a model of diffusers"
        )
    return place


def _scheduler(folder: Path, place: Path) -> Any:
    """The configuration of the scheduler nearest to the net."""
    places = [place, place / "scheduler", place.parent / "scheduler", place.parent, folder / "scheduler", folder]
    # No further up than the folder that was given.
    for each in (each for each in places if each.is_relative_to(folder)):
        if (each / SCHEDULER).is_file():
            return read_json(each / SCHEDULER)
    raise FileNotFoundError(f"{folder} has no {SCHEDULER}; expected one, or scheduler=, its content")


def _complete(diffusers: Any, config: dict[str, Any]) -> dict[str, Any]:
    """A scheduler's configuration with the defaults of its class, which files leave out."""
    cls = _class(diffusers, config.get("_class_name"), diffusers.SchedulerMixin)
    return config if cls is None else {**cls.from_config(config).config, "_class_name": cls.__name__}


def model_class(diffusers: Any, name: Any, path: Path) -> Any:
    cls = _class(diffusers, name, diffusers.ModelMixin)
    require(cls is not None, f"{path} has _class_name={name!r}; expected a model of diffusers, such as UNet2DModel")
    return cls


def _class(diffusers: Any, name: Any, base: type) -> Any:
    """The class of that name, if there is one of that kind."""
    cls = getattr(diffusers, str(name), None)
    return cls if isinstance(cls, type) and issubclass(cls, base) else None


def _sample_shape(config: Mapping[str, Any], path: Path) -> tuple[tuple[int, ...] | None, bool]:
    """The shape of one sample, if it is said, and whether the net returns a variance, too."""
    given, returned = config.get("in_channels"), config.get("out_channels") or config.get("in_channels")
    require(
        isinstance(given, int) and returned in (given, 2 * given),
        f"{path} has in_channels={given}, out_channels={returned}; expected equal ones, or twice as many out for a "
        "learned variance: a net that is given more than x_t is one to call in a function of one's own",
    )
    assert isinstance(given, int)
    size, name = config.get("sample_size"), str(config.get("_class_name"))
    if isinstance(size, int) and "2D" in name:
        size = [size, size]
    elif isinstance(size, int):
        size = [size] if "1D" in name else None
    return (None if size is None else (given, *size)), returned == 2 * given


def save_diffusers(denoiser: Denoiser, folder: str | Path) -> None:
    """Write a denoiser as a pipeline that DDPMPipeline.from_pretrained samples from: safetensors and JSON.

    The net is a model of diffusers, given an index into the table of a DiscreteSDE. A denoiser from load_diffusers() is
    written with the scheduler that it came with, if DDPMPipeline can use it, or a DDPMScheduler of the same table;
    another's table as `trained_betas`, which diffusers has in float32.

    Raises:
        ValueError: For another net, process or terms; before the folder is touched.
        ImportError: Without diffusers.
    """
    diffusers = diffusers_library()
    inner = denoiser.inner if isinstance(denoiser, Clipped) else denoiser
    net = bare(inner.net)
    require(
        type(inner) in (Denoiser, DiffusersDenoiser) and isinstance(net, diffusers.ModelMixin),
        f"denoiser is a {type(inner).__name__} of a {type(net).__name__}; expected a Denoiser of a model of diffusers",
    )
    clip, keeps_noise = (denoiser.clip, denoiser.keeps_noise) if isinstance(denoiser, Clipped) else (None, False)
    config = _config(inner, clip, keeps_noise)
    cls = getattr(diffusers, config["_class_name"])
    if "generator" not in inspect.signature(cls.step).parameters:  # with which DDPMPipeline calls it
        cls, config = diffusers.DDPMScheduler, {"clip_sample": False, **config}
    scheduler = cls.from_config(config)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=STAGING, dir=folder) as name:
        diffusers.DDPMPipeline(net, scheduler).save_pretrained(name, safe_serialization=True)
        # The index comes last: it says that the rest is there.
        (folder / INDEX).unlink(missing_ok=True)
        for each in sorted(Path(name).rglob("*.*"), key=lambda path: path.name == INDEX):
            target = folder / each.relative_to(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(each, target)


def _config(denoiser: Denoiser, clip: Clip | None, keeps_noise: bool) -> dict[str, Any]:
    """A scheduler's configuration for a denoiser: its own if it has come with one that says all of it."""
    sde, terms = denoiser.sde, denoiser.terms
    if isinstance(denoiser, DiffusersDenoiser) and isinstance(sde, DiscreteSDE):
        schedule = read_schedule(denoiser.scheduler_config)
        same = replace(schedule.terms, learned_variance=terms.learned_variance) == terms
        if same and schedule.process == sde and (schedule.clip, schedule.keeps_noise) == (clip, keeps_noise):
            return denoiser.scheduler_config
    kinds = {kind: name for name, kind in PREDICTION_TYPES.items()}
    plain = NetTerms("state", "index", predicts=terms.predicts, learned_variance=terms.learned_variance)
    require(
        isinstance(sde, DiscreteSDE), f"sde is a {type(sde).__name__}; expected a DiscreteSDE, whose table is saved"
    )
    require(
        replace(terms, rounded=False) == plain and terms.predicts in ("noise", "data", "v"),
        f'terms are {terms}; expected NetTerms("state", "index"), with predicts "noise", "data" or "v"',
    )
    assert isinstance(sde, DiscreteSDE)
    products = torch.sigmoid(2 * torch.tensor(sde.lambdas, dtype=torch.float64))
    before = torch.cat([torch.ones(1).double(), products[:-1]])
    return {
        "_class_name": "DDIMScheduler" if keeps_noise else "DDPMScheduler",
        "num_train_timesteps": len(products),
        "trained_betas": (1 - products / before).tolist(),
        "prediction_type": kinds[terms.predicts],
        "variance_type": "learned_range" if terms.learned_variance else "fixed_small",
        "clip_sample": clip is not None and clip.quantile is None,
        "clip_sample_range": 1.0 if clip is None else clip.limit,
        "thresholding": clip is not None and clip.quantile is not None,
        "sample_max_value": 1.0 if clip is None else clip.limit,
        "dynamic_thresholding_ratio": 0.995 if clip is None or clip.quantile is None else clip.quantile,
    }
