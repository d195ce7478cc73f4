"""A Denoiser as a folder: config.json says what it is, model.safetensors holds the net's weights."""

import errno
import inspect
import json
import operator
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import reduce
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar, cast

import torch
from huggingface_hub import PyTorchModelHubMixin, snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from sdescore.common.plugins import find_plugin, plugin_name
from sdescore.common.scaling import Scaling
from sdescore.processes.base import LinearSDE
from sdescore.processes.linear import PROCESSES

__all__ = ["Pretrained"]

NETS = "sdescore.nets"
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
STAGING = ".saving-"  # what a folder's name begins with while it is written
MODULE = "module"  # the one key that marks a net among another net's arguments
FORMAT = 1  # of config.json; a reader refuses the ones that it does not know

CARD_TEMPLATE = """---
{{ card_data }}
---

A denoiser trained with sdescore: config.json names its process and net, model.safetensors holds the weights.

    from sdescore import Denoiser, sample

    denoiser = Denoiser.from_pretrained("path/of/this/folder")
    x = sample(denoiser.sde, denoiser, shape=(16, *denoiser.shape))
"""

Saved = TypeVar("Saved", bound="Pretrained")


class Pretrained(PyTorchModelHubMixin, library_name="sdescore", tags=["sdescore"], model_card_template=CARD_TEMPLATE):
    """Saving and loading for Denoiser, through huggingface_hub's mixin, which adds push_to_hub.

    A net is named by its entry point in the group sdescore.nets and rebuilt from its attribute `config`, a dict of
    constructor arguments that JSON can hold, or that are such nets themselves, as an Energy's is. Nothing else in a
    folder chooses code, so that a stranger's folder imports only what is installed as a plug-in.
    """

    # What a Denoiser has.
    net: nn.Module
    sde: LinearSDE
    predicts: str
    data_std: float
    shape: tuple[int, ...] | None
    scaling: Scaling | None

    # The mixin would record constructor arguments, for which it copies dataclasses with all that they hold. What is
    # saved is the state at that time instead, and an empty record keeps the mixin from making its own.
    _hub_mixin_config: dict[str, Any] = {}  # noqa: RUF012

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        **hub: Any,
    ) -> str | None:
        """Write config.json and model.safetensors to a folder, each of them whole or not at all.

        Files of these names are replaced. After an interruption the folder holds what it held before, or is refused
        as incomplete. With push_to_hub=True, `hub` is what push_to_hub takes.

        Raises ValueError, before the folder is touched, for a net or process that could not be loaded again.
        """
        encode(self)
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=STAGING, dir=folder) as staging:
            super().save_pretrained(staging, model_card_kwargs=hub.get("model_card_kwargs"))
            # The old config goes first: it must never stand beside weights that are not its own.
            (folder / CONFIG).unlink(missing_ok=True)
            names = (WEIGHTS, CONFIG) if (folder / CARD).exists() else (CARD, WEIGHTS, CONFIG)
            for name in names:
                os.replace(Path(staging, name), folder / name)
        return self.push_to_hub(repo_id or folder.resolve().name, **hub) if push_to_hub else None

    def _save_pretrained(self, save_directory: Path) -> None:
        (save_directory / CONFIG).write_text(encode(self), encoding="utf-8")
        # Copies, since a file of safetensors takes neither shared nor strided memory.
        weights = {
            name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, tensor in bare(self.net).state_dict().items()
        }
        try:
            save_file(weights, save_directory / WEIGHTS, metadata={"format": "pt"})
        except SafetensorError as error:  # a full disk, which it does not tell by OSError
            raise OSError(errno.EIO, f"{WEIGHTS} was not written: {error}") from error
        shutil.copymode(save_directory / CONFIG, save_directory / WEIGHTS)  # save_file makes it private

    @classmethod
    def from_pretrained(cls: type[Saved], pretrained_model_name_or_path: str | Path, **hub: Any) -> Saved:
        """Load a denoiser from a folder, or from the Hub by "owner/name"; on the CPU, in evaluation mode.

        Raises:
            FileNotFoundError: If there is no such folder or model, or the folder is incomplete.
            ValueError: If a file is corrupt, names an unknown net or process, or the weights are another net's.
        """
        return decode(cls, _fetch(pretrained_model_name_or_path, **hub))


def bare(net: nn.Module) -> nn.Module:
    """The net itself, where torch.compile() has wrapped it."""
    return getattr(net, "_orig_mod", net)


def encode(denoiser: Pretrained) -> str:
    """The text of config.json. Raises ValueError for what could not be loaded again."""
    sde, scaling = denoiser.sde, denoiser.scaling
    process = type(sde).__name__
    if PROCESSES.get(process) is not type(sde):
        raise ValueError(f"sde is a {process}, which a folder cannot name; expected {', '.join(PROCESSES)}")
    content = {
        "format": FORMAT,
        "net": _describe(denoiser.net),
        "process": {"name": process, "config": asdict(cast(Any, sde))},
        "predicts": denoiser.predicts,
        "data_std": denoiser.data_std,
        "shape": denoiser.shape,
        "scaling": None if scaling is None else asdict(scaling),
    }
    try:
        return json.dumps(content, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ValueError(f"config.json cannot hold {content}: {error}") from error


def _describe(net: nn.Module) -> dict[str, Any]:
    """A net's name and arguments; an argument that is a net itself is {MODULE: its own name and arguments}."""
    net = bare(net)
    name = plugin_name(NETS, type(net), "net")
    config = getattr(net, "config", None)
    if not isinstance(config, dict):
        raise ValueError(f"net is a {name} without `config`; expected a dict of its constructor arguments")
    config = {
        key: {MODULE: _describe(value)} if isinstance(value, nn.Module) else value for key, value in config.items()
    }
    return {"name": name, "config": config}


def decode(cls: Callable[..., Saved], folder: Path) -> Saved:
    """The denoiser of a folder. Raises FileNotFoundError or ValueError, naming the file."""
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            found = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
            raise FileNotFoundError(f"{folder} has no {name}; it holds {found}; valid holds {CONFIG} and {WEIGHTS}")
    try:
        denoiser = cls(**_arguments(json.loads((folder / CONFIG).read_text(encoding="utf-8"))))
    except (TypeError, ValueError) as error:  # JSONDecodeError is a ValueError
        raise ValueError(f"{folder / CONFIG} does not describe a denoiser: {error}") from error
    try:
        _load_weights(denoiser.net, folder / WEIGHTS)
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{folder / WEIGHTS} does not hold the weights of the net in {CONFIG}: {error}") from error
    loaded: Saved = cast(Any, denoiser).eval()
    return loaded


def _fields(content: Any, names: str, where: str) -> list[Any]:
    """The values of a JSON object that has exactly these names."""
    if not isinstance(content, dict) or set(content) != set(names.split()):
        given = sorted(content) if isinstance(content, dict) else content
        raise ValueError(f"{where} has {given}; expected an object of {names.replace(' ', ', ')}")
    return [content[name] for name in names.split()]


def _arguments(content: Any) -> dict[str, Any]:
    """The arguments of a Denoiser from what config.json says."""
    if isinstance(content, dict) and content.get("format") != FORMAT:
        raise ValueError(f"format is {content.get('format')!r}; this version of sdescore reads {FORMAT}")
    _, net, process, predicts, data_std, shape, scaling = _fields(
        content, "format net process predicts data_std shape scaling", "it"
    )
    return {
        "net": build_net(*_fields(net, "name config", "net")),
        "sde": _process(*_fields(process, "name config", "process")),
        "predicts": predicts,
        "data_std": data_std,
        "shape": None if shape is None else tuple(map(operator.index, shape)),
        "scaling": None if scaling is None else Scaling(**scaling),
    }


def build_net(name: str, config: Mapping[str, Any], known: Mapping[str, Any] | None = None) -> nn.Module:
    """A net by its name and arguments, an argument {MODULE: {"name": ..., "config": ...}} being a net itself.

    Each net is told what it has a name for of `known`, too. Raises ValueError for arguments that do not fit.
    """
    cls, known = find_plugin(NETS, name, "net"), known or {}
    takes = inspect.signature(cls)

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


def _process(name: str, config: dict[str, Any]) -> LinearSDE:
    if name not in PROCESSES:
        raise ValueError(f"process={name!r}; expected {', '.join(PROCESSES)}")
    # JSON has no tuples, and a process is hashable.
    return PROCESSES[name](**{key: tuple(v) if isinstance(v, list) else v for key, v in config.items()})


def _load_weights(net: nn.Module, path: Path) -> None:
    """Give the net the weights of a file, in the widest dtype that the file has."""
    weights = load_file(path)
    dtypes = [tensor.dtype for tensor in weights.values() if tensor.is_floating_point()]
    if dtypes:
        net.to(reduce(torch.promote_types, dtypes))
    net.load_state_dict(weights)


def _fetch(source: str | Path, **hub: Any) -> Path:
    """The folder itself, or the Hub's files downloaded into the cache."""
    if Path(source).is_dir():
        return Path(source)
    if not isinstance(source, str) or not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source):
        raise FileNotFoundError(f"there is no folder {str(source)!r}")
    try:
        return Path(snapshot_download(source, allow_patterns=[CONFIG, WEIGHTS], **hub))
    except (HfHubHTTPError, OSError) as error:
        raise FileNotFoundError(f"{source!r} is no folder here, and the Hub gave no such model: {error}") from error
