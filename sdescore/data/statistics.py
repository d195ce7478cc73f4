"""The statistics of a whole data set, measured once and kept in a file, and its checksum."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from sdescore.common.files import read_json, replace_file
from sdescore.data.batches import evenly_spaced
from sdescore.data.source import Source

__all__ = ["Statistics", "checksum", "data_std", "measure", "read_statistics"]


@dataclass(frozen=True)
class Statistics:
    """Number, shape and scaling of a source's samples, and the mean and standard deviation of its scaled values.

    mean and std are taken over all elements of `measured` samples, after scaling to [-1, 1].
    """

    samples: int
    measured: int
    shape: tuple[int, ...]
    low: float | tuple[float, ...]
    high: float | tuple[float, ...]
    levels: int | None
    classes: int | None
    mean: float
    std: float

    def write(self, path: str | Path) -> None:
        """Write them as JSON, whole or not at all. Raises OSError."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        replace_file(Path(path), json.dumps(asdict(self), indent=2) + "\n")


def _of(source: Source) -> dict[str, Any]:
    scaling = source.scaling
    return {
        "samples": len(source),
        "shape": tuple(source.shape),
        "low": scaling.low,
        "high": scaling.high,
        "levels": scaling.levels,
        "classes": source.classes,
    }


def measure(source: Source, most: int | None = None, progress: bool = False) -> Statistics:
    """The statistics of a source, over at most `most` evenly spaced samples; over all by default.

    Raises ValueError for samples that cannot be read, and for data of one value everywhere.
    """
    count = min(len(source), most or len(source))
    indices = np.linspace(0, len(source) - 1, count).round().astype(int)
    total = 0.0
    squares = 0.0
    chunks = np.array_split(indices, -(-len(indices) // 256))
    for chunk in tqdm(chunks, disable=not progress, desc="measuring", unit="batch", leave=False):
        x = source.scaling.to_model(source.__getitems__(chunk.tolist())[0], torch.float64)
        total += float(x.sum())
        squares += float(x.square().sum())
    elements = count * int(np.prod(source.shape))
    mean = total / elements
    std = max(squares / elements - mean**2, 0.0) ** 0.5
    if not std > 0:
        raise ValueError("the data has the same value everywhere")
    return Statistics(**_of(source), measured=count, mean=mean, std=std)


def data_std(source: Source, most: int = 4096) -> float:
    """The standard deviation of the scaled values, over at most `most` evenly spaced samples."""
    return measure(source, most).std


def read_statistics(path: str | Path, source: Source | None = None) -> Statistics:
    """The statistics in a file. Raises ValueError, naming the file, if it holds none, or those of another source."""
    try:
        content = read_json(path)
        tuples = {name: tuple(value) for name, value in content.items() if isinstance(value, list)}
        found = Statistics(**content | tuples | {"shape": tuple(content["shape"])})
    except FileNotFoundError:
        raise ValueError(f"there is no file {str(path)!r}; `sdescore measure` makes one") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} has no statistics: {error}") from error
    now = {} if source is None else _of(source)
    then = asdict(found)
    differing = [f"{name} ({then[name]}, {value})" for name, value in now.items() if then[name] != value]
    if differing:
        raise ValueError(f"{path} is of other data (file, now): {', '.join(differing)}")
    return found


def checksum(source: Source, name: str = "") -> str:
    """What tells two data sets apart: number, shape and scaling, and all samples and labels.

    Of data that is read as it is needed, 256 samples, evenly spaced, and the sizes and times of the files of its name.
    """
    count = len(source)
    digest = hashlib.sha256(repr((count, tuple(source.shape), asdict(source.scaling))).encode())
    chosen: Sequence[int] = range(count)
    if source.lazy:
        chosen = evenly_spaced(count, 256)
        path = Path(name) if Path(name).exists() else Path(name.rpartition(":")[0] or name)
        named = bool(name) and path.exists()
        for file in sorted(path.rglob("*")) if named and path.is_dir() else [path] * named:
            said = file.stat()
            digest.update(repr((file.relative_to(path).as_posix(), said.st_size, said.st_mtime_ns)).encode())
    for start in range(0, len(chosen), 256):
        for part in source.__getitems__(chosen[start : start + 256]):
            if part is not None:
                digest.update(part.cpu().contiguous().view(torch.uint8).numpy().tobytes())  # NumPy has no bf16
    return digest.hexdigest()
