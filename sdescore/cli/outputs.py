"""What commands write: folders of one run, files whole or not at all."""

import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np

from sdescore.common.files import is_empty, locked, read_json, refused, replace_file

__all__ = ["claim", "is_first_process", "make_folder", "npz_bytes", "write_json", "write_whole"]


def is_first_process() -> bool:
    """Whether this is the only process of a run, or speaks and writes for all, before any of them has met another."""
    return os.environ.get("RANK", "0") == "0"


def make_folder(path: Path) -> Path:
    """A folder that can be written to, made if need be. Raises OSError, naming it, before the work and not after it."""
    path.mkdir(parents=True, exist_ok=True)
    try:
        TemporaryFile(dir=path).close()
    except OSError as error:
        raise refused(error, f"nothing can be written to {path}: {error.strerror}") from error
    return path


@contextmanager
def claim(out: Path, settings: dict[str, Any] | None = None) -> Iterator[None]:
    """Hold a folder that is new, empty, or of a run with these settings, where there are any; the first process locks.

    Raises ValueError for any other folder, without a trace in it, and OSError if another process writes to it.
    """
    _check_claim(out, settings)
    if not is_first_process():
        yield
        return
    with locked(out):
        _check_claim(out, settings)  # another may have begun, and ended, in between
        yield


def _check_claim(out: Path, settings: dict[str, Any] | None) -> None:
    record = out / "settings.json"
    if settings is not None and record.exists():
        saved = read_json(record)
        differing = [f"{k} ({saved.get(k)!r}, {v!r})" for k, v in settings.items() if saved.get(k) != v]
        if differing:
            raise ValueError(f"{out} has samples of other settings (saved, given): {', '.join(differing)}")
    elif out.exists() and not is_empty(out):
        raise ValueError(f"out={str(out)!r} is not empty; expected a new folder")


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file, in a folder that is made for it, whole or not at all. Raises OSError, naming it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, content)


def write_json(path: Path, content: Any) -> None:
    """Write what JSON can hold, whole or not at all."""
    write_whole(path, json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def npz_bytes(**arrays: Any) -> bytes:
    """The content of a .npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()
