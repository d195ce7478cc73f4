"""Small checkpoints of EDM: weights by a recipe without random numbers, and pickles in the form of the originals."""

import hashlib
import math
import pickle
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn

from sdescore.nets import DhariwalUNet, EDM2UNet, SongUNet

GOLDEN = (math.sqrt(5) - 1) / 2
PREFIXES = {name: "model." for name in ("EDMPrecond", "VPPrecond", "VEPrecond", "iDDPMPrecond")} | {"Precond": "unet."}
FIXED = ("resample_filter", "u")  # buffers that follow from a net's arguments


def draw(name: str, shape: tuple[int, ...]) -> Tensor:
    """Numbers of mean 0 and variance 1 in float32: the fractions of GOLDEN i^2 and a number of the name, scaled."""
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    fractions = (index.square() * GOLDEN + crc32(name.encode()) / 2**32).frac()
    return (math.sqrt(12) * (fractions - 0.5)).float().reshape(shape)


def weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """What stands in a net under a name: of its shape, and large enough that no layer can be missed."""
    last = name.rpartition(".")[2]
    numbers = draw(name, shape)
    if last in ("freqs", "phases"):
        return 2 * math.pi * numbers
    if len(shape) > 1:
        return numbers / math.sqrt(math.prod(shape[1:]))
    return (last != "bias") + 0.3 * numbers


def filled(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a net, with weights by the recipe."""
    return {name: x if name.rpartition(".")[2] in FIXED else weight(name, tuple(x.shape)) for name, x in state.items()}


def names_and_shapes(state: Mapping[str, Tensor]) -> str:
    """A digest of what a net has."""
    lines = sorted(f"{name} {tuple(x.shape)}" for name, x in state.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def inputs(case: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x at the levels of a case, sigma, labels of which one is none, and augmentations."""
    kwargs = case["kwargs"]
    sigma = torch.tensor(case["sigma"], dtype=torch.float64)
    shape = (len(sigma), kwargs["img_channels"], kwargs["img_resolution"], kwargs["img_resolution"])
    x = draw("x", shape) * (sigma**2 + 0.25).sqrt().float()[:, None, None, None]
    label = torch.arange(len(sigma)).flip(0) + kwargs.get("label_dim", 0) - 2
    return x, sigma, label, draw("augment", (len(sigma), kwargs.get("augment_dim", 0)))


def picked(y: Tensor) -> Tensor:
    """A few values of each sample of an output, apart from each other."""
    return y.flatten(1)[:, 3::23][:, :5]


def _reconstruct_persistent_obj(meta: Any) -> Any:
    raise AssertionError("the code of a pickle was about to run")


class Persistent:
    """Pickled as the originals' classes are."""

    def __init__(self, class_name: str, state: dict[str, Any], module_src: str) -> None:
        self.meta = {"type": "class", "version": 6, "module_src": module_src, "class_name": class_name, "state": state}

    def __reduce__(self) -> tuple[Any, ...]:
        return _reconstruct_persistent_obj, (self.meta,), None


@contextmanager
def torch_utils() -> Iterator[None]:
    """The module that pickles of the originals name, while one is written."""
    modules = {name: ModuleType(name) for name in ("torch_utils", "torch_utils.persistence")}
    modules["torch_utils.persistence"]._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]


def our_net(kwargs: Mapping[str, Any], class_name: str) -> nn.Module:
    """Our net by the arguments of an original's."""
    image = {"channels": kwargs["img_channels"], "image_size": kwargs["img_resolution"]}
    shared = {
        "classes": kwargs.get("label_dim"),
        "base_width": kwargs["model_channels"],
        "multipliers": kwargs["channel_mult"],
        "blocks": kwargs["num_blocks"],
        "attention": kwargs["attn_resolutions"],
    }
    if class_name == "Precond":
        return EDM2UNet(**image, **shared, head_width=kwargs["channels_per_head"])
    shared["augmentations"] = kwargs.get("augment_dim")
    if kwargs["model_type"] == "DhariwalUNet":
        twice = 2 if class_name == "iDDPMPrecond" else 1
        return DhariwalUNet(**image, **shared, out_channels=twice * kwargs["img_channels"])
    return SongUNet(
        **image,
        **shared,
        embedding=kwargs.get("embedding_type", "positional"),
        noise_multiplier=kwargs.get("channel_mult_noise", 1),
        encoder=kwargs.get("encoder_type", "standard"),
        decoder=kwargs.get("decoder_type", "standard"),
        taps=kwargs.get("resample_filter", (1, 1)),
    )


def nested(state: Mapping[str, Tensor], module_src: str) -> dict[str, Any]:
    """The state of a module as pickles hold it, from its state_dict."""
    own = {name: nn.Parameter(x) for name, x in state.items() if "." not in name and name not in FIXED}
    inside: dict[str, Any] = {}
    for child in dict.fromkeys(name.partition(".")[0] for name in state if "." in name):
        part = {name.partition(".")[2]: x for name, x in state.items() if name.startswith(f"{child}.")}
        if child in ("enc", "dec"):
            module = nn.ModuleDict()
            module._modules = nested(part, module_src)["_modules"]
            inside[child] = module
        else:
            inside[child] = Persistent("Part", nested(part, module_src), module_src)
    return {
        "training": False,
        "_parameters": own,
        "_buffers": {name: x for name, x in state.items() if name in FIXED},
        "_non_persistent_buffers_set": set(),
        "_modules": inside,
    }


def whole_state(case: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state of the original of a case: the names and shapes of our net, beside what the original alone has."""
    kwargs = case["kwargs"]
    state = {f"{PREFIXES[case['class']]}{name}": x for name, x in our_net(kwargs, case["class"]).state_dict().items()}
    if case["class"] == "Precond":
        state |= {f"logvar_fourier.{name}": torch.empty(128) for name in ("freqs", "phases")}
        state["logvar_linear.weight"] = torch.empty(1, 128)
    if "u" in case:
        state["u"] = torch.tensor(case["u"])
    return filled(state)


def checkpoint(
    file: Path,
    case: Mapping[str, Any],
    *,
    args: tuple[Any, ...] = (),
    built: Mapping[str, Any] | None = None,
    encoder: str | None = None,
    dtype: torch.dtype = torch.float32,
    code: str = "raise AssertionError",
) -> Path:
    """Write the checkpoint of a case as the originals do, with some code for the source of its classes.

    `args` come before the case's arguments, and `built` is a case that has both.
    """
    state = {name: x.to(dtype) for name, x in whole_state(built or case).items()}
    whole = {**nested(state, code), "_init_args": args, "_init_kwargs": dict(case["kwargs"])}
    content = {"ema": Persistent(case["class"], whole, code), "loss_fn": Persistent("Loss", {}, code)}
    if encoder is not None:
        content["encoder"] = Persistent(encoder, {"scale": np.ones(4), "_vae": None}, code)
    with torch_utils(), open(file, "wb") as out:
        pickle.dump(content, out)
    return file
