"""Files that are on disk whole or not at all, folders that one process writes to, and JSON from anywhere."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

__all__ = ["is_empty", "locked", "parse_json", "read_json", "refused", "replace_file", "write_through"]

LOCK = ".lock"
WRITING = ".writing"  # what the name of a file ends with while it is written


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
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}{WRITING}")  # others may write the same file
    try:
        write_through(temporary, content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        left = "it is what it was before" if path.exists() else "nothing is left of it"
        raise refused(error, f"{path} was not written: {error}; {left}") from error


def is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing but a lock and what killed processes left half-written."""
    return all(path.name == LOCK or path.suffix == WRITING for path in folder.iterdir())


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder, made if need be, so that no other process writes to it; half-written files in it are removed.

    The lock is the operating system's: it ends with its process, however that ends. A folder that is made here and
    stays empty is removed again. Raises BlockingIOError, naming the folder, where another process holds it, and OSError
    where it cannot be written to.
    """
    from filelock import FileLock, Timeout

    made = not folder.exists()
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise BlockingIOError(f"{folder} is in use: another process writes to it; wait for its end") from error
    except OSError as error:
        raise refused(error, f"nothing can be written to {folder}: {error.strerror or error}") from error
    try:
        for left in folder.glob(f".*{WRITING}"):
            if left.is_file():
                left.unlink(missing_ok=True)
        yield
    finally:
        if made and folder.is_dir() and is_empty(folder):
            with suppress(OSError):  # another may begin here at this moment
                (folder / LOCK).unlink()
                folder.rmdir()
        lock.release()


def parse_json(content: bytes | str, name: str | Path) -> Any:
    """What JSON says. Raises ValueError, with the name of its origin, for anything else, however deep it is nested."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:  # of what is no JSON and no UTF-8
        raise ValueError(f"{name} is not JSON: {str(error) or type(error).__name__}") from error


def read_json(path: str | Path, kind: type = dict) -> Any:
    """The content of a JSON file, an object by default. Raises ValueError, naming the file, or OSError."""
    content = parse_json(Path(path).read_bytes(), path)
    if not isinstance(content, kind):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected a {kind.__name__}")
    return content
