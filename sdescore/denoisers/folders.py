"""A Denoiser as a folder: config.json says what it is, model.safetensors holds the net's weights."""

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from sdescore.common.files import read_json
from sdescore.denoisers.described_nets import OtherWeights, check_described
from sdescore.denoisers.descriptions import (
    NETS,
    PROCESSES,
    Saveable,
    bare,
    build_net,
    build_process,
    describe,
    rebuild,
    to_json,
)

__all__ = ["NETS", "PROCESSES", "build_net", "build_process", "load", "push", "save"]

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
CARD = "README.md"
STAGING = ".saving-"  # what the name of a folder begins with while its content is written

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


def save(denoiser: Saveable, folder: str | Path) -> None:
    """Write config.json and model.safetensors to a folder, and a model card if it has no README.md.

    A net or process of a class that no package registers is written as module:name. The net's arguments are its
    `config`, a dict; without one, load() needs the net itself. Existing files are replaced one by one, each as a whole.
    An interrupted save leaves the previous model, or a folder that load() refuses as incomplete.

    Raises ValueError, before the folder is touched, for a net or process that could not be loaded again, and OSError if
    the disk refuses.
    """
    content = describe(denoiser)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=STAGING, dir=folder) as name:
        staging = Path(name)
        (staging / CARD).write_text(CARD_TEXT, encoding="utf-8")
        _save_weights(denoiser.net, staging / WEIGHTS)
        content["sha256"] = _checksum(staging / WEIGHTS)
        (staging / CONFIG).write_text(to_json(content), encoding="utf-8")
        shutil.copymode(staging / CONFIG, staging / WEIGHTS)  # save_file makes it private
        # The old config goes first: it must never stand beside weights that are not its own.
        (folder / CONFIG).unlink(missing_ok=True)
        for each in (WEIGHTS, CONFIG) if (folder / CARD).exists() else (CARD, WEIGHTS, CONFIG):
            os.replace(staging / each, folder / each)


def load(
    cls: Callable[..., Loaded],
    source: str | Path,
    *,
    net: nn.Module | None = None,
    trust_code: bool = False,
    **hub: Any,
) -> Loaded:
    """The denoiser in a folder, or on the Hub by "owner/name": on the CPU, in evaluation mode.

    Args:
        cls: Denoiser, or what else takes its arguments.
        source: The folder or the repository.
        net: A net to be given the weights, for folders of classes that no package registers.
        trust_code: Import the classes that the folder names as module:name. That runs their module's code.
        hub: Further arguments of huggingface_hub.snapshot_download, such as revision and token.

    Raises FileNotFoundError if there is no such model or the folder is incomplete, and ValueError, naming the file, for
    a damaged one, an unknown net or process, or weights of another net.
    """
    folder = _fetch(source, **hub)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            found = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
            raise FileNotFoundError(f"{folder} has no {name}; it holds {found}; expected {CONFIG} and {WEIGHTS}")
    try:
        content = read_json(folder / CONFIG)
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG} does not describe a denoiser: {error}") from error
    checksum = _checksum(folder / WEIGHTS)
    if checksum != content.get("sha256", checksum):
        raise ValueError(f"{folder / WEIGHTS} is damaged: its SHA-256 is {checksum}; expected {content['sha256']}")
    try:
        if net is None:
            check_described(lambda: cast(nn.Module, rebuild(content, None, trust_code)["net"]), folder / WEIGHTS)
        denoiser = cls(**rebuild(content, net, trust_code))
    except OtherWeights as error:
        raise ValueError(f"{folder / WEIGHTS} does not hold the weights of the net in {CONFIG}: {error}") from error
    except Exception as error:  # a net's constructor may raise anything of arguments that it was not meant for
        raise ValueError(f"{folder / CONFIG} does not describe a denoiser: {error}") from error
    try:
        _load_weights(denoiser.get_submodule("net"), folder / WEIGHTS)
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{folder / WEIGHTS} does not hold the weights of the net in {CONFIG}: {error}") from error
    return denoiser.eval()


def _checksum(path: Path) -> str:
    """The SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


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
