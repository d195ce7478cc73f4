"""A folder of images."""

import logging
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdescore.common.scaling import Scaling
from sdescore.data.source import Batch

__all__ = ["Images", "to_array"]

logger = logging.getLogger(__name__)
# No others: Pillow hands PostScript, which is a program, to an interpreter.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "TGA", "ICO", "AVIF")
ORIENTATION = 0x0112  # of EXIF
DEEP = re.compile(r"\b(RGB|RGBA|RGBX|LA|CMYK);16[BLN]")  # Pillow's names of 16-bit pixels in PNG and TIFF files


class Images:
    """A folder of images, read from disk when they are needed: uint8 (channels, height, width).

    Images lie in the folder itself or in sub-folders. Sub-folders with images are classes: their names in sorted order
    are the labels 0, 1, ... All images are expected to have the size and kind of the majority: grey (1 channel) or
    colour (3 channels; palettes count as colour). They are turned upright, as EXIF has it. Transparency is dropped.

    Args:
        root: The folder.
        skip: Leave out files that do not fit, with a warning that names each, instead of raising.

    Raises ValueError, naming the file, for one that Pillow cannot read or that has another size or kind. Headers are
    checked at once, pixels when they are read.
    """

    lazy = True
    scaling = Scaling()

    def __init__(self, root: str | Path, skip: bool = False) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise ValueError(f"there is no folder {str(root)!r}")
        loose = _images_in(self.root)
        folders = sorted(path for path in self.root.iterdir() if path.is_dir())
        nested = {folder: found for folder in folders if (found := _images_in(folder))}
        if loose and nested:
            raise ValueError(
                f"{root} has images, such as {loose[0].name}, beside sub-folders of images; expected one or the other"
            )
        for folder in folders:
            if folder not in nested and not folder.name.startswith("."):
                no_class = ", and is no class" if nested else ""
                logger.warning("left out: %s has no images itself%s", folder, no_class)
        listed = [(file, label) for label, files in enumerate(nested.values()) for file in files]
        listed = listed or [(file, -1) for file in loose]
        if not listed:
            raise ValueError(f"{root} has no images, nor do its sub-folders; expected files that Pillow can read")
        headers = {file: _header(file) for file, _ in listed}
        most = Counter(header for header in headers.values() if isinstance(header, tuple)).most_common(1)
        problems = {}
        for file, header in headers.items():
            if isinstance(header, str):
                problems[file] = header
            elif header != most[0][0]:
                wide, high, kind = header
                width, height, mode = most[0][0]
                problems[file] = (
                    f"{file} is {wide}x{high} {kind}, but {most[0][1]} of {len(listed)} are {width}x{height} {mode}; "
                    "expected images of one size and kind"
                )
        for problem in problems.values():
            if not skip:
                raise ValueError(problem)
            logger.warning("left out: %s", problem)
        if not most:
            raise ValueError(f"none of the {len(listed)} images in {root} can be read")
        self.files = [file for file, _ in listed if file not in problems]
        self.labels = torch.tensor([label for file, label in listed if file not in problems]) if nested else None
        self.classes = len(nested) or None
        self.class_names = [folder.name for folder in nested] or None
        width, height, self.mode = most[0][0]
        self.shape: tuple[int, ...] = (len(self.mode), height, width)

    def _read(self, path: Path) -> Tensor:
        from PIL import Image

        try:
            with Image.open(path, formats=_formats()) as image:
                return _pixels(upright(image), self.mode)
        except Exception as error:  # decoders raise OSError, SyntaxError, struct.error and more
            raise ValueError(f"{path} is not an image that can be read: {error}") from error

    def __len__(self) -> int:
        return len(self.files)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        raw = torch.stack([self._read(self.files[i]) for i in indices])
        return raw, None if self.labels is None else self.labels[torch.as_tensor(indices)]


@cache
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that this Pillow reads."""
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _images_in(folder: Path) -> list[Path]:
    from PIL import Image

    known = Image.registered_extensions()
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in known and path.is_file())


def _header(path: Path) -> tuple[int, int, str] | str:
    """Width and height of an image held upright, and its kind, or a message if it cannot be read."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=_formats()) as image:
            frames = getattr(image, "n_frames", 1)
            if frames > 1 and image.format != "MPO":  # whose other frames are previews and depths
                raise ValueError(f"it has {frames} frames; expected one")
            coded = next((str(part[3]) for part in image.tile if DEEP.search(str(part[3]))), None)
            if coded is not None:  # Pillow would silently keep the upper 8 bits
                raise ValueError(f"its pixels {coded!r} have more than 8 bits per channel")
            width, height = image.size
            turned = _orientation(image) >= 5  # a quarter or three
            return (height, width, _kind(image.mode)) if turned else (width, height, _kind(image.mode))
    except UnidentifiedImageError:
        return f"{path} is not an image that can be read; expected {', '.join(_formats())}"
    except Exception as error:
        return f"{path} is not an image that can be read: {error}"


def _orientation(image: Any) -> int:
    """Which way up a camera was held, 1 to 8, as EXIF counts; 1 is upright."""
    if image.format == "PNG" and "exif" not in image.info:  # getexif() would decode all pixels to look behind them
        return 1
    said = image.getexif().get(ORIENTATION, 1)
    return said if said in range(1, 9) else 1


def upright(image: Any) -> Any:
    """A Pillow image as it is to be seen: a camera notes how it was held, and turns no pixels."""
    from PIL import ImageOps

    return ImageOps.exif_transpose(image) if _orientation(image) != 1 else image


def _kind(mode: str) -> str:
    """Pillow's mode, "L" or "RGB", in which an image of some mode is read."""
    if mode in ("1", "L", "LA", "La"):
        return "L"
    if mode in ("P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "LAB", "HSV"):
        return "RGB"
    raise ValueError(f"its mode {mode!r} has more than 8 bits per channel")


def to_array(image: Any) -> Tensor:
    """A Pillow image, upright, as uint8 (1 or 3, height, width). Raises ValueError for more than 8 bits per channel."""
    image = upright(image)
    return _pixels(image, _kind(image.mode))


def _pixels(image: Any, mode: str) -> Tensor:
    pixels = torch.from_numpy(np.array(image.convert(mode)))
    return pixels.reshape(*pixels.shape[:2], -1).movedim(2, 0)
