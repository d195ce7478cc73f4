"""The sets that `sdescore evaluate` compares, and which of their samples leave the range of real data."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdescore.cli.sources import all_values
from sdescore.common.files import read_json
from sdescore.common.scaling import Scaling
from sdescore.data.load import load
from sdescore.data.source import Source
from sdescore.data.table import is_table, table

__all__ = ["MARGIN", "Range", "Set", "open_sets"]

MARGIN = 0.125  # of the range of real data: what samples may leave it by


@dataclass(frozen=True)
class Set:
    """A set of samples or of real data, and what is known of how it was made."""

    name: str
    source: Source
    known: dict[str, Any]

    @classmethod
    def open(cls, name: str, scaling: Scaling | None = None, columns: Sequence[str] | None = None) -> "Set":
        """The set of a name, and of a table these columns alone, if there are any.

        Of a folder of `sdescore sample` it is its samples.npz, with the solver and the cost.
        """
        if columns is not None and is_table(Path(name)):
            return cls(name, table(name, scaling=scaling, names=columns), {})
        folder, known = Path(name), {}
        if (folder / "samples.npz").is_file():
            for file, keys in (("settings.json", ("solver",)), ("cost.json", ("nfe", "seconds", "outside"))):
                path = folder / file
                content = read_json(path) if path.exists() else {}
                known.update({key: content[key] for key in keys if key in content})
            name = str(folder / "samples.npz")
        return cls(str(folder) if known else name, load(name, scaling=scaling), known)

    def values(self) -> Tensor:
        """All samples as model values (n, *shape)."""
        return all_values(self.source)


def open_sets(reference: str, training: str, names: list[str]) -> list[Set]:
    """The reference, the training data if there are any, and the sets; all of one shape, and scaled as the reference.

    Raises ValueError for other shapes. What leaves the reference's range is measured, not refused.
    """
    columns = Set.open(names[0]).source.scaling.names if names else None  # real data may have more
    found = [Set.open(reference, columns=columns)]
    scaling = replace(found[0].source.scaling, bounded=False)
    for name in [training] * bool(training) + names:
        found.append(Set.open(name, scaling))
        shape, wanted = found[-1].source.shape, found[0].source.shape
        if shape != wanted:
            raise ValueError(
                f"{name} has samples of shape {shape}; those of reference={reference!r} have {wanted}: give real data "
                "like the samples as the reference, and what the model was trained on as training"
            )
    return found


@dataclass(frozen=True)
class Range:
    """The smallest and largest model values of real data in each column or channel, (columns,)."""

    low: Tensor
    high: Tensor

    @staticmethod
    def of(x: Tensor) -> "Range":
        """Of samples (n, *shape)."""
        columns = x.movedim(1, 0).flatten(1)
        return Range(columns.amin(1), columns.amax(1))

    def share_outside(self, x: Tensor) -> float:
        """The share of samples (n, *shape) that leave the range somewhere by more than an eighth of its width."""
        slack = MARGIN * (self.high - self.low)
        low, high = (each.reshape(-1, *[1] * (x.ndim - 2)) for each in (self.low - slack, self.high + slack))
        return float(((x < low) | (x > high)).flatten(1).any(1).to(torch.float64).mean())
