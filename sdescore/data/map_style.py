"""Map-style data sets, such as torchvision's, and Hugging Face's on disk."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdescore.common.scaling import Scaling
from sdescore.data.conditions import Conditioned
from sdescore.data.images import to_array
from sdescore.data.source import Batch, Source, channels_first, signed

__all__ = ["Columns", "MapStyle", "is_saved_dataset", "saved_dataset"]


@dataclass(frozen=True)
class Columns:
    """Which entries of an item are the sample and its label: indices of a tuple or keys of a dict; None: no label."""

    sample: Any = 0
    label: Any = 1

    def __call__(self, item: Any) -> tuple[Any, Any]:
        if isinstance(item, dict):
            return item[self.sample], None if self.label is None else item[self.label]
        if isinstance(item, (tuple, list)):
            return item[self.sample], item[self.label] if len(item) > 1 else None
        return item, None


class MapStyle:
    """A source made of any object with __len__ and __getitem__, such as torchvision's data sets and torch's subsets.

    An item is a sample or (sample, label). A sample is a Pillow image, a NumPy array or a tensor; channels_first says
    how arrays and tensors become images. uint8 stays uint8. An item must depend on its index alone: with random
    transforms a resumed run would see other data. Random flips are a setting of training.

    Args:
        items: The object.
        scaling: Of the raw values; by default 0 to 255 for uint8, while others need one.
        classes: Number of labels; by default the length of items.classes, or no labels if it has none.
        columns: Which entries of an item are the sample and its label.
        class_names: Names of the labels; by default items.classes, where these are names.

    Raises ValueError, naming the index, for an item that cannot be read or has another shape than the first.
    """

    lazy = True

    def __init__(
        self,
        items: Any,
        scaling: Scaling | str | None = None,
        classes: int | None = None,
        columns: Columns | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        if not hasattr(items, "__len__") or not hasattr(items, "__getitem__"):
            raise TypeError(f"items is a {type(items).__name__}; expected an object with __len__ and __getitem__")
        if not len(items):
            raise ValueError("items is empty; expected at least one sample")
        self.items = items
        self.columns = columns or Columns()
        declared = getattr(items, "classes", None)
        self.classes = classes or (None if declared is None else len(declared))
        names = class_names or (None if classes or declared is None else list(declared))
        self.class_names = names if names and all(isinstance(name, str) for name in names) else None
        if isinstance(scaling, str):
            raise ValueError(
                f"data_scale={scaling!r} with items that are read one by one; expected a scaling of numbers"
            )
        first, label = self._read(0, items[0])
        if first.dtype != torch.uint8 and scaling is None:
            raise ValueError(
                f"items have dtype {first.dtype} and no range; expected uint8 or a scaling (data_low=0, data_high=1, "
                "data_levels=256 for images from torchvision's ToTensor)"
            )
        self.shape = tuple(first.shape)
        self.dtype = first.dtype
        self.scaling = scaling or Scaling()
        if label is None:
            self.classes = None
            self.class_names = None

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
                wrong = self.scaling.outside(raw.unsqueeze(0))
                if wrong is not None:
                    raise ValueError(f"it {wrong[1]}")
            except Exception as error:  # another's code may raise anything
                raise ValueError(f"item {i} cannot be read: {error}") from error
            samples.append(raw)
            labels.append(label)
        return torch.stack(samples), torch.tensor(labels) if None not in labels else None


def is_saved_dataset(path: Path) -> bool:
    """Whether this is a folder that Hugging Face's save_to_disk wrote."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


class ColumnRows:
    """The rows of a column of a Hugging Face data set."""

    def __init__(self, found: Any, name: str) -> None:
        self.found = found.with_format("numpy")
        self.name = name

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        rows: np.ndarray = np.stack(self.found[indices.tolist()][self.name])
        return rows


def saved_dataset(
    path: str | Path,
    split: str | None,
    key: str,
    label_key: str,
    scaling: Scaling | str | None = None,
    conditions: Sequence[str] = (),
) -> Source:
    """A Hugging Face data set on disk, memory-mapped by Arrow: a row is read when a batch takes it.

    Args:
        path: Folder written by save_to_disk, with or without splits.
        split: Name of the split, "train" by default; None without splits.
        key: Column of the samples: images or arrays of numbers.
        label_key: Column of the labels; without such a column there are none.
        scaling: Range of the values; by default 0 to 255 for uint8, while others need one.
        conditions: Columns of numbers that are known of each sample besides.

    Raises ValueError for a missing column or split, and if the package datasets is not installed.
    """
    try:
        import datasets
    except ImportError:
        raise ValueError(f"{path} is a Hugging Face data set; to read it, pip install 'sdescore[datasets]'") from None
    found = datasets.load_from_disk(str(path))
    if isinstance(found, datasets.DatasetDict):
        split = split or "train"
        if split not in found:
            raise ValueError(f"{path} has no split {split!r}; expected {', '.join(map(repr, found))}")
        found = found[split]
    elif split is not None:
        raise ValueError(f"{path} is a data set without splits; expected its name without {split!r}")
    if key not in found.features:
        names = ", ".join(map(repr, found.features))
        raise ValueError(f"{path} has no column {key!r}; expected data_key to be one of {names}")
    label = found.features.get(label_key)
    whole = found
    found = found.select_columns([key] if label is None else [key, label_key])
    if not isinstance(found.features[key], datasets.Image):
        found = found.with_format("numpy")  # lists of Python numbers would lose their type
    class_names = None
    if label is None:
        classes = None
    elif isinstance(label, datasets.ClassLabel):
        classes = label.num_classes
        class_names = label.names
    else:
        classes = int(max(found[label_key])) + 1
    source = MapStyle(found, scaling, classes, Columns(key, None if label is None else label_key), class_names)
    if not conditions:
        return source
    missing = [each for each in conditions if each not in whole.features]
    if missing:
        raise ValueError(f"{path} has no column {missing[0]!r}; expected one of {', '.join(map(repr, whole.features))}")
    return Conditioned(source, {each: ColumnRows(whole.select_columns([each]), each) for each in conditions})
