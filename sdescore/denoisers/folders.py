"""A Denoiser as a folder: config.json says what it is, model.safetensors holds the net's weights."""

import errno
import inspect
import json
import operator
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from functools import reduce
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from sdescore.common.plugins import find_plugin, plugin_name
from sdescore.common.scaling import Scaling
from sdescore.denoisers.terms import NetTerms
from sdescore.processes.base import LinearSDE

__all__ = ["NETS", "PROCESSES", "build_net", "build_process", "load", "push", "save"]

NETS = "sdescore.nets"
PROCESSES = "sdescore.processes"
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
CARD = "README.md"
STAGING = ".saving-"  # what the name of a folder begins with while its content is written
MODULE = "module"  # the one key that marks a net among another net's arguments
FORMAT = 2  # of config.json; other formats are refused

CARD_TEXT = """---
library_name: sdescore
tags:
- sdescore
---

A denoiser trained with sdescore: config.json names its process and net, model.safetensors holds the weights.

    from sdescore import Denoiser, sample

    denoiser = Denoiser.from_pretrained("path/of/this/folder")
    x = sample(denoiser.sde, denoiser, shape=(16, *denoiser.shape))
"""

Loaded = TypeVar("Loaded", bound=nn.Module)


class Saveable(Protocol):
    """What is saved of a Denoiser."""

    net: nn.Module
    sde: LinearSDE
    terms: NetTerms
    data_std: float
    shape: tuple[int, ...] | None
    scaling: Scaling | None


def save(denoiser: Saveable, folder: str | Path) -> None:
    """Write config.json and model.safetensors to a folder, and a model card if it has no README.md.

    Existing files are replaced one by one, each as a whole. An interrupted save leaves the previous model, or a folder
    that load() refuses as incomplete.

    Raises ValueError, before the folder is touched, for a net or process that could not be loaded again, and OSError if
    the disk refuses.
    """
    config = describe(denoiser)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=STAGING, dir=folder) as name:
        staging = Path(name)
        (staging / CARD).write_text(CARD_TEXT, encoding="utf-8")
        (staging / CONFIG).write_text(config, encoding="utf-8")
        _save_weights(denoiser.net, staging / WEIGHTS)
        shutil.copymode(staging / CONFIG, staging / WEIGHTS)  # save_file makes it private
        # The old config goes first: it must never stand beside weights that are not its own.
        (folder / CONFIG).unlink(missing_ok=True)
        for each in (WEIGHTS, CONFIG) if (folder / CARD).exists() else (CARD, WEIGHTS, CONFIG):
            os.replace(staging / each, folder / each)


def load(cls: Callable[..., Loaded], source: str | Path, **hub: Any) -> Loaded:
    """The denoiser in a folder, or on the Hub by "owner/name": on the CPU, in evaluation mode.

    `hub` holds further arguments of huggingface_hub.snapshot_download, such as revision and token. Raises
    FileNotFoundError if there is no such model or the folder is incomplete, and ValueError, naming the file, for a
    damaged one, an unknown net or process, or weights of another net.
    """
    folder = _fetch(source, **hub)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            found = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
            raise FileNotFoundError(f"{folder} has no {name}; it holds {found}; expected {CONFIG} and {WEIGHTS}")
    try:
        denoiser = cls(**rebuild(json.loads((folder / CONFIG).read_text(encoding="utf-8"))))
    except (TypeError, ValueError) as error:  # JSONDecodeError is a ValueError
        raise ValueError(f"{folder / CONFIG} does not describe a denoiser: {error}") from error
    try:
        _load_weights(denoiser.get_submodule("net"), folder / WEIGHTS)
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{folder / WEIGHTS} does not hold the weights of the net in {CONFIG}: {error}") from error
    return denoiser.eval()


def push(denoiser: Saveable, repo_id: str, *, private: bool | None = None, token: Any = None, **upload: Any) -> str:
    """Save a denoiser to a repository "owner/name" of the Hub, made if need be; returns the address of the commit.

    `upload` holds further arguments of huggingface_hub's upload_folder, such as commit_message, revision and create_pr.
    Raises ValueError as save() does, and whatever huggingface_hub raises.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with TemporaryDirectory() as folder:
        save(denoiser, folder)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder, **upload))


def bare(net: nn.Module) -> nn.Module:
    """The net itself, where torch.compile() has wrapped it."""
    return getattr(net, "_orig_mod", net)


def describe(denoiser: Saveable) -> str:
    """The text of config.json. Raises ValueError for what could not be loaded again."""
    scaling = denoiser.scaling
    content = {
        "format": FORMAT,
        "net": _describe_net(denoiser.net),
        "process": _describe_process(denoiser.sde),
        "terms": asdict(denoiser.terms),
        "data_std": denoiser.data_std,
        "shape": denoiser.shape,
        "scaling": None if scaling is None else asdict(scaling),
    }
    try:
        return json.dumps(content, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ValueError(f"{CONFIG} cannot hold {content}: {error}") from error


def _describe_process(sde: LinearSDE) -> dict[str, Any]:
    name = plugin_name(PROCESSES, type(sde), "sde")
    if not is_dataclass(sde):
        raise ValueError(f"sde is of type {name}; expected a dataclass, whose fields are its arguments")
    return {"name": name, "config": asdict(sde)}


def _describe_net(net: nn.Module) -> dict[str, Any]:
    """A net's name and arguments; an argument that is a net itself becomes {MODULE: its own name and arguments}."""
    net = bare(net)
    name = plugin_name(NETS, type(net), "net")
    config = getattr(net, "config", None)
    if not isinstance(config, dict):
        raise ValueError(f"net is a {name} without `config`; expected a dict of its constructor's arguments")
    config = {
        key: {MODULE: _describe_net(value)} if isinstance(value, nn.Module) else value for key, value in config.items()
    }
    return {"name": name, "config": config}


def rebuild(content: Any) -> dict[str, Any]:
    """The arguments of a Denoiser from the content of config.json. Raises TypeError or ValueError.

    Only installed plug-ins choose code: a stranger's folder cannot import anything else.
    """
    if isinstance(content, dict) and content.get("format") != FORMAT:
        raise ValueError(f"format is {content.get('format')!r}; this version of sdescore reads {FORMAT}")
    _, net, process, terms, data_std, shape, scaling = _fields(
        content, "format net process terms data_std shape scaling", "it"
    )
    net_name, net_config = _fields(net, "name config", "net")
    process_name, process_config = _fields(process, "name config", "process")
    return {
        "net": build_net(net_name, net_config),
        "sde": build_process(process_name, process_config, "process"),
        "terms": NetTerms(**terms),
        "data_std": data_std,
        "shape": None if shape is None else tuple(map(operator.index, shape)),
        "scaling": None if scaling is None else Scaling(**scaling),
    }


def _fields(content: Any, names: str, where: str) -> list[Any]:
    """The values of a JSON object that has exactly these names."""
    if not isinstance(content, dict) or set(content) != set(names.split()):
        given = sorted(content) if isinstance(content, dict) else content
        raise ValueError(f"{where} has {given}; expected an object of {names.replace(' ', ', ')}")
    return [content[name] for name in names.split()]


def build_net(name: str, config: Mapping[str, Any], known: Mapping[str, Any] | None = None) -> nn.Module:
    """A net by its name and arguments; an argument {MODULE: {"name": ..., "config": ...}} is a net itself.

    Each net also gets the arguments in `known` that it takes. Raises ValueError for arguments that do not fit.
    """
    cls = find_plugin(NETS, name, "net")
    takes = inspect.signature(cls)
    known = known or {}

    def argument(value: Any) -> Any:
        if not isinstance(value, dict) or value.keys() != {MODULE}:
            return value
        inner_name, inner_config = _fields(value[MODULE], "name config", "net")
        return build_net(inner_name, inner_config, known)

    given = {key: value for key, value in known.items() if key in takes.parameters}
    given |= {key: argument(value) for key, value in config.items()}
    try:
        takes.bind(**given)
    except TypeError as error:
        raise ValueError(f"net={name!r} takes {', '.join(takes.parameters)}: {error}") from error
    net: nn.Module = cls(**given)
    return net


def build_process(name: str, config: Mapping[str, Any], argument: str = "sde") -> LinearSDE:
    """A process by its name and arguments. Raises ValueError for an unknown name, and TypeError for other arguments."""
    cls = find_plugin(PROCESSES, name, argument)
    # JSON has no tuples, and a process is hashable.
    sde: LinearSDE = cls(**{key: tuple(v) if isinstance(v, list) else v for key, v in config.items()})
    return sde


def _save_weights(net: nn.Module, path: Path) -> None:
    # Copies, since a file of safetensors takes neither shared nor strided memory.
    weights = {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in bare(net).state_dict().items()
    }
    try:
        save_file(weights, path, metadata={"format": "pt"})
    except SafetensorError as error:  # of a full disk, too
        raise OSError(errno.EIO, f"{path.name} was not written: {error}") from error


def _load_weights(net: nn.Module, path: Path) -> None:
    """Give a net the weights in a file, in the widest dtype that the file has."""
    weights = load_file(path)
    dtypes = [tensor.dtype for tensor in weights.values() if tensor.is_floating_point()]
    if dtypes:
        net.to(reduce(torch.promote_types, dtypes))
    net.load_state_dict(weights)


def _fetch(source: str | Path, **hub: Any) -> Path:
    """The folder itself, or the Hub's files in the local cache."""
    if Path(source).is_dir():
        return Path(source)
    if not isinstance(source, str) or not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source):
        raise FileNotFoundError(f"there is no folder {str(source)!r}")
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(source, allow_patterns=[CONFIG, WEIGHTS], **hub))
    except (ImportError, OSError) as error:  # the errors of the Hub are OSErrors
        raise FileNotFoundError(f"{source!r} is no folder here, and the Hub gave no such model: {error}") from error
