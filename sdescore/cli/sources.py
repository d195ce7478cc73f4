"""What commands read: arrays by name, a data source's model values, and features of them by several processes."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm

from sdescore.data.batches import share
from sdescore.data.source import Source
from sdescore.data.table import columns_of, is_table
from sdescore.evaluation.features import Function, rows_of

__all__ = ["all_values", "features_of", "model_values", "read_arrays"]


def model_values(
    source: Source, batch: int = 500, progress: str | None = None
) -> Iterable[tuple[Tensor, Tensor | None]]:
    """All samples of a source in order, as batches of model values in [-1, 1] and labels; with a bar of this title."""
    starts = range(0, len(source), batch)
    for start in tqdm(starts, disable=progress is None, desc=progress, unit="batch", leave=False):
        raw, labels = source.__getitems__(range(start, min(start + batch, len(source))))
        yield source.scaling.to_model(raw), labels


def all_values(source: Source) -> Tensor:
    """All samples of a source in order, as model values (n, *shape)."""
    return torch.cat([x for x, _ in model_values(source)])


def features_of(
    function: Function,
    source: Source,
    progress: str | None = None,
    *,
    batch: int = 500,
    accelerator: Accelerator | None = None,
) -> Tensor:
    """What a function of model values gives for all samples of a source, (n, d), in order, on the CPU.

    Several processes compute a part each, and all return the whole: nothing is dropped or counted twice.

    Raises ValueError unless it gives a row for each sample.
    """
    rank, processes = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    device = accelerator.device if accelerator else torch.device("cpu")
    mine = share(len(source), rank, processes)
    starts = range(mine.start, max(mine.stop, mine.start + 1), batch)  # one with nothing to do learns the width
    rows = []
    for start in tqdm(starts, disable=progress is None or rank > 0, desc=progress, unit="batch", leave=False):
        indices = range(start, max(min(start + batch, mine.stop), start + 1))
        raw, _ = source.__getitems__([min(i, len(source) - 1) for i in indices])
        rows.append(rows_of(function, source.scaling.to_model(raw).to(device)))
    own = torch.cat(rows)[: mine.stop - mine.start]
    if accelerator is None or processes == 1:
        return own
    sizes = [part.stop - part.start for part in (share(len(source), k, processes) for k in range(processes))]
    padded = own.new_zeros(max(sizes), own.shape[1])
    padded[: len(own)] = own
    gathered: Any = accelerator.gather(padded.to(device))
    parts = gathered.cpu().split(max(sizes))
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def read_arrays(path: str | None) -> dict[str, np.ndarray]:
    """The arrays of a .npz file or the columns of a table; none without one. Raises ValueError, naming the file."""
    if path is None:
        return {}
    if is_table(Path(path)):
        return {name: column.numpy() for name, column in columns_of(path).items()}
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except Exception as error:  # zipfile, zlib and numpy raise errors of many types for damaged files
        raise ValueError(f"condition={path!r} is no .npz file that can be read: {error}") from error
