"""Sources by name."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdescore.common.plugins import check_arguments, named_object
from sdescore.common.scaling import Scaling
from sdescore.data.codes import MappedCodes, is_codes
from sdescore.data.conditions import Conditioned, MappedRows
from sdescore.data.idx import idx, is_idx
from sdescore.data.images import Images
from sdescore.data.map_style import MapStyle, is_saved_dataset, saved_dataset
from sdescore.data.memory_mapped import MemoryMapped
from sdescore.data.source import Arrays, Source, channels_first, from_array, scaling_of
from sdescore.data.table import is_table, table
from sdescore.data.unreadable import SkipUnreadable

__all__ = ["digits", "load", "npz"]


def digits(split: str = "train") -> Arrays:
    """The 8x8 handwritten digits of scikit-learn: uint8 (1, 8, 8) with 17 levels, 0 to 16, and labels 0 to 9.

    The division into "train" (1,500) and "test" (297) is fixed, shuffled and stratified. Raises ValueError for another
    split.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    if split not in ("train", "test"):
        raise ValueError(f"split={split!r}; expected 'train', 'test'")
    bunch = load_digits()
    train, test = train_test_split(
        np.arange(len(bunch.target)), train_size=1500, test_size=297, stratify=bunch.target, random_state=0
    )
    index = train if split == "train" else test
    images = torch.from_numpy(bunch.images[index]).to(torch.uint8).unsqueeze(1)
    return Arrays(images, torch.from_numpy(bunch.target[index]), Scaling(0, 16, 17))


def npz(
    path: str | Path,
    key: str = "x",
    label_key: str = "y",
    scaling: Scaling | str | None = None,
    conditions: Sequence[str] = (),
) -> Source:
    """The array `key` of a .npz file, with the labels `label_key` if the file has them, and conditions by their names.

    See Arrays for values and range; images may be channels-first or channels-last, see channels_first. An array
    `columns` of texts names the columns or channels. Raises ValueError, naming the file, if it is missing, damaged or
    without the array, and for other columns than the scaling's.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            for name in (key, *conditions):
                if name not in file:
                    raise ValueError(f"no array {name!r}; it holds {', '.join(map(repr, file)) or 'nothing'}")
            x, y = file[key], file.get(label_key)
            known = {name: from_array(file[name]) for name in conditions}
            names = _column_names(file)
        raw = channels_first(from_array(x))
        if isinstance(scaling, Scaling) and names is not None:
            if scaling.names not in (None, names):
                raise ValueError(f"columns are {list(names)}; expected {list(scaling.names or ())}")
            scaling = replace(scaling, names=names)
        elif not isinstance(scaling, Scaling) and names is not None:
            scaling = scaling_of(raw, scaling, names)
        source = Arrays(raw, None if y is None else from_array(y), scaling)
        return Conditioned(source, known) if known else source
    except FileNotFoundError:
        raise ValueError(f"there is no file {str(path)!r}") from None
    except Exception as error:  # zipfile, zlib and numpy raise errors of many types for damaged files
        raise ValueError(f"{path}: {error}") from error


def _column_names(file: Mapping[str, np.ndarray]) -> tuple[str, ...] | None:
    found = file["columns"] if "columns" in file else np.zeros(0)
    return tuple(map(str, found)) if found.dtype.kind == "U" and found.ndim == 1 else None


def load(
    name: str,
    *,
    key: str = "x",
    label_key: str | None = None,
    scaling: Scaling | str | None = None,
    args: Mapping[str, Any] | None = None,
    skip: bool = False,
    conditions: Sequence[str] = (),
) -> Source:
    """The source of a name.

    Args:
        name: One of
            "digits" or "digits:test";
            a .npz file; a .npy file of any size, with labels in NAME.y.npy beside it;
            a .csv or .tsv file, whose first line names the columns;
            an idx file of images as MNIST's, or their folder: "folder" or "folder:test";
            a folder of images, with sub-folders as classes;
            a folder written by Hugging Face's save_to_disk: "folder", or "folder:split" if it has splits;
            a folder of an autoencoder's codes, which write_codes() made;
            "module:name" of a source, or of a function or class that makes a data set such as torchvision's.
        key: Name of the samples in a .npz file or a Hugging Face data set.
        label_key: Name of their labels, by default y, the y of NAME.y.npy too; a table has by default none.
        scaling: Of the values, or a rule of find_scaling; ignored by digits, images and codes, which have their own.
        args: Arguments of the function or class.
        skip: Replace or leave out samples that cannot be read, with a warning, instead of raising.
        conditions: What is known of each sample besides, by name: arrays of the same .npz file, columns of a Hugging
            Face data set or of a table, NAME.CONDITION.npy beside other files and folders, NAME.test.CONDITION.npy
            where ":test" chooses; "module:name" has to give them itself, see Conditioned.

    Raises ValueError for another name, and for data that the source refuses.
    """
    if conditions and skip:
        raise ValueError(
            f"conditions={list(conditions)} with corrupt='skip'; expected corrupt='stop' beside conditions"
        )
    stem, colon, split = name.rpartition(":")
    if name == "digits" or stem == "digits":
        if split not in ("digits", "train", "test"):
            raise ValueError(f"data={name!r}; expected 'digits', 'digits:train' or 'digits:test'")
        return _with_rows(digits("train" if split == "digits" else split), name, None, conditions)
    path = Path(name)
    part: str | None = None
    if colon and not path.exists() and Path(stem).exists():
        path = Path(stem)
        part = split
    is_object = bool(colon) and not path.exists()
    if args and not is_object:
        raise ValueError(f"data_args={dict(args)}, but data={name!r}; expected data='module:name' with arguments")
    if is_object:
        source = _with_rows(_from_object(name, dict(args or {}), scaling), name, None, conditions)
    elif is_idx(path):
        source = idx(path, part or "train", scaling)
    elif is_saved_dataset(path):
        return saved_dataset(path, part, key, label_key or "y", scaling, conditions)
    elif part is None and path.suffix == ".npz":
        return npz(path, key, label_key or "y", scaling, conditions)
    elif part is None and is_table(path):
        return table(path, label_key, scaling, conditions)
    elif part is None and path.suffix == ".npy":
        labels = path.with_name(f"{path.stem}.{label_key or 'y'}.npy")
        source = MemoryMapped(path, labels if labels.exists() else None, scaling)
    elif part is None and is_codes(path):
        source = MappedCodes(path)
    elif part is None and path.is_dir():
        source = Images(path, skip)
    else:
        raise ValueError(
            f"data={name!r}; expected 'digits', a .npz, .npy or .csv file, idx files, a folder of images or one of "
            "Hugging Face's save_to_disk, or 'module:name'; where there are splits, ':test' after the name chooses one"
        )
    if skip:
        return SkipUnreadable(source)
    begin = path.with_suffix("") if path.is_file() else path
    return _with_rows(source, name, Path(f"{begin}.{part}") if part else begin, conditions)


def _with_rows(source: Source, name: str, path: Path | None, conditions: Sequence[str]) -> Source:
    """The source with the conditions that lie beside its path, unless it has them itself."""
    has = set(source.conditions(range(1))) if hasattr(source, "conditions") else set()
    missing = [each for each in conditions if each not in has]
    if not missing:
        return source
    if path is None or has:
        raise ValueError(f"conditions={list(conditions)}, but data={name!r} has {sorted(has) or 'none'}")
    return Conditioned(source, {each: MappedRows(f"{path}.{each}.npy") for each in missing})


def _from_object(name: str, args: dict[str, Any], scaling: Scaling | str | None) -> Source:
    found = named_object(name, "data")
    if callable(found):
        check_arguments(found, args, "data_args")
        found = found(**args)
    elif args:
        raise ValueError(f"data_args={args}, but data={name!r} is an object already, which takes no arguments")
    return found if isinstance(found, Source) else MapStyle(found, scaling)
