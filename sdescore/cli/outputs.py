"""What commands write: folders of one run, files whole or not at all."""

import io
import json
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np

from sdescore.common.files import refused, replace_file

__all__ = ["claim", "make_folder", "npz_bytes", "write_json", "write_whole"]


def make_folder(path: Path) -> Path:
    """A folder that can be written to, made if need be. Raises OSError, naming it, before the work and not after it."""
    path.mkdir(parents=True, exist_ok=True)
    try:
        TemporaryFile(dir=path).close()
    except OSError as error:
        raise refused(error, f"nothing can be written to {path}: {error.strerror}") from error
    return path


def claim(out: Path, settings: dict[str, Any]) -> None:
    """Raise ValueError unless the folder is new, empty, or of a run with these settings."""
    record = out / "settings.json"
    if record.exists():
        saved = json.loads(record.read_text())
        differing = [f"{k} ({saved.get(k)!r}, {v!r})" for k, v in settings.items() if saved.get(k) != v]
        if differing:
            raise ValueError(f"{out} has samples of other settings (saved, given): {', '.join(differing)}")
    elif out.exists() and any(path.suffix != ".writing" for path in out.iterdir()):
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
