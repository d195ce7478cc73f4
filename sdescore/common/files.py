"""Files that are on disk whole or not at all."""

import errno
import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["refused", "replace_file", "write_through"]


def refused(error: OSError, message: str) -> OSError:
    """An error of the disk, with a message that says what was not written and what is left."""
    return OSError(error.errno or errno.EIO, message)


def write_through(path: Path, content: bytes) -> dict[str, Any]:
    """Write a file through to the disk; returns the size and the SHA-256 of the content for a manifest."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def replace_file(path: Path, content: bytes | str) -> None:
    """Write a file through to the disk, whole or not at all. Raises OSError, naming the file, if the disk refuses."""
    temporary = path.with_name(f".{path.name}.writing")
    try:
        write_through(temporary, content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        left = "it is what it was before" if path.exists() else "nothing is left of it"
        raise refused(error, f"{path} was not written: {error}; {left}") from error
