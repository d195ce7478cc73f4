"""Data sets of other libraries: anything with a length and items, such as torchvision's, and Hugging Face's on disk."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdescore.common.scaling import Scaling
from sdescore.data.images import to_array
from sdescore.data.source import Batch, channels_first, signed

__all__ = ["Columns", "MapStyle", "is_saved_dataset", "saved_dataset"]


@dataclass(frozen=True)
class Columns:
    """Which entries of an item are the sample and its label: of a tuple (0, 1), or of a dict; no label for None."""

    sample: Any = 0
    label: Any = 1

    def __call__(self, item: Any) -> tuple[Any, Any]:
        if isinstance(item, dict):
            return item[self.sample], None if self.label is None else item[self.label]
        if isinstance(item, (tuple, list)):
            return item[self.sample], item[self.label] if len(item) > 1 else None
        return item, None


class MapStyle:
    """A source made of any object with __len__ and __getitem__, as torchvision's data sets and torch's subsets.

    An item is a sample or (sample, label); a sample is a Pillow image, a NumPy array or a tensor, images in either as
    channels_first takes them. uint8 stays uint8. What an item is must follow from its index: with random transforms a
    resumed run has other data; flips are a setting of training.

    Args:
        items: The object.
        scaling: Range of the raw values; needed unless they are uint8.
        classes: Number of labels; the length of items.classes unless told, and no labels without either.
        columns: How an item is taken apart.

    Raises ValueError naming the index of an item that cannot be read or has another shape than the first.
    """

    lazy = True

    def __init__(
        self, items: Any, scaling: Scaling | None = None, classes: int | None = None, columns: Columns | None = None
    ) -> None:
        if not hasattr(items, "__len__") or not hasattr(items, "__getitem__"):
            raise TypeError(f"items is a {type(items).__name__}; expected an object with __len__ and __getitem__")
        if not len(items):
            raise ValueError("items is empty; expected at least one sample")
        self.items, self.columns = items, columns or Columns()
        declared = getattr(items, "classes", None)
        self.classes = classes or (None if declared is None else len(declared))
        first, label = self._read(0, items[0])
        if first.dtype != torch.uint8 and scaling is None:
            raise ValueError(
                f"items have dtype {first.dtype} and no range; state it (data_low=0, data_high=1, data_levels=256 for "
                "images behind torchvision's ToTensor), or leave them uint8"
            )
        self.shape, self.dtype, self.scaling = tuple(first.shape), first.dtype, scaling or Scaling()
        if label is None:
            self.classes = None

    def _read(self, index: int, item: Any) -> tuple[Tensor, int | None]:
        sample, label = self.columns(item)
        if hasattr(sample, "convert"):
            raw = to_array(sample)
        else:
            array = torch.as_tensor(np.array(sample)) if not isinstance(sample, Tensor) else sample
            raw = channels_first(signed(array).unsqueeze(0))[0]
        if raw.is_floating_point() and not bool(raw.isfinite().all()):
            raise ValueError("it is not finite everywhere")
        if label is None or self.classes is None:
            return raw, None
        if not 0 <= int(label) < self.classes:
            raise ValueError(f"its label is {label}; expected 0 to {self.classes - 1}")
        return raw, int(label)

    def __len__(self) -> int:
        return len(self.items)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        samples, labels = [], []
        for i in indices:
            try:
                raw, label = self._read(i, self.items[i])
                shape = tuple(raw.shape)
                if shape != self.shape or raw.dtype != self.dtype:
                    raise ValueError(f"it has shape {shape}, {raw.dtype}; expected {self.shape}, {self.dtype}")
                low, high = float(raw.min()), float(raw.max())
                if low < self.scaling.low or high > self.scaling.high:
                    given = f"[{self.scaling.low:g}, {self.scaling.high:g}]"
                    raise ValueError(f"it spans [{low:g}, {high:g}]; the range given is {given}")
            except Exception as error:  # whatever someone's code raises
                raise ValueError(f"item {i} cannot be read: {error}") from error
            samples.append(raw)
            labels.append(label)
        return torch.stack(samples), torch.tensor(labels) if None not in labels else None


def is_saved_dataset(path: Path) -> bool:
    """Whether this is a folder that Hugging Face's save_to_disk wrote."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def saved_dataset(
    path: str | Path, split: str | None, key: str, label_key: str, scaling: Scaling | None = None
) -> MapStyle:
    """A Hugging Face data set on disk; rows stay there (in Arrow's memory map) until a batch takes them.

    Args:
        path: Folder that save_to_disk wrote: of one data set, or of several splits, of which split chooses.
        split: Name of the split; "train" unless told.
        key: Column of the samples: images, or arrays of numbers.
        label_key: Column of the labels, if there is one of that name.
        scaling: Range of the values; needed unless they are uint8.

    Raises ValueError for columns and splits that are not there, and without the package datasets.
    """
    try:
        import datasets
    except ImportError:
        raise ValueError(f"{path} is a Hugging Face data set: pip install 'sdescore[datasets]' to read it") from None
    found = datasets.load_from_disk(str(path))
    if isinstance(found, datasets.DatasetDict):
        split = split or "train"
        if split not in found:
            raise ValueError(f"{path} has no split {split!r}; expected {', '.join(map(repr, found))}")
        found = found[split]
    elif split is not None:
        raise ValueError(f"{path} is one data set without splits; expected its name without {split!r}")
    if key not in found.features:
        names = ", ".join(map(repr, found.features))
        raise ValueError(f"{path} has no column {key!r}; data_key may be one of {names}")
    label = found.features.get(label_key)
    found = found.select_columns([key] if label is None else [key, label_key])
    if not isinstance(found.features[key], datasets.Image):
        found = found.with_format("numpy")  # lists of Python numbers would lose their type
    if label is None:
        classes = None
    elif isinstance(label, datasets.ClassLabel):
        classes = label.num_classes
    else:
        classes = int(max(found[label_key])) + 1
    return MapStyle(found, scaling, classes, Columns(key, None if label is None else label_key))
