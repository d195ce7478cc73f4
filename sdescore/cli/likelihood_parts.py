"""The values of some samples, as `sdescore likelihood` keeps them beside its file until all are there."""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sdescore.cli.outputs import write_json
from sdescore.cli.tables import mean_and_error
from sdescore.common.files import read_json

__all__ = ["Batch", "check_whole", "finite_means", "hash_of", "listed", "load_parts"]


def finite_means(values: dict[str, Tensor]) -> tuple[dict[str, tuple[float, float]], list[int]]:
    """The means over the samples that have all values, and the numbers of those that have not.

    A value may be there for the first samples only.
    """
    valid = torch.ones(max(map(len, values.values())), dtype=torch.bool)
    for value in values.values():
        valid[: len(value)] &= value.isfinite()
    means = {name: mean_and_error(value[valid[: len(value)]]) for name, value in values.items()}
    return means, (~valid).nonzero().flatten().tolist()


@dataclass(frozen=True)
class Batch:
    """The values of some samples, and the warnings that say which of them are in doubt, and why."""

    values: dict[str, Tensor]
    warnings: list[str]

    def save(self, path: Path) -> None:
        values = {name: listed(each) for name, each in self.values.items()}
        write_json(path, {"values": values, "warnings": self.warnings})

    @staticmethod
    def load(path: Path) -> "Batch":
        """Raises ValueError, naming the file, for a damaged one."""
        content = read_json(path)
        try:
            values = {name: tensor_of(numbers) for name, numbers in content["values"].items()}
            return Batch(values, list(content["warnings"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} holds no values of samples: {error!r}; remove it to measure them again"
            ) from error

    @staticmethod
    def joined(batches: dict[int, "Batch"]) -> "Batch":
        """Batches by the numbers of their first samples, in order."""
        parts = [batches[start] for start in sorted(batches)]
        names = dict.fromkeys(name for part in parts for name in part.values)
        values = {name: torch.cat([part.values[name] for part in parts if name in part.values]) for name in names}
        return Batch(values, [message for part in parts for message in part.warnings])


def load_parts(folder: Path) -> dict[int, Batch]:
    """The batches that are done."""
    return {int(path.stem): Batch.load(path) for path in folder.glob("[0-9]*.json")}


def listed(values: Tensor) -> list[float | None]:
    """Numbers for JSON, which has no NaN."""
    return [value if math.isfinite(value) else None for value in values.tolist()]


def tensor_of(numbers: list[float | None]) -> Tensor:
    """The inverse of listed()."""
    return torch.tensor([torch.nan if number is None else number for number in numbers], dtype=torch.float64)


def check_whole(found: dict[int, Batch], starts: list[int], count: int, folder: Path | None) -> None:
    """Raise OSError unless the batches are those of all samples, each once."""
    measured = sum(max(map(len, batch.values.values())) for batch in found.values())
    if set(found) != set(starts) or measured != count:
        raise OSError(
            f"{folder} has {measured} samples in the batches {sorted(found)}; expected {count} in {sorted(starts)}: "
            "the same command makes what is missing"
        )


def hash_of(*tensors: Tensor | None) -> str:
    """Of the data: a name can come to stand for other samples."""
    digest = hashlib.sha256()
    for each in tensors:
        digest.update(b"" if each is None else each.contiguous().numpy().tobytes())
    return digest.hexdigest()
