"""The idx files of MNIST and of data sets in its layout, such as Fashion-MNIST."""

import gzip
import re
import zlib
from gzip import GzipFile
from io import BufferedReader
from math import prod
from pathlib import Path

import numpy as np
import torch

from sdescore.common.scaling import Scaling
from sdescore.data.source import Arrays

__all__ = ["idx", "is_idx", "read_idx"]

NAME = re.compile(r"(?P<set>.+)-images[-.]idx\d-ubyte(\.gz)?")
DTYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
PIECE = 1 << 24
SPLITS = {"train": "train", "test": "t10k"}


def is_idx(path: Path) -> bool:
    """Whether the path has the name of an idx file of images, or is a folder with such files."""
    if path.is_dir():
        return any(NAME.fullmatch(each.name) for each in path.iterdir())
    return bool(NAME.fullmatch(path.name))


def read_idx(path: str | Path) -> np.ndarray:
    """The array of an idx file, which may be gzipped.

    Raises ValueError, naming the file, if it is missing, damaged or no idx file.
    """
    try:
        with gzip.open(path) if Path(path).suffix == ".gz" else open(path, "rb") as file:
            # Two zeros, the type of the values, the number of axes, then the length of each and the values, big-endian.
            begin = file.read(4)
            if len(begin) < 4 or begin[:2] != b"\0\0" or begin[2] not in DTYPES:
                raise ValueError(f"{path} is no idx file: it begins with {begin.hex(' ')}")
            dtype = np.dtype(DTYPES[begin[2]])
            lengths = file.read(4 * begin[3])
            if len(lengths) < 4 * begin[3]:
                raise ValueError(f"{path} ends within its header, of {begin[3]} axes")
            shape = tuple(np.frombuffer(lengths, ">u4").tolist())
            size = prod(shape) * dtype.itemsize
            content = _at_most(file, size + 1)
    except FileNotFoundError:
        raise ValueError(f"there is no file {str(path)!r}") from None
    except (OSError, EOFError, zlib.error) as error:  # a damaged or false .gz
        raise ValueError(f"{path}: {error}") from error
    if len(content) != size:
        found = f"has {len(content)}" if len(content) < size else "has more"
        raise ValueError(f"{path} {found} bytes of values; its header says {shape} of {dtype.itemsize} bytes each")
    try:
        return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="))
    except ValueError as error:  # of too many axes
        raise ValueError(f"{path}, of {len(shape)} axes: {error}") from error


def _at_most(file: GzipFile | BufferedReader, size: int) -> bytearray:
    """The next bytes, in pieces: a header may lie about their number, and a small .gz expand to anything."""
    content = bytearray()
    while piece := file.read(min(PIECE, size - len(content))):
        content += piece
    return content


def idx(path: str | Path, split: str = "train", scaling: Scaling | str | None = None) -> Arrays:
    """Images (n, 1, height, width) of an idx file SET-images-idx3-ubyte, gzipped or not, and the labels beside it.

    Args:
        path: The file of images, or the folder of train-images-... and t10k-images-...
        split: "train" or "test", for a folder.
        scaling: Range of the values; 0 to 255 by default if they are bytes.

    Raises ValueError, naming the file, if one is missing or damaged, or if labels and images do not fit each other.
    """
    path = Path(path)
    if split not in SPLITS:
        raise ValueError(f"split={split!r}; expected {', '.join(map(repr, SPLITS))}")
    if path.is_dir():
        wanted = SPLITS[split]
        found = [each for each in sorted(path.iterdir()) if (m := NAME.fullmatch(each.name)) and m["set"] == wanted]
        if not found:
            raise ValueError(f"{path} has no {wanted}-images-idx3-ubyte, with or without .gz")
        path = found[0]
    images = torch.from_numpy(read_idx(path))
    beside = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
    candidates = (beside, beside.with_suffix("") if beside.suffix == ".gz" else beside.with_name(beside.name + ".gz"))
    labels = next((read_idx(each) for each in candidates if each != path and each.exists()), None)
    try:
        raw = images.unsqueeze(1) if images.ndim == 3 else images
        return Arrays(raw, None if labels is None else torch.from_numpy(labels), scaling)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
