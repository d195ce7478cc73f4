"""What the scripts share: the command line, names of objects and data, tables and files."""

import argparse
import io
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from jsonargparse import ArgumentParser, DefaultHelpFormatter
from torch import Tensor
from tqdm.auto import tqdm

from sdescore import Denoiser, Scaling
from sdescore.data import Source
from sdescore.plugins import named_object
from sdescore.sources import load

__all__ = [
    "load_model",
    "markdown",
    "model_values",
    "named_object",
    "npz_bytes",
    "open_source",
    "parse",
    "run",
    "write_json",
    "write_whole",
]

Config = TypeVar("Config")


class HelpFormatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Leaves the lines of the description as they are."""


def parse(cls: type[Config], name: str, description: str | None, arguments: Sequence[str] | None = None) -> Config:
    """Settings from the command line, --config for a file of them included; their docstring makes --help."""
    parser = ArgumentParser(prog=name, description=description, formatter_class=HelpFormatter)
    parser.add_argument("--config", action="config", help="File of settings, YAML or JSON; flags after it count more.")
    parser.add_class_arguments(cls)
    given = parser.parse_args(arguments)
    try:
        return cls(**{each.name: given[each.name] for each in fields(cls)})  # type: ignore[arg-type]
    except ValueError as error:
        parser.error(str(error))


def run(script: str, task: Callable[[], None]) -> None:
    """Do what a script is for; what is wrong with the input ends it with one line instead of a traceback."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        task()
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        raise SystemExit(f"{script}: {error}") from error
    except KeyboardInterrupt:
        raise SystemExit(f"{script}: interrupted") from None
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def load_model(name: str) -> tuple[Denoiser, tuple[int, ...]]:
    """A saved denoiser and the shape of its samples. Raises ValueError if it does not know that."""
    denoiser = Denoiser.from_pretrained(name)
    if denoiser.shape is None:
        raise ValueError(f"model={name!r} does not say the shape of its samples; save it with shape=")
    return denoiser, denoiser.shape


def open_source(name: str, scaling: Scaling | None = None) -> Source:
    """The data of a name, as training has it; scaling is the range of arrays in files. Raises ValueError."""
    return load(name, scaling=scaling)


def model_values(
    source: Source, batch: int = 500, progress: str | None = None
) -> Iterable[tuple[Tensor, Tensor | None]]:
    """All samples of a source in order, as batches of model values in [-1, 1] and labels; with a bar of this title."""
    starts = range(0, len(source), batch)
    for start in tqdm(starts, disable=progress is None, desc=progress, unit="batch", leave=False):
        raw, labels = source.__getitems__(range(start, min(start + batch, len(source))))
        yield source.scaling.to_model(raw), labels


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with equal keys as a Markdown table; the first column is text, the rest to the right."""
    cells = [list(rows[0]), *(["–" if value is None else str(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    first, *rest = widths
    lines = [
        " | ".join([texts[0].ljust(first), *(text.rjust(width) for text, width in zip(texts[1:], rest, strict=True))])
        for texts in cells
    ]
    lines.insert(1, " | ".join(["-" * first, *("-" * (width - 1) + ":" for width in rest)]))
    return "\n".join(f"| {line} |" for line in lines)


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.writing")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(temporary, path)


def write_json(path: Path, content: Any) -> None:
    """Write what JSON can hold, whole or not at all."""
    write_whole(path, json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def npz_bytes(**arrays: Any) -> bytes:
    """The content of a .npz file."""
    import numpy as np

    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()
