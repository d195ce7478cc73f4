"""What a net is told of its data as a whole, measured once and kept in a file."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from sdescore.common.files import replace_file
from sdescore.data.source import Source

__all__ = ["Statistics", "data_std", "measure", "read_statistics"]


@dataclass(frozen=True)
class Statistics:
    """A source's samples, their shape and range, and the mean and standard deviation of its scaled values.

    measured is the number of samples that were looked at; mean and std are over all their elements, in [-1, 1]'s units.
    """

    samples: int
    measured: int
    shape: tuple[int, ...]
    low: float
    high: float
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
        "low": float(scaling.low),
        "high": float(scaling.high),
        "levels": scaling.levels,
        "classes": source.classes,
    }


def measure(source: Source, most: int | None = None, progress: bool = False) -> Statistics:
    """The statistics of a source, over at most `most` evenly spaced samples, or all.

    Raises ValueError for samples that cannot be read, and for data that is the same value everywhere.
    """
    count = min(len(source), most or len(source))
    indices = np.linspace(0, len(source) - 1, count).round().astype(int)
    total = squares = 0.0
    chunks = np.array_split(indices, -(-len(indices) // 256))
    for chunk in tqdm(chunks, disable=not progress, desc="measuring", unit="batch", leave=False):
        x = source.scaling.to_model(source.__getitems__(chunk.tolist())[0], torch.float64)
        total, squares = total + float(x.sum()), squares + float(x.square().sum())
    elements = count * int(np.prod(source.shape))
    mean = total / elements
    std = max(squares / elements - mean**2, 0.0) ** 0.5
    if not std > 0:
        raise ValueError("the data has the same value everywhere")
    return Statistics(**_of(source), measured=count, mean=mean, std=std)


def data_std(source: Source, most: int = 4096) -> float:
    """Standard deviation of the scaled values around their mean, over at most `most` evenly spaced samples."""
    return measure(source, most).std


def read_statistics(path: str | Path, source: Source | None = None) -> Statistics:
    """The statistics in a file. Raises ValueError, naming it, for another file, and for those of other data."""
    try:
        content = json.loads(Path(path).read_bytes())
        found = Statistics(**content | {"shape": tuple(content["shape"])})
    except FileNotFoundError:
        raise ValueError(f"there is no file {str(path)!r}; scripts/measure.py makes one") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} has no statistics: {error}") from error
    now = {} if source is None else _of(source)
    then = asdict(found)
    differing = [f"{name} ({then[name]}, {value})" for name, value in now.items() if then[name] != value]
    if differing:
        raise ValueError(f"{path} is of other data (file, now): {', '.join(differing)}")
    return found
