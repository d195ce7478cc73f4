"""EDM's and EDM2's checkpoints (Karras et al. 2022 and 2024) as denoisers.

The preconditionings of table 1 of Karras et al. 2022 (https://arxiv.org/abs/2206.00364) are processes and terms here.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from sdescore.common.scaling import Scaling
from sdescore.denoisers.denoiser import Denoiser
from sdescore.denoisers.folders import build_net
from sdescore.denoisers.terms import NetTerms
from sdescore.interop.persistence import Record, read_pickle
from sdescore.processes import VESDE, VPSDE, DiscreteSDE, KarrasSDE, LinearSDE

__all__ = ["load_edm"]

# What our nets call the arguments in checkpoints; None is of training alone.
SHARED = {
    "img_resolution": "image_size",
    "img_channels": "channels",
    "label_dim": "classes",
    "model_channels": "base_width",
    "channel_mult": "multipliers",
    "channel_mult_emb": "embedding_multiplier",
    "num_blocks": "blocks",
    "attn_resolutions": "attention",
    "dropout": "dropout",
    "label_dropout": None,
}
ARGUMENTS: dict[str, dict[str, str | None]] = {
    "DhariwalUNet": {**SHARED, "augment_dim": "augmentations"},
    "SongUNet": {
        **SHARED,
        "augment_dim": "augmentations",
        "embedding_type": "embedding",
        "channel_mult_noise": "noise_multiplier",
        "encoder_type": "encoder",
        "decoder_type": "decoder",
        "resample_filter": "taps",
    },
    "EDM2UNet": {
        **SHARED,
        "channel_mult_noise": "noise_multiplier",
        "channels_per_head": "head_width",
        "label_balance": "label_balance",
        "concat_balance": "concat_balance",
        "res_balance": "residual_balance",
        "attn_balance": "attention_balance",
        "clip_act": "clip",
    },
}
NO_COUNT = ("classes", "augmentations")  # where 0 stands for None

Settings = dict[str, Any]


def _edm(settings: Settings, own: Record) -> tuple[LinearSDE, NetTerms]:
    return KarrasSDE(), NetTerms(predicts="edm")


def _vp(settings: Settings, own: Record) -> tuple[LinearSDE, NetTerms]:
    sde = VPSDE(settings["beta_min"], settings["beta_min"] + settings["beta_d"])
    return sde, NetTerms("state", "t", settings["M"] - 1, predicts="noise")


def _ve(settings: Settings, own: Record) -> tuple[LinearSDE, NetTerms]:
    # ln(sigma / 2), as NCSN++ saw data in [0, 1], and minus the noise, which is sigma times the score.
    sde = VESDE(settings["sigma_min"], settings["sigma_max"])
    return sde, NetTerms("state", "log_rho", time_shift=-math.log(2), output_scale=-1.0, predicts="noise")


def _iddpm(settings: Settings, own: Record) -> tuple[LinearSDE, NetTerms]:
    levels = own.state["_buffers"]["u"].double()  # sigma / alpha, from the highest to 0
    sde = DiscreteSDE(tuple((-levels[:-1].log()).flip(0).tolist()))
    return sde, NetTerms("state", "index", rounded=True, learned_variance=True, predicts="noise")


class Preconditioning(NamedTuple):
    """What a class of checkpoints takes beside the arguments of its net, and what its process and terms follow from."""

    takes: Mapping[str, Any]
    terms: Callable[[Settings, Record], tuple[LinearSDE, NetTerms]]
    weights: str = "model."


FIRST = {"img_resolution": None, "img_channels": None, "label_dim": 0, "use_fp16": False}
PRECONDITIONINGS = {
    "EDMPrecond": Preconditioning(
        {**FIRST, "sigma_min": 0, "sigma_max": math.inf, "sigma_data": 0.5, "model_type": "DhariwalUNet"}, _edm
    ),
    "VPPrecond": Preconditioning(
        {**FIRST, "beta_d": 19.9, "beta_min": 0.1, "M": 1000, "epsilon_t": 1e-5, "model_type": "SongUNet"}, _vp
    ),
    "VEPrecond": Preconditioning({**FIRST, "sigma_min": 0.02, "sigma_max": 100.0, "model_type": "SongUNet"}, _ve),
    "iDDPMPrecond": Preconditioning(
        {**FIRST, "C_1": 0.001, "C_2": 0.008, "M": 1000, "model_type": "DhariwalUNet"}, _iddpm
    ),
    "Precond": Preconditioning({**FIRST, "sigma_data": 0.5, "logvar_channels": 128}, _edm, "unet."),
}


def load_edm(file: str | Path) -> Denoiser:
    """The denoiser in a checkpoint of EDM or EDM2, in float32 on the CPU, in evaluation mode, on the process it is of.

    Nothing in the file is run: see sdescore.interop.persistence. The net is one of sdescore.nets; what the original's
    preconditioning adds to it is in `.sde` and `.terms`. Images are in [-1, 1]; nets of latents have no `scaling`.

    Nets with classes take the condition `label` (batch,), integers: 0 ... classes - 1 stand for the one-hot rows of the
    original's class labels, and `classes` for the row of zeros, which is no label. Nets trained with augmentation take
    `augment` (batch, augmentations). An iDDPM net is given the entry of its table that is nearest by index, where the
    original takes the nearest by sigma: these differ for some levels between two entries.

    Raises FileNotFoundError, and ValueError naming the file for one that is refused, damaged, or of another kind.
    """
    content = read_pickle(file)
    try:
        return _denoiser(content)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{file} holds no denoiser of EDM: {error}") from error


def _denoiser(content: Any) -> Denoiser:
    content = content if isinstance(content, dict) else {"ema": content}
    record = content.get("ema")
    if not isinstance(record, Record) or record.name not in PRECONDITIONINGS:
        found = record.name if isinstance(record, Record) else ", ".join(map(str, content))
        raise ValueError(f"found {found}; expected {', '.join(PRECONDITIONINGS)} under the name ema")
    takes, terms_of, weights = PRECONDITIONINGS[record.name]
    if len(record.args) > len(takes):
        raise ValueError(f"{record.name} has {len(record.args)} arguments by position; expected at most {len(takes)}")
    given = {**takes, **dict(zip(takes, record.args, strict=False)), **record.kwargs}
    sde, terms = terms_of(given, record)
    channels = given["img_channels"]
    size = given["img_resolution"]
    encoder = content.get("encoder")
    latents = isinstance(encoder, Record) and encoder.name != "StandardRGBEncoder"
    name = given.get("model_type", "EDM2UNet")
    arguments = _arguments(name, {key: value for key, value in given.items() if key in FIRST or key not in takes})
    if terms.learned_variance:
        arguments["out_channels"] = 2 * channels
    return Denoiser(
        _net(name, arguments, record, weights),
        sde,
        data_std=given.get("sigma_data", 0.5),
        terms=terms,
        shape=(channels, size, size),
        scaling=None if latents else Scaling(),
    ).eval()


def _arguments(name: str, given: Settings) -> Settings:
    """The arguments of our net. Raises ValueError for a net that is not known, and for what it does not take."""
    if name not in ARGUMENTS:
        raise ValueError(f"its net is a {name}; expected {', '.join(ARGUMENTS)}")
    known = {**ARGUMENTS[name], "use_fp16": None}
    if name == "EDM2UNet" and given.get("resample_filter", [1, 1]) == [1, 1]:
        known["resample_filter"] = None  # the one filter that ours has
    unknown = [f"{key}={value!r}" for key, value in given.items() if key not in known]
    if unknown:
        raise ValueError(f"its {name} has {', '.join(unknown)}; expected {', '.join(known)}")
    ours = {known[key]: value for key, value in given.items()}
    return {key: None if key in NO_COUNT and value == 0 else value for key, value in ours.items() if key is not None}


def _net(name: str, arguments: Settings, record: Record, weights: str) -> nn.Module:
    """The net with its weights. Raises RuntimeError unless their names and shapes are the net's."""
    with torch.device("meta"):  # so that what does not fit is refused before there is memory for it
        net = build_net(name, arguments)
    net.load_state_dict({key: x.to(torch.float32) for key, x in record.tensors(weights).items()}, assign=True)
    return net
