"""Autoencoders by name: those of diffusers' pipelines, and anyone's own as module:name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdescore.common.checks import require
from sdescore.common.files import read_json
from sdescore.common.plugins import check_arguments, named_object
from sdescore.denoisers.autoencoder import Autoencoder
from sdescore.interop.diffusers_models import CONFIG, INDEX, diffusers_library, json_folder, model_class

__all__ = ["find_autoencoder", "load_autoencoder"]

AUTOENCODERS = ("vae", "vqvae", "vqgan", "movq")  # what pipelines call theirs
POSTERIORS = ("mean", "sample")
FACTORS = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")


def load_autoencoder(
    source: str | Path,
    subfolder: str | None = None,
    *,
    posterior: str = "mean",
    dtype: torch.dtype | None = None,
    variant: str | None = None,
    **hub: Any,
) -> Autoencoder:
    """The autoencoder of a diffusers pipeline, such as AutoencoderKL, on the CPU.

    Its codes are what the pipelines' nets know: less the shift_factor and times the scaling_factor of its
    configuration, or, where that has latents_mean and latents_std, less the one and over the other.

    Args:
        source: A folder, or a repository "owner/name" of the Hub: of a pipeline, or of an autoencoder alone.
        subfolder: Where in it the autoencoder is; by default what model_index.json says.
        posterior: Of an encoder that returns a normal distribution, its "mean" or a "sample".
        dtype: Of the weights; float32 by default.
        variant: Of the weights' files, such as "fp16".
        hub: Further arguments of huggingface_hub.snapshot_download, such as revision and token.

    Raises:
        FileNotFoundError: If there is no such model.
        ValueError: For a model that does not encode and decode, and another posterior.
        ImportError: Without diffusers.
    """
    require(posterior in POSTERIORS, f"posterior={posterior!r}; expected {', '.join(map(repr, POSTERIORS))}")
    diffusers = diffusers_library()
    folder = json_folder(source, **hub)
    place = _place(folder, subfolder)
    config = read_json(place / CONFIG)
    cls = model_class(diffusers, config.get("_class_name"), place / CONFIG)
    require(
        hasattr(cls, "encode") and hasattr(cls, "decode"),
        f"{place / CONFIG} has _class_name={cls.__name__!r}; expected an autoencoder, such as AutoencoderKL",
    )
    inside = place.relative_to(folder).as_posix()
    net = cls.from_pretrained(
        str(source), subfolder=None if inside == "." else inside, torch_dtype=dtype, variant=variant, **hub
    )
    known = {name: value for name in FACTORS if (value := net.config.get(name)) is not None}
    args: dict[str, Any] = {"posterior": posterior} if posterior != "mean" else {}
    if subfolder is not None:
        args["subfolder"] = subfolder
    return of_diffusers(net, known, posterior, str(source), args)


def of_diffusers(net: Any, known: Mapping[str, Any], posterior: str, name: str, args: Mapping[str, Any]) -> Autoencoder:
    """A model with encode() and decode() of diffusers, and the factors of its configuration."""
    factor = float(known.get("scaling_factor", 1.0))
    shift: Any = known.get("shift_factor", 0.0)
    if "latents_mean" in known and "latents_std" in known:
        shift, spread = known["latents_mean"], known["latents_std"]
    else:
        spread = 1.0

    def like(numbers: Any, z: Tensor) -> Any:
        """A number for all channels, or one for each."""
        return numbers if isinstance(numbers, float | int) else z.new_tensor(numbers).reshape(-1, *(1,) * (z.ndim - 2))

    def encoder(x: Tensor) -> Any:
        found = net.encode(x)
        distribution = getattr(found, "latent_dist", None)
        if distribution is None:
            z = found.latents if hasattr(found, "latents") else found.latent
        else:
            z = distribution.mean
        codes = (z - like(shift, z)) * factor / like(spread, z)
        if distribution is None or posterior == "mean":
            return codes
        return codes, (distribution.std * factor / like(spread, z)).expand_as(z)

    def decoder(codes: Tensor) -> Tensor:
        found: Tensor = net.decode(codes * like(spread, codes) / factor + like(shift, codes)).sample
        return found

    return Autoencoder(encoder, decoder, name, args, version=repr((factor, shift, spread)))


def find_autoencoder(name: str, args: Mapping[str, Any] | None = None, *, trust_code: bool = False) -> Autoencoder:
    """The autoencoder of a name: a folder or repository of diffusers, or module:name of one's own.

    The latter is an Autoencoder, a pair of functions (encoder, decoder), or a function of `args` that returns either.
    Raises ValueError for module:name unless trust_code says that its code may be imported, and as load_autoencoder().
    """
    given = dict(args or {})
    if ":" not in name or Path(name).is_dir():
        check_arguments(load_autoencoder, given, "autoencoder_args")
        return load_autoencoder(name, **given)
    require(
        trust_code, f"autoencoder={name!r} is someone's own code; expected trust_code=True, which imports and runs it"
    )
    found = named_object(name, "autoencoder")
    pair = isinstance(found, Autoencoder | tuple)
    if not pair and callable(found):
        check_arguments(found, given, "autoencoder_args")
        found = found(**given)
    require(not given or not pair, f"autoencoder={name!r} is an object, which takes no autoencoder_args={given}")
    if isinstance(found, Autoencoder):
        return Autoencoder(found.encoder, found.decoder, name, given, found.version)
    require(
        isinstance(found, tuple) and len(found) == 2,
        f"autoencoder={name!r} is {found!r}; expected an Autoencoder or a pair of functions (encoder, decoder)",
    )
    encoder, decoder = found
    return Autoencoder(encoder, decoder, name, given)


def _place(folder: Path, subfolder: str | None) -> Path:
    """Where the autoencoder's config.json is."""
    place = folder if subfolder is None else folder / subfolder
    if (place / INDEX).is_file():
        index = read_json(place / INDEX)
        names = [name for name in AUTOENCODERS if name in index]
        expected = ", ".join(AUTOENCODERS)
        require(bool(names), f"{place / INDEX} has {', '.join(index)}; expected one of {expected}, or a subfolder=")
        place = place / names[0]
    if not (place / CONFIG).is_file():
        raise FileNotFoundError(
            f"{place} has neither {INDEX} nor {CONFIG}; expected a pipeline or an autoencoder of diffusers"
        )
    return place
