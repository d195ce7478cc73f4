"""Where samples come from: the digits, a .npz file, idx files, a folder of images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sdescore.data import Arrays, Batch, Source
from sdescore.idx import idx, is_idx
from sdescore.scaling import Scaling

__all__ = ["Images", "digits", "load", "npz"]


def digits(split: str = "train") -> Arrays:
    """The 8x8 handwritten digits of scikit-learn, uint8 (1, 8, 8) with 17 levels, 0 to 16; labels 0 to 9.

    split is "train" (1,500) or "test" (297): one fixed, shuffled and stratified division.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    if split not in ("train", "test"):
        raise ValueError(f"split={split!r}; valid are 'train', 'test'")
    bunch = load_digits()
    train, test = train_test_split(
        np.arange(len(bunch.target)), train_size=1500, test_size=297, stratify=bunch.target, random_state=0
    )
    index = train if split == "train" else test
    images = torch.from_numpy(bunch.images[index]).to(torch.uint8).unsqueeze(1)
    return Arrays(images, torch.from_numpy(bunch.target[index]), Scaling(0, 16, 17))


def npz(path: str | Path, key: str = "x", label_key: str = "y", scaling: Scaling | None = None) -> Arrays:
    """A .npz file's array `key`, with labels `label_key` if it has them; see Arrays for values and range.

    Images may be channels-first or channels-last: four axes whose last has 1, 3 or 4 entries, and whose second has
    another number, are read as (n, height, width, channels). uint8 with three axes is read as grey images.
    Everything else is (n, *shape) as it stands.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            if key not in file:
                raise ValueError(f"no array {key!r}; it holds {', '.join(map(repr, file)) or 'nothing'}")
            x, y = file[key], file.get(label_key)
        raw = torch.from_numpy(x)
        if raw.ndim == 4 and raw.shape[3] in (1, 3, 4) and raw.shape[1] not in (1, 3, 4):
            raw = raw.movedim(3, 1).contiguous()
        if raw.ndim == 3 and raw.dtype == torch.uint8:
            raw = raw.unsqueeze(1)
        return Arrays(raw, None if y is None else torch.from_numpy(y), scaling)
    except FileNotFoundError:
        raise ValueError(f"there is no file {str(path)!r}") from None
    except Exception as error:  # a torn file makes zipfile, zlib or numpy raise whatever they come upon
        raise ValueError(f"{path}: {error}") from error


class Images:
    """A folder of images, read from disk as they are needed: uint8 (channels, height, width).

    Images lie in the folder itself, or in sub-folders, whose names in sorted order are the labels 0, 1, ... All have
    the size of the first, and its channels: 1 (grey) or 3 (colour, palettes too); transparency is dropped.

    Raises ValueError naming the file for one that Pillow cannot read or that has another size or kind: headers are read
    at once, the rest of a file when its turn comes.
    """

    lazy = True
    scaling = Scaling()

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise ValueError(f"there is no folder {str(root)!r}")
        loose, folders = _images_in(self.root), sorted(path for path in self.root.iterdir() if path.is_dir())
        nested = {folder: found for folder in folders if (found := _images_in(folder))}
        if loose and nested:
            raise ValueError(
                f"{root} has images beside sub-folders of images, such as {loose[0].name}; valid is either"
            )
        self.files = loose or [file for found in nested.values() for file in found]
        if not self.files:
            raise ValueError(f"{root} has no images, nor have its sub-folders; valid are files that Pillow reads")
        counts = torch.tensor([len(found) for found in nested.values()], dtype=torch.long)
        self.labels = torch.arange(len(nested)).repeat_interleave(counts) if nested else None
        self.classes = len(nested) or None
        width, height, self.mode = self._header(self.files[0])
        self.shape: tuple[int, ...] = (len(self.mode), height, width)
        for file in self.files:
            header = self._header(file)
            if header != (width, height, self.mode):
                raise ValueError(
                    f"{file} is {header[0]}x{header[1]} {header[2]}, but {self.files[0].name} is {width}x{height} "
                    f"{self.mode}; valid are images of one size and kind"
                )

    def _header(self, path: Path) -> tuple[int, int, str]:
        from PIL import Image

        try:
            with Image.open(path) as image:
                return *image.size, _kind(image.mode)
        except Exception as error:  # decoders raise OSError, SyntaxError, struct.error and more
            raise ValueError(f"{path} is not an image that can be read: {error}") from error

    def _read(self, path: Path) -> Tensor:
        from PIL import Image

        try:
            with Image.open(path) as image:
                pixels = torch.from_numpy(np.array(image.convert(self.mode)))
        except Exception as error:
            raise ValueError(f"{path} is not an image that can be read: {error}") from error
        return pixels.reshape(*pixels.shape[:2], -1).movedim(2, 0)

    def __len__(self) -> int:
        return len(self.files)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        raw = torch.stack([self._read(self.files[i]) for i in indices])
        return raw, None if self.labels is None else self.labels[torch.as_tensor(indices)]


def _images_in(folder: Path) -> list[Path]:
    from PIL import Image

    known = Image.registered_extensions()
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in known and path.is_file())


def _kind(mode: str) -> str:
    """Pillow's mode in which an image of this mode is read."""
    if mode in ("1", "L", "LA", "La"):
        return "L"
    if mode in ("P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "LAB", "HSV"):
        return "RGB"
    raise ValueError(f"its mode {mode!r} has more than 8 bits a channel")


def load(name: str, *, key: str = "x", label_key: str = "y", scaling: Scaling | None = None) -> Source:
    """The source of a name: "digits", a .npz file, idx files (one of images, or their folder) or a folder of images.

    ":train" or ":test" after the digits or a folder of idx files chooses the part; "train" unless told. key and
    label_key are for .npz files; scaling is the range of arrays in files.

    Raises ValueError for anything else, and for whatever the source itself refuses.
    """
    stem, colon, split = name.rpartition(":") if name.endswith((":train", ":test")) else (name, "", "train")
    path = Path(stem)
    if stem == "digits":
        return digits(split)
    if is_idx(path):
        return idx(path, split, scaling)
    if not colon and path.suffix == ".npz":
        return npz(path, key, label_key, scaling)
    if not colon and path.is_dir():
        return Images(path)
    raise ValueError(
        f"data={name!r}; valid are 'digits', a .npz file, idx files or a folder of images; "
        "':train' and ':test' choose from the digits and from a folder of idx files"
    )
