"""File calls of this process that fail now and then, as those of a full or a broken disk do."""

import builtins
import errno
import io
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["INJECTED", "inject"]

SHARE = 0.01  # of file calls that fail
INJECTED = "injected fault"


class HalfWriter(io.BufferedWriter):
    """Writes a half before it fails."""

    def __init__(self, path: Any, mode: str, fails: Callable[[str, Any], None]) -> None:
        super().__init__(io.FileIO(path, mode))
        self.fails, self.path = fails, path

    def write(self, content: Any) -> int:
        try:
            self.fails("write", self.path)
        except OSError:
            super().write(memoryview(content)[: len(content) // 2])
            super().flush()
            raise
        return super().write(content)


def inject(folder: Path, seed: int, counts: Any) -> None:
    """Let file calls of this process in a folder fail; counts are of the calls and of the faults."""
    draw = random.Random(seed)

    def fails(name: str, path: Any) -> None:
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        if not isinstance(path, str | os.PathLike) or not str(path).startswith(str(folder)):
            return
        counts[0] += 1
        if draw.random() < SHARE:
            counts[1] += 1
            raise OSError(draw.choice([errno.EIO, errno.ENOSPC]), f"{INJECTED} of {name}", str(path))

    def failing(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def inner(path: Any, *arguments: Any, **options: Any) -> Any:
            fails(name, path)
            return call(path, *arguments, **options)

        return inner

    plain = io.open

    def opening(path: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if not isinstance(path, int):
            fails("open", path)
        if mode in ("wb", "ab", "xb") and not isinstance(path, int) and str(path).startswith(str(folder)):
            return HalfWriter(path, mode[0], fails)
        return plain(path, mode, *arguments, **options)

    for name in ("replace", "rename", "fsync", "open", "mkdir", "unlink", "rmdir", "scandir", "listdir"):
        setattr(os, name, failing(name, getattr(os, name)))
    builtins.open = io.open = opening  # type: ignore[assignment]
