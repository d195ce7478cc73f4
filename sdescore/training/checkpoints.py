"""Checkpoints that are on disk whole or not at all: step-000123/ with tensors, state and a manifest of checksums."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save
from torch import Tensor

from sdescore.common.files import parse_json, read_json, refused, write_through

__all__ = [
    "CorruptCheckpoint",
    "join_optimizer",
    "load",
    "newest",
    "prune",
    "save_checkpoint",
    "split_optimizer",
    "steps",
    "verify",
]

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
STATE = "state.json"
PREFIX = "step-"
FORMAT = 2  # of the manifest; other formats are refused


class CorruptCheckpoint(ValueError):
    """A checkpoint with files that are missing, damaged or not those that were written."""


def steps(root: Path) -> list[int]:
    """The steps with a checkpoint in a folder, intact or not; sorted."""
    found = root.glob(PREFIX + "*") if root.is_dir() else ()
    return sorted(int(number) for path in found if (number := path.name.removeprefix(PREFIX)).isdecimal())


def folder_of(root: Path, step: int) -> Path:
    return root / f"{PREFIX}{step:06d}"


def _flush_folder(path: Path) -> None:
    if not hasattr(os, "O_DIRECTORY"):  # Windows cannot open folders
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _contents(tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    for name, group in tensors.items():
        # Copies, since safetensors takes neither shared nor strided memory.
        yield f"{name}.safetensors", save({key: t.detach().cpu().clone().contiguous() for key, t in group.items()})
    yield STATE, json.dumps(state, indent=1).encode()


def save_checkpoint(
    root: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> Path:
    """Write a checkpoint under a temporary name, flush it to disk and rename it; returns its folder.

    tensors are groups of named tensors, one file per group; state is anything that JSON can hold. A checkpoint named
    step-... is complete whenever the process may be killed. Raises OSError, naming the earlier checkpoints, if the disk
    refuses.
    """
    final = folder_of(root, step)
    temporary = root / f".{PREFIX}{step:06d}.writing"
    try:
        root.mkdir(parents=True, exist_ok=True)
        discard(temporary)
        temporary.mkdir()
        files = {name: write_through(temporary / name, content) for name, content in _contents(tensors, state)}
        manifest = {"format": FORMAT, "files": files, "checksum": _checksum(files)}
        write_through(temporary / MANIFEST, json.dumps(manifest, indent=1).encode())
        _flush_folder(temporary)
        discard(final)  # it must be corrupt: the run would have resumed from an intact one
        os.replace(temporary, final)
        _flush_folder(root)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        earlier = ", ".join(str(found) for found in steps(root) if found < step) or "none"
        message = f"the checkpoint of step {step} was not written to {root}: {error}"
        raise refused(error, f"{message}; earlier ones are untouched: {earlier}") from error
    return final


def discard(folder: Path) -> None:
    """Remove a folder, renamed first so that half a folder is never seen under its name."""
    if not folder.exists():
        return
    if not folder.name.startswith("."):
        doomed = folder.with_name(f".{folder.name}.discarded")
        shutil.rmtree(doomed, ignore_errors=True)
        os.replace(folder, doomed)
        folder = doomed
    shutil.rmtree(folder)


def prune(root: Path, step: int, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints up to `step`, and what killed processes left unfinished.

    Those of later steps do not count: they were corrupt when the run resumed, and must not displace an intact one.
    """
    for old in [found for found in steps(root) if found <= step][:-keep]:
        discard(folder_of(root, old))
    for left in (*root.glob(f".{PREFIX}*.writing"), *root.glob(f".{PREFIX}*.discarded")):
        shutil.rmtree(left, ignore_errors=True)


def _read(path: Path) -> bytes:
    """The content of a checkpoint's file."""
    try:
        return path.read_bytes()
    except PermissionError:
        raise
    except OSError as error:
        raise CorruptCheckpoint(f"{path} cannot be read: {error}") from error


def _checksum(files: Any) -> str:
    """Of what a manifest says of its files, so that a lost entry is noticed."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _manifest(folder: Path) -> dict[str, tuple[int, str]]:
    """The size and checksum of each file of a checkpoint."""
    path = folder / MANIFEST
    content = _read(path)
    try:
        manifest = parse_json(content, path)
        version = manifest["format"]
        said = dict(manifest["files"]) if version == FORMAT else {}
        files = {name: (each["bytes"], each["sha256"]) for name, each in said.items()}
        sound = version != FORMAT or manifest["checksum"] == _checksum(said)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptCheckpoint(f"{path} cannot be read: {error!r}") from error
    if version != FORMAT:
        raise ValueError(f"{path} has format {version!r}; this version of sdescore reads {FORMAT}")
    if not sound:
        raise CorruptCheckpoint(f"{path} does not match its own checksum: an entry was changed or lost")
    if STATE not in files:
        raise CorruptCheckpoint(f"{path} names no {STATE}")
    return files


def verify(folder: Path) -> None:
    """Raise CorruptCheckpoint, naming the file, unless every file is the one that was written.

    A checkpoint that may not be read (PermissionError) or has an unknown format (ValueError) may still be intact.
    """
    for name, (size, checksum) in _manifest(folder).items():
        content = _read(folder / name)
        if hashlib.sha256(content).hexdigest() != checksum:
            raise CorruptCheckpoint(f"{folder / name} ({len(content)} of {size} bytes) does not match its checksum")


def newest(root: Path) -> Path:
    """The folder of the newest intact checkpoint; corrupt ones are skipped with a warning that says why.

    Raises FileNotFoundError if there is none, and PermissionError or ValueError as verify() does: a run that resumed
    from an earlier checkpoint would overwrite one that may be intact.
    """
    found = steps(root)
    for step in reversed(found):
        try:
            verify(folder_of(root, step))
        except CorruptCheckpoint as error:
            logger.warning("skipped a corrupt checkpoint: %s", error)
            continue
        return folder_of(root, step)
    what = f"all {len(found)} checkpoints are corrupt" if found else "there are no checkpoints"
    raise FileNotFoundError(f"{what} in {root}; start a new run without resume, in an empty folder")


def load(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The tensors, on the CPU, and the state of a checkpoint, which should have been verified."""
    state: dict[str, Any] = read_json(folder / STATE)
    names = sorted(Path(name) for name in _manifest(folder) if name.endswith(".safetensors"))
    return {path.stem: load_file(folder / path) for path in names}, state


def split_optimizer(state: dict[str, Any]) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """The tensors of an optimiser's state, named "parameter.what", and the settings of its groups."""
    moments = {f"{i}.{name}": value for i, each in state["state"].items() for name, value in each.items()}
    return moments, state["param_groups"]


def join_optimizer(moments: dict[str, Tensor], groups: list[dict[str, Any]]) -> dict[str, Any]:
    """The inverse of split_optimizer."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in moments.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    return {"state": state, "param_groups": [{**group, "betas": tuple(group["betas"])} for group in groups]}
